"""A traced network as StableHLO, as `jax.export` writes it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.export
import jax.extend
import numpy as np

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
"""Those that an exported file runs on."""


def lowered(traced: Any, *platforms: str) -> Any:
    """The `jax.export.Exported` of a traced evaluation, with its weights inside, for these platforms."""
    (images,) = traced.in_avals
    call = jax.jit(lambda images_BHWC: jax.extend.core.jaxpr_as_fun(traced)(images_BHWC)[0])
    return jax.export.export(call, platforms=platforms)(jax.ShapeDtypeStruct(images.shape, images.dtype))


def export(traced: Any) -> bytes:
    """The file that `jax.export.deserialize` reads, on any JAX."""
    return bytes(lowered(traced, *PLATFORMS).serialize())


def runner(file: bytes) -> Callable[[np.ndarray], np.ndarray]:
    """A function from images to outputs that compiles and runs the file."""
    call = jax.jit(jax.export.deserialize(bytearray(file)).call)
    return lambda images_BHWC: np.asarray(call(images_BHWC))
