"""Figures of an experiment: what its arms reach, how they differ, what they cost, how they learned.

All values are as printed, accuracies in percent.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mnet_jax import formatting, stats
from mnet_jax.figures.style import (
    GRAY,
    INK,
    MARKERS,
    ON_DARK,
    ON_LIGHT,
    PALETTE,
    WIDTH,
    cycle,
    drawn_interval,
    error_bar,
    legend,
    line_style,
    name_rows,
    subplots,
)
from mnet_jax.tasks.base import Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Affine2DBase

Curves = Mapping[str, tuple[np.ndarray, np.ndarray]]
"""Arm -> (epochs x_T, values y_ST of S runs); nan where a run has no value."""


@dataclass(frozen=True)
class CurvePanel:
    """Curves of one metric. With `log` the axis is logarithmic; otherwise it fits the second half of the training."""

    metric: Metric
    curves: Curves
    log: bool = False


@dataclass(frozen=True)
class DifferenceRow:
    """A difference and its values seed by seed, and where there is another at the baseline's learning rate, that too.

    `published` is the paper's.
    """

    label: str
    difference: stats.Difference
    values: Sequence[float] = ()
    same_lr: stats.Difference | None = None
    same_lr_values: Sequence[float] = ()
    published: float | None = None


@dataclass(frozen=True)
class CostPoint:
    """One network's cost for an image and what it reaches; nan where that is not known."""

    label: str
    madds: float
    params: float
    latency_ms: float
    value: stats.Estimate


@dataclass(frozen=True)
class Series:
    """Points of one name: what was chosen, what was reached."""

    label: str
    x: Sequence[float]
    values: Sequence[stats.Estimate]


def learning_curves(panels: Sequence[CurvePanel]) -> "Figure":
    """Metrics by epoch side by side: means over seeds; of few arms with 95 % t-intervals."""
    figure, row = subplots(WIDTH, 3.2, columns=len(panels))
    for axes, panel in zip(np.atleast_1d(row), panels, strict=True):
        for index, (arm, (x_T, y_ST)) in enumerate(panel.curves.items()):
            means = [stats.within(stats.estimate(column), *panel.metric.bounds) for column in y_ST.T]
            marker, style = "o" if len(x_T) < 12 else "", line_style(index)
            axes.plot(x_T, [e.mean for e in means], linewidth=1.6, marker=marker, markersize=3.5, label=arm, **style)
            if len(panel.curves) <= len(PALETTE):
                low, high = zip(*map(drawn_interval, means), strict=True)
                axes.fill_between(x_T, low, high, color=style["color"], alpha=0.15, linewidth=0)
        axes.set_xlabel("epoch")
        axes.margins(x=0.02)
        metric = panel.metric
        unit = f" ({metric.unit})" if metric.unit else ""
        axes.set_title(f"{'held-out ' if metric.group == 'test' else ''}{metric.title}{unit}", loc="left")
        if panel.log:
            _log_from_lowest(axes)
        else:
            late = [y_ST[:, x_T >= x_T[-1] / 2] for x_T, y_ST in panel.curves.values() if not np.isnan(y_ST).all()]
            if late:
                axes.set_ylim(*_limits(metric, min(map(np.nanmin, late)), max(map(np.nanmax, late)), 0.06))
    legend(figure, row, max(len(panel.curves) for panel in panels))
    return figure


def _log_from_lowest(axes: "Axes") -> None:
    """Makes the axis logarithmic where all means are positive; bands may reach below the lowest."""
    means = [line.get_ydata() for line in axes.get_lines()]
    lowest = min((np.nanmin(mean) for mean in means if not np.isnan(mean).all()), default=0)
    if lowest > 0:
        axes.set_yscale("log")
        axes.set_ylim(bottom=lowest / 1.5)


def forest(rows: Sequence[DifferenceRow], label: str) -> "Figure":
    """Differences: mean and 95 % t-interval below every seed's dot, and the paper's value."""
    copies = any(row.same_lr for row in rows)
    figure, axes = subplots(WIDTH, 1.3 + (0.55 if copies or len(rows) < 8 else 0.4) * len(rows))
    kinds = {
        "own learning rate" if copies else "measured here": ("o", PALETTE[0], PALETTE[0]),
        "baseline's learning rate": ("s", PALETTE[1], "white"),
    }
    for y, row in enumerate(rows):
        both = [(row.difference, row.values, 0.0 if row.same_lr is None else -0.17)]
        if row.same_lr is not None:
            both.append((row.same_lr, row.same_lr_values, 0.17))
        for (kind, (marker, color, face)), (difference, values, shift) in zip(kinds.items(), both, strict=False):
            dots = {"color": color, "alpha": 0.6, "markeredgewidth": 0, "markersize": 5}
            axes.plot(values, np.full(len(values), y + shift + 0.12), ".", **dots)
            error = {"xerr": error_bar(difference), "capsize": 3}
            mark = {"fmt": marker, "color": color, "markerfacecolor": face, "markersize": 6}
            axes.errorbar(difference.mean, y + shift, label=kind, **error, **mark)
    for y, row in enumerate(rows):
        if row.published is not None:
            paper = {"fmt": "x", "color": INK, "markersize": 8, "markeredgewidth": 2, "label": "the paper's"}
            axes.errorbar(row.published, y, **paper)
    axes.axvline(0, color=INK, linewidth=1)
    name_rows(axes, [row.label for row in rows])
    axes.set_xlabel(label)
    legend(figure, axes, 3)
    return figure


COSTS = {"madds": "MAdds an image", "params": "parameters", "latency_ms": "ms an image"}
"""Field of a `CostPoint` -> the name of its axis."""


def value_by_cost(points: Sequence[CostPoint], metric: Metric, paper: Sequence[CostPoint] = ()) -> "Figure":
    """What each network reaches by what it costs, a column for each known cost; below, the paper's own points.

    The gray line is the Pareto front: no cheaper network is better. Networks of equal cost stand side by side.
    """
    rows = [of for of in (points, paper) if of]
    kinds = [kind for kind in COSTS if any(np.isfinite(getattr(point, kind)) for of in rows for point in of)]
    figure, panels = subplots(WIDTH, 0.6 + 2.8 * len(rows), columns=len(kinds), rows=len(rows), sharey="row")
    labels = list(dict.fromkeys(point.label for of in rows for point in of))
    for row, of in zip(np.reshape(panels, (len(rows), -1)), rows, strict=True):
        for axes, kind in zip(row, kinds, strict=True):
            known = [point for point in of if np.isfinite(getattr(point, kind))]
            _draw_costs(axes, known, kind, labels, metric.higher_is_better, figure.dpi_scale_trans)
            axes.set_title(COSTS[kind], loc="left")
        _fit_values(row[0], [point.value for point in of], metric)
        row[0].set_ylabel(formatting.value_label(metric) if of is points else "the paper's, %")
    legend(figure, panels, 4)
    return figure


def _draw_costs(
    axes: "Axes",
    points: Sequence[CostPoint],
    kind: str,
    labels: Sequence[str],
    higher_is_better: bool,
    inches: "Affine2DBase",
) -> None:
    from matplotlib.transforms import ScaledTranslation

    costs = np.array([getattr(point, kind) for point in points], np.float64)
    if not len(costs):
        axes.set_axis_off()
        return
    place = _cost_axis(axes, costs)
    sign = 1 if higher_is_better else -1
    front = _pareto(costs, np.array([sign * point.value.mean for point in points]))
    if len(front) > 1:
        means = [points[index].value.mean for index in front]
        axes.step(costs[front], means, where="post", color=GRAY, linewidth=1, linestyle="--", zorder=1)
    for index, point in enumerate(points):
        neighbors = np.flatnonzero(np.abs(place - place[index]) < 0.02)
        shift = 10 * (np.searchsorted(neighbors, index) - (len(neighbors) - 1) / 2)  # typographic points
        beside = axes.transData + ScaledTranslation(shift / 72, 0, inches)
        _draw_estimate(axes, costs[index], point.value, labels.index(point.label), label=point.label, transform=beside)


def _pareto(costs: np.ndarray, scores: np.ndarray) -> list[int]:
    """Indices of the points that no other of the same or a lower cost exceeds, by cost."""
    order = sorted(range(len(costs)), key=lambda index: (costs[index], -scores[index]))
    return [index for rank, index in enumerate(order) if all(scores[index] > scores[other] for other in order[:rank])]


def _draw_estimate(axes: "Axes", x: float, value: stats.Estimate, index: int, **more: Any) -> None:
    axes.errorbar(
        x,
        value.mean,
        yerr=error_bar(value),
        fmt=cycle(MARKERS, index),
        color=PALETTE[index % len(PALETTE)],
        capsize=3,
        markersize=6,
        **more,
    )


def _fit_values(axes: "Axes", values: Sequence[stats.Estimate], metric: Metric) -> None:
    ends = [end for value in values for end in (value.mean, *drawn_interval(value))]
    axes.set_ylim(*_limits(metric, np.nanmin(ends), np.nanmax(ends), 0.08))


def _limits(metric: Metric, low: float, high: float, margin: float) -> tuple[float, float]:
    """Limits of an axis around low and high, with a share `margin` of room; percentages stay within 0 to 100."""
    room = margin * (high - low) or 1.0
    if metric.unit == "%":  # half a mark's room, so that one at the end is whole
        return max(low - room, -2.0), min(high + room, 102.0)
    return low - room, high + room


def _cost_axis(axes: "Axes", costs: np.ndarray) -> np.ndarray:
    """Makes the axis logarithmic, with few ticks and its limits; returns where in 0..1 of it each cost is."""
    from matplotlib.ticker import MaxNLocator

    low, high = costs.min(), costs.max()
    room = max(1.15, (high / low) ** 0.12)
    low, high = low / room, high * room
    decades = 10.0 ** np.arange(math.floor(math.log10(low)), math.ceil(math.log10(high)))
    choices = [np.outer(decades, parts).ravel() for parts in ((1, 2, 5), (1, 3), (1,))]
    shown = [ticks[(low < ticks) & (ticks < high)] for ticks in choices]
    ticks = next((ticks for ticks in shown if 2 <= len(ticks) <= 4), MaxNLocator(3).tick_values(low, high))
    axes.set_xscale("log")
    axes.set_xticks(ticks, [re.sub(r"\.0+(?=\D|$)", "", formatting.quantity(tick)) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlim(low, high)
    return np.log(costs / low) / np.log(high / low)


def log_linear(
    series: Sequence[Series], metric: Metric, x_label: str, paper: Sequence[tuple[float, float]] = ()
) -> "Figure":
    """Values against log x (V1 Figure 4), the least-squares line through all of them, and what it leaves over.

    `paper` are the (x, percent) that a paper printed, with a line of their own.
    """
    figure, panels = subplots(WIDTH, 3.4, columns=3 if paper else 2)
    left, right = panels[:2]
    x = np.concatenate([np.asarray(one.x, np.float64) for one in series])
    intercept, slope = stats.log_line(x, np.array([value.mean for one in series for value in one.values]))
    for axes in (left, right):
        _cost_axis(axes, x)
        for index, one in enumerate(series):
            for number, (at, value) in enumerate(zip(one.x, one.values, strict=True)):
                drop = 0.0 if axes is left else intercept + slope * math.log2(at)
                shown = replace(value, mean=value.mean - drop, low=value.low - drop, high=value.high - drop)
                _draw_estimate(axes, at, shown, index, label=one.label if number == 0 else None)
        axes.set_xlabel(x_label)
    left.set_title(formatting.value_label(metric), loc="left")
    right.set_title("minus the line", loc="left")
    right.axhline(0, color=INK, linewidth=1)
    _fit_values(left, [value for one in series for value in one.values], metric)
    _draw_doublings(left, x, intercept, slope)
    if paper:
        x, y = np.array(paper, np.float64).T
        _cost_axis(panels[2], x)
        panels[2].plot(x, y, "x", color=INK)
        panels[2].set_title("the paper's, %", loc="left")
        panels[2].set_xlabel(x_label)
        _draw_doublings(panels[2], x, *stats.log_line(x, y))
    legend(figure, left, 4)
    return figure


def _draw_doublings(axes: "Axes", x: np.ndarray, intercept: float, slope: float) -> None:
    ends = np.array([x.min(), x.max()])
    axes.plot(ends, intercept + slope * np.log2(ends), color=INK, linewidth=1)
    words = {"ha": "right", "va": "bottom", "fontsize": 9, "color": INK}
    axes.text(0.98, 0.03, f"{slope:+.3g} a doubling", transform=axes.transAxes, **words)


def grid(cells: Mapping[tuple[Any, Any], stats.Estimate], x_label: str, y_label: str, metric: Metric) -> "Figure":
    """Two choices and what each pair of them gives: a heat map of means and intervals, and the same as lines over x."""
    xs, ys = (list(dict.fromkeys(key[axis] for key in cells)) for axis in (0, 1))
    figure, (top, bottom) = subplots(WIDTH, 3.9 + 0.5 * len(ys), rows=2, ratios=(0.5 * len(ys) + 0.4, 2.6))
    nothing, label = stats.estimate(()), formatting.value_label(metric)
    means = np.array([[cells.get((x, y), nothing).mean for x in xs] for y in ys])
    image = top.imshow(means, cmap="viridis", aspect="auto")
    for (row, column), mean in np.ndenumerate(means):
        if np.isfinite(mean):
            low, high = drawn_interval(cells[xs[column], ys[row]])
            half = max(mean - low, high - mean)
            spread = f"\n±{formatting.number(metric, half)}" if np.isfinite(half) else ""
            color = ON_LIGHT if image.norm(mean) > 0.55 else ON_DARK
            size = 9 if len(xs) < 7 else 7
            words = formatting.number(metric, mean) + spread
            top.text(column, row, words, ha="center", va="center", fontsize=size, color=color)
    top.set_xticks(range(len(xs)), [str(x) for x in xs])
    top.set_yticks(range(len(ys)), [str(y) for y in ys])
    top.tick_params(length=0)
    top.grid(False)
    top.set_title(f"{label}, by {x_label} and {y_label}", loc="left")
    for number, y in enumerate(ys):
        line = [(at + 0.06 * (number - (len(ys) - 1) / 2), cells[x, y]) for at, x in enumerate(xs) if (x, y) in cells]
        color = PALETTE[number % len(PALETTE)]
        bottom.plot([at for at, _ in line], [value.mean for _, value in line], color=color, linewidth=1)
        for index, (at, value) in enumerate(line):
            _draw_estimate(bottom, at, value, number, label=None if index else str(y))
    bottom.set_xticks(range(len(xs)), [str(x) for x in xs])
    bottom.set_xlim(-0.5, len(xs) - 0.5)
    _fit_values(bottom, list(cells.values()), metric)
    bottom.set_xlabel(x_label)
    bottom.set_ylabel(label)
    handles, names = bottom.get_legend_handles_labels()
    key = bottom.legend(handles, names, title=y_label, fontsize=9, title_fontsize=9, frameon=False, labelcolor=INK)
    key.get_title().set_color(INK)
    return figure


def seeds(values: Mapping[str, tuple[stats.Estimate, Sequence[float]]], metric: Metric) -> "Figure":
    """Every run of every arm, the seeds of an arm from top to bottom, with mean and 95 % t-interval."""
    figure, axes = subplots(WIDTH, 0.9 + 0.5 * len(values))
    ends = []
    for y, (mean, by_seed) in enumerate(values.values()):
        heights = y + np.linspace(-0.25, 0.25, len(by_seed)) if len(by_seed) > 1 else [y]
        axes.plot(by_seed, heights, "o", color=PALETTE[0], alpha=0.6, markersize=4.5, markeredgewidth=0)
        axes.errorbar(mean.mean, y, xerr=error_bar(mean), fmt="|", color=INK, markersize=16, capsize=3)
        ends += [*by_seed, *drawn_interval(mean)]
    axes.set_xlim(*_limits(metric, np.nanmin(ends), np.nanmax(ends), 0.05))
    name_rows(axes, list(values))
    axes.set_xlabel(formatting.value_label(metric))
    return figure
