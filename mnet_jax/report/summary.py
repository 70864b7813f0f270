"""Rows -> what they say: reads a workdir through `results` alone, checks, and decides the claim.

It needs neither checkpoints nor logs, so a report can be written at any time and anywhere.
"""

import collections
import contextlib
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mnet_jax import config, formatting, results, stats
from mnet_jax.errors import UserError
from mnet_jax.tasks.base import Metric
from mnet_jax.tuning import Choice, choices

Row = dict[str, Any]


@dataclass(frozen=True)
class ArmSummary:
    """The finished runs of an arm.

    `planned`     how many runs there are to be, of which `done` are finished.
    `values`      name of a metric -> seed -> value as printed: accuracies in percent.
    `seconds`     mean of the training steps of a run.
    `latency_ms`  median of an image in the trained network's evaluation; nan where it was not measured.
    `pilot`       the first seeds, whose spread decided how many there are; 0 where that was fixed.
    """

    arm: results.Arm
    planned: int
    done: int
    values: Mapping[str, Mapping[int, float]]
    seconds: float
    latency_ms: float
    pilot: int

    @property
    def name(self) -> str:
        return self.arm.name

    @property
    def title(self) -> str:
        """What a reader sees: "relu at lr 0.3" where only the learning rate tells it from another arm."""
        return arm_title(self.arm)

    def estimate(self, metric: Metric) -> stats.Estimate:
        """Mean and interval of a metric, in print; of percentages the interval is cut at 0 and 100."""
        return stats.within(stats.estimate(self.values.get(metric.name, {}).values(), self.pilot), *metric.bounds)

    def beats_guessing(self, metric: Metric) -> bool:
        """Whether the whole interval, or where none is shown the mean, is better than what guessing scores."""
        value, sign = self.estimate(metric), 1 if metric.higher_is_better else -1
        worst = value.low if metric.higher_is_better else value.high
        shown = value.mean if math.isnan(worst) or value.n < stats.FEWEST else worst
        return metric.guessing is None or sign * shown > sign * metric.guessing


def arm_title(arm: results.Arm) -> str:
    """The name of an arm in words; of a copy at another learning rate that of the arm, and the rate."""
    other = arm.same_lr_as or arm.variant
    return f"{other} at lr {arm.lr:g}" if other else arm.name


@dataclass(frozen=True)
class Comparison:
    """An arm minus the baseline, by name of metric; `role` is "primary", "secondary" or "same lr"."""

    arm: ArmSummary
    role: str
    differences: Mapping[str, stats.Difference]


@dataclass(frozen=True)
class Summary:
    """Everything that a report says.

    `metrics`   those that are shown and measured, the deciding one first.
    `verdicts`  one for each primary contrast.
    `same_lr`   for each verdict the difference with all arms at the baseline's learning rate; None where these are the
                same runs.
    `tuned`     variant -> its learning rate, and how sure that is; empty unless this is a tuning, and complete.
    `diverged`  the names of the runs whose loss stopped being finite.
    `settings`  what the setting starts from, in words, and the fields that differ from there.
    `timing`    phase -> seconds, summed over the finished runs.
    `rows`      those of the finished runs, in the order of the plan.
    """

    sweep: results.Sweep
    metrics: tuple[Metric, ...]
    done: int
    total: int
    arms: tuple[ArmSummary, ...]
    comparisons: tuple[Comparison, ...]
    verdicts: tuple[stats.Verdict, ...]
    same_lr: tuple[stats.Difference | None, ...]
    tuned: Mapping[str, Choice]
    warnings: tuple[str, ...]
    diverged: tuple[str, ...]
    settings: tuple[str, Mapping[str, Any]]
    data: Mapping[str, Any]
    versions: Mapping[str, str]
    device: str
    timing: Mapping[str, float]
    rows: Sequence[Row]

    @property
    def metric(self) -> Metric:
        """The one that decides."""
        return self.metrics[0]

    @property
    def baseline(self) -> ArmSummary:
        return self.arms[0]

    @property
    def tuning(self) -> bool:
        return self.sweep.mode == "tune"

    @property
    def partial(self) -> str:
        """A line that says so while runs are missing, else ""."""
        if self.done == self.total:
            return ""
        return f"PARTIAL: {self.done} of {self.total} runs; numbers will change"


def summarize(workdir: Path) -> Summary:
    """Reads the plan and the finished rows of a workdir and decides its claim.

    Raises UserError where rows were made from other data than each other, or with other settings than the
    plan's, showing the difference; and where a row lacks the deciding metric.
    """
    sweep = results.read_sweep(workdir)
    rows = results.read_rows(workdir, sweep)
    _check(sweep, rows)
    tunes, contrasts, pilot = sweep.mode == "tune", sweep.claim.contrasts, _pilot(sweep)
    metric = sweep.metrics[0] if tunes or not sweep.claim.metric else sweep.metric(sweep.claim.metric)
    metrics = _shown_metrics(sweep, rows, metric)
    stored = _stored_values(sweep, rows, metrics)
    latencies = results.read_latencies(workdir)
    planned, by_arm = collections.Counter(run.arm for run in sweep.runs), rows_by_arm(rows)
    arms = tuple(
        _arm(sweep, arm, planned[arm.name], by_arm.get(arm.name, ()), metrics, stored, latencies) for arm in sweep.arms
    )
    copies = {arm.same_lr_as: arm.name for arm in sweep.arms if arm.same_lr_as}
    at_same_lr = {arm: stored[metric.name][copies.get(arm, arm)] for arm in stored[metric.name]}
    beside = stats.verdicts(contrasts, at_same_lr, metric.print_factor, pilot)
    versions = _distinct(rows, "versions")
    verdicts = stats.verdicts(contrasts, stored[metric.name], metric.print_factor, pilot)
    measured = [arm for arm in arms if arm.values[metric.name]]
    learned = not measured or any(arm.beats_guessing(metric) for arm in measured)
    tuned = choices(sweep, rows) if tunes and len(rows) == len(sweep.runs) else {}
    return Summary(
        sweep=sweep,
        metrics=metrics,
        done=len(rows),
        total=len(sweep.runs),
        arms=arms,
        comparisons=() if tunes else tuple(_comparison(sweep, arm, arms[0]) for arm in arms[1:]),
        verdicts=() if tunes else tuple(verdicts if learned else map(_without_evidence, verdicts)),
        same_lr=()
        if tunes
        else tuple(verdict.difference if copies.keys() & set(verdict.contrast.arms) else None for verdict in beside),
        tuned=tuned,
        warnings=(
            *_divergences(rows, metric),
            *_guesses(arms, metrics, learned),
            *_edges(sweep, tuned),
            *_disagreements(rows),
        ),
        diverged=tuple(row["run"] for row in rows if row["diverged_at"] is not None),
        settings=_settings(sweep),
        data=rows[0]["data"] if rows else {},
        versions={name: " and ".join(values) for name, values in versions.items() if any(values)},
        device=" and ".join(dict.fromkeys(_device(row) for row in rows)),
        timing={phase: sum(row["timing"].get(phase, 0.0) for row in rows) for phase in results.PHASES},
        rows=rows,
    )


def rows_by_arm(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """The rows of each arm that has any, in their order."""
    grouped: dict[str, list[Row]] = {}
    for row in rows:
        grouped.setdefault(row["arm"], []).append(row)
    return grouped


def _pilot(sweep: results.Sweep) -> int:
    return sweep.config["seeds"] if sweep.config.get("seeds_until") else 0


TRAINED_ON = frozenset({"data.train_size", "data.noisy_size", "data.train_on"})
"""Fields that say which images a run is trained on; arms that differ in them are compared by the same test images."""

DRAWN = ("split", "drawn_by_seed", "train_images")
"""What such arms' rows say of the data in other words."""


def _check(sweep: results.Sweep, rows: Sequence[Row]) -> None:
    """Refuses rows that must not stand in one comparison."""
    programs = {run.name: job.program for job in sweep.jobs for run in job.runs}

    def tested_on(row: Row) -> dict[str, Any]:
        return {name: value for name, value in row["data"].items() if name not in DRAWN}

    first: dict[Any, Row] = {}
    for row in rows:
        arm = sweep.arm(row["arm"])
        plan = {"overrides": arm.overrides, "lr": arm.lr, "program": programs[row["run"]]}
        _refuse_unequal("settings", "the plan", plan, row["run"], {name: row[name] for name in plan})
        alike = first.setdefault(tuple(arm.overrides.get(name) for name in sorted(TRAINED_ON)), row)
        _refuse_unequal("data", alike["run"], alike["data"], row["run"], row["data"])
        _refuse_unequal("data", rows[0]["run"], tested_on(rows[0]), row["run"], tested_on(row))


def _refuse_unequal(what: str, one: str, a: Mapping[str, Any], other: str, b: Mapping[str, Any]) -> None:
    if a == b:
        return
    unequal = [name for name in {**a, **b} if a.get(name) != b.get(name)]
    shown = "; ".join(f"{name}: {a.get(name)!r} and {b.get(name)!r}" for name in unequal)
    raise UserError(f"{one} and {other} have other {what} and cannot be compared: {shown}")


def _shown_metrics(sweep: results.Sweep, rows: Sequence[Row], metric: Metric) -> tuple[Metric, ...]:
    """The deciding metric, then what else the rows have; measured in training only where the claim is about that."""
    measured = {name for row in rows for name in row["metrics"]}
    shown = [other for other in sweep.metrics if other.name in measured and other != metric]
    if metric.group != "training":
        shown = [other for other in shown if other.group != "training"]
    return metric, *shown


def _stored_values(
    sweep: results.Sweep, rows: Sequence[Row], metrics: Sequence[Metric]
) -> dict[str, dict[str, dict[int, float]]]:
    """Metric -> arm -> seed -> value as stored; a diverged run without a score has none."""
    values: dict[str, dict[str, dict[int, float]]] = {
        metric.name: {arm.name: {} for arm in sweep.arms} for metric in metrics
    }
    for row in sorted(rows, key=lambda row: row["seed"]):
        scores = results.scored_metrics(row, metrics)
        decides = metrics[0]
        if row["diverged_at"] is None and not math.isfinite(scores.get(decides.name, math.nan)):
            raise UserError(f"{row['run']} has no {decides.name}, by which the claim is decided; it has {scores}")
        for metric in metrics:
            if metric.name in scores or row["diverged_at"] is None:
                values[metric.name][row["arm"]][row["seed"]] = scores.get(metric.name, math.nan)
    return values


def _arm(
    sweep: results.Sweep,
    arm: results.Arm,
    planned: int,
    rows: Sequence[Row],
    metrics: Sequence[Metric],
    stored: Mapping[str, Mapping[str, Mapping[int, float]]],
    latencies: Mapping[str, Sequence[float]],
) -> ArmSummary:
    seconds = [row["timing"].get("steps", 0.0) for row in rows]
    return ArmSummary(
        arm=arm,
        planned=planned,
        done=len(seconds),
        values={
            metric.name: {seed: metric.print_factor * value for seed, value in stored[metric.name][arm.name].items()}
            for metric in metrics
        },
        seconds=sum(seconds) / len(seconds) if seconds else math.nan,
        latency_ms=1e3 * statistics.median(latencies.get(arm.name) or [math.nan]),
        pilot=_pilot(sweep),
    )


def _comparison(sweep: results.Sweep, arm: ArmSummary, baseline: ArmSummary) -> Comparison:
    primary = any(set(contrast.arms) == {arm.name, baseline.name} for contrast in sweep.claim.contrasts)
    role = "same lr" if arm.arm.same_lr_as else "primary" if primary else "secondary"
    differences = {
        name: stats.difference(by_seed, baseline.values[name], arm.pilot) for name, by_seed in arm.values.items()
    }
    return Comparison(arm, role, differences)


def _edges(sweep: results.Sweep, tuned: Mapping[str, Choice]) -> Iterable[str]:
    """Which learning rates were those at the end of what was tried."""
    for variant, choice in tuned.items():
        if choice.edge:
            beyond = {"lowest": "lower", "highest": "higher"}[choice.edge]
            yield f"{variant}: the best learning rate, {choice.rate:g}, is the {choice.edge}; try {beyond} ones"
    for arm in sweep.arms:
        if arm.lr_at_edge:
            yield f"{arm.name}: its learning rate, {arm.lr:g}, was at the edge of those that were tried"


def _divergences(rows: Sequence[Row], metric: Metric) -> Iterable[str]:
    if metric.diverged is None:
        score = f"has no score in {metric.title}: it is left out"
    else:
        value = formatting.number(metric, metric.print_factor * metric.diverged)
        score = f"counts as {f'{value} {metric.unit}'.rstrip()}, the level of guessing"
    for row in rows:
        if row["diverged_at"] is not None:
            yield f"{row['run']} diverged at step {row['diverged_at']} and {score}"


def _without_evidence(verdict: stats.Verdict) -> stats.Verdict:
    """The verdict where no arm is better than guessing: what was measured stands, and nothing follows from it."""
    if verdict.difference.n < 2:
        return verdict
    return replace(verdict, outcome="no evidence", p=math.nan, adjusted=math.nan, detectable=math.nan)


def _guesses(arms: Sequence[ArmSummary], metrics: Sequence[Metric], learned: bool) -> Iterable[str]:
    """That no arm is better than guessing in the deciding metric; which arms are worse than it in another one."""
    deciding, *others = metrics
    if not learned:
        level = f"{formatting.number(deciding, deciding.guessing or 0.0)} {deciding.unit}".rstrip()
        yield (
            f"no arm is better than guessing, whose {deciding.title} is {level}: these trainings are no evidence for "
            "or against anything; train longer, or look at the data and the learning rate"
        )
    for metric in others:
        sign = 1 if metric.higher_is_better else -1
        if metric.guessing is None or metric.group != "test":
            continue
        worse = [
            f"{arm.title} ({formatting.number(metric, mean)})"
            for arm in arms
            if sign * (metric.guessing - (mean := arm.estimate(metric).mean)) > 1e-6
        ]
        if worse:
            level = f"{formatting.number(metric, metric.guessing)} {metric.unit}".rstrip()
            yield f"{metric.title} worse than guessing, which has {level}: {', '.join(worse)}"


def _distinct(rows: Sequence[Row], field: str) -> dict[str, list[str]]:
    """Name -> the different values that the rows have there."""
    names = dict.fromkeys(name for row in rows for name in row[field])
    return {name: list(dict.fromkeys(str(row[field].get(name, "")) for row in rows)) for name in names}


def _disagreements(rows: Sequence[Row]) -> Iterable[str]:
    for field, prefix in (("versions", ""), ("device", "device ")):
        for name, values in _distinct(rows, field).items():
            if len(values) > 1:
                counts = [sum(str(row[field].get(name, "")) == value for row in rows) for value in values]
                shown = [f"{value or 'unknown'} ({n} runs)" for value, n in zip(values, counts, strict=True)]
                yield f"the runs differ in {prefix}{name}: {', '.join(shown)}"


def _device(row: Row) -> str:
    device = row["device"]
    return f"{device['count']} x {device['kind']}, {device['threads']} thread{'s' * (device['threads'] != 1)}"


def _settings(sweep: results.Sweep) -> tuple[str, dict[str, Any]]:
    """What the setting starts from, and the fields that differ from there; what every arm sets is left out.

    Of the settings of the scale, one for each family of networks, and the defaults it is the one most alike.
    """
    bases = {"the defaults": config.default()}
    with contextlib.suppress(ValueError):  # a scale of the experiment file's
        bases = {
            f"scale {sweep.scale}, {family}": config.at_scale(sweep.scale, family, task=sweep.config["task"])
            for family in ("v2", "v1")
        } | bases
    varied = {"scale", *set.intersection(*(set(arm.overrides) for arm in sweep.arms))}

    def changes(base: Any) -> dict[str, Any]:
        usual = json.loads(json.dumps(config.flatten(base)))  # tuples become lists, as in a workdir
        names = [name for name, value in sweep.config.items() if name not in varied and value != usual.get(name)]
        return {name: sweep.config[name] for name in names}

    return min(((name, changes(base)) for name, base in bases.items()), key=lambda pair: len(pair[1]))
