"""How much should MobileNetV2's blocks expand, at equal width and at equal multiply-adds?

Claim: expansion by 5 to 10 gives nearly the same curves of accuracy against cost, smaller networks being better off
with slightly smaller expansion (Sandler et al. 2018, section 4, text; 6 is used everywhere). That is asked here at the
cost of t = 6, within a margin of 1 point.

    python -m mnet_jax.main --config experiments/v2_expansion.py                  # 132 runs
    python -m mnet_jax.main --config experiments/v2_expansion.py:cifar10_quick    # 132 runs

A larger expansion also costs more, and the paper never separates the two. So t = 1, 2, 5, 6, 8, 10 stand once with the
same channels, once with channels widened or narrowed to the multiply-adds of t = 6; the last 1x1 convolution has the
same channels in all, for a wider head would be another change. Whether it is worth while to expand at all at equal cost
is a question of this experiment's own.

Measured: nothing yet.
"""

from mnet_jax import config

EXPANSIONS = (1, 2, 5, 6, 8, 10)
WIDTHS = {  # of equal multiply-adds, within 2 %; t = 6 has width 1
    "digits": {1: 3.175, 2: 1.72, 5: 1.075, 8: 0.845, 10: 0.76},
    "fashion_mnist": {1: 3.15, 2: 1.725, 5: 1.095, 8: 0.845, 10: 0.775},
    "cifar10_quick": {1: 2.97, 2: 1.715, 5: 1.095, 8: 0.845, 10: 0.775},
    "cifar10": {1: 3.16, 2: 1.72, 5: 1.095, 8: 0.86, 10: 0.77},
    "imagenet": {1: 2.79, 2: 1.645, 5: 1.09, 8: 0.87, 10: 0.78},
}
LAST = {"digits": 64, "fashion_mnist": 128, "cifar10_quick": 128, "cifar10": 256, "imagenet": 1280}
"""Channels of the last 1x1 convolution at width 1; a wider network would have as many more."""

TUNED_LR: dict[str, dict[str, float]] = {}


def get_config(scale="digits"):
    cfg = config.at_scale(scale, only=tuple(WIDTHS))
    if scale == "imagenet":
        cfg.model.divisor = 1  # multiples of 8 do not come within 2 %
    else:
        cfg.seeds = 12
    return cfg


def sweep(cfg):
    arms: dict[str, dict[str, float]] = {"t=6": {}}
    for t, width in WIDTHS[cfg.scale].items():
        arms[f"t={t}"] = {"model.expansion": t}
        arms[f"t={t},equal_madds"] = {
            "model.expansion": t,
            "model.width": width,
            "model.last": round(LAST[cfg.scale] / max(1, width)),
        }
    return config.tuned(arms, TUNED_LR, cfg)


EQUAL_WIDTH = tuple(f"t={t}" for t in EXPANSIONS)
EQUAL_MADDS = tuple("t=6" if t == 6 else f"t={t},equal_madds" for t in EXPANSIONS)

claim = {
    "text": "At equal cost, expansion by 5 to 10 gives nearly the same accuracy.",
    "source": "Sandler et al. 2018, section 4",
    "asked_by": "paper",
    "published": "no figure: 5 to 10 give nearly identical curves; 6 is used",
    "metric": "accuracy",
    "contrasts": (
        *(config.equivalent("t=6", f"t={t},equal_madds", margin=1.0) for t in (5, 8, 10)),
        config.trend(EQUAL_WIDTH, EXPANSIONS, asked_by="ours"),
        config.greater("t=6", "t=1,equal_madds", asked_by="ours"),
    ),
    "equal_madds": (("t=6", *EQUAL_MADDS),),
    "curve": {
        "x": "expansion t",
        "points": {arm: t for arms in (EQUAL_WIDTH, EQUAL_MADDS) for arm, t in zip(arms, EXPANSIONS, strict=True)},
        "series": {"equal width": EQUAL_WIDTH, "equal multiply-adds": EQUAL_MADDS},
    },
}
