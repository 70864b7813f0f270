"""Operations compiled from C++: the fastest formulation on a CPU, where a C++ compiler is installed."""

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mnet_jax.ops import library
from mnet_jax.ops.bilinear import Geometry, Y, derivative

TARGETS = ("depthwise", "norm", "norm_gradient", "norm_depthwise_norm", "norm_depthwise_norm_gradient")
"""The handlers that native.cc defines."""


def call(
    target: str,
    results: Any,
    *arrays: jax.Array,
    attributes: Mapping[str, int | float],
    in_place: Mapping[int, int] | None = None,
) -> Any:
    """Runs a compiled operation, where it is available; axes that vmap adds come first, in all of its arrays.

    Attributes that are int or float in Python are int64 and double in C++. `in_place` maps arrays to the results that
    take their memory, by their indices.
    """
    run = jax.ffi.ffi_call(
        f"mnet_jax_{target}", results, vmap_method="broadcast_all", input_output_aliases=dict(in_place or {})
    )
    to_numpy = {int: np.int64, float: np.float64}
    return run(*arrays, **{name: to_numpy[type(value)](value) for name, value in attributes.items()})


def differentiable(forward: Callable, backward: Callable, reference: Callable) -> Callable:
    """A compiled operation with its compiled gradient, as a function that JAX differentiates any number of times.

    `forward(*operands)` returns a tuple: the result, and what is saved for the gradient, through which no gradient
    flows. `backward(operands, saved, cotangent)` returns the gradients to the first of the operands; those to the
    others are zero. `reference(*operands)` is the result in plain JAX: second derivatives are those of its gradient.
    """
    operation = jax.custom_vjp(forward)

    def forward_with_residuals(*operands: jax.Array) -> tuple[Any, Any]:
        results = operation(*operands)
        return results, (operands, [lax.stop_gradient(array) for array in results[1:]])

    @jax.custom_vjp
    def gradient(operands: Sequence[jax.Array], saved: Sequence[jax.Array], cotangent: jax.Array) -> tuple:
        gradients = backward(operands, saved, cotangent)
        return *gradients, *map(jnp.zeros_like, operands[len(gradients) :])

    def reference_gradient(operands: Sequence[jax.Array], cotangent: jax.Array) -> tuple:
        return jax.vjp(reference, *operands)[1](cotangent)

    def second_order(residuals: tuple, cotangents: tuple) -> tuple:
        operands, saved, cotangent = residuals
        to_operands, to_cotangent = jax.vjp(reference_gradient, operands, cotangent)[1](cotangents)
        return to_operands, [jnp.zeros_like(array) for array in saved], to_cotangent

    gradient.defvjp(lambda *operands: (gradient(*operands), operands), second_order)
    operation.defvjp(forward_with_residuals, lambda residuals, cotangents: gradient(*residuals, cotangents[0]))
    return operation


def depthwise(x_BHWC: jax.Array, kernel_KKC: jax.Array, geometry: Geometry) -> jax.Array:
    """y_BHWC in float32 or float64, where that is available; differentiable any number of times."""
    return derivative(_compute, Y, geometry, x_BHWC, kernel_KKC)


def _compute(wrt: int, geometry: Geometry, a: jax.Array, b: jax.Array) -> jax.Array:
    result = jax.ShapeDtypeStruct(geometry.shapes[wrt], a.dtype)
    return call("depthwise", [result], a, b, attributes={"wrt": wrt} | geometry.numbers())[0]


def unavailable() -> str:
    """Why there are no compiled operations, or "" where they are: then they have been built and registered."""
    if jax.default_backend() != "cpu":
        return f"the platform is {jax.default_backend()}, not cpu"
    return _register()


@functools.cache
def _register() -> str:
    try:
        handlers = library.load(TARGETS)
    except (OSError, ValueError) as error:
        logging.warning("no compiled operations, those in plain JAX are slower: %s", error)
        return str(error)
    for target in TARGETS:
        handler = jax.ffi.pycapsule(getattr(handlers, target))
        jax.ffi.register_ffi_target(f"mnet_jax_{target}", handler, platform="cpu")
    return ""
