"""One worker process a core: started, watched and stopped here. A worker is `mnet_jax.main` given workdirs alone."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

from mnet_jax import results
from mnet_jax.results import Sweep

PARENT = "MNET_JAX_PARENT"
"""Set in a worker's environment: the process that started it, at whose death it stops too."""

LINE_SECONDS = 15.0
"""Between two lines of progress where there is no terminal."""


def cores() -> list[int]:
    """The cores this process may use: its affinity mask, cut to the control group's quota."""
    if not hasattr(os, "sched_getaffinity"):
        return [0]
    mine = sorted(os.sched_getaffinity(0))
    quota = len(mine)
    with contextlib.suppress(OSError, ValueError):
        given, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        quota = max(1, int(given) // int(period))
    with contextlib.suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup/cpu")
        given, period = (int((group / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
        quota = max(1, given // period) if given > 0 else quota
    return mine[:quota]


@contextlib.contextmanager
def stop_signal() -> Iterator[Callable[[], bool]]:
    """Within, SIGTERM and the first Ctrl-C set a flag, which the yielded function reads; a second Ctrl-C interrupts.

    In a worker the flag also stands when its parent is gone.
    """
    received: list[int] = []
    parent = int(os.environ.get(PARENT, 0))

    def handle(number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT and received:
            raise KeyboardInterrupt
        received.append(number)

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: bool(received) or bool(parent and os.getppid() != parent)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run(
    workdirs: Sequence[Path], pins: Sequence[int], hang_seconds: float = 0, mode: str = "train"
) -> tuple[int, list[str]]:
    """Starts a worker on the workdirs once a core of `pins`, waits, passes a stop on to all.

    Logs are in the first workdir. A worker without progress for `hang_seconds` (0 = any time) is killed, which frees
    its job, and another takes its place, as often as there are cores. Returns the exit status, 75 where a stop came,
    and one line for each worker that failed.
    """
    logs = workdirs[0] / "logs"
    logs.mkdir(parents=True, exist_ok=True)

    def start(number: int) -> subprocess.Popen:
        with open(logs / f"worker-{number}.log", "w") as log:
            worker = subprocess.Popen(
                [sys.executable, "-m", "mnet_jax.main", "--mode", mode, "--workdir", *map(str, workdirs)],
                env=os.environ | {PARENT: str(os.getpid()), "JAX_PLATFORMS": "cpu"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # the terminal's Ctrl-C comes here only, and is passed on below
            )
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(worker.pid, {pins[number]})  # before jax starts there, and sizes its thread pool
        return worker

    failures = []
    with stop_signal() as stop:
        workers = [start(number) for number in range(len(pins))]
        told, watch = False, _Watch(workdirs)
        try:
            while any(worker.poll() is None for worker in workers):
                if stop() and not told:
                    told = True
                    for worker in workers:
                        worker.terminate()
                for number, worker in enumerate(workers):
                    if hang_seconds and worker.poll() is None and watch.silence(worker.pid) > hang_seconds:
                        worker.kill()
                        why = f"no progress for {hang_seconds:g} s (train.hang_seconds), so it was killed"
                        failures.append(f"worker {number} failed: {why}")
                        if len(failures) <= len(pins) and not told:
                            workers[number] = start(number)
                time.sleep(0.1)
        except BaseException:
            for worker in workers:
                worker.kill()
            raise
    stopped = (0, 75, -signal.SIGTERM) if told else (0, 75)  # a worker that was still importing dies of the signal
    for number, worker in enumerate(workers):
        if worker.returncode not in stopped:
            path = logs / f"worker-{number}.log"
            last = path.read_text().strip().split("\n")[-1]
            how = f"killed by signal {-worker.returncode}" if worker.returncode < 0 else last
            failures.append(f"worker {number} failed: {how} (see {path})")
    return 75 if told else 1 if failures else 0, failures


class _Watch:
    """When each worker last said something, by the progress files of the jobs."""

    def __init__(self, workdirs: Sequence[Path]):
        self.workdirs, self.looked = workdirs, 0.0
        self.heard: dict[int, float] = {}

    def silence(self, process: int) -> float:
        """Seconds since the worker's last progress, or since it was first asked for."""
        now = time.time()
        if now - self.looked > 1:
            self.looked = now
            for path in (path for workdir in self.workdirs for path in workdir.glob("jobs/*/progress.json")):
                with contextlib.suppress(OSError, ValueError):
                    line = results.read_json(path)
                    self.heard[line["process"]] = max(line["time"], self.heard.get(line["process"], 0))
        return now - self.heard.setdefault(process, now)


@contextlib.contextmanager
def progress(plans: Mapping[Path, Sweep]) -> Iterator[None]:
    """Shows meanwhile what all processes on these workdirs do together: a bar, or lines where there is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    console, done = Console(stderr=True), threading.Event()
    state = _State(plans)
    if console.is_terminal:
        name, facts = TextColumn("{task.description}"), TextColumn("{task.percentage:3.0f}%  {task.fields[facts]}")
        with Progress(name, BarColumn(bar_width=12), facts, console=console, transient=True) as bar:
            task = bar.add_task("", total=1.0, facts="starting")

            def show() -> None:
                share, name, facts, _ = state.read()
                bar.update(task, completed=share, description=name, facts=facts)

            with _every(0.5, show, done):
                yield
    else:

        def say() -> None:
            share, name, facts, now = state.read()
            print(f"{name}: {share:4.0%}  {facts}{now}", file=sys.stderr, flush=True)

        with _every(LINE_SECONDS, say, done):
            yield


@contextlib.contextmanager
def _every(seconds: float, action: Callable[[], None], done: threading.Event) -> Iterator[None]:
    def loop() -> None:
        while not done.wait(seconds):
            action()

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


class _State:
    """How far sweeps are, read from their workdirs; shares and times go by multiply-adds, in which arms differ."""

    def __init__(self, plans: Mapping[Path, Sweep]):
        self.plans = plans
        self.history: list[tuple[float, float, float]] = []

    def read(self) -> tuple[float, str, str, str]:
        """Returns (share done, "experiment", "runs, images/s, time left", "what each process is at")."""
        images, work, total, finished, at, name = 0.0, 0.0, 0.0, 0, [], ""
        for number, (workdir, plan) in enumerate(self.plans.items(), 1):
            of_run = {arm.name: arm.cost.get("images", 0.0) for arm in plan.arms}
            madds = {arm.name: arm.cost.get("madds", 1.0) for arm in plan.arms}
            for job in plan.jobs:
                rows = [results.is_done(workdir, run.name) for run in job.runs]
                finished += sum(rows)
                share = 1.0
                if not all(rows):
                    name = name or f"[{number}/{len(self.plans)}] " * (len(self.plans) > 1) + plan.experiment
                    share = 0.0
                    with contextlib.suppress(OSError, ValueError):
                        line = results.read_json(results.job_dir(workdir, job.name) / "progress.json")
                        share = line["step"] / line["steps"]
                        if time.time() - line["time"] < 120:
                            at.append(f"{', '.join(line['runs'])} {line['step']}/{line['steps']}")
                for run in job.runs:
                    images += share * of_run[run.arm]
                    work += share * max(of_run[run.arm], 1.0) * madds[run.arm]
                    total += max(of_run[run.arm], 1.0) * madds[run.arm]
        now = time.monotonic()
        self.history = [past for past in self.history if now - past[0] < 60] + [(now, images, work)]
        then, images_then, work_then = self.history[0]
        facts = f"{finished} of {sum(len(plan.runs) for plan in self.plans.values())} runs"
        if work > work_then:
            if images > images_then:
                facts += f", {(images - images_then) / (now - then):,.0f} images/s"
            left = int((total - work) * (now - then) / (work - work_then))
            facts += f", {left // 60}:{left % 60:02d} left"
        return work / total, name or "done", facts, "".join(f"\n    {line}" for line in at)
