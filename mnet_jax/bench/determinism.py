"""Whether the same runs give the same bits: again, resumed, and each on its own instead of together."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mnet_jax import results
from mnet_jax.bench import contest, correct
from mnet_jax.bench.contest import Result, Settings, Table

COMMAND = ("--config", "experiments/v2_linear_bottleneck.py", "--config.seeds=2", "--workers", "1")
FLAGS = "--xla_gpu_deterministic_ops=true"
RUNS = 6
"""Runs of the command, all in one program, on a CPU too."""
LONG, SHORT = 60, 1
"""Epochs: to be stopped in the middle; and few enough that rounding has not grown."""


def measure(settings: Settings, command: Sequence[str] = COMMAND, runs: int = RUNS, long: int = LONG) -> Result:
    """Trains an experiment with XLA's deterministic kernels, in processes of their own; compares the weights."""
    del settings
    together, alone = f"--config.runs_per_job={runs}", "--config.runs_per_job=1"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        scratch = Path(folder)

        def weights(name: str, epochs: int, jobs: str, cache: str, stops: bool = False) -> dict[str, Any]:
            given = [*command, jobs, f"--config.train.epochs={epochs}"]
            return _trained(given, scratch / name, scratch / cache, stops)

        first = weights("first", long, together, "one")
        again = weights("again", long, together, "two")
        resumed = weights("resumed", long, together, "one", stops=True)
        few, single = (weights(name, SHORT, jobs, "one") for name, jobs in (("few", together), ("single", alone)))
    rows = [
        ("trained again, compiled anew", *_compared(again, first)),
        ("stopped by SIGTERM, resumed", *_compared(resumed, first)),
        (f"each run in its own program, {SHORT} epoch", *_compared(single, few)),
    ]
    title = f"Weights of {len(first)} runs after {long} epochs, {FLAGS}"
    raw = {"first": first, "again": again, "resumed": resumed}
    digests = {name: {run: _digest(arrays) for run, arrays in of.items()} for name, of in raw.items()}
    return Result([Table(title, ("", "runs", "equal bit by bit", "largest relative difference"), rows)], digests)


def _trained(command: Sequence[str], workdir: Path, cache: Path, stops: bool) -> dict[str, dict[str, np.ndarray]]:
    """{run: weights}. With `stops` the process gets SIGTERM in the middle of the first job, and the command again."""
    import safetensors.numpy

    process = [sys.executable, "-m", "mnet_jax.main", *command, "--workdir", str(workdir)]
    environment = os.environ | {
        "XDG_CACHE_HOME": str(cache),
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}".strip(),
    }
    contest.say(" ".join(process))
    statuses = []
    while not statuses or (statuses[-1] == 75 and len(statuses) < 3):
        with subprocess.Popen(process, env=environment, cwd=contest.ROOT, stdout=subprocess.DEVNULL) as running:
            while stops and not statuses and running.poll() is None:
                if any(map(_is_half, workdir.glob("jobs/*/progress.json"))):
                    running.send_signal(signal.SIGTERM)
                    break
                time.sleep(0.02)
        statuses.append(running.returncode)
    if statuses != ([75, 0] if stops else [0]):
        raise ValueError(f"{' '.join(process)}: exit statuses {statuses}")
    runs = [run.name for run in results.read_sweep(workdir).runs]
    return {run: safetensors.numpy.load_file(results.run_dir(workdir, run) / "weights.safetensors") for run in runs}


def _is_half(progress: Path) -> bool:
    try:
        line = json.loads(progress.read_text())
    except (OSError, ValueError):
        return False
    return 2 * line["step"] > line["steps"]


def _compared(got: dict[str, Any], expected: dict[str, Any]) -> tuple[str, str, str]:
    assert got.keys() == expected.keys()
    equal = sum(_digest(got[run]) == _digest(expected[run]) for run in expected)
    worst = max(correct.relative(got[run], expected[run]) for run in expected)
    return str(len(expected)), f"{equal} of {len(expected)}", f"{worst:.1e}" if worst else "0"


def _digest(arrays: dict[str, np.ndarray]) -> str:
    return hashlib.sha256(b"".join(arrays[name].tobytes() for name in sorted(arrays))).hexdigest()[:16]
