"""A report that stands in a workdir and is what its files would give again: to draw takes longer than all the rest."""

import functools
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import mnet_jax
from mnet_jax import results, schema
from mnet_jax.errors import UserError

FILE = ".report.json"

FORMAT = 1
"""Of that file; to be raised when a change of it would be read wrongly."""


@dataclass(frozen=True)
class KeptFigure:
    """A figure as it was drawn before."""

    title: str
    caption: str
    path: str

    @functools.cached_property
    def svg(self) -> str:
        return Path(self.path).read_text(encoding="utf-8")


@dataclass(frozen=True)
class _Report:
    """What `FILE` says: the digest of what the report was made of, its files, and its figures."""

    source: str
    files: tuple[str, ...]
    figures: tuple[KeptFigure, ...]


def source(workdir: Path) -> str:
    """A digest of what a report is made of: names, sizes and times of change of the runs' files, and of this code."""
    runs = [(folder.name, _files(folder)) for folder in sorted((workdir / "runs").glob("*/"))]
    return hashlib.sha256(repr((_code(), _files(workdir), runs)).encode(errors="surrogateescape")).hexdigest()


def _files(folder: Path) -> list[tuple[str, int, int]]:
    """(name, size, time of change) of the files of a folder, but for reports and locks."""
    with os.scandir(folder) as entries:
        statuses = {entry.name: entry.stat() for entry in entries if entry.is_file()}
    kept = sorted(name for name in statuses if name != "lock" and not name.startswith((".", "report.")))
    return [(name, statuses[name].st_size, statuses[name].st_mtime_ns) for name in kept]


@functools.cache
def _code() -> list[list[tuple[str, int, int]]]:
    package = Path(mnet_jax.__file__).parent
    return [_files(folder) for folder in (package, *sorted(package.rglob("*/"))) if folder.name != "__pycache__"]


def read(workdir: Path, made_of: str) -> Sequence[KeptFigure] | None:
    """The figures of the report in the workdir; None where it was made of something else, or is not whole."""
    try:
        record = schema.without_format(results.read_json(workdir / FILE), FORMAT, FILE)
        report = schema.parse(record, _Report, FILE)
    except (OSError, UserError):
        return None
    if report.source != made_of or not all((workdir / name).exists() for name in report.files):
        return None
    return [replace(figure, path=str(workdir / figure.path)) for figure in report.figures]


def write(workdir: Path, made_of: str, files: Sequence[str], figures: Mapping[str, tuple[str, str]]) -> None:
    """Says of a report that was written what it was made of; `figures` are (title, caption) by the name of the SVG."""
    kept = tuple(KeptFigure(title, caption, path) for path, (title, caption) in figures.items())
    record = {"format": FORMAT, **asdict(_Report(made_of, tuple(files), kept))}
    results.write_atomic(workdir / FILE, json.dumps(record))
