"""The README's first command in seconds, by what they were spent on."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from mnet_jax.bench import harness
from mnet_jax.bench.harness import Result, Settings
from mnet_jax.table import Table

COMMAND = ("--config", "experiments/v2_linear_bottleneck.py")


def measure(settings: Settings, command: Sequence[str] = COMMAND) -> Iterator[Result]:
    """Runs it twice from scratch: the first start compiles, the second finds its programs on disk."""
    del settings
    title = f"python -m mnet_jax.main {' '.join(command)}: seconds, by stage summed over its workers"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        for start in ("first start", "second start"):
            seconds = _run(command, Path(scratch), start.replace(" ", "-"))
            cells = (start, *(f"{value:.1f}" for value in seconds.values()))
            yield Result(start, [Table(title, ("", *seconds), [cells])], seconds)


def _run(command: Sequence[str], scratch: Path, name: str) -> dict[str, float]:
    """{"exit", "wall", "runs", stage..}: the stages are those of the rows' `timing`."""
    workdir, begin = scratch / name, time.perf_counter()
    environment = os.environ | {"XDG_CACHE_HOME": str(scratch / "cache")}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    process = [sys.executable, "-m", "mnet_jax.main", *command, "--workdir", str(workdir)]
    harness.log(" ".join(process))
    done = subprocess.run(process, check=False, env=environment, cwd=harness.ROOT, stdout=subprocess.DEVNULL)
    rows = [json.loads(path.read_text()) for path in workdir.glob("runs/*/result.json")]
    stages: dict[str, float] = {"exit": done.returncode, "wall": time.perf_counter() - begin, "runs": len(rows)}
    for row in rows:
        for stage, seconds in row["timing"].items():
            if isinstance(seconds, int | float):
                stages[stage] = stages.get(stage, 0.0) + seconds
    return stages
