"""Which anchor answers for which true box."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mnet_jax.detection.boxes import iou


class Match(NamedTuple):
    """What each anchor of an image answers for: `box_A` the number of a box, which counts only where `matched_A`."""

    box_A: jax.Array
    matched_A: jax.Array


def match(anchors_A4: jax.Array, boxes_M4: jax.Array, valid_M: jax.Array, threshold: float = 0.5) -> Match:
    """SSD's matching (Liu et al. 2016, section 2.2, "Matching strategy").

    An anchor answers for the box that it overlaps most, if their intersection over union is at least `threshold`; and
    every box has the anchor that overlaps it most, whatever the overlap. Where several boxes have the same best anchor,
    the first one gets it. Boxes that are not `valid_M` take no part.
    """
    overlap_MA = jnp.where(valid_M[:, None], iou(boxes_M4, anchors_A4), -1)
    forced_MA = (jnp.arange(len(anchors_A4))[None] == jnp.argmax(overlap_MA, 1)[:, None]) & valid_M[:, None]
    is_forced_A = jnp.any(forced_MA, 0)
    box_A = jnp.where(is_forced_A, jnp.argmax(forced_MA, 0), jnp.argmax(overlap_MA, 0))
    return Match(box_A, is_forced_A | (jnp.max(overlap_MA, 0) >= threshold))
