"""The layers that every network is made of."""

import jax
import jax.numpy as jnp
from flax import nnx

from mnet_jax.models.init import INITS, kernel
from mnet_jax.models.specs import Style
from mnet_jax.ops import depthwise, norm, pointwise
from mnet_jax.ops.depthwise import pads

Bounds = tuple[float | jax.Array, float | jax.Array]
"""(low, high) of the clip that is the activation, as in `specs.ACTIVATIONS`; numbers or traced scalars."""


class ConvNorm(nnx.Module):
    """Convolution without bias, batch norm, activation.

    `kind` is "dense" (kernel KxKxIxO), "pointwise" (IxO) or "depthwise" (KxKxC). The module has Flax's switch
    `use_running_average` (`model.train()`, `model.eval()`); in training mode a call updates `mean` and `var`.
    """

    def __init__(self, style: Style, kind: str, inputs: int, outputs: int, size: int = 1, stride: int = 1):
        shape, fan_in = {
            "dense": ((size, size, inputs, outputs), size * size * inputs),
            "pointwise": ((inputs, outputs), inputs),
            "depthwise": ((size, size, outputs), size * size),
        }[kind]
        self.style, self.kind, self.stride = style, kind, stride
        self.use_running_average = False
        self.kernel = kernel(shape, INITS[style.init].std(fan_in))
        self.scale = nnx.Param(jnp.ones(outputs, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(outputs, jnp.float32))
        self.mean = nnx.BatchStat(jnp.zeros(outputs, jnp.float32))
        self.var = nnx.BatchStat(jnp.ones(outputs, jnp.float32))

    def __call__(self, x_BHWC: jax.Array, bounds: Bounds) -> jax.Array:
        """Returns y_BHWC, clipped to `bounds` = (low, high)."""
        style, kernel = self.style, self.kernel[...]
        if self.kind == "pointwise":
            y_BHWC = pointwise.pointwise(x_BHWC, kernel, style.formulation)
        else:
            padding = pads(x_BHWC.shape[1:3], kernel.shape[0], self.stride, style.padding)
            convolve = depthwise.depthwise if self.kind == "depthwise" else pointwise.dense_conv
            y_BHWC = convolve(x_BHWC, kernel, self.stride, padding, style.formulation)
        scale, bias, (low, high), eps = self.scale[...], self.bias[...], bounds, style.norm_eps
        if self.use_running_average:
            return norm.norm_act_inference(y_BHWC, scale, bias, self.mean[...], self.var[...], low, high, eps)
        y_BHWC, mean, var = norm.batch_norm_act(
            y_BHWC, scale, bias, low, high, eps, style.norm_group, style.formulation
        )
        momentum = style.norm_momentum
        self.mean[...] = momentum * self.mean[...] + (1 - momentum) * mean
        self.var[...] = momentum * self.var[...] + (1 - momentum) * var
        return y_BHWC
