"""Times of a benchmark."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from mnet_jax.figures.style import GRAY, INK, PALETTE, WIDTH, name_rows, subplots

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def benchmark(panels: Mapping[str, Mapping[str, tuple[float, float, float]]], label: str) -> "Figure":
    """A panel a regime, a mark a contender: (median, smallest, largest), on a logarithmic axis; the first is ours."""
    from matplotlib.ticker import LogLocator

    figure, rows = subplots(WIDTH, sum(0.6 + 0.3 * len(bars) for bars in panels.values()), rows=len(panels))
    for axes, (title, bars) in zip(np.atleast_1d(rows), panels.items(), strict=True):
        for y, (median, low, high) in enumerate(bars.values()):
            color = GRAY if y else PALETTE[0]
            axes.errorbar(median, y, xerr=[[median - low], [high - median]], fmt="o", color=color, capsize=2)
            words = f"{median:,.0f}" if median >= 100 else f"{median:.3g}"
            axes.annotate(words, (high, y), (6, 0), textcoords="offset points", va="center", color=INK)
        name_rows(axes, list(bars))
        axes.set_xscale("log")
        axes.margins(x=0.12)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:,g}")
        axes.minorticks_off()
        axes.set_title(title, loc="left")
    np.atleast_1d(rows)[-1].set_xlabel(label)
    return figure
