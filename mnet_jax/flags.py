"""Checks of command-line values, which run before anything that takes time."""

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mnet_jax.errors import UserError

MAX_RESOLUTION = 16_384
"""The largest height and width of an image, in pixels."""


def check_number(flag: str, value: float | None, low: float, high: float = math.inf) -> None:
    """Raises UserError where a number is not finite, below `low` or above `high`; None, no number, is accepted."""
    if value is not None and not (math.isfinite(value) and low <= value <= high):
        allowed = f"at least {low:,}" if math.isinf(high) else f"{low:,} to {high:,}"
        raise UserError(f"{flag} {value}; allowed: {allowed}")


def check_folder(flag: str, folder: Path) -> None:
    """Makes a folder for output where it is missing; raises UserError where no file can be written into it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_into(folder)
    except OSError as error:
        raise UserError(f"{flag} {folder}: {error.strerror}; allowed: a folder that can be written") from error


def check_file(flag: str, file: Path, suffixes: Sequence[str]) -> None:
    """Raises UserError where a file for output has another suffix, is a folder, or lies where none can be written."""
    if file.is_dir():
        raise UserError(f"{flag} {file} is a folder; allowed: a file, {' or '.join(suffixes)}")
    if file.suffix not in suffixes:
        raise UserError(f"{flag} {file}; allowed: a file, {' or '.join(suffixes)}")
    try:
        _write_into(file.parent)
    except OSError as error:
        raise UserError(f"{flag} {file}: {error.strerror}; allowed: a file in a folder that can be written") from error


def _write_into(folder: Path) -> None:
    """Raises OSError where no file can be written into an existing folder."""
    with tempfile.TemporaryFile(dir=folder):
        pass
