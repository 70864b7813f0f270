"""Where arrays lie: a mesh with the axes ("seed", "data"), and the processes of a job that spans several hosts.

Runs are spread over the axis "seed"; where there are more devices than runs, the images of each batch over "data".
Parameters are whole on every device of a run, so a step communicates gradients and BatchNorm's statistics only.
"""

import logging
import math
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mnet_jax.errors import UserError

Result = TypeVar("Result")

RUNS = PartitionSpec("seed")
BATCHES = PartitionSpec("seed", None, "data")
EVERYWHERE = PartitionSpec()


def mesh(runs: int, batch_size: int, devices: Sequence[jax.Device] | None = None, spread_runs: bool = True) -> Mesh:
    """All devices as ("seed", "data"): as many run groups as divide both runs and devices, the rest shares batches.

    Without `spread_runs` all devices share each batch. Raises UserError where the batch does not divide by the
    devices that share it.
    """
    devices = jax.devices() if devices is None else devices
    seeds = math.gcd(runs, len(devices)) if spread_runs else 1
    shards = len(devices) // seeds
    if batch_size % shards:
        raise UserError(
            f"train.batch_size={batch_size} does not divide by the {shards} devices that share it "
            f"({len(devices)} devices, {runs} runs a job); allowed: a multiple of {shards}"
        )
    return Mesh(np.asarray(devices).reshape(seeds, shards), ("seed", "data"), axis_types=(AxisType.Auto,) * 2)


def put(mesh: Mesh, spec: PartitionSpec, array: Any) -> jax.Array:
    """A host's array, which every process has, as one global array; each device takes its part."""
    array = np.asarray(array)
    return jax.make_array_from_callback(array.shape, NamedSharding(mesh, spec), lambda index: array[index])


def put_rows(mesh: Mesh, spec: PartitionSpec, rows: np.ndarray, shape: tuple[int, ...]) -> jax.Array:
    """Every process's rows of a batch, in the order of the processes, as one global array of this shape."""
    return jax.make_array_from_process_local_data(NamedSharding(mesh, spec), rows, shape)


def fetch(tree: Any) -> Any:
    """The whole of global arrays as NumPy's, on every process."""

    def whole(array: jax.Array) -> np.ndarray:
        if array.is_fully_addressable or array.is_fully_replicated:
            return np.asarray(array)
        from jax.experimental import multihost_utils

        return np.asarray(multihost_utils.process_allgather(array, tiled=True))

    return jax.tree.map(whole, tree)


# Several processes.


QUIET_SECONDS = 8.0
"""For which a process waits for the others of its job without a word."""


def init_distributed(arguments: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> None:
    """Joins the processes of one job, where there are several; must run before JAX is used.

    Without `arguments` (None) this happens where a launcher says that there are several: SLURM, Open MPI, TPU workers,
    a Kubernetes job; with an empty list always, by what JAX finds out itself; with (HOST:PORT, processes, process)
    as told. A process that is not heard of for 30 s, or that failed, ends all the others. Until then they wait for one
    another: on a CPU for 5 minutes at each communication, where XLA's own limit is 30 s.

    One that waits says so after QUIET_SECONDS.

    Raises UserError for other arguments, and where the processes do not find one another within 5 minutes.
    """
    if arguments is None and not launched_with_many(environ):
        return
    cluster: dict[str, Any] = {}
    if arguments:
        try:
            address, processes, process = arguments
            cluster = {"coordinator_address": address, "num_processes": int(processes), "process_id": int(process)}
        except ValueError:
            raise UserError(
                f"--distributed {' '.join(arguments)}; allowed: nothing (JAX asks the cluster), or "
                "HOST:PORT PROCESSES PROCESS, such as node1:1234 4 0 for the first of four"
            ) from None
    if getattr(jax.config, "jax_platforms", None) == "cpu":
        os.environ["XLA_FLAGS"] = f"--xla_cpu_collective_timeout_seconds=300 {os.environ.get('XLA_FLAGS', '')}"
    processes, address = cluster.get("num_processes", "the other"), cluster.get("coordinator_address")
    message = f"waiting for {processes} processes" + (f" at {address}" if address else " of this job")
    waiting = threading.Timer(QUIET_SECONDS, logging.info, [message])
    waiting.daemon = True
    waiting.start()
    try:
        jax.distributed.initialize(**cluster, heartbeat_timeout_seconds=30, shutdown_timeout_seconds=30)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"the processes of this job did not find one another: {error}") from error
    finally:
        waiting.cancel()


def launched_with_many(environ: Mapping[str, str]) -> bool:
    """Whether a launcher's variables speak of more than one process of this job."""
    counts = (environ.get(name, "1") for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"))
    return (
        any(count.isdigit() and int(count) > 1 for count in counts)
        or "," in environ.get("TPU_WORKER_HOSTNAMES", "")
        or ("JOB_COMPLETION_INDEX" in environ and "KUBERNETES_SERVICE_HOST" in environ)
    )


def is_first() -> bool:
    """Whether this is the process that writes."""
    return jax.process_index() == 0


def broadcast_from_first(value: int) -> int:
    """The first process's value, on every process."""
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def on_first(function: Callable[[], Result]) -> Result | None:
    """What the function returns, on the first process; None on the others, which wait. Its error ends all of them."""
    result, error = None, None
    if is_first():
        try:
            result = function()
        except Exception as raised:
            error = raised
    if broadcast_from_first(int(error is not None)):
        raise error or UserError("the first process failed; its message says why")
    return result


def sum_over_processes(value: int) -> int:
    """The sum over all processes, on every process."""
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    return int(np.sum(multihost_utils.process_allgather(np.int32(value))))


def any_process(flag: bool) -> bool:
    """Whether the flag stands on any process; every process must ask."""
    if jax.process_count() == 1:
        return flag
    from jax.experimental import multihost_utils

    return bool(np.any(multihost_utils.process_allgather(np.bool_(flag))))
