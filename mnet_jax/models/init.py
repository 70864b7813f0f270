"""Initial kernels, all from one draw: a draw a layer would take longer to compile than a small net takes to train."""

import functools
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


class Init(NamedTuple):
    """How kernels start: `draw(key, shape, dtype)` of unit scale, times `std(fan_in)`."""

    draw: Callable[..., jax.Array]
    std: Callable[[int], float]


INITS: Mapping[str, Init] = {
    # The papers' code (slim's arg_scope): truncated at two standard deviations, whatever the fan-in.
    "released": Init(lambda key, shape, dtype: jax.random.truncated_normal(key, -2, 2, shape, dtype), lambda _: 0.09),
    # He et al. 2015, equation 10: for small nets, which the released scale would leave without a signal.
    "he": Init(jax.random.normal, lambda fan_in: math.sqrt(2 / fan_in)),
}


def filled(shape: tuple[int, ...], value: float) -> jax.Array:
    """A float32 array of one value, copied from the host: `jnp.full` compiles a program for every shape."""
    return jax.device_put(np.broadcast_to(np.float32(value), shape))


def kernel(shape: tuple[int, ...], std: float) -> nnx.Param:
    """A kernel of zeros, for `initialize` to draw with this standard deviation."""
    return nnx.Param(filled(shape, 0.0), std=std)


def initialize(model: nnx.Module, key: jax.Array, name: str) -> None:
    """Draws every `kernel` of the model, in the order of their paths."""
    named = sorted(((tuple(map(str, path)), node) for path, node in nnx.iter_graph(model)), key=lambda item: item[0])
    kernels = [node for _, node in named if isinstance(node, nnx.Param) and "std" in node.get_metadata()]
    drawn = _draw(key, name, tuple((param.shape, param.get_metadata()["std"]) for param in kernels))
    for param, value in zip(kernels, drawn, strict=True):
        # Not `param[...] = `, which in a trace looks through all equations before it.
        param.set_value(value)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _draw(key: jax.Array, name: str, kernels: tuple[tuple[tuple[int, ...], float], ...]) -> list[jax.Array]:
    """Kernels of these (shape, standard deviation), in one compiled program."""
    sizes = [math.prod(shape) for shape, _ in kernels]
    flat = INITS[name].draw(key, (sum(sizes),), jnp.float32)
    parts = jax.lax.split(flat, sizes)
    return [std * part.reshape(shape) for part, (shape, std) in zip(parts, kernels, strict=True)]
