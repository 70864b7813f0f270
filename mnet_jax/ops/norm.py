"""Batch normalization with the clip that follows: linear, ReLU and ReLU6 differ in the bounds only."""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from mnet_jax.errors import UserError
from mnet_jax.ops import ACCUMULATOR_BYTES, UNROLL, accumulator, native
from mnet_jax.ops.formulation import kernels

Bound = float | jax.Array

Normalized = tuple[jax.Array, jax.Array, jax.Array]
"""y_GMC in x's type; mean_G1C and biased var_G1C."""

LOOP_BYTES = 2 << 20  # arrays below stay in a core's caches, and their sums are not worth a loop to compile


def batch_norm_act(
    x_BHWC: jax.Array,
    scale_C: jax.Array,
    bias_C: jax.Array,
    low: Bound,
    high: Bound,
    eps: float,
    group: int,
    formulation: str,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalizes by the statistics of the batch, then clips to [low, high].

    Statistics are those of `group` consecutive samples, 0 = the whole batch, in float32 or wider; a batch that `group`
    does not divide is a UserError. Where no group lies on two shards of the batch, y_BHWC and the gradient to x need no
    communication.
    The bounds may be traced; the gradient of the clip is `(low < y) & (y < high)`, zero at the bounds as ReLU6
    has it. Returns y_BHWC in x's type, then mean_C and biased var_C, averaged over the groups; no gradient flows
    through those two.

    `formulation` is a word of `formulation.resolve`.
    """
    B, _, _, C = x_BHWC.shape
    x_GMC = x_BHWC.reshape(number_of_groups(B, group), -1, C)
    low, high = (jnp.asarray(bound, accumulator(x_BHWC.dtype)) for bound in (low, high))
    choice = kernels(formulation, x_BHWC.dtype)
    if choice.norm == "lax":
        y_GMC, mean_G1C, var_G1C = _plain(x_GMC, scale_C, bias_C, low, high, eps)
    elif choice.norm == "native":
        scale_C, bias_C = scale_C.astype(x_BHWC.dtype), bias_C.astype(x_BHWC.dtype)
        y_GMC, mean_G1C, var_G1C = _native(x_GMC, scale_C, bias_C, low, high, eps)
    else:
        y_GMC, mean_G1C, var_G1C = _fused(x_GMC, scale_C, bias_C, low, high, eps, choice.loops)
    mean_C, var_C = (lax.stop_gradient(jnp.mean(moment, (0, 1))) for moment in (mean_G1C, var_G1C))
    return y_GMC.reshape(x_BHWC.shape), mean_C, var_C


def number_of_groups(batch: int, group: int, data_shards: int = 1) -> int:
    """Of a batch on `data_shards` devices, in groups of `group` samples each; 0 = one group.

    Raises UserError where `group` does not divide the batch, or where of groups and shards neither number divides the
    other: XLA would gather the batch.
    """
    if group < 0 or batch % (group or batch):
        raise UserError(f"norm group {group} does not divide the batch of {batch}; 0 takes the whole batch")
    groups = batch // (group or batch)
    if groups % data_shards and data_shards % groups:
        raise UserError(
            f"{groups} norm groups on {data_shards} data shards: allowed are numbers that divide one another"
        )
    return groups


def normalized(
    x_BHWC: jax.Array,
    scale_C: jax.Array,
    bias_C: jax.Array,
    low: jax.Array,
    high: jax.Array,
    eps: float,
    group: int,
) -> jax.Array:
    """y_BHWC of `batch_norm_act` in plain JAX on one CPU, where `group` divides the batch and the bounds are arrays."""
    x_GMC = x_BHWC.reshape(x_BHWC.shape[0] // group, -1, x_BHWC.shape[3])
    return _fused(x_GMC, scale_C, bias_C, low, high, eps, True)[0].reshape(x_BHWC.shape)


def affine(
    scale_C: jax.Array, bias_C: jax.Array, mean_C: jax.Array, var_C: jax.Array, eps: float
) -> tuple[jax.Array, jax.Array]:
    """(gain_C, shift_C) such that normalizing x by given statistics is x * gain + shift; in float32 or wider."""
    dtype = accumulator(scale_C.dtype)
    scale_C, bias_C, mean_C, var_C = (v.astype(dtype) for v in (scale_C, bias_C, mean_C, var_C))
    gain_C = scale_C * lax.rsqrt(var_C + eps)
    return gain_C, bias_C - mean_C * gain_C


def affine_act(x_BHWC: jax.Array, gain_C: jax.Array | None, shift_C: jax.Array, low: Bound, high: Bound) -> jax.Array:
    """x * gain + shift, clipped to [low, high], in x's type; `gain_C` None is 1: folded into what made x."""
    dtype = accumulator(x_BHWC.dtype)
    z_BHWC = x_BHWC.astype(dtype)
    if gain_C is not None:
        z_BHWC = z_BHWC * gain_C.astype(dtype)[None, None, None]
    z_BHWC = z_BHWC + shift_C.astype(dtype)[None, None, None]
    return jnp.clip(z_BHWC, jnp.asarray(low, dtype), jnp.asarray(high, dtype)).astype(x_BHWC.dtype)


def _block(x_GMC: jax.Array) -> int:
    """Rows that an iteration of a loop over x_GMC takes, such that UNROLL divides the iterations; 0 = no loop."""
    G, M, C = x_GMC.shape
    if x_GMC.size * x_GMC.dtype.itemsize < LOOP_BYTES:
        return 0
    most = ACCUMULATOR_BYTES // (G * C * accumulator(x_GMC.dtype).itemsize)
    return max((rows for rows in range(most // 4 + 1, most + 1) if M % (rows * UNROLL) == 0), default=0)


def _sum_rows(terms: Callable, loops: bool, *arrays_GMC: jax.Array) -> list[jax.Array]:
    """Sums of the arrays that `terms` makes of rows, each [G, 1, C].

    With `loops`, large arrays are summed in a loop over blocks of rows: one pass that writes nothing, since XLA:CPU
    would write out what it then sums.
    """
    first_GMC = arrays_GMC[0]
    (G, M, C), rows, dtype = first_GMC.shape, _block(first_GMC) if loops else 0, accumulator(first_GMC.dtype)
    if not rows:
        return [jnp.sum(term, 1, keepdims=True) for term in terms(*arrays_GMC)]

    def add(index: jax.Array, sums: list[jax.Array]) -> list[jax.Array]:
        blocks = (lax.dynamic_slice_in_dim(array, index * rows, rows, 1) for array in arrays_GMC)
        return [total + term for total, term in zip(sums, terms(*blocks), strict=True)]

    count = len(jax.eval_shape(terms, *arrays_GMC))
    sums = lax.fori_loop(0, M // rows, add, [jnp.zeros((G, rows, C), dtype)] * count, unroll=UNROLL)
    return [jnp.sum(total, 1, keepdims=True) for total in sums]


def _moments(x_GMC: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and variance, [G, 1, C] each, in the accumulator's type."""
    x_GMC = x_GMC.astype(accumulator(x_GMC.dtype))
    mean_G1C = jnp.mean(x_GMC, 1, keepdims=True)
    return mean_G1C, jnp.mean(jnp.square(x_GMC - mean_G1C), 1, keepdims=True)


def _moments_in_one_pass(x_GMC: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The same, from the sums of x - c and its square.

    c is the first row: a sample, so at most M variances from the mean, squared. The difference below therefore rounds
    to within M units in the last place of the variance at the very worst, however large the mean is.
    """
    first_G1C = x_GMC[:, :1].astype(accumulator(x_GMC.dtype))

    def powers(x_GMC: jax.Array) -> tuple[jax.Array, jax.Array]:
        x_GMC = x_GMC.astype(first_G1C.dtype) - first_G1C
        return x_GMC, jnp.square(x_GMC)

    offset_G1C, square_G1C = (total / x_GMC.shape[1] for total in _sum_rows(powers, True, x_GMC))
    return first_G1C + offset_G1C, jnp.maximum(square_G1C - jnp.square(offset_G1C), 0)


def _normal(x_GMC: jax.Array, mean_G1C: jax.Array, var_G1C: jax.Array, eps: float) -> jax.Array:
    return (x_GMC.astype(mean_G1C.dtype) - mean_G1C) * lax.rsqrt(var_G1C + eps)


def _affine(normal_GMC: jax.Array, scale_C: jax.Array, bias_C: jax.Array) -> jax.Array:
    scale_C, bias_C = (v.astype(normal_GMC.dtype)[None, None] for v in (scale_C, bias_C))
    return normal_GMC * scale_C + bias_C


def _inside(y: jax.Array, low: jax.Array, high: jax.Array) -> jax.Array:
    """Where the clip that gave y lets gradient through."""
    return (low.astype(y.dtype) < y) & (y < high.astype(y.dtype))


def _plain(
    x_GMC: jax.Array, scale_C: jax.Array, bias_C: jax.Array, low: jax.Array, high: jax.Array, eps: float
) -> Normalized:
    mean_G1C, var_G1C = _moments(x_GMC)
    z_GMC = _affine(_normal(x_GMC, mean_G1C, var_G1C, eps), scale_C, bias_C)
    y_GMC = lax.stop_gradient(jnp.clip(z_GMC, low, high).astype(x_GMC.dtype))
    y_GMC = jnp.where(_inside(y_GMC, low, high), z_GMC.astype(x_GMC.dtype), y_GMC)
    return y_GMC, mean_G1C, var_G1C


@partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _fused(
    x_GMC: jax.Array, scale_C: jax.Array, bias_C: jax.Array, low: jax.Array, high: jax.Array, eps: float, loops: bool
) -> Normalized:
    return _forward(x_GMC, scale_C, bias_C, low, high, eps, loops)[0]


def _forward(
    x_GMC: jax.Array, scale_C: jax.Array, bias_C: jax.Array, low: jax.Array, high: jax.Array, eps: float, loops: bool
) -> tuple[Normalized, tuple[jax.Array, ...]]:
    mean_G1C, var_G1C = (_moments_in_one_pass if loops and _block(x_GMC) else _moments)(x_GMC)
    z_GMC = _affine(_normal(x_GMC, mean_G1C, var_G1C, eps), scale_C, bias_C)
    y_GMC = jnp.clip(z_GMC, low, high).astype(x_GMC.dtype)
    return (y_GMC, mean_G1C, var_G1C), (x_GMC, mean_G1C, var_G1C, scale_C, bias_C, low, high)


def _backward(
    eps: float, loops: bool, residuals: tuple[jax.Array, ...], cotangents: tuple[jax.Array, ...]
) -> tuple[jax.Array, ...]:
    x_GMC, mean_G1C, var_G1C, scale_C, bias_C, low, high = residuals
    dy_GMC = lax.optimization_barrier(cotangents[0])  # else XLA:CPU computes it anew in each of its three uses
    gradients = _gradients(x_GMC, dy_GMC, mean_G1C, var_G1C, scale_C, bias_C, low, high, eps, loops)
    return *gradients, jnp.zeros_like(low), jnp.zeros_like(high)


def _gradients(
    x_GMC: jax.Array,
    dy_GMC: jax.Array,
    mean_G1C: jax.Array,
    var_G1C: jax.Array,
    scale_C: jax.Array,
    bias_C: jax.Array,
    low: jax.Array,
    high: jax.Array,
    eps: float,
    loops: bool,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The gradients to x, scale and bias."""

    def terms(x_GMC: jax.Array, dy_GMC: jax.Array) -> tuple[jax.Array, jax.Array]:
        normal_GMC = _normal(x_GMC, mean_G1C, var_G1C, eps)
        inside_GMC = _inside(_affine(normal_GMC, scale_C, bias_C).astype(x_GMC.dtype), low, high)
        dy_GMC = dy_GMC.astype(normal_GMC.dtype)
        # The mask goes last: XLA:CPU sums a bare product 70 times slower where an axis before M has length 1.
        return jnp.where(inside_GMC, dy_GMC, 0), jnp.where(inside_GMC, dy_GMC * normal_GMC, 0)

    dbias_G1C, dscale_G1C = _sum_rows(terms, loops, x_GMC, dy_GMC)
    gain_G1C = scale_C.astype(mean_G1C.dtype)[None, None] * lax.rsqrt(var_G1C + eps)
    normal_GMC = _normal(x_GMC, mean_G1C, var_G1C, eps)
    M = x_GMC.shape[1]
    # The sums are divided before they meet the rows: XLA:CPU divides as often as it is told to.
    dx_GMC = gain_G1C * (terms(x_GMC, dy_GMC)[0] - dbias_G1C / M - normal_GMC * (dscale_G1C / M))
    return (
        dx_GMC.astype(x_GMC.dtype),
        jnp.sum(dscale_G1C, (0, 1)).astype(scale_C.dtype),
        jnp.sum(dbias_G1C, (0, 1)).astype(bias_C.dtype),
    )


_fused.defvjp(_forward, _backward)


def _native(
    x_GMC: jax.Array, scale_C: jax.Array, bias_C: jax.Array, low: jax.Array, high: jax.Array, eps: float
) -> Normalized:
    """`_fused`, compiled."""
    attributes = {"eps": eps}

    # The arguments and results of the two calls are in the order in which native.cc names them.
    def forward(x_GMC: jax.Array, *parameters: jax.Array) -> list[jax.Array]:
        G, _, C = x_GMC.shape
        results = [jax.ShapeDtypeStruct(shape, x_GMC.dtype) for shape in (x_GMC.shape, (G, 1, C), (G, 1, C))]
        return native.call("norm", results, x_GMC, *parameters, attributes=attributes)

    def backward(operands: Sequence[jax.Array], moments: Sequence[jax.Array], dy_GMC: jax.Array) -> list[jax.Array]:
        results = [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in operands[:3]]
        arrays = (*operands, *moments, dy_GMC)
        dy_becomes_dx = {len(arrays) - 1: 0}
        return native.call("norm_gradient", results, *arrays, attributes=attributes, in_place=dy_becomes_dx)

    operation = native.differentiable(forward, backward, lambda *operands: _fused(*operands, eps, True)[0])
    return operation(x_GMC, scale_C, bias_C, low, high)
