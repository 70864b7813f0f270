"""NASNet-A (4 @ 1056): Zoph et al., Learning Transferable Architectures, 2018 (arXiv 1707.07012), Figure 4, Table 3.

As released, without auxiliary head: every convolution stands behind a ReLU, and every cell takes the outputs of the
two before it. As in Keras, the strided poolings see zeros around the image.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from mnet_jax.models.layers import (
    LINEAR,
    RELU,
    Conv,
    ConvNorm,
    Dense,
    activate,
    average_pool,
    global_mean,
    max_pool,
    pad_widths,
)
from mnet_jax.models.specs import LayerConfig, ZooNetwork
from mnet_jax.ops.depthwise import pad

STEM, FILTERS, REPEATS = 32, 1056 // 24, 4
"""Channels of the first convolution; of a branch of the first normal cells (the last have 6 of 4 times as many); N."""


class Separable(nnx.Module):
    """ReLU, depthwise convolution, 1x1 convolution, norm."""

    def __init__(self, config: LayerConfig, inputs: int, outputs: int, size: int, stride: int):
        self.depthwise = Conv(config, "depthwise", inputs, inputs, size, stride, bias=False)
        self.pointwise = ConvNorm(config, "pointwise", inputs, outputs)

    def __call__(self, x_BHWC: jax.Array) -> jax.Array:
        """Returns y_BHWC."""
        return self.pointwise(self.depthwise(activate(x_BHWC, RELU), LINEAR), LINEAR)


class Twice(nnx.Module):
    """Two separable convolutions, as the released cells have them; the first has the stride."""

    def __init__(self, config: LayerConfig, inputs: int, outputs: int, size: int, stride: int = 1):
        self.first = Separable(config, inputs, outputs, size, stride)
        self.second = Separable(config, outputs, outputs, size, 1)

    def __call__(self, x_BHWC: jax.Array) -> jax.Array:
        """Returns y_BHWC."""
        return self.second(self.first(x_BHWC))


class Project(nnx.Module):
    """ReLU, 1x1 convolution, norm."""

    def __init__(self, config: LayerConfig, inputs: int, outputs: int):
        self.conv = ConvNorm(config, "pointwise", inputs, outputs)

    def __call__(self, x_BHWC: jax.Array) -> jax.Array:
        """Returns y_BHWC."""
        return self.conv(activate(x_BHWC, RELU), LINEAR)


class Halve(nnx.Module):
    """Half the rows and columns: a 1x1 convolution of the even pixels beside one of the odd, then norm."""

    def __init__(self, config: LayerConfig, inputs: int, outputs: int):
        self.conv = ConvNorm(config, "dense", 2 * inputs, outputs, groups=2)

    def __call__(self, x_BHWC: jax.Array) -> jax.Array:
        """Returns y_BHWC."""
        x_BHWC = activate(x_BHWC, RELU)
        odd_BHWC = pad(x_BHWC, ((0, 1), (0, 1)))[:, 1:, 1:]
        return self.conv(jnp.concatenate([x_BHWC[:, ::2, ::2], odd_BHWC[:, ::2, ::2]], -1), LINEAR)


class Cell(nnx.Module):
    """What both cells do to their two inputs: `before` is the output of the cell before the last one.

    `adjust` makes `filters` channels of it: `Project`, or `Halve` where the cell in between was a reduction, or None
    for the first cell, which takes the stem's output twice.
    """

    def __init__(self, config: LayerConfig, adjust: type | None, before: int, inputs: int, filters: int):
        if adjust:
            self.adjust = adjust(config, before, filters)
        self.project = Project(config, inputs, filters)

    def inputs(self, before_BHWC: jax.Array, x_BHWC: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns p and h: both inputs at the cell's resolution and width (but for the first cell's p)."""
        return self.adjust(before_BHWC) if hasattr(self, "adjust") else before_BHWC, self.project(x_BHWC)


class Normal(Cell):
    """The normal cell (Figure 4, left)."""

    def __init__(self, config: LayerConfig, adjust: type | None, before: int, inputs: int, filters: int):
        super().__init__(config, adjust, before, inputs, filters)
        self.left1, self.right1 = Twice(config, filters, filters, 5), Twice(config, filters, filters, 3)
        self.left2, self.right2 = Twice(config, filters, filters, 5), Twice(config, filters, filters, 3)
        self.left5 = Twice(config, filters, filters, 3)
        self.channels = 6 * filters

    def __call__(self, before_BHWC: jax.Array, x_BHWC: jax.Array) -> jax.Array:
        """Returns y_BHWC of `channels`."""
        p, h = self.inputs(before_BHWC, x_BHWC)
        sums = (
            self.left1(h) + self.right1(p),
            self.left2(p) + self.right2(p),
            average_pool(h, 3, 1, "same") + p,
            average_pool(p, 3, 1, "same") + average_pool(p, 3, 1, "same"),
            self.left5(h) + h,
        )
        return jnp.concatenate([p, *sums], -1)


class Reduction(Cell):
    """The reduction cell (Figure 4, right): half the rows and columns."""

    def __init__(self, config: LayerConfig, adjust: type | None, before: int, inputs: int, filters: int):
        super().__init__(config, adjust, before, inputs, filters)
        p = filters if adjust else before
        self.left1, self.right1 = Twice(config, filters, filters, 5, 2), Twice(config, p, filters, 7, 2)
        self.right2 = Twice(config, p, filters, 7, 2)
        self.right3 = Twice(config, p, filters, 5, 2)
        self.left5 = Twice(config, filters, filters, 3)
        self.channels = 4 * filters

    def __call__(self, before_BHWC: jax.Array, x_BHWC: jax.Array) -> jax.Array:
        """Returns y_BHWC of `channels`."""
        p, h = self.inputs(before_BHWC, x_BHWC)
        around = pad(h, pad_widths(h.shape[1:3], (3, 3), 2, "same"))
        largest = max_pool(around, 3, 2, "valid")
        x1 = self.left1(h) + self.right1(p)
        x2 = largest + self.right2(p)
        x3 = average_pool(around, 3, 2, "valid") + self.right3(p)
        x4 = average_pool(x1, 3, 1, "same") + x2
        x5 = self.left5(x1) + largest
        return jnp.concatenate([x2, x3, x4, x5], -1)


class NASNetAMobile(nnx.Module):
    """Stem of a convolution and two reduction cells, then three times N normal cells with a reduction between."""

    def __init__(self, net: ZooNetwork):
        config = net.layer_config._replace(padding="same")
        self.stem = ConvNorm(config, "dense", net.in_channels, STEM, 3, 2, padding="valid")
        plan = [(Reduction, FILTERS // 4), (Reduction, FILTERS // 2)]
        for number in range(3):
            plan += [(Reduction, FILTERS << number)] * (number > 0) + [(Normal, FILTERS << number)] * REPEATS
        self.cells = nnx.List()
        before, inputs, adjust = STEM, STEM, None
        for kind, filters in plan:
            self.cells.append(kind(config, adjust, before, inputs, filters))
            before, inputs, adjust = inputs, self.cells[-1].channels, Halve if kind is Reduction else Project
        self.dropout = nnx.Dropout(net.dropout)
        self.classifier = Dense(inputs, net.num_classes)

    def __call__(self, images_BHWC, knobs=None, rngs=None) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns logits_BK and the endpoints "stem", "cell1".."cell16", "pooled"."""
        endpoints = {}
        x = before = endpoints["stem"] = self.stem(images_BHWC, LINEAR)
        for number, cell in enumerate(self.cells, 1):
            before, x = x, cell(before, x)
            endpoints[f"cell{number}"] = x
        x = endpoints["pooled"] = global_mean(activate(x, RELU))
        return self.classifier(self.dropout(x, rngs=rngs)), endpoints
