"""The rows of an experiment's sweep -> its arms: named, checked, with what they need and at which rates."""

import hashlib
import itertools
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mnet_jax import config, results
from mnet_jax.errors import UserError
from mnet_jax.experiment import Experiment
from mnet_jax.fields import nearest
from mnet_jax.models import specs
from mnet_jax.results import Arm, Need
from mnet_jax.schema import jsonable
from mnet_jax.tasks import TASKS

MOST_ARMS = 20_000
"""An endless `sweep(config)` ends here."""


LONGEST_NAME = 100
"""Bytes of an arm's name: two of them make the name of a job's folder, which has up to 255."""


def arms_of(experiment: Experiment, base: Any, overrides: Mapping[str, str], where: str) -> dict[str, Arm]:
    rows = _rows(experiment, base, where)
    names = [row.pop("name", "") for row in rows]
    edges = [row.pop("lr_at_edge", False) for row in rows]
    varied = {key for row in rows for key in row}
    if both := sorted(varied & set(overrides)):
        raise UserError(f"command line: {both[0]} is what {where} sweeps over; change the file, or drop the override")
    if fixed := sorted(varied & (config.EXECUTION | config.PLANNING | {"task"})):
        raise UserError(f"{where}: arms cannot differ in {fixed[0]}, which is the whole sweep's")
    arms: dict[str, Arm] = {}
    names_by_identity: dict[Any, str] = {}
    for row, given, edge in zip(rows, names, edges, strict=True):
        cfg = base.copy_and_resolve_references()
        config.override(cfg, row, where)
        name = given or _name(row)
        if not isinstance(name, str) or not re.fullmatch(results.NAME, name) or len(name.encode()) > LONGEST_NAME:
            raise UserError(
                f"{where}: arm name {name!r}; allowed: up to {LONGEST_NAME} letters, digits and _ . = + @ , -; "
                "'name' in a row gives its arm another"
            )
        config.check(cfg, f"{where}, arm {name}")
        same = _identity(cfg, experiment)
        if same in names_by_identity or name in arms:
            raise UserError(
                f"{where}: arms {names_by_identity.get(same, name)!r} and {name!r} are the same network and settings"
            )
        names_by_identity[same] = name
        flat = config.flatten(cfg)
        arms[name] = Arm(name, jsonable({key: flat[key] for key in row}), cfg.optim.lr, lr_at_edge=edge is True)
    return arms


def _rows(experiment: Experiment, base: Any, where: str) -> list[dict[str, Any]]:
    try:
        rows = list(itertools.islice(experiment.sweep(base.copy_and_resolve_references()), MOST_ARMS + 1))
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    except (Exception, SystemExit) as error:
        raise UserError(f"{where}: sweep(config) raises {type(error).__name__}: {error}") from error
    if not rows:
        raise UserError(f"{where}: sweep(config) yields no row; the first is the baseline")
    if len(rows) > MOST_ARMS:
        raise UserError(f"{where}: sweep(config) yields more than {MOST_ARMS:,} rows")
    for row in rows:
        if not isinstance(row, Mapping):
            raise UserError(f"{where}: sweep(config) yields {row!r}; allowed: dicts of overrides")
    return [dict(row) for row in rows]


def _identity(cfg: Any, experiment: Experiment) -> tuple[Any, ...]:
    """What two arms must differ in: the network as it resolves, and all other settings."""
    flat = {name: value for name, value in config.flatten(cfg).items() if name not in config.EXECUTION}
    if not TASKS[cfg.task].trains or experiment.code.network:
        return tuple(flat.items())
    rest = tuple((name, value) for name, value in flat.items() if not name.startswith("model."))
    return (specs.resolve(cfg.model), *rest)


def _name(row: Mapping[str, Any]) -> str:
    """The values that make an arm: words stand alone, numbers with their key; the learning rate is no name."""
    parts = []
    for key, value in row.items():
        if key == "optim.lr" and len(row) > 1:
            continue
        leaf = key.split(".")[-1]
        if isinstance(value, str):
            parts.append(value)
        elif isinstance(value, tuple | list):
            digest = hashlib.sha256(repr(value).encode()).hexdigest()[:4]
            parts.append(f"{leaf}={digest}")
        else:
            parts.append(f"{leaf}={value}")
    return ",".join(parts) or "baseline"


NEEDS = {"train.init_from": "init_from", "train.teacher": "teacher"}
"""Field that names an arm or a weights file -> the role of its weights."""


def with_needs(arms: dict[str, Arm], base: Mapping[str, Any], where: str) -> dict[str, Arm]:
    """Says of every arm whose weights its runs need, by its overrides and the base config."""
    needing = {}
    for name, arm in arms.items():
        values = {field: arm.overrides.get(field, base[field]) for field in NEEDS}
        needs = [_need(NEEDS[field], value, arms, f"{where}, arm {name}: {field}")
                 for field, value in values.items() if value]  # fmt: skip
        for need in needs:
            if need.role == "teacher":
                _check_teacher(arm_config(base, arm), need, arms, base, f"{where}, arm {name}")
        needing[name] = replace(arm, needs=tuple(needs))
    for name in needing:
        _refuse_circle(name, needing, (), where)
    return needing


def _need(role: str, value: str, arms: Mapping[str, Arm], where: str) -> Need:
    from mnet_jax.models import weights

    if value in arms:
        return Need(role, arm=value)
    path = Path(value)
    if not path.is_file():
        raise UserError(
            f"{where}={value!r}{nearest(value, arms)}; allowed: a weights file, or one of {', '.join(arms)}"
        )
    weights.read(path)
    return Need(role, file=str(path.resolve()), sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def _check_teacher(cfg: Any, need: Need, arms: Mapping[str, Arm], base: Mapping[str, Any], where: str) -> None:
    """UserError where the teacher's answers are not those that the student is to give."""
    from mnet_jax.models import weights

    teacher = arm_config(base, arms[need.arm]) if need.arm else weights.config_of(need.file, weights.read(need.file)[1])
    for field in ("task", "model.num_classes", "model.in_channels"):
        its, own = (config.flatten(of)[field] for of in (teacher, cfg))
        if its != own:
            raise UserError(f"{where}: its teacher {need.arm or need.file} has {field}={its!r}; allowed: {own!r}")


def _refuse_circle(name: str, arms: Mapping[str, Arm], before: tuple[str, ...], where: str) -> None:
    if name in before:
        raise UserError(f"{where}: arms that need one another: {' -> '.join((*before[before.index(name) :], name))}")
    for need in arms[name].needs:
        if need.arm:
            _refuse_circle(need.arm, arms, (*before, name), where)


def with_same_lr(arms: dict[str, Arm], where: str) -> dict[str, Arm]:
    """Adds to every arm with another learning rate than the baseline's a copy at the baseline's."""
    lr = next(iter(arms.values())).lr
    copies = {}
    for name, arm in arms.items():
        if arm.lr != lr:
            copy = f"{name}@lr{lr:g}"
            if copy in arms:
                raise UserError(f"{where}: {copy!r} is the name of arm {name!r} at the baseline's rate; choose another")
            overrides = {**arm.overrides, "optim.lr": lr}
            copies[copy] = Arm(copy, overrides, lr, same_lr_as=name, needs=arm.needs)
    return {**arms, **copies}


def tuning_grid(arms: dict[str, Arm], base: Any) -> dict[str, Arm]:
    """Every arm at every rate; arms that others need are there at their own rate, too."""
    grid = {}
    for name, arm in arms.items():
        tried = [at_rate(arm, name, lr) for lr in map(float, base.tune.lrs)]
        grid |= {arm.name: arm for arm in tried}
    needed = {need.arm for arm in arms.values() for need in arm.needs if need.arm}
    return {**grid, **{name: arms[name] for name in arms if name in needed}}


def at_rate(arm: Arm, variant: str, lr: float) -> Arm:
    """The arm, or the tuning's arm, as the one that tries a learning rate of the variant."""
    overrides = {**arm.overrides, "optim.lr": lr}
    return replace(arm, name=f"{variant}@lr{lr:g}", overrides=overrides, lr=lr, variant=variant, lr_at_edge=False)


def arm_config(base: Mapping[str, Any], arm: Arm) -> Any:
    """The config of an arm's runs: the base with the arm's overrides."""
    return config.unflatten({**base, **arm.overrides})
