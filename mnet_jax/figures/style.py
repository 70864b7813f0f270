"""How every figure looks, and how it becomes a file.

The palette is Okabe and Ito's (2008), which color-blind readers can tell apart; where it ends, line styles
and markers go on. Figures are as wide as a column of text, so that their letters are legible on a phone, too.
"""

import io
import math
import re
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mnet_jax.stats import FEWEST, Difference, Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#1F2328")
LINES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D")
INK, GRAY, GRID = "#1F2328", "#8C959F", "#E6E9EC"
ON_DARK, ON_LIGHT = "#FEFEFE", "#101010"
"""Letters on a colored ground, which a dark page must not turn."""
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


def svg(figure: "Figure") -> str:
    """The figure as an `<svg>` element that stands inside a page, letters as text, with no date in it."""
    import matplotlib

    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "mnet_jax"}):
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'<g id="[\w.-]+">', "<g>", text)  # nothing refers to these
    prefix = f"{zlib.crc32(text.encode()):08x}"  # the other names must be unique in the page
    return re.sub(r'( id="|url\(#|href="#)(?=[\w-]+["\)])', rf"\g<1>{prefix}-", text)


def pdf(figure: "Figure") -> bytes:
    """The figure for a paper, its letters as text, with no date in it."""
    import matplotlib

    file = io.BytesIO()
    with matplotlib.rc_context({"pdf.fonttype": 42}):
        figure.savefig(file, format="pdf", metadata=dict.fromkeys(("Creator", "Producer", "CreationDate")))
    return file.getvalue()


def subplots(
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


def cycle(choices: Sequence[str], index: int) -> str:
    """The line, marker or hatch of series number `index`: another one for each turn through the palette."""
    return choices[index // len(PALETTE) % len(choices)]


def line_style(index: int) -> dict[str, str]:
    """Color and line of series number `index`."""
    return {"color": PALETTE[index % len(PALETTE)], "linestyle": cycle(LINES, index)}


def drawn_interval(value: Estimate | Difference) -> tuple[float, float]:
    """The ends of the 95 % t-interval as it is drawn; nan of fewer than `stats.FEWEST` values."""
    return (value.low, value.high) if value.n >= FEWEST else (math.nan, math.nan)


def error_bar(value: Estimate | Difference) -> list[list[float]]:
    """How far the drawn interval reaches below and above the mean, as matplotlib's `errorbar` takes it."""
    low, high = drawn_interval(value)
    return [[value.mean - low], [high - value.mean]]


def name_rows(axes: "Axes", names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")


def legend(figure: "Figure", panels: Any, most: int) -> None:
    """Above the axes, labels once each, where there are several, in as many columns as there is room for.

    The figure grows with it. There is none of more series than there are looks, colors by lines.
    """
    once = {}
    for axes in np.ravel(panels):
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            once.setdefault(label, handle)
    names = list(once)
    if not 2 <= len(names) <= len(PALETTE) * len(LINES):
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
