"""How fast the hardware could be: matrix products at the peak measured here, and passes over memory at its speed.

The floor of a training step is 3 times the forward multiply-adds of all but the depthwise convolutions (forward, and
the gradients to input and kernel) at the matrix product's peak, plus some passes over the outputs of all convolutions
at the speed of a copy, not overlapped. 12 passes: nothing wasted, normalization not fused; 6: all fused that can be.
Small layers stay in caches, which are faster than memory: the floor is a yardstick, not a law.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

PASSES = (12, 6)
GEMM_SIZE, COPY_BYTES = 4096, 256 << 20
GPU_GEMM_SIZE, GPU_COPY_BYTES = 8192, 2 << 30


class Machine(NamedTuple):
    """What was measured: multiply-adds a second, and bytes a second read and written."""

    madds: float
    bytes: float


def sizes(dtype: str, cpu: bool) -> dict[str, Any]:
    """The task of the probes: {"size", "bytes", "dtype"}."""
    size, copied = (GEMM_SIZE, COPY_BYTES) if cpu else (GPU_GEMM_SIZE, GPU_COPY_BYTES)
    return {"size": size, "bytes": copied, "dtype": dtype}


def probes(task: Mapping[str, Any]) -> dict[str, Callable[[int], None]]:
    """{"gemm": a product of two squares of random numbers, "copy": reads and writes an array that no cache holds}."""
    import jax
    import jax.numpy as jnp

    a = jax.random.normal(jax.random.key(0), (task["size"], task["size"]), jnp.dtype(task["dtype"]))
    long = jnp.ones(task["bytes"] // a.dtype.itemsize, a.dtype)
    return {"gemm": repeated(jax.jit(jnp.dot), a, a), "copy": repeated(jax.jit(lambda x: x + 1), long)}


def repeated(function: Callable[..., Any], *arguments: Any) -> Callable[[int], None]:
    """Calls that queue up behind one another, the last of which is waited for."""
    import jax

    def run(calls: int) -> None:
        result: Any = None
        for _ in range(calls):
            result = function(*arguments)
        jax.block_until_ready(result)

    return run


def machine(gemm_seconds: float, copy_seconds: float, task: Mapping[str, Any]) -> Machine:
    """From the best times of the probes of a task."""
    return Machine(madds=task["size"] ** 3 / gemm_seconds, bytes=2 * task["bytes"] / copy_seconds)


def floor(counted: Any, batch: int, passes: int, machine: Machine) -> float:
    """Seconds of a step on `batch` images, of a network counted at the bytes of an element."""
    from mnet_jax.cost.walk import CONVOLUTIONS

    madds = sum(layer.madds for layer in counted.layers if layer.type != "depthwise conv")
    outputs = sum(layer.activation_bytes for layer in counted.layers if layer.type in CONVOLUTIONS)
    return batch * (3 * madds / machine.madds + passes * outputs / machine.bytes)
