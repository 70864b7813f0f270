"""MobileNetV2 on ImageNet by the paper's recipe.

Claim: 72.0 % top-1 with 300 M multiply-adds and 3.4 M parameters (Sandler et al. 2018, Table 4; the released checkpoint
and Figure 5 have 71.8 %).

    python -m mnet_jax.main --config experiments/v2_baseline.py:imagenet --mode plan

RMSProp with decay and momentum 0.9, weight decay 4e-5, rate 0.045 that falls by 0.98 an epoch, 16 x 96 images a step
(section 6.1); label smoothing 0.1, averaged weights and dropout are the released recipe's.

Measured: not run, it needs accelerators.
"""

from mnet_jax import config


def get_config(scale="digits"):
    return config.at_scale(scale, only=("imagenet",))


claim = {
    "text": "MobileNetV2 reaches 72.0 % top-1.",
    "source": "Sandler et al. 2018, Table 4",
    "asked_by": "paper",
    "published": "72.0 % ImageNet top-1",
    "metric": "accuracy",
    "contrasts": (),
    "printed": {"baseline": {"top1": 72.0, "madds_m": 300, "params_m": 3.4, "latency_ms": 75}},
}
