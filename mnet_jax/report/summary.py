"""Rows -> what was found: reads a workdir through `results` alone, checks, and decides the claim.

It needs neither checkpoints nor logs, so a report can be made at any time and anywhere.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnet_jax import results, stats

PHASES = ("start", "compile", "data", "steps", "evaluation", "writing")

SETTINGS = (
    "model.name",
    "model.width",
    "model.init",
    "data.source",
    "data.train_size",
    "data.holdout",
    "data.shift",
    "data.flip",
    "train.epochs",
    "train.batch_size",
    "train.label_smoothing",
    "train.ema",
    "optim.name",
    "optim.momentum",
    "optim.schedule",
    "optim.warmup",
    "optim.weight_decay",
)
"""What a reader asks first; sweep.json has the rest."""

Row = dict[str, Any]


@dataclass(frozen=True)
class ArmSummary:
    """The finished runs of an arm.

    `values`   metric -> seed -> value as printed: accuracies in percent.
    `seconds`  mean of the training steps of a run.
    `latency_ms`  median of an image in the trained network's evaluation; nan where it was not measured.
    `pilot`    the first seeds, whose spread decided how many there are; 0 where that was fixed.
    """

    arm: results.Arm
    planned: int
    values: Mapping[str, Mapping[int, float]]
    seconds: float
    latency_ms: float
    pilot: int

    @property
    def name(self) -> str:
        return self.arm.name

    @property
    def n(self) -> int:
        return max((len(of_seed) for of_seed in self.values.values()), default=0)

    def estimate(self, metric: str) -> stats.Estimate:
        return stats.estimate(self.values.get(metric, {}).values(), self.pilot)


@dataclass(frozen=True)
class Comparison:
    """An arm minus the baseline, by metric; `role` is "primary", "secondary" or "same lr"."""

    arm: results.Arm
    role: str
    differences: Mapping[str, stats.Difference]


@dataclass(frozen=True)
class Summary:
    """Everything that a report says.

    `metrics`   the claim's first.
    `verdicts`  one for each primary contrast; beside it in `same_lr` the difference with every arm at the
                baseline's learning rate, None where these are the same runs.
    `tuned`     variant -> best learning rate; empty unless this is a tuning, and complete.
    `timing`    phase -> seconds, summed over the finished runs.
    """

    sweep: results.Sweep
    metrics: tuple[str, ...]
    done: int
    total: int
    arms: tuple[ArmSummary, ...]
    comparisons: tuple[Comparison, ...]
    verdicts: tuple[stats.Verdict, ...]
    same_lr: tuple[stats.Difference | None, ...]
    tuned: Mapping[str, float]
    warnings: tuple[str, ...]
    diverged: tuple[str, ...]
    settings: Mapping[str, Any]
    data: Mapping[str, str]
    versions: Mapping[str, str]
    device: str
    timing: Mapping[str, float]

    @property
    def metric(self) -> str:
        return self.metrics[0]

    @property
    def baseline(self) -> ArmSummary:
        return self.arms[0]

    @property
    def partial(self) -> str:
        """A line that says so while runs are missing, else ""."""
        if self.done == self.total:
            return ""
        return f"PARTIAL: {self.done} of {self.total} runs; numbers will change"


def summarize(workdir: Path) -> Summary:
    """Reads the plan and the finished rows of a workdir and decides its claim.

    Raises ValueError where rows were made from other data than each other, or with other settings than the
    plan's, showing the difference; and where a row lacks the claim's metric.
    """
    sweep = results.read_sweep(workdir)
    rows = results.read_rows(workdir, sweep.runs)
    _check(sweep, rows)
    tuning = sweep.mode == "tune"
    claim: dict[str, Any] = {"metric": "accuracy", "contrasts": [], **sweep.claim, "pilot": _pilot(sweep)}
    metric: str = "accuracy" if tuning else claim["metric"]
    hidden = {"train_loss", "train_accuracy"} if metric == "accuracy" else set()
    keys = (key for row in rows for key in row["metrics"] if key not in hidden)
    metrics = tuple(dict.fromkeys([metric, *keys]))
    raw = {key: {arm.name: {} for arm in sweep.arms} for key in metrics}
    for row in rows:
        measured = _measured(row, metric)
        for key in metrics:
            raw[key][row["arm"]][row["seed"]] = measured.get(key, math.nan)
    latencies = results.read_latencies(workdir)
    arms = tuple(_arm(sweep, arm, rows, raw, latencies) for arm in sweep.arms)
    versions = _distinct(rows, "versions")
    best, edges = _best_rates(sweep, arms) if tuning else ({}, ())
    return Summary(
        sweep=sweep,
        metrics=metrics,
        done=len(rows),
        total=len(sweep.runs),
        arms=arms,
        comparisons=() if tuning else tuple(_comparison(sweep, arm, arms[0]) for arm in arms[1:]),
        verdicts=() if tuning else tuple(stats.verdicts(claim, raw[metric])),
        same_lr=() if tuning else _same_lr(sweep, claim, raw[metric]),
        tuned=best,
        warnings=(*_divergences(rows), *edges, *_disagreements(rows)),
        diverged=tuple(row["run"] for row in rows if row["diverged_at"] is not None),
        settings=_settings(sweep),
        data=rows[0]["data"] if rows else {},
        versions={name: " and ".join(found) for name, found in versions.items() if any(found)},
        device=" and ".join(dict.fromkeys(_device(row) for row in rows)),
        timing={phase: sum(row["timing"].get(phase, 0.0) for row in rows) for phase in PHASES},
    )


def _pilot(sweep: results.Sweep) -> int:
    return sweep.config["seeds"] if sweep.config.get("seeds_until") else 0


def _check(sweep: results.Sweep, rows: Sequence[Row]) -> None:
    """Refuses rows that must not stand in one comparison."""
    programs = {run.name: job.program for job in sweep.jobs for run in job.runs}
    for row in rows:
        arm = sweep.arm(row["arm"])
        plan = {"overrides": arm.overrides, "lr": arm.lr, "program": programs[row["run"]]}
        _refuse_unequal("settings", "the plan", plan, row["run"], {name: row[name] for name in plan})
        _refuse_unequal("data", rows[0]["run"], rows[0]["data"], row["run"], row["data"])


def _refuse_unequal(what: str, one: str, a: Mapping[str, Any], other: str, b: Mapping[str, Any]) -> None:
    if a == b:
        return
    unequal = [name for name in {**a, **b} if a.get(name) != b.get(name)]
    shown = "; ".join(f"{name}: {a.get(name)!r} and {b.get(name)!r}" for name in unequal)
    raise ValueError(f"{one} and {other} have other {what} and cannot be compared: {shown}")


def _measured(row: Row, metric: str) -> Row:
    measured = results.counted(row)
    if not math.isfinite(measured.get(metric, math.nan)):
        raise ValueError(f"{row['run']} has no {metric}, by which the claim is decided; it has {measured}")
    return measured


def _arm(
    sweep: results.Sweep,
    arm: results.Arm,
    rows: Sequence[Row],
    raw: Mapping[str, Any],
    latencies: Mapping[str, Sequence[float]],
) -> ArmSummary:
    seconds = [row["timing"].get("steps", 0.0) for row in rows if row["arm"] == arm.name]
    return ArmSummary(
        arm=arm,
        planned=sum(run.arm == arm.name for run in sweep.runs),
        values={
            metric: {seed: stats.scale(metric) * value for seed, value in sorted(of_arm[arm.name].items())}
            for metric, of_arm in raw.items()
        },
        seconds=sum(seconds) / len(seconds) if seconds else math.nan,
        latency_ms=1e3 * statistics.median(latencies.get(arm.name) or [math.nan]),
        pilot=_pilot(sweep),
    )


def _comparison(sweep: results.Sweep, summary: ArmSummary, baseline: ArmSummary) -> Comparison:
    pair = {summary.name, baseline.name}
    primary = any(set(contrast["arms"]) == pair for contrast in sweep.claim.get("contrasts", ()))
    role = "same lr" if summary.arm.twin_of else "primary" if primary else "secondary"
    pilot, against = _pilot(sweep), baseline.values
    differences = {metric: stats.difference(own, against[metric], pilot) for metric, own in summary.values.items()}
    return Comparison(summary.arm, role, differences)


def _same_lr(
    sweep: results.Sweep, claim: Mapping[str, Any], values: Mapping[str, stats.Values]
) -> tuple[stats.Difference | None, ...]:
    twins = {arm.twin_of: arm.name for arm in sweep.arms if arm.twin_of}
    beside = stats.verdicts(claim, {arm: values[twins.get(arm, arm)] for arm in values})
    return tuple(verdict.difference if twins.keys() & set(verdict.arms) else None for verdict in beside)


def _best_rates(sweep: results.Sweep, arms: Sequence[ArmSummary]) -> tuple[dict[str, float], list[str]]:
    """Variant -> its rate of the highest mean accuracy (of equals the lower NLL), and warnings of edges."""
    variants: dict[str, list[ArmSummary]] = {}
    for arm in arms:
        variants.setdefault(sweep.claim["tune_arms"][arm.name], []).append(arm)
    if any(arm.n < arm.planned for arm in arms):
        return {}, []
    tuned, warnings = {}, []
    for variant, of_rate in variants.items():
        best = max(of_rate, key=lambda arm: (arm.estimate("accuracy").mean, -arm.estimate("nll").mean))
        tuned[variant] = rate = best.arm.lr
        rates = [arm.arm.lr for arm in of_rate]
        for edge, name, beyond in ((min(rates), "lowest", "lower"), (max(rates), "highest", "higher")):
            if rate == edge:
                warnings.append(f"{variant}: the best learning rate, {rate:g}, is the {name}; try {beyond} ones")
    return tuned, warnings


def _divergences(rows: Sequence[Row]) -> Iterable[str]:
    for row in rows:
        if row["diverged_at"] is not None:
            chance = stats.number("accuracy", 100 * results.CHANCE["accuracy"](row["classes"]))
            yield f"{row['run']} diverged at step {row['diverged_at']} and counts at chance level, {chance} %"


def _distinct(rows: Sequence[Row], field: str) -> dict[str, list[str]]:
    """Name -> the different values that the rows have there."""
    names = dict.fromkeys(name for row in rows for name in row[field])
    return {name: list(dict.fromkeys(str(row[field].get(name, "")) for row in rows)) for name in names}


def _disagreements(rows: Sequence[Row]) -> Iterable[str]:
    for field, prefix in (("versions", ""), ("device", "device ")):
        for name, found in _distinct(rows, field).items():
            if len(found) > 1:
                counts = [sum(str(row[field].get(name, "")) == value for row in rows) for value in found]
                shown = [f"{value or 'unknown'} ({n} runs)" for value, n in zip(found, counts, strict=True)]
                yield f"the runs differ in {prefix}{name}: {', '.join(shown)}"


def _device(row: Row) -> str:
    device = row["device"]
    return f"{device['count']} x {device['kind']}, {device['threads']} thread{'s' * (device['threads'] != 1)}"


def _settings(sweep: results.Sweep) -> dict[str, Any]:
    task = sweep.config.get("task", "classification")
    of_task = [name for name in sweep.config if name.startswith(f"{task}.")]
    varied = {name for arm in sweep.arms for name in arm.overrides}
    names = SETTINGS if task == "classification" else of_task
    return {name: sweep.config[name] for name in names if sweep.config.get(name) and name not in varied}
