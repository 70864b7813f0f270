"""Where the time of a training step goes, by JAX's profiler."""

import gzip
import json
import re
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mnet_jax import runtime
from mnet_jax.bench import contest, peers, roofline, step
from mnet_jax.bench.contest import Result, Settings, Table
from mnet_jax.bench.step import Regime

STEPS = 10
TOP = 25


def measure(settings: Settings, regimes: Mapping[str, Regime] = step.REGIMES) -> Result:
    """Shares of what the model's lines and XLA's instructions take, and the floor of the step beside its time."""
    tables, raw = [], {}
    for name, regime in regimes.items():
        contest.say(f"profile, {name}: the step is compiled")
        trained, sizes = peers.trained(regime.task), roofline.sizes(regime.dtype, runtime.on_cpu())
        times = contest.alternate({step.OURS: trained.run} | roofline.probes(sizes), settings, f"profile, {name}")
        raw[name] = contest.raw(times)
        if failed := [f"{item}: {entry.failed}" for item, entry in times.items() if entry.failed]:
            tables.append(Table(f"Profile of {name}", ("failed",), [(line,) for line in failed]))
            continue
        machine = roofline.machine(min(times["gemm"].seconds), min(times["copy"].seconds), sizes)
        seconds = times[step.OURS].median
        memory = f"{trained.memory / 2**20:,.0f}"
        cells = (
            f"{1e3 * seconds:.4g}",
            f"{regime.batch / seconds:,.0f}",
            memory,
            *step.reached(regime, machine, seconds),
        )
        header = ("ms a step", "images/s", "MiB", *step.LIMITS)
        tables.append(Table(f"A step of {name}", header, [cells]))
        taken = _traced(trained.run)
        raw[name]["us"] = dict(taken)
        origins = {op: origin(found) for op, found in re.findall(r"%?([\w.-]+) = .*?op_name=\"([^\"]+)\"", trained.hlo)}
        groups: Counter[str] = Counter()
        for op, us in taken.items():
            groups[f"{_kind(op)}: {origins.get(op, '')}"] += us
        tables += [_table(f"By operation: {name}", groups, {}), _table(f"By instruction: {name}", taken, origins)]
    return Result(tables, raw)


def origin(op_name: str) -> str:
    """The JAX primitive that an instruction (a fusion: its last) comes from, and whether it is of the backward pass."""
    return ("backward " if "transpose(" in op_name else "") + op_name.rpartition("/")[2]


def _traced(run: peers.Run) -> Counter[str]:
    """{instruction: microseconds a step} on the device."""
    import jax

    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            run(STEPS)
        (path,) = Path(folder).glob("**/*.trace.json.gz")
        return read(json.loads(gzip.decompress(path.read_bytes())))


def read(trace: Mapping[str, Any]) -> Counter[str]:
    """{instruction: microseconds a step} of a trace in Chrome's format.

    XLA marks what it ran with `hlo_op`; on a GPU's streams the kernels of a CUDA graph have their own names alone.
    """
    events = [event for event in trace["traceEvents"] if "tid" in event]
    threads = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e.get("name") == "thread_name"}
    taken: Counter[str] = Counter()
    for event in events:
        kernel = event["name"] if threads.get((event["pid"], event["tid"]), "").startswith("Stream") else ""
        op = event.get("args", {}).get("hlo_op", kernel)
        if event["ph"] == "X" and op and _kind(op) not in ("while", "call", "conditional"):  # what holds others
            taken[op] += event["dur"] / STEPS
    return taken


def _kind(instruction: str) -> str:
    """Its name without the number."""
    return re.sub(r"[.\d]+$", "", instruction)


def _table(title: str, taken: Counter[str], origins: Mapping[str, str]) -> Table:
    total = sum(taken.values())
    rows = [
        (name, *([origins.get(name, "")] if origins else []), f"{us / 1e3:.3f}", f"{us / total:.1%}")
        for name, us in taken.most_common(TOP)
    ]
    header = ("", *(["from"] if origins else []), "ms a step", f"of {total / 1e3:.4g} ms")
    return Table(title, header, rows)
