"""Images of a data set side by side."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from mnet_jax.figures.style import WIDTH

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
