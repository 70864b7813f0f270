"""What do MobileNetV1's width and resolution multipliers buy for each multiply-add?

Claim: accuracy is log-linear in multiply-adds over the 16 networks of 4 widths and 4 resolutions, and falls off
smoothly until the network is too small at width 0.25 (Howard et al. 2017, section 4.2, Tables 6 and 7, Figure 4).

    python -m mnet_jax.main --config experiments/v1_width_resolution.py    # 60 runs

The trends are against 2 log2 of width, or of resolution: multiply-adds go with the square of either (Howard et al.
2017, equation 7), so a slope is in points for each doubling of them.

Measured: not yet.
"""

import math

from mnet_jax import config

WIDTHS = (0.25, 0.5, 0.75, 1.0)
RESOLUTIONS = {
    "digits": (8, 12, 16),
    "fashion_mnist": (14, 21, 28),
    "cifar10_quick": (16, 24, 32),
    "cifar10": (16, 24, 32),
    "imagenet": (128, 160, 192, 224),
}
TUNED_LR = {"digits": 0.3}  # of all arms, from v1_depthwise_vs_full; not tuned for each


def get_config(scale="digits"):
    cfg = config.at_scale(scale, "v1")
    cfg.seeds = min(cfg.seeds, 5)
    return cfg


def name(width, resolution):
    return f"{width:g}@{resolution}"


def sweep(cfg):
    arms = {
        name(width, resolution): {"model.width": width, **config.at_resolution(cfg, resolution)}
        for resolution in reversed(RESOLUTIONS[cfg.scale])
        for width in reversed(WIDTHS)
    }
    return config.tuned(arms, TUNED_LR, cfg)


def claim(cfg):
    resolutions = RESOLUTIONS[cfg.scale]
    by_resolution = {r: [name(width, r) for width in WIDTHS] for r in resolutions}
    at_width_1 = [name(1, r) for r in resolutions]
    return {
        "text": "Accuracy grows with width and with resolution.",
        "source": "Howard et al. 2017, Tables 6 and 7",
        "published": "50.6, 63.7, 68.4, 70.6 for widths .25 to 1 at 224; 64.4 to 70.6 for 128 to 224 at width 1",
        "metric": "accuracy",
        "contrasts": (
            config.trend(by_resolution[resolutions[-1]], [2 * math.log2(width) for width in WIDTHS]),
            config.trend(at_width_1, [2 * math.log2(r) for r in resolutions]),
        ),
        "curve": {
            "x": "madds",
            "points": {},
            "series": {f"resolution {r}": arms for r, arms in by_resolution.items()},
        },
    }
