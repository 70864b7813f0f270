"""Images of a data set side by side."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mnet_jax.figures.style import INK, ON_DARK, ON_LIGHT, WIDTH, subplots

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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


def gallery(images: Sequence[tuple[str, np.ndarray]], columns: int = 6) -> "Figure":
    """Pairs of words and an image, uint8 [H, W, C], each under its words."""
    from matplotlib.figure import Figure

    rows = -(-len(images) // columns)
    figure = Figure((WIDTH, WIDTH / columns * 1.3 * rows), dpi=200, layout="constrained")
    places = figure.subplots(rows, columns, squeeze=False).ravel()
    for place in places:
        place.set_axis_off()
    for place, (words, image_HWC) in zip(places, images, strict=False):
        place.set_title(words, fontsize=7, pad=3, color=INK)
        place.imshow(image_HWC.squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    return figure


def confusion(percent_KK: np.ndarray, names: Sequence[str]) -> "Figure":
    """A matrix with a row for each true class and a column for each answer, in percent of the row's images."""
    figure, axes = subplots(WIDTH, 1.0 + 0.3 * len(names))
    axes.imshow(percent_KK, cmap="Blues", vmin=0, vmax=100, aspect="auto")
    for (row, column), percent in np.ndenumerate(percent_KK):
        if percent >= 0.05:
            words = f"{percent:.0f}" if percent >= 9.95 else f"{percent:.1f}"
            color = ON_DARK if percent > 50 else ON_LIGHT
            axes.text(column, row, words, ha="center", va="center", fontsize=7, color=color)
    axes.set_xticks(range(len(names)), names, rotation=90 if max(map(len, names)) > 2 else 0)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0)
    axes.grid(False)
    axes.set_xlabel("answer")
    axes.set_ylabel("class")
    return figure
