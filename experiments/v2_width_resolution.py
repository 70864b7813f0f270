"""What do MobileNetV2's width and resolution multipliers buy for each multiply-add?

Claim: both multipliers trade accuracy smoothly for multiply-adds and parameters (Sandler et al. 2018, section 6.1,
Figure 5: 22 points from 0.35 at 96 pixels, 45.5 %, to 1.4 at 224, 74.96 % ImageNet top-1).

    python -m mnet_jax.main --config experiments/v2_width_resolution.py:fashion_mnist    # 144 runs
    python -m mnet_jax.main --config experiments/v2_width_resolution.py:cifar10_quick    # 144 runs

The images are as they come or smaller, never enlarged as the digits are, and are shifted by the same share of their
side. The trends are against 2 log2 of width, or of resolution: multiply-adds go with the square of either (Howard et
al. 2017, equation 7), so a slope is in points for each doubling of them. Whether the rise with width is a line, and
does not bend, is this experiment's own question.

Measured: nothing yet.
"""

from mnet_jax import config

WIDTHS = (0.35, 0.5, 0.75, 1.0)
RESOLUTIONS = {
    "fashion_mnist": (14, 21, 28),
    "cifar10_quick": (16, 24, 32),
    "cifar10": (16, 24, 32),
    "imagenet": (96, 128, 160, 192, 224),
}
PRINTED = (  # million multiply-adds, ImageNet top-1 in %: from the vectors of Sandler et al. 2018, Figure 5
    *(
        ("1@224", 300.84, 71.81),
        ("1.4@224", 582.29, 74.96),
        ("0.75@224", 209.13, 69.75),
        ("0.5@224", 97.2, 65.43),
        ("0.35@224", 59.35, 60.28),
    ),
    *(("1@192", 221.36, 70.7), ("0.75@192", 153.99, 68.68), ("0.5@192", 71.75, 63.91), ("0.35@192", 43.94, 58.18)),
    *(("1@160", 154.12, 68.8), ("0.75@160", 107.33, 66.36), ("0.5@160", 50.22, 61.02), ("0.35@160", 30.91, 55.66)),
    *(("1@128", 99.1, 65.25), ("0.75@128", 69.15, 63.15), ("0.5@128", 32.6, 57.66), ("0.35@128", 20.24, 50.83)),
    *(("1@96", 56.3, 60.34), ("0.75@96", 39.46, 58.84), ("0.5@96", 18.9, 51.18), ("0.35@96", 11.95, 45.52)),
)
TUNED_LR: dict[str, dict[str, float]] = {}


def get_config(scale="digits"):
    cfg = config.at_scale(scale, "v2", only=tuple(RESOLUTIONS))
    if scale != "imagenet":
        cfg.seeds = 12
        cfg.data.shift = 4
    return cfg


def sweep(cfg):
    arms, _ = config.multipliers(cfg, WIDTHS, RESOLUTIONS[cfg.scale])
    return config.tuned(arms, TUNED_LR, cfg)


def claim(cfg):
    _, claims = config.multipliers(cfg, WIDTHS, RESOLUTIONS[cfg.scale])
    slopes, (arms, x) = claims["contrasts"], config.at_highest(WIDTHS, RESOLUTIONS[cfg.scale])
    return {
        "text": "Accuracy grows with width and with resolution.",
        "source": "Sandler et al. 2018, Figure 5",
        "asked_by": "paper",
        "published": "60.3, 65.4, 69.8, 71.8 for widths .35 to 1 at 224; 60.3 to 71.8 for 96 to 224 at width 1",
        "metric": "accuracy",
        **claims,
        "contrasts": (*slopes, config.straight(arms, x, margin=1.0, asked_by="ours")),
        "published_points": [{"label": name, "x": 1e6 * madds, "accuracy": top1} for name, madds, top1 in PRINTED],
    }
