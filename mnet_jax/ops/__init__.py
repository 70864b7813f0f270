"""Layer arithmetic: convolutions, norms, and the sums that they share."""

import jax.numpy as jnp

ACCUMULATOR_BYTES = 8 << 10  # of one sum in a loop over the batch: the few that it carries stay in a core's first cache
UNROLL = 2  # iterations of such a loop that XLA fuses into one


def accumulator(dtype: jnp.dtype) -> jnp.dtype:
    """The type that sums over `dtype` are kept in: float32, or float64 for float64."""
    return jnp.dtype("float64" if dtype == jnp.float64 else "float32")
