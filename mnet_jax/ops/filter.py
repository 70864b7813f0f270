"""A depthwise convolution between two norms, as one compiled operation.

The maps between its input and output are the widest of a network, and passes over them what a step on a CPU waits for.
Forward, the input is read twice and the convolution's output written once, whose moments come with it, and read once.
What the first norm makes, and the gradients to it and to the convolution's output, are never in memory.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mnet_jax.ops import depthwise, native, norm
from mnet_jax.ops.depthwise import Padding, output_size
from mnet_jax.ops.norm import Bound

Moments = tuple[jax.Array, jax.Array]


class Affine(NamedTuple):
    """The parameters of a norm."""

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
) -> tuple[jax.Array, Moments, Moments]:
    """`norm.batch_norm_act`, `depthwise.depthwise` and `norm.batch_norm_act` again, where `native.serves`.

    Returns y_BHWC, and (mean_C, var_C) of x and of what the second norm takes, as `batch_norm_act` does.
    """
    B, _, _, C = x_BHWC.shape
    group, dtype, size = group or B, x_BHWC.dtype, output_size(x_BHWC.shape[1:3], kernel_KKC.shape[:2], stride, padding)
    shape, groups = (B, *size, C), B // group
    integers = {"group": group, "top": padding[0][0], "left": padding[1][0], "stride": stride}
    attributes = {name: np.int64(value) for name, value in integers.items()} | {"eps": np.float64(eps)}

    def forward(*operands):
        moment = (groups, 1, C)
        results = [jax.ShapeDtypeStruct(size, dtype) for size in (shape, shape, *[moment] * 4)]
        return native.call("filter", results, *operands, attributes=attributes)

    def backward(operands, saved, dy_BHWC):
        results = [jax.ShapeDtypeStruct(array.shape, dtype) for array in operands[:6]]
        return native.call("filter_gradient", results, *operands, *saved, dy_BHWC, attributes=attributes)

    def plain(x_BHWC, scale_C, bias_C, kernel_KKC, outer_scale_C, outer_bias_C, low, high):
        h_BHWC = norm.normalized(x_BHWC, scale_C, bias_C, low, high, eps, group)
        y_BHWC = depthwise.depthwise(h_BHWC, kernel_KKC, stride, padding, "shift")
        return norm.normalized(y_BHWC, outer_scale_C, outer_bias_C, low, high, eps, group)

    operands = (x_BHWC, *inner, kernel_KKC, *outer, low, high)
    y_BHWC, _, *moments = native.differentiable(forward, backward, plain)(*(jnp.asarray(a, dtype) for a in operands))
    mean_C, var_C, outer_mean_C, outer_var_C = (jax.lax.stop_gradient(jnp.mean(moment, (0, 1))) for moment in moments)
    return y_BHWC, (mean_C, var_C), (outer_mean_C, outer_var_C)
