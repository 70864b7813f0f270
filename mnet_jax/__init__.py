"""An ablation laboratory for MobileNets in JAX.

Public are `mnet_jax.laboratory` (plan, train, report), `mnet_jax.results.load` (rows of workdirs), `mnet_jax.models`
(build, load), `mnet_jax.cost` (count), `mnet_jax.config` (what experiment files are written with), and the command
lines `python -m mnet_jax.main`, `mnet_jax.cost`, `mnet_jax.bench`, `mnet_jax.analysis` and `mnet_jax.data.prepare`.
"""

__version__ = "0.2.0"
