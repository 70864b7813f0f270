"""Is ReLU6 more robust than ReLU in low precision?

Claim: ReLU6 is used because of its robustness with low-precision computation (Sandler et al. 2018, section 3.3; also
Howard et al. 2017's released code). The paper prints no comparison.

    python -m mnet_jax.main --config experiments/v2_relu6_precision_grid.py    # 144 runs

bfloat16 is that of convolutions and feature maps; 8 and 4 bits are simulated in training and evaluation (Jacob et al.
2018): ReLU6 fixes the range of a feature map at [0, 6], ReLU leaves it to the largest value seen. Weights stay float32.

Measured on digits (5 seeds) by the splits of version 0.1.0, within that budget; intervals are of 95 %:

    No difference found within this budget: the lead of relu6@float32 over relu@float32, towards relu6@bfloat16 over
        relu@bfloat16, slope -0.22 points [-1.32, +0.89], p = 0.92 (Holm); at Holm's level of 3 contrasts these 5 seeds
        would find a true slope of 2.04 points with 80 % power.
    No difference found within this budget: the lead of relu6@float32 over relu@float32, towards relu6@8bit over
        relu@8bit, slope -0.35 points [-1.55, +0.84], p = 0.92 (Holm); at Holm's level of 3 contrasts these 5 seeds
        would find a true slope of 2.21 points with 80 % power.
    No difference found within this budget: the lead of relu6@float32 over relu@float32, towards relu6@4bit over
        relu@4bit, slope +0.67 points [-0.80, +2.14], p = 0.83 (Holm); at Holm's level of 3 contrasts these 5 seeds
        would find a true slope of 2.71 points with 80 % power.
"""

from mnet_jax import config

PRECISIONS = {
    "float32": {},
    "bfloat16": {"model.dtype": "bfloat16"},
    "8bit": {"model.act_bits": 8},
    "4bit": {"model.act_bits": 4},
}
CELLS = {f"{act}@{precision}": [precision, act] for precision in PRECISIONS for act in ("relu6", "relu")}
TUNED_LR = {  # by --mode tune, 2 tuning seeds, .1 .3 .9
    "digits": {
        "relu6@float32": 0.3,
        "relu@float32": 0.3,
        "relu6@bfloat16": 0.3,
        "relu@bfloat16": (0.9, "edge"),
        "relu6@8bit": 0.3,
        "relu@8bit": (0.9, "edge"),
        "relu6@4bit": (0.9, "edge"),
        "relu@4bit": (0.9, "edge"),
    },
}


def get_config(scale="digits"):
    return config.at_scale(scale)


def sweep(cfg):
    arms = {name: {"model.act": act, **PRECISIONS[precision]} for name, (precision, act) in CELLS.items()}
    return config.tuned(arms, TUNED_LR, cfg)


claim = {
    "text": "ReLU6's lead over ReLU grows as precision falls.",
    "source": "Sandler et al. 2018, section 3.3",
    "asked_by": "paper",
    "published": "no figure",
    "metric": "accuracy",
    "contrasts": tuple(
        config.interaction([("relu6@float32", "relu@float32"), (f"relu6@{low}", f"relu@{low}")], (0, 1))
        for low in ("bfloat16", "8bit", "4bit")
    ),
    "grid": {"x": "precision", "y": "activation", "cells": CELLS},
}
