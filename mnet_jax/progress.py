"""What all processes on the workdirs do together, shown while they work: a bar, or lines where there is no terminal."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from mnet_jax import results
from mnet_jax.results import Sweep

LINE_SECONDS = 15.0
"""Between two lines of progress where there is no terminal."""


@contextlib.contextmanager
def shown(plans: Mapping[Path, Sweep]) -> Iterator[None]:
    """Shows the progress of these sweeps while the block inside runs."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    console, done = Console(stderr=True), threading.Event()
    state = Reader(plans)
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


class Reader:
    """How far sweeps are, read from their workdirs; shares and times go by multiply-adds, in which arms differ."""

    def __init__(self, plans: Mapping[Path, Sweep]):
        self.plans = plans
        self.began, self.moved = time.monotonic(), False
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
                    if line := results.read_progress(workdir, job.name):
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
        passed = clock(now - self.began)
        self.moved |= work > work_then
        facts += f", {passed} passed" if self.moved else f", starting and compiling for {passed}"
        if work > work_then:
            if images > images_then:
                facts += f", {(images - images_then) / (now - then):,.0f} images/s"
            facts += f", {clock((total - work) * (now - then) / (work - work_then))} left"
        return work / total, name or "done", facts, "".join(f"\n    {line}" for line in at)


def clock(seconds: float) -> str:
    """Seconds as 0:07, 12:34 or 3:25:45."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
