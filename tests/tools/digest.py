"""What a training of the tiny experiment leaves, and where: run as a script, prints it for so many CPU devices."""

import hashlib
import json
import os
import platform
import sys
import tempfile
from pathlib import Path

import jax
import jaxlib
import safetensors.numpy
from tiny import write

from mnet_jax import experiment, results, runtime, sweep, worker


def environment():
    """What the bits of a training may depend on beside the code: jaxlib, the CPU's instructions, the threads."""
    info = Path("/proc/cpuinfo")
    flags = {line for line in info.read_text().splitlines() if line.startswith("flags")} if info.exists() else set()
    return {
        "jaxlib": jaxlib.__version__,
        "cpu": hashlib.sha256(repr((platform.machine(), sorted(flags))).encode()).hexdigest()[:12],
        "threads": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }


def digest(workdir, plan):
    """By run: its metrics, the lines of its curve, the SHA-256 of its weights, and the facts that a row repeats."""
    runs = {}
    for run, row in zip(plan.runs, results.read_rows(workdir, plan), strict=True):
        tensors = safetensors.numpy.load_file(results.run_dir(workdir, run.name) / "weights.safetensors")
        weights = hashlib.sha256()
        for name in sorted(tensors):
            weights.update(name.encode())
            weights.update(tensors[name].tobytes())
        runs[run.name] = {
            "metrics": row["metrics"],
            "lines": results.read_metrics(workdir, run.name),
            "weights": weights.hexdigest(),
            "madds": row["cost"]["madds"],
            "fingerprint": row["data"]["fingerprint"],
            "depthwise": row["device"]["depthwise"],
        }
    return runs


def train(workdir):
    """Trains the tiny experiment in a folder; returns its plan."""
    plan = sweep.plan(experiment.load(write(workdir)), "digits", {}, "train", "")
    results.write_sweep(workdir, plan)
    worker.work_on(workdir, plan, lambda: False)
    return plan


if __name__ == "__main__":
    runtime.start()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))
    with tempfile.TemporaryDirectory() as folder:
        runs = digest(Path(folder), train(Path(folder)))
    print(json.dumps({"environment": environment(), "runs": runs}, indent=1))
