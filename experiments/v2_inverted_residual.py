"""Inverted residuals against classic bottlenecks: should shortcuts join the narrow layers or the wide ones?

Claim: the inverted design needs considerably less memory and works slightly better (Sandler et al. 2018, section 3.3,
Figure 3, text; no figure). It is the paper's title, and the paper prints no experiment on it.

    python -m mnet_jax.main --config experiments/v2_inverted_residual.py    # 60 runs

The classic network mirrors V2's: each row (t, c, n, s) becomes (1/t, tc, n, s), so that a 1x1 reduces, the depthwise
convolution filters few channels and a 1x1 expands again; its width is that of equal multiply-adds. Its wide ends are
linear, as V2's narrow ones are, or have ReLU6, which is nearer to He et al. 2016.

Measured on digits (12 seeds) by the splits of version 0.1.0, within that budget; intervals are of 95 %:

    Supported within this budget: inverted exceeds classic,linear by 1.16 points [0.35, 1.96], p = 0.0091 (Holm).
    Supported within this budget: inverted exceeds classic,relu6 by 3.64 points [2.60, 4.68], p < 0.0001 (Holm).
"""

from mnet_jax import config

WIDTHS = {  # of the classic networks at V2's multiply-adds, within 2 %
    "digits": 1.0,
    "fashion_mnist": 0.945,
    "cifar10_quick": 0.965,
    "cifar10": 0.93,
    "imagenet": 0.8,
}
TUNED_LR = {  # by --mode tune, 4 tuning seeds
    "digits": {
        "inverted": 0.19,  # give or take a factor of 1.18, which costs 0.03 points
        "classic,linear": 0.44,  # give or take a factor of 1.09, which costs 0.02 points
        "classic,relu6": 0.31,  # give or take a factor of 1.44, which costs 0.48 points
    }
}


def get_config(scale="digits"):
    return config.at_scale(scale, only=tuple(WIDTHS))


def sweep(cfg):
    first, *rest = config.rows(cfg)
    t, c, n, s = first
    mirrored = ((t, rest[0][0] * c, n, s), *((1 / t, t * c, n, s) for t, c, n, s in rest))
    classic = {"model.blocks": mirrored, "model.width": WIDTHS[cfg.scale]}
    arms = {
        "inverted": {"model.project_act": "linear"},
        "classic,linear": {**classic, "model.project_act": "linear"},
        "classic,relu6": {**classic, "model.project_act": "relu6"},
    }
    return config.tuned(arms, TUNED_LR, cfg)


claim = {
    "text": "An inverted residual is more accurate than a classic bottleneck of the same cost.",
    "source": "Sandler et al. 2018, section 3.3",
    "asked_by": "paper",
    "published": "no figure: 'slightly better'",
    "metric": "accuracy",
    "contrasts": (config.greater("inverted", "classic,linear"), config.greater("inverted", "classic,relu6")),
    "equal_madds": (("inverted", "classic,linear", "classic,relu6"),),
}
