"""Values read from JSON, checked against the types that the code reads them as."""

import functools
import json
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, NotRequired, Required, Union, get_args, get_origin, get_type_hints, is_typeddict

from mnet_jax.errors import UserError
from mnet_jax.fields import nearest

WORDS = {str: "a string", int: "a whole number", float: "a number", bool: "true or false", type(None): "null"}

AS_THEY_ARE = {str: (str,), int: (int,), float: (float, int)}
"""A type -> the types of JSON that are taken for it unchanged: most values of large files, told at a glance."""


def parse(value: Any, kind: Any, where: str, at: str = "") -> Any:
    """A JSON value as `kind`: a type of `WORDS`, Any, a dataclass, a TypedDict, or a dict, list or tuple of them.

    Lists become the tuples, and dicts the dataclasses, that `kind` asks for. A TypedDict may have more keys than are
    named, a dataclass may not.

    Raises UserError with `where`, such as a file, the place in it (`at`, such as "arms[3].lr"), what came and what is
    allowed.
    """
    if kind is Any or type(value) is kind or (kind is float and type(value) is int):
        return value
    shape, arguments = _shape(kind)
    place = f"{where}: {at}" if at else where
    if shape in (NotRequired, Required):
        return parse(value, arguments[0], where, at)
    if shape is types.UnionType:
        for option in arguments:
            if type(value) in (option, _shape(option)[0]) or (option is float and type(value) is int):
                return parse(value, option, where, at)
    elif shape is RECORD and isinstance(value, dict):
        return _record(value, kind, where, at)
    elif shape is dict and isinstance(value, dict):
        if all(type(entry) in AS_THEY_ARE.get(arguments[1], ()) for entry in value.values()):
            return value
        return {name: parse(entry, arguments[1], where, _join(at, name)) for name, entry in value.items()}
    elif shape in (list, tuple) and isinstance(value, list):
        same = shape is list or arguments[-1] is Ellipsis
        if not same and len(arguments) != len(value):
            raise UserError(f"{place} has {len(value)} entries; allowed: {len(arguments)}")
        kinds = [arguments[0]] * len(value) if same else arguments
        entries = [parse(entry, kinds[number], where, f"{at}[{number}]") for number, entry in enumerate(value)]
        return entries if shape is list else tuple(entries)
    shown = repr(value)
    raise UserError(f"{place} is {shown if len(shown) < 80 else shown[:77] + '...'}; allowed: {_words(kind)}")


def without_format(record: Any, number: int, where: str) -> Any:
    """The record of a file without its key "format"; UserError where that is there and another number."""
    if not isinstance(record, dict):
        return record
    if record.get("format", number) != number:
        raise UserError(f"{where} is of another version of mnet_jax; allowed: format {number}")
    return {name: value for name, value in record.items() if name != "format"}


RECORD = "record"
"""The shape of dataclasses and TypedDicts."""


@functools.cache
def _shape(kind: Any) -> tuple[Any, tuple[Any, ...]]:
    """What a kind is on the outside, such as dict, list or RECORD, and what it consists of."""
    shape = get_origin(kind) or kind
    if is_dataclass(shape) or is_typeddict(shape):
        shape = RECORD
    shape = {Mapping: dict, Union: types.UnionType}.get(shape, shape)
    return shape, get_args(kind)


def _record(value: dict[str, Any], kind: Any, where: str, at: str) -> Any:
    place, hints = f"{where}: {at}" if at else where, _hints(kind)
    if is_dataclass(kind):
        needed = [field.name for field in fields(kind) if field.default is field.default_factory is MISSING]
        if unknown := [name for name in value if name not in hints]:
            raise UserError(
                f"{place} has no key {unknown[0]!r}{nearest(unknown[0], hints)}; allowed: {', '.join(hints)}"
            )
    else:
        needed = [name for name in hints if name in kind.__required_keys__]
    if missing := [name for name in needed if name not in value]:
        raise UserError(f"{place} lacks {', '.join(missing)}")
    parsed = {name: parse(value[name], hints[name], where, _join(at, name)) for name in hints if name in value}
    return kind(**parsed) if is_dataclass(kind) else {**value, **parsed}


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _join(at: str, name: str) -> str:
    return f"{at}.{name}" if at else name


def _words(kind: Any) -> str:
    shape, arguments = _shape(kind)
    if shape is types.UnionType:
        return " or ".join(map(_words, arguments))
    return WORDS.get(kind) or ("a list" if shape in (list, tuple) else "a dict")


def jsonable(value: Any) -> Any:
    """The value as JSON reads it back, so that a plan in memory equals the one on disk."""
    return json.loads(json.dumps(value))
