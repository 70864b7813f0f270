"""What a sweep leaves on disk, its one home: written, read and merged here.

A workdir holds::

    sweep.json                     the plan: base config, arms, runs, jobs, claim, command
    jobs/linear-s0/progress.json   where that process is
    jobs/linear-s0/checkpoints/    only while the job is in progress
    experiment.py                  the experiment file as it was planned, where it brings code (`mnet_jax.experiment`)
    runs/linear-s0/lock            locked (flock) by the process that trains this run
    runs/linear-s0/result.json     the row of a finished run
    runs/linear-s0/metrics.jsonl   one line an evaluation or epoch
    runs/linear-s0/arrays.npz      arrays that figures need, where a task returns any
    runs/linear-s0/weights.safetensors
    latency.json                   of the arms, where `python -m mnet_jax.bench --config` measured it
    report.md, report.html, figures/ (SVG, PDF), tables/ (CSV, LaTeX)
    .report.lock                   locked (flock) by the process that writes these
"""

import json
import os
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mnet_jax.config import claims
from mnet_jax.config.claims import Claim
from mnet_jax.errors import UserError
from mnet_jax.tasks.base import Metric


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


def to_json(value: Any) -> str:
    return json.dumps(value, indent=1, allow_nan=True) + "\n"


def read_json(path: Path) -> Any:
    """Reads one JSON file; a damaged one is a UserError that names it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error}); move it away and run the command again") from error


@dataclass(frozen=True)
class Need:
    """Weights that an arm's runs cannot start without: those of another arm's run of the same seed, or of a file.

    `role`    "init_from" (the run starts from them) or "teacher" (the loss sees what they answer).
    `arm`     the arm, "" for a file.
    `file`    the weights file, "" for an arm.
    `sha256`  of that file when it was planned.
    """

    role: str
    arm: str = ""
    file: str = ""
    sha256: str = ""


@dataclass(frozen=True)
class Arm:
    """One variant of the sweep.

    `name`        short, unique, usable in a file name.
    `overrides`   dotted config keys, as `sweep(config)` gave them.
    `lr`          the base learning rate it is trained with.
    `same_lr_as`  the arm of which this is a copy at the baseline's learning rate, "" for an arm of the sweep itself.
    `variant`     of a tuning: the arm whose learning rate is tried here.
    `needs`       weights that its runs cannot start without.
    `network`     digest of the names and shapes of its weights, "" where nothing is trained.
    `cost`        {"resolution", "madds", "params"} of an image in an evaluation, and {"images"}: those that a run
                  trains on.
    """

    name: str
    overrides: dict[str, Any]
    lr: float
    same_lr_as: str = ""
    variant: str = ""
    needs: tuple[Need, ...] = ()
    network: str = ""
    cost: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """An arm and a seed. `name` is also the name of its folder."""

    name: str
    arm: str
    seed: int


@dataclass(frozen=True)
class Job:
    """Runs of one compiled program that one process trains and checkpoints together."""

    name: str
    program: str
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Sweep:
    """The plan of a workdir (`sweep.json`). `config` is the base config, flat; the first arm is the baseline.

    `metrics`  every metric that a row may have, the deciding one of a claim that names none first.
    `code`     {"file", "sha256"} of the experiment file where it brings code that the training needs; else {}.
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
    code: dict[str, str] = field(default_factory=dict)

    @property
    def runs(self) -> tuple[Run, ...]:
        return tuple(run for job in self.jobs for run in job.runs)

    def arm(self, name: str) -> Arm:
        return self._arms[name]

    @cached_property
    def _arms(self) -> dict[str, Arm]:
        return {arm.name: arm for arm in self.arms}

    def metric(self, name: str) -> Metric:
        return next(metric for metric in self.metrics if metric.name == name)


PHASES = ("start", "compile", "data", "steps", "evaluation", "writing")
"""What the seconds of a run are spent on."""


def write_sweep(workdir: Path, sweep: Sweep) -> None:
    record = {entry.name: getattr(sweep, entry.name) for entry in fields(sweep)}
    record["claim"] = claims.to_json(sweep.claim)
    for name in ("metrics", "arms", "jobs"):
        record[name] = [asdict(entry) for entry in record[name]]
    write_atomic(workdir / "sweep.json", to_json(record))


def read_sweep(workdir: Path) -> Sweep:
    """Reads the plan of a workdir; UserError where there is none, and where it is not one of this version."""
    path = workdir / "sweep.json"
    if not path.exists():
        raise UserError(f"{workdir} holds no sweep.json: not a workdir, or nothing was planned in it yet")
    record = read_json(path)
    try:
        jobs = tuple(
            Job(job["name"], job["program"], tuple(Run(**run) for run in job["runs"])) for job in record["jobs"]
        )
        arms = tuple(Arm(**arm | {"needs": tuple(Need(**need) for need in arm["needs"])}) for arm in record["arms"])
        metrics = tuple(Metric(**metric) for metric in record["metrics"])
        parsed = {"claim": claims.parse(record["claim"], str(path)), "metrics": metrics, "arms": arms, "jobs": jobs}
        plan = Sweep(**record | parsed)
        if not (arms and jobs and metrics and isinstance(plan.config, dict)):
            raise ValueError("it has no arms, no jobs, no metrics or no config")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read: {type(error).__name__}: {error}; it is damaged, or of another version of mnet_jax"
        ) from error
    return plan


def run_dir(workdir: Path, run: str) -> Path:
    return workdir / "runs" / run


def job_dir(workdir: Path, job: str) -> Path:
    return workdir / "jobs" / job


def is_done(workdir: Path, run: str) -> bool:
    return (run_dir(workdir, run) / "result.json").exists()


def write_row(workdir: Path, row: dict[str, Any]) -> None:
    """Writes the row of a finished run: the last thing a run does, so its existence means that the run is whole."""
    write_atomic(run_dir(workdir, row["run"]) / "result.json", to_json(row))


def read_rows(workdir: Path, sweep: Sweep) -> list[dict[str, Any]]:
    """The rows of the runs that are finished, in the order of the plan; UserError for one that is not the run's."""
    return [read_row(workdir, sweep, run) for run in sweep.runs if is_done(workdir, run.name)]


ROW_KEYS = ("experiment", "run", "arm", "seed", "lr", "overrides", "program", "metrics", "diverged_at")
ROW_PARTS = ("cost", "versions", "device", "data", "timing", "metrics")
"""Of a row, the keys whose values are dicts."""


def read_row(workdir: Path, sweep: Sweep, run: Run) -> dict[str, Any]:
    """The row of a finished run; UserError where it is damaged or another run's."""
    path = run_dir(workdir, run.name) / "result.json"
    row = read_json(path)
    if not isinstance(row, dict) or (missing := [key for key in (*ROW_KEYS, *ROW_PARTS) if key not in row]):
        lacks = f"lacks {', '.join(missing)}" if isinstance(row, dict) else f"is a {type(row).__name__}"
        raise UserError(f"{path} is no row of a run: it {lacks}; remove the folder and run the command again")
    if wrong := [key for key in ROW_PARTS if not isinstance(row[key], dict)]:
        raise UserError(f"{path}: {wrong[0]} is {row[wrong[0]]!r}; allowed: a dict")
    place = {"run": run.name, "arm": run.arm, "seed": run.seed}
    if other := [key for key, value in place.items() if row[key] != value]:
        raise UserError(
            f"{path} is the row of another run: its {other[0]} is {row[other[0]]!r}, this folder's is "
            f"{place[other[0]]!r}; remove the folder and run the command again"
        )
    units = {metric.name: metric.unit for metric in sweep.metrics}
    for name, value in row["metrics"].items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or (units.get(name) == "%" and not (0 <= value <= 1 or row["diverged_at"] is not None)):
            allowed = "a number from 0 to 1" if units.get(name) == "%" else "a number"
            raise UserError(f"{path}: {name} is {value!r}; allowed: {allowed}")
    return row


def scored_metrics(row: dict[str, Any], metrics: Iterable[Metric]) -> dict[str, float]:
    """The metrics of a row as they count: those of a diverged run are the level of guessing (`Metric.diverged`)."""
    values = dict(row["metrics"])
    if row["diverged_at"] is not None:
        values |= {metric.name: metric.diverged for metric in metrics if metric.diverged is not None}
    return values


def read_metrics(workdir: Path, run: str) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl; a last line cut short by a kill is left out. A broken one is a UserError."""
    path = run_dir(workdir, run) / "metrics.jsonl"
    if not path.exists():
        return []
    lines = []
    for number, text in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        try:
            line = json.loads(text)
        except ValueError as error:
            raise UserError(
                f"{path}, line {number} is not valid JSON ({error}); remove the folder to run again"
            ) from None
        if not isinstance(line, dict) or not all(isinstance(line.get(key), int) for key in ("epoch", "step")):
            raise UserError(f"{path}, line {number} has no epoch and step; remove the folder to run again")
        lines.append(line)
    return lines


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
    try:
        with np.load(path) as arrays:
            return dict(arrays)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} cannot be read ({error}); remove the folder to run again") from error


def write_latencies(workdir: Path, seconds: Mapping[str, Sequence[float]]) -> None:
    """Arm -> seconds an image, of each round in which all arms took turns."""
    write_atomic(workdir / "latency.json", to_json(seconds))


def read_latencies(workdir: Path) -> dict[str, list[float]]:
    """What `write_latencies` left; {} where nothing was measured. UserError where it is something else."""
    path = workdir / "latency.json"
    seconds = read_json(path) if path.exists() else {}
    if not isinstance(seconds, dict) or not all(
        isinstance(rounds, list) and all(isinstance(value, int | float) for value in rounds)
        for rounds in seconds.values()
    ):
        raise UserError(f"{path} is no {{arm: [seconds, ..]}}; remove it")
    return seconds


def comparable(row: dict[str, Any]) -> dict[str, Any]:
    """A row without what may differ between two identical runs: the clock."""
    return {key: value for key, value in row.items() if key != "timing"}


class Rows(list[dict[str, Any]]):
    """Rows of finished runs as flat records; see `load`."""

    def to_pandas(self) -> Any:
        """A pandas.DataFrame with a line for each run; needs pandas."""
        try:
            import pandas  # pyrefly: ignore
        except ImportError as error:
            raise UserError(f"to_pandas needs pandas: pip install pandas ({error})") from None
        return pandas.DataFrame.from_records(list(self))


def load(workdirs: str | Path | Sequence[str | Path]) -> Rows:
    """The finished runs of one or several workdirs, a flat record each.

    A record has "workdir", "experiment", "scale", "arm", "seed", "run", "lr", every override by its dotted key, every
    cost as "cost.NAME", every metric by its name, as stored (fractions from 0 to 1; a diverged run's as it counts), and
    "diverged_at", None or a step. UserError where a folder is no workdir, or a row is damaged.
    """
    records = Rows()
    for workdir in map(Path, [workdirs] if isinstance(workdirs, str | Path) else workdirs):
        sweep = read_sweep(workdir)
        for row in read_rows(workdir, sweep):
            keys = ("experiment", "scale", "arm", "seed", "run", "lr")
            records.append(
                {"workdir": str(workdir)}
                | {key: row[key] for key in keys}
                | row["overrides"]
                | {f"cost.{name}": value for name, value in row["cost"].items()}
                | scored_metrics(row, sweep.metrics)
                | {"diverged_at": row["diverged_at"]}
            )
    return records
