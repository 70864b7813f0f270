"""Times contenders in rounds A B C A B C, so that all meet the same state of the machine.

Other libraries, and whatever depends on how a process starts, run in processes that stay for all rounds (`Contender`);
functions of this process take part as `InProcess`. A contender that is not installed, fails, or takes too long gets a
row that says so, and the others go on.
"""

import contextlib
import json
import os
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from mnet_jax.table import Row, Table

ROOT = Path(__file__).parents[2]

Run = Callable[[int], None]
"""run(calls) makes so many calls, and returns when all that it started has finished."""


class ContenderError(Exception):
    """A contender cannot be timed; the message says why."""


class Contender(NamedTuple):
    """A run in a process of its own; contenders that differ in the case alone share one process.

    `workload`     a function of `mnet_jax.bench`, such as "contenders.torch.train", that returns {case: run}.
    `task`         its keyword arguments, as JSON.
    `case`         the run that is timed.
    `keep_memory`  whether `runtime.keep_memory` is called in the process.
    `peer`         whether the process runs under the interpreter of the peers.
    """

    workload: str
    task: Mapping[str, Any]
    case: str
    keep_memory: bool = True
    peer: bool = False


class InProcess(NamedTuple):
    """A run in this process, which may raise; `clock` returns seconds."""

    run: Run
    clock: Callable[[], float] = time.perf_counter


class Settings(NamedTuple):
    """How contenders are timed.

    `rounds`        how many times each contender has its turn.
    `turn_seconds`  about how long a turn takes; it has one call at least.
    `start_limit`   seconds that a contender may take to start and make its first call.
    `turn_limit`    seconds that a later turn may take.
    `peers_python`  the interpreter that has the other libraries.
    `core`          the only core that processes of contenders may use; None: all.
    """

    rounds: int = 5
    turn_seconds: float = 0.5
    start_limit: float = 300.0
    turn_limit: float = 120.0
    peers_python: str = sys.executable
    core: int | None = None


@dataclass
class Times:
    """What was measured of one contender.

    `first_call`    seconds from the start of its process to the end of its first call.
    `second_start`  the same of a second process, which loads compiled programs from disk; None where not measured.
    `seconds`       seconds of a call, in each round.
    `failed`        why there are no `seconds`, or "".
    """

    first_call: float | None = None
    second_start: float | None = None
    seconds: list[float] = field(default_factory=list)
    failed: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


class Spread(NamedTuple):
    """Median, smallest and largest over the rounds."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    return Spread(statistics.median(values), min(values), max(values))


def ratio(other: Times, ours: Times) -> Spread:
    """How many times longer the other takes, round by round."""
    return spread([theirs / mine for theirs, mine in zip(other.seconds, ours.seconds, strict=True)])


@dataclass
class Result:
    """A finished case of a part of the benchmark.

    `times`  what JSON keeps: every round of every contender, as `Times`, or other numbers.
    `bars`   what the picture shows, {contender: Spread} in `unit`.
    """

    case: str
    tables: Sequence[Table]
    times: Mapping[str, Any]
    bars: Mapping[str, Spread] = field(default_factory=dict)
    unit: str = "ms"


def run_rounds(
    contenders: Mapping[str, Contender | InProcess], settings: Settings, title: str, restart: Sequence[str] = ()
) -> dict[str, Times]:
    """Starts one contender after the other, then times all in turn.

    The contenders of `restart` are then started a second time. `title` begins the lines of progress.
    """
    times = {name: Times() for name in contenders}
    calls: dict[str, int] = {}

    @contextlib.contextmanager
    def failure_recorded(name: str) -> Iterator[None]:
        try:
            yield
        except ContenderError as error:
            times[name].failed, times[name].seconds = str(error), []
            log(f"{title}: {name}: {error}")

    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as caches,
        _Processes(settings, caches) as processes,
    ):
        for name, contender in contenders.items():
            with failure_recorded(name):
                first = times[name].first_call = processes.first_call(contender)
                once = processes.time_calls(contender, 1, settings.turn_limit)
                calls[name] = max(1, round(settings.turn_seconds / max(once, 1e-9)))
                log(f"{title}: {name}: first call after {first:.1f} s, then {once:.4g} s")
        for number in range(settings.rounds):
            for name, count in calls.items():
                if not times[name].failed:
                    with failure_recorded(name):
                        seconds = processes.time_calls(contenders[name], count, settings.turn_limit)
                        times[name].seconds.append(seconds / count)
            log(f"{title}: round {number + 1} of {settings.rounds}")
        for name in restart:
            if not times[name].failed:
                with contextlib.suppress(ContenderError), _Processes(settings, caches) as second:
                    times[name].second_start = second.first_call(contenders[name])
    return times


def log(line: str) -> None:
    """Prints progress to stderr, apart from the tables."""
    print(line, file=sys.stderr, flush=True)


def describe(error: Exception) -> str:
    """An exception as one line of a table."""
    if isinstance(error, ImportError):
        return f"not installed: {error.name}"
    return f"{type(error).__name__}: {error}".partition("\n")[0]


class _Processes(contextlib.ExitStack):
    """The processes of contenders, which start when they are first needed, and end on leaving.

    Programs that they compile go to the folder `caches`.
    """

    def __init__(self, settings: Settings, caches: str):
        super().__init__()
        self.settings, self.caches = settings, caches
        self.running: dict[str, _Process] = {}

    def first_call(self, contender: Contender | InProcess) -> float:
        """Seconds from the start of the contender's process until its first call has finished."""
        limit = self.settings.start_limit
        if isinstance(contender, InProcess):
            return self.time_calls(contender, 1, limit)
        process = self._process(contender)
        process.time_calls(contender.case, 1, limit)
        return time.perf_counter() - process.began

    def time_calls(self, contender: Contender | InProcess, calls: int, limit: float) -> float:
        """Seconds of `calls` calls; ContenderError where they fail, or a process takes more than `limit` seconds."""
        if isinstance(contender, Contender):
            return self._process(contender).time_calls(contender.case, calls, limit)
        begin = contender.clock()
        try:
            contender.run(calls)
        except Exception as error:  # XLA's errors, out of memory among them, share no narrower class
            raise ContenderError(describe(error)) from None
        return contender.clock() - begin

    def _process(self, contender: Contender) -> "_Process":
        key = json.dumps(contender._replace(case=""))
        if key not in self.running:
            self.running[key] = _Process(contender, self.settings, self.caches)
            self.callback(self.running[key].close)
        return self.running[key]


class _Process:
    """A process of `worker.py`: a request is a line {"case", "calls"}, its answer a line {"seconds"} or {"failed"}."""

    def __init__(self, contender: Contender, settings: Settings, caches: str):
        command = [settings.peers_python if contender.peer else sys.executable, "-m", "mnet_jax.bench.worker"]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
            "MNET_JAX_KEEP_MEMORY": str(int(contender.keep_memory)),
            "KERAS_BACKEND": "jax",
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # else the first on a GPU takes its memory from the others
            # Empty at first, so that a start is a first one; shared by those that differ in the allocator only.
            "JAX_COMPILATION_CACHE_DIR": str(Path(caches, "jax")),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "TORCHINDUCTOR_CACHE_DIR": str(Path(caches, "inductor")),
        }
        self.errors, self.began = tempfile.TemporaryFile(), time.perf_counter()  # noqa: SIM115 (closed in close)
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env=environment,
            start_new_session=True,
        )
        if settings.core is not None:
            os.sched_setaffinity(self.process.pid, {settings.core})  # before it imports, and sizes its thread pools
        self._send({"workload": contender.workload, "task": contender.task})

    def _send(self, request: Mapping[str, Any]) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the cause is read with the answer
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()

    def time_calls(self, case: str, calls: int, limit: float) -> float:
        """Seconds of `calls` calls; ContenderError where no answer comes within `limit` seconds."""
        self._send({"case": case, "calls": calls})
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], limit)[0]:
            self.process.kill()
            raise ContenderError(f"no answer within {limit:g} s")
        line = self.process.stdout.readline()
        if not line:
            status = self.process.wait()
            self.errors.seek(0)
            last = self.errors.read().decode(errors="replace").strip().rpartition("\n")[2]
            raise ContenderError(f"killed by signal {-status}" if status < 0 else f"exit status {status}: {last}")
        answer = json.loads(line)
        if "failed" in answer:
            raise ContenderError(answer["failed"])
        return answer["seconds"]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for file in (self.process.stdin, self.process.stdout, self.errors):
            with contextlib.suppress(BrokenPipeError):
                file.close()  # pyrefly: ignore[missing-attribute]


def compare(title: str, times: Mapping[str, Times], images: int) -> tuple[Table, dict[str, Spread]]:
    """(a table with a row for each contender, {contender: Spread in milliseconds}).

    Ratios compare with the first contender; `images` is the number of images in a call.
    """
    ours = next(iter(times.values()))
    header = ("", "ms", "min - max", "images/s", "times slower", "min - max", "first call (s)", "second start")
    rows: list[Row] = []
    for name, entry in times.items():
        ms, between, *slower = format_row(entry, ours)
        rate = "" if entry.failed else f"{images / entry.median:,.0f}"
        starts = (format_seconds(entry.first_call), format_seconds(entry.second_start))
        rows.append((name, ms, between, rate, *slower, *starts))
    bars = {name: spread([1e3 * s for s in entry.seconds]) for name, entry in times.items() if entry.seconds}
    return Table(title, header, rows), bars


def format_row(entry: Times, ours: Times) -> list[str]:
    """Cells: milliseconds and their range, then how many times those of `ours`, round by round, and that range."""
    if entry.failed:
        return [entry.failed, "", "", ""]
    ms = spread([1e3 * seconds for seconds in entry.seconds])
    slower = ["", ""]
    if ours.seconds and entry is not ours:
        factor = ratio(entry, ours)
        slower = [f"{factor.median:.2f}", f"{factor.low:.2f} - {factor.high:.2f}"]
    return [f"{ms.median:.4g}", f"{ms.low:.4g} - {ms.high:.4g}", *slower]


def format_seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.1f}"
