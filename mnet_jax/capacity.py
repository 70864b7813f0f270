"""What a step would need on more devices than there are: compiled for virtual ones, and extrapolated beyond."""

import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mnet_jax import arm_cost, config, sharding, step
from mnet_jax.arms import arm_config
from mnet_jax.experiment import Code
from mnet_jax.results import Sweep

FITTED = (8, 16)
"""Device counts used to fit the linear memory model. Two points suffice for a line; 2 devices are avoided because XLA's
layout differs there."""

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

BYTES = {"f64": 8, "s64": 8, "u64": 8, "f32": 4, "s32": 4, "u32": 4, "bf16": 2, "f16": 2, "s16": 2, "u16": 2}

SHARE = 0.7
"""Of a device's memory that runs may take; the images of a small data set and the evaluation need the rest."""


class StepNeeds(NamedTuple):
    """Of one device in one step.

    `memory`      bytes of arguments and temporaries, as XLA lays them out on a CPU.
    `payload`     bytes of the arrays in each kind of collective, {"all-reduce": ...}; what crosses the wires follows
                  from the algorithm (`ring_bytes`).
    `extrapolated`    False where this is read from the compiled program.
    """

    devices: int
    memory: float
    payload: dict[str, float]
    extrapolated: bool = False


def compiled(cfg: Any, code: Code, runs: int, devices: Sequence[jax.Device]) -> StepNeeds:
    """What a step of a config needs, by compiling it; UserError where the batch does not divide.

    A teacher's network is left out.
    """
    batch, dataset = cfg.train.batch_size, arm_cost.planned_dataset(cfg, code)
    task, channels = code.task_of(cfg), dataset.shape[-1]
    mesh = sharding.mesh(runs, batch, devices)
    program = step.build(task, cfg, runs, (0.5,) * channels, (0.25,) * channels, 1, mesh, code.optimizer)
    state = jax.eval_shape(program.init, jax.ShapeDtypeStruct((runs,), jnp.int32))
    traced = jax.tree.map(lambda _: jax.ShapeDtypeStruct((runs,), jnp.float32), config.traced_values(cfg))
    images = jax.ShapeDtypeStruct((runs, 1, batch, *arm_cost.image_size(cfg, dataset), channels), jnp.uint8)
    targets = {
        name: jax.ShapeDtypeStruct((runs, 1, batch, *array.shape[1:]), array.dtype)
        for name, array in task.targets(dataset, cfg).items()
    }
    batches, count = {"images": images, "targets": targets}, jax.ShapeDtypeStruct((), jnp.int32)
    lowered = program.train.lower(state, traced, (), (), batches, count, count).compile()
    memory = lowered.memory_analysis()
    used = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    return StepNeeds(len(devices), used, collectives(lowered.as_text()))


def collectives(hlo: str) -> dict[str, float]:
    """Bytes of the results of each kind of collective in a compiled program's text."""
    found = dict.fromkeys(COLLECTIVES, 0.0)
    for results, kind in re.findall(rf"= (.+?) ({'|'.join(COLLECTIVES)})(?:-start)?\(", hlo):
        for dtype, sizes in re.findall(r"(\w+)\[([\d,]*)\]", results):
            found[kind] += BYTES.get(dtype, 1) * math.prod(int(size) for size in sizes.split(",") if size)
    return {kind: size for kind, size in found.items() if size}


def extrapolate(needs: Sequence[StepNeeds], devices: int) -> StepNeeds:
    """From needs on fewer devices: memory is a constant and a share of the batch, the payload stays what it is."""
    shares, memory = np.array([1 / need.devices for need in needs]), np.array([need.memory for need in needs])
    slope, constant = np.polyfit(shares, memory, 1)
    payload = {kind: float(np.mean([need.payload.get(kind, 0.0) for need in needs])) for kind in needs[-1].payload}
    return StepNeeds(devices, constant + slope / devices, payload, extrapolated=True)


def ring_bytes(need: StepNeeds) -> float:
    """Bytes that each device sends in a step, where all-reduces go around a ring: 2 (N - 1) / N of the payload.

    (Patarasuk and Yuan 2009.) Other collectives send their payload once.
    """
    rest = sum(size for kind, size in need.payload.items() if kind != "all-reduce")
    return 2 * (need.devices - 1) / need.devices * need.payload.get("all-reduce", 0.0) + rest


def needs_for(cfg: Any, code: Code, runs: int, devices: int) -> list[StepNeeds]:
    """What `devices` of them need: compiled where there are so many; else fitted, and checked on all that there are."""
    here = jax.devices()
    if devices <= len(here):
        return [compiled(cfg, code, runs, here[:devices])]
    fitted = [compiled(cfg, code, runs, here[:number]) for number in FITTED]
    return [*fitted, compiled(cfg, code, runs, here), extrapolate(fitted, len(here)), extrapolate(fitted, devices)]


def runs_that_fit(cfg: Any, code: Code) -> int:
    """How many runs of a config one job can hold on the devices there are, by compiling one and two; 1 on a CPU."""
    devices = jax.local_devices()
    room = SHARE * (devices[0].memory_stats() or {}).get("bytes_limit", 0)
    if devices[0].platform == "cpu" or not code.task_of(cfg).trains or jax.process_count() > 1:
        return 1
    one, two = (compiled(cfg, code, runs, devices[:1]).memory for runs in (1, 2))
    return len(devices) * max(1, 1 + int((room - one) / (two - one)))


def table_for_sweep(swept: Sweep, code: Code, devices: int, bandwidth: float = 0.0) -> str:
    """A table for each program of a sweep; `bandwidth` as for `describe`."""
    parts, seen = [f"{swept.title}  [{swept.experiment}:{swept.scale}]"], set()
    for job in swept.jobs:
        if job.program not in seen:
            seen.add(job.program)
            cfg = arm_config(swept.config, swept.arm(job.runs[0].arm))
            height, width = arm_cost.image_size(cfg, arm_cost.planned_dataset(cfg, code))
            arms = dict.fromkeys(run.arm for other in swept.jobs if other.program == job.program for run in other.runs)
            needs = needs_for(cfg, code, len(job.runs), devices)
            batch = f"batch {cfg.train.batch_size} of {height} x {width}, {len(job.runs)} runs a job"
            parts.append(f"{', '.join(arms)}: {batch}\n{describe(needs, bandwidth)}")
    parts.append("MB each: arguments and temporaries as XLA lays them out on a CPU; sent: by a ring, 2 (N - 1) / N.")
    return "\n\n".join(parts)


def describe(needs: Sequence[StepNeeds], bandwidth: float = 0.0) -> str:
    """A table; with a `bandwidth` in GB/s also the seconds that a step spends on the wires.

    Where a number of devices was both compiled and extrapolated, the extrapolation's errors stand beside it.
    """
    known = {need.devices: _sizes(need) for need in needs if not need.extrapolated}
    lines = [f"{'devices':>9} {'MB each':>10} {'payload MB':>11} {'sent MB':>9}" + "  seconds" * bool(bandwidth)]
    for need in needs:
        megabytes = [size / 1e6 for size in _sizes(need)]
        line = f"{need.devices:>9} {megabytes[0]:>10,.1f} {megabytes[1]:>11,.2f} {megabytes[2]:>9,.2f}"
        line += f"  {ring_bytes(need) / (bandwidth * 1e9):.2g}" if bandwidth else ""
        how = "extrapolated" if need.extrapolated else f"compiled: {', '.join(need.payload) or 'alone'}"
        if need.extrapolated and need.devices in known:
            pairs = zip(_sizes(need), known[need.devices], strict=True)
            errors = [f"{100 * (mine / theirs - 1):+.1f} %" for mine, theirs in pairs if theirs]
            how += f": {', '.join(errors)} of what was compiled"
        lines.append(f"{line}  {how}")
    return "\n".join(lines)


def _sizes(need: StepNeeds) -> tuple[float, float, float]:
    """Bytes of memory, of the payload, and sent."""
    return need.memory, sum(need.payload.values()), ring_bytes(need)
