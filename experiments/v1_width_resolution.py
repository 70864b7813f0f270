"""What do MobileNetV1's width and resolution multipliers buy for each multiply-add?

Claim: accuracy is log-linear in multiply-adds over the 16 networks of 4 widths and 4 resolutions, and falls off
smoothly until the network is too small at width 0.25 (Howard et al. 2017, section 4.2, Tables 6 and 7, Figure 4).

    python -m mnet_jax.main --config experiments/v1_width_resolution.py:fashion_mnist    # 144 runs
    python -m mnet_jax.main --config experiments/v1_width_resolution.py:cifar10_quick    # 144 runs

The images are as they come or smaller, never enlarged as the digits are, and are shifted by the same share of their
side. The trends are against 2 log2 of width, or of resolution: multiply-adds go with the square of either (Howard et
al. 2017, equation 7), so a slope is in points for each doubling of them. At the highest resolution, the bend over
widths .5 to 1 tests whether that is a line (the paper's own figures bend by 0.7 points there), and width .25 whether it
falls off that line.

Measured: nothing yet.
"""

from mnet_jax import config

WIDTHS = (0.25, 0.5, 0.75, 1.0)
RESOLUTIONS = {
    "fashion_mnist": (14, 21, 28),
    "cifar10_quick": (16, 24, 32),
    "cifar10": (16, 24, 32),
    "imagenet": (128, 160, 192, 224),
}
PRINTED = (  # million multiply-adds, ImageNet top-1 in %: from the vectors of Sandler et al. 2018, Figure 5
    *(("1@224", 568.8, 70.6), ("0.75@224", 316.9, 68.4), ("0.5@224", 149.5, 63.7), ("0.25@224", 41, 50.6)),
    *(("1@192", 418.1, 69.1), ("0.75@192", 233.1, 67.3), ("0.5@192", 110, 62.5), ("0.25@192", 34.1, 47.6)),
    *(("1@160", 290.7, 67.2), ("0.75@160", 162.1, 64.7), ("0.5@160", 76.5, 60.2), ("0.25@160", 21.1, 45.3)),
    *(("1@128", 186.4, 64.4), ("0.75@128", 104, 62.2), ("0.5@128", 49.2, 55.8), ("0.25@128", 13.6, 42.9)),
)
TUNED_LR: dict[str, dict[str, float]] = {}


def get_config(scale="digits"):
    cfg = config.at_scale(scale, "v1", only=tuple(RESOLUTIONS))
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
        "text": "Accuracy is log-linear in multiply-adds over width and resolution, until width .25 falls off.",
        "source": "Howard et al. 2017, Tables 6 and 7",
        "asked_by": "paper",
        "published": "50.6, 63.7, 68.4, 70.6 for widths .25 to 1 at 224; 64.4 to 70.6 for 128 to 224 at width 1",
        "metric": "accuracy",
        **claims,
        "contrasts": (*slopes, config.straight(arms[1:], x[1:], margin=1.0), config.off_line(arms, x, sign=-1)),
        "published_points": [{"label": name, "x": 1e6 * madds, "accuracy": top1} for name, madds, top1 in PRINTED],
    }
