"""A strict room: no silent promotion, eight CPU devices, one compilation cache for all workers."""

import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["COLUMNS"] = "100"  # where there is no terminal; pytest's workers are given that of the first process

import jax
import pytest

from mnet_jax import runtime

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

CACHE = runtime.programs_folder() / "tests"
"""Compiled programs are executed, so their folder is this user's alone, and that of this kind of CPU."""

CACHE.mkdir(mode=0o700, parents=True, exist_ok=True)
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


@pytest.fixture(scope="session")
def experiments() -> Path:
    """The folder of the shipped experiment files."""
    return Path(__file__).parent.parent / "experiments"
