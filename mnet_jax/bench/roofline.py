"""How fast the hardware could be: matrix products at the peak measured here, and passes over memory at its speed.

The floor of a training step is 3 times the forward multiply-adds of all but the depthwise convolutions (forward, and
the gradients to input and kernel) at the matrix product's peak, plus some passes over the outputs of all convolutions
at the speed of a copy, not overlapped. 12 passes: nothing wasted, normalization not fused; 6: all fused that can be.
Small layers stay in caches, which are faster than memory: the floor is a yardstick, not a law.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

PASSES = (12, 6)
GEMM_SIZE, COPY_BYTES = 4096, 256 << 20


class Machine(NamedTuple):
    """What was measured: multiply-adds a second, and bytes a second read and written."""

    madds: float
    bytes: float


def probes(task: Any) -> dict[str, Callable[[int], None]]:
    """{"gemm": a float32 product of two squares, "copy": reads and writes an array that no cache holds}."""
    import jax
    import jax.numpy as jnp

    a = jax.random.normal(jax.random.key(0), (task["size"], task["size"]), jnp.float32)
    long = jnp.ones(task["bytes"] // 4, jnp.float32)
    product, plus = jax.jit(jnp.dot), jax.jit(lambda x: x + 1)

    def gemm(calls: int) -> None:
        for _ in range(calls):
            product(a, a).block_until_ready()

    def copy(calls: int) -> None:
        for _ in range(calls):
            plus(long).block_until_ready()

    return {"gemm": gemm, "copy": copy}


def machine(gemm_seconds: float, copy_seconds: float, size: int = GEMM_SIZE, copied: int = COPY_BYTES) -> Machine:
    """From the best times of the probes."""
    return Machine(madds=size**3 / gemm_seconds, bytes=2 * copied / copy_seconds)


def floor(counted: Any, batch: int, passes: int, machine: Machine) -> float:
    """Seconds of a step on `batch` images, of a network counted at 4 bytes an element."""
    from mnet_jax.cost.counting import CONVOLUTIONS

    madds = sum(layer.madds for layer in counted.layers if layer.type != "depthwise conv")
    outputs = sum(layer.activation_bytes for layer in counted.layers if layer.type in CONVOLUTIONS)
    return batch * (3 * madds / machine.madds + passes * outputs / machine.bytes)
