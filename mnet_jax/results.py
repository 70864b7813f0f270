"""What a sweep leaves on disk, its one home: written, read and merged here.

A workdir holds::

    sweep.json                     the plan: base config, arms, runs, jobs, claim, command
    jobs/linear-s0/progress.json   where that process is
    jobs/linear-s0/checkpoints/    only while the job is in progress
    experiment.py                  the experiment file as it was planned, where it brings code (`mnet_jax.experiment`)
    runs/linear-s0/lock            locked (flock) by the process that trains this run
    runs/linear-s0/result.json     the row of a finished run
    runs/linear-s0/metrics.jsonl   one line an evaluation or epoch
    runs/linear-s0/arrays.npz      arrays that figures need; "image/NAME" is what the task keeps of each held-out image
    runs/linear-s0/weights.safetensors
    latency.json                   of the arms, where `python -m mnet_jax.bench --config` measured it
    report.md, report.html, figures/ (SVG, PDF), tables/ (CSV, LaTeX)
    .report.lock                   locked (flock) by the process that writes these
    .report.json                   what they were made of, so that they are drawn again only when that has changed
"""

import contextlib
import json
import math
import os
import socket
import time
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NotRequired, Self, TypedDict

import numpy as np

from mnet_jax import config, schema
from mnet_jax.config import claims
from mnet_jax.config.claims import Claim
from mnet_jax.errors import UserError
from mnet_jax.fields import coerce
from mnet_jax.tasks.base import Metric


@contextlib.contextmanager
def named_in_errors(path: Path) -> Iterator[None]:
    """An OSError inside that names no file, such as a full disk's, names this one."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def write_atomic(path: Path, data: str | bytes, durable: bool = True) -> None:
    """Writes a file so that a reader sees the old one or the new one, never half of it.

    With `durable` that holds for a machine that dies as well; without, the write does not wait for the disk. Names of
    files that are not Unicode are written with backslashes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with named_in_errors(path), open(part, "wb") as file:
            file.write(data.encode(errors="backslashreplace") if isinstance(data, str) else data)
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
    `lr_at_edge`  whether its tuned rate was the lowest or the highest that was tried, so that others may be better.
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
    lr_at_edge: bool = False
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

    @classmethod
    def of(cls, program: str, runs: tuple[Run, ...]) -> Self:
        """The job of these runs; its name says which they are, so that a checkpoint under it is theirs."""
        name = runs[0].name if len(runs) == 1 else f"{runs[0].name}+{len(runs) - 1}-{runs[-1].name}"
        return cls(name, program, runs)


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
    record: dict[str, Any] = {"format": FORMAT}
    record |= {entry.name: getattr(sweep, entry.name) for entry in fields(sweep)}
    record["claim"] = claims.to_json(sweep.claim)
    for name in ("metrics", "arms", "jobs"):
        record[name] = [asdict(entry) for entry in record[name]]
    write_atomic(workdir / "sweep.json", to_json(record))


FORMAT = 1
"""Of sweep.json; to be raised when a change of it would be read wrongly."""


def read_sweep(workdir: Path) -> Sweep:
    """Reads the plan of a workdir; UserError where there is none, and where it is not one of this version."""
    path = workdir / "sweep.json"
    if not path.exists():
        raise UserError(f"{workdir} holds no sweep.json: not a workdir, or nothing was planned in it yet")
    record = schema.without_format(read_json(path), FORMAT, str(path))
    try:
        plan = schema.parse(record, Sweep, str(path))
        plan = replace(plan, claim=claims.parse(plan.claim, str(path)))
        _check_plan(plan, str(path))
    except UserError as error:
        raise UserError(f"{error}; the file is damaged, or of another version of mnet_jax") from error
    return plan


def _check_plan(plan: Sweep, where: str) -> None:
    """UserError where parts of a plan do not fit one another."""
    arms, runs = {arm.name for arm in plan.arms}, [run.name for run in plan.runs]
    if not (arms and runs and plan.metrics):
        raise UserError(f"{where} has no arms, no jobs or no metrics")
    if len(arms) < len(plan.arms) or len(set(runs)) < len(runs):
        raise UserError(f"{where} has two arms or two runs of one name")
    if plan.mode not in ("train", "tune"):
        raise UserError(f"{where}: mode is {plan.mode!r}; allowed: train, tune")
    if "task" not in plan.config:
        raise UserError(f"{where}: config lacks task")
    for at, values in (("config", plan.config), *((f"arm {arm.name}", arm.overrides) for arm in plan.arms)):
        for name, value in values.items():
            if name in config.FIELDS:
                coerce(name, config.FIELDS[name]._replace(allowed=None), value, f"{where}: {at}")
    for arm in plan.arms:
        if not all(math.isfinite(value) and value >= 0 for value in (arm.lr, *arm.cost.values())):
            raise UserError(f"{where}: arm {arm.name} has lr {arm.lr} and cost {arm.cost}; allowed: positive numbers")
        if arm.cost and not arm.cost.keys() >= {"madds", "params", "images"}:
            raise UserError(f"{where}: the cost of arm {arm.name} lacks madds, params or images")
        for other in (arm.same_lr_as, *(need.arm for need in arm.needs)):
            if other and other not in arms:
                raise UserError(f"{where}: arm {arm.name} needs arm {other!r}, which the plan does not have")
    for job in plan.jobs:
        _check_name(job.name, f"{where}: the job")
        for run in job.runs:
            if run.arm not in arms or run.name != f"{run.arm}-s{run.seed}" or not 0 <= run.seed < 2**31:
                raise UserError(f"{where}: run {run.name!r} is not one of the arms', with a seed from 0")
            _check_name(run.name, f"{where}: the run")
    if plan.mode == "train" and plan.claim.contrasts:
        claims.check(plan.claim, [arm.name for arm in plan.arms], ["", *(m.name for m in plan.metrics)], where)


def _check_name(name: str, what: str) -> None:
    """UserError for what would be another folder than one of the workdir's."""
    if not name or name in (".", "..") or "/" in name or "\0" in name:
        raise UserError(f"{what} {name!r}; allowed: the name of a folder")


NAME = r"[\w.=+@,-]+"
"""What an arm can be called: its runs' folders are named so."""


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


class Device(TypedDict):
    """Where a run was trained: `count` devices of this kind, `threads` of the process on the host."""

    platform: str
    kind: str
    count: int
    threads: int | None
    depthwise: NotRequired[str]


class Row(TypedDict):
    """What a finished run leaves in its result.json; the claim is decided by `metrics`, as stored."""

    experiment: str
    scale: str
    run: str
    arm: str
    seed: int
    lr: float
    overrides: dict[str, Any]
    program: str
    code: NotRequired[str]
    cost: dict[str, float]
    versions: dict[str, str]
    device: Device
    data: dict[str, str | int]
    needs: NotRequired[list[dict[str, str]]]
    metrics: dict[str, float]
    diverged_at: int | None
    timing: dict[str, float | str]


def read_row(workdir: Path, sweep: Sweep, run: Run) -> dict[str, Any]:
    """The row of a finished run; UserError where it is damaged or another run's."""
    path = run_dir(workdir, run.name) / "result.json"
    try:
        row = schema.parse(read_json(path), Row, str(path))
        place = {"experiment": sweep.experiment, "scale": sweep.scale}
        place |= {"run": run.name, "arm": run.arm, "seed": run.seed}
        if other := [key for key, value in place.items() if row[key] != value]:
            raise UserError(
                f"{path} is the row of another run: its {other[0]} is {row[other[0]]!r}, this folder's is "
                f"{place[other[0]]!r}"
            )
        units = {metric.name: metric.unit for metric in sweep.metrics}
        for name, value in row["metrics"].items():
            if units.get(name) == "%" and not 0 <= value <= 1 and row["diverged_at"] is None:
                raise UserError(f"{path}: metrics.{name} is {value!r}; allowed: a number from 0 to 1")
        for name, seconds in row["timing"].items():
            if name in PHASES and not (isinstance(seconds, int | float) and 0 <= seconds < math.inf):
                raise UserError(f"{path}: timing.{name} is {seconds!r}; allowed: seconds")
    except UserError as error:
        raise UserError(f"{error}; remove the folder and run the command again") from error
    return row


def scored_metrics(row: dict[str, Any], metrics: Iterable[Metric]) -> dict[str, float]:
    """The metrics of a row as they count: a diverged run has the level of guessing (`Metric.diverged`), or no score."""
    if row["diverged_at"] is None:
        return dict(row["metrics"])
    return {metric.name: metric.diverged for metric in metrics if metric.diverged is not None}


def read_metrics(workdir: Path, run: str) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl; a last line cut short by a kill is left out. A broken one is a UserError."""
    path = run_dir(workdir, run) / "metrics.jsonl"
    if not path.exists():
        return []
    lines = []
    for number, text in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        try:
            line = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{path}, line {number} is not valid JSON ({error}); remove the folder to run again"
            ) from None
        try:
            schema.parse(line, dict[str, float], f"{path}, line {number}")
            schema.parse(line, _Counters, f"{path}, line {number}")
            if lines and line["step"] <= lines[-1]["step"]:
                raise UserError(f"{path}, line {number}: step {line['step']} comes after step {lines[-1]['step']}")
        except UserError as error:
            raise UserError(f"{error}; remove the folder to run again") from None
        lines.append(line)
    return lines


class _Counters(TypedDict):
    """What every line of metrics.jsonl has."""

    epoch: int
    step: int


class Progress(TypedDict):
    """Where a job is: steps done of all, and when (`time.time()`) and by which process on which host that was said."""

    runs: list[str]
    step: int
    steps: int
    time: float
    process: int
    host: str


def write_progress(workdir: Path, job: Job, step: int, steps: int) -> None:
    """Says where this process is with a job; a machine that dies may lose it."""
    progress = Progress(
        runs=[run.name for run in job.runs],
        step=step,
        steps=steps,
        time=time.time(),
        process=os.getpid(),
        host=socket.gethostname(),
    )
    write_atomic(job_dir(workdir, job.name) / "progress.json", json.dumps(progress), durable=False)


def read_progress(workdir: Path, job: str) -> dict[str, Any] | None:
    """A `Progress`, None where a job is not in progress; what cannot be read counts as that: nothing depends on it."""
    path = job_dir(workdir, job) / "progress.json"
    try:
        progress = schema.parse(read_json(path), Progress, str(path))
    except (OSError, UserError):
        return None
    return progress if 0 <= progress["step"] <= progress["steps"] and progress["steps"] > 0 else None


PER_IMAGE = "image/"
"""What names of arrays begin with that have an entry for each held-out image (`mnet_jax.tasks.base.Task.per_image`)."""


def write_arrays(workdir: Path, run: str, arrays: dict[str, np.ndarray]) -> None:
    path = run_dir(workdir, run) / "arrays.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{os.getpid()}.npz")
    try:
        with named_in_errors(path):
            np.savez_compressed(part, allow_pickle=False, **arrays)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def read_arrays(workdir: Path, run: str) -> dict[str, np.ndarray]:
    path = run_dir(workdir, run) / "arrays.npz"
    if not path.exists():
        return {}
    try:
        with open(path, "rb") as file, np.load(file) as arrays:
            return dict(arrays)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} cannot be read ({error}); remove the folder to run again") from error


def write_latencies(workdir: Path, seconds: Mapping[str, Sequence[float]]) -> None:
    """Arm -> seconds an image, of each round in which all arms took turns."""
    write_atomic(workdir / "latency.json", to_json(seconds))


def read_latencies(workdir: Path) -> dict[str, list[float]]:
    """What `write_latencies` left; {} where nothing was measured. UserError where it is something else."""
    path = workdir / "latency.json"
    seconds = schema.parse(read_json(path) if path.exists() else {}, dict[str, list[float]], str(path))
    for arm, rounds in seconds.items():
        if not all(0 < value < math.inf for value in rounds):
            raise UserError(f"{path}: {arm} is {rounds}; allowed: seconds; remove the file to measure again")
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
