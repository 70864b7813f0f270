"""Gradients of a depthwise convolution that is computed outside of XLA, to be differentiated any number of times."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax

X, KERNEL, Y = range(3)
"""The three arrays of sum(y * convolution(x, kernel)), which is linear in each of them."""


class Geometry(NamedTuple):
    """The shapes of x_BHWC, kernel_KKC and y_BHWC, the padding before rows and columns, stride and dilation."""

    shapes: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    top: int
    left: int
    stride: int
    dilation: int

    def numbers(self) -> dict[str, int]:
        """All but the shapes, by name."""
        return {name: value for name, value in self._asdict().items() if name != "shapes"}


Compute = Callable[[int, Geometry, jax.Array, jax.Array], jax.Array]
"""(wrt, geometry, a, b) -> what `derivative` returns."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def derivative(compute: Compute, wrt: int, geometry: Geometry, a: jax.Array, b: jax.Array) -> jax.Array:
    """The derivative of sum(y * convolution(x, kernel)) with respect to X, KERNEL or Y.

    `a` and `b` are the other two of x, kernel and y, in this order; the derivative with respect to Y is the convolution
    itself. As the sum is linear in each of the three, the gradient of such a derivative is another one of them, which
    `compute` computes as well.
    """
    return compute(wrt, geometry, a, b)


def _forward(
    compute: Compute, wrt: int, geometry: Geometry, a: jax.Array, b: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return derivative(compute, wrt, geometry, a, b), (a, b)


def _backward(
    compute: Compute, wrt: int, geometry: Geometry, residuals: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    first, second = (index for index in (X, KERNEL, Y) if index != wrt)
    arrays = {first: residuals[0], second: residuals[1], wrt: cotangent}

    def gradient(index: int) -> jax.Array:
        a, b = (arrays[other] for other in (X, KERNEL, Y) if other != index)
        return derivative(compute, index, geometry, a, b)

    return gradient(first), gradient(second)


derivative.defvjp(_forward, _backward)
