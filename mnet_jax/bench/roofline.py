"""How fast the hardware could be: matrix products at the peak measured here, and passes over memory at its speed.

The floor of a training step is 3 times the forward multiply-adds of all but the depthwise convolutions (forward, and
the gradients to input and kernel) at the matrix product's peak, plus some passes over the outputs of all convolutions
at the speed of a copy, not overlapped. 12 passes: nothing wasted, normalization not fused; 6: all fused that can be.
Small layers stay in caches, which are faster than memory: the floor is a yardstick, not a law.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from mnet_jax.bench.harness import Run
from mnet_jax.bench.regime import Regime

PASSES = (12, 6)
PROBES = ("gemm", "copy")
GEMM_SIZE, COPY_BYTES = 4096, 256 << 20
GPU_GEMM_SIZE, GPU_COPY_BYTES = 8192, 2 << 30


class Machine(NamedTuple):
    """What was measured: multiply-adds a second, and bytes a second read and written."""

    madds: float
    bytes: float


def sizes(dtype: str, cpu: bool) -> dict[str, Any]:
    """The arguments of `probes`."""
    size, copied = (GEMM_SIZE, COPY_BYTES) if cpu else (GPU_GEMM_SIZE, GPU_COPY_BYTES)
    return {"size": size, "bytes": copied, "dtype": dtype}


def probes(size: int, bytes: int, dtype: str) -> dict[str, Run]:
    """{"gemm": a product of two squares of random numbers, "copy": reads and writes an array that no cache holds}."""
    import jax
    import jax.numpy as jnp

    square = jax.random.normal(jax.random.key(0), (size, size), jnp.dtype(dtype))
    long = jnp.ones(bytes // square.dtype.itemsize, square.dtype)
    return {"gemm": queued(jax.jit(jnp.dot), square, square), "copy": queued(jax.jit(lambda x: x + 1), long)}


def queued(function: Callable[..., Any], *arguments: Any) -> Run:
    """Calls that queue up behind one another, the last of which is waited for: throughput."""
    import jax

    def run(calls: int) -> None:
        result: Any = None
        for _ in range(calls):
            result = function(*arguments)
        jax.block_until_ready(result)

    return run


def machine(gemm_seconds: float, copy_seconds: float, sizes: Mapping[str, Any]) -> Machine:
    """What the best times of the probes of these sizes say."""
    return Machine(madds=sizes["size"] ** 3 / gemm_seconds, bytes=2 * sizes["bytes"] / copy_seconds)


def floor(counted: Any, batch: int, passes: int, machine: Machine) -> float:
    """Seconds of a step on `batch` images, of a network counted at the bytes of an element."""
    from mnet_jax.cost.walk import CONVOLUTIONS

    madds = sum(layer.madds for layer in counted.layers if layer.type != "depthwise conv")
    outputs = sum(layer.activation_bytes for layer in counted.layers if layer.type in CONVOLUTIONS)
    return batch * (3 * madds / machine.madds + passes * outputs / machine.bytes)


HEADER = ("GFLOP/s", "copy GiB/s", "floor of 12 passes (ms)", "reached", "of 6 passes (ms)", "reached")


def reached(regime: Regime, machine: Machine, seconds: float) -> list[str]:
    """The cells below `HEADER`, of a training step that takes this long."""
    from mnet_jax import cost

    size = 2 if regime.dtype == "bfloat16" else 4
    counted = cost.count(regime.config().model, regime.resolution, bytes_per_element=size)
    cells = [f"{2 * machine.madds / 1e9:.0f}", f"{machine.bytes / 2**30:.1f}"]
    for passes in PASSES:
        seconds_at_least = floor(counted, regime.batch, passes, machine)
        cells += [f"{1e3 * seconds_at_least:.1f}", f"{seconds_at_least / seconds:.0%}"]
    return cells
