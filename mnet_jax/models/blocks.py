"""The blocks of MobileNetV1 and V2: they own the structure, the network's spec owns the flavor.

Shape letters: B images, H W height and width, C channels in or out, E expanded channels, I O input and output channels.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from mnet_jax.models.layers import Bounds, ConvNorm
from mnet_jax.models.specs import ACTIVATIONS, Block, Network
from mnet_jax.ops.norm import affine_act
from mnet_jax.ops.pointwise import pointwise


class SeparableBlock(nnx.Module):
    """V1's block (Howard et al. 2017, section 3.1, Figure 3): depthwise then 1x1, each with norm and activation.

    With `conv="full"` one dense convolution stands in the place of the pair (Table 4).
    """

    def __init__(self, net: Network, block: Block, inputs: int):
        self.act, style, size, stride = ACTIVATIONS[net.act], net.style, net.kernel_size, block.stride
        if net.conv == "full":
            self.dense = ConvNorm(style, "dense", inputs, block.channels, size, stride)
        else:
            self.depthwise = ConvNorm(style, "depthwise", inputs, inputs, size, stride)
            self.pointwise = ConvNorm(style, "pointwise", inputs, block.channels)

    def __call__(self, x_BHWC: jax.Array, project: Bounds, filtered: jax.Array | None) -> tuple[jax.Array, dict]:
        """Returns the output and the block's inner endpoints; `project` and `filtered` are V2's."""
        del project, filtered
        if hasattr(self, "dense"):
            return self.dense(x_BHWC, self.act), {}
        d_BHWC = self.depthwise(x_BHWC, self.act)
        return self.pointwise(d_BHWC, self.act), {"depthwise": d_BHWC}


class InvertedResidual(nnx.Module):
    """V2's block (Sandler et al. 2018, section 3.3, Table 1): 1x1 expansion, depthwise, 1x1 linear bottleneck.

    `net.shortcut`: "bottleneck" adds the input where stride and channels agree; "expansion" adds to the depthwise
    output that of the previous block, with what was added to it, where shapes agree (section 6.2, Figure 6b); "none"
    adds nothing. With `net.split` > 1 an evaluation holds only that part of the expansion at a time (section 5.1).
    """

    def __init__(self, net: Network, block: Block, inputs: int):
        self.act, self.shortcut, style = ACTIVATIONS[net.act], net.shortcut, net.style
        self.split = net.split if block.expand else 1
        if block.expanded % self.split or (self.split > 1 and net.conv == "full"):
            raise ValueError(
                f"model.split={self.split} and model.conv={net.conv!r} on an expansion of {block.expanded} channels; "
                "allowed: a divisor of them, and depthwise"
            )
        if block.expand:
            self.expand = ConvNorm(style, "pointwise", inputs, block.expanded)
        kind, size = "dense" if net.conv == "full" else "depthwise", net.kernel_size
        self.depthwise = ConvNorm(style, kind, block.expanded, block.expanded, size, block.stride)
        self.project = ConvNorm(style, "pointwise", block.expanded, block.channels)

    def __call__(self, x_BHWC: jax.Array, project: Bounds, filtered: jax.Array | None) -> tuple[jax.Array, dict]:
        """Returns the output and {"expansion", "depthwise"}; `filtered` is the previous block's "depthwise".

        In an evaluation with `net.split` > 1 these two endpoints never exist as a whole, and are left out.
        """
        if self.split > 1 and self.project.use_running_average:
            return self._shortcut(x_BHWC, self._project_in_parts(x_BHWC, project)), {}
        if hasattr(self, "expand"):
            e_BHWE, d_BHWE = self.expand.then(self.depthwise, x_BHWC, self.act)
        else:
            e_BHWE, d_BHWE = x_BHWC, self.depthwise(x_BHWC, self.act)
        if self.shortcut == "expansion" and filtered is not None and filtered.shape == d_BHWE.shape:
            d_BHWE = d_BHWE + filtered
        y_BHWC = self._shortcut(x_BHWC, self.project(d_BHWE, project))
        return y_BHWC, {"expansion": e_BHWE, "depthwise": d_BHWE}

    def _shortcut(self, x_BHWC: jax.Array, y_BHWC: jax.Array) -> jax.Array:
        joins = self.shortcut == "bottleneck" and y_BHWC.shape == x_BHWC.shape
        return y_BHWC + x_BHWC if joins else y_BHWC

    def _project_in_parts(self, x_BHWC: jax.Array, bounds: Bounds) -> jax.Array:
        """The projection as a sum over groups of expanded channels (Sandler et al. 2018, section 5.1)."""
        last, size = self.project, self.project.kernel.shape[0] // self.split
        whole_EC, gain_C, shift_C = last.folded()

        def part(index: jax.Array | int) -> jax.Array:
            # The projection's inputs are outputs of the two layers before it, and those the last axis of their arrays.
            expand, filters = (_sliced(layer, index * size, size) for layer in (self.expand, self.depthwise))
            kernel_EC = lax.dynamic_slice_in_dim(whole_EC, index * size, size, 0)
            return pointwise(filters(expand(x_BHWC, self.act), self.act), kernel_EC, last.style.formulation)

        # A loop, as XLA would start all parts of a written-out sum at once, and hold them all.
        zeros_BHWC = jnp.zeros_like(jax.eval_shape(part, 0))
        y_BHWC = lax.fori_loop(0, self.split, lambda index, sum_BHWC: sum_BHWC + part(index), zeros_BHWC)
        return affine_act(y_BHWC, gain_C, shift_C, *bounds)


def _sliced(layer: ConvNorm, start: jax.Array | int, size: int) -> ConvNorm:
    """The layer with `size` of its output channels, from `start` on."""
    graphdef, state = nnx.split(layer)
    return nnx.merge(graphdef, jax.tree.map(lambda array: lax.dynamic_slice_in_dim(array, start, size, -1), state))
