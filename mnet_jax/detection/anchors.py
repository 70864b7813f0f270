"""SSD's anchors: boxes of a few sizes and shapes around every pixel of every feature map."""

import itertools
import math
from collections.abc import Sequence

import numpy as np

RATIOS = (1.0, 2.0, 1 / 2, 3.0, 1 / 3)
"""Width / height (Liu et al. 2016, section 2.2)."""


def shapes(maps: int, smallest: float, largest: float) -> list[list[tuple[float, float]]]:
    """(height, width) of the anchors around a pixel, for each of the feature maps, the finest first.

    The scales grow evenly from `smallest` to `largest` (Liu et al. 2016, equation 4). At each of them a map has the
    five `RATIOS`, and ratio 1 at the geometric mean with the next scale, 1 behind the last. As in the released
    MobileNet detectors, the first map has three: ratio 1 at half the smallest scale, ratios 2 and 1/2 at the
    smallest.
    """
    step = (largest - smallest) / max(maps - 1, 1)
    scales = [smallest + step * number for number in range(maps)] + [1.0]
    kinds = [[(smallest / 2, 1.0), (smallest, 2.0), (smallest, 1 / 2)]]
    for scale, following in itertools.pairwise(scales[1:]):
        kinds.append([*((scale, ratio) for ratio in RATIOS), (math.sqrt(scale * following), 1.0)])
    return [[(scale / math.sqrt(ratio), scale * math.sqrt(ratio)) for scale, ratio in kind] for kind in kinds]


def of_maps(sizes: Sequence[tuple[int, int]], smallest: float, largest: float) -> np.ndarray:
    """Anchors, float64 [A, 4], of feature maps of these (height, width), the finest first; they may leave the image.

    In the order of maps, rows, columns, shapes: that of predictions [h, w, anchors of a pixel] which are flattened.
    """
    boxes = []
    for (h, w), kind in zip(sizes, shapes(len(sizes), smallest, largest), strict=True):
        rows, columns = np.meshgrid((np.arange(h) + 0.5) / h, (np.arange(w) + 0.5) / w, indexing="ij")
        center_hw12 = np.stack([rows, columns], -1)[:, :, None]
        half_a2 = np.array(kind) / 2
        boxes.append(np.concatenate([center_hw12 - half_a2, center_hw12 + half_a2], -1).reshape(-1, 4))
    return np.concatenate(boxes)
