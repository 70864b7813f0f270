"""Does squeeze-and-excite make MobileNetV2's bottleneck more accurate, and more so than a wider network?

Claim: gates computed from channel means raise accuracy at little cost (Hu et al. 2018, Table 2: ResNet-50 from 75.2 to
76.7 % ImageNet top-1; MobileNetV3 has them in V2's blocks, Howard et al. 2019, section 5.3). This file also shows how
an experiment brings a block of its own: `blocks` below, chosen by `model.block`.

    python -m mnet_jax.main --config experiments/v2_squeeze_excite.py                  # 60 runs
    python -m mnet_jax.main --config experiments/v2_squeeze_excite.py:cifar10_quick    # 15 runs

Measured (digits, 12 seeds, a rate for each arm by 6 tuning seeds): no difference found; squeeze_excite - plain = -0.38
points [-0.75, -0.00], p = .099, and - plain,wider = -0.24 [-0.66, +0.19], p = .25. All at 0.3: -0.26 and -0.13 points.
"""

from mnet_jax import config
from mnet_jax.models.blocks import InvertedResidual
from mnet_jax.models.layers import SqueezeExcite, hard_sigmoid

WIDTHS = {"digits": 1.05, "fashion_mnist": 1.04, "cifar10_quick": 1.04, "cifar10": 1.04, "imagenet": 1.05}
"""Width at which the plain network has 1 to 5 % more multiply-adds than the one with gates."""

TUNED_LR = {  # by --mode tune, 4 tuning seeds
    "digits": {
        "plain": 0.19,  # give or take a factor of 1.18, which costs 0.03 points
        "squeeze_excite": 0.3,  # give or take a factor of 1.24, which costs 0.03 points
        "plain,wider": 0.28,  # give or take a factor of 1.60, which costs 0.01 points
    }
}


class SqueezeExciteResidual(InvertedResidual):
    """V2's block with a gate on the depthwise output, computed from a quarter of its channels, as V3 places it."""

    def __init__(self, net, block, inputs):
        super().__init__(net, block, inputs)
        self.gate = SqueezeExcite(net.layer_config, block.expanded, max(1, block.expanded // 4), hard_sigmoid)

    def expand_and_filter(self, x_BHWC):
        e_BHWE, d_BHWE = super().expand_and_filter(x_BHWC)
        return e_BHWE, self.gate(d_BHWE)


blocks = {"squeeze_excite": SqueezeExciteResidual}


def get_config(scale="digits"):
    return config.at_scale(scale, only=tuple(WIDTHS))


def sweep(cfg):
    arms = {
        "plain": {},
        "squeeze_excite": {"model.block": "squeeze_excite"},
        "plain,wider": {"model.width": WIDTHS[cfg.scale]},
    }
    return config.tuned(arms, TUNED_LR, cfg)


claim = {
    "text": "Squeeze-and-excite makes V2's bottleneck more accurate than the same multiply-adds spent on width.",
    "source": "Hu et al. 2018, Table 2, for ResNet-50",
    "asked_by": "reader",
    "published": "76.7 against 75.2 % ImageNet top-1; no figure for MobileNetV2",
    "metric": "accuracy",
    "contrasts": (
        config.greater("squeeze_excite", "plain"),
        config.greater("squeeze_excite", "plain,wider"),
    ),
}
