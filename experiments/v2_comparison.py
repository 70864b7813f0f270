"""MobileNetV2 against MobileNetV1, ShuffleNet and NASNet-A: accuracy, cost and latency.

Claim: more accurate than MobileNetV1 and ShuffleNet 1.5x at fewer or equal multiply-adds, and at width 1.4 more than
ShuffleNet 2x and NASNet-A while faster than the latter (Sandler et al. 2018, section 6.1, Table 4: 113, 183, 75 and
143 ms on one large core of a Pixel 1).

    python -m mnet_jax.main --config experiments/v2_comparison.py:imagenet --mode plan

All networks are trained by MobileNetV2's recipe here; in the paper each has its own. The 6.9 M parameters printed for
width 1.4 follow from no convention: they are 6.06 M weights.

Measured: costs, by the plan, and latencies on one core of an AMD EPYC, as multiples of V2's 5.4 ms (`python -m
mnet_jax.bench --config` with this file; 5 rounds, the printed milliseconds' ratios in brackets): V2 1.4 1.70 (1.91), V1
1.34 (1.51), ShuffleNet 1.5x 2.26, 2x 4.22, NASNet-A 2.71 (2.44).
"""

from mnet_jax import config

PRINTED = {  # Table 4
    "mobilenet_v1": {"top1": 70.6, "madds_m": 575, "params_m": 4.2, "latency_ms": 113},
    "shufflenet_1.5": {"top1": 71.5, "madds_m": 292, "params_m": 3.4},
    "shufflenet_2": {"top1": 73.7, "madds_m": 524, "params_m": 5.4},
    "nasnet_a_mobile": {"top1": 74.0, "madds_m": 564, "params_m": 5.3, "latency_ms": 183},
    "mobilenet_v2": {"top1": 72.0, "madds_m": 300, "params_m": 3.4, "latency_ms": 75},
    "mobilenet_v2_1.4": {"top1": 74.7, "madds_m": 585, "params_m": 6.9, "latency_ms": 143},
}


def get_config(scale="digits"):
    return config.at_scale(scale, only=("imagenet",))


def sweep(cfg):
    yield {"name": "mobilenet_v2"}
    yield {"name": "mobilenet_v2_1.4", "model.width": 1.4}
    yield {"model.name": "mobilenet_v1"}
    yield {"name": "shufflenet_1.5", "model.name": "shufflenet", "model.width": 1.5}
    yield {"name": "shufflenet_2", "model.name": "shufflenet", "model.width": 2.0}
    yield {"model.name": "nasnet_a_mobile"}


claim = {
    "text": "MobileNetV2 is more accurate than other efficient networks of like cost.",
    "source": "Sandler et al. 2018, Table 4",
    "asked_by": "paper",
    "published": "72.0 against V1 70.6, ShuffleNet 1.5x 71.5; 74.7 against 2x 73.7, NASNet-A 74.0 % ImageNet top-1",
    "metric": "accuracy",
    "contrasts": (
        config.greater("mobilenet_v2", "mobilenet_v1", published=1.4),
        config.greater("mobilenet_v2", "shufflenet_1.5", published=0.5),
        config.greater("mobilenet_v2_1.4", "shufflenet_2", published=1.0),
        config.greater("mobilenet_v2_1.4", "nasnet_a_mobile", published=0.7),
    ),
    "printed": PRINTED,
}
