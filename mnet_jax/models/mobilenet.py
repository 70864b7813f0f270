"""MobileNetV1 and V2 (Howard et al. 2017; Sandler et al. 2018) from a resolved `Network`."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from mnet_jax.models.blocks import InvertedResidual, SeparableBlock
from mnet_jax.models.init import kernel
from mnet_jax.models.layers import ConvNorm
from mnet_jax.models.specs import ACTIVATIONS, Network

BLOCKS = {"v1": SeparableBlock, "v2": InvertedResidual}


class MobileNet(nnx.Module):
    """Stem, blocks, the last 1x1 convolution where the network has one, global pooling, classifier."""

    def __init__(self, net: Network):
        self.act, self.project_act = ACTIVATIONS[net.act], ACTIVATIONS[net.project_act]
        channels, stride = net.stem
        self.stem = ConvNorm(net.style, "dense", net.in_channels, channels, 3, stride)
        self.blocks = nnx.List()
        for block in net.blocks:
            self.blocks.append(BLOCKS[net.family](net, block, channels))
            channels = block.channels
        if net.last:
            self.head = ConvNorm(net.style, "pointwise", channels, net.last)
            channels = net.last
        self.dropout = nnx.Dropout(net.dropout)
        self.classifier = Classifier(channels, net.num_classes)

    def __call__(
        self, images_BHWC: jax.Array, knobs: Any = None, rngs: nnx.Rngs | None = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Runs the network.

        Args:
          images_BHWC: normalized images, float.
          knobs: with `project_low` and `project_high`, bounds of the bottleneck's activation that replace the
            config's, as numbers or traced scalars, so that one compiled program serves every such arm.
          rngs: needed in training mode where the config has dropout.

        Returns:
          logits_BK, and the feature maps that heads tap: "stem", "block1".. (outputs), "block1/expansion",
          "block1/depthwise".., "head", "pooled".
        """
        project = self.project_act if knobs is None else (knobs.project_low, knobs.project_high)
        x = self.stem(images_BHWC, self.act)
        endpoints = {"stem": x}
        inner: dict[str, jax.Array] = {}
        for number, block in enumerate(self.blocks, 1):
            x, inner = block(x, project, inner.get("depthwise"))
            endpoints |= {f"block{number}/{name}": value for name, value in inner.items()}
            endpoints[f"block{number}"] = x
        if hasattr(self, "head"):
            x = endpoints["head"] = self.head(x, self.act)
        x = endpoints["pooled"] = jnp.mean(x, axis=(1, 2))
        return self.classifier(self.dropout(x, rngs=rngs)), endpoints


class Classifier(nnx.Module):
    """A dense layer, started at the scale of the released code's last convolution."""

    def __init__(self, inputs: int, classes: int):
        self.kernel = kernel((inputs, classes), 0.09)
        self.bias = nnx.Param(jnp.zeros(classes, jnp.float32))

    def __call__(self, x_BC: jax.Array) -> jax.Array:
        """Returns logits_BK."""
        return x_BC @ self.kernel[...] + self.bias[...][None]
