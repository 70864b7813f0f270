"""A folder of workdirs that is kept the same as one on a bucket (gs://, s3://), which cannot lock and has no rename.

Each host works in a folder of its own, where the kernel locks files. One command at a time owns the bucket, by a lease,
and copies to it what changes; Orbax writes the checkpoints of jobs there itself. So the hosts of one job need no shared
file system, and a machine that is lost takes only some seconds of work with it.
"""

import contextlib
import json
import logging
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mnet_jax.errors import UserError

MARK = ".bucket"
"""The file in a folder that says which bucket it is kept the same as."""

LEASE = "lease.json"
"""On the bucket: who owns it."""

SCHEMES = ("gs://", "s3://")

EVERY = 10.0
"""Seconds between two looks at what has changed, and two renewals of the lease."""

STALE = 3 * EVERY
"""A lease that nobody renews for so many seconds is taken over."""

SETTLE = 2.0
"""Seconds after which a lease that was written is still there, or another command has written its own."""


def at(url: str) -> Any:
    """The path of a folder on a bucket. UserError for another scheme, and where a package for it is missing.

    A path without a scheme stands for itself: a file system that cannot lock.
    """
    from etils import epath

    scheme, separator, _ = url.partition("://")
    if separator and f"{scheme}://" not in SCHEMES:
        raise UserError(f"--bucket {url}; allowed: {', '.join(SCHEMES)}")
    try:
        folder = epath.Path(url)
        folder.exists()
    except (ImportError, RuntimeError, ValueError) as error:
        raise UserError(f"--bucket {url} cannot be read: {error}") from error
    return folder


def of(folder: Path) -> Any:
    """The place on the bucket of a folder, or None where neither it nor one above is kept the same as a bucket's."""
    folder = folder.absolute()
    for above in (folder, *folder.parents):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return at((above / MARK).read_text().strip()) / folder.relative_to(above).as_posix()
    return None


def mark(folder: Path, url: str) -> None:
    """Says in a folder that it is kept the same as the bucket's. UserError where it is that of another one."""
    at(url)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / MARK
    if path.exists() and (other := path.read_text().strip()) != url:
        raise UserError(f"{folder} is kept the same as {other}, not {url}; choose another --out")
    path.write_text(f"{url}\n")


def pull(folder: Path) -> None:
    """Copies what the bucket has that is newer or of another length; nothing where the folder is of no bucket."""
    there = of(folder)
    for path, stat in _files(there) if there is not None else ():
        here = folder / path
        if not here.exists() or here.stat().st_size != stat.length or int(here.stat().st_mtime) < int(stat.mtime):
            here.parent.mkdir(parents=True, exist_ok=True)
            part = here.with_name(f".{here.name}.{os.getpid()}")
            part.write_bytes((there / path).read_bytes())
            os.utime(part, (stat.mtime, stat.mtime))
            part.replace(here)


def push(folder: Path) -> None:
    """Copies what the bucket lacks, or has older or of another length; nothing where the folder is of no bucket.

    Rows last, so that none is there without its curve and weights.
    """
    there = of(folder)
    if there is None:
        return
    known = dict(_files(there))
    files = [path for path in folder.rglob("*") if not any(_stays(part) for part in path.relative_to(folder).parts)]
    for path in sorted(files, key=lambda path: (path.name == "result.json", path)):
        with contextlib.suppress(FileNotFoundError):  # removed meanwhile
            if not path.is_file():
                continue
            name, here = path.relative_to(folder).as_posix(), path.stat()
            stat = known.get(name)
            # Of two changes in one second the bucket's clock cannot tell which it has.
            if stat is None or stat.length != here.st_size or int(stat.mtime) <= int(here.st_mtime):
                (there / name).parent.mkdir(parents=True, exist_ok=True)
                (there / name).write_bytes(path.read_bytes())


def _files(there: Any) -> Iterator[tuple[str, Any]]:
    """Path from there and stat of each file that is copied."""
    for top, folders, names in there.walk() if there.exists() else ():
        folders[:] = [name for name in folders if not _stays(name)]
        for name in names:
            path = (top / name).relative_to(there)
            if not any(_stays(part) for part in path.parts):
                yield path.as_posix(), (top / name).stat()


def _stays(name: str) -> bool:
    """Whether a file or folder of this name is not copied."""
    return name.startswith(".") or name in ("checkpoints", "lock", LEASE)


class Owner:
    """The one command that writes to a bucket; to be used in a `with`.

    On entering it takes the lease and copies from the bucket what is newer there. Then it copies to the bucket what
    changes, every `EVERY` seconds and at the end. Of two commands that start within `SETTLE` seconds, the one that
    wrote the lease last stays. One whose lease was taken over, since it could not renew it, stops as if it was told to.
    """

    def __init__(self, folder: Path):
        self.folder, self.there = folder, of(folder)
        self.name = f"{socket.gethostname()}, process {os.getpid()}, {uuid.uuid4().hex[:8]}"
        self.lost = ""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="bucket", daemon=True)

    def __enter__(self) -> "Owner":
        self.there.mkdir(parents=True, exist_ok=True)
        if lease := self._lease():
            logging.info("%s is owned by %s; waiting %.0f s whether that one lives", self.there, lease["owner"], STALE)
            time.sleep(STALE)
            if self._lease() not in (lease, None):
                raise UserError(f"{self.there} is owned by {lease['owner']}, which is at work; one command at a time")
        self._write_lease()
        time.sleep(SETTLE)
        if not self._is_mine():
            raise UserError(f"{self.there} is owned by {self.lost}, which began as this one did; one command at a time")
        pull(self.folder)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()
        if self.lost:
            raise UserError(f"{self.there} was taken over by {self.lost}; once that one ended the same command goes on")
        push(self.folder)
        (self.there / LEASE).unlink(missing_ok=True)

    def _renew(self) -> None:
        """What the thread does."""
        while not self._ended.wait(EVERY):
            try:
                if not self._is_mine():
                    logging.error("%s was taken over by %s", self.there, self.lost)
                    os.kill(os.getpid(), signal.SIGTERM)
                    return
                self._write_lease()
                push(self.folder)
            except Exception as error:  # each library has its own; the next look, or the end, tries again
                logging.warning("%s cannot be written (%s); trying again", self.there, error)

    def _lease(self) -> dict[str, Any] | None:
        try:
            lease = json.loads((self.there / LEASE).read_text())
        except FileNotFoundError:
            return None
        except ValueError:  # half written
            lease = {}
        return lease if "owner" in lease else {"owner": "a command that is just starting"}

    def _write_lease(self) -> None:
        (self.there / LEASE).write_text(json.dumps({"owner": self.name, "renewed": time.time()}))

    def _is_mine(self) -> bool:
        owner = (self._lease() or {"owner": "nobody"})["owner"]
        self.lost = "" if owner == self.name else owner
        return not self.lost
