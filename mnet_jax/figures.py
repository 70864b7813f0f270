"""Arrays -> matplotlib figures: the only plotting code. It loads nothing and keeps no state.

The palette is Okabe and Ito's (2008), which color-blind readers can tell apart; where it ends, line styles
and markers go on. Figures are as wide as a column of text, so that their letters are legible on a phone, too.
"""

import io
import math
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mnet_jax import stats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Affine2DBase

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#1F2328")
LINES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D")
INK, GRAY, GRID = "#1F2328", "#8C959F", "#E6E9EC"
WIDTH = 6.8  # inches
STYLE = {
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.labelsize": 10,
    "axes.edgecolor": GRAY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "xtick.color": GRAY,
    "ytick.color": GRAY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
}

Curves = Mapping[str, tuple[np.ndarray, np.ndarray]]
"""Arm -> (x_T, y_ST); nan where a run has no value."""


@dataclass(frozen=True)
class Against:
    """One arm against the baseline: at its own learning rate, and at the baseline's where that is another.

    The values are the differences seed by seed; all is in the units of print.
    """

    arm: str
    own: stats.Difference
    own_values: Sequence[float]
    same_lr: stats.Difference | None = None
    same_lr_values: Sequence[float] = ()
    published: float | None = None


@dataclass(frozen=True)
class Cost:
    """One network's cost for an image and what it buys; nan where that is not known."""

    arm: str
    madds: float
    params: float
    latency_ms: float
    value: stats.Estimate


def svg(figure: "Figure") -> str:
    """The figure as an `<svg>` element that stands inside a page, letters as text, with no date in it."""
    import matplotlib

    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "mnet_jax"}):
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'<g id="[\w.-]+">', "<g>", text)  # nothing refers to these
    own = f"{zlib.crc32(text.encode()):08x}"  # the other names must be unique in the page
    return re.sub(r'( id="|url\(#|href="#)(?=[\w-]+["\)])', rf"\g<1>{own}-", text)


def pdf(figure: "Figure") -> bytes:
    """The figure for a paper, its letters as text, with no date in it."""
    import matplotlib

    file = io.BytesIO()
    with matplotlib.rc_context({"pdf.fonttype": 42}):
        figure.savefig(file, format="pdf", metadata=dict.fromkeys(("Creator", "Producer", "CreationDate")))
    return file.getvalue()


def learning_curves(accuracy: Curves, train_loss: Curves) -> "Figure":
    """Held-out accuracy (percent) and training loss by epoch: means over seeds; of few arms with 95 % t-intervals.

    The accuracy axis begins where the second half of the training does: the end is what is compared.
    """
    figure, (left, right) = _subplots(WIDTH, 3.2, columns=2)
    for axes, curves in ((left, accuracy), (right, train_loss)):
        for index, (arm, (x_T, y_ST)) in enumerate(curves.items()):
            means = [stats.estimate(column) for column in y_ST.T]
            style = {"color": PALETTE[index % len(PALETTE)], "linestyle": _after_palette(LINES, index)}
            marker = "o" if len(x_T) < 12 else ""
            axes.plot(x_T, [e.mean for e in means], linewidth=1.6, marker=marker, markersize=3.5, label=arm, **style)
            if len(curves) <= len(PALETTE):
                low, high = [e.low for e in means], [e.high for e in means]
                axes.fill_between(x_T, low, high, color=style["color"], alpha=0.15, linewidth=0)
        axes.set_xlabel("epoch")
        axes.margins(x=0.02)
    _end_in_view(left, accuracy)
    left.set_title("held-out accuracy (%)", loc="left")
    right.set_title("training loss", loc="left")
    losses = [line.get_ydata() for line in right.get_lines()]
    lowest = min((np.nanmin(loss) for loss in losses if not np.isnan(loss).all()), default=0)
    if lowest > 0:
        right.set_yscale("log")
        right.set_ylim(bottom=lowest / 1.5)
    _legend(figure, left, len(accuracy))
    return figure


def _end_in_view(axes: "Axes", curves: Curves) -> None:
    late = [y_ST[:, x_T >= x_T[-1] / 2] for x_T, y_ST in curves.values() if not np.isnan(y_ST).all()]
    if late:
        low, high = min(map(np.nanmin, late)), max(map(np.nanmax, late))
        room = 0.06 * (high - low) or 1.0
        axes.set_ylim(low - room, high + room)


def forest(rows: Sequence[Against], label: str) -> "Figure":
    """Differences to the baseline: mean and 95 % t-interval over every seed's dot, and the paper's value."""
    twins = any(row.same_lr for row in rows)
    figure, axes = _subplots(WIDTH, 1.3 + (0.55 if twins or len(rows) < 8 else 0.4) * len(rows))
    kinds = {
        "own learning rate" if twins else "measured here": ("o", PALETTE[0], PALETTE[0]),
        "baseline's learning rate": ("s", PALETTE[1], "white"),
    }
    for y, row in enumerate(rows):
        both = [(row.own, row.own_values, 0.0 if row.same_lr is None else -0.17)]
        if row.same_lr is not None:
            both.append((row.same_lr, row.same_lr_values, 0.17))
        for (kind, (marker, color, face)), (difference, values, shift) in zip(kinds.items(), both, strict=False):
            dots = {"color": color, "alpha": 0.45, "markeredgewidth": 0, "markersize": 5}
            axes.plot(values, np.full(len(values), y + shift + 0.12), ".", **dots)
            error = [[difference.mean - difference.low], [difference.high - difference.mean]]
            axes.errorbar(
                difference.mean,
                y + shift,
                xerr=error,
                fmt=marker,
                color=color,
                markerfacecolor=face,
                capsize=3,
                markersize=6,
                label=kind,
            )
    for y, row in enumerate(rows):
        if row.published is not None:
            paper = {"fmt": "x", "color": INK, "markersize": 8, "markeredgewidth": 2, "label": "the paper's"}
            axes.errorbar(row.published, y, **paper)
    axes.axvline(0, color=INK, linewidth=1)
    _name_rows(axes, [row.arm for row in rows])
    axes.set_xlabel(label)
    _legend(figure, axes, 3)
    return figure


COSTS = {"madds": "MAdds an image", "params": "parameters", "latency_ms": "ms an image"}


def accuracy_vs_cost(points: Sequence[Cost], label: str, paper: Sequence[Cost] = ()) -> "Figure":
    """What each network reaches by what it costs, a column for each known cost; below, the paper's own points.

    The gray line is the Pareto front: no cheaper network is better. Networks of equal cost stand side by side.
    """
    rows = [of for of in (points, paper) if of]
    kinds = [kind for kind in COSTS if any(np.isfinite(getattr(point, kind)) for of in rows for point in of)]
    figure, grid = _subplots(WIDTH, 0.6 + 2.8 * len(rows), columns=len(kinds), rows=len(rows), sharey="row")
    names = list(dict.fromkeys(point.arm for of in rows for point in of))
    for panels, of in zip(np.reshape(grid, (len(rows), -1)), rows, strict=True):
        for axes, kind in zip(panels, kinds, strict=True):
            known = [point for point in of if np.isfinite(getattr(point, kind))]
            _costs(axes, known, kind, names, figure.dpi_scale_trans)
            axes.set_title(COSTS[kind], loc="left")
        _fit_values(panels[0], [point.value for point in of])
        panels[0].set_ylabel(label if of is points else "the paper's, %")
    _legend(figure, grid, 4)
    return figure


def _costs(axes: "Axes", points: Sequence[Cost], kind: str, names: Sequence[str], inches: "Affine2DBase") -> None:
    from matplotlib.transforms import ScaledTranslation

    costs = np.array([getattr(point, kind) for point in points], np.float64)
    if not len(costs):
        axes.set_axis_off()
        return
    place = _cost_axis(axes, costs)
    front = _pareto(costs, np.array([point.value.mean for point in points]))
    if len(front) > 1:
        means = [points[index].value.mean for index in front]
        axes.step(costs[front], means, where="post", color=GRAY, linewidth=1, linestyle="--", zorder=1)
    for index, point in enumerate(points):
        neighbors = np.flatnonzero(np.abs(place - place[index]) < 0.02)
        shift = 10 * (np.searchsorted(neighbors, index) - (len(neighbors) - 1) / 2)  # typographic points
        beside = axes.transData + ScaledTranslation(shift / 72, 0, inches)
        _estimate(axes, costs[index], point.value, names.index(point.arm), label=point.arm, transform=beside)


def _pareto(costs: np.ndarray, values: np.ndarray) -> list[int]:
    """Indices of the points that no other of the same or a lower cost exceeds, by cost."""
    order = sorted(range(len(costs)), key=lambda index: (costs[index], -values[index]))
    return [index for rank, index in enumerate(order) if all(values[index] > values[other] for other in order[:rank])]


def _estimate(axes: "Axes", x: float, value: stats.Estimate, index: int, **more: Any) -> None:
    axes.errorbar(
        x,
        value.mean,
        yerr=[[value.mean - value.low], [value.high - value.mean]],
        fmt=_after_palette(MARKERS, index),
        color=PALETTE[index % len(PALETTE)],
        capsize=3,
        markersize=6,
        **more,
    )


def _fit_values(axes: "Axes", values: Sequence[stats.Estimate]) -> None:
    ends = [end for value in values for end in (value.low, value.mean, value.high)]
    low, high = np.nanmin(ends), np.nanmax(ends)
    room = 0.08 * (high - low) or 1.0
    axes.set_ylim(low - room, high + room)


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
    axes.set_xticks(ticks, [re.sub(r"\.0+(?=\D|$)", "", stats.quantity(tick)) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlim(low, high)
    return np.log(costs / low) / np.log(high / low)


@dataclass(frozen=True)
class Line:
    """Points of one name: what was chosen, what came out."""

    name: str
    x: Sequence[float]
    values: Sequence[stats.Estimate]


def log_linear(lines: Sequence[Line], label: str, x_label: str, paper: Sequence[tuple[float, float]] = ()) -> "Figure":
    """Values against log x (V1 Figure 4), the least-squares line through all of them, and what it leaves over.

    `paper` are the (x, value) that a paper printed, with a line of their own.
    """
    figure, panels = _subplots(WIDTH, 3.4, columns=3 if paper else 2)
    left, right = panels[:2]
    x = np.concatenate([np.asarray(line.x, np.float64) for line in lines])
    intercept, slope = stats.log_line(x, np.array([value.mean for line in lines for value in line.values]))
    for axes in (left, right):
        _cost_axis(axes, x)
        for index, line in enumerate(lines):
            for number, (at, value) in enumerate(zip(line.x, line.values, strict=True)):
                drop = 0.0 if axes is left else intercept + slope * math.log2(at)
                shown = replace(value, mean=value.mean - drop, low=value.low - drop, high=value.high - drop)
                _estimate(axes, at, shown, index, label=line.name if number == 0 else None)
        axes.set_xlabel(x_label)
    left.set_title(label, loc="left")
    right.set_title("minus the line", loc="left")
    right.axhline(0, color=INK, linewidth=1)
    _doublings(left, x, intercept, slope)
    if paper:
        x, y = np.array(paper, np.float64).T
        _cost_axis(panels[2], x)
        panels[2].plot(x, y, "x", color=INK)
        panels[2].set_title("the paper's, %", loc="left")
        panels[2].set_xlabel(x_label)
        _doublings(panels[2], x, *stats.log_line(x, y))
    _legend(figure, left, 4)
    return figure


def _doublings(axes: "Axes", x: np.ndarray, intercept: float, slope: float) -> None:
    ends = np.array([x.min(), x.max()])
    axes.plot(ends, intercept + slope * np.log2(ends), color=INK, linewidth=1)
    words = {"ha": "right", "va": "bottom", "fontsize": 9, "color": INK}
    axes.text(0.98, 0.03, f"{slope:+.3g} a doubling", transform=axes.transAxes, **words)


ON_DARK, ON_LIGHT = "#FEFEFE", "#101010"
"""Letters on a colored ground, which a dark page must not turn."""


def grid(
    cells: Mapping[tuple[Any, Any], stats.Estimate], x_label: str, y_label: str, metric: str, label: str
) -> "Figure":
    """Two choices and what each pair of them gives: a heat map of means and intervals, and the same as lines over x."""
    xs, ys = (list(dict.fromkeys(key[axis] for key in cells)) for axis in (0, 1))
    figure, (top, bottom) = _subplots(WIDTH, 3.9 + 0.5 * len(ys), rows=2, ratios=(0.5 * len(ys) + 0.4, 2.6))
    nothing = stats.estimate(())
    means = np.array([[cells.get((x, y), nothing).mean for x in xs] for y in ys])
    image = top.imshow(means, cmap="viridis", aspect="auto")
    for (row, column), mean in np.ndenumerate(means):
        if np.isfinite(mean):
            found = cells[xs[column], ys[row]]
            spread = f"\n±{stats.number(metric, found.high - found.mean)}" if found.n > 1 else ""
            color = ON_LIGHT if image.norm(mean) > 0.55 else ON_DARK
            size = 9 if len(xs) < 7 else 7
            words = stats.number(metric, mean) + spread
            top.text(column, row, words, ha="center", va="center", fontsize=size, color=color)
    top.set_xticks(range(len(xs)), [str(x) for x in xs])
    top.set_yticks(range(len(ys)), [str(y) for y in ys])
    top.tick_params(length=0)
    top.grid(False)
    top.set_title(f"{label}, by {x_label} and {y_label}", loc="left")
    for number, y in enumerate(ys):
        found = [(at + 0.06 * (number - (len(ys) - 1) / 2), cells[x, y]) for at, x in enumerate(xs) if (x, y) in cells]
        color = PALETTE[number % len(PALETTE)]
        bottom.plot([at for at, _ in found], [value.mean for _, value in found], color=color, linewidth=1)
        for index, (at, value) in enumerate(found):
            _estimate(bottom, at, value, number, label=None if index else str(y))
    bottom.set_xticks(range(len(xs)), [str(x) for x in xs])
    bottom.set_xlim(-0.5, len(xs) - 0.5)
    bottom.set_xlabel(x_label)
    bottom.set_ylabel(label)
    handles, names = bottom.get_legend_handles_labels()
    key = bottom.legend(handles, names, title=y_label, fontsize=9, title_fontsize=9, frameon=False, labelcolor=INK)
    key.get_title().set_color(INK)
    return figure


def seeds(values: Mapping[str, tuple[stats.Estimate, Sequence[float]]], label: str) -> "Figure":
    """Every run of every arm, the seeds of an arm from top to bottom, with mean and 95 % t-interval."""
    figure, axes = _subplots(WIDTH, 0.9 + 0.5 * len(values))
    for y, (found, of_seed) in enumerate(values.values()):
        heights = y + np.linspace(-0.25, 0.25, len(of_seed)) if len(of_seed) > 1 else [y]
        axes.plot(of_seed, heights, "o", color=PALETTE[0], alpha=0.55, markersize=4.5, markeredgewidth=0)
        error = [[found.mean - found.low], [found.high - found.mean]]
        axes.errorbar(found.mean, y, xerr=error, fmt="|", color=INK, markersize=16, capsize=3)
    _name_rows(axes, list(values))
    axes.set_xlabel(label)
    return figure


def cost_by_depth(networks: Mapping[str, Sequence[tuple[int, int]]]) -> "Figure":
    """Channels and bytes of the output of every convolution and dense layer (V2 Table 3), a column a network."""
    figure, panels = _subplots(WIDTH, 3.6, columns=len(networks), rows=2, sharey="row")
    panels = np.reshape(panels, (2, -1))
    for column, (name, layers) in enumerate(networks.items()):
        for axes, values in zip(panels[:, column], zip(*layers, strict=True), strict=True):
            axes.stairs(values, fill=True, color=PALETTE[column % len(PALETTE)])
            axes.yaxis.set_major_formatter(lambda number, _: stats.quantity(number))
        panels[0, column].set_title(name, loc="left")
        panels[1, column].set_xlabel("layer")
    for axes, label in zip(panels[:, 0], ("channels", "bytes"), strict=True):
        axes.set_ylabel(label)
    return figure


def cost_shares(networks: Mapping[str, Mapping[str, tuple[int, int]]]) -> "Figure":
    """Shares of multiply-adds and weights by type of layer (V1 Table 2), a bar a network: {type: (MAdds, weights)}."""
    kinds = list(dict.fromkeys(kind for shares in networks.values() for kind in shares))
    figure, panels = _subplots(WIDTH, 1.4 + 0.4 * len(networks), columns=2, sharey=True)
    for axes, title, which in zip(panels, ("multiply-adds (%)", "weights (%)"), (0, 1), strict=True):
        start = np.zeros(len(networks))
        for index, kind in enumerate(kinds):
            part = [
                100 * shares.get(kind, (0, 0))[which] / sum(pair[which] for pair in shares.values())
                for shares in networks.values()
            ]
            color, hatch = PALETTE[index % len(PALETTE)], _after_palette(("", "///", "...", "xxx"), index)
            axes.barh(range(len(networks)), part, left=start, color=color, hatch=hatch, edgecolor="white", label=kind)
            start += part
        _name_rows(axes, list(networks))
        axes.set_title(title, loc="left")
        axes.set_xlim(0, 100)
    _legend(figure, panels[0], len(kinds))
    return figure


def benchmark(panels: Mapping[str, Mapping[str, tuple[float, float, float]]], label: str) -> "Figure":
    """A panel a regime, a mark a contender: (median, smallest, largest), on a logarithmic axis; the first is ours."""
    from matplotlib.ticker import LogLocator

    figure, rows = _subplots(WIDTH, sum(0.6 + 0.3 * len(bars) for bars in panels.values()), rows=len(panels))
    for axes, (title, bars) in zip(np.atleast_1d(rows), panels.items(), strict=True):
        for y, (median, low, high) in enumerate(bars.values()):
            color = GRAY if y else PALETTE[0]
            axes.errorbar(median, y, xerr=[[median - low], [high - median]], fmt="o", color=color, capsize=2)
            words = f"{median:,.0f}" if median >= 100 else f"{median:.3g}"
            axes.annotate(words, (high, y), (6, 0), textcoords="offset points", va="center", color=INK)
        _name_rows(axes, list(bars))
        axes.set_xscale("log")
        axes.margins(x=0.12)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:,g}")
        axes.minorticks_off()
        axes.set_title(title, loc="left")
    np.atleast_1d(rows)[-1].set_xlabel(label)
    return figure


def _subplots(
    width: float,
    height: float,
    columns: int = 1,
    sharey: bool | Literal["row"] = False,
    rows: int = 1,
    ratios: Sequence[float] | None = None,
) -> tuple["Figure", Any]:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, figure.subplots(rows, columns, sharey=sharey, height_ratios=ratios)


def _after_palette(choices: Sequence[str], index: int) -> str:
    """The line or marker of an arm: another one for each turn through the palette."""
    return choices[index // len(PALETTE) % len(choices)]


def _name_rows(axes: "Axes", names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")


def _legend(figure: "Figure", panels: Any, most: int) -> None:
    """Above the axes, labels once each, where there are several, in as many columns as there is room for.

    The figure grows with it.
    """
    once = {}
    for axes in np.ravel(panels):
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            once.setdefault(label, handle)
    names = list(once)
    if len(names) < 2:
        return
    columns = min(most, 4, len(names))
    while columns > 1 and 40 * columns + 5.8 * sum(map(len, _longest(names, columns))) > 72 * WIDTH:
        columns -= 1
    rows = -(-len(names) // columns)
    figure.set_figheight(figure.get_figheight() + 0.2 * (rows - 1))
    look = {"fontsize": 10, "frameon": False, "labelcolor": INK}
    figure.legend(once.values(), names, loc="outside upper left", ncols=columns, **look)


def _longest(names: Sequence[str], columns: int) -> list[str]:
    """The longest name of each column of a legend."""
    return [max(column, key=len) for column in np.array_split(names, columns)]


def spiral(panels: Sequence[tuple[str, np.ndarray]]) -> "Figure":
    """V2's Figure 1: titled curves [P, 2] side by side, colored from their first point to their last."""
    from matplotlib.collections import LineCollection

    figure, row = _subplots(WIDTH, 1.5, columns=len(panels))
    for axes, (title, points_P2) in zip(np.atleast_1d(row), panels, strict=True):
        last = len(points_P2) - 1
        step = 1 + last // 60
        starts = np.arange(0, last, step)
        pieces = [points_P2[start : start + step + 1] for start in starts]
        lines = LineCollection(pieces, array=starts, cmap="viridis", linewidth=1.2, capstyle="round")
        axes.add_collection(lines)
        axes.set_title(title, fontsize=9)
        axes.set_aspect("equal", adjustable="datalim")
        axes.autoscale_view()
        axes.set_axis_off()
    return figure


def contact_sheet(rows: Mapping[str, np.ndarray]) -> "Figure":
    """Images under each other by what was done to them: {words: uint8 [n, H, W, C]}, each pixel whole."""
    from matplotlib.figure import Figure

    columns = max(map(len, rows.values()))
    figure = Figure((WIDTH, WIDTH * 1.25 * len(rows) / columns), dpi=200, layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for (words, images), line in zip(rows.items(), axes, strict=True):
        line[0].set_title(words, loc="left", fontsize=8, pad=2)
        for place, image in zip(line, images, strict=False):
            place.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        for place in line:
            place.set_axis_off()
    return figure


Arrays = Mapping[str, np.ndarray]
"""What a run left in its arrays.npz."""


def layer_profile(runs: Mapping[str, Sequence[Arrays]], published: Arrays) -> "Figure":
    """V2's Figure 7: positive channels of the pixels after each expansion, in percent, at step 0 and trained.

    Lines are means over pixels and the runs of an arm, bands go from the least to the most positive pixel; above the
    dotted line an expansion can be inverted. `published` are the paper's counts, in the words of a run's arrays.
    """
    from matplotlib.ticker import MaxNLocator

    figure, panels = _subplots(WIDTH, 3.4, columns=2, sharey=True)
    for axes, state, title in zip(panels, ("initial", "active"), ("at step 0", "trained"), strict=True):
        for index, (arm, of_runs) in enumerate(runs.items()):
            block_L = of_runs[0][f"{state}/block"]
            low_L, mean_L, high_L = (
                100 * pool([arrays[f"{state}/{name}"] / arrays[f"{state}/channels"] for arrays in of_runs], axis=0)
                for name, pool in (("min", np.min), ("mean", np.mean), ("max", np.max))
            )
            style = {"color": PALETTE[index % len(PALETTE)], "linestyle": _after_palette(LINES, index)}
            axes.plot(block_L, mean_L, linewidth=1.6, label=arm, **style)
            axes.fill_between(block_L, low_L, high_L, color=style["color"], alpha=0.12, linewidth=0)
        first = next(iter(runs.values()))[0]
        threshold_L = 100 * first[f"{state}/threshold"] / first[f"{state}/channels"]
        axes.plot(first[f"{state}/block"], threshold_L, ":", color=INK, linewidth=1.4, label="threshold")
        low_L, mean_L, high_L = (
            100 * published[f"{state}/{name}"] / published[f"{state}/channels"] for name in ("min", "mean", "max")
        )
        paper = {"fmt": "x", "color": INK, "markersize": 5, "elinewidth": 0.8, "label": "the paper's, on ImageNet"}
        axes.errorbar(published[f"{state}/block"], mean_L, yerr=[mean_L - low_L, high_L - mean_L], **paper)
        axes.set_title(title, loc="left")
        axes.set_xlabel("block")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[0].set_ylim(0, 100)
    panels[0].set_ylabel("positive channels (%)")
    _legend(figure, panels[0], len(runs) + 2)
    return figure


def threshold_curve(runs: Mapping[str, Sequence[Arrays]], definitions: Mapping[str, float]) -> "Figure":
    """The share of channels below each threshold, in percent: means over the runs of an arm with 95 % t-intervals.

    A panel for each of `definitions` that a run has a curve of; the dotted line is the threshold of the definition.
    """
    names = [name for name in definitions if any(f"curve/{name}" in of_runs[0] for of_runs in runs.values())]
    rows = -(-len(names) // 2)
    figure, grid = _subplots(WIDTH, 0.6 + 2.1 * rows, columns=2, rows=rows)
    panels = list(np.ravel(grid))
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    for axes, name in zip(panels, names, strict=False):
        for index, (arm, of_runs) in enumerate(runs.items()):
            if f"curve/{name}" in of_runs[0]:
                threshold_T = of_runs[0]["curve/threshold"]
                share_ST = 100 * np.array([arrays[f"curve/{name}"] for arrays in of_runs])
                means = [stats.estimate(column) for column in share_ST.T]
                style = {"color": PALETTE[index % len(PALETTE)], "linestyle": _after_palette(LINES, index)}
                axes.plot(threshold_T, [e.mean for e in means], linewidth=1.6, label=arm, **style)
                low, high = [e.low for e in means], [e.high for e in means]
                axes.fill_between(threshold_T, low, high, color=style["color"], alpha=0.15, linewidth=0)
        axes.axvline(definitions[name], color=INK, linewidth=1.2, linestyle=":")
        axes.set_xscale("log")
        axes.set_yscale("symlog", linthresh=1)
        axes.set_ylim(0, 100)
        axes.set_yticks((0, 1, 10, 100), ("0", "1", "10", "100"))
        axes.set_title(f"{name.replace('_', ' ')} (%)", loc="left")
    for axes in panels[max(0, len(names) - 2) : len(names)]:
        axes.set_xlabel("threshold")
    _legend(figure, panels, len(runs))
    return figure
