"""The blocks of MobileNetV1 and V2: they own the structure, the network's spec owns the flavor.

Shape letters: B images, H W height and width, C channels in or out, E expanded channels, I O input and output channels.
"""

import jax
from flax import nnx

from mnet_jax.models.layers import Bounds, ConvNorm
from mnet_jax.models.specs import ACTIVATIONS, Block, Network


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
    adds nothing.
    """

    def __init__(self, net: Network, block: Block, inputs: int):
        self.act, self.shortcut, style = ACTIVATIONS[net.act], net.shortcut, net.style
        if block.expand:
            self.expand = ConvNorm(style, "pointwise", inputs, block.expanded)
        kind, size = "dense" if net.conv == "full" else "depthwise", net.kernel_size
        self.depthwise = ConvNorm(style, kind, block.expanded, block.expanded, size, block.stride)
        self.project = ConvNorm(style, "pointwise", block.expanded, block.channels)

    def __call__(self, x_BHWC: jax.Array, project: Bounds, filtered: jax.Array | None) -> tuple[jax.Array, dict]:
        """Returns the output and {"expansion", "depthwise"}; `filtered` is the previous block's "depthwise"."""
        e_BHWE = self.expand(x_BHWC, self.act) if hasattr(self, "expand") else x_BHWC
        d_BHWE = self.depthwise(e_BHWE, self.act)
        if self.shortcut == "expansion" and filtered is not None and filtered.shape == d_BHWE.shape:
            d_BHWE = d_BHWE + filtered
        y_BHWC = self.project(d_BHWE, project)
        if self.shortcut == "bottleneck" and y_BHWC.shape == x_BHWC.shape:
            y_BHWC = y_BHWC + x_BHWC
        return y_BHWC, {"expansion": e_BHWE, "depthwise": d_BHWE}
