"""Networks of other libraries, converted to those of `mnet_jax.models`."""
