"""The blocks of MobileNetV1 and V2: they own the structure, the network's spec owns the flavor.

Shape letters: B images, H W height and width, C channels in or out, E expanded channels, I O input and output channels.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from mnet_jax.models.init import INITS, kernel
from mnet_jax.models.specs import ACTIVATIONS, Block, Network
from mnet_jax.ops import depthwise, norm, pointwise
from mnet_jax.ops.depthwise import pads

Bounds = tuple[float | jax.Array, float | jax.Array]


class ConvNorm(nnx.Module):
    """Convolution without bias, batch norm, activation.

    `kind` is "dense" (kernel KxKxIxO), "pointwise" (IxO) or "depthwise" (KxKxC). The module has Flax's switch
    `use_running_average` (`model.train()`, `model.eval()`); in training mode a call updates `mean` and `var`.
    """

    def __init__(
        self,
        net: Network,
        kind: str,
        inputs: int,
        outputs: int,
        formulation: str,
        size: int = 1,
        stride: int = 1,
    ):
        shape, fan_in = {
            "dense": ((size, size, inputs, outputs), size * size * inputs),
            "pointwise": ((inputs, outputs), inputs),
            "depthwise": ((size, size, outputs), size * size),
        }[kind]
        self.kind, self.stride, self.padding, self.formulation = kind, stride, net.padding, formulation
        self.momentum, self.eps, self.group = net.norm_momentum, net.norm_eps, net.norm_group
        self.use_running_average = False
        self.kernel = kernel(shape, INITS[net.init].std(fan_in))
        self.scale = nnx.Param(jnp.ones(outputs, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(outputs, jnp.float32))
        self.mean = nnx.BatchStat(jnp.zeros(outputs, jnp.float32))
        self.var = nnx.BatchStat(jnp.ones(outputs, jnp.float32))

    def __call__(self, x_BHWC: jax.Array, bounds: Bounds) -> jax.Array:
        """Returns y_BHWC, clipped to `bounds` = (low, high)."""
        kernel, way = self.kernel[...], self.formulation
        if self.kind == "pointwise":
            y_BHWC = pointwise.pointwise(x_BHWC, kernel, way)
        else:
            padding = pads(x_BHWC.shape[1:3], kernel.shape[0], self.stride, self.padding)
            convolve = depthwise.depthwise if self.kind == "depthwise" else pointwise.dense_conv
            y_BHWC = convolve(x_BHWC, kernel, self.stride, padding, way)
        scale, bias, (low, high) = self.scale[...], self.bias[...], bounds
        if self.use_running_average:
            return norm.norm_act_inference(y_BHWC, scale, bias, self.mean[...], self.var[...], low, high, self.eps)
        y_BHWC, mean, var = norm.batch_norm_act(y_BHWC, scale, bias, low, high, self.eps, self.group, way)
        self.mean[...] = self.momentum * self.mean[...] + (1 - self.momentum) * mean
        self.var[...] = self.momentum * self.var[...] + (1 - self.momentum) * var
        return y_BHWC


class SeparableBlock(nnx.Module):
    """V1's block (Howard et al. 2017, section 3.1, Figure 3): depthwise then 1x1, each with norm and activation.

    With `conv="full"` one dense convolution stands in the place of the pair (Table 4).
    """

    def __init__(self, net: Network, block: Block, inputs: int, formulation: str):
        self.act, size, stride = ACTIVATIONS[net.act], net.kernel_size, block.stride
        if net.conv == "full":
            self.dense = ConvNorm(net, "dense", inputs, block.channels, formulation, size, stride)
        else:
            self.depthwise = ConvNorm(net, "depthwise", inputs, inputs, formulation, size, stride)
            self.pointwise = ConvNorm(net, "pointwise", inputs, block.channels, formulation)

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

    def __init__(self, net: Network, block: Block, inputs: int, formulation: str):
        self.act, self.shortcut = ACTIVATIONS[net.act], net.shortcut
        if block.expand:
            self.expand = ConvNorm(net, "pointwise", inputs, block.expanded, formulation)
        kind, size = "dense" if net.conv == "full" else "depthwise", net.kernel_size
        self.depthwise = ConvNorm(net, kind, block.expanded, block.expanded, formulation, size, block.stride)
        self.project = ConvNorm(net, "pointwise", block.expanded, block.channels, formulation)

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
