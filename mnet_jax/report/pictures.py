"""Summary, curves and arrays -> pictures, drawn by `figures`."""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mnet_jax import results, stats
from mnet_jax.report.summary import ArmSummary, Row, Summary
from mnet_jax.report.words import difference_name, metric_name

if TYPE_CHECKING:
    from mnet_jax import figures


@dataclass(frozen=True)
class Picture:
    """A figure for the page and for a paper."""

    title: str
    figure: Any
    caption: str

    @functools.cached_property
    def svg(self) -> str:
        from mnet_jax import figures

        return figures.svg(self.figure)

    @functools.cached_property
    def pdf(self) -> bytes:
        from mnet_jax import figures

        return figures.pdf(self.figure)


def draw(workdir: Path, summary: Summary) -> list[Picture]:
    """The pictures that the claim, rows, curves and arrays of a workdir are enough for."""
    if summary.sweep.mode == "tune" or not summary.done:
        return []
    made = (
        _spiral(workdir, summary),
        _grid(summary),
        _log_linear(summary),
        _forest(summary),
        _curves(workdir, summary),
        _cost(summary),
        *_inside(workdir, summary),
        _seeds(summary),
    )
    return [picture for picture in made if picture]


def _forest(summary: Summary) -> Picture | None:
    from mnet_jax import figures

    metric, baseline = summary.metric, summary.baseline
    values = {arm.name: arm.values[metric] for arm in summary.arms}
    twins = {twin.arm.twin_of: twin for twin in summary.comparisons if twin.arm.twin_of}
    published = _published(summary)

    def by_seed(arm: str) -> list[float]:
        return list(stats.paired(values[arm], baseline.values[metric]).values())

    rows = []
    for comparison in summary.comparisons:
        name, own = comparison.arm.name, comparison.differences[metric]
        if own.n and not comparison.arm.twin_of:
            row = figures.Against(name, own, by_seed(name), published=published.get(name))
            if name in twins and twins[name].differences[metric].n:
                twin = twins[name]
                row = replace(row, same_lr=twin.differences[metric], same_lr_values=by_seed(twin.arm.name))
            rows.append(row)
    if not rows:
        return None
    figure = figures.forest(rows, f"minus {baseline.name}: {difference_name(metric)}")
    caption = "Every dot is a seed; marks are means with 95 % t-intervals, uncorrected."
    caption += " The paper's value is of its own network, data and budget." if published else ""
    return Picture(f"Differences from {baseline.name}", figure, caption)


def _published(summary: Summary) -> dict[str, float]:
    """Arm -> the paper's difference to the baseline."""
    found, baseline = {}, summary.baseline.name
    for verdict in summary.verdicts:
        if verdict.published is not None and len(verdict.arms) == 2 and baseline in verdict.arms:
            sign = 1 if verdict.arms[1] == baseline else -1
            found[verdict.arms[0 if sign == 1 else 1]] = sign * verdict.published
    return found


def _curves(workdir: Path, summary: Summary) -> Picture | None:
    from mnet_jax import figures

    rows = results.read_rows(workdir, summary.sweep.runs)
    curves = {"accuracy": {}, "train_loss": {}}
    for arm in summary.arms:
        of_arm = [row for row in rows if row["arm"] == arm.name]
        for key, chance in (("accuracy", results.CHANCE["accuracy"]), ("train_loss", results.CHANCE["nll"])):
            x_T, y_ST = _curve(workdir, of_arm, key, chance)
            if len(x_T) and not arm.arm.twin_of:
                curves[key][arm.name] = x_T, stats.scale(key) * y_ST
    if not curves["accuracy"]:
        return None
    caption = "Means over seeds, of few arms with 95 % t-intervals. The accuracy axis fits the second half."
    return Picture("Learning curves", figures.learning_curves(**curves), caption)


def _curve(
    workdir: Path, rows: Sequence[Row], key: str, chance: Callable[[int], float]
) -> tuple[np.ndarray, np.ndarray]:
    """Epochs x_T and values y_ST of the rows; chance level from the step at which a run diverged."""
    found = []
    for row in rows:
        last = math.inf if row["diverged_at"] is None else row["diverged_at"]
        lines = [line for line in results.read_metrics(workdir, row["run"]) if key in line]
        found.append({line["epoch"]: line[key] if line["step"] < last else math.nan for line in lines})
    epochs = sorted({epoch for values in found for epoch in values})
    y_ST = np.array([[values.get(epoch, math.nan) for epoch in epochs] for values in found])
    for row, y_T in zip(rows, y_ST, strict=True):
        if row["diverged_at"] is not None:
            y_T[np.isnan(y_T)] = chance(row["classes"])
    return np.array(epochs), y_ST


def _cost(summary: Summary) -> Picture | None:
    from mnet_jax import figures

    def cost(arm: ArmSummary) -> "figures.Cost":
        counted = arm.arm.cost
        return figures.Cost(arm.name, counted["madds"], counted["params"], arm.latency_ms, arm.estimate(summary.metric))

    points = [cost(arm) for arm in summary.arms if arm.n and arm.arm.cost.get("madds") and not arm.arm.twin_of]
    if not points:
        return None
    caption = "Counted from the traced network; networks of equal cost stand side by side. The gray line is the Pareto "
    caption += "front of the means."
    figure = figures.accuracy_vs_cost(points, metric_name(summary.metric), _paper_costs(summary))
    return Picture("What it costs", figure, caption)


def _paper_costs(summary: Summary) -> "list[figures.Cost]":
    """The claim's `published_points` [{"label", "x": MAdds, "accuracy": percent}], one run each.

    An experiment may have `printed` {arm: {"top1", "madds_m", "params_m", "latency_ms"}} instead.
    """
    from mnet_jax import figures

    claim, nan = summary.sweep.claim, math.nan
    points = [
        figures.Cost(point["label"], point["x"], nan, nan, stats.estimate([point["accuracy"]]))
        for point in claim.get("published_points", ())
        if "curve" not in claim  # where they are in the picture of the fit
    ]
    for arm, printed in claim.get("printed", {}).items():
        madds, params, latency = (printed.get(key, nan) for key in ("madds_m", "params_m", "latency_ms"))
        points.append(figures.Cost(arm, 1e6 * madds, 1e6 * params, latency, stats.estimate([printed["top1"]])))
    return points


def _log_linear(summary: Summary) -> Picture | None:
    """The claim's `curve` {"x": "madds", "params" or a label, "points": {arm: x}, "series": {name: [arm, ...]}}."""
    curve = summary.sweep.claim.get("curve")
    if not curve:
        return None
    from mnet_jax import figures

    kind = curve["x"]
    arms = {arm.name: arm for arm in summary.arms if arm.n}
    series = curve.get("series") or {"": list(curve["points"] or arms)}
    lines = []
    for name, members in series.items():
        found = [arms[member] for member in members if member in arms]
        at = [arm.arm.cost[kind] if kind in figures.COSTS else curve["points"][arm.name] for arm in found]
        if found:
            lines.append(figures.Line(name, at, [arm.estimate(summary.metric) for arm in found]))
    if not lines:
        return None
    paper = [(point["x"], point["accuracy"]) for point in summary.sweep.claim.get("published_points", ())]
    figure = figures.log_linear(lines, metric_name(summary.metric), figures.COSTS.get(kind, kind), paper)
    caption = "Means with 95 % t-intervals, the least-squares line through all of them against the logarithm, and what "
    caption += "it leaves over."
    return Picture("Log-linear fit", figure, caption)


def _grid(summary: Summary) -> Picture | None:
    """The claim's `grid` {"x": label, "y": label, "cells": {arm: [x, y]}}."""
    claimed = summary.sweep.claim.get("grid", {"cells": {}})
    place = claimed["cells"]
    cells = {
        tuple(place[arm.name]): arm.estimate(summary.metric) for arm in summary.arms if arm.n and arm.name in place
    }
    if not cells:
        return None
    from mnet_jax import figures

    figure = figures.grid(cells, claimed["x"], claimed["y"], summary.metric, metric_name(summary.metric))
    return Picture("Interaction", figure, "Means over seeds with the half width of the 95 % t-interval.")


def _seeds(summary: Summary) -> Picture:
    from mnet_jax import figures

    metric = summary.metric
    values = {arm.name: (arm.estimate(metric), list(arm.values[metric].values())) for arm in summary.arms if arm.n}
    caption = "The seeds of an arm from top to bottom, with mean and 95 % t-interval."
    return Picture("Every run", figures.seeds(values, metric_name(metric)), caption)


def _inside(workdir: Path, summary: Summary) -> list[Picture]:
    """What `analysis` found in the trained networks, where the runs left it in their arrays."""
    from mnet_jax import analysis, figures
    from mnet_jax.analysis import filters

    runs: dict[str, list[figures.Arrays]] = {}
    for run in summary.sweep.runs:
        arrays = results.read_arrays(workdir, run.name)
        if "curve/threshold" in arrays and not summary.sweep.arm(run.arm).twin_of:
            runs.setdefault(run.arm, []).append(arrays)
    made = []
    if profiled := {arm: found for arm, found in runs.items() if "active/mean" in found[0]}:
        caption = "Positive channels after each expansion: means over runs; bands go from the least to the most "
        caption += "positive pixel. Above the dotted line an expansion can be inverted (Sandler et al. 2018, Figure 7)."
        made.append(Picture("Active channels", figures.layer_profile(profiled, analysis.published()), caption))
    if runs:
        caption = "Channels that each definition finds, by its threshold: means over runs with 95 % t-intervals. The "
        caption += "dotted line is the threshold that the tables use."
        made.append(Picture("Dead channels", figures.threshold_curve(runs, filters.DEFINITIONS), caption))
    return made


def _spiral(workdir: Path, summary: Summary) -> Picture | None:
    panels = []
    for run in summary.sweep.runs:
        arrays = results.read_arrays(workdir, run.name) if run.seed == 0 else {}
        if "input" in arrays and "output" in arrays:
            panels += [] if panels else [("Input", arrays["input"])]
            panels.append((f"Output/{run.arm}", arrays["output"]))
    if not panels:
        return None
    from mnet_jax import figures

    caption = "The spiral, and what the activation left of it, projected back; seed 0 of every arm."
    return Picture("The spiral", figures.spiral(panels), caption)
