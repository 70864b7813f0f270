"""To make MobileNetV1 cheaper, should it become narrower or shallower?

Claim: at like cost, making it thinner is 3 points better than making it shallower (Howard et al. 2017, section 4.1,
Table 5: width 0.75 68.4 %, without the five repeated layers of 14x14x512 65.3 % ImageNet top-1; 325 and 307 M
multiply-adds).

    python -m mnet_jax.main --config experiments/v1_narrow_vs_shallow.py    # 24 runs

Here the widths are those of equal multiply-adds; on ImageNet that is 0.73, not the paper's 0.75.

Measured on digits (12 seeds), within that budget; intervals are of 95 %:

    Contradicted within this budget: shallow exceeds narrow by 3.23 points [2.38, 4.08], p < 0.0001.
"""

from mnet_jax import config

WIDTHS = {  # of the shallow network's multiply-adds, within 2 %
    "digits": 0.815,
    "fashion_mnist": 0.775,
    "cifar10_quick": 0.815,
    "cifar10": 0.815,
    "imagenet": 0.73,
}
TUNED_LR = {"digits": 0.3}  # of all arms, by --mode tune, 2 tuning seeds, .1 .3 .9


def get_config(scale="digits"):
    return config.at_scale(scale, "v1")


def sweep(cfg):
    arms = {"narrow": {"model.width": WIDTHS[cfg.scale]}, "shallow": {"model.depth": "shallow"}}
    return config.tuned(arms, TUNED_LR, cfg)


claim = {
    "text": "A narrow network is more accurate than a shallow one of the same cost.",
    "source": "Howard et al. 2017, Table 5",
    "published": "68.4 against 65.3 % ImageNet top-1",
    "metric": "accuracy",
    "contrasts": (config.greater("narrow", "shallow", published=3.1),),
    "equal_madds": (("narrow", "shallow"),),
}
