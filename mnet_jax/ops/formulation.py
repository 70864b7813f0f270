"""The formulations of the operations, side by side: a word stands for what computes each of them.

Each formulation is proven equal to "lax" by tests. `resolve` chooses for a network, once; nothing else looks at the
platform or at the devices.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mnet_jax.errors import UserError
from mnet_jax.ops import native, pallas

FORMULATIONS = ("auto", "lax", "shift", "native", "pallas")
"""The words that a user writes."""


class Kernels(NamedTuple):
    """What computes each operation.

    depthwise: "lax", XLA's grouped convolution; "shift", sums of shifted multiples; "native", C++; "pallas", Triton;
        "table", what `depthwise.GPU` says for the layer's shape.
    pointwise, dense: "lax", XLA's convolution; "matmul", one matrix product, of the taps side by side.
    norm: "lax", plain arithmetic under autodiff; "fused", with a gradient of its own; "native", C++, which also has a
        depthwise convolution between two norms as one operation.
    loops: whether "shift" and "fused" sum over the batch in loops over its parts, which one processor's caches hold. A
        loop over an axis that several devices share would gather all of it on each of them.
    """

    depthwise: str
    pointwise: str
    dense: str
    norm: str
    loops: bool = False


KERNELS: Mapping[str, Kernels] = {
    "lax": Kernels("lax", "lax", "lax", "lax"),
    "shift": Kernels("shift", "matmul", "matmul", "fused", loops=True),
    "shift_parallel": Kernels("shift", "matmul", "matmul", "fused"),
    "native": Kernels("native", "matmul", "matmul", "native", loops=True),
    "pallas": Kernels("pallas", "matmul", "lax", "fused"),
    "gpu": Kernels("table", "matmul", "lax", "fused"),
    "lax_spatial": Kernels("lax", "matmul", "lax", "fused"),
    "lax_depthwise": Kernels("lax", "matmul", "matmul", "fused"),
    "lax_folded": Kernels("lax", "lax", "lax", "fused"),  # of an evaluation to export: its norms are in the kernels
}
"""The kernels by the words that `resolve` returns."""


def resolve(formulation: str, dtype: jnp.dtype, data_shards: int = 1, seed_shards: int = 1) -> str:
    """Returns the word of KERNELS for arrays of `dtype` on this platform.

    `data_shards` devices share each batch, and `seed_shards` groups of devices share the seeds. "auto" is "native" on
    one CPU where it can be had, else "shift"; on other platforms XLA's convolutions with matrix products and fused
    norms. "native" is "shift" in types other than float32 and float64, and "shift" is "shift_parallel" but for whole
    batches on a CPU. Words of KERNELS that a user does not write are returned as they are.

    Raises UserError for an unknown word, for "native" and "pallas" where they cannot be had, and for "lax" where seeds
    are shared.
    """
    if formulation in KERNELS and formulation not in FORMULATIONS:
        return formulation
    if formulation not in FORMULATIONS:
        raise UserError(f"formulation={formulation!r}: allowed are {', '.join(FORMULATIONS)}")
    devices, on_cpu = data_shards * seed_shards, jax.default_backend() == "cpu"
    if formulation in ("auto", "native") and dtype in (jnp.float32, jnp.float64):
        reason = _shared(devices) or native.unavailable()
        if not reason:
            return "native"
        if formulation == "native":
            raise UserError(f"formulation='native' cannot be had: {reason}; allowed are auto, lax, shift")
    if formulation == "pallas":
        if reason := _shared(devices) or pallas.unavailable():
            raise UserError(f"formulation='pallas' cannot be had: {reason}; allowed are auto, lax, shift")
        return "pallas"
    if formulation == "lax":
        if seed_shards > 1:  # under vmap, XLA has one dense convolution for all seeds' channels, and would gather them
            raise UserError(f"formulation='lax' with seeds on {seed_shards} devices: allowed are auto, shift")
        return "lax"
    if formulation == "auto" and not on_cpu:
        if seed_shards > 1:
            return "lax_depthwise"
        return "lax_spatial" if _shared(devices) or pallas.unavailable() else "gpu"
    return "shift" if on_cpu and data_shards == 1 else "shift_parallel"


def kernels(formulation: str, dtype: jnp.dtype) -> Kernels:
    """What computes a layer on arrays of `dtype`.

    A word that `resolve` did not return is resolved as for one device: on a mesh, resolve it before.
    """
    return KERNELS[resolve(formulation, dtype)]


def _shared(devices: int) -> str:
    """Why kernels that XLA cannot divide are not for so many devices, or ""."""
    return f"the mesh has {devices} devices, and XLA would gather what they hold" if devices > 1 else ""
