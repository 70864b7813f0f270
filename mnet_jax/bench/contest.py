"""Contenders against one another, timed in rounds A B C A B C, so that all see one machine.

Libraries are each a process that stays (`contest`); what differs within this project shares one (`alternate`).

A contender that is not installed, fails, or takes too long gets a row that says so, and the others go on.
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
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]


class Failed(Exception):
    """A contender has no time, with the reason."""


class Entrant(NamedTuple):
    """Who takes part.

    `work`         of `peers.WORKS`; `task` is what that function takes.
    `item`         of those that the work offers.
    `keep_memory`  whether the process has the allocator's setting of `runtime.keep_memory`.
    `peer`         whether it runs under the interpreter of the peers.
    """

    work: str
    task: Mapping[str, Any]
    item: str
    keep_memory: bool = True
    peer: bool = False


class Settings(NamedTuple):
    """How it is timed: rounds; seconds of one turn (at least one call); seconds until a contender has failed.

    `peers_python` is the interpreter of the peers, `core` the only one that contenders may use (None: all).
    """

    rounds: int = 5
    turn: float = 0.5
    start_limit: float = 300.0
    turn_limit: float = 120.0
    peers_python: str = sys.executable
    core: int | None = None


@dataclass
class Times:
    """Of one entrant: seconds from the start of its process to the first finished call, and of a call in each round.

    `again` is as `first`, of a second process. None where it was not measured.
    """

    first: float | None = None
    again: float | None = None
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


def contest(
    entrants: Mapping[str, Entrant], settings: Settings, title: str, again: Sequence[str] = ()
) -> dict[str, Times]:
    """Starts one process after the other, then times all in turn; entrants that share all but the item share one.

    Those of `again` are then started a second time, as they are when what they compiled is on disk.
    """
    times = {name: Times() for name in entrants}
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        processes: dict[str, Process] = {}
        calls: dict[str, int] = {}
        for name, entrant in entrants.items():
            key = json.dumps(entrant._replace(item=""))
            try:
                if key not in processes:
                    say(f"{title}: {name} starts")
                    processes[key] = stack.enter_context(started(entrant, settings, scratch))
                processes[name] = processes[key]
                processes[key].turn(entrant.item, 1, settings.start_limit)
                first = times[name].first = time.perf_counter() - processes[key].began
                once = processes[key].turn(entrant.item, 1, settings.turn_limit)
                calls[name] = max(1, round(settings.turn / max(once, 1e-9)))
                say(f"{title}: {name}: first call after {first:.1f} s, then {once:.4g} s")
            except Failed as reason:
                times[name].failed = str(reason)
                say(f"{title}: {name}: {reason}")
        for number in range(settings.rounds):
            for name in list(calls):
                try:
                    seconds = processes[name].turn(entrants[name].item, calls[name], settings.turn_limit)
                    times[name].seconds.append(seconds / calls[name])
                except Failed as reason:
                    times[name].failed = str(reason)
                    say(f"{title}: {name}: {reason}")
                    del calls[name]
            say(f"{title}: round {number + 1} of {settings.rounds}")
        for name in calls.keys() & set(again):
            with contextlib.suppress(Failed), started(entrants[name], settings, scratch) as process:
                process.turn(entrants[name].item, 1, settings.start_limit)
                times[name].again = time.perf_counter() - process.began
    for entry in times.values():
        entry.seconds = [] if entry.failed else entry.seconds
    return times


def alternate(runs: Mapping[str, Callable[[int], None]], settings: Settings, title: str) -> dict[str, Times]:
    """As `contest`, in this process; run(calls) returns when all that it started is finished, and may raise."""
    times = {name: Times() for name in runs}
    calls: dict[str, int] = {}

    def turn(name: str, count: int) -> float:
        begin = time.perf_counter()
        try:
            runs[name](count)
        except Exception as error:  # XLA has no common type; out of memory is one
            times[name].failed = f"{type(error).__name__}: {error}".partition("\n")[0]
            say(f"{title}: {name}: {times[name].failed}")
            calls.pop(name, None)
        return time.perf_counter() - begin

    for name in runs:
        calls[name] = 1
        times[name].first = turn(name, 1)
        if name in calls:
            calls[name] = max(1, round(settings.turn / max(turn(name, 1), 1e-9)))
    for _ in range(settings.rounds):
        for name in list(calls):
            seconds = turn(name, calls[name])
            if name in calls:
                times[name].seconds.append(seconds / calls[name])
    for entry in times.values():
        entry.seconds = [] if entry.failed else entry.seconds
    return times


def say(line: str) -> None:
    """Progress, apart from the tables."""
    print(line, file=sys.stderr, flush=True)


class Process:
    """A contender's process: a request is a line {"item", "calls"}, the answer a line {"seconds"} or {"failed"}."""

    def __init__(self, entrant: Entrant, settings: Settings, scratch: str, errors: Any):
        command = [settings.peers_python if entrant.peer else sys.executable, "-m", "mnet_jax.bench.peers"]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
            "MNET_JAX_KEEP_MEMORY": str(int(entrant.keep_memory)),
            "KERAS_BACKEND": "jax",
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # else the first on a GPU takes its memory from the others
            # Empty at first, so that a start is a first one; shared by those that differ in the allocator only.
            "JAX_COMPILATION_CACHE_DIR": str(Path(scratch, "jax")),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "TORCHINDUCTOR_CACHE_DIR": str(Path(scratch, "inductor")),
        }
        self.errors, self.began = errors, time.perf_counter()
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
            start_new_session=True,
        )
        if settings.core is not None:
            os.sched_setaffinity(self.process.pid, {settings.core})  # before it imports, and sizes its thread pools
        self.send({"work": entrant.work, "task": entrant.task})

    def send(self, request: Mapping[str, Any]) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # what it died of is read with the answer
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()

    def turn(self, item: str, calls: int, limit: float) -> float:
        """Seconds of `calls` calls; Failed where none come within `limit` seconds."""
        self.send({"item": item, "calls": calls})
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], limit)[0]:
            self.process.kill()
            raise Failed(f"no answer within {limit:g} s")
        line = self.process.stdout.readline()
        if not line:
            status = self.process.wait()
            self.errors.seek(0)
            last = self.errors.read().decode(errors="replace").strip().rpartition("\n")[2]
            raise Failed(f"killed by signal {-status}" if status < 0 else f"exit status {status}: {last}")
        answer = json.loads(line)
        if "failed" in answer:
            raise Failed(answer["failed"])
        return answer["seconds"]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()  # pyrefly: ignore[missing-attribute]


@contextlib.contextmanager
def started(entrant: Entrant, settings: Settings, scratch: str) -> Iterator[Process]:
    """A contender's process, ended on leaving."""
    with tempfile.TemporaryFile() as errors:
        process = Process(entrant, settings, scratch, errors)
        try:
            yield process
        finally:
            process.close()


# What a part of the benchmark hands back.

Row = Sequence[str]


@dataclass
class Table:
    """A table of text cells."""

    title: str
    header: Row
    rows: Sequence[Row]

    def markdown(self) -> str:
        lines = ["| " + " | ".join(row) + " |" for row in (self.header, ["---"] * len(self.header), *self.rows)]
        return f"**{self.title}**\n\n" + "\n".join(lines) + "\n"


@dataclass
class Result:
    """Tables, the raw rounds behind them as JSON holds them, and what the picture shows: {panel: {name: Spread}}."""

    tables: list[Table]
    raw: Mapping[str, Any]
    bars: Mapping[str, Mapping[str, Spread]] = field(default_factory=dict)
    unit: str = "ms"


def start(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.1f}"


def raw(times: Mapping[str, Times]) -> dict[str, Any]:
    """As JSON holds them."""
    return {name: asdict(entry) for name, entry in times.items()}


def cells(entry: Times, ours: Times) -> list[str]:
    """Milliseconds and their range, then how many times those of `ours`, round by round, and its range."""
    if entry.failed:
        return [entry.failed, "", "", ""]
    ms = spread([1e3 * seconds for seconds in entry.seconds])
    slower = ["", ""]
    if ours.seconds and entry is not ours:
        factor = ratio(entry, ours)
        slower = [f"{factor.median:.2f}", f"{factor.low:.2f} - {factor.high:.2f}"]
    return [f"{ms.median:.4g}", f"{ms.low:.4g} - {ms.high:.4g}", *slower]


def compare(title: str, times: Mapping[str, Times], images: int) -> tuple[Table, dict[str, Spread]]:
    """A row an entrant, the first being what the ratios compare with; and the milliseconds for a picture."""
    ours = next(iter(times.values()))
    header = ("", "ms", "min - max", "images/s", "times slower", "min - max", "first call (s)", "second start")
    rows: list[Row] = []
    for name, entry in times.items():
        ms, between, *slower = cells(entry, ours)
        rate = "" if entry.failed else f"{images / entry.median:,.0f}"
        rows.append((name, ms, between, rate, *slower, start(entry.first), start(entry.again)))
    bars = {name: spread([1e3 * s for s in entry.seconds]) for name, entry in times.items() if entry.seconds}
    return Table(title, header, rows), bars
