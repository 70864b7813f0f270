"""kill -9 at any moment: what is left goes on, and ends as what was never killed."""

import collections
import contextlib
import multiprocessing
import os
import random
import re
import subprocess
import time
from pathlib import Path

import pytest
from test_main import ENVIRONMENT, command
from tiny import EXPERIMENT, write

from mnet_jax import experiment, jobs, results, runtime, sweep, worker

KILLS = 20

EACH = 4
"""Of the kills that fall inside a save, inside an evaluation, and between two runs, at least."""

SECONDS = 180
"""For which three workers are killed and started again, at least, and until KILLS of the kills fell in a job."""


SEEDS = 8
"""Of each of two arms, in that sweep: enough for so long."""


class Sweep:
    """An experiment on one workdir, and the processes that the same command starts on it."""

    def __init__(self, folder, *flags, text=EXPERIMENT):
        folder.mkdir()
        write(folder, text)
        self.folder, self.workdir = folder, folder / "runs" / "tiny-digits"
        self.command = command(Path(), "--workers", "1", *flags)

    def start(self):
        with open(self.folder / "log", "a") as log:
            return subprocess.Popen(self.command, env=ENVIRONMENT, cwd=self.folder, stdout=log, stderr=log)

    def rows(self):
        return {path.parent.name for path in self.workdir.glob("runs/*/result.json")}

    def progress(self):
        """Process -> the newest thing it said it is at."""
        lines = []
        for path in self.workdir.glob("jobs/*/progress.json"):
            with contextlib.suppress(FileNotFoundError):  # where the job ends meanwhile
                lines.append(results.read_json(path))
        return {line["process"]: line for line in sorted(lines, key=lambda line: line["time"])}

    def in_a_job(self, process):
        """Whether a process is, or died, in the middle of a job, with a whole checkpoint on disk."""
        line = self.progress().get(process)
        if not line or line["runs"][0] in self.rows():
            return False
        return any(path.name.isdigit() for path in self.workdir.glob(f"jobs/{line['runs'][0]}/checkpoints/*"))

    def left(self):
        """Whatever of the finished runs is not a clock's: rows, curves and weights, bit for bit."""
        plan = results.read_sweep(self.workdir)
        rows = [results.comparable(row) for row in results.read_rows(self.workdir, plan)]
        assert len(rows) == len(plan.runs)
        folders = [results.run_dir(self.workdir, run.name) for run in plan.runs]
        return rows, [
            (folder / name).read_bytes() for folder in folders for name in ("metrics.jsonl", "weights.safetensors")
        ]

    def report(self):
        """Without seconds: a line of its own, and the last column of the arms."""
        text = (self.workdir / "report.md").read_text()
        return re.sub(r"(?m)^- time: .*\n| [\d.]+ \|$", "", text)


def work(workdir, core, pause):
    """What a process that is forked does; it rests for some seconds before each checkpoint."""
    os.sched_setaffinity(0, {core})
    runtime.start()
    worker.work_on(workdir, results.read_sweep(workdir), lambda: bool(time.sleep(pause)))


@pytest.fixture(scope="module")
def forked():
    """A function that starts a process on a workdir and core, with everything imported already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mnet_jax.train", "mnet_jax.worker", "orbax.checkpoint", "tensorboardX"])

    def start(*arguments):
        process = context.Process(target=work, args=arguments)
        process.start()
        return process

    return start


def test_three_kills_of_two_workers_leave_the_rows_of_the_unbroken_sweep(tmp_path, forked):
    """Each takes the newest worker that is in the middle of a job, with a checkpoint on disk."""
    unbroken, broken = (Sweep(tmp_path / name) for name in ("unbroken", "broken"))
    for one in (unbroken, broken):
        overrides = {"train.epochs": "4", "train.eval_every": "1", "train.checkpoint_seconds": "0"}
        planned = experiment.load(one.folder / "tiny.py")
        jobs.write(one.workdir, sweep.plan(planned, "digits", overrides, "train", ""), planned)
    first, *_, last = 2 * sorted(os.sched_getaffinity(0))
    undisturbed = forked(unbroken.workdir, first, 0)
    working = [forked(broken.workdir, core, 0.3) for core in (first, last)]
    kills = 0
    while kills < 3:
        while not (caught := [process for process in working if broken.in_a_job(process.pid)]):
            assert None in [process.exitcode for process in working], "the sweep is too short for these kills"
            time.sleep(0.005)
        caught[-1].kill()
        caught[-1].join()
        kills += broken.in_a_job(caught[-1].pid)
        working.remove(caught[-1])
        if kills < 3:
            working.append(forked(broken.workdir, last, 0.3))
    for process in (undisturbed, *working):
        process.join()
        assert process.exitcode == 0
    assert broken.left() == unbroken.left()


def moments(sweep, process, before):
    """Where a process is, or died, by what it left on disk; `before` are the runs that were done at its start."""
    found = set()
    line = sweep.progress().get(process.pid)
    if line and line["runs"][0] not in sweep.rows():
        (run,) = line["runs"]
        if list(sweep.workdir.glob(f"jobs/{run}/checkpoints/*.orbax-checkpoint-tmp")):
            found.add("inside a save")
        # After the last step of an epoch comes its evaluation, and then its line.
        if line["step"] not in {of["step"] for of in results.read_metrics(sweep.workdir, run)}:
            found.add("inside an evaluation")
    elif sweep.rows() - before:
        found.add("between two runs")
    return found


@pytest.mark.slow
def test_killed_at_twenty_moments_is_bit_for_bit_unbroken(tmp_path):
    """At times drawn over a run and its start, and at moments aimed at; where each fell is seen on disk afterwards."""
    flags = ("--config.seeds=8", "--config.train.epochs=8", "--config.train.eval_every=1")
    flags += ("--config.train.checkpoint_seconds=0",)
    unbroken, broken = (Sweep(tmp_path / name, *flags) for name in ("unbroken", "broken"))
    begun = time.monotonic()
    process = unbroken.start()
    while not unbroken.progress():
        assert process.poll() is None
        time.sleep(0.01)
    started = time.monotonic()
    assert process.wait() == 0
    life = started - begun + (time.monotonic() - started) / len(unbroken.rows())

    draw, fell = random.Random(0), collections.Counter()
    aims = ("at any time", "inside a save", "inside an evaluation", "between two runs")
    while fell["kills"] < KILLS or any(fell[aim] < EACH for aim in aims):
        aim = min(aims, key=lambda aim: fell[aim])
        before, process = broken.rows(), broken.start()
        if aim == "at any time":
            until = time.monotonic() + draw.uniform(0, life)
            while time.monotonic() < until and broken.rows() == before:
                time.sleep(0.01)
        else:
            for _ in range(1 if aim == "between two runs" else draw.randint(1, 3)):  # the first, second or third
                for there in (True, False):
                    while (aim in moments(broken, process, before)) == there:
                        assert process.poll() is None, "the sweep is too short for these kills"
                        time.sleep(0.001)
        process.kill()
        assert process.wait() == -9
        fell.update({"kills", *moments(broken, process, before)} | ({aim} & {"at any time"}))
    print(dict(fell), f"{len(broken.rows())} of {len(unbroken.rows())} runs were done at the last one")
    assert len(broken.rows()) < len(unbroken.rows())
    assert broken.start().wait() == 0
    assert broken.left() == unbroken.left()
    assert broken.report() == unbroken.report()


@pytest.mark.slow
def test_three_workers_killed_for_minutes_do_every_run_once(tmp_path):
    """Seen from outside: no job goes back to a process that it was taken from, and no row is written again."""
    flags = (f"--config.seeds={SEEDS}", "--config.train.epochs=1000", "--config.train.checkpoint_seconds=0.5")
    undisturbed, disturbed = (Sweep(tmp_path / name, *flags) for name in ("undisturbed", "disturbed"))
    draw, workers, ends = random.Random(0), {}, {}
    fell, rows, owners = collections.Counter(), {}, collections.defaultdict(list)
    until, killing = time.monotonic() + SECONDS, True
    while killing or any(worker.poll() is None for worker in workers.values()):
        now, progress = time.monotonic(), disturbed.progress()
        killing = killing and len(rows) < 2 * SEEDS and (now < until or fell["in a job"] < KILLS)
        for number in range(3) if killing else ():
            worker = workers.get(number)
            if worker and worker.pid in progress and ends[number] == float("inf"):
                ends[number] = now + draw.uniform(0, 10)
            if worker and now > ends[number] and worker.poll() is None:
                worker.kill()
                worker.wait()
                fell["in a job" if worker.pid in progress else "elsewhere"] += 1
            if worker is None or worker.poll() is not None:
                assert worker is None or worker.returncode in (0, -9)
                workers[number] = disturbed.start()
                # One in four dies while it starts, the others some time after they began a job.
                ends[number] = now + draw.uniform(0, 10) if draw.random() < 0.25 else float("inf")
        for path in disturbed.workdir.glob("runs/*/result.json"):
            seen = path.stat()
            assert rows.setdefault(path, (seen.st_ino, seen.st_mtime_ns)) == (seen.st_ino, seen.st_mtime_ns)
        for process, line in progress.items():
            of_job = owners[line["runs"][0]]
            if of_job[-1:] != [process]:
                of_job.append(process)
        time.sleep(0.02)
    assert [worker.returncode for worker in workers.values()] == [0, 0, 0]
    taken_over = sum(len(of_job) > 1 for of_job in owners.values())
    log = (disturbed.folder / "log").read_text()
    resumed = log.count("goes on from step")
    print(dict(fell), f"{len(rows)} runs, {taken_over} of them by more than one process, {resumed} times resumed")
    assert all(len(of_job) == len(set(of_job)) for of_job in owners.values())
    assert min(taken_over, resumed, fell["in a job"]) >= EACH
    ended = re.findall(r"(?m)^(\S+-s\d+): \d+ steps in", log)
    assert len(ended) == len(set(ended))

    plain = [undisturbed.start() for number in range(2)]
    assert [worker.wait() for worker in plain] == [0, 0]
    assert disturbed.left() == undisturbed.left()
    assert disturbed.report() == undisturbed.report()
