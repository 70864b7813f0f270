"""Depthwise convolution as Triton kernels, written in Pallas: a formulation for GPUs.

A program owns a tile of pixels and a block of channels; every tap is one masked load, so nothing is padded, and each
array is read from memory about once: what taps share they find in the cache. Sums are in float32 (float64 of float64).
"""

import functools
import importlib.util
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mnet_jax.ops import accumulator
from mnet_jax.ops.bilinear import KERNEL, Geometry, X, Y, derivative

PIXELS = 64  # of a tile, a square of 8 x 8
CHANNELS = 64  # of a block, at most
LANES = 512  # elements of a tile that a warp has: 16 a thread, whose loads are 16 bytes wide
SUMS = 9216  # that a program of the kernel's gradient holds: 72 registers of each of its threads
PROGRAMS = 1024  # that the kernel's gradient is cut into, about: several for each multiprocessor
WARPS = 4  # of such a program

Phase = Sequence[tuple[int, int]]
"""What outputs at up * q + a take of one axis: (i, o) for kernel[i] and in[down * q + o]."""


def unavailable() -> str:
    """Why the kernels cannot be had, or ""."""
    if jax.default_backend() != "gpu":
        return f"the platform is {jax.default_backend()}, not gpu"
    if not importlib.util.find_spec("jax.experimental.pallas.triton"):
        return f"jax {jax.__version__} has no Pallas for Triton, which 0.11 deprecates"
    return ""


def depthwise(x_BHWC: jax.Array, kernel_KKC: jax.Array, geometry: Geometry) -> jax.Array:
    """y_BHWC; differentiable any number of times. On a CPU the kernels are interpreted, to be tested."""
    return derivative(_compute, Y, geometry, x_BHWC, kernel_KKC)


def _compute(wrt: int, geometry: Geometry, a: jax.Array, b: jax.Array) -> jax.Array:
    (x_shape, kernel_shape, y_shape), top, left, stride, dilation = geometry
    assert max(math.prod(x_shape), math.prod(y_shape)) < 2**31, geometry  # offsets are of 32 bits
    if wrt == KERNEL:
        return _kernel_gradient(a, b, kernel_shape, top, left, stride, dilation)
    sides = (top, kernel_shape[0]), (left, kernel_shape[1])
    if wrt == X:
        rows, columns = (_phases(size, lo, stride, dilation) for lo, size in sides)
        return _gather(b, a, x_shape, rows, columns, 1)
    rows, columns = ([[(i, i * dilation - lo) for i in range(size)]] for lo, size in sides)
    return _gather(a, b, y_shape, rows, columns, stride)


def _phases(size: int, lo: int, stride: int, dilation: int) -> list[Phase]:
    """One axis of the gradient to x: the taps of each of the `stride` phases."""
    return [
        [(i, (a + lo - i * dilation) // stride) for i in range(size) if (a + lo - i * dilation) % stride == 0]
        for a in range(stride)
    ]


def _gather(
    in_BHWC: jax.Array,
    kernel_KKC: jax.Array,
    out_shape: tuple[int, ...],
    rows: Sequence[Phase],
    columns: Sequence[Phase],
    down: int,
) -> jax.Array:
    """out[up * q + a] = sum of kernel[i] * in[down * q + o] over the (i, o) of phase a, of `up` phases an axis."""
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import triton

    B, H, W, C = in_BHWC.shape
    up, (_, out_rows, out_columns, _), dtype = len(rows), out_shape, accumulator(in_BHWC.dtype)
    side, block = math.isqrt(PIXELS), _block(C)
    high, wide, blocks = pl.cdiv(out_rows, up * side), pl.cdiv(out_columns, up * side), pl.cdiv(C, block)

    def program(in_ref, kernel_ref, out_ref):
        index, number = _divmod(pl.program_id(0), blocks)
        channel_C, channels_C = _channels(number, block, C)
        image, tile = _divmod(index, high * wide)
        row, column = _divmod(tile, wide)
        row_P, column_P = _divmod(lax.iota(jnp.int32, side * side), side)
        row_P, column_P = row * side + row_P, column * side + column_P

        def tap(i, row, j, column):
            offset_P, inside_P = _pixel(image, row_P * down + row, column_P * down + column, H, W)
            x_PC = _load(in_ref, offset_P, channel_C, C, inside_P, channels_C)
            k_C = triton.load(kernel_ref.at[(i * kernel_KKC.shape[1] + j) * C + channel_C], mask=channels_C, other=0)
            return x_PC.astype(dtype) * k_C.astype(dtype)[None, :]

        for a, of_row in enumerate(rows):
            for b, of_column in enumerate(columns):
                taps = [tap(i, row, j, column) for i, row in of_row for j, column in of_column]
                sum_PC = functools.reduce(jnp.add, taps) if taps else jnp.zeros((side * side, block), dtype)
                to_row_P, to_column_P = row_P * up + a, column_P * up + b
                inside_P = (to_row_P < out_rows) & (to_column_P < out_columns)
                where = (image, to_row_P[:, None], to_column_P[:, None], channel_C[None, :])
                mask_PC = inside_P[:, None] & channels_C[None, :]
                triton.store(out_ref.at[where], sum_PC.astype(in_BHWC.dtype), mask=mask_PC)

    shape, warps = jax.ShapeDtypeStruct(out_shape, in_BHWC.dtype), max(1, side * side * block // LANES)
    return _launch(program, B * high * wide * blocks, warps, shape, in_BHWC.reshape(-1), kernel_KKC.reshape(-1))


def _kernel_gradient(
    x_BHWC: jax.Array,
    dy_BHWC: jax.Array,
    kernel_shape: tuple[int, ...],
    top: int,
    left: int,
    stride: int,
    dilation: int,
) -> jax.Array:
    """Each program sums a run of output pixels; XLA then adds the programs up, always in the same order."""
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import triton

    _, H, W, C = x_BHWC.shape
    B, out_rows, out_columns, _ = dy_BHWC.shape
    total, dtype, taps = B * out_rows * out_columns, accumulator(x_BHWC.dtype), kernel_shape[0] * kernel_shape[1]
    block = _block(C)
    blocks, pixels = pl.cdiv(C, block), _power_of_two(max(1, SUMS // (taps * block)))
    turns = pl.cdiv(total, pixels * min(max(1, PROGRAMS // blocks), pl.cdiv(total, pixels)))
    runs = pl.cdiv(total, pixels * turns)

    def program(x_ref, dy_ref, sums_ref):
        run, number = _divmod(pl.program_id(0), blocks)
        channel_C, channels_C = _channels(number, block, C)

        def turn(count, sums):
            pixel_P = (run * turns + count) * pixels + lax.iota(jnp.int32, pixels)
            line_P, column_P = _divmod(pixel_P, out_columns)
            image_P, row_P = _divmod(line_P, out_rows)
            live_P = pixel_P < total
            dy_PC = _load(dy_ref, pixel_P, channel_C, C, live_P, channels_C).astype(dtype)
            added = []
            for number, sum_PC in enumerate(sums):
                i, j = divmod(number, kernel_shape[1])
                offset_P, inside_P = _pixel(
                    image_P, row_P * stride + i * dilation - top, column_P * stride + j * dilation - left, H, W
                )
                x_PC = _load(x_ref, offset_P, channel_C, C, inside_P & live_P, channels_C)
                added.append(sum_PC + x_PC.astype(dtype) * dy_PC)
            return tuple(added)

        sums = lax.fori_loop(np.int32(0), np.int32(turns), turn, (jnp.zeros((pixels, block), dtype),) * taps)
        for number, sum_PC in enumerate(sums):
            triton.store(sums_ref.at[run, number, channel_C], jnp.sum(sum_PC, 0), mask=channels_C)

    shape = jax.ShapeDtypeStruct((runs, taps, C), dtype)
    sums_RKC = _launch(program, runs * blocks, WARPS, shape, x_BHWC.reshape(-1), dy_BHWC.reshape(-1))
    return jnp.sum(sums_RKC, 0).reshape(kernel_shape).astype(x_BHWC.dtype)


def _power_of_two(number: int) -> int:
    """The largest that is not above."""
    return 1 << (number.bit_length() - 1)


def _divmod(number: jax.Array, by: int) -> tuple[jax.Array, jax.Array]:
    """Of numbers that are not negative: without the corrections of Python's, which would cost instructions."""
    return lax.div(number, np.int32(by)), lax.rem(number, np.int32(by))


def _block(channels: int) -> int:
    """Channels of a block: a power of two, which Triton asks for, that leaves few lanes idle."""
    return CHANNELS if channels % CHANNELS == 0 else min(32, _power_of_two(2 * channels - 1))


def _channels(number: jax.Array, block: int, channels: int) -> tuple[jax.Array, jax.Array]:
    """Those of a block, and which of them there are."""
    channel_C = number * block + lax.iota(jnp.int32, block)
    return channel_C, channel_C < channels


def _pixel(image, row_P, column_P, height, width):
    """Its number in the array, and whether it is in the image."""
    inside_P = (row_P >= 0) & (row_P < height) & (column_P >= 0) & (column_P < width)
    return (image * height + row_P) * width + column_P, inside_P


def _load(ref, pixel_P, channel_C, channels, inside_P, channels_C):
    """Pixels of a flat array [pixels * channels], zero where they are not inside."""
    from jax.experimental.pallas import triton

    offset_PC = (pixel_P * channels)[:, None] + channel_C[None, :]
    return triton.load(ref.at[offset_PC], mask=inside_P[:, None] & channels_C[None, :], other=0)


def _launch(
    program: Callable[..., None], programs: int, warps: int, shape: jax.ShapeDtypeStruct, *arrays: jax.Array
) -> jax.Array:
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import triton

    return pl.pallas_call(
        program,
        out_shape=shape,
        grid=(programs,),
        compiler_params=triton.CompilerParams(num_warps=warps),
        interpret=jax.default_backend() == "cpu",
    )(*arrays)
