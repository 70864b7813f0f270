"""The shared library of the operations in C++: compiled at first use, in seconds, and cached for the next processes.

It lies in $XDG_CACHE_HOME/mnet_jax/native (~/.cache/mnet_jax/native), a file for each machine, compiler and jaxlib,
with its SHA-256 beside it. What is loaded is code, so a folder or file that another user could have written is not
used, and a file whose checksum differs, as after a crash, is compiled again.
"""

import contextlib
import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax

from mnet_jax.errors import UserError

SOURCE = Path(__file__).with_name("native.cc")
HEADERS = tuple(sorted(SOURCE.parent.glob("*.h")))
COMPILERS = ("c++", "g++", "clang++")


def load(symbols: Sequence[str]) -> ctypes.CDLL:
    """Returns the library, which defines `symbols`.

    Raises OSError or ValueError, with the reason, where it can be neither loaded nor compiled.
    """
    command = _command()
    path = _folder() / f"native-{_key(command)}.so"
    with _locked(path.with_suffix(".lock")):
        if path.exists():
            try:
                _verify(path)
                return _open(path, symbols)
            except OSError as error:
                logging.warning("%s is compiled again: %s", path, error)
        _compile(command, path)
        return _open(path, symbols)


def _command() -> list[str]:
    """The compiler, as $CXX or else the first that is installed, and its flags."""
    given = shlex.split(os.environ.get("CXX", ""))
    names = given[:1] or COMPILERS
    compiler = next(filter(None, map(shutil.which, names)), None)
    if compiler is None:
        raise UserError(f"no C++ compiler: looked for {', '.join(names)}; $CXX names another")
    native = "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"
    flags = [*given[1:], "-std=c++17", "-O3", native, "-fPIC", "-shared", "-pthread"]
    return [compiler, *flags, "-isystem", jax.ffi.include_dir(), str(SOURCE)]


def _key(command: Sequence[str]) -> str:
    """A digest of all that decides what the compiler makes, and whether it can be loaded."""
    version = subprocess.run([command[0], "--version"], capture_output=True, text=True).stdout
    sources = [path.read_text() for path in (SOURCE, *HEADERS)]
    parts = [*sources, *command, version, jax.lib.__version__, *platform.libc_ver(), _processor()]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _processor() -> str:
    """What `-march=native` depends on, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.machine())


def _folder() -> Path:
    """The cache, or else a folder of this user's among the temporary files: where the cache cannot be written, where
    others can write it, and where the user has no home.
    """
    try:
        root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return _private(Path(root, "mnet_jax", "native"))
    except (OSError, RuntimeError) as error:  # RuntimeError: neither $HOME nor an entry in the list of users
        folder = _private(Path(tempfile.gettempdir(), f"mnet_jax-{os.geteuid()}"))
        logging.warning("compiled operations are kept in %s: %s", folder, error)
        return folder


def _private(folder: Path) -> Path:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_private(folder, folder.stat())
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{folder} cannot be written")
    return folder


def _check_private(path: Path, status: os.stat_result) -> None:
    """Raises PermissionError where another user owns a file or folder or may write it."""
    if status.st_uid != os.geteuid():
        raise PermissionError(f"{path} belongs to user {status.st_uid}, not to user {os.geteuid()}")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(f"{path} is writable by others: allowed after chmod go-w")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Of several processes one is inside; the others wait."""
    import fcntl

    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _checksum(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _verify(path: Path) -> None:
    """Raises OSError where the library or its checksum is another user's, or where the two differ."""
    for file in (path, _checksum(path)):
        _check_private(file, file.lstat())
    if hashlib.sha256(path.read_bytes()).hexdigest() != _checksum(path).read_text(errors="replace"):
        raise OSError("its checksum differs")


def _compile(command: Sequence[str], path: Path) -> None:
    """Compiles to `path`, such that a crash at any moment leaves a file that `_verify` accepts or refuses rightly."""
    logging.info("compiling %s, once for this machine", SOURCE.name)
    part = path.with_suffix(".part")
    done = subprocess.run([*command, "-o", str(part)], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{command[0]} failed on {SOURCE.name}: {done.stderr.strip()[:500]}")
    part.chmod(0o700)
    digest = hashlib.sha256(part.read_bytes()).hexdigest()
    _replace(part, path)
    part.touch(mode=0o600)
    part.write_text(digest)
    _replace(part, _checksum(path))


def _replace(part: Path, path: Path) -> None:
    """Moves a file into its place once all of it is on the disk."""
    with open(part, "rb") as file:
        os.fsync(file.fileno())
    os.replace(part, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _open(path: Path, symbols: Sequence[str]) -> ctypes.CDLL:
    """Raises OSError where the library cannot be loaded or lacks a symbol."""
    import _ctypes

    library = ctypes.CDLL(str(path))
    missing = [symbol for symbol in symbols if not hasattr(library, symbol)]
    if missing:
        _ctypes.dlclose(library._handle)  # else the same path, compiled again, would be this library
        raise OSError(f"{path} does not define {', '.join(missing)}")
    return library
