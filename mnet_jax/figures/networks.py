"""Figures of networks: their cost layer by layer, and what is active or dead inside them."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mnet_jax import formatting, stats
from mnet_jax.figures.style import INK, PALETTE, WIDTH, cycle, drawn_interval, legend, line_style, name_rows, subplots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Arrays = Mapping[str, np.ndarray]
"""What a run left in its arrays.npz."""


def layer_profile(runs: Mapping[str, Sequence[Arrays]], published: Arrays) -> "Figure":
    """V2's Figure 7: positive channels of the pixels after each expansion, in percent, at step 0 and trained.

    Lines are means over pixels and the runs of an arm, bands go from the least to the most positive pixel; above the
    dotted line an expansion can be inverted. `published` are the paper's counts, in the words of a run's arrays.
    """
    from matplotlib.ticker import MaxNLocator

    figure, panels = subplots(WIDTH, 3.4, columns=2, sharey=True)
    for axes, state, title in zip(panels, ("initial", "active"), ("at step 0", "trained"), strict=True):
        for index, (arm, of_runs) in enumerate(runs.items()):
            block_L = of_runs[0][f"{state}/block"]
            low_L, mean_L, high_L = (
                100 * pool([arrays[f"{state}/{name}"] / arrays[f"{state}/channels"] for arrays in of_runs], axis=0)
                for name, pool in (("min", np.min), ("mean", np.mean), ("max", np.max))
            )
            style = line_style(index)
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
    legend(figure, panels[0], len(runs) + 2)
    return figure


def threshold_curve(runs: Mapping[str, Sequence[Arrays]], definitions: Mapping[str, float]) -> "Figure":
    """The share of channels below each threshold, in percent: means over the runs of an arm with 95 % t-intervals.

    A panel for each of `definitions` that a run has a curve of; the dotted line is the threshold of the definition.
    """
    names = [name for name in definitions if any(f"curve/{name}" in of_runs[0] for of_runs in runs.values())]
    rows = -(-len(names) // 2)
    figure, grid = subplots(WIDTH, 0.6 + 2.1 * rows, columns=2, rows=rows)
    panels = list(np.ravel(grid))
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    for axes, name in zip(panels, names, strict=False):
        for index, (arm, of_runs) in enumerate(runs.items()):
            if f"curve/{name}" in of_runs[0]:
                threshold_T = of_runs[0]["curve/threshold"]
                share_ST = 100 * np.array([arrays[f"curve/{name}"] for arrays in of_runs])
                means = [stats.estimate(column) for column in share_ST.T]
                style = line_style(index)
                axes.plot(threshold_T, [e.mean for e in means], linewidth=1.6, label=arm, **style)
                low, high = zip(*map(drawn_interval, means), strict=True)
                axes.fill_between(threshold_T, low, high, color=style["color"], alpha=0.15, linewidth=0)
        axes.axvline(definitions[name], color=INK, linewidth=1.2, linestyle=":")
        axes.set_xscale("log")
        axes.set_yscale("symlog", linthresh=1)
        axes.set_ylim(0, 100)
        axes.set_yticks((0, 1, 10, 100), ("0", "1", "10", "100"))
        axes.set_title(f"{name.replace('_', ' ')} (%)", loc="left")
    for axes in panels[max(0, len(names) - 2) : len(names)]:
        axes.set_xlabel("threshold")
    legend(figure, panels, len(runs))
    return figure


def cost_by_depth(networks: Mapping[str, Sequence[tuple[int, int]]]) -> "Figure":
    """Channels and bytes of the output of every convolution and dense layer (V2 Table 3), a column a network."""
    figure, panels = subplots(WIDTH, 3.6, columns=len(networks), rows=2, sharey="row")
    panels = np.reshape(panels, (2, -1))
    for column, (name, layers) in enumerate(networks.items()):
        for axes, values in zip(panels[:, column], zip(*layers, strict=True), strict=True):
            axes.stairs(values, fill=True, color=PALETTE[column % len(PALETTE)])
            axes.yaxis.set_major_formatter(lambda number, _: formatting.quantity(number))
        panels[0, column].set_title(name, loc="left")
        panels[1, column].set_xlabel("layer")
    for axes, label in zip(panels[:, 0], ("channels", "bytes"), strict=True):
        axes.set_ylabel(label)
    return figure


def cost_shares(networks: Mapping[str, Mapping[str, tuple[int, int]]]) -> "Figure":
    """Shares of multiply-adds and weights by type of layer (V1 Table 2), a bar a network: {type: (MAdds, weights)}."""
    kinds = list(dict.fromkeys(kind for shares in networks.values() for kind in shares))
    figure, panels = subplots(WIDTH, 1.4 + 0.4 * len(networks), columns=2, sharey=True)
    for axes, title, which in zip(panels, ("multiply-adds (%)", "weights (%)"), (0, 1), strict=True):
        start = np.zeros(len(networks))
        for index, kind in enumerate(kinds):
            part = [
                100 * shares.get(kind, (0, 0))[which] / sum(pair[which] for pair in shares.values())
                for shares in networks.values()
            ]
            color, hatch = PALETTE[index % len(PALETTE)], cycle(("", "///", "...", "xxx"), index)
            axes.barh(range(len(networks)), part, left=start, color=color, hatch=hatch, edgecolor="white", label=kind)
            start += part
        name_rows(axes, list(networks))
        axes.set_title(title, loc="left")
        axes.set_xlim(0, 100)
    legend(figure, panels[0], len(kinds))
    return figure


def spiral(panels: Sequence[tuple[str, np.ndarray]]) -> "Figure":
    """V2's Figure 1: titled curves [P, 2] side by side, colored from their first point to their last."""
    from matplotlib.collections import LineCollection

    figure, row = subplots(WIDTH, 1.5, columns=len(panels))
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
