"""One worker process for each core: started, watched and stopped here; what a worker does is `mnet_jax.worker`."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType

from mnet_jax import results

MOST_GAP = 5.0
"""Seconds between two looks at the workers that count as silence; the rest of a longer gap this process did not run."""


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
def stop_signal(parent: int = 0) -> Iterator[Callable[[], bool]]:
    """Within, SIGTERM and the first Ctrl-C set a flag, which the yielded function reads; a second Ctrl-C interrupts.

    With a `parent`, the flag is also set when that process is gone.
    """
    received: list[int] = []

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
    workdirs: Sequence[Path], pins: Sequence[int], hang_seconds: float = 0, timing: bool = False
) -> tuple[int, list[str]]:
    """Starts a worker on the workdirs for each core of `pins`, waits, passes a stop on to all.

    With `timing` the workers time jobs (`mnet_jax.estimate`) instead of training them. Logs are in the first workdir. A
    worker without progress for `hang_seconds` (0 = any time) is killed, which frees
    its job, and another takes its place, as often as there are cores. Returns the exit status, 75 where a stop came,
    and one line for each worker that failed.
    """
    logs = workdirs[0] / "logs"
    logs.mkdir(parents=True, exist_ok=True)

    def log_file(number: int) -> Path:
        return logs / f"worker-{socket.gethostname()}-{number}.log"

    def start(number: int, mode: str = "w") -> subprocess.Popen:
        with open(log_file(number), mode) as log:
            worker = subprocess.Popen(
                [sys.executable, "-m", "mnet_jax.worker", str(os.getpid()), *["--time"] * timing, *map(str, workdirs)],
                env=os.environ | {"JAX_PLATFORMS": "cpu"},
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
        stop_sent, heartbeat = False, _Heartbeat(workdirs)
        try:
            while any(worker.poll() is None for worker in workers):
                if stop() and not stop_sent:
                    stop_sent = True
                    for worker in workers:
                        worker.terminate()
                for number, worker in enumerate(workers):
                    if hang_seconds and worker.poll() is None and heartbeat.seconds_silent(worker.pid) > hang_seconds:
                        worker.kill()
                        why = f"no progress for {hang_seconds:g} s (train.hang_seconds), so it was killed"
                        failures.append(f"worker {number} failed: {why}")
                        if len(failures) <= len(pins) and not stop_sent:
                            workers[number] = start(number, "a")
                time.sleep(0.1)
        except BaseException:
            for worker in workers:
                worker.kill()
            raise
    stopped = (0, 75, -signal.SIGTERM) if stop_sent else (0, 75)  # a worker that was still importing dies of the signal
    for number, worker in enumerate(workers):
        if worker.returncode not in stopped:
            path = log_file(number)
            last = path.read_text(errors="replace").strip().split("\n")[-1]
            how = f"killed by signal {-worker.returncode}" if worker.returncode < 0 else last
            failures.append(f"worker {number} failed: {how} (see {path})")
    return 75 if stop_sent else 1 if failures else 0, failures


class _Heartbeat:
    """How long each worker has been silent, by the progress files of the jobs.

    Only time in which this process itself ran counts, so that neither a suspended machine nor a clock that is set ahead
    looks like a worker that hangs.
    """

    def __init__(self, workdirs: Sequence[Path]):
        self.workdirs = workdirs
        self.looked, self.awake = time.monotonic(), 0.0
        self.read_at = -1.0
        self.last_line: dict[int, str] = {}
        self.last_change: dict[int, float] = {}

    def seconds_silent(self, process: int) -> float:
        """Seconds since the worker's progress changed, or since it was first asked for."""
        now = time.monotonic()
        self.awake += min(now - self.looked, MOST_GAP)
        self.looked = now
        if self.awake - self.read_at > 1:
            self.read_at = self.awake
            for job in (job for workdir in self.workdirs for job in workdir.glob("jobs/*")):
                line = results.read_progress(job.parent.parent, job.name)
                if line and line["host"] == socket.gethostname():
                    worker, text = line["process"], str(line)
                    if self.last_line.get(worker) != text:
                        self.last_line[worker], self.last_change[worker] = text, self.awake
        return self.awake - self.last_change.setdefault(process, self.awake)
