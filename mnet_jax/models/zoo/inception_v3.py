"""Inception V3: Szegedy et al., Rethinking the Inception Architecture, 2016 (arXiv 1512.00567), Table 1.

Channels are the released model's (the paper's table leaves them out); without the auxiliary head; for 299 pixels.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from mnet_jax.models.layers import RELU, ConvNorm, Dense, average_pool, global_mean, max_pool
from mnet_jax.models.specs import LayerConfig, ZooNetwork

Step = tuple[int, int, int]
"""(channels, rows, columns) of a convolution; one of 1x1 is pointwise."""


def chain(config: LayerConfig, inputs: int, *steps: Step, last_stride: int = 1) -> nnx.List:
    """Convolutions one behind the other; with `last_stride` 2 the last has no padding."""
    layers = nnx.List()
    for number, (channels, *size) in enumerate(steps, 1):
        stride = last_stride if number == len(steps) else 1
        kind = "pointwise" if size == [1, 1] else "dense"
        padding = "same" if stride == 1 else "valid"
        layers.append(ConvNorm(config, kind, inputs, channels, tuple(size), stride, padding=padding, learn_scale=False))
        inputs = channels
    return layers


def run(layers: nnx.List, x_BHWC: jax.Array) -> jax.Array:
    """Calls the layers of a chain in turn."""
    for layer in layers:
        x_BHWC = layer(x_BHWC, RELU)
    return x_BHWC


class Mixed(nnx.Module):
    """Branches side by side, and 1x1 behind 3x3 averages (Figures 5 and 6)."""

    def __init__(self, config: LayerConfig, inputs: int, *branches: tuple[Step, ...], pooled: int):
        self.branches = nnx.List([chain(config, inputs, *steps) for steps in branches])
        self.pooled = chain(config, inputs, (pooled, 1, 1))

    def __call__(self, x_BHWC: jax.Array) -> jax.Array:
        """Returns the branches' channels, side by side."""
        pooled_BHWC = run(self.pooled, average_pool(x_BHWC, 3, 1, "same"))
        return jnp.concatenate([*(run(branch, x_BHWC) for branch in self.branches), pooled_BHWC], -1)


class Reduction(nnx.Module):
    """Branches that end in stride 2, and a pooling (section 5, Figure 10)."""

    def __init__(self, config: LayerConfig, inputs: int, *branches: tuple[Step, ...]):
        self.branches = nnx.List([chain(config, inputs, *steps, last_stride=2) for steps in branches])

    def __call__(self, x_BHWC: jax.Array) -> jax.Array:
        """Returns half the rows and columns: the branches' channels and the input's, side by side."""
        pooled_BHWC = max_pool(x_BHWC, 3, 2, "valid")
        return jnp.concatenate([*(run(branch, x_BHWC) for branch in self.branches), pooled_BHWC], -1)


class Expanded(nnx.Module):
    """Branches that end in 1x3 and 3x1 side by side, on the coarsest maps (Figure 7)."""

    def __init__(self, config: LayerConfig, inputs: int):
        self.one = chain(config, inputs, (320, 1, 1))
        self.three = chain(config, inputs, (384, 1, 1))
        self.three_ends = self._ends(config, 384)
        self.double = chain(config, inputs, (448, 1, 1), (384, 3, 3))
        self.double_ends = self._ends(config, 384)
        self.pooled = chain(config, inputs, (192, 1, 1))

    def _ends(self, config: LayerConfig, inputs: int) -> nnx.List:
        return nnx.List([chain(config, inputs, (384, 1, 3)), chain(config, inputs, (384, 3, 1))])

    def __call__(self, x_BHWC: jax.Array) -> jax.Array:
        """Returns 2048 channels."""
        three_BHWC, double_BHWC = run(self.three, x_BHWC), run(self.double, x_BHWC)
        branches = (
            run(self.one, x_BHWC),
            *(run(end, three_BHWC) for end in self.three_ends),
            *(run(end, double_BHWC) for end in self.double_ends),
            run(self.pooled, average_pool(x_BHWC, 3, 1, "same")),
        )
        return jnp.concatenate(branches, -1)


def _mixed35(config: LayerConfig, inputs: int, pooled: int) -> Mixed:
    five, double = ((48, 1, 1), (64, 5, 5)), ((64, 1, 1), (96, 3, 3), (96, 3, 3))
    return Mixed(config, inputs, ((64, 1, 1),), five, double, pooled=pooled)


def _mixed17(config: LayerConfig, c: int) -> Mixed:
    seven = ((c, 1, 1), (c, 1, 7), (192, 7, 1))
    double = ((c, 1, 1), (c, 7, 1), (c, 1, 7), (c, 7, 1), (192, 1, 7))
    return Mixed(config, 768, ((192, 1, 1),), seven, double, pooled=192)


class InceptionV3(nnx.Module):
    """Stem, eleven mixed modules, classifier. The norms have no scale, as in the released model."""

    def __init__(self, net: ZooNetwork):
        config = net.layer_config

        def valid(inputs: int, channels: int, size: int, stride: int = 1) -> ConvNorm:
            return ConvNorm(config, "dense", inputs, channels, size, stride, padding="valid", learn_scale=False)

        self.conv1a = valid(net.in_channels, 32, 3, 2)
        self.conv2a = valid(32, 32, 3)
        self.conv2b = ConvNorm(config, "dense", 32, 64, 3, padding="same", learn_scale=False)
        self.conv3b = valid(64, 80, 1)
        self.conv4a = valid(80, 192, 3)
        seven = ((192, 1, 1), (192, 1, 7), (192, 7, 1), (192, 3, 3))
        self.mixed = nnx.List(
            [
                *(_mixed35(config, inputs, pooled) for inputs, pooled in ((192, 32), (256, 64), (288, 64))),
                Reduction(config, 288, ((384, 3, 3),), ((64, 1, 1), (96, 3, 3), (96, 3, 3))),
                *(_mixed17(config, channels) for channels in (128, 160, 160, 192)),
                Reduction(config, 768, ((192, 1, 1), (320, 3, 3)), seven),
                *(Expanded(config, inputs) for inputs in (1280, 2048)),
            ]
        )
        self.dropout = nnx.Dropout(net.dropout)
        self.classifier = Dense(2048, net.num_classes)

    def __call__(self, images_BHWC, knobs=None, rngs=None) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns logits_BK and the endpoints "conv2b", "conv4a" (before pooling), "mixed0".."mixed10", "pooled"."""
        endpoints = {}
        x = self.conv2a(self.conv1a(images_BHWC, RELU), RELU)
        x = endpoints["conv2b"] = self.conv2b(x, RELU)
        x = max_pool(x, 3, 2, "valid")
        x = endpoints["conv4a"] = self.conv4a(self.conv3b(x, RELU), RELU)
        x = max_pool(x, 3, 2, "valid")
        for number, mixed in enumerate(self.mixed):
            x = endpoints[f"mixed{number}"] = mixed(x)
        x = endpoints["pooled"] = global_mean(x)
        return self.classifier(self.dropout(x, rngs=rngs)), endpoints
