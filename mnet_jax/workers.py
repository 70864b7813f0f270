"""One worker process a core: started, watched and stopped here. A worker is the same command on the same workdir."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
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


def run(arguments: Sequence[str], workdir: Path, pins: Sequence[int], hang_seconds: float = 0) -> tuple[int, list[str]]:
    """Starts `python -m mnet_jax.main` with `arguments` once a core of `pins`, waits, passes a stop on to all.

    A worker without progress for `hang_seconds` (0 = any time) is killed, which frees its job for the others. Returns
    the exit status, 75 where a stop came, and one line for each worker that failed.
    """
    logs = workdir / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    workers = []
    with stop_signal() as stop:
        for number, core in enumerate(pins):
            with open(logs / f"worker-{number}.log", "w") as log:
                worker = subprocess.Popen(
                    [sys.executable, "-m", "mnet_jax.main", *arguments],
                    env=os.environ | {PARENT: str(os.getpid()), "JAX_PLATFORMS": "cpu"},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # the terminal's Ctrl-C comes here only, and is passed on below
                )
            if hasattr(os, "sched_setaffinity"):
                os.sched_setaffinity(worker.pid, {core})  # before jax starts there, and sizes its thread pool
            workers.append(worker)
        told, hung, watch = False, set(), _Watch(workdir)
        try:
            while any(worker.poll() is None for worker in workers):
                if stop() and not told:
                    told = True
                    for worker in workers:
                        worker.terminate()
                for worker in workers:
                    if hang_seconds and worker.poll() is None and watch.silence(worker.pid) > hang_seconds:
                        hung.add(worker.pid)
                        worker.kill()
                time.sleep(0.1)
        except BaseException:
            for worker in workers:
                worker.kill()
            raise
    failures = []
    stopped = (0, 75, -signal.SIGTERM) if told else (0, 75)  # a worker that was still importing dies of the signal
    for number, worker in enumerate(workers):
        if worker.returncode not in stopped:
            path = logs / f"worker-{number}.log"
            last = path.read_text().strip().split("\n")[-1]
            how = f"killed by signal {-worker.returncode}" if worker.returncode < 0 else last
            if worker.pid in hung:
                how = f"no progress for {hang_seconds:g} s (train.hang_seconds), so it was killed"
            failures.append(f"worker {number} failed: {how} (see {path})")
    return 75 if told else 1 if failures else 0, failures


class _Watch:
    """When each worker last said something, by the progress files of the jobs."""

    def __init__(self, workdir: Path):
        self.workdir, self.looked = workdir, 0.0
        self.heard: dict[int, float] = {}

    def silence(self, process: int) -> float:
        """Seconds since the worker's last progress, or since it was first asked for."""
        now = time.time()
        if now - self.looked > 1:
            self.looked = now
            for path in self.workdir.glob("jobs/*/progress.json"):
                with contextlib.suppress(OSError, ValueError):
                    line = results.read_json(path)
                    self.heard[line["process"]] = max(line["time"], self.heard.get(line["process"], 0))
        return now - self.heard.setdefault(process, now)


@contextlib.contextmanager
def progress(workdir: Path, plan: Sweep) -> Iterator[None]:
    """Shows meanwhile what all processes on this workdir do together: a bar, or lines where there is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    console, done = Console(stderr=True), threading.Event()
    state = _State(workdir, plan)
    if console.is_terminal:
        name, facts = TextColumn("{task.description}"), TextColumn("{task.percentage:3.0f}%  {task.fields[facts]}")
        with Progress(name, BarColumn(bar_width=12), facts, console=console, transient=True) as bar:
            task = bar.add_task(plan.experiment, total=1.0, facts="starting")

            def show() -> None:
                share, facts, _ = state.read()
                bar.update(task, completed=share, facts=facts)

            with _every(0.5, show, done):
                yield
    else:

        def say() -> None:
            share, facts, now = state.read()
            print(f"{plan.experiment}: {share:4.0%}  {facts}{now}", file=sys.stderr, flush=True)

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
    """How far a sweep is, read from its workdir."""

    def __init__(self, workdir: Path, plan: Sweep):
        self.workdir, self.plan = workdir, plan
        self.history: list[tuple[float, float]] = []

    def read(self) -> tuple[float, str, str]:
        """Returns (share done, "runs, images/s, time left", "what each process is at")."""
        images = {arm.name: arm.cost.get("images", 1) for arm in self.plan.arms}
        total = sum(images[run.arm] for run in self.plan.runs)
        seen, finished, at = 0.0, 0, []
        for job in self.plan.jobs:
            rows = [results.is_done(self.workdir, run.name) for run in job.runs]
            finished += sum(rows)
            share = 1.0
            if not all(rows):
                share = 0.0
                with contextlib.suppress(OSError, ValueError):
                    line = results.read_json(results.job_dir(self.workdir, job.name) / "progress.json")
                    share = line["step"] / line["steps"]
                    if time.time() - line["time"] < 120:
                        at.append(f"{', '.join(line['runs'])} {line['step']}/{line['steps']}")
            seen += share * sum(images[run.arm] for run in job.runs)
        now = time.monotonic()
        self.history = [(when, what) for when, what in self.history if now - when < 60] + [(now, seen)]
        (then, before), facts = self.history[0], f"{finished} of {len(self.plan.runs)} runs"
        if seen > before:
            rate = (seen - before) / (now - then)
            left = int((total - seen) / rate)
            if "images" in self.plan.arms[0].cost:
                facts += f", {rate:,.0f} images/s"
            facts += f", {left // 60}:{left % 60:02d} left"
        return seen / total, facts, "".join(f"\n    {line}" for line in at)
