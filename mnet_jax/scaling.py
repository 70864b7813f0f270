"""What a step would need on more devices than there are: compiled for virtual ones, and beyond them modelled."""

import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mnet_jax import config, sharding, step, sweep
from mnet_jax.data import load
from mnet_jax.results import Sweep

FITTED = (8, 16)
"""Numbers of devices that a model is fitted on, where there are fewer (virtual) devices than are asked for: a line has
two parameters, and XLA lays out a batch shared by 2 devices otherwise than one shared by many."""

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

BYTES = {"f64": 8, "s64": 8, "u64": 8, "f32": 4, "s32": 4, "u32": 4, "bf16": 2, "f16": 2, "s16": 2, "u16": 2}

SHARE = 0.7
"""Of a device's memory that runs may take; the images of a small data set and the evaluation need the rest."""


class Need(NamedTuple):
    """Of one device in one step.

    `memory`      bytes of arguments and temporaries, as XLA lays them out on a CPU.
    `payload`     bytes of the arrays in each kind of collective, {"all-reduce": ...}; what crosses the wires follows
                  from the algorithm (`ring`).
    `modelled`    False where this is read from the compiled program.
    """

    devices: int
    memory: float
    payload: dict[str, float]
    modelled: bool = False


def compiled(cfg: Any, shape: tuple[int, int, int], runs: int, devices: Sequence[jax.Device]) -> Need:
    """What a step on images of this (H, W, C) needs, by compiling it; ValueError where the batch does not divide."""
    batch = cfg.train.batch_size
    mesh = sharding.mesh(runs, batch, devices)
    program = step.build(cfg, runs, (0.5,) * shape[-1], (0.25,) * shape[-1], 1, mesh)
    state = jax.eval_shape(program.init, jax.ShapeDtypeStruct((runs,), jnp.int32))
    numbers = config.Knobs(*(jax.ShapeDtypeStruct((runs,), jnp.float32) for _ in config.Knobs._fields))
    images = jax.ShapeDtypeStruct((runs, 1, batch, *shape), jnp.uint8)
    labels, count = jax.ShapeDtypeStruct((runs, 1, batch), jnp.int32), jax.ShapeDtypeStruct((), jnp.int32)
    program = program.train.lower(state, numbers, (), (images, labels), count, count).compile()
    held = program.memory_analysis()
    memory = held.argument_size_in_bytes + held.temp_size_in_bytes
    return Need(len(devices), memory, collectives(program.as_text()))


def collectives(hlo: str) -> dict[str, float]:
    """Bytes of the results of each kind of collective in a compiled program's text."""
    found = dict.fromkeys(COLLECTIVES, 0.0)
    for results, kind in re.findall(rf"= (.+?) ({'|'.join(COLLECTIVES)})(?:-start)?\(", hlo):
        for dtype, sizes in re.findall(r"(\w+)\[([\d,]*)\]", results):
            found[kind] += BYTES.get(dtype, 1) * math.prod(int(size) for size in sizes.split(",") if size)
    return {kind: size for kind, size in found.items() if size}


def modelled(needs: Sequence[Need], devices: int) -> Need:
    """From needs on fewer devices: memory is a constant and a share of the batch, the payload stays what it is."""
    shares, memory = np.array([1 / need.devices for need in needs]), np.array([need.memory for need in needs])
    slope, constant = np.polyfit(shares, memory, 1)
    payload = {kind: float(np.mean([need.payload.get(kind, 0.0) for need in needs])) for kind in needs[-1].payload}
    return Need(devices, constant + slope / devices, payload, modelled=True)


def ring(need: Need) -> float:
    """Bytes that each device sends in a step, where all-reduces go around a ring: 2 (N - 1) / N of the payload.

    (Patarasuk and Yuan 2009.) Other collectives send their payload once.
    """
    rest = sum(size for kind, size in need.payload.items() if kind != "all-reduce")
    return 2 * (need.devices - 1) / need.devices * need.payload.get("all-reduce", 0.0) + rest


def plan(cfg: Any, shape: tuple[int, int, int], runs: int, devices: int) -> list[Need]:
    """What `devices` of them need: compiled where there are so many; else fitted, and checked on all that there are."""
    here = jax.devices()
    if devices <= len(here):
        return [compiled(cfg, shape, runs, here[:devices])]
    fitted = [compiled(cfg, shape, runs, here[:number]) for number in FITTED]
    return [*fitted, compiled(cfg, shape, runs, here), modelled(fitted, len(here)), modelled(fitted, devices)]


def runs_that_fit(cfg: Any) -> int:
    """How many runs of a config one job can hold on the devices there are, by compiling one and two; 1 on a CPU."""
    devices = jax.local_devices()
    room = SHARE * (devices[0].memory_stats() or {}).get("bytes_limit", 0)
    if devices[0].platform == "cpu" or cfg.task != "classification" or jax.process_count() > 1:
        return 1
    one, two = (compiled(cfg, _shape(cfg), runs, devices[:1]).memory for runs in (1, 2))
    return len(devices) * max(1, 1 + int((room - one) / (two - one)))


def _shape(cfg: Any) -> tuple[int, int, int]:
    """(H, W, C) of the images that the network sees."""
    data = cfg.data
    height, width, channels = load.metadata(data).shape
    size = data.size or data.resolution
    return size or height, size or width, channels


def of_plan(swept: Sweep, devices: int, bandwidth: float = 0.0) -> str:
    """A table for each program of a sweep; `bandwidth` as for `describe`."""
    parts, seen = [f"{swept.title}  [{swept.experiment}:{swept.scale}]"], set()
    for job in swept.jobs:
        if job.program not in seen:
            seen.add(job.program)
            cfg = sweep.arm_config(swept.config, swept.arm(job.runs[0].arm))
            shape = _shape(cfg)
            arms = dict.fromkeys(run.arm for other in swept.jobs if other.program == job.program for run in other.runs)
            needs = plan(cfg, shape, len(job.runs), devices)
            batch = f"batch {cfg.train.batch_size} of {shape[0]} x {shape[1]}, {len(job.runs)} runs a job"
            parts.append(f"{', '.join(arms)}: {batch}\n{describe(needs, bandwidth)}")
    parts.append("MB each: arguments and temporaries as XLA lays them out on a CPU; sent: by a ring, 2 (N - 1) / N.")
    return "\n\n".join(parts)


def describe(needs: Sequence[Need], bandwidth: float = 0.0) -> str:
    """A table; with a `bandwidth` in GB/s also the seconds that a step spends on the wires.

    Where a number of devices was compiled and modelled, the model's errors stand beside it.
    """
    known = {need.devices: _sizes(need) for need in needs if not need.modelled}
    lines = [f"{'devices':>9} {'MB each':>10} {'payload MB':>11} {'sent MB':>9}" + "  seconds" * bool(bandwidth)]
    for need in needs:
        megabytes = [size / 1e6 for size in _sizes(need)]
        line = f"{need.devices:>9} {megabytes[0]:>10,.1f} {megabytes[1]:>11,.2f} {megabytes[2]:>9,.2f}"
        line += f"  {ring(need) / (bandwidth * 1e9):.2g}" if bandwidth else ""
        how = "modelled" if need.modelled else f"compiled: {', '.join(need.payload) or 'alone'}"
        if need.modelled and need.devices in known:
            pairs = zip(_sizes(need), known[need.devices], strict=True)
            errors = [f"{100 * (mine / theirs - 1):+.1f} %" for mine, theirs in pairs if theirs]
            how += f": {', '.join(errors)} of what was compiled"
        lines.append(f"{line}  {how}")
    return "\n".join(lines)


def _sizes(need: Need) -> tuple[float, float, float]:
    """Bytes of memory, of the payload, and sent."""
    return need.memory, sum(need.payload.values()), ring(need)
