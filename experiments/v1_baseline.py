"""MobileNetV1 on ImageNet by the paper's recipe.

Claim: 70.6 % top-1 with 569 M multiply-adds and 4.2 M parameters (Howard et al. 2017, Table 4; the released checkpoints
have 70.7 and 70.9 %).

    python -m mnet_jax.main --config experiments/v1_baseline.py:imagenet --mode plan

RMSProp without label smoothing (section 3.2). The paper states no learning rate, batch size or length: the rate of
0.045 that falls by 0.94 every 2.5 epochs, dropout and norm are the released code's, the batch of 16 x 96 and 300 epochs
are MobileNetV2's.

Measured: not run, it needs accelerators.
"""

from mnet_jax import config


def get_config(scale="digits"):
    return config.at_scale(scale, "v1", only=("imagenet",))


claim = {
    "text": "MobileNetV1 reaches 70.6 % top-1.",
    "source": "Howard et al. 2017, Table 4",
    "published": "70.6 % ImageNet top-1",
    "metric": "accuracy",
    "contrasts": (),
    "printed": {"baseline": {"top1": 70.6, "madds_m": 569, "params_m": 4.2}},
}
