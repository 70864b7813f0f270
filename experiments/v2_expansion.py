"""How much should MobileNetV2's blocks expand, at equal width and at equal multiply-adds?

Claim: expansion by 5 to 10 gives nearly the same accuracy, smaller networks being better off with slightly smaller
expansion (Sandler et al. 2018, section 4, text; 6 is used everywhere). A larger expansion also costs more, and the
paper never separates the two: here t = 1, 2, 4, 6, 8 stand once with the same channels, once with channels widened or
narrowed to the cost of t = 6.

    python -m mnet_jax.main --config experiments/v2_expansion.py                  # 60 runs
    python -m mnet_jax.main --config experiments/v2_expansion.py:cifar10_quick    # 60 runs

Measured on digits (5 seeds), within that budget; intervals are of 95 %:

    No difference found within this budget: accuracy from t=1 to t=8: slope +0.02 points [-0.07, +0.11], p = 0.6 (Holm);
        these 5 seeds would find a true slope of 0.12 points with 80 % power.
    Contradicted within this budget: accuracy falls from t=1,equal_madds to t=8,equal_madds, slope -0.10 points [-0.17,
        -0.03], p = 0.04 (Holm).
    No difference found within this budget: t=6 - t=1,equal_madds = -0.79 points [-1.47, -0.10], p = 0.066 (Holm); these
        5 seeds would find a true difference of 0.92 points with 80 % power.

Measured on cifar10_quick (5 seeds), within that budget; intervals are of 95 %:

    Supported within this budget: accuracy rises from t=1 to t=8, slope +0.57 points [+0.35, +0.78], p = 0.0058 (Holm).
    Contradicted within this budget: accuracy falls from t=1,equal_madds to t=8,equal_madds, slope -0.48 points [-0.86,
        -0.11], p = 0.023 (Holm).
    Contradicted within this budget: t=1,equal_madds exceeds t=6 by 5.14 points [1.95, 8.33], p = 0.022 (Holm).
"""

from mnet_jax import config

EXPANSIONS = (1, 2, 4, 6, 8)
WIDTHS = {  # of equal multiply-adds, within 2 %; t = 6 has width 1
    "digits": {1: 2.94, 2: 1.7, 4: 1.215, 8: 0.845},
    "fashion_mnist": {1: 2.71, 2: 1.69, 4: 1.22, 8: 0.845},
    "cifar10_quick": {1: 2.655, 2: 1.66, 4: 1.215, 8: 0.845},
    "cifar10": {1: 2.77, 2: 1.685, 4: 1.215, 8: 0.86},
    "imagenet": {1: 2.375, 2: 1.585, 4: 1.115, 8: 0.825},
}
LAST = {("fashion_mnist", 4): 112, ("imagenet", 1): 1200}
"""Channels of the last 1x1 convolution at width 1, where a width alone does not come within 2 %."""

TUNED_LR = {  # by --mode tune, 2 tuning seeds: of .1 .3 .9 on digits, of .5 1 1.5 on cifar10_quick
    "digits": {
        **dict.fromkeys(("t=6", "t=1", "t=2", "t=4", "t=8", "t=1,equal_madds"), 0.3),
        **dict.fromkeys(("t=2,equal_madds", "t=4,equal_madds", "t=8,equal_madds"), 0.9),
    },
    "cifar10_quick": {
        **dict.fromkeys(("t=6", "t=1", "t=4", "t=8", "t=1,equal_madds", "t=4,equal_madds"), 1.0),
        **{"t=2": 0.5, "t=2,equal_madds": 1.5, "t=8,equal_madds": 0.5},
    },
}


def get_config(scale="digits"):
    cfg = config.at_scale(scale)
    cfg.seeds = min(cfg.seeds, 5)
    return cfg


def sweep(cfg):
    arms: dict[str, dict[str, float]] = {"t=6": {}}
    for t in EXPANSIONS:
        if t != 6:
            arms[f"t={t}"] = {"model.expansion": t}
            arms[f"t={t},equal_madds"] = {
                "model.expansion": t,
                "model.width": WIDTHS[cfg.scale][t],
                "model.last": LAST.get((cfg.scale, t), -1),
            }
    return config.tuned(arms, TUNED_LR, cfg)


EQUAL_WIDTH = tuple(f"t={t}" for t in EXPANSIONS)
EQUAL_MADDS = tuple("t=6" if t == 6 else f"t={t},equal_madds" for t in EXPANSIONS)

claim = {
    "text": "A block should expand: accuracy grows with t, and not only because t costs.",
    "source": "Sandler et al. 2018, section 4",
    "published": "no figure: 5 to 10 give nearly identical curves; 6 is used",
    "metric": "accuracy",
    "contrasts": (
        config.trend(EQUAL_WIDTH, EXPANSIONS),
        config.trend(EQUAL_MADDS, EXPANSIONS),
        config.greater("t=6", "t=1,equal_madds"),
    ),
    "equal_madds": (("t=6", *EQUAL_MADDS),),
    "curve": {
        "x": "expansion t",
        "points": {arm: t for arms in (EQUAL_WIDTH, EQUAL_MADDS) for arm, t in zip(arms, EXPANSIONS, strict=True)},
        "series": {"equal width": EQUAL_WIDTH, "equal multiply-adds": EQUAL_MADDS},
    },
}
