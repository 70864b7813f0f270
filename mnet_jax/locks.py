"""Who works on what: kernel locks on files of the workdir, so that several processes and hosts can share it.

A lock is freed at any death of its process, so there is no heartbeat and no stale claim.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from mnet_jax import results
from mnet_jax.errors import UserError
from mnet_jax.results import Run


@contextlib.contextmanager
def claim(workdir: Path, runs: Sequence[Run]) -> Iterator[bool]:
    """Tries to become the one process that works on these runs; yields whether it is."""
    import fcntl

    with contextlib.ExitStack() as locks:
        for run in sorted(runs, key=lambda run: run.name):
            path = results.run_dir(workdir, run.name) / "lock"
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                fcntl.flock(locks.enter_context(open(path, "w")), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
        yield True


@contextlib.contextmanager
def report_lock(workdir: Path) -> Iterator[None]:
    """Waits until no other process writes the report of this workdir; the last one to come in sees every row.

    Where no file can be locked it does not wait.
    """
    import fcntl

    with contextlib.ExitStack() as locks:
        with contextlib.suppress(OSError):
            fcntl.flock(locks.enter_context(open(workdir / ".report.lock", "w")), fcntl.LOCK_EX)
        yield


def check(workdir: Path) -> None:
    """UserError where the workdir's file system cannot lock files, or its mount hides locks from other hosts."""
    import fcntl

    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / f".locks.{os.getpid()}"
    refused = "runs are claimed by file locks, so that several processes and hosts can share a workdir; choose another"
    try:
        with open(path, "w") as one, open(path, "w") as two:
            fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pass
            else:
                raise UserError(f"{workdir}: its file system grants one lock twice; {refused}")
    except OSError as error:
        raise UserError(f"{workdir}: no file can be locked there ({error}); {refused}") from error
    finally:
        with contextlib.suppress(OSError):  # where it could not be created either
            path.unlink()
    if options := _mount_options(workdir.resolve()) & {"nolock", "local_lock=all", "local_lock=flock"}:
        raise UserError(f"{workdir}: NFS mounted with {options.pop()}, which hides locks from other hosts; {refused}")


def _mount_options(path: Path, mounts: Path = Path("/proc/self/mounts")) -> set[str]:
    """Options of the NFS mount that `path` lies on; none for other file systems, or where there is no such list."""
    best, options = Path("/"), set()
    with contextlib.suppress(OSError):
        for line in mounts.read_text().splitlines():
            _, where, kind, words = line.split()[:4]
            point = Path(where.encode().decode("unicode_escape"))
            if path.is_relative_to(point) and len(point.parts) >= len(best.parts):
                best, options = point, set(words.split(",")) if kind.startswith("nfs") else set()
    return options
