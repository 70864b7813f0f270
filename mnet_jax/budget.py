"""How long a plan will take on this device: some steps of its programs, compiled and run as the training would."""

import json
import logging
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mnet_jax import config, results, sweep, train
from mnet_jax.results import Job, Sweep

SECONDS = 20.0
"""After which no further program is tried."""

HEAVY = 1e11
"""Multiply-adds of a training step that a CPU does not try: minutes."""


class Pace(NamedTuple):
    """What one job of a program costs, in seconds: to compile it, and to train and evaluate its runs."""

    compile: float
    train: float


def trains(plan: Sweep) -> bool:
    return plan.config["task"] == "classification"


def samples(plans: Sequence[Sweep]) -> list[Sweep]:
    """The plans with one job of each program; the last one, of digits, can run anywhere."""
    anywhere = sweep.Experiment("digits", "", config.at_scale, lambda _: iter([{}]), {})
    return [_sample(plan) for plan in (*plans, sweep.plan(anywhere, "digits", {}, "train", ""))]


def _sample(plan: Sweep) -> Sweep:
    first: dict[str, Job] = {}
    for job in plan.jobs:
        first.setdefault(job.program, job)
    return replace(plan, jobs=tuple(first.values()))


def calibrate(workdirs: Sequence[Path]) -> None:
    """Times jobs of the samples in these workdirs until SECONDS are over; others may do so at the same time.

    The last sample is timed where none of the others could be.
    """
    plans = {workdir: results.read_sweep(workdir) for workdir in workdirs}
    *own, last = [[(workdir, plan, job) for job in plan.jobs] for workdir, plan in plans.items()]
    turns = [job for turn in range(max(map(len, own))) for jobs in own for job in jobs[turn : turn + 1]]
    until = time.monotonic() + SECONDS
    for workdir, plan, job in [*turns, *last]:
        timed = any(path for workdir in workdirs for path in workdir.glob("jobs/*/pace.json"))
        if timed and (time.monotonic() > until or (workdir, plan, job) in last):
            return
        with sweep.claim(workdir, job) as mine:
            path = results.job_dir(workdir, job.name) / "pace.json"
            if mine and not path.exists() and not _too_heavy(plan, job):
                try:
                    results.write_atomic(path, json.dumps(measure(plan, job)._asdict()))
                except (ValueError, OSError) as reason:
                    logging.info("%s:%s cannot run here: %s", plan.experiment, plan.scale, reason)


def _too_heavy(plan: Sweep, job: Job) -> bool:
    madds = sum(plan.arm(run.arm).cost.get("madds", 0) for run in job.runs)
    return jax.default_backend() == "cpu" and 3 * madds * plan.config["train.batch_size"] > HEAVY


def measure(plan: Sweep, job: Job) -> Pace:
    """Compiles the job's program and runs some of its steps; an evaluated image counts as a third of a trained one."""
    with tempfile.TemporaryDirectory() as folder:
        clock = train.Clock()
        training = train.Training(Path(folder), plan, job, clock)
        own, first, most = training.inputs.window(0)

        def seconds(count: int) -> float:
            begin = time.perf_counter()
            inputs = (training.state, training.knobs, training.inputs.shared, own)
            training.state, sums = training.program.train(*inputs, jnp.int32(first), jnp.int32(count))
            jax.block_until_ready(sums)
            return time.perf_counter() - begin

        seconds(1)
        count = min(most, max(1, int(1.0 / seconds(1))))
        step = seconds(count) / count
        training.inputs.close()
        for log in training.logs:
            log.close()
        epochs, every = training.cfg.train.epochs, training.cfg.train.eval_every
        batches = -(-len(training.inputs.splits[0].test) // training.cfg.train.batch_size)
        return Pace(clock.seconds["compile"], step * (training.steps + -(-epochs // every) * batches / 3))


def read(workdirs: Sequence[Path]) -> dict[str, Pace]:
    """Program -> pace, and those of the last workdir."""
    paces = {}
    for workdir in workdirs:
        for job in results.read_sweep(workdir).jobs:
            path = results.job_dir(workdir, job.name) / "pace.json"
            if path.exists():
                paces[job.program] = Pace(**results.read_json(path))
    return paces


def describe(plans: Sequence[Sweep], sampled: Sequence[Sweep], paces: Mapping[str, Pace], workers: int) -> str:
    """How long each plan will take, and all; says what was timed and what follows from multiply-adds."""
    timed = [(_work(plan, job), paces[job.program]) for plan in sampled for job in plan.jobs if job.program in paces]
    if not timed:
        return "no program could be timed here"
    rate = sum(pace.train for _, pace in timed) / sum(work for work, _ in timed)
    typical = Pace(sum(pace.compile for _, pace in timed) / len(timed), 0.0)
    lines, total = [], 0.0
    for plan in plans:
        seconds, programs = 0.0, [job.program for job in plan.jobs]
        for program in set(programs):
            seconds += paces.get(program, typical).compile * min(workers, programs.count(program))
        for job in plan.jobs:
            seconds += paces[job.program].train if job.program in paces else rate * _work(plan, job)
        seconds, known = seconds / workers, len(set(programs) & paces.keys())
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
