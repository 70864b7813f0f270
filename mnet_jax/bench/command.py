"""The README's first command in seconds, by what they were spent on."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from mnet_jax.bench import contest
from mnet_jax.bench.contest import Result, Settings, Table

COMMAND = ("--config", "experiments/v2_linear_bottleneck.py")


def measure(settings: Settings, command: Sequence[str] = COMMAND) -> Result:
    """Runs it twice from scratch: the first start compiles, the second finds its programs on disk."""
    del settings
    spent: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        for start in ("first start", "second start"):
            spent[start] = _run(command, Path(scratch), start.replace(" ", "-"))
    stages = list(dict.fromkeys(stage for seconds in spent.values() for stage in seconds))
    rows = [(start, *(f"{seconds.get(stage, 0):.1f}" for stage in stages)) for start, seconds in spent.items()]
    title = f"python -m mnet_jax.main {' '.join(command)}: seconds, by stage summed over its workers"
    return Result([Table(title, ("", *stages), rows)], spent)


def _run(command: Sequence[str], scratch: Path, name: str) -> dict[str, float]:
    """{"exit", "wall", "runs", stage..}: the stages are those of the rows' `timing`."""
    workdir, begin = scratch / name, time.perf_counter()
    environment = os.environ | {"XDG_CACHE_HOME": str(scratch / "cache")}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    process = [sys.executable, "-m", "mnet_jax.main", *command, "--workdir", str(workdir)]
    contest.say(" ".join(process))
    done = subprocess.run(process, check=False, env=environment, cwd=contest.ROOT, stdout=subprocess.DEVNULL)
    rows = [json.loads(path.read_text()) for path in workdir.glob("runs/*/result.json")]
    stages: dict[str, float] = {"exit": done.returncode, "wall": time.perf_counter() - begin, "runs": len(rows)}
    for row in rows:
        for stage, seconds in row["timing"].items():
            if isinstance(seconds, int | float):
                stages[stage] = stages.get(stage, 0.0) + seconds
    return stages
