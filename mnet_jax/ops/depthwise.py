"""Depthwise convolution, and the spatial arithmetic (padding, taps) that every convolution shares."""

from collections.abc import Sequence
from functools import partial, reduce

import jax
import jax.numpy as jnp
from jax import lax

from mnet_jax.errors import UserError
from mnet_jax.ops import ACCUMULATOR_BYTES, UNROLL, accumulator, native, pallas
from mnet_jax.ops.bilinear import Geometry
from mnet_jax.ops.formulation import kernels

Padding = tuple[tuple[int, int], tuple[int, int]]  # (before, after) of the rows, then of the columns


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's "SAME": ceil(size / stride) outputs, an odd pixel of padding goes after."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def symmetric_padding(kernel: int) -> tuple[int, int]:
    """(kernel - 1) // 2 on each side, whatever the size and the stride."""
    return (kernel - 1) // 2, (kernel - 1) // 2


def pads(hw: Sequence[int], kernel: int, stride: int, style: str) -> Padding:
    """Explicit padding of an (H, W) input; `style` is "same" or "symmetric", anything else a UserError."""
    if style == "same":
        return same_padding(hw[0], kernel, stride), same_padding(hw[1], kernel, stride)
    if style == "symmetric":
        return symmetric_padding(kernel), symmetric_padding(kernel)
    raise UserError(f"padding={style!r}: allowed are same, symmetric")


def output_size(
    hw: Sequence[int], kernel: Sequence[int], stride: int, padding: Padding, dilation: int = 1
) -> tuple[int, int]:
    """(H, W) after a convolution; a kernel whose reach exceeds the padded input is a UserError."""
    reach = [(k - 1) * dilation + 1 for k in kernel]
    room = [n + lo + hi - k for n, k, (lo, hi) in zip(hw, reach, padding, strict=True)]
    if min(room) < 0:
        raise UserError(f"kernel {tuple(reach)} is larger than input {tuple(hw)} with padding {padding}")
    return room[0] // stride + 1, room[1] // stride + 1


def pad(x_BHWC: jax.Array, padding: Padding) -> jax.Array:
    """Zeros around the rows and columns."""
    rows, columns = ((lo, hi, 0) for lo, hi in padding)
    return lax.pad(x_BHWC, jnp.zeros((), x_BHWC.dtype), ((0, 0, 0), rows, columns, (0, 0, 0)))


def window(x_BHWC: jax.Array, corner: tuple[int, int], size: Sequence[int], stride: int) -> jax.Array:
    """Every `stride`-th row and column from `corner` on: [B, *size, C]."""
    B, _, _, C = x_BHWC.shape
    (i, j), (rows, columns) = corner, size
    end = (B, i + stride * (rows - 1) + 1, j + stride * (columns - 1) + 1, C)
    return lax.slice(x_BHWC, (0, i, j, 0), end, (1, stride, stride, 1))


GPU = {
    "large, stride 1": "lax",
    "large, stride 2": "lax",
    "small, stride 1": "lax",
    "small, stride 2": "lax",
}
"""What computes on one GPU if the formulation is "auto", by `shape_class`.

`python -m mnet_jax.bench --part depthwise` measures it.
"""


def shape_class(height: int, stride: int) -> str:
    """The class of a layer by the rows of its input."""
    return f"{'large' if height >= 28 else 'small'}, stride {min(stride, 2)}"


def resolved(formulation: str, dtype: jnp.dtype) -> str:
    """The kernels that compute layers of every class, with a comma between them."""
    return ", ".join(dict.fromkeys(layer_kernel(formulation, dtype, of) for of in GPU))


def layer_kernel(formulation: str, dtype: jnp.dtype, of: str) -> str:
    """What computes a layer of a class: "lax", "shift", "native" or "pallas"."""
    kernel = kernels(formulation, dtype).depthwise
    return GPU[of] if kernel == "table" else kernel


def depthwise(
    x_BHWC: jax.Array, kernel_KKC: jax.Array, stride: int, padding: Padding, formulation: str, dilation: int = 1
) -> jax.Array:
    """Convolves each channel with its own kernel (Howard et al. 2017, equation 3).

    The kernel's elements meet pixels `dilation` apart (Chen et al. 2017, equation 1).

    `formulation` is a word of `formulation.resolve`. Channels that differ, a kernel larger than the padded input, or a
    formulation that cannot be had, are a UserError.
    """
    if x_BHWC.shape[-1] != kernel_KKC.shape[-1]:
        raise UserError(f"input {x_BHWC.shape} and depthwise kernel {kernel_KKC.shape} differ in channels")
    assert x_BHWC.dtype == kernel_KKC.dtype, (x_BHWC.dtype, kernel_KKC.dtype)
    size = output_size(x_BHWC.shape[1:3], kernel_KKC.shape[:2], stride, padding, dilation)
    kernel = layer_kernel(formulation, x_BHWC.dtype, shape_class(x_BHWC.shape[1], stride))
    if kernel in ("native", "pallas"):
        shapes = x_BHWC.shape, kernel_KKC.shape, (x_BHWC.shape[0], *size, x_BHWC.shape[3])
        geometry = Geometry(shapes, padding[0][0], padding[1][0], stride, dilation)
        return (native if kernel == "native" else pallas).depthwise(x_BHWC, kernel_KKC, geometry)
    if kernel == "shift":
        return _shift(x_BHWC, kernel_KKC, stride, padding, dilation, kernels(formulation, x_BHWC.dtype).loops)
    return lax.conv_general_dilated(
        x_BHWC,
        kernel_KKC[:, :, None],
        (stride, stride),
        padding,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x_BHWC.shape[-1],
    )


Taps = list[tuple[int, int, jax.Array]]
"""[(i, j, x_BHWC)]: what the kernel's element (i, j) meets."""


def _weighted_sum(terms: Taps, kernel_KKC: jax.Array) -> jax.Array:
    """Sum of kernel[i, j] * x over the terms (i, j, x), rounded to x's type once."""
    k_1KKC = kernel_KKC[None].astype(accumulator(kernel_KKC.dtype))
    products = (x_BHWC.astype(k_1KKC.dtype) * k_1KKC[:, i : i + 1, j : j + 1] for i, j, x_BHWC in terms)
    return reduce(jnp.add, products).astype(kernel_KKC.dtype)


def _taps(
    x_BHWC: jax.Array,
    kernel: tuple[int, ...],
    size: Sequence[int],
    stride: int,
    padding: Padding,
    dilation: int,
) -> Taps:
    """Of a kernel (rows, columns), each of the output's `size` (H, W)."""
    padded_BHWC = pad(x_BHWC, padding)
    elements = [(i, j) for i in range(kernel[0]) for j in range(kernel[1])]
    return [(i, j, window(padded_BHWC, (i * dilation, j * dilation), size, stride)) for i, j in elements]


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5))
def _shift(
    x_BHWC: jax.Array, kernel_KKC: jax.Array, stride: int, padding: Padding, dilation: int, loops: bool
) -> jax.Array:
    kernel = kernel_KKC.shape[:2]
    size = output_size(x_BHWC.shape[1:3], kernel, stride, padding, dilation)
    return _weighted_sum(_taps(x_BHWC, kernel, size, stride, padding, dilation), kernel_KKC)


def _forward(
    x_BHWC: jax.Array, kernel_KKC: jax.Array, stride: int, padding: Padding, dilation: int, loops: bool
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _shift(x_BHWC, kernel_KKC, stride, padding, dilation, loops), (x_BHWC, kernel_KKC)


def _backward(
    stride: int,
    padding: Padding,
    dilation: int,
    loops: bool,
    residuals: tuple[jax.Array, jax.Array],
    dy_BHWC: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    x_BHWC, kernel_KKC = residuals
    dx_BHWC = _input_gradient(dy_BHWC, kernel_KKC, stride, padding, dilation, x_BHWC.shape[1:3])
    kernel_gradient = _kernel_gradient_by_rows if loops else _kernel_gradient
    return dx_BHWC, kernel_gradient(x_BHWC, dy_BHWC, stride, padding, dilation, kernel_KKC.shape[:2])


_shift.defvjp(_forward, _backward)


def _phases(
    kernel: int, stride: int, dilation: int, lo: int, size: int, out: int
) -> tuple[tuple[int, int], list[list[tuple[int, int]]]]:
    """One axis of the input gradient: the padding of dy (less than 0 crops), and what each phase takes from it.

    Phase a holds the `size` positions p = stride * q + a. Output o used position p with tap i where
    stride * o + dilation * i - lo = p: so o = q + (a + lo - dilation * i) / stride for the i that leave no
    remainder. A phase is the list of its (i, o at q = 0), counted in the padded dy.
    """
    phases = [
        [(i, (a + lo - dilation * i) // stride) for i in range(kernel) if (a + lo - dilation * i) % stride == 0]
        for a in range(stride)
    ]
    offsets = [o for phase in phases for _, o in phase]
    first = min(offsets)
    return (-first, size + max(offsets) - out), [[(i, o - first) for i, o in phase] for phase in phases]


def _input_gradient(
    dy_BHWC: jax.Array, kernel_KKC: jax.Array, stride: int, padding: Padding, dilation: int, hw: tuple[int, ...]
) -> jax.Array:
    """Gradient to the input: each phase (row and column modulo the stride) sums shifted dy; they interleave."""
    B, *out, C = dy_BHWC.shape
    size = -(-hw[0] // stride), -(-hw[1] // stride)
    (dy_rows, rows), (dy_columns, columns) = (
        _phases(kernel_KKC.shape[axis], stride, dilation, padding[axis][0], size[axis], out[axis]) for axis in (0, 1)
    )
    padded_BHWC = pad(dy_BHWC, (dy_rows, dy_columns))

    def phase(row: list[tuple[int, int]], column: list[tuple[int, int]]) -> jax.Array:
        terms = [(i, j, window(padded_BHWC, (o, p), size, 1)) for i, o in row for j, p in column]
        return _weighted_sum(terms, kernel_KKC) if terms else jnp.zeros((B, *size, C), dy_BHWC.dtype)

    # Columns interleave first, then rows: with vmap's axes XLA:CPU crashes on arrays of rank 7 (jax#39257).
    bands = [
        jnp.stack([phase(row, column) for column in columns], 3).reshape(B, size[0], size[1] * stride, C)
        for row in rows
    ]
    dx_BHWC = jnp.stack(bands, 2).reshape(B, size[0] * stride, size[1] * stride, C)
    return dx_BHWC[:, : hw[0], : hw[1]]


def _kernel_gradient(
    x_BHWC: jax.Array, dy_BHWC: jax.Array, stride: int, padding: Padding, dilation: int, kernel: tuple[int, ...]
) -> jax.Array:
    """Gradient to the kernel, as a sum per tap."""
    taps = _taps(x_BHWC, kernel, dy_BHWC.shape[1:3], stride, padding, dilation)
    dtype = accumulator(x_BHWC.dtype)
    sums = [jnp.sum(x_BHWC.astype(dtype) * dy_BHWC.astype(dtype), (0, 1, 2)) for _, _, x_BHWC in taps]
    return jnp.stack(sums).reshape(*kernel, -1).astype(x_BHWC.dtype)


def _kernel_gradient_by_rows(
    x_BHWC: jax.Array, dy_BHWC: jax.Array, stride: int, padding: Padding, dilation: int, kernel: tuple[int, ...]
) -> jax.Array:
    """The same in a loop over image blocks and output rows, whose arrays stay in the caches.

    One sum per column of the kernel, [block, K, Wo, C]: the K input rows that meet an output row go in at once.
    """
    padded_BHWC = pad(x_BHWC, padding)
    B, rows, columns, C = dy_BHWC.shape
    dtype = accumulator(dy_BHWC.dtype)
    most = max(1, ACCUMULATOR_BYTES // (kernel[0] * columns * C * dtype.itemsize))
    block = max(n for n in range(1, B + 1) if B % n == 0 and n <= most)
    reach = (kernel[0] - 1) * dilation + 1

    def accumulate(step: jax.Array, sums: list[jax.Array]) -> list[jax.Array]:
        image, row = step // rows * block, step % rows
        dy = lax.dynamic_slice(dy_BHWC, (image, row, 0, 0), (block, 1, columns, C)).astype(dtype)
        x = lax.dynamic_slice(padded_BHWC, (image, row * stride, 0, 0), (block, reach, padded_BHWC.shape[2], C))
        x = lax.slice_in_dim(x, 0, reach, dilation, 1).astype(dtype)
        end = stride * (columns - 1) + 1
        return [
            total + lax.slice_in_dim(x, j * dilation, j * dilation + end, stride, 2) * dy
            for j, total in enumerate(sums)
        ]

    zeros = jnp.zeros((block, kernel[0], columns, C), dtype)
    sums = lax.fori_loop(0, B // block * rows, accumulate, [zeros] * kernel[1], unroll=UNROLL)
    return jnp.stack([jnp.sum(total, (0, 2)) for total in sums], 1).astype(dy_BHWC.dtype)
