"""Values read from JSON, checked against the types that the code reads them as."""

import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, NotRequired, Required, Union, get_args, get_origin, get_type_hints, is_typeddict

from mnet_jax.errors import UserError
from mnet_jax.fields import nearest

WORDS = {str: "a string", int: "a whole number", float: "a number", bool: "true or false", type(None): "null"}


def parse(value: Any, kind: Any, where: str, at: str = "") -> Any:
    """What a JSON value is as `kind`: a type of `WORDS`, Any, a dataclass, a TypedDict, or a dict, list, tuple or union.

    Lists become the tuples, and dicts the dataclasses, that `kind` asks for. A TypedDict may have more keys than are
    named, a dataclass may not.

    Raises UserError with `where`, such as a file, the place in it (`at`, such as "arms[3].lr"), what came and what is
    allowed.
    """
    place = f"{where}: {at}" if at else where
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (NotRequired, Required):
        return parse(value, arguments[0], where, at)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        matching = [option for option in arguments if _outer(value, option)]
        if matching:
            return parse(value, matching[0], where, at)
    elif _outer(value, kind):
        if is_dataclass(kind) or is_typeddict(kind):
            return _record(value, kind, where, at)
        if isinstance(value, dict):
            return {name: parse(entry, arguments[1], where, _join(at, name)) for name, entry in value.items()}
        if isinstance(value, list):
            ends = arguments[-1] is Ellipsis or origin is list
            if not ends and len(arguments) != len(value):
                raise UserError(f"{place} has {len(value)} entries; allowed: {len(arguments)}")
            kinds = [arguments[0]] * len(value) if ends else arguments
            entries = [parse(entry, kinds[number], where, f"{at}[{number}]") for number, entry in enumerate(value)]
            return entries if origin is list else tuple(entries)
        return value
    shown = repr(value)
    raise UserError(f"{place} is {shown if len(shown) < 80 else shown[:77] + '...'}; allowed: {_words(kind)}")


def _outer(value: Any, kind: Any) -> bool:
    """Whether the value, without looking into it, is of this kind."""
    shape = get_origin(kind) or kind
    if kind is Any:
        return True
    if shape in (list, tuple):
        return isinstance(value, list)
    if shape in (dict, Mapping) or is_dataclass(shape) or is_typeddict(shape):
        return isinstance(value, dict)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is kind


def _record(value: dict[str, Any], kind: Any, where: str, at: str) -> Any:
    place, hints = f"{where}: {at}" if at else where, get_type_hints(kind, include_extras=True)
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


def _join(at: str, name: str) -> str:
    return f"{at}.{name}" if at else name


def _words(kind: Any) -> str:
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(map(_words, get_args(kind)))
    if kind in WORDS:
        return WORDS[kind]
    return "a list" if (get_origin(kind) or kind) in (list, tuple) else "a dict"
