"""Does the harm of a ReLU in MobileNetV2's bottleneck shrink as the bottleneck widens?

Claim: ReLU loses the information of a channel unless the manifold lies in a low-dimensional subspace of a wide enough
space (Sandler et al. 2018, section 3.2, Figure 1, appendix A). Hence the prediction, which the paper does not test: the
lead of linear bottlenecks over ReLU6 shrinks with the bottleneck's width.

    python -m mnet_jax.main --config experiments/v2_bottleneck_width_grid.py    # 156 runs

Bottlenecks have 1/2, 1, 2 and 3 times the channels of the scale's network, expanded layers always the same number.

Measured on digits (5 seeds) by the splits of version 0.1.0, within that budget; intervals are of 95 %:

    No difference found within this budget: the lead of linear@0.5x over relu6@0.5x, towards linear@3x over relu6@3x,
        slope -0.05 points [-0.40, +0.31], p = 0.74 (Holm); at Holm's level of 2 contrasts these 5 seeds would find a
        true slope of 0.59 points with 80 % power.
    Supported within this budget: linear@0.5x exceeds relu6@0.5x by 2.84 points [1.44, 4.24], p = 0.0098 (Holm).

With a rate of .3 for every arm that slope was -0.72 points [-1.09, -0.35], p = .007: the rates decide, and two tuning
seeds do not tell .3 from .9 for the widest.
"""

import math

from mnet_jax import config

FACTORS = (0.5, 1, 2, 3)
TUNED_LR = {  # by --mode tune, 2 tuning seeds, .1 .3 .9
    "digits": {
        "linear@0.5x": (0.9, "edge"),
        "relu6@0.5x": 0.3,
        "linear@1x": 0.3,
        "relu6@1x": 0.3,
        "linear@2x": 0.3,
        "relu6@2x": (0.9, "edge"),
        "linear@3x": 0.3,
        "relu6@3x": (0.9, "edge"),
    },
}


def get_config(scale="digits"):
    cfg = config.at_scale(scale)
    if scale == "imagenet":
        cfg.model.divisor = 4  # half of 24 is no multiple of 8
    return cfg


def arms(cfg):
    """Name -> overrides, and name -> (channels of the second stage's bottlenecks, activation)."""
    overrides, cells = {}, {}
    for factor in FACTORS:
        blocks = tuple((t if t == 1 else int(t / factor), int(factor * c), n, s) for t, c, n, s in config.rows(cfg))
        for act in ("linear", "relu6"):
            overrides[f"{act}@{factor:g}x"] = {"model.blocks": blocks, "model.project_act": act}
            cells[f"{act}@{factor:g}x"] = [blocks[1][1], act]
    return overrides, cells


def sweep(cfg):
    return config.tuned(arms(cfg)[0], TUNED_LR, cfg)


def claim(cfg):
    pairs = [(f"linear@{factor:g}x", f"relu6@{factor:g}x") for factor in FACTORS]
    return {
        "text": "The wider the bottleneck, the less ReLU6 harms it.",
        "source": "Sandler et al. 2018, section 3.2",
        "asked_by": "ours",
        "published": "no figure: a prediction of the argument",
        "metric": "accuracy",
        "contrasts": (
            config.interaction(pairs, [math.log2(factor) for factor in FACTORS], sign=-1),
            config.greater("linear@0.5x", "relu6@0.5x"),
        ),
        "grid": {"x": "bottleneck width", "y": "activation", "cells": arms(cfg)[1]},
    }
