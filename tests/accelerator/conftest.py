"""Tests of what a GPU or TPU computes; those with the marker `accelerator` are skipped on a CPU.

`JAX_PLATFORMS=cuda,cpu python -m pytest -m accelerator -n 0` runs them; the others check the checks at toy size.
"""

import os

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # processes of a test share the device with this one

import jax
import pytest


@pytest.fixture(autouse=True)
def accelerator(request):
    if request.node.get_closest_marker("accelerator") and jax.default_backend() == "cpu":
        pytest.skip("needs an accelerator")
