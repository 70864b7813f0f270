"""Layer arithmetic: formulations of one operation side by side, each proven equal to `lax`."""

import jax
import jax.numpy as jnp

ACCUMULATOR_BYTES = 8 << 10  # of one sum in a loop over the batch: the few that it carries stay in a core's first cache
UNROLL = 2  # turns of such a loop that XLA fuses into one

FORMULATIONS = ("auto", "lax", "shift", "native", "pallas")


def choose(formulation: str, accelerator: str = "lax") -> str:
    """Resolves "auto" while tracing: "shift" on a CPU, `accelerator` elsewhere. Unknown names: ValueError."""
    if formulation not in FORMULATIONS:
        raise ValueError(f"formulation={formulation!r}: allowed are {', '.join(FORMULATIONS)}")
    if formulation == "auto":
        return "shift" if jax.default_backend() == "cpu" else accelerator
    return formulation


def shards(axis: str) -> int:
    """How many pieces the mesh cuts the "data" or "seed" axis into while tracing under `jax.set_mesh`; without, 1.

    Code that indexes a sharded axis gathers the whole of it on every device.
    """
    return jax.sharding.get_abstract_mesh().shape.get(axis, 1)


def whole_on_cpu() -> bool:
    """Whether one CPU has the whole batch, so that sums over it may be loops over its parts."""
    return jax.default_backend() == "cpu" and shards("data") == 1


def accumulator(dtype: jnp.dtype) -> jnp.dtype:
    """The type that sums over `dtype` are kept in: float32, or float64 for float64."""
    return jnp.dtype("float64" if dtype == jnp.float64 else "float32")
