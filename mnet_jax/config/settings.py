"""A config from the table of fields: made, overridden, checked, and cut into what is compiled and what is passed."""

import re
from collections import namedtuple
from collections.abc import Mapping
from functools import cache
from typing import Any

from ml_collections import ConfigDict

from mnet_jax.config.table import FIELDS, NOT_PROGRAM
from mnet_jax.errors import UserError
from mnet_jax.fields import Field, coerce, nearest
from mnet_jax.models import specs
from mnet_jax.tasks import TASKS


def add_fields(fields: Mapping[str, Field], where: str) -> None:
    """Adds an experiment's own fields to the table; UserError for what is no field, and for a name that is taken."""
    for name, field in fields.items():
        if not isinstance(field, Field) or not re.fullmatch(r"[a-z]\w*(\.[a-z]\w*)+", str(name)):
            raise UserError(
                f"{where}: field {name!r} is {field!r}; allowed: 'section.name': config.Field(default, meaning)"
            )
        if FIELDS.get(name, field) != field and _defined_by.get(name) != where:
            by = f", defined by {_defined_by[name]}" if name in _defined_by else ""
            raise UserError(f"{where}: the field {name!r} exists already{by}; choose another name")
        FIELDS[name], _defined_by[name] = field, where


_defined_by: dict[str, str] = {}
"""Field of an experiment -> its file, which may define it again once it has changed."""


def fields_of(file: str) -> dict[str, Field]:
    """The package's fields and those of one experiment file, without those of others that this process has read."""
    return {name: field for name, field in FIELDS.items() if _defined_by.get(name, file) == file}


def default() -> ConfigDict:
    """The papers' MobileNetV2 recipe as a locked ConfigDict: `cfg.model.width = 0.75` works, `cfg.widht = 1` not."""
    config = ConfigDict()
    for name, field in FIELDS.items():
        *path, leaf = name.split(".")
        node = config
        for part in path:
            if part not in node:
                node[part] = ConfigDict()
            node = node[part]
        node[leaf] = field.default
    return config.lock()


def flatten(config: ConfigDict) -> dict[str, Any]:
    """{"model.width": 1.0, ...} in the order of the table."""
    flat = {}
    for name in FIELDS:
        node = config
        for part in name.split("."):
            node = node[part]
        flat[name] = node
    return flat


def unflatten(flat: Mapping[str, Any]) -> ConfigDict:
    """The inverse of `flatten`; lists (from JSON) become tuples, and fields that are not there have their defaults."""
    config = default()
    override(config, flat)
    return config


def override(config: ConfigDict, overrides: Mapping[str, Any], where: str = "config") -> None:
    """Sets dotted keys, from the command line (strings) and from sweep rows (values) alike.

    Raises UserError for an unknown key, with the nearest one; for a value of the wrong type or out of range, with what
    is allowed. `where` says in the message who asked.
    """
    for name, value in overrides.items():
        if name not in FIELDS:
            raise UserError(f"{where}: no such field {name!r}{nearest(str(name), FIELDS)}")
        *path, leaf = name.split(".")
        node = config
        for part in path:
            node = node[part]
        node[leaf] = coerce(name, FIELDS[name], value, where)


def check(config: ConfigDict, where: str = "config") -> None:
    """Refuses impossible values and combinations with a UserError that shows what came and what is allowed."""
    flat = {name: coerce(name, FIELDS[name], value, where) for name, value in flatten(config).items()}
    if flat["task"] not in TASKS:
        raise UserError(f"{where}: task={flat['task']!r}{nearest(flat['task'], TASKS)}; allowed: {', '.join(TASKS)}")
    if flat["seeds_until"] and not 2 <= flat["seeds"] <= flat["seeds_max"]:
        raise UserError(
            f"{where}: seeds={flat['seeds']} and seeds_max={flat['seeds_max']}; with seeds_until allowed: at least 2, "
            "for they give the spread, and at most seeds_max"
        )
    task = TASKS[flat["task"]]
    try:
        if task.trains:
            _check_training(flat, config)
        task.check(config)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _check_training(flat: Mapping[str, Any], config: ConfigDict) -> None:
    batch, group = flat["train.batch_size"], flat["model.norm.group"]
    read = {f"model.{field}" for field in specs.fields(flat["model.name"])}
    for name in (name for name in flat if name.startswith("model.") and name not in read):
        if flat[name] != FIELDS[name].default:
            raise UserError(
                f"{name}={flat[name]!r} means nothing to {flat['model.name']}; "
                f"allowed: the default {FIELDS[name].default!r}"
            )
    if group and batch % group:
        raise UserError(
            f"model.norm.group={group} does not divide train.batch_size={batch}; "
            "allowed: a divisor of it, or 0 for the whole batch"
        )
    for name in ("data.label_noise", "data.train_on"):
        if flat[name] != FIELDS[name].default and not flat["data.noisy_size"]:
            raise UserError(f"{name}={flat[name]!r} with data.noisy_size=0; allowed: {FIELDS[name].default!r}")
    rates = flat["tune.lrs"]
    if not all(_is_number(lr) and lr > 0 for lr in rates) or not 2 <= len(rates) == len(set(rates)):
        raise UserError(f"tune.lrs={rates!r}; allowed: a tuple of two or more different positive numbers")
    for name, (low, high) in {"data.area": (0, 1), "data.aspect": (0.1, 10), "data.randaugment": (0, 10)}.items():
        pair = flat[name]
        if len(pair) != 2 or not all(_is_number(x) and low <= x <= high for x in pair):
            raise UserError(f"{name}={pair!r}; allowed: a pair of numbers from {low} to {high}")
        if name != "data.randaugment" and pair[0] > pair[1]:
            raise UserError(f"{name}={pair!r}; allowed: the lower bound first")
    if flat["data.randaugment"][0] and not flat["data.size"]:
        raise UserError("data.randaugment works on the host: set data.size, the side of its crops")
    stem = flat["model.stem"]
    if stem and not (len(stem) == 2 and all(type(entry) is int and entry > 0 for entry in stem)):
        raise UserError(f"model.stem={stem!r}; allowed: (channels, stride), or () for the network's own")
    if not all(isinstance(pattern, str) for pattern in flat["optim.trainable"]):
        raise UserError(
            f"optim.trainable={flat['optim.trainable']!r}; allowed: a tuple of patterns, such as ('head.*',)"
        )
    if not all(isinstance(row, tuple) for row in flat["model.blocks"]):
        raise UserError(f"model.blocks={flat['model.blocks']!r}; allowed: a tuple of rows, each a tuple")
    try:
        specs.resolve(config.model)
    except ValueError as error:
        raise UserError(str(error)) from None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def field_error(error: Exception, where: str) -> UserError:
    """What a ConfigDict raises on a misspelt field or a wrong type in an experiment file, as one clear UserError."""
    text = " ".join(str(error.args[0] if error.args else error).split())
    if unknown := re.search(r'Key "(\w+)" does not exist', text) or re.fullmatch(r"['\"]*(\w+)['\"]*", text):
        return UserError(f"{where}: no such field {unknown[1]!r}{nearest(unknown[1], FIELDS)}")
    return UserError(f"{where}: {text}")


def static_fields(config: ConfigDict) -> dict[str, Any]:
    """The fields that fix the compiled program: runs that agree in them share one."""
    return {
        name: value for name, value in flatten(config).items() if not FIELDS[name].traced and name not in NOT_PROGRAM
    }


def without_traced(config: ConfigDict) -> ConfigDict:
    """The config that the compiled step is built from: it has no traced fields, so that reading one there fails."""
    static = config.copy_and_resolve_references()
    with static.unlocked():
        for name, field in FIELDS.items():
            if field.traced:
                *path, leaf = name.split(".")
                node = static
                for part in path:
                    node = node[part]
                if leaf in node:
                    del node[leaf]
    return static


def traced_values(config: ConfigDict) -> Any:
    """The traced fields as the compiled step takes them: a named tuple with the last words of their names.

    Numbers are floats; a word is the tuple of numbers that it stands for, such as a clip's (low, high).
    """
    flat = flatten(config)
    values = {
        name.split(".")[-1]: flat[name] if field.traced is True else field.traced(flat[name])
        for name, field in FIELDS.items()
        if callable(field.traced) or field.traced
    }
    return _traced_type(tuple(values))(**values)


@cache
def _traced_type(names: tuple[str, ...]) -> Any:
    return namedtuple("Traced", names)  # pyrefly: ignore
