"""ResNet-50 (He et al., Deep Residual Learning, 2016, arXiv 1512.03385, Table 1) and its squeeze-and-excite version.

SE-ResNet-50 is that of Hu et al., Squeeze-and-Excitation Networks, 2018 (arXiv 1709.01507), Table 1: reduction 16.
"""

import jax
from flax import nnx

from mnet_jax.models.layers import LINEAR, RELU, ConvNorm, Dense, SqueezeExcite, activate, global_mean, max_pool
from mnet_jax.models.specs import LayerConfig, ZooNetwork

STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))
"""(channels of the 3x3 convolution, blocks, stride of the first); a block's output has four times the channels."""


class Bottleneck(nnx.Module):
    """1x1, 3x3, 1x1 and a shortcut (Figure 5, right); the first 1x1 has the stride, as in the released model."""

    def __init__(self, config: LayerConfig, inputs: int, channels: int, stride: int, reduction: int):
        outputs = 4 * channels
        self.reduce = ConvNorm(config, "dense", inputs, channels, 1, stride)
        self.conv = ConvNorm(config, "dense", channels, channels, 3)
        self.expand = ConvNorm(config, "pointwise", channels, outputs)
        if reduction:
            self.excite = SqueezeExcite(config, outputs, outputs // reduction, jax.nn.sigmoid)
        if inputs != outputs:
            self.shortcut = ConvNorm(config, "dense", inputs, outputs, 1, stride)

    def __call__(self, x_BHWC: jax.Array) -> jax.Array:
        """Returns y_BHWC."""
        y_BHWC = self.expand(self.conv(self.reduce(x_BHWC, RELU), RELU), LINEAR)
        if hasattr(self, "excite"):
            y_BHWC = self.excite(y_BHWC)
        shortcut_BHWC = self.shortcut(x_BHWC, LINEAR) if hasattr(self, "shortcut") else x_BHWC
        return activate(y_BHWC + shortcut_BHWC, RELU)


class ResNet50(nnx.Module):
    """Sixteen bottleneck blocks; `reduction` of squeeze-and-excite, 0 for none."""

    def __init__(self, net: ZooNetwork, reduction: int = 0):
        config = net.layer_config._replace(padding="symmetric")
        self.conv1 = ConvNorm(config, "dense", net.in_channels, 64, 7, 2)
        self.stages = nnx.List()
        inputs = 64
        for channels, repeats, stride in STAGES:
            self.stages.append(nnx.List())
            for repeat in range(repeats):
                step = stride if repeat == 0 else 1
                self.stages[-1].append(Bottleneck(config, inputs, channels, step, reduction))
                inputs = 4 * channels
        self.dropout = nnx.Dropout(net.dropout)
        self.classifier = Dense(inputs, net.num_classes)

    def __call__(self, images_BHWC, knobs=None, rngs=None) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns logits_BK and the endpoints "conv1", "stage1".."stage4", "pooled"."""
        endpoints = {}
        x = endpoints["conv1"] = self.conv1(images_BHWC, RELU)
        x = max_pool(x, 3, 2, "symmetric")
        for number, stage in enumerate(self.stages, 1):
            for block in stage:
                x = block(x)
            endpoints[f"stage{number}"] = x
        x = endpoints["pooled"] = global_mean(x)
        return self.classifier(self.dropout(x, rngs=rngs)), endpoints


class SEResNet50(ResNet50):
    """ResNet-50 with squeeze-and-excite behind the last convolution of every block."""

    def __init__(self, net: ZooNetwork):
        super().__init__(net, reduction=16)
