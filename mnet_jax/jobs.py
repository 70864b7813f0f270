"""The jobs of a workdir: the plan put there, and which of its jobs are finished, claimed or left."""

import contextlib
import itertools
from dataclasses import replace
from pathlib import Path

from mnet_jax import config, locks, results
from mnet_jax import experiment as experiments
from mnet_jax.errors import UserError
from mnet_jax.experiment import Experiment
from mnet_jax.results import Job, Need, Run, Sweep
from mnet_jax.schema import jsonable


def write(workdir: Path, sweep: Sweep, experiment: Experiment | None = None) -> Sweep:
    """Puts the plan into the workdir, where the same plan may stand already, or one with less; returns it.

    What may be more are seeds, and the rates of a tuning.

    No job of it trains runs that are finished. Raises UserError with the differences where the workdir belongs to
    another plan, and where files cannot be locked.
    """
    locks.check(workdir)
    if (workdir / "sweep.json").exists():
        old = results.read_sweep(workdir)
        _refuse_other(workdir, old, sweep, experiment)
        sweep = replace(sweep, jobs=tuple(part for job in sweep.jobs for part in _finished_apart(workdir, job, old)))
    if experiment:
        experiments.write_copy(workdir, experiment)
    results.write_sweep(workdir, sweep)
    return sweep


def _refuse_other(workdir: Path, old: Sweep, sweep: Sweep, experiment: Experiment | None) -> None:
    free = {"seeds", "seeds_max", "tune.seeds", *config.EXECUTION}
    if sweep.config["seeds_until"]:  # the spread of the first seeds decides, so which they are cannot change
        free.remove("seeds")
    defaults = jsonable(config.flatten(config.default()))
    differences = []
    for key, value in sweep.config.items():
        before = old.config.get(key, defaults[key])
        if before != value and key not in free:
            differences.append(f"{key}: {before!r} there, {value!r} now")
    differences += [
        f"{key}: {there!r} there, {now!r} now"
        for key in ("experiment", "scale", "mode")
        if (there := getattr(old, key)) != (now := getattr(sweep, key))
    ]
    planned = set(sweep.runs)
    there, now = ({arm.name: (arm.overrides, arm.needs) for arm in plan.arms} for plan in (old, sweep))
    compared = there if sweep.mode == "tune" else {**there, **now}
    if changed := [name for name in compared if there.get(name) != now.get(name)]:
        differences += [f"arm {name}: {there.get(name)} there, {now.get(name)} now" for name in changed[:3]]
    if missing := [run.name for run in old.runs if run not in planned]:
        differences.append(f"runs: {', '.join(missing[:3])} .. there, not now; seeds can be added, not taken away")
    if differences:
        raise UserError(
            f"{workdir} holds another plan ({'; '.join(differences)}); choose another --workdir, or remove it"
        )
    if experiment and old.code.get("sha256") != sweep.code.get("sha256"):
        raise UserError(experiments.changed(workdir, experiment))


def _finished_apart(workdir: Path, job: Job, old: Sweep) -> list[Job]:
    """The job as runs that have a row and runs that have none, unless a checkpoint of the old plan's may go on."""
    if job in old.jobs:
        return [job]
    done = [results.is_done(workdir, run.name) for run in job.runs]
    parts = [tuple(itertools.compress(job.runs, flags)) for flags in (done, [not flag for flag in done])]
    return [Job.of(job.program, runs) for runs in parts if runs]


def left(workdir: Path, sweep: Sweep) -> list[Job]:
    """Jobs with a run that has no row yet."""
    return [job for job in sweep.jobs if not all(results.is_done(workdir, run.name) for run in job.runs)]


def needed_runs(sweep: Sweep, run: Run) -> list[tuple[Need, Run]]:
    """The runs of other arms that a run needs, which have its seed."""
    return [(need, Run(f"{need.arm}-s{run.seed}", need.arm, run.seed)) for need in sweep.arm(run.arm).needs if need.arm]


def stopped(workdir: Path, sweep: Sweep) -> list[str]:
    """A line for every run that can never start, since one that it needs has diverged."""
    lines = []
    for run in (run for job in left(workdir, sweep) for run in job.runs):
        for need, needed in needed_runs(sweep, run):
            if results.is_done(workdir, needed.name):
                diverged_at = results.read_row(workdir, sweep, needed)["diverged_at"]
                if diverged_at is not None:
                    lines.append(
                        f"{run.name} cannot be trained: its {need.role}, {needed.name}, diverged at step {diverged_at}"
                    )
            elif any(line.startswith(f"{needed.name} cannot") for line in lines):
                lines.append(f"{run.name} cannot be trained: its {need.role}, {needed.name}, cannot be trained either")
    return lines


class Waiting(Exception):
    """Jobs are left that need runs which other processes are working on."""


def next_job(workdir: Path, sweep: Sweep, compiled: set[str], stack: contextlib.ExitStack) -> Job | None:
    """Claims a job that is left, rather one whose program is compiled already; None if all are finished or taken.

    The claim lasts until `stack` is closed. Raises Waiting where a job has to wait for another process.
    """
    waiting, dead = False, {line.split(" ", 1)[0] for line in stopped(workdir, sweep)}
    for job in sorted(left(workdir, sweep), key=lambda job: job.program not in compiled):
        ready = _ready(workdir, sweep, job, dead)
        waiting = waiting or ready is None
        if not ready:
            continue
        with contextlib.ExitStack() as claimed:
            mine = claimed.enter_context(locks.claim(workdir, job.runs))
            if mine and not all(results.is_done(workdir, run.name) for run in job.runs):
                stack.push(claimed.pop_all())
                return job
    if waiting:
        raise Waiting
    return None


def _ready(workdir: Path, sweep: Sweep, job: Job, dead: set[str]) -> bool | None:
    """Whether a job can start: None where runs that it needs are not finished, False where it never can."""
    if any(run.name in dead for run in job.runs):
        return False
    needed = [other for run in job.runs for _, other in needed_runs(sweep, run)]
    return None if any(not results.is_done(workdir, other.name) for other in needed) else True
