"""SqueezeNet 1.0: Iandola et al., AlexNet-level accuracy with 50x fewer parameters (arXiv 1602.07360), Table 1."""

import jax
import jax.numpy as jnp
from flax import nnx

from mnet_jax.models.layers import RELU, Conv, global_mean, max_pool
from mnet_jax.models.specs import LayerConfig, ZooNetwork

FIRES = ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256))
"""fire2 to fire9: channels of the squeeze layer, and of each of the two expand layers."""
POOL_AFTER = (4, 8)


class Fire(nnx.Module):
    """A 1x1 convolution squeezes; 1x1 and 3x3 expand, side by side (section 3.2, Figure 1)."""

    def __init__(self, config: LayerConfig, inputs: int, squeezed: int, expanded: int):
        self.squeeze = Conv(config, "pointwise", inputs, squeezed)
        self.expand1 = Conv(config, "pointwise", squeezed, expanded)
        self.expand3 = Conv(config, "dense", squeezed, expanded, 3)

    def __call__(self, x_BHWC: jax.Array) -> jax.Array:
        """Returns y_BHWC of twice `expanded` channels."""
        s_BHWC = self.squeeze(x_BHWC, RELU)
        return jnp.concatenate([self.expand1(s_BHWC, RELU), self.expand3(s_BHWC, RELU)], -1)


class SqueezeNet(nnx.Module):
    """Without dense layers: the last 1x1 convolution has an output per class, and its mean is the logit."""

    def __init__(self, net: ZooNetwork):
        self.conv1 = Conv(net.layer_config, "dense", net.in_channels, 96, 7, 2, padding="valid")
        self.fires = nnx.List()
        channels = 96
        for squeezed, expanded in FIRES:
            self.fires.append(Fire(net.layer_config, channels, squeezed, expanded))
            channels = 2 * expanded
        self.dropout = nnx.Dropout(net.dropout)
        self.classifier = Conv(net.layer_config, "pointwise", channels, net.num_classes)

    def __call__(self, images_BHWC, knobs=None, rngs=None) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns logits_BK and the endpoints "conv1", "fire2".."fire9" (before pooling), "conv10"."""
        endpoints = {}
        x = endpoints["conv1"] = self.conv1(images_BHWC, RELU)
        x = max_pool(x, 3, 2, "ceil")
        for number, fire in enumerate(self.fires, 2):
            x = endpoints[f"fire{number}"] = fire(x)
            if number in POOL_AFTER:
                x = max_pool(x, 3, 2, "ceil")
        x = endpoints["conv10"] = self.classifier(self.dropout(x, rngs=rngs), RELU)
        return global_mean(x), endpoints
