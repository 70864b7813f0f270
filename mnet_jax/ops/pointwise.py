"""Convolutions that mix channels: 1x1, and full KxK."""

import jax
import jax.numpy as jnp
from jax import lax

from mnet_jax.ops import choose, shards
from mnet_jax.ops.depthwise import Padding, output_size, pad, window


def pointwise(x_BHWC: jax.Array, kernel_IO: jax.Array, formulation: str) -> jax.Array:
    """1x1 convolution: for "lax" as a convolution, otherwise, on every platform, as one matrix product."""
    if choose(formulation, accelerator="shift") == "lax":
        return dense_conv(x_BHWC, kernel_IO[None, None], 1, ((0, 0), (0, 0)), "lax")
    return (x_BHWC.reshape(-1, x_BHWC.shape[-1]) @ kernel_IO).reshape(*x_BHWC.shape[:-1], -1)


def dense_conv(
    x_BHWC: jax.Array, kernel_KKIO: jax.Array, stride: int, padding: Padding, formulation: str, dilation: int = 1
) -> jax.Array:
    """Full KxK convolution, whose kernel's elements meet pixels `dilation` apart.

    "lax" is XLA's; "shift" lays the taps side by side as channels and takes one matrix product; "auto", and "pallas",
    which has depthwise kernels only, are "shift" on a CPU or with seeds on the mesh, "lax" elsewhere. Channels that
    differ, a kernel larger than the padded input, or "lax" with seeds on the mesh, are a ValueError.
    """
    rows, columns, inputs, outputs = kernel_KKIO.shape
    if x_BHWC.shape[-1] != inputs:
        raise ValueError(f"input {x_BHWC.shape} and convolution kernel {kernel_KKIO.shape} differ in channels")
    size = output_size(x_BHWC.shape[1:3], (rows, columns), stride, padding, dilation)
    seeds = shards("seed")
    formulation = "auto" if formulation == "pallas" else formulation
    if choose(formulation, accelerator="lax" if seeds == 1 else "shift") == "lax":
        if seeds > 1:  # vmap makes of it one convolution of all seeds' channels
            raise ValueError(
                f"formulation='lax' with seeds on {seeds} devices: allowed are auto, shift; XLA would gather the seeds"
            )
        return lax.conv_general_dilated(
            x_BHWC,
            kernel_KKIO,
            (stride, stride),
            padding,
            rhs_dilation=(dilation, dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
    padded_BHWC = pad(x_BHWC, padding)
    taps = [
        window(padded_BHWC, (i * dilation, j * dilation), size, stride) for i in range(rows) for j in range(columns)
    ]
    return pointwise(jnp.concatenate(taps, -1), kernel_KKIO.reshape(-1, outputs), "shift")
