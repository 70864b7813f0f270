"""Convolutions that mix channels: 1x1, and full KxK."""

import jax
import jax.numpy as jnp
from jax import lax

from mnet_jax.errors import UserError
from mnet_jax.ops.depthwise import Padding, output_size, pad, window
from mnet_jax.ops.formulation import kernels


def pointwise(x_BHWC: jax.Array, kernel_IO: jax.Array, formulation: str) -> jax.Array:
    """1x1 convolution: y_BHWC, with as many channels as the kernel has outputs."""
    if kernels(formulation, x_BHWC.dtype).pointwise == "lax":
        return _lax(x_BHWC, kernel_IO[None, None], 1, ((0, 0), (0, 0)), 1)
    return _matmul(x_BHWC, kernel_IO)


def dense_conv(
    x_BHWC: jax.Array, kernel_KKIO: jax.Array, stride: int, padding: Padding, formulation: str, dilation: int = 1
) -> jax.Array:
    """Full KxK convolution, whose kernel's elements meet pixels `dilation` apart.

    Channels that differ, a kernel larger than the padded input, or a formulation that cannot be had, are a UserError.
    """
    rows, columns, inputs, outputs = kernel_KKIO.shape
    if x_BHWC.shape[-1] != inputs:
        raise UserError(f"input {x_BHWC.shape} and convolution kernel {kernel_KKIO.shape} differ in channels")
    size = output_size(x_BHWC.shape[1:3], (rows, columns), stride, padding, dilation)
    if kernels(formulation, x_BHWC.dtype).dense == "lax":
        return _lax(x_BHWC, kernel_KKIO, stride, padding, dilation)
    padded_BHWC = pad(x_BHWC, padding)
    elements = [(i * dilation, j * dilation) for i in range(rows) for j in range(columns)]
    taps = [window(padded_BHWC, corner, size, stride) for corner in elements]
    return _matmul(jnp.concatenate(taps, -1), kernel_KKIO.reshape(-1, outputs))


def _lax(x_BHWC: jax.Array, kernel_KKIO: jax.Array, stride: int, padding: Padding, dilation: int) -> jax.Array:
    return lax.conv_general_dilated(
        x_BHWC,
        kernel_KKIO,
        (stride, stride),
        padding,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _matmul(x_BHWC: jax.Array, kernel_IO: jax.Array) -> jax.Array:
    return (x_BHWC.reshape(-1, x_BHWC.shape[-1]) @ kernel_IO).reshape(*x_BHWC.shape[:-1], -1)
