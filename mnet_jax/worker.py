"""A process that works on workdirs until nothing is left to claim: `python -m mnet_jax.worker PARENT WORKDIR ...`.

`mnet_jax.workers` starts one for each core; where one process is enough, `mnet_jax.laboratory` calls `work` itself.
"""

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax

from mnet_jax import bucket, jobs, results, runtime, sharding, train, workers
from mnet_jax.arms import arm_config
from mnet_jax.experiment import code_of
from mnet_jax.results import Job, Sweep

STARTED = time.time()

WAIT_SECONDS = 0.5
"""Between two looks whether a run that others need is finished."""

NONE, WAIT = -1, -2
"""In the place of a job's number: there is none, or it needs a run that another process works on."""


def work(workdirs: Sequence[Path], started: float = STARTED, parent: int = 0) -> int:
    """Trains in this process until nothing is left to claim, one workdir after the other; returns the exit status.

    `started` is when the process began (`time.time()`): the first run's time counts from there. With a `parent`, the
    work stops when that process has died.
    """
    with workers.stop_signal(parent) as stop:
        try:
            for workdir in workdirs:
                started = work_on(workdir, results.read_sweep(workdir), stop, started)
        except train.Preempted as reason:
            logging.info("%s; the same command goes on", reason)
            return 75
    return 0


def work_on(workdir: Path, plan: Sweep, stop: Callable[[], bool], started: float = 0.0) -> float:
    """Claims and trains the jobs of one workdir. Raises Preempted when `stop()` turned true.

    Returns `started`, or 0 once a run has counted the time from there.
    """
    trains = code_of(workdir, plan).task_of(arm_config(plan.config, plan.arms[0])).trains
    run_job = train.train if trains else train.measure
    while True:
        with contextlib.ExitStack() as stack:
            number = _claim(workdir, plan, stack)
            if number == NONE:
                return started
            if number == WAIT:
                if sharding.any_process(stop()):
                    raise train.Preempted("stopped while waiting for runs that another process works on")
                time.sleep(WAIT_SECONDS)
                continue
            clock = train.Clock()
            clock.seconds["start"], started = (time.time() - started if started else 0.0), 0.0
            run_job(workdir, plan, plan.jobs[number], stop, clock)


def _claim(workdir: Path, plan: Sweep, stack: contextlib.ExitStack) -> int:
    """The number of the job that the first process claimed, on every process of a mesh."""
    number = NONE
    if sharding.is_first():
        try:
            job: Job | None = jobs.next_job(workdir, plan, {key[0] for key in train.compiled_programs}, stack)
            number = plan.jobs.index(job) if job else NONE
        except jobs.Waiting:
            number = WAIT
        if jax.process_count() > 1:
            bucket.push(workdir)  # for the others, which may need the weights of finished runs
    number = sharding.broadcast_from_first(number)
    if not sharding.is_first():
        bucket.pull(workdir)
    return number


if __name__ == "__main__":
    with runtime.exit_status():
        runtime.start_logging()
        runtime.start()
        parent, *folders = sys.argv[1:]
        if folders and folders[0] == "--time":
            from mnet_jax import estimate

            estimate.time_jobs([Path(folder) for folder in folders[1:]])
            sys.exit(0)
        sys.exit(work([Path(folder) for folder in folders], parent=int(parent)))
