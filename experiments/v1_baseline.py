"""MobileNetV1 on ImageNet by the paper's recipe.

Claim: 70.6 % top-1 with 569 M multiply-adds and 4.2 M parameters (Howard et al. 2017, Table 4; the released checkpoints
have 70.7 and 70.9 %).

    python -m mnet_jax.main --config experiments/v1_baseline.py:imagenet --mode plan

The recipe has three sources, as the paper states no learning rate, batch size or length. The paper's: RMSProp, no label
smoothing, no weight decay on depthwise filters (section 3.2). The released script's (mobilenet_v1_train.py): dropout,
the norm, and the rate of 0.045 that falls by 0.94 every 2.5 epochs, which there belongs to gradient descent with a
batch of 64. MobileNetV2's: RMSProp's decay and momentum of 0.9, weight decay of 4e-5, the batch of 16 x 96, averaged
weights and 300 epochs.

Measured: not run, it needs accelerators.
"""

from mnet_jax import config


def get_config(scale="digits"):
    return config.at_scale(scale, "v1", only=("imagenet",))


claim = {
    "text": "MobileNetV1 reaches 70.6 % top-1.",
    "source": "Howard et al. 2017, Table 4",
    "asked_by": "paper",
    "published": "70.6 % ImageNet top-1",
    "metric": "accuracy",
    "contrasts": (),
    "printed": {"baseline": {"top1": 70.6, "madds_m": 569, "params_m": 4.2}},
}
