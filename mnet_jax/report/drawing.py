"""Summary, curves and arrays -> figures, drawn by `mnet_jax.figures`."""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mnet_jax import results, stats
from mnet_jax.formatting import difference_label
from mnet_jax.report.summary import ArmSummary, Row, Summary, arm_title, rows_by_arm
from mnet_jax.tasks import TASKS, Metric

if TYPE_CHECKING:
    from mnet_jax import figures


@dataclass(frozen=True)
class RenderedFigure:
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


def draw(workdir: Path, summary: Summary) -> list[RenderedFigure]:
    """The figures that the claim, rows, curves and arrays of a workdir are enough for."""
    if summary.tuning or not summary.done:
        return []
    task = TASKS.get(summary.sweep.config["task"])  # an experiment's own task is known where its file was loaded
    of_task = [RenderedFigure(*figure) for figure in (task.pictures(workdir, summary.sweep) if task else ())]
    trains = task is None or task.trains
    drawn = (
        *(() if trains else of_task),  # what such a task has measured
        _grid(summary),
        _log_linear(summary),
        _forest(summary),
        _curves(workdir, summary),
        _cost(summary),
        *(of_task if trains else ()),
        *_inside(workdir, summary),
        _seeds(summary),
    )
    return [figure for figure in drawn if figure]


def _measured_arms(summary: Summary) -> list[ArmSummary]:
    """The arms with a value of the deciding metric."""
    return [arm for arm in summary.arms if arm.values[summary.metric.name]]


def _own_arms(summary: Summary) -> list[ArmSummary]:
    """Those at their own learning rate."""
    return [arm for arm in _measured_arms(summary) if not arm.arm.same_lr_as]


def _forest(summary: Summary) -> RenderedFigure | None:
    from mnet_jax import figures

    name, baseline, published = summary.metric.name, summary.baseline, _published(summary)
    copies = {comparison.arm.arm.same_lr_as: comparison for comparison in summary.comparisons}

    def by_seed(arm: ArmSummary) -> list[float]:
        return list(stats.paired(arm.values[name], baseline.values[name]).values())

    rows = []
    for comparison in summary.comparisons:
        arm, copy = comparison.arm, copies.get(comparison.arm.name)
        difference = comparison.differences[name]
        if not difference.n or arm.arm.same_lr_as:
            continue
        if copy and not copy.differences[name].n:
            copy = None
        rows.append(
            figures.DifferenceRow(
                arm.title,
                difference,
                by_seed(arm),
                same_lr=copy.differences[name] if copy else None,
                same_lr_values=by_seed(copy.arm) if copy else (),
                published=published.get(arm.name),
            )
        )
    if not rows:
        return None
    figure = figures.forest(rows, f"minus {baseline.title}: {difference_label(summary.metric)}")
    caption = "Every dot is a seed; marks are means with 95 % t-intervals, uncorrected."
    caption += " The paper's value is of its own network, data and budget." if published else ""
    return RenderedFigure(f"Differences from {baseline.title}", figure, caption)


def _published(summary: Summary) -> dict[str, float]:
    """Arm -> the paper's difference to the baseline."""
    published, baseline = {}, summary.baseline.name
    for verdict in summary.verdicts:
        arms, value = verdict.contrast.arms, verdict.contrast.published
        if value is not None and len(arms) == 2 and baseline in arms:
            sign = 1 if arms[1] == baseline else -1
            published[arms[0 if sign == 1 else 1]] = sign * value
    return published


def _curves(workdir: Path, summary: Summary) -> RenderedFigure | None:
    """Of the deciding metric and of the training loss, where the runs logged them."""
    from mnet_jax import figures

    logged = {row["run"]: results.read_metrics(workdir, row["run"]) for row in summary.rows}
    losses = [metric for metric in summary.sweep.metrics if metric.name == "train_loss"]
    panels, rows = [], rows_by_arm(summary.rows)
    for metric in dict.fromkeys((summary.metric, *losses)):
        curves = {}
        for arm in _own_arms(summary):
            x_T, y_ST = _curve(rows[arm.name], logged, metric)
            if len(x_T):
                curves[arm.title] = x_T, metric.print_factor * y_ST
        if curves:
            panels.append(figures.CurvePanel(metric, curves, log=metric in losses))
    if not panels:
        return None
    caption = "Means over seeds, of few arms with 95 % t-intervals."
    if summary.metric not in losses and len(panels) > 1:
        caption += f" The {summary.metric.title} axis fits the second half."
    return RenderedFigure("Learning curves", figures.learning_curves(panels), caption)


def _curve(
    rows: Sequence[Row], logged: Mapping[str, Sequence[Mapping[str, float]]], metric: Metric
) -> tuple[np.ndarray, np.ndarray]:
    """Epochs x_T and stored values y_ST of the rows; `Metric.diverged` from the step at which a run diverged."""
    values = []
    for row in rows:
        last = math.inf if row["diverged_at"] is None else row["diverged_at"]
        lines = [line for line in logged[row["run"]] if metric.name in line]
        values.append({line["epoch"]: line[metric.name] if line["step"] < last else math.nan for line in lines})
    epochs = sorted({epoch for by_epoch in values for epoch in by_epoch})
    y_ST = np.array([[by_epoch.get(epoch, math.nan) for epoch in epochs] for by_epoch in values])
    for row, y_T in zip(rows, y_ST, strict=True):
        if row["diverged_at"] is not None and metric.diverged is not None:
            y_T[np.isnan(y_T)] = metric.diverged
    return np.array(epochs), y_ST


def _cost(summary: Summary) -> RenderedFigure | None:
    from mnet_jax import figures

    points = [
        figures.CostPoint(
            arm.title, arm.arm.cost["madds"], arm.arm.cost["params"], arm.latency_ms, arm.estimate(summary.metric)
        )
        for arm in _own_arms(summary)
        if arm.arm.cost.get("madds")
    ]
    if not points:
        return None
    caption = "Counted from the traced network; networks of equal cost stand side by side. The gray line is the Pareto "
    caption += "front of the means."
    figure = figures.value_by_cost(points, summary.metric, _paper_costs(summary))
    return RenderedFigure("What it costs", figure, caption)


def _paper_costs(summary: Summary) -> "list[figures.CostPoint]":
    """The claim's `published_points`, where no fit shows them, and its `printed` networks, one run each."""
    from mnet_jax import figures

    claim, nan = summary.sweep.claim, math.nan
    points = [
        figures.CostPoint(point["label"], point["x"], nan, nan, stats.estimate([point["accuracy"]]))
        for point in claim.published_points
        if not claim.curve
    ]
    for arm, printed in (claim.printed or {}).items():
        madds, params, latency = (printed.get(key, nan) for key in ("madds_m", "params_m", "latency_ms"))
        points.append(figures.CostPoint(arm, 1e6 * madds, 1e6 * params, latency, stats.estimate([printed["top1"]])))
    return points


def _log_linear(summary: Summary) -> RenderedFigure | None:
    curve = summary.sweep.claim.curve
    if not curve:
        return None
    from mnet_jax import figures

    kind, arms = curve["x"], {arm.name: arm for arm in _measured_arms(summary)}
    lines = []
    for name, members in (curve["series"] or {"": list(curve["points"] or arms)}).items():
        shown = [arms[member] for member in members if member in arms]
        at = [arm.arm.cost[kind] if kind in figures.COSTS else curve["points"][arm.name] for arm in shown]
        if shown:
            lines.append(figures.Series(name, at, [arm.estimate(summary.metric) for arm in shown]))
    if not lines:
        return None
    paper = [(point["x"], point["accuracy"]) for point in summary.sweep.claim.published_points]
    figure = figures.log_linear(lines, summary.metric, figures.COSTS.get(kind, kind), paper)
    caption = "Means with 95 % t-intervals, the least-squares line through all of them against the logarithm, and what "
    caption += "it leaves over."
    return RenderedFigure("Log-linear fit", figure, caption)


def _grid(summary: Summary) -> RenderedFigure | None:
    grid = summary.sweep.claim.grid
    places = grid["cells"] if grid else {}
    cells = {places[arm.name]: arm.estimate(summary.metric) for arm in _measured_arms(summary) if arm.name in places}
    if not grid or not cells:
        return None
    from mnet_jax import figures

    figure = figures.grid(cells, grid["x"], grid["y"], summary.metric)
    return RenderedFigure("Interaction", figure, "Means over seeds with the half width of the 95 % t-interval.")


def _seeds(summary: Summary) -> RenderedFigure:
    from mnet_jax import figures

    metric = summary.metric
    values = {
        arm.title: (arm.estimate(metric), list(arm.values[metric.name].values())) for arm in _measured_arms(summary)
    }
    caption = "The seeds of an arm from top to bottom, with mean and 95 % t-interval."
    return RenderedFigure("Every run", figures.seeds(values, metric), caption)


def _inside(workdir: Path, summary: Summary) -> list[RenderedFigure]:
    """What `analysis` measured in the trained networks, where the runs left it in their arrays."""
    from mnet_jax import analysis, figures
    from mnet_jax.analysis import filters

    runs: dict[str, list[figures.Arrays]] = {}
    for run in summary.sweep.runs:
        arm, arrays = summary.sweep.arm(run.arm), results.read_arrays(workdir, run.name)
        if "curve/threshold" in arrays and not arm.same_lr_as:
            runs.setdefault(arm_title(arm), []).append(arrays)
    drawn = []
    if profiled := {arm: arrays for arm, arrays in runs.items() if "active/mean" in arrays[0]}:
        caption = "Positive channels after each expansion: means over runs; bands go from the least to the most "
        caption += "positive pixel. Above the dotted line an expansion can be inverted (Sandler et al. 2018, Figure 7)."
        figure = figures.layer_profile(profiled, analysis.published())
        drawn.append(RenderedFigure("Active channels", figure, caption))
    if runs:
        caption = "Channels that each definition finds, by its threshold: means over runs with 95 % t-intervals. The "
        caption += "dotted line is the threshold that the tables use."
        figure = figures.threshold_curve(runs, filters.DEFINITIONS)
        drawn.append(RenderedFigure("Dead channels", figure, caption))
    return drawn
