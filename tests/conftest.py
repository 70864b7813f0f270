"""A strict room: no silent promotion, eight CPU devices, one compilation cache for all workers."""

import os
import tempfile
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
CACHE = str(Path(tempfile.gettempdir()) / "mnet_jax_test_cache")
jax.config.update("jax_compilation_cache_dir", CACHE)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


@pytest.fixture(scope="session")
def experiments() -> Path:
    """The folder of the shipped experiment files."""
    return Path(__file__).parent.parent / "experiments"
