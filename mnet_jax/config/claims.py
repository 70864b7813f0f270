"""What an experiment claims, and the contrasts that decide it, checked before anything is trained.

An experiment file says `claim = {...}` with the keys of `Claim`, or a function of the config that returns such a dict,
and writes contrasts with `greater`, `equivalent`, `trend`, `interaction`, `straight` and `off_line`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from mnet_jax.errors import UserError
from mnet_jax.fields import nearest

KINDS = ("greater", "equivalent", "trend", "interaction", "straight", "off_line")

ASKED_BY = ("paper", "reader", "ours")
"""Who says what a contrast tests: the cited paper, a reader of it (or other literature), or the experiment alone."""

COSTS = ("madds", "params")
"""Words for the axis of `Claim.curve` that stand for what was counted."""


@dataclass(frozen=True)
class Contrast:
    """One primary question, which the runs answer.

    `kind`       "greater": the metric of arms[0] exceeds that of arms[1].
                 "equivalent": arms[0] and arms[1] differ by less than `margin`.
                 "trend": the metric grows (`sign` 1) or falls (-1) with `x` over the arms.
                 "interaction": arms are pairs, one pair after the other; the lead of the first arm of a pair over the
                 second grows or shrinks with `x` over the pairs.
                 "straight": the metric against `x` bends by less than `margin`: the least-squares parabola over the
                 arms is nearer than that to its chord.
                 "off_line": the metric of arms[0] lies above (`sign` 1) or below (-1) the straight line against `x`
                 through the other arms.
    `margin`     as printed: in points for accuracies.
    `published`  the paper's figure in the same units, or None.
    `asked_by`   of ASKED_BY; "" = as the claim.
    """

    kind: str
    arms: tuple[str, ...]
    x: tuple[float, ...] = ()
    sign: int = 1
    margin: float | None = None
    published: float | None = None
    asked_by: str = ""

    @property
    def is_slope(self) -> bool:
        """Whether what is measured is a slope against `x`."""
        return self.kind in ("trend", "interaction")

    @property
    def is_papers(self) -> bool:
        """Whether the paper itself says what is tested, so that runs can contradict it."""
        return self.asked_by in ("", "paper")


@dataclass(frozen=True)
class Claim:
    """What is said about the arms of a sweep, and what decides it.

    `text`              the claim as one sentence.
    `source`            where it is printed, such as "Sandler et al. 2018, Figure 6a".
    `asked_by`          of ASKED_BY: who says so, where a contrast does not name another; "" = the paper where a source
                        is named, else "ours".
    `published`         the printed figures, in words.
    `metric`            the name of the metric that decides; "" = the task's first one.
    `contrasts`         the primary questions; Holm's correction runs over them.
    `equal_madds`       groups of arms that have the multiply-adds of the group's first within 2 %.
    `curve`             {"x": "madds", "params" or a label, "points": {arm: x}, "series": {name: arms}}: a picture of
                        the metric against the logarithm of x.
    `grid`              {"x": label, "y": label, "cells": {arm: (x, y)}}: a picture of the metric over two factors.
    `printed`           arm -> {"top1", "madds_m", "params_m", "latency_ms"} as the paper prints them.
    `published_points`  ({"label", "x": multiply-adds, "accuracy": percent}, ...): the paper's points.
    """

    text: str = ""
    source: str = ""
    asked_by: str = ""
    published: str = ""
    metric: str = ""
    contrasts: tuple[Contrast, ...] = ()
    equal_madds: tuple[tuple[str, ...], ...] = ()
    curve: Mapping[str, Any] | None = None
    grid: Mapping[str, Any] | None = None
    printed: Mapping[str, Mapping[str, float]] | None = None
    published_points: tuple[Mapping[str, Any], ...] = ()


def greater(better: str, worse: str, published: float | None = None, asked_by: str = "") -> Contrast:
    """The metric of `better` exceeds that of `worse`; `published` is the paper's difference, in points."""
    return Contrast("greater", (better, worse), published=published, asked_by=asked_by)


def equivalent(a: str, b: str, margin: float, published: float | None = None, asked_by: str = "") -> Contrast:
    """Arms `a` and `b` differ by less than `margin` points."""
    return Contrast("equivalent", (a, b), margin=margin, published=published, asked_by=asked_by)


def trend(
    arms: Sequence[str], x: Sequence[float], sign: int = 1, published: float | None = None, asked_by: str = ""
) -> Contrast:
    """The metric grows (`sign` 1) or falls (-1) with `x` over these arms."""
    return Contrast("trend", tuple(arms), tuple(x), sign, published=published, asked_by=asked_by)


def interaction(
    pairs: Sequence[tuple[str, str]],
    x: Sequence[float],
    sign: int = 1,
    published: float | None = None,
    asked_by: str = "",
) -> Contrast:
    """The first arm's lead over the second grows (`sign` 1) or shrinks (-1) with `x` over these pairs."""
    arms = tuple(arm for pair in pairs for arm in pair)
    return Contrast("interaction", arms, tuple(x), sign, published=published, asked_by=asked_by)


def straight(arms: Sequence[str], x: Sequence[float], margin: float, asked_by: str = "") -> Contrast:
    """The metric is a straight line against `x` over these arms, but for a bend of less than `margin` points."""
    return Contrast("straight", tuple(arms), tuple(x), margin=margin, asked_by=asked_by)


def off_line(arms: Sequence[str], x: Sequence[float], sign: int = 1, asked_by: str = "") -> Contrast:
    """The first arm lies above (`sign` 1) or below (-1) the straight line against `x` through the others."""
    return Contrast("off_line", tuple(arms), tuple(x), sign, asked_by=asked_by)


def parse(value: Any, where: str) -> Claim:
    """A Claim from what an experiment file or a workdir holds: a Claim, or a dict of its fields.

    Raises UserError for another type, an unknown key, a value of the wrong type and a contrast that asks nothing.
    """
    if isinstance(value, Claim):
        value = {field.name: getattr(value, field.name) for field in fields(Claim)}
    if not isinstance(value, Mapping):
        raise UserError(
            f"{where}: the claim is {_shown(value)}; allowed: a dict with keys of {', '.join(_keys(Claim))}"
        )
    _check_keys(value, _keys(Claim), f"{where}: the claim")
    for key in ("text", "source", "published", "metric"):
        _check_type(value.get(key, ""), str, f"{where}: the claim's {key}", "a string")
    asked_by = _asked_by(value, f"{where}: the claim's") or ("paper" if value.get("source") else "ours")
    contrasts = _tuple(value.get("contrasts", ()), f"{where}: the claim's contrasts", "a tuple of contrasts")
    groups = _tuple(value.get("equal_madds", ()), f"{where}: the claim's equal_madds", "a tuple of groups of arms")
    points = _tuple(value.get("published_points", ()), f"{where}: the claim's published_points", "a tuple of points")
    for point in points:
        _check_dict(point, {"label": str, "x": float, "accuracy": float}, (), f"{where}: a published point")
    return Claim(
        **{key: value.get(key, "") for key in ("text", "source", "published", "metric")},
        asked_by=asked_by,
        contrasts=tuple(_contrast(entry, asked_by, f"{where}: contrast {n}") for n, entry in enumerate(contrasts, 1)),
        equal_madds=tuple(_arms(group, f"{where}: the claim's equal_madds") for group in groups),
        curve=_curve(value.get("curve"), f"{where}: the claim's curve"),
        grid=_grid(value.get("grid"), f"{where}: the claim's grid"),
        printed=_printed(value.get("printed"), f"{where}: the claim's printed"),
        published_points=points,
    )


def check(claim: Claim, arms: Iterable[str], metrics: Iterable[str], where: str) -> None:
    """Refuses a claim that these arms and metrics cannot decide, with a UserError."""
    arms, metrics = tuple(arms), tuple(metrics)
    if claim.metric not in metrics:
        near = nearest(claim.metric, metrics)
        raise UserError(f"{where}: no metric {claim.metric!r}{near}; this task's are {', '.join(metrics)}")
    if len(arms) > 1 and not claim.contrasts:
        raise UserError(
            f"{where}: {len(arms)} arms and no contrast: say what decides, such as "
            f"'contrasts': (config.greater({arms[1]!r}, {arms[0]!r}),)"
        )
    named = [("contrast", arm) for contrast in claim.contrasts for arm in contrast.arms]
    named += [("equal_madds", arm) for group in claim.equal_madds for arm in group]
    named += [("curve", arm) for arm in (claim.curve or {}).get("points", ())]
    named += [("curve", arm) for group in (claim.curve or {}).get("series", {}).values() for arm in group]
    named += [("grid", arm) for arm in (claim.grid or {}).get("cells", ())]
    named += [("printed", arm) for arm in claim.printed or ()]
    for what, arm in named:
        if arm not in arms:
            near = nearest(arm, arms)
            raise UserError(f"{where}: the claim's {what} names arm {arm!r}{near}; the sweep's are {', '.join(arms)}")


def to_json(claim: Claim) -> dict[str, Any]:
    """What `parse` reads back; fields that say nothing are left out."""
    return {key: value for key, value in asdict(claim).items() if value}


def _asked_by(value: Mapping[str, Any], where: str) -> str:
    """What a claim or contrast has there, "" where it has nothing."""
    asked_by = value.get("asked_by", "")
    if asked_by and asked_by not in ASKED_BY:
        near = nearest(str(asked_by), ASKED_BY)
        raise UserError(f"{where} asked_by is {_shown(asked_by)}{near}; allowed: {', '.join(ASKED_BY)}")
    return asked_by


def _contrast(value: Any, asked_by: str, where: str) -> Contrast:
    if isinstance(value, Contrast):
        value = asdict(value)
    if not isinstance(value, Mapping):
        raise UserError(f"{where} is {_shown(value)}; allowed: config.{', '.join(KINDS)} of arms")
    _check_keys(value, _keys(Contrast), where)
    kind = value.get("kind")
    if kind not in KINDS:
        raise UserError(f"{where}: no kind {kind!r}{nearest(str(kind), KINDS)}; allowed: {', '.join(KINDS)}")
    arms, where = _arms(value.get("arms", ()), where), f"{where} ({kind})"
    x = _tuple(value.get("x") or (), f"{where}: x", "a tuple of numbers")
    for number in x:
        _check_number(number, f"{where}: x")
    if kind in ("greater", "equivalent"):
        if len(arms) != 2:
            raise UserError(f"{where} compares {len(arms)} arms; allowed: 2")
        pairs = [arms]
    elif kind != "interaction":
        pairs, least = [], 2 if kind == "trend" else 3
        if len(arms) != len(x) or len(set(arms)) != len(arms) or len(arms) < least:
            raise UserError(
                f"{where}: {len(arms)} arms and {len(x)} x; allowed: as many x as different arms, at least {least}"
            )
    else:
        pairs = list(zip(arms[::2], arms[1::2], strict=False))
        if len(arms) != 2 * len(x) or len(x) < 2:
            raise UserError(f"{where}: {len(arms)} arms and {len(x)} x; allowed: one x for each pair, at least 2 pairs")
    for first, second in pairs:
        if first == second:
            raise UserError(f"{where} compares arm {first!r} with itself")
    if x and len(set(x[1:] if kind == "off_line" else x)) < (different := 3 if kind == "straight" else 2):
        whose = " of the arms behind the first" if kind == "off_line" else ""
        raise UserError(f"{where}: x is {x}; allowed: at least {different} different numbers{whose}")
    sign = value.get("sign", 1)
    if type(sign) is not int or sign not in (1, -1):
        raise UserError(f"{where}: sign={sign!r}; allowed: 1 (grows) and -1 (falls)")
    margin, published = value.get("margin"), value.get("published")
    if kind in ("equivalent", "straight"):
        _check_number(margin, f"{where}: margin")
        if margin is None or margin <= 0:
            raise UserError(f"{where}: margin={margin!r}; allowed: a positive number, in points for accuracies")
    elif margin is not None:
        raise UserError(f"{where}: margin={margin!r}; allowed: none, which only equivalent and straight have")
    if published is not None:
        _check_number(published, f"{where}: published")
    asked_by = _asked_by(value, f"{where}:") or asked_by
    return Contrast(kind, arms, tuple(map(float, x)), sign, margin, published, asked_by)


def _curve(value: Any, where: str) -> Mapping[str, Any] | None:
    if not value:
        return None
    _check_dict(value, {"x": str, "points": dict, "series": dict}, ("points", "series"), where)
    for arm, x in value.get("points", {}).items():
        _check_number(x, f"{where}: the point of {arm}")
    series = {name: _arms(group, f"{where}: series {name!r}") for name, group in value.get("series", {}).items()}
    points = value.get("points", {})
    lacking = [arm for group in series.values() for arm in group if arm not in points]
    if value["x"] not in COSTS and (lacking or not points):
        raise UserError(
            f"{where}: no point for {lacking[0] if lacking else 'any arm'}; x = {value['x']!r} needs one each"
        )
    return {"x": value["x"], "points": dict(points), "series": series}


def _grid(value: Any, where: str) -> Mapping[str, Any] | None:
    if not value:
        return None
    _check_dict(value, {"x": str, "y": str, "cells": dict}, (), where)
    for arm, place in value["cells"].items():
        place = _tuple(place, f"{where}: the cell of {arm}", "a pair of numbers")
        if len(place) != 2:
            raise UserError(f"{where}: the cell of {arm} is {place!r}; allowed: a pair of numbers")
    return {**value, "cells": {arm: tuple(place) for arm, place in value["cells"].items()}}


def _printed(value: Any, where: str) -> Mapping[str, Mapping[str, float]] | None:
    if not value:
        return None
    _check_type(value, Mapping, where, "a dict of arms")
    columns = dict.fromkeys(("top1", "madds_m", "params_m", "latency_ms"), float)
    for arm, row in value.items():
        _check_dict(row, columns, ("madds_m", "params_m", "latency_ms"), f"{where}: {arm}")
    return value


def _keys(record: type) -> tuple[str, ...]:
    return tuple(field.name for field in fields(record))


def _check_keys(value: Mapping[str, Any], allowed: Sequence[str], where: str) -> None:
    for key in value:
        if key not in allowed:
            raise UserError(f"{where} has no key {key!r}{nearest(str(key), allowed)}; allowed: {', '.join(allowed)}")


def _check_dict(value: Any, types: Mapping[str, type], optional: Sequence[str], where: str) -> None:
    _check_type(value, Mapping, where, f"a dict with {', '.join(types)}")
    _check_keys(value, tuple(types), where)
    for key, kind in types.items():
        if key not in value:
            if key not in optional:
                raise UserError(f"{where} has no {key!r}; needed: {', '.join(set(types) - set(optional))}")
        elif kind is float:
            _check_number(value[key], f"{where}: {key}")
        else:
            _check_type(value[key], kind, f"{where}: {key}", f"a {kind.__name__}")


def _check_type(value: Any, kind: type, where: str, allowed: str) -> None:
    if not isinstance(value, kind):
        raise UserError(f"{where} is {_shown(value)}; allowed: {allowed}")


def _check_number(value: Any, where: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"{where} is {_shown(value)}; allowed: a finite number")


def _tuple(value: Any, where: str, allowed: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise UserError(f"{where} is {_shown(value)}; allowed: {allowed}")
    return tuple(value)


def _arms(value: Any, where: str) -> tuple[str, ...]:
    arms = _tuple(value, f"{where}: arms", "a tuple of arm names")
    for arm in arms:
        _check_type(arm, str, f"{where}: an arm", "the name of an arm")
    return arms


def _shown(value: Any) -> str:
    text = repr(value)
    return f"a {type(value).__name__}, {text if len(text) < 80 else text[:77] + '...'}"
