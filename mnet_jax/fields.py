"""What a field of the config is, and how a value for it is checked: the same for the command line and for files."""

import ast
import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from mnet_jax.errors import UserError

LARGEST = 2**31 - 1
"""Of all numbers in the config: steps, images and seeds are int32 in the compiled program."""


class Range(tuple[float, float]):
    """Inclusive bounds of a number."""

    def __new__(cls, low: float, high: float = LARGEST) -> "Range":
        """Makes the pair."""
        return super().__new__(cls, (low, high))


POSITIVE = Range(1e-30)
COUNT = Range(1)
NONNEGATIVE = Range(0)
FRACTION = Range(0, 1)


class Field(NamedTuple):
    """A field of the config.

    `default`  also fixes the type.
    `meaning`  what `--help` prints: a phrase that stands alone.
    `allowed`  a tuple of words, or a `Range` for numbers, or None for anything of the default's type.
    `traced`   the compiled step takes this field as an argument, so arms that differ in nothing else share one program;
               the step cannot read it from the config. True for a number; for a word, the function that turns it into
               numbers, such as a clip's (low, high).
    """

    default: Any
    meaning: str
    allowed: tuple[Any, ...] | None = None
    traced: bool | Callable[[Any], tuple[float, ...]] = False


_KINDS = {
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    str: "a word",
    tuple: "a tuple, such as '(1, 2)'",
}


def coerce(name: str, field: Field, value: Any, where: str) -> Any:
    """The value as the field's type; strings are read as Python literals.

    Raises UserError, which begins with `where`, for another type and for a value that is not allowed.
    """
    kind = type(field.default)
    came = repr(value) if len(repr(value)) < 200 else f"{repr(value)[:197]}..."
    wrong_kind = UserError(f"{where}: {name}={came} is not {_KINDS[kind]}")
    if isinstance(value, str) and kind is not str:
        try:
            value = ast.literal_eval(value.strip().capitalize() if kind is bool else value)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            raise wrong_kind from None
    if kind is float and type(value) is int:
        try:
            value = float(value)
        except OverflowError:
            raise wrong_kind from None
    if kind is tuple and isinstance(value, list | tuple):
        value = tuple(tuple(entry) if isinstance(entry, list | tuple) else entry for entry in value)
    if type(value) is not kind:
        raise wrong_kind
    if kind is float and not math.isfinite(value):
        raise UserError(f"{where}: {name}={came}; allowed: finite numbers")
    if isinstance(field.allowed, Range):
        low, high = field.allowed
        if not low <= value <= high:
            bounds = f"at least {low:g}" if high == LARGEST and value < low else f"from {low:g} to {high:,.10g}"
            raise UserError(f"{where}: {name}={came}; allowed: {bounds}")
    elif field.allowed is not None and value not in field.allowed:
        allowed = ", ".join(map(repr, field.allowed))
        raise UserError(f"{where}: {name}={came}{nearest(str(value), map(str, field.allowed))}; allowed: {allowed}")
    return value


def nearest(name: str, names: Iterable[str]) -> str:
    """`; did you mean 'model.width'?` for the name that is most like this one, or "" where none is."""
    names = list(names)
    last_words: Mapping[str, str] = {known.split(".")[-1]: known for known in names}
    close = difflib.get_close_matches(name, names, n=1) or [
        last_words[word] for word in difflib.get_close_matches(name.split(".")[-1], last_words, n=1)
    ]
    return f"; did you mean {close[0]!r}?" if close else ""
