"""`python -m mnet_jax`: the command line of `mnet_jax.main`."""

from mnet_jax.main import run

run()
