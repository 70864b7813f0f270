"""Gradients of a depthwise convolution that is computed outside of XLA: three operations, each the others' gradient."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax

X, KERNEL, Y = range(3)


class Geometry(NamedTuple):
    """The shapes of x_BHWC, kernel_KKC and y_BHWC, the padding before rows and columns, and the stride."""

    shapes: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    top: int
    left: int
    stride: int


Compute = Callable[[int, Geometry, jax.Array, jax.Array], jax.Array]
"""(role, geometry, a, b) -> what `contract` says."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def contract(compute: Compute, role: int, geometry: Geometry, a: jax.Array, b: jax.Array) -> jax.Array:
    """The gradient of sum(y * convolution(x, kernel)) to one of x, kernel and y, from the other two in this order.

    That sum is linear in each of the three, so each gradient of such a gradient is one of them again: what `compute`
    computes is differentiable any number of times.
    """
    return compute(role, geometry, a, b)


def _forward(compute, role, geometry, a, b):
    return contract(compute, role, geometry, a, b), (a, b)


def _backward(compute, role, geometry, residuals, cotangent):
    given = [other for other in (X, KERNEL, Y) if other != role]
    operands = dict(zip(given, residuals, strict=True)) | {role: cotangent}
    return tuple(
        contract(compute, other, geometry, *(operands[index] for index in sorted(operands) if index != other))
        for other in given
    )


contract.defvjp(_forward, _backward)
