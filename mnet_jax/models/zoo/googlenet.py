"""GoogLeNet: Szegedy et al., Going Deeper with Convolutions, 2015 (arXiv 1409.4842), Table 1; no auxiliary heads."""

import jax
import jax.numpy as jnp
from flax import nnx

from mnet_jax.models.layers import RELU, Conv, Dense, global_mean, local_response_norm, max_pool
from mnet_jax.models.specs import LayerConfig, ZooNetwork

INCEPTIONS = {
    # Channels: 1x1; 1x1 then 3x3; 1x1 then 5x5; 1x1 behind the pooling.
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
POOL_AFTER = ("3b", "4e")


class Inception(nnx.Module):
    """Four branches side by side (section 4, Figure 2b)."""

    def __init__(self, config: LayerConfig, inputs: int, channels: tuple[int, int, int, int, int, int]):
        one, reduce3, three, reduce5, five, pooled = channels
        self.one = Conv(config, "pointwise", inputs, one)
        self.reduce3 = Conv(config, "pointwise", inputs, reduce3)
        self.three = Conv(config, "dense", reduce3, three, 3)
        self.reduce5 = Conv(config, "pointwise", inputs, reduce5)
        self.five = Conv(config, "dense", reduce5, five, 5)
        self.pooled = Conv(config, "pointwise", inputs, pooled)

    def __call__(self, x_BHWC: jax.Array) -> jax.Array:
        """Returns the four branches' channels, side by side."""
        branches = (
            self.one(x_BHWC, RELU),
            self.three(self.reduce3(x_BHWC, RELU), RELU),
            self.five(self.reduce5(x_BHWC, RELU), RELU),
            self.pooled(max_pool(x_BHWC, 3, 1, "same"), RELU),
        )
        return jnp.concatenate(branches, -1)


class GoogLeNet(nnx.Module):
    """Three convolutions, nine inception modules, one dense layer."""

    def __init__(self, net: ZooNetwork):
        config = net.layer_config._replace(padding="symmetric")
        self.conv1 = Conv(config, "dense", net.in_channels, 64, 7, 2)
        self.reduce2 = Conv(config, "pointwise", 64, 64)
        self.conv2 = Conv(config, "dense", 64, 192, 3)
        self.inceptions = nnx.List()
        inputs = 192
        for channels in INCEPTIONS.values():
            self.inceptions.append(Inception(config, inputs, channels))
            one, _, three, _, five, pooled = channels
            inputs = one + three + five + pooled
        self.dropout = nnx.Dropout(net.dropout)
        self.classifier = Dense(inputs, net.num_classes)

    def __call__(self, images_BHWC, knobs=None, rngs=None) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns logits_BK and the endpoints "conv1", "conv2", "3a".."5b" (before pooling), "pooled"."""
        endpoints = {}
        x = endpoints["conv1"] = self.conv1(images_BHWC, RELU)
        x = self.reduce2(local_response_norm(max_pool(x, 3, 2, "ceil")), RELU)
        x = endpoints["conv2"] = self.conv2(x, RELU)
        x = max_pool(local_response_norm(x), 3, 2, "ceil")
        for name, inception in zip(INCEPTIONS, self.inceptions, strict=True):
            x = endpoints[name] = inception(x)
            if name in POOL_AFTER:
                x = max_pool(x, 3, 2, "ceil")
        x = endpoints["pooled"] = global_mean(x)
        return self.classifier(self.dropout(x, rngs=rngs)), endpoints
