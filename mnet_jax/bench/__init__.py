"""The only benchmark code: `python -m mnet_jax.bench`. Contenders run in processes of their own, in alternation."""
