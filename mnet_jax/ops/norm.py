"""Batch normalization with the clip that follows: linear, ReLU and ReLU6 differ in the bounds only."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from mnet_jax.ops import accumulator, choose, shards

Bound = float | jax.Array


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

    Statistics are those of `group` consecutive samples, 0 = the whole batch, in float32 or wider; a batch
    that `group` does not divide is a ValueError, and so are a number of groups and one of data shards where neither
    divides the other. Where no group lies on two shards, y_BHWC and the gradient to x need no communication.
    The bounds may be traced; the gradient of the clip is `(low < y) & (y < high)`, zero at the bounds as ReLU6
    has it. Returns y_BHWC in x's type, then mean_C and biased var_C, averaged over the groups; no gradient flows
    through those two.

    "lax" is plain arithmetic under autodiff; the others, on every platform, bring their own gradient.
    """
    B, _, _, C = x_BHWC.shape
    group = group or B
    if group < 0 or B % group:
        raise ValueError(f"norm group {group} does not divide the batch of {B}; 0 takes the whole batch")
    groups, data = B // group, shards("data")
    if groups % data and data % groups:
        raise ValueError(f"{groups} norm groups on {data} data shards: allowed are numbers that divide one another")
    x_GMC = x_BHWC.reshape(groups, -1, C)
    low, high = (jnp.asarray(bound, accumulator(x_BHWC.dtype)) for bound in (low, high))
    norm = _plain if choose(formulation, accelerator="shift") == "lax" else _fused
    y_GMC, mean_G1C, var_G1C = norm(x_GMC, scale_C, bias_C, low, high, eps)
    mean_C, var_C = (lax.stop_gradient(jnp.mean(moment, (0, 1))) for moment in (mean_G1C, var_G1C))
    return y_GMC.reshape(x_BHWC.shape), mean_C, var_C


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


def _normalize(x_GMC, scale_C, bias_C, eps):
    """(x - mean) / sqrt(var + eps) * scale + bias, with mean and var, all in the accumulator's type."""
    dtype = accumulator(x_GMC.dtype)
    x_GMC = x_GMC.astype(dtype)
    mean_G1C = jnp.mean(x_GMC, 1, keepdims=True)
    var_G1C = jnp.mean(jnp.square(x_GMC - mean_G1C), 1, keepdims=True)
    gain_G1C = scale_C.astype(dtype)[None, None] * lax.rsqrt(var_G1C + eps)
    return (x_GMC - mean_G1C) * gain_G1C + bias_C.astype(dtype)[None, None], mean_G1C, var_G1C


def _inside(y, low, high):
    """Where the clip that gave y lets gradient through."""
    return (low.astype(y.dtype) < y) & (y < high.astype(y.dtype))


def _plain(x_GMC, scale_C, bias_C, low, high, eps):
    z_GMC, mean_G1C, var_G1C = _normalize(x_GMC, scale_C, bias_C, eps)
    y_GMC = lax.stop_gradient(jnp.clip(z_GMC, low, high).astype(x_GMC.dtype))
    y_GMC = jnp.where(_inside(y_GMC, low, high), z_GMC.astype(x_GMC.dtype), y_GMC)
    return y_GMC, mean_G1C, var_G1C


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def _fused(x_GMC, scale_C, bias_C, low, high, eps):
    z_GMC, mean_G1C, var_G1C = _normalize(x_GMC, scale_C, bias_C, eps)
    return jnp.clip(z_GMC, low, high).astype(x_GMC.dtype), mean_G1C, var_G1C


def _forward(x_GMC, scale_C, bias_C, low, high, eps):
    out = y_GMC, mean_G1C, var_G1C = _fused(x_GMC, scale_C, bias_C, low, high, eps)
    return out, (x_GMC, y_GMC, mean_G1C, var_G1C, scale_C, bias_C, low, high)


def _backward(eps, residuals, cotangents):
    x_GMC, y_GMC, mean_G1C, var_G1C, scale_C, bias_C, low, high = residuals
    dtype = mean_G1C.dtype
    inside_GMC = _inside(y_GMC, low, high)
    dy_GMC = cotangents[0].astype(dtype)
    rstd_G1C = lax.rsqrt(var_G1C + eps)
    normal_GMC = (x_GMC.astype(dtype) - mean_G1C) * rstd_G1C
    dz_GMC = jnp.where(inside_GMC, dy_GMC, 0)
    dbias_G1C = jnp.sum(dz_GMC, 1, keepdims=True)
    # The mask goes last: XLA:CPU sums a bare product 70 times slower where an axis before M has length 1.
    dscale_G1C = jnp.sum(jnp.where(inside_GMC, dy_GMC * normal_GMC, 0), 1, keepdims=True)
    gain_G1C = scale_C.astype(dtype)[None, None] * rstd_G1C
    dx_GMC = gain_G1C * (dz_GMC - (dbias_G1C + normal_GMC * dscale_G1C) / x_GMC.shape[1])
    return (
        dx_GMC.astype(x_GMC.dtype),
        jnp.sum(dscale_G1C, (0, 1)).astype(scale_C.dtype),
        jnp.sum(dbias_G1C, (0, 1)).astype(bias_C.dtype),
        jnp.zeros_like(low),
        jnp.zeros_like(high),
    )


_fused.defvjp(_forward, _backward)
