"""Does regularization help a small network less than a large one?

Claim: small models have less trouble with overfitting, so that MobileNetV1 is trained, contrary to large models, with
less regularization: without label smoothing, with fewer image distortions (Howard et al. 2017, section 3.2; no figure).
So the lead of plain training should be larger in the small network than in the large one.

    python -m mnet_jax.main --config experiments/v1_regularization.py    # 144 runs

Networks of 0.5 and 1.5 times the scale's width are trained plain, with label smoothing, and with one distortion each:
shifts three times as far as the scale's own (on ImageNet RandAugment in their place), brightness, contrast and
saturation times 0.6 to 1.4, a rectangle erased from half of the images, mixup. The budget is 120 epochs, or the scale's
own where that is more, for it takes long to overfit. Whether the last three help is this experiment's own question.

Measured: nothing yet.
"""

from mnet_jax import config

WIDTHS = {"small": 0.5, "large": 1.5}
TUNED_LR: dict[str, dict[str, float]] = {}


def get_config(scale="digits"):
    cfg = config.at_scale(scale, "v1")
    cfg.train.epochs = max(cfg.train.epochs, 120)
    cfg.train.eval_every = cfg.train.epochs // 5
    return cfg


def regularizations(cfg):
    """Name -> overrides."""
    moved = {"data.randaugment": (2, 9)} if cfg.data.size else {"data.shift": 3 * cfg.data.shift}
    return {
        "label_smoothing": {"train.label_smoothing": 0.1},
        "moved": moved,
        "jitter": {"data.jitter": 0.4},
        "erase": {"data.erase": 0.5},
        "mixup": {"data.mixup": 0.2},
    }


def sweep(cfg):
    arms = {
        f"{name}@{size}": {"model.width": width, **overrides}
        for size, width in WIDTHS.items()
        for name, overrides in {"plain": {}, **regularizations(cfg)}.items()
    }
    return config.tuned(arms, TUNED_LR, cfg)


def claim(cfg):
    names = regularizations(cfg)
    return {
        "text": "Regularization helps a small network less than a large one.",
        "source": "Howard et al. 2017, section 3.2",
        "asked_by": "paper",
        "published": "no figure",
        "metric": "accuracy",
        "contrasts": [
            config.interaction(
                [(f"plain@{size}", f"{name}@{size}") for size in WIDTHS],
                (0, 1),
                sign=-1,
                asked_by="paper" if name in ("label_smoothing", "moved") else "ours",
            )
            for name in names
        ],
        "grid": {
            "x": "size",
            "y": "regularization",
            "cells": {f"{name}@{size}": [size, name] for size in WIDTHS for name in ("plain", *names)},
        },
    }
