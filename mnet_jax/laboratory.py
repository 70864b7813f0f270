"""The Python API: plan, train and report experiments, as the command line does."""

import collections
import contextlib
import functools
import glob
import inspect
import logging
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnet_jax import bucket, config, experiment, progress, results, runtime, workers
from mnet_jax.errors import UserError
from mnet_jax.experiment import Experiment
from mnet_jax.results import Sweep

if TYPE_CHECKING:
    from mnet_jax.report import Summary

VIRTUAL_DEVICES = 32
"""Most virtual CPU devices that a plan compiles for; for more, memory is extrapolated."""


@dataclass(frozen=True)
class Plan:
    """An experiment at a scale, what would be run, and the folder for it."""

    experiment: Experiment
    sweep: Sweep
    workdir: Path

    def __str__(self) -> str:
        from mnet_jax import sweep

        return sweep.describe(self.sweep)


def find(pattern: str) -> list[tuple[Path, str]]:
    """FILE[:SCALE], where FILE may be a glob -> the files, each with the scale, by default the file's."""
    file, _, scale = pattern.partition(":")
    return [(Path(match), scale or _default_scale(Path(match))) for match in sorted(glob.glob(file)) or [file]]


def _default_scale(path: Path) -> str:
    """The default of the file's `get_config(scale="digits")`; "digits" where it has none."""
    try:
        scale = inspect.signature(experiment.load(path).get_config).parameters["scale"].default
    except (UserError, KeyError, TypeError, ValueError):  # what is wrong with the file is said when it is planned
        return "digits"
    return scale if isinstance(scale, str) else "digits"


def plan(
    files: Sequence[str | Path],
    workdirs: Sequence[str | Path] = (),
    *,
    overrides: Mapping[str, Any] | None = None,
    mode: str = "train",
    out: str | Path = "runs",
    command: str = "",
) -> list[Plan]:
    """What the experiment files would run; nothing is written and nothing is trained.

    Args:
      files: FILE[:SCALE] each, or globs. Of several, those that do not take the scale are left out, with a line in the
        log that says why.
      workdirs: one folder for each file; by default OUT/NAME-SCALE.
      overrides: values of config fields, such as {"seeds": 3}.
      mode: "train", or "tune" for a grid of learning rates on other seeds.
      out: folder of the workdirs.
      command: what sweep.json says the plan was made by.

    Raises UserError for anything wrong in a file or an override.
    """
    from mnet_jax import capacity, sweep

    found = [pair for pattern in files for pair in find(str(pattern))]
    suffix = "-tune" if mode == "tune" else ""
    folders = [Path(folder) for folder in workdirs]
    folders = folders or [Path(out) / f"{path.stem}-{scale}{suffix}" for path, scale in found]
    if len(folders) != len(found):
        raise UserError(f"one workdir for each experiment file: got {len(folders)} and {len(found)}")
    plans = []
    for (path, scale), workdir in zip(found, folders, strict=True):
        loaded = experiment.load(path)
        if len(found) > 1:
            try:
                sweep.base_config(loaded, scale)
            except UserError as reason:
                logging.info("skipped %s:%s: %s", path.stem, scale, reason)
                continue
        planned = sweep.plan(loaded, scale, overrides or {}, mode, command, capacity.runs_that_fit)
        plans.append(Plan(loaded, planned, workdir))
    return plans


def check(files: Sequence[str | Path], overrides: Mapping[str, Any] | None = None) -> None:
    """Raises the UserError of a wrong file, scale or field before JAX is imported; `plan` finds whatever else is wrong.

    The arguments are those of `plan`.
    """
    from mnet_jax import sweep

    found = [pair for pattern in files for pair in find(str(pattern))]
    for path, scale in found:
        loaded = experiment.load(path)
        if len(found) == 1 or _config_at(loaded, scale):
            sweep.overridden_config(loaded, scale, overrides or {})


def _config_at(loaded: Experiment, scale: str) -> Any:
    """The experiment's config at this scale; None where it does not take it."""
    from mnet_jax import sweep

    try:
        return sweep.overridden_config(loaded, scale, {})
    except UserError:
        return None


RUN_MINUTES = {"digits": 0.07, "cifar10_quick": 0.5, "cifar10": 6.7}
"""Minutes that one core takes for a run of a scale's MobileNetV2, where that was measured."""


def listing(files: Sequence[str | Path]) -> str:
    """The experiment files with the scales that each takes, its runs there, and about how long these cores take."""
    from mnet_jax import sweep

    cores, lines = len(workers.cores()), []
    for path in dict.fromkeys(path for pattern in files for path, _ in find(str(pattern))):
        loaded = experiment.load(path)
        lines.append(f"{path}\n    {loaded.doc.splitlines()[0]}")
        for scale in dict.fromkeys(scale for scales in config.TASK_SCALES.values() for scale in scales):
            if cfg := _config_at(loaded, scale):
                runs, each = sweep.runs(loaded, scale), RUN_MINUTES.get(scale)
                took = "minutes: --mode plan"
                if each and loaded.code.task_of(cfg).trains:
                    whole = max(1, round(runs * each / cores))
                    took = f"about {whole} minute{'s' * (whole > 1)} on {cores} core{'s' * (cores > 1)}"
                lines.append(f"    {scale:<14} {runs:>5} runs, {took}")
    return "\n".join(lines)


def minutes(plans: Sequence[Plan], processes: int | None = None) -> str:
    """How long each plan will take on this machine, in words; some steps of its programs are run to find out."""
    from mnet_jax import estimate

    trained = [plan for plan in plans if _trains(plan)]
    if not trained:
        return ""
    sampled = estimate.one_job_per_program([plan.sweep for plan in trained])
    with tempfile.TemporaryDirectory() as folder:
        workdirs = [Path(folder) / str(number) for number in range(len(sampled))]
        for workdir, sample in zip(workdirs, sampled, strict=True):
            results.write_sweep(workdir, sample)
        for workdir, plan in zip(workdirs, trained, strict=False):
            experiment.write_copy(workdir, plan.experiment)
        pins = worker_pins(processes, sum(len(plan.sweep.jobs) for plan in trained))
        if len(pins) > 1:
            workers.run(workdirs, pins, timing=True)
        else:
            estimate.time_jobs(workdirs)
        costs = estimate.read(workdirs)
    return estimate.describe([plan.sweep for plan in trained], sampled, costs, max(1, len(pins)))


def _trains(plan: Plan) -> bool:
    from mnet_jax.arms import arm_config

    cfg = arm_config(plan.sweep.config, plan.sweep.arms[0])
    return plan.experiment.code.task_of(cfg).trains


def train(plans: Sequence[Plan], processes: int | None = None, out: Path | None = None, bucket_url: str = "") -> int:
    """Trains what is missing, and the seeds or rates that the finished runs then ask for; reports.

    `processes` by default is one for each core on a CPU, else one; 1 works in this process. With a `bucket_url`, the
    folder `out` is kept the same as that one (`mnet_jax/bucket.py`). Returns the exit status: 0 when every run is
    finished, 75 where work is left (the same call goes on), 1 where something failed.
    """
    from mnet_jax import sharding

    if not bucket_url:
        for plan in plans:
            if (there := bucket.of(plan.workdir)) is not None:
                raise UserError(f"{plan.workdir} is kept the same as {there}: give --bucket, or choose another --out")
        return _train(plans, processes, out)
    folder = out or Path("runs")
    if outside := [plan.workdir for plan in plans if not plan.workdir.is_relative_to(folder)]:
        raise UserError(f"--bucket keeps {folder}, and {outside[0]} is not in it; choose another --workdir or --out")
    bucket.mark(folder, bucket_url)
    with contextlib.ExitStack() as stack:
        sharding.on_first(lambda: stack.enter_context(bucket.Owner(folder)))
        return _train(plans, processes, out)


def _train(plans: Sequence[Plan], processes: int | None, out: Path | None) -> int:
    from mnet_jax import sharding, sweep

    begin = time.monotonic()
    while True:
        plans = sharding.on_first(functools.partial(_written, plans)) or plans
        for plan in plans:
            bucket.pull(plan.workdir)
        status, failures = _train_missing(plans, processes)
        finished = not (status or failures)
        more = finished and any(sweep.widened(plan.workdir, plan.sweep) != plan.sweep for plan in plans)
        if not sharding.broadcast_from_first(more):
            break
    reported = sharding.on_first(functools.partial(_reported, plans, failures, out))
    if sharding.is_first():
        logging.info("all of it took %s", progress.clock(time.monotonic() - begin))
    return sharding.broadcast_from_first(status if reported is None else reported)


def _reported(plans: Sequence[Plan], failures: Sequence[str], out: Path | None) -> int:
    """The exit status, after the report, a line for each failure, and how many jobs are left."""
    from mnet_jax import jobs

    summaries = report([plan.workdir for plan in plans], out)
    left = sum(len(jobs.left(plan.workdir, plan.sweep)) for plan in plans)
    failures = [*failures, *(line for plan in plans for line in jobs.stopped(plan.workdir, plan.sweep))]
    for line in failures:
        logging.error(line)
    if left:
        all_jobs = sum(len(plan.sweep.jobs) for plan in plans)
        logging.info("%d of %d jobs are left; the same command goes on", left, all_jobs)
        return 1 if failures else 75
    return int(len(summaries) < len(plans))


def _written(plans: Sequence[Plan]) -> list[Plan]:
    from mnet_jax import jobs, sweep

    written = [
        replace(plan, sweep=jobs.write(plan.workdir, sweep.widened(plan.workdir, plan.sweep), plan.experiment))
        for plan in plans
    ]
    for plan in plans:
        bucket.push(plan.workdir)
    return written


def _train_missing(plans: Sequence[Plan], processes: int | None) -> tuple[int, list[str]]:
    """In this process or in one for each core; returns the exit status and a line for each worker that failed."""
    import jax

    from mnet_jax import jobs, sharding, worker

    if not sharding.is_first():
        return worker.work([plan.workdir for plan in plans]), []
    left = {plan.workdir: len(some) for plan in plans if (some := jobs.left(plan.workdir, plan.sweep))}
    several = jax.process_count() > 1
    pins = worker_pins(processes, sum(left.values()))
    if not left and not several:
        return 0, []
    logging.info("%s", _device(pins))
    with progress.shown({plan.workdir: plan.sweep for plan in plans}):
        if len(pins) > 1:
            hang_seconds = max(plan.sweep.config["train.hang_seconds"] for plan in plans)
            return workers.run(list(left), pins, hang_seconds)
        return worker.work([plan.workdir for plan in plans] if several else list(left)), []


def _device(pins: Sequence[int]) -> str:
    """What trains, and a hint where an accelerator is there that JAX cannot use."""
    import jax

    kinds = collections.Counter(device.device_kind for device in jax.devices())
    devices = " and ".join(f"{count} x {kind}" for kind, count in kinds.items())
    where = f"{len(pins)} worker processes" if len(pins) > 1 else "this process"
    return " ".join(filter(None, [f"training on {devices}, in {where}", runtime.accelerator_hint()]))


def worker_pins(processes: int | None, jobs: int) -> list[int]:
    """The core of each worker process; none where this process is to do the work itself, on an accelerator."""
    import jax

    if processes is not None and processes < 1:
        raise UserError(f"--workers {processes}; allowed: 1 or more")
    cores = workers.cores() if jax.default_backend() == "cpu" and jax.process_count() == 1 else []
    if processes and processes > 1 and not cores:
        raise UserError(f"--workers {processes}: only a CPU is shared by processes; allowed: 1, with runs_per_job")
    most = len(cores) if processes is None else processes
    return [cores[index % len(cores)] for index in range(most) if cores][:jobs]


def report(workdirs: Sequence[str | Path], out: Path | None = None, readme: Path | None = None) -> "list[Summary]":
    """Writes the report of every workdir and, of several, the index and the page of all in `out`.

    Prints the verdicts. A workdir that is refused is named in the log and left out of what is returned; of a single one
    the UserError is raised. `readme` is a Markdown file whose table of results is rewritten.
    """
    from mnet_jax import report as pages

    folders = [Path(folder) for folder in workdirs]
    if len(folders) > 1:
        planned = [folder for folder in folders if (folder / "sweep.json").exists()]
        for folder in folders:
            if folder not in planned and not folder.is_file():
                logging.info("skipped %s: it holds no sweep.json", folder)
        folders = planned or folders[:1]
    written = {}
    for folder in folders:
        try:
            written[folder] = pages.write(folder)
        except UserError as error:
            if len(folders) == 1:
                raise
            logging.error("error: %s: %s", folder, error)
            continue
        print(pages.to_text(written[folder][0], color=sys.stdout.isatty()))
        print(f"{folder / 'report.html'}\n{folder / 'report.md'}")
    summaries = [summary for summary, _ in written.values()]
    if readme:
        pages.write_readme(readme, summaries)
    if len(folders) > 1:
        out = out or folders[0].parent
        pages.write_index(out, written)
        print(pages.index_text(summaries))
        print(f"{out / 'index.html'}\n{out / 'report.html'}")
    return summaries


def capacities(plans: Sequence[Plan], devices: int, bandwidth: float = 0.0) -> str:
    """What a step of each plan needs on so many devices, as tables; see `mnet_jax.capacity`."""
    from mnet_jax import capacity

    return "\n\n".join(capacity.table_for_sweep(plan.sweep, plan.experiment.code, devices, bandwidth) for plan in plans)


def virtual_devices(devices: int) -> None:
    """Makes JAX, which must not have started, compile for this number of virtual CPU devices, or for the most."""
    os.environ |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(min(devices, VIRTUAL_DEVICES))}


def shown_command(arguments: Sequence[str]) -> str:
    """The command line that sweep.json keeps."""
    return shlex.join(["python", "-m", "mnet_jax.main", *arguments])
