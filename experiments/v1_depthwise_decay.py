"""Does weight decay on MobileNetV1's depthwise filters hurt?

Claim: it is important to put very little or no weight decay on the depthwise filters, since there are so few parameters
in them (Howard et al. 2017, section 3.2; no figure).

    python -m mnet_jax.main --config experiments/v1_depthwise_decay.py    # 84 runs

Each pair of arms has the same decay on all other weights: the scale's own, and 100 times that, as a norm behind every
filter undoes its scale and a short training hardly decays anything at the usual strength.

Measured on digits (12 seeds) by the splits of version 0.1.0, within that budget; intervals are of 95 %:

    No difference found within this budget: none@1x - decayed@1x = +0.59 points [-0.44, +1.62], p = 0.47 (Holm); at
        Holm's level of 2 contrasts these 12 seeds would find a true difference of 1.63 points with 80 % power.
    No difference found within this budget: none@100x - decayed@100x = -0.15 points [-0.80, +0.51], p = 0.63 (Holm); at
        Holm's level of 2 contrasts these 12 seeds would find a true difference of 1.03 points with 80 % power.

    Dead depthwise filters (mnet_jax/analysis/filters.py): none@1x 3.95 % [3.55, 4.35], decayed@1x 4.72 % [4.14, 5.30],
    none@100x 3.27 % [2.53, 4.01], decayed@100x 0.68 % [0.40, 0.95], but 3.54 % [2.95, 4.13] at the others' rate.
"""

from mnet_jax import config

TUNED_LR = {  # by --mode tune, 4 tuning seeds
    "digits": {
        "none@1x": 0.41,  # give or take a factor of 1.11, which costs 0.02 points
        "decayed@1x": 0.21,  # give or take a factor of 1.10, which costs 0.09 points
        "none@100x": 0.19,  # give or take a factor of 1.00, which costs 0.00 points
        "decayed@100x": 0.14,  # give or take a factor of 1.03, which costs 0.00 points
    }
}


def get_config(scale="digits"):
    cfg = config.at_scale(scale, "v1")
    cfg.analysis = True  # dead filters
    return cfg


def sweep(cfg):
    arms = {
        f"{word}@{factor}x": {
            "optim.decay_depthwise": decayed,
            "optim.weight_decay": factor * cfg.optim.weight_decay,
        }
        for factor in (1, 100)
        for word, decayed in (("none", False), ("decayed", True))
    }
    return config.tuned(arms, TUNED_LR, cfg)


claim = {
    "text": "Depthwise filters are better off without weight decay.",
    "source": "Howard et al. 2017, section 3.2",
    "asked_by": "paper",
    "published": "no figure",
    "metric": "accuracy",
    "contrasts": (
        config.greater("none@1x", "decayed@1x"),
        config.greater("none@100x", "decayed@100x", asked_by="ours"),
    ),
    "grid": {
        "x": "weight decay of all other weights, times the scale's own",
        "y": "depthwise filters",
        "cells": {
            f"{word}@{factor}x": [factor, y]
            for factor in (1, 100)
            for word, y in (("none", "not decayed"), ("decayed", "decayed"))
        },
    },
}
