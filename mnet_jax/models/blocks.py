"""The blocks of MobileNetV1 to V4: what they compute is decided here, with which settings by the network's spec.

A block is constructed with (net, block, inputs): the `Network`, the block's row and the number of input channels. It is
called with (x_BHWC, project_bounds, previous_depthwise) and returns the output and the inner feature maps by name.
`project_bounds` is (low, high) of the clip behind V2's and V3's projection; `previous_depthwise` is the map "depthwise"
of the block before, None for the first block. A class of your own is the same: `models.build(model, rngs, blocks)`.

Shape letters: B images, H W height and width, C channels in or out, E expanded channels, I O input and output channels.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from mnet_jax.errors import UserError
from mnet_jax.models.layers import ACTIVATIONS, LINEAR, Bounds, ConvNorm, SqueezeExcite, hard_sigmoid
from mnet_jax.models.specs import Block, Network
from mnet_jax.ops.norm import affine_act
from mnet_jax.ops.pointwise import pointwise

Endpoints = dict[str, jax.Array]

BlockClass = Callable[[Network, Block, int], nnx.Module]


class SeparableBlock(nnx.Module):
    """V1's block (Howard et al. 2017, section 3.1, Figure 3): depthwise then 1x1, each with norm and activation.

    With `conv="full"` one dense convolution stands in the place of the pair (Table 4).
    """

    def __init__(self, net: Network, block: Block, inputs: int):
        self.act, config, window = ACTIVATIONS[net.act], net.layer_config, (net.kernel_size, block.stride)
        if net.conv == "full":
            self.dense = ConvNorm(config, "dense", inputs, block.channels, *window, dilation=block.dilation)
        else:
            self.depthwise = ConvNorm(config, "depthwise", inputs, inputs, *window, dilation=block.dilation)
            self.pointwise = ConvNorm(config, "pointwise", inputs, block.channels)

    def __call__(
        self, x_BHWC: jax.Array, project_bounds: Bounds, previous_depthwise: jax.Array | None
    ) -> tuple[jax.Array, Endpoints]:
        """Returns the output and {"depthwise"}, which `conv="full"` does not have."""
        del project_bounds, previous_depthwise
        if hasattr(self, "dense"):
            return self.dense(x_BHWC, self.act), {}
        d_BHWC = self.depthwise(x_BHWC, self.act)
        return self.pointwise(d_BHWC, self.act), {"depthwise": d_BHWC}


class InvertedResidual(nnx.Module):
    """V2's block (Sandler et al. 2018, section 3.3, Table 1): 1x1 expansion, depthwise, 1x1 linear bottleneck.

    `net.shortcut`: "bottleneck" adds the input where stride and channels agree; "expansion" adds the previous block's
    depthwise output, after that block's own addition, to this one's where shapes agree (section 6.2, Figure 6b); "none"
    adds nothing. With `net.split` > 1 an evaluation computes the expansion in that many parts (section 5.1).
    """

    def __init__(self, net: Network, block: Block, inputs: int):
        self.act, self.shortcut, config = ACTIVATIONS[net.act], net.shortcut, net.layer_config
        self.split = net.split if block.expand else 1
        if block.expanded % self.split or (self.split > 1 and net.conv == "full"):
            raise UserError(
                f"model.split={self.split} and model.conv={net.conv!r} on an expansion of {block.expanded} channels; "
                "allowed: a divisor of them, and depthwise"
            )
        if block.expand:
            self.expand = ConvNorm(config, "pointwise", inputs, block.expanded)
        kind, channels = "dense" if net.conv == "full" else "depthwise", (block.expanded, block.expanded)
        window = net.kernel_size, block.stride
        self.depthwise = ConvNorm(config, kind, *channels, *window, dilation=block.dilation)
        self.project = ConvNorm(config, "pointwise", block.expanded, block.channels)

    def __call__(
        self, x_BHWC: jax.Array, project_bounds: Bounds, previous_depthwise: jax.Array | None
    ) -> tuple[jax.Array, Endpoints]:
        """Returns the output and {"expansion", "depthwise"}, which an evaluation in parts never computes as a whole."""
        if self.split > 1 and all(layer.use_running_average for layer in (self.expand, self.depthwise, self.project)):
            return self._add_input(x_BHWC, self._project_in_parts(x_BHWC, project_bounds)), {}
        e_BHWE, d_BHWE = self.expand_and_filter(x_BHWC)
        if self.shortcut == "expansion" and previous_depthwise is not None and previous_depthwise.shape == d_BHWE.shape:
            d_BHWE = d_BHWE + previous_depthwise
        y_BHWC = self._add_input(x_BHWC, self.project(d_BHWE, project_bounds))
        return y_BHWC, {"expansion": e_BHWE, "depthwise": d_BHWE}

    def expand_and_filter(self, x_BHWC: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The expansion, which is the input where the block does not expand, and the depthwise output."""
        if hasattr(self, "expand"):
            return self.expand.fused_with_depthwise(self.depthwise, x_BHWC, self.act)
        return x_BHWC, self.depthwise(x_BHWC, self.act)

    def _add_input(self, x_BHWC: jax.Array, y_BHWC: jax.Array) -> jax.Array:
        joins = self.shortcut == "bottleneck" and y_BHWC.shape == x_BHWC.shape
        return y_BHWC + x_BHWC if joins else y_BHWC

    def _project_in_parts(self, x_BHWC: jax.Array, bounds: Bounds) -> jax.Array:
        """The projection as a sum over groups of expanded channels (Sandler et al. 2018, section 5.1)."""
        project, size = self.project, self.project.kernel.shape[0] // self.split
        kernel_EO, gain_O, shift_O = project.folded()

        def part(index: jax.Array | int) -> jax.Array:
            # The projection's inputs are outputs of the two layers before it, and those the last axis of their arrays.
            expand, depthwise = (_sliced(layer, index * size, size) for layer in (self.expand, self.depthwise))
            d_BHWE = depthwise(expand(x_BHWC, self.act), self.act)
            part_EO = lax.dynamic_slice_in_dim(kernel_EO, index * size, size, 0)
            return pointwise(d_BHWE, part_EO, project.config.formulation)

        # A loop, as XLA would start all parts of a written-out sum at once, with all their feature maps in memory.
        zeros_BHWO = jnp.zeros_like(jax.eval_shape(part, 0))
        y_BHWO = lax.fori_loop(0, self.split, lambda index, sum_BHWO: sum_BHWO + part(index), zeros_BHWO)
        return affine_act(y_BHWO, gain_O, shift_O, *bounds)


def _sliced(layer: ConvNorm, start: jax.Array | int, size: int) -> ConvNorm:
    """The layer with `size` of its output channels, from `start` on."""
    graphdef, state = nnx.split(layer)
    return nnx.merge(graphdef, jax.tree.map(lambda array: lax.dynamic_slice_in_dim(array, start, size, -1), state))


class SqueezedResidual(InvertedResidual):
    """V3's block (Howard et al. 2019, Figure 4): V2's, with squeeze-and-excite behind the depthwise convolution.

    Kernel size, activation and squeeze-and-excite are the row's; the gate is a hard sigmoid, as in the released code.
    `net.shortcut` is "bottleneck" or "none".
    """

    def __init__(self, net: Network, block: Block, inputs: int):
        self.act, self.shortcut, config = ACTIVATIONS[block.act], net.shortcut, net.layer_config
        if block.expand:
            self.expand = ConvNorm(config, "pointwise", inputs, block.expanded)
        channels, window = (block.expanded, block.expanded), (block.kernel_size, block.stride)
        self.depthwise = ConvNorm(config, "depthwise", *channels, *window, dilation=block.dilation)
        if block.squeezed:
            self.excite = SqueezeExcite(config, block.expanded, block.squeezed, hard_sigmoid)
        self.project = ConvNorm(config, "pointwise", block.expanded, block.channels)

    def __call__(
        self, x_BHWC: jax.Array, project_bounds: Bounds, previous_depthwise: jax.Array | None
    ) -> tuple[jax.Array, Endpoints]:
        """Returns the output and {"expansion", "depthwise"}, the latter after squeeze-and-excite."""
        del previous_depthwise
        e_BHWE, d_BHWE = self.expand_and_filter(x_BHWC)
        if hasattr(self, "excite"):
            d_BHWE = self.excite(d_BHWE)
        y_BHWC = self._add_input(x_BHWC, self.project(d_BHWE, project_bounds))
        return y_BHWC, {"expansion": e_BHWE, "depthwise": d_BHWE}


class UniversalResidual(InvertedResidual):
    """V4's block, the universal inverted bottleneck (Qin et al. 2024), and what stands beside it.

    A depthwise convolution without activation, 1x1 expansion, depthwise convolution, 1x1 linear bottleneck; either
    depthwise convolution may be missing, and the last one that is there has the stride. Of the row's other kinds,
    "fused" has a dense convolution as its expansion, and "conv" is one dense convolution, without a shortcut.
    """

    def __init__(self, net: Network, block: Block, inputs: int):
        self.act, self.shortcut, config = ACTIVATIONS[net.act], net.shortcut, net.layer_config
        size, stride, dilation = block.kernel_size, block.stride, block.dilation
        if block.kind == "conv":
            self.conv = ConvNorm(config, "dense", inputs, block.channels, size, stride, dilation=dilation)
            return
        expanded = (block.expanded, block.expanded)
        if block.kind == "fused":
            self.expand = ConvNorm(config, "dense", inputs, block.expanded, size, stride, dilation=dilation)
        else:
            if block.start_size:
                window = block.start_size, 1 if size else stride
                self.start = ConvNorm(config, "depthwise", inputs, inputs, *window, dilation=dilation)
            self.expand = ConvNorm(config, "pointwise", inputs, block.expanded)
            if size:
                self.depthwise = ConvNorm(config, "depthwise", *expanded, size, stride, dilation=dilation)
        self.project = ConvNorm(config, "pointwise", block.expanded, block.channels)

    def __call__(
        self, x_BHWC: jax.Array, project_bounds: Bounds, previous_depthwise: jax.Array | None
    ) -> tuple[jax.Array, Endpoints]:
        """Returns the output and {"expansion", "depthwise"}, equal where nothing filters; of a "conv" nothing."""
        del previous_depthwise
        if hasattr(self, "conv"):
            return self.conv(x_BHWC, self.act), {}
        s_BHWC = self.start(x_BHWC, LINEAR) if hasattr(self, "start") else x_BHWC
        if hasattr(self, "depthwise"):
            e_BHWE, d_BHWE = self.expand_and_filter(s_BHWC)
        else:
            e_BHWE = d_BHWE = self.expand(s_BHWC, self.act)
        y_BHWC = self._add_input(x_BHWC, self.project(d_BHWE, project_bounds))
        return y_BHWC, {"expansion": e_BHWE, "depthwise": d_BHWE}


BLOCKS: Mapping[str, BlockClass] = {
    "v1": SeparableBlock,
    "v2": InvertedResidual,
    "v3": SqueezedResidual,
    "v4": UniversalResidual,
}
"""The stock block of each family."""


def block_named(net: Network, blocks: Mapping[str, BlockClass]) -> BlockClass:
    """The class of `net`'s blocks: its family's, or the one that `net.block` names in `blocks`; else a UserError."""
    if not net.block:
        return BLOCKS[net.family]
    if net.block not in blocks:
        names = ", ".join(map(repr, ("", *blocks)))
        raise UserError(f"model.block={net.block!r} is none of the blocks that the network is built with: {names}")
    return blocks[net.block]
