"""Where a row comes from: versions, device, and the plan's facts about the run."""

import functools
import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

import jax

import mnet_jax
from mnet_jax import runtime
from mnet_jax.results import Job, Run, Sweep


def describe(plan: Sweep, job: Job, run: Run) -> dict[str, Any]:
    """The part of a row that is known before the run starts."""
    arm, device = plan.arm(run.arm), jax.devices()[0]
    return {
        "experiment": plan.experiment,
        "scale": plan.scale,
        "run": run.name,
        "arm": arm.name,
        "seed": run.seed,
        "lr": arm.lr,
        "overrides": arm.overrides,
        "program": job.program,
        "code": plan.code.get("sha256", ""),
        "cost": {name: value for name, value in arm.cost.items() if name != "images"},
        "versions": versions(),
        "device": {
            "platform": device.platform,
            "kind": device.device_kind,
            "count": jax.device_count(),
            "threads": runtime.threads(),
        },
    }


@functools.cache
def versions() -> dict[str, str]:
    """Versions of what the numbers depend on; "" for what is not installed, and for a commit outside a git checkout."""
    root = Path(mnet_jax.__file__).parent.parent
    git = ["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = ""
    libraries = {name: _version(name) for name in ("jax", "jaxlib", "flax", "optax")}
    return {"mnet_jax": mnet_jax.__version__, **libraries, "python": platform.python_version(), "commit": commit}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
