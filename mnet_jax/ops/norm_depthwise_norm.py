"""A depthwise convolution between two norms, as one compiled operation.

Its input and output are the widest arrays of a network, and a step on a CPU waits for the passes over them. Here the
forward pass reads x twice, writes the convolution's output y once, with y's moments, and reads it once. The first
norm's output, and the gradients to it and to y, are never in memory.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mnet_jax.ops import depthwise, native, norm
from mnet_jax.ops.bilinear import Geometry
from mnet_jax.ops.depthwise import Padding, output_size
from mnet_jax.ops.norm import Bound

Moments = tuple[jax.Array, jax.Array]
"""(mean_C, biased var_C), averaged over the groups of a norm."""


class Affine(NamedTuple):
    """The scale and the bias of a norm."""

    scale_C: jax.Array
    bias_C: jax.Array


def norm_depthwise_norm(
    x_BHWC: jax.Array,
    inner: Affine,
    kernel_KKC: jax.Array,
    outer: Affine,
    low: Bound,
    high: Bound,
    eps: float,
    group: int,
    stride: int,
    padding: Padding,
    dilation: int = 1,
) -> tuple[jax.Array, Moments, Moments]:
    """`norm.batch_norm_act`, `depthwise.depthwise` and `norm.batch_norm_act` again, in float32 or float64.

    The `inner` norm is the one of x, the `outer` one that of the convolution's output. Where "native" cannot be had
    there is no such operation. Returns z_BHWC, in x's type, and the moments of x and of the convolution's output.
    """
    B, _, _, C = x_BHWC.shape
    group, dtype = group or B, x_BHWC.dtype
    size = output_size(x_BHWC.shape[1:3], kernel_KKC.shape[:2], stride, padding, dilation)
    y_shape, groups = (B, *size, C), B // group
    geometry = Geometry((x_BHWC.shape, kernel_KKC.shape, y_shape), padding[0][0], padding[1][0], stride, dilation)
    attributes = {"eps": eps, "group": group} | geometry.numbers()

    # The arguments and results of the two calls are in the order in which native.cc names them.
    def forward(*operands: jax.Array) -> list[jax.Array]:
        moment = (groups, 1, C)  # z, y, mean and var, outer mean and var
        results = [jax.ShapeDtypeStruct(shape, dtype) for shape in (y_shape, y_shape, *[moment] * 4)]
        return native.call("norm_depthwise_norm", results, *operands, attributes=attributes)

    def backward(operands: Sequence[jax.Array], saved: Sequence[jax.Array], dz_BHWC: jax.Array) -> list[jax.Array]:
        results = [jax.ShapeDtypeStruct(array.shape, dtype) for array in operands[:6]]  # all but low and high
        return native.call("norm_depthwise_norm_gradient", results, *operands, *saved, dz_BHWC, attributes=attributes)

    def reference(
        x_BHWC: jax.Array,
        scale_C: jax.Array,
        bias_C: jax.Array,
        kernel_KKC: jax.Array,
        outer_scale_C: jax.Array,
        outer_bias_C: jax.Array,
        low: jax.Array,
        high: jax.Array,
    ) -> jax.Array:
        h_BHWC = norm.normalized(x_BHWC, scale_C, bias_C, low, high, eps, group)
        y_BHWC = depthwise.depthwise(h_BHWC, kernel_KKC, stride, padding, "shift", dilation)
        return norm.normalized(y_BHWC, outer_scale_C, outer_bias_C, low, high, eps, group)

    operation = native.differentiable(forward, backward, reference)
    operands = (jnp.asarray(array, dtype) for array in (x_BHWC, *inner, kernel_KKC, *outer, low, high))
    z_BHWC, _, *moments = operation(*operands)
    mean_C, var_C, outer_mean_C, outer_var_C = (jax.lax.stop_gradient(jnp.mean(moment, (0, 1))) for moment in moments)
    return z_BHWC, (mean_C, var_C), (outer_mean_C, outer_var_C)
