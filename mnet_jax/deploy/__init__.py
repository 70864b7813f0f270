"""Trained networks as files that other programs run: each exporter reads one traced evaluation."""

import importlib
from typing import Any

from mnet_jax.errors import UserError


def imported(module: str, extra: str) -> Any:
    """A module of an optional dependency; UserError that names the extra where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"{module} cannot be imported ({error}); allowed: pip install 'mnet_jax[{extra}]'") from error
