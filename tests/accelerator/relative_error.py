"""How far two trees of arrays are apart."""

from typing import Any

import jax
import numpy as np


def relative_error(got: Any, exact: Any) -> float:
    """||got - exact|| / ||exact|| of two trees, each as one vector; NaN where anything is."""
    squares = np.zeros(2)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(exact), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        squares += np.sum(np.square(a - b)), np.sum(np.square(b))
    return float(np.sqrt(squares[0] / squares[1]))
