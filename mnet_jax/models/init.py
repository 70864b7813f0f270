"""Initial kernels, all from one draw: a draw a layer would take longer to compile than a small net takes to train."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
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


def kernel(shape: tuple[int, ...], std: float) -> nnx.Param:
    """A kernel to be drawn by `initialize` with this standard deviation."""
    return nnx.Param(jnp.zeros(shape, jnp.float32), std=std)


def initialize(model: nnx.Module, key: jax.Array, name: str) -> None:
    """Draws every `kernel` of the model, in the order of their paths."""
    named = sorted(((tuple(map(str, path)), node) for path, node in nnx.iter_graph(model)), key=lambda item: item[0])
    kernels = [node for _, node in named if isinstance(node, nnx.Param) and "std" in node.get_metadata()]
    ends = [0]
    for param in kernels:
        ends.append(ends[-1] + math.prod(param.shape))
    flat = INITS[name].draw(key, (ends[-1],), jnp.float32)
    for param, start, end in zip(kernels, ends, ends[1:], strict=False):
        # Not `param[...] = `, which in a trace looks through all equations before it.
        param.set_value(param.get_metadata()["std"] * flat[start:end].reshape(param.shape))
