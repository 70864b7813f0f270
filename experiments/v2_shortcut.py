"""Where should MobileNetV2's shortcuts go: between bottlenecks, between expansions, or nowhere?

Claim: shortcuts that join the narrow bottlenecks work better than those that join the expanded layers (Sandler et al.
2018, sections 3.3 and 6.2; Figure 6b, mean of steps 6M to 7M, read from the figure's vectors, one run each: between
expansions -0.48, none -1.50 points of ImageNet top-1).

    python -m mnet_jax.main --config experiments/v2_shortcut.py                  # 36 runs
    python -m mnet_jax.main --config experiments/v2_shortcut.py:cifar10_quick    # 25 runs

"Between expansions" adds to the output of a depthwise convolution that of the block before, where shapes agree: fewer
shortcuts than usual, since the expansions of a stage's first block seldom do.

Measured on digits (12 seeds) by the splits of version 0.1.0, within that budget; intervals are of 95 %:

    No difference found within this budget: bottleneck - expansion = +0.17 points [-0.17, +0.50], p = 0.29 (Holm); at
        Holm's level of 2 contrasts these 12 seeds would find a true difference of 0.53 points with 80 % power.
    Supported within this budget: bottleneck exceeds none by 4.45 points [3.54, 5.36], p < 0.0001 (Holm).

Measured on cifar10_quick (5 seeds), within that budget; intervals are of 95 %:

    Supported within this budget: bottleneck exceeds expansion by 2.46 points [0.92, 4.00], p = 0.018 (Holm).
    Supported within this budget: bottleneck exceeds none by 3.42 points [1.43, 5.41], p = 0.018 (Holm).
"""

from mnet_jax import config

TUNED_LR = {  # by --mode tune; on cifar10_quick 2 tuning seeds, of .5 1 1.5
    # 4 tuning seeds: .19, .38, .27, give or take a factor of 1.18, 1.77, 1.28, so that one does for all.
    "digits": 0.22,
    "cifar10_quick": {"bottleneck": 1.0, "expansion": (1.5, "edge"), "none": (0.5, "edge")},
}


def get_config(scale="digits"):
    return config.at_scale(scale)


def sweep(cfg):
    arms = {name: {"model.shortcut": name} for name in ("bottleneck", "expansion", "none")}
    return config.tuned(arms, TUNED_LR, cfg)


claim = {
    "text": "Shortcuts between bottlenecks are better than those between expansions, or none.",
    "source": "Sandler et al. 2018, Figure 6b",
    "asked_by": "paper",
    "published": "71.05 between bottlenecks, 70.57 between expansions, 69.55 with none, one run each",
    "metric": "accuracy",
    "contrasts": (
        config.greater("bottleneck", "expansion", published=0.48),
        config.greater("bottleneck", "none", published=1.50),
    ),
}
