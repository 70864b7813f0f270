"""MobileNetV1 against the networks of its time: GoogLeNet, VGG-16, SqueezeNet, AlexNet.

Claim: nearly as accurate as VGG-16 at 1/27 of its multiply-adds, more than GoogLeNet at 1/2.5; at width 0.5 and 160
pixels more than SqueezeNet and AlexNet (Howard et al. 2017, section 4.3, Tables 8 and 9).

    python -m mnet_jax.main --config experiments/v1_comparison.py:imagenet --mode plan

All networks are trained by MobileNetV1's recipe here; in the paper each has its own. Its text says 4 % better than both
SqueezeNet and AlexNet, its Table 9 2.7 and 3.0.

Measured: costs, by the plan, and latencies. Counted multiply-adds are 569 M against GoogLeNet's 1,583 M (printed 1,550)
and VGG-16's 15,470 M (15,300), and 77 M against SqueezeNet's 833 M (1,700, which counts two operations) and AlexNet's
724 M (720). On one core of an AMD EPYC an image takes 7.1 ms, GoogLeNet 4.14 times as long, VGG-16 29.6; against width
0.5 at 160 pixels SqueezeNet 12.7 and AlexNet 28 (`python -m mnet_jax.bench --config` with this file, 3 rounds).
"""

from mnet_jax import config

PRINTED = {  # Tables 8 and 9
    "mobilenet_v1": {"top1": 70.6, "madds_m": 569, "params_m": 4.2},
    "googlenet": {"top1": 69.8, "madds_m": 1550, "params_m": 6.8},
    "vgg16": {"top1": 71.5, "madds_m": 15300, "params_m": 138},
    "0.5_mobilenet_v1@160": {"top1": 60.2, "madds_m": 76, "params_m": 1.32},
    "squeezenet": {"top1": 57.5, "madds_m": 1700, "params_m": 1.25},
    "alexnet": {"top1": 57.2, "madds_m": 720, "params_m": 60},
}


def get_config(scale="digits"):
    return config.at_scale(scale, "v1", only=("imagenet",))


def sweep(cfg):
    yield {"name": "mobilenet_v1"}
    yield {"model.name": "googlenet"}
    yield {"model.name": "vgg16"}
    yield {"name": "0.5_mobilenet_v1@160", "model.width": 0.5, "data.size": 160}
    yield {"name": "squeezenet", "model.name": "squeezenet", "data.size": 227}
    yield {"name": "alexnet", "model.name": "alexnet", "data.size": 227}


claim = {
    "text": "MobileNetV1 is about as accurate as far larger networks.",
    "source": "Howard et al. 2017, Tables 8 and 9",
    "asked_by": "paper",
    "published": "70.6, GoogLeNet 69.8, VGG-16 71.5; at .5 and 160 pixels 60.2, SqueezeNet 57.5, AlexNet 57.2 % top-1",
    "metric": "accuracy",
    "contrasts": (
        config.greater("mobilenet_v1", "googlenet", published=0.8),
        config.equivalent("mobilenet_v1", "vgg16", margin=1.0, published=-0.9),
        config.greater("0.5_mobilenet_v1@160", "squeezenet", published=2.7),
        config.greater("0.5_mobilenet_v1@160", "alexnet", published=3.0),
    ),
    "printed": PRINTED,
}
