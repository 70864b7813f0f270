"""Where the time of a training step goes, by JAX's profiler."""

import gzip
import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mnet_jax import runtime
from mnet_jax.bench import harness, roofline, step
from mnet_jax.bench.harness import InProcess, Result, Run, Settings
from mnet_jax.bench.regime import Regime
from mnet_jax.table import Table

STEPS = 10
TOP = 25


def measure(settings: Settings, regimes: Mapping[str, Regime]) -> Iterator[Result]:
    """Shares of what the model's lines and XLA's instructions take, and the floor of the step beside its time."""
    from mnet_jax.bench.contenders import ours

    for name, regime in regimes.items():
        harness.log(f"profile, {name}: the step is compiled")
        compiled, sizes = ours.compiled(regime), roofline.sizes(regime.dtype, runtime.on_cpu())
        runs = {step.OURS: compiled.run} | roofline.probes(**sizes)
        times = harness.run_rounds({item: InProcess(run) for item, run in runs.items()}, settings, f"profile, {name}")
        if failed := [f"{item}: {entry.failed}" for item, entry in times.items() if entry.failed]:
            yield Result(name, [Table(f"Profile of {name}", ("failed",), [(line,) for line in failed])], times)
            continue
        machine = roofline.machine(min(times["gemm"].seconds), min(times["copy"].seconds), sizes)
        seconds = times[step.OURS].median
        cells = (f"{1e3 * seconds:.4g}", f"{regime.batch / seconds:,.0f}", f"{compiled.memory / 2**20:,.0f}")
        header = ("ms a step", "images/s", "MiB", *roofline.HEADER)
        whole = Table(f"A step of {name}", header, [(*cells, *roofline.reached(regime, machine, seconds))], left=0)
        spent = _traced(compiled.run)
        names = re.findall(r"%?([\w.-]+) = .*?op_name=\"([^\"]+)\"", compiled.hlo)
        origins = {op: origin(op_name) for op, op_name in names}
        groups: Counter[str] = Counter()
        for op, us in spent.items():
            groups[f"{_kind(op)}: {origins.get(op, '')}"] += us
        tables = [whole, _table(f"By operation: {name}", groups, {}), _table(f"By instruction: {name}", spent, origins)]
        yield Result(name, tables, {**times, "us": dict(spent)})


def origin(op_name: str) -> str:
    """The JAX primitive that an instruction (a fusion: its last) comes from, and whether it is of the backward pass."""
    return ("backward " if "transpose(" in op_name else "") + op_name.rpartition("/")[2]


def _traced(run: Run) -> Counter[str]:
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
    spent: Counter[str] = Counter()
    for event in events:
        kernel = event["name"] if threads.get((event["pid"], event["tid"]), "").startswith("Stream") else ""
        op = event.get("args", {}).get("hlo_op", kernel)
        if event["ph"] == "X" and op and _kind(op) not in ("while", "call", "conditional"):  # these contain others
            spent[op] += event["dur"] / STEPS
    return spent


def _kind(instruction: str) -> str:
    """The name of an instruction without its number, such as "fusion" for "fusion.3"."""
    return re.sub(r"[.\d]+$", "", instruction)


def _table(title: str, spent: Counter[str], origins: Mapping[str, str]) -> Table:
    total = sum(spent.values())
    rows = [
        (name, *([origins.get(name, "")] if origins else []), f"{us / 1e3:.3f}", f"{us / total:.1%}")
        for name, us in spent.most_common(TOP)
    ]
    header = ("", *(["from"] if origins else []), "ms a step", f"of {total / 1e3:.4g} ms")
    return Table(title, header, rows, left=2 if origins else 1)
