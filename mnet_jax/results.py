"""What a sweep leaves on disk, its one home: written, read and merged here.

A workdir holds::

    sweep.json                     the plan: base config, arms, runs, jobs, claim, command
    jobs/linear-s0/lock            held (flock) by the process that trains this job
    jobs/linear-s0/progress.json   where that process is
    jobs/linear-s0/checkpoints/    only while the job is in progress
    runs/linear-s0/result.json     the row of a finished run
    runs/linear-s0/metrics.jsonl   one line an evaluation or epoch
    runs/linear-s0/arrays.npz      arrays that figures need, where a task makes any
    runs/linear-s0/weights.safetensors
    latency.json                   of the arms, where `python -m mnet_jax.bench --config` measured it
    report.md, report.html, figures/ (SVG, PDF), tables/ (CSV, LaTeX)
    .report.lock                   held (flock) by the process that writes these
"""

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mnet_jax.config import claims
from mnet_jax.config.claims import Claim
from mnet_jax.tasks.base import Metric

PHASES = ("start", "compile", "data", "steps", "evaluation", "writing")
"""What a run's `timing` tells apart."""


def write_atomic(path: Path, data: str | bytes, durable: bool = True) -> None:
    """Writes a file so that a reader sees the old one or the new one, never half of it.

    With `durable` that holds for a machine that dies as well; without, the write does not wait for the disk.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(part, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def report_lock(workdir: Path) -> Iterator[None]:
    """Waits until no other process makes the report of this workdir; the last one to come in sees every row.

    Where no file can be locked it does not wait.
    """
    import fcntl

    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):
            fcntl.flock(held.enter_context(open(workdir / ".report.lock", "w")), fcntl.LOCK_EX)
        yield


def to_json(value: Any) -> str:
    return json.dumps(value, indent=1, allow_nan=True) + "\n"


def read_json(path: Path) -> Any:
    """Reads one JSON file; a damaged one is a ValueError that names it."""
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); move it away and run the command again") from error


@dataclass(frozen=True)
class Arm:
    """One variant of the sweep.

    `name`       short, unique, usable in a file name.
    `overrides`  dotted config keys, as `sweep(config)` gave them.
    `lr`         the base learning rate it is trained with.
    `same_lr_as` the arm of which this is a copy at the baseline's learning rate, "" otherwise.
    `variant`    of a tuning: the arm whose learning rate is tried here.
    `needs`      names of the arms whose trained weights this one starts from or looks at.
    `cost`       {"madds", "params"} per image, and {"images"}: images that one run trains on.
    """

    name: str
    overrides: dict[str, Any]
    lr: float
    same_lr_as: str = ""
    variant: str = ""
    needs: tuple[str, ...] = ()
    cost: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """An arm and a seed. `name` is also the name of its folder."""

    name: str
    arm: str
    seed: int


@dataclass(frozen=True)
class Job:
    """Runs of one compiled program that one process claims, trains and checkpoints together."""

    name: str
    program: str
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Sweep:
    """The plan of a workdir (`sweep.json`).

    `config` is the base config, flat; the first arm is the baseline. `metrics` are all that a row may have, in the
    order of a report; the first is the task's default.
    """

    experiment: str
    scale: str
    mode: str
    title: str
    command: str
    config: dict[str, Any]
    claim: Claim
    metrics: tuple[Metric, ...]
    arms: tuple[Arm, ...]
    jobs: tuple[Job, ...]

    @property
    def runs(self) -> tuple[Run, ...]:
        return tuple(run for job in self.jobs for run in job.runs)

    def arm(self, name: str) -> Arm:
        return next(arm for arm in self.arms if arm.name == name)

    def metric(self, name: str) -> Metric:
        return next(metric for metric in self.metrics if metric.name == name)


def write_sweep(workdir: Path, sweep: Sweep) -> None:
    record = {**vars(sweep), "arms": [vars(arm) for arm in sweep.arms]}
    record["claim"] = claims.to_json(sweep.claim)
    record["metrics"] = [asdict(metric) for metric in sweep.metrics]
    record["jobs"] = [{**vars(job), "runs": [vars(run) for run in job.runs]} for job in sweep.jobs]
    write_atomic(workdir / "sweep.json", to_json(record))


def read_sweep(workdir: Path) -> Sweep:
    """Reads the plan of a workdir; ValueError where there is none."""
    path = workdir / "sweep.json"
    if not path.exists():
        raise ValueError(f"{workdir} holds no sweep.json: not a workdir, or nothing was planned in it yet")
    record = read_json(path)
    jobs = tuple(
        Job(job["name"], job["program"], tuple(Run(**run) for run in job["runs"])) for job in record.pop("jobs")
    )
    arms = tuple(Arm(**{**arm, "needs": tuple(arm["needs"])}) for arm in record.pop("arms"))
    claim = claims.parse(record.pop("claim"), str(path))
    metrics = tuple(Metric(**metric) for metric in record.pop("metrics"))
    return Sweep(**record, claim=claim, metrics=metrics, arms=arms, jobs=jobs)


def run_dir(workdir: Path, run: str) -> Path:
    return workdir / "runs" / run


def job_dir(workdir: Path, job: str) -> Path:
    return workdir / "jobs" / job


def is_done(workdir: Path, run: str) -> bool:
    return (run_dir(workdir, run) / "result.json").exists()


def write_row(workdir: Path, row: dict[str, Any]) -> None:
    """Writes the row of a finished run: the last thing a run does, so its existence means that the run is whole."""
    write_atomic(run_dir(workdir, row["run"]) / "result.json", to_json(row))


def read_rows(workdir: Path, runs: Iterable[Run]) -> list[dict[str, Any]]:
    """The rows of the runs that are finished, in the order of the plan."""
    return [read_json(run_dir(workdir, run.name) / "result.json") for run in runs if is_done(workdir, run.name)]


def scored_metrics(row: Mapping[str, Any], metrics: Iterable[Metric]) -> dict[str, float]:
    """The metrics of a row as they count, as stored: those of a diverged run are `Metric.diverged`.

    Of a diverged run those metrics are left out for which such a run has no score.
    """
    if row["diverged_at"] is None:
        return dict(row["metrics"])
    scores = {metric.name: metric.diverged for metric in metrics if metric.name in row["metrics"]}
    return {name: score for name, score in scores.items() if score is not None}


def read_metrics(workdir: Path, run: str) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl; a last line cut short by a kill is left out."""
    path = run_dir(workdir, run) / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def write_arrays(workdir: Path, run: str, arrays: dict[str, np.ndarray]) -> None:
    path = run_dir(workdir, run) / "arrays.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{os.getpid()}.npz")
    np.savez_compressed(part, allow_pickle=False, **arrays)
    os.replace(part, path)


def read_arrays(workdir: Path, run: str) -> dict[str, np.ndarray]:
    path = run_dir(workdir, run) / "arrays.npz"
    if not path.exists():
        return {}
    with np.load(path) as arrays:
        return dict(arrays)


def write_latencies(workdir: Path, seconds: Mapping[str, Sequence[float]]) -> None:
    """Arm -> seconds an image, of each round in which all arms took turns."""
    write_atomic(workdir / "latency.json", to_json(seconds))


def read_latencies(workdir: Path) -> dict[str, list[float]]:
    """What `write_latencies` left; {} where nothing was measured."""
    path = workdir / "latency.json"
    return read_json(path) if path.exists() else {}


def comparable(row: dict[str, Any]) -> dict[str, Any]:
    """A row without what may differ between two identical runs: the clock."""
    return {key: value for key, value in row.items() if key != "timing"}
