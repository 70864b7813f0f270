"""How long a plan will take on this device: some steps of its programs, compiled and run as the training would."""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mnet_jax import config, experiment, locks, results, sweep, train
from mnet_jax.errors import UserError
from mnet_jax.results import Job, Sweep

SECONDS = 20.0
"""After which no further program is tried."""

HEAVY = 1e11
"""Multiply-adds of a training step that a CPU does not try: minutes."""


class JobCost(NamedTuple):
    """What one job of a program costs, in seconds: to compile it, and to train and evaluate its runs."""

    compile: float
    train: float


def one_job_per_program(plans: Sequence[Sweep]) -> list[Sweep]:
    """The plans with one job of each program; the last plan, of digits, can run anywhere."""
    digits = experiment.Experiment(
        "digits", "", config.at_scale, lambda _: iter([{}]), {}, Path("digits.py"), "", experiment.Code()
    )
    return [_sample(plan) for plan in (*plans, sweep.plan(digits, "digits", {}, "train", ""))]


def _sample(plan: Sweep) -> Sweep:
    first: dict[str, Job] = {}
    for job in plan.jobs:
        first.setdefault(job.program, job)
    return replace(plan, jobs=tuple(first.values()))


def time_jobs(workdirs: Sequence[Path]) -> None:
    """Times jobs of the samples in these workdirs until SECONDS are over; others may do so at the same time.

    The last sample is timed where none of the others could be.
    """
    plans = {workdir: results.read_sweep(workdir) for workdir in workdirs}
    *own, last = [[(workdir, plan, job) for job in plan.jobs] for workdir, plan in plans.items()]
    turns = [job for turn in range(max(map(len, own))) for jobs in own for job in jobs[turn : turn + 1]]
    until = time.monotonic() + SECONDS
    for workdir, plan, job in [*turns, *last]:
        timed = any(path for workdir in workdirs for path in workdir.glob("jobs/*/job_cost.json"))
        if timed and (time.monotonic() > until or (workdir, plan, job) in last):
            return
        with locks.claim(workdir, job.runs) as mine:
            path = results.job_dir(workdir, job.name) / "job_cost.json"
            if mine and not path.exists() and not _too_heavy(plan, job):
                try:
                    results.write_atomic(path, json.dumps(measure(workdir, plan, job)._asdict()))
                except (UserError, OSError) as reason:
                    logging.info("%s:%s cannot run here: %s", plan.experiment, plan.scale, reason)


def _too_heavy(plan: Sweep, job: Job) -> bool:
    madds = sum(plan.arm(run.arm).cost.get("madds", 0) for run in job.runs)
    return jax.default_backend() == "cpu" and 3 * madds * plan.config["train.batch_size"] > HEAVY


def measure(workdir: Path, plan: Sweep, job: Job) -> JobCost:
    """Compiles the job's program and runs some of its steps; an evaluated image counts as a third of a trained one."""
    clock = train.Clock()
    training = train.Training(workdir, plan, job, clock)
    batches, first, most = training.feed.next_chunk(0)

    def seconds(count: int) -> float:
        begin = time.perf_counter()
        inputs = (training.state, training.traced, training.teacher, training.feed.dataset, batches)
        training.state, sums = training.program.train(*inputs, jnp.int32(first), jnp.int32(count))
        jax.block_until_ready(sums)
        return time.perf_counter() - begin

    seconds(1)
    count = min(most, max(1, int(1.0 / seconds(1))))
    step = seconds(count) / count
    training.feed.close()
    for log in training.logs.values():
        log.close()
    epochs, every = training.cfg.train.epochs, training.cfg.train.eval_every
    held_out = -(-len(training.feed.splits[0].test) // training.cfg.train.batch_size)
    return JobCost(clock.seconds["compile"], step * (training.steps + -(-epochs // every) * held_out / 3))


def read(workdirs: Sequence[Path]) -> dict[str, JobCost]:
    """Program -> what a job of it costs."""
    costs = {}
    for workdir in workdirs:
        for job in results.read_sweep(workdir).jobs:
            path = results.job_dir(workdir, job.name) / "job_cost.json"
            if path.exists():
                costs[job.program] = JobCost(**results.read_json(path))
    return costs


def describe(plans: Sequence[Sweep], sampled: Sequence[Sweep], costs: Mapping[str, JobCost], workers: int) -> str:
    """How long each plan will take, and all; says what was timed and what follows from multiply-adds."""
    timed = [(_work(plan, job), costs[job.program]) for plan in sampled for job in plan.jobs if job.program in costs]
    if not timed:
        return "no program could be timed here"
    rate = sum(cost.train for _, cost in timed) / sum(work for work, _ in timed)
    typical = JobCost(sum(cost.compile for _, cost in timed) / len(timed), 0.0)
    lines, total = [], 0.0
    for plan in plans:
        seconds, programs = 0.0, [job.program for job in plan.jobs]
        for program in set(programs):
            seconds += costs.get(program, typical).compile * min(workers, programs.count(program))
        for job in plan.jobs:
            seconds += costs[job.program].train if job.program in costs else rate * _work(plan, job)
        seconds, known = seconds / workers, len(set(programs) & costs.keys())
        total += seconds
        how = "every program timed"
        if known < len(set(programs)):
            how = f"{known} of {len(set(programs))} programs timed, others by multiply-adds"
        if not known:
            how = "rough: by multiply-adds from other networks"
        lines.append(f"{plan.experiment}:{plan.scale}  about {_duration(seconds)}, {workers} at a time ({how})")
    return "\n".join(lines + ([f"all together about {_duration(total)}"] if len(lines) > 1 else []))


def _work(plan: Sweep, job: Job) -> float:
    """Multiply-adds of an image times images."""
    costs = [plan.arm(run.arm).cost for run in job.runs]
    return sum(cost["madds"] * cost["images"] for cost in costs if "madds" in cost)


def _duration(seconds: float) -> str:
    for size, name, most in ((1, "seconds", 100), (60, "minutes", 100), (3600, "hours", 72)):
        if seconds < size * most:
            return f"{seconds / size:.0f} {name}"
    return f"{seconds / 86400:,.0f} days"
