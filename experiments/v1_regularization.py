"""Do label smoothing and strong distortions hurt a small network?

Claim: small models have less trouble with overfitting, so MobileNetV1 is trained with less regularization: without
label smoothing, with fewer image distortions (Howard et al. 2017, section 3.2; no figure).

    python -m mnet_jax.main --config experiments/v1_regularization.py    # 48 runs

Strong distortions are brightness, contrast and saturation times 0.6 to 1.4, a rectangle erased from half of the images,
mixup, and shifts three times as far as the scale's own, on ImageNet RandAugment in their place.

Measured on digits (12 seeds), within that budget; intervals are of 95 %:

    No difference found within this budget: plain - label_smoothing = +0.85 points [-0.34, +2.03], p = 0.14 (Holm);
        these 12 seeds would find a true difference of 1.66 points with 80 % power.
    Supported within this budget: plain exceeds distortions by 50.08 points [44.12, 56.03], p < 0.0001 (Holm).
"""

from mnet_jax import config

TUNED_LR = {  # by --mode tune, 2 tuning seeds, .1 .3 .9
    "digits": {"plain": 0.3, "label_smoothing": 0.3, "distortions": 0.9},
}


def get_config(scale="digits"):
    return config.at_scale(scale, "v1")


def sweep(cfg):
    moved = {"data.randaugment": (2, 9)} if cfg.scale == "imagenet" else {"data.shift": 3 * cfg.data.shift}
    arms = {
        "plain": {},
        "label_smoothing": {"train.label_smoothing": 0.1},
        "distortions": {**moved, "data.jitter": 0.4, "data.erase": 0.5, "data.mixup": 0.2},
    }
    return config.tuned(arms, TUNED_LR, cfg)


claim = {
    "text": "A small network is better off with little regularization.",
    "source": "Howard et al. 2017, section 3.2",
    "published": "no figure",
    "metric": "accuracy",
    "contrasts": (config.greater("plain", "label_smoothing"), config.greater("plain", "distortions")),
}
