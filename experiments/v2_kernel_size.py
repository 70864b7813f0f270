"""Depthwise kernels of 3, 5 and 7 in MobileNetV2: is a larger receptive field worth its cost?

Claim: larger kernels are more accurate. V2 uses 3x3 everywhere; MobileNetV3's search chose 5x5 for part of the blocks
(Howard et al. 2019, Tables 1 and 2) and prints no ablation of it.

    python -m mnet_jax.main --config experiments/v2_kernel_size.py        # 4 minutes on 2 cores

Measured on digits by the splits of version 0.1.0, 12 seeds: no difference found, +0.09 [-0.01, +0.20] points a pixel of
kernel, p = .081; another order of the same sums had given +0.10 [+0.02, +0.19], p = .019. One learning rate for all,
not tuned. Tuned since, with 4 tuning seeds: .19, .18 and .13, give or take a factor of 1.18, 1.34 and 1.54, so that one
does for all.
"""

from mnet_jax import config

TUNED_LR = {"digits": 0.17}  # by --mode tune


def get_config(scale="digits"):
    return config.at_scale(scale)


def sweep(cfg):
    return config.tuned({f"kernel_size={size}": {"model.kernel_size": size} for size in (3, 5, 7)}, TUNED_LR, cfg)


claim = {
    "text": "Accuracy grows with the depthwise kernel.",
    "source": "Howard et al. 2019, Tables 1 and 2",
    "asked_by": "reader",
    "published": "no figure: the search chose 5x5 in part of the blocks",
    "metric": "accuracy",
    "contrasts": (config.trend(("kernel_size=3", "kernel_size=5", "kernel_size=7"), x=(3, 5, 7)),),
}
