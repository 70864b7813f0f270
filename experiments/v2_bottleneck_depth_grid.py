"""Does the harm of a ReLU in MobileNetV2's bottleneck grow with depth?

Claim: each non-linear bottleneck loses information (Sandler et al. 2018, section 3.2), so a deeper network should lose
more: a prediction that the paper does not test.

    python -m mnet_jax.main --config experiments/v2_bottleneck_depth_grid.py    # 156 runs

The repeats of every stage are multiplied by 1/3, 2/3, 1 and 3/2, at least one; the narrowings stay.

Measured on digits (5 seeds) by the splits of version 0.1.0, within that budget; intervals are of 95 %:

    Supported within this budget: the lead of linear@7 over relu6@7 grows towards linear@23 over relu6@23, slope +0.14
        points [+0.06, +0.22], p = 0.015 (Holm).
    Supported within this budget: linear@23 exceeds relu6@23 by 2.52 points [1.13, 3.92], p = 0.015 (Holm).
"""

from mnet_jax import config

FACTORS = (1 / 3, 2 / 3, 1, 3 / 2)
TUNED_LR = {  # by --mode tune, 2 tuning seeds, .1 .3 .9
    "digits": {
        "linear@7": (0.9, "edge"),
        "relu6@7": 0.3,
        "linear@12": 0.3,
        "relu6@12": (0.9, "edge"),
        "linear@17": 0.3,
        "relu6@17": 0.3,
        "linear@23": (0.9, "edge"),
        "relu6@23": 0.3,
    },
}


def get_config(scale="digits"):
    return config.at_scale(scale)


def networks(cfg):
    """Number of blocks -> rows."""
    rows = [
        tuple((t, c, n if n == 1 else max(1, round(factor * n)), s) for t, c, n, s in config.rows(cfg))
        for factor in FACTORS
    ]
    return {sum(n for _, _, n, _ in blocks): blocks for blocks in rows}


def sweep(cfg):
    arms = {
        f"{act}@{depth}": {"model.blocks": blocks, "model.project_act": act}
        for depth, blocks in networks(cfg).items()
        for act in ("linear", "relu6")
    }
    return config.tuned(arms, TUNED_LR, cfg)


def claim(cfg):
    depths = list(networks(cfg))
    return {
        "text": "The deeper the network, the more ReLU6 bottlenecks harm it.",
        "source": "Sandler et al. 2018, section 3.2",
        "asked_by": "ours",
        "published": "no figure: a prediction of the argument",
        "metric": "accuracy",
        "contrasts": (
            config.interaction([(f"linear@{depth}", f"relu6@{depth}") for depth in depths], depths),
            config.greater(f"linear@{depths[-1]}", f"relu6@{depths[-1]}"),
        ),
        "grid": {
            "x": "blocks",
            "y": "activation",
            "cells": {f"{act}@{depth}": [depth, act] for depth in depths for act in ("linear", "relu6")},
        },
    }
