"""Arrays -> matplotlib figures: the only plotting code. It loads nothing and keeps no state.

The palette is Okabe and Ito's (2008), which color-blind readers can tell apart; where it ends, line styles
and markers go on. Figures are as wide as a column of text, so that their letters are legible on a phone, too.
"""

import io
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mnet_jax import stats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#1F2328")
LINES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D")
INK, GRAY = "#1F2328", "#8C959F"
WIDTH = 6.8  # inches
STYLE = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.labelsize": 10,
    "axes.edgecolor": GRAY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E9EC",
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
    """One arm's cost for an image and what it buys."""

    arm: str
    madds: float
    params: float
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


def learning_curves(accuracy: Curves, train_loss: Curves) -> "Figure":
    """Held-out accuracy (percent) and training loss by epoch: means over seeds with 95 % t-intervals.

    The accuracy axis begins where the second half of the training does: the end is what is compared.
    """
    figure, (left, right) = _subplots(WIDTH, 3.2, columns=2)
    for axes, curves in ((left, accuracy), (right, train_loss)):
        for index, (arm, (x_T, y_ST)) in enumerate(curves.items()):
            means = [stats.estimate(column) for column in y_ST.T]
            style = {"color": PALETTE[index % len(PALETTE)], "linestyle": _after_palette(LINES, index)}
            axes.plot(x_T, [e.mean for e in means], linewidth=1.6, label=arm, **style)
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
    figure, axes = _subplots(WIDTH, 1.3 + 0.55 * len(rows))
    twins = any(row.same_lr for row in rows)
    kinds = {
        "own learning rate" if twins else "measured here": ("o", PALETTE[0], PALETTE[0]),
        "baseline's learning rate": ("s", PALETTE[1], "white"),
    }
    for y, row in enumerate(rows):
        both = [(row.own, row.own_values, 0.0 if row.same_lr is None else -0.17)]
        if row.same_lr is not None:
            both.append((row.same_lr, row.same_lr_values, 0.17))
        for (kind, (marker, color, face)), (difference, values, shift) in zip(kinds.items(), both, strict=False):
            axes.plot(values, np.full(len(values), y + shift), ".", color=color, alpha=0.35, markeredgewidth=0)
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


def accuracy_vs_cost(points: Sequence[Cost], label: str) -> "Figure":
    """What each arm reaches, by its multiply-adds and parameters; arms of equal cost stand side by side."""
    from matplotlib.transforms import ScaledTranslation

    figure, panels = _subplots(WIDTH, 3.4, columns=2, sharey=True)
    titles = ("multiply-adds of an image", "parameters")
    for axes, title, attribute in zip(panels, titles, ("madds", "params"), strict=True):
        costs = np.array([getattr(point, attribute) for point in points], np.float64)
        place = _cost_axis(axes, costs)
        for index, point in enumerate(points):
            neighbors = np.flatnonzero(np.abs(place - place[index]) < 0.04)
            shift = 10 * (np.searchsorted(neighbors, index) - (len(neighbors) - 1) / 2)  # typographic points
            value = point.value
            axes.errorbar(
                costs[index],
                value.mean,
                yerr=[[value.mean - value.low], [value.high - value.mean]],
                fmt=_after_palette(MARKERS, index),
                color=PALETTE[index % len(PALETTE)],
                capsize=3,
                markersize=6,
                label=point.arm,
                transform=axes.transData + ScaledTranslation(shift / 72, 0, figure.dpi_scale_trans),
            )
        axes.set_title(title, loc="left")
        axes.xaxis.set_major_formatter(lambda count, _: stats.quantity(count))
    ends = [end for point in points for end in (point.value.low, point.value.mean, point.value.high)]
    low, high = np.nanmin(ends), np.nanmax(ends)
    room = 0.08 * (high - low) or 1.0
    panels[0].set_ylim(low - room, high + room)
    panels[0].set_ylabel(label)
    _legend(figure, panels[0], len(points))
    return figure


def _cost_axis(axes: "Axes", costs: np.ndarray) -> np.ndarray:
    """Sets the limits, logarithmic where costs differ a lot; returns where in 0..1 of the axis each is."""
    from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullFormatter

    low, high = costs.min(), costs.max()
    if high > 5 * low:
        low, high = low / 1.5, high * 1.5
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=6))
        axes.xaxis.set_minor_formatter(NullFormatter())
        place = np.log(costs / low) / np.log(high / low)
    else:
        room = max(0.15 * (high - low), 0.1 * high)
        axes.xaxis.set_major_locator(MaxNLocator(4) if high > low else FixedLocator([low]))
        low, high = low - room, high + room
        place = (costs - low) / (high - low)
    axes.set_xlim(low, high)
    return place


def seeds(values: Mapping[str, Sequence[float]], label: str) -> "Figure":
    """Every run of every arm, the seeds of an arm from top to bottom, with mean and 95 % t-interval."""
    figure, axes = _subplots(WIDTH, 0.9 + 0.5 * len(values))
    for y, of_seed in enumerate(values.values()):
        heights = y + np.linspace(-0.25, 0.25, len(of_seed)) if len(of_seed) > 1 else [y]
        axes.plot(of_seed, heights, "o", color=PALETTE[0], alpha=0.55, markersize=4.5, markeredgewidth=0)
        found = stats.estimate(of_seed)
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


def _subplots(
    width: float, height: float, columns: int = 1, sharey: bool | Literal["row"] = False, rows: int = 1
) -> tuple["Figure", Any]:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, figure.subplots(rows, columns, sharey=sharey)


def _after_palette(choices: Sequence[str], index: int) -> str:
    """The line or marker of an arm: another one for each turn through the palette."""
    return choices[index // len(PALETTE) % len(choices)]


def _name_rows(axes: "Axes", names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")


def _legend(figure: "Figure", axes: "Axes", columns: int) -> None:
    """Above the axes, each label once."""
    handles, labels = axes.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    figure.legend(
        once.values(),
        once.keys(),
        loc="outside upper left",
        ncols=min(columns, 4),
        fontsize=10,
        frameon=False,
    )


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
    _legend(figure, panels[0], len(runs))
    return figure
