"""Areas, intersections over union, and boxes as offsets from anchors. Shape letters: N, M boxes."""

from typing import Any

import jax
import jax.numpy as jnp

CENTER_SCALE, SIZE_SCALE = 10.0, 5.0
"""Factors on the offsets of centers and of sizes (the released SSD: 1 / 0.1 and 1 / 0.2)."""

LARGEST_OFFSET = 4.0
"""Natural logarithm of the largest size of a decoded box, relative to its anchor: what is more would overflow."""


def area(boxes: Any) -> Any:
    """Areas [...] of boxes [..., 4], of NumPy or JAX; 0 where a box has its sides exchanged."""
    xp = boxes.__array_namespace__()
    zero = xp.zeros((), dtype=boxes.dtype)
    return xp.maximum(boxes[..., 2] - boxes[..., 0], zero) * xp.maximum(boxes[..., 3] - boxes[..., 1], zero)


def intersection(boxes_N4: Any, others_M4: Any) -> Any:
    """The area [N, M] that two boxes share, of NumPy or JAX."""
    xp = boxes_N4.__array_namespace__()
    first = xp.maximum(boxes_N4[:, None, :2], others_M4[None, :, :2])
    last = xp.minimum(boxes_N4[:, None, 2:], others_M4[None, :, 2:])
    return area(xp.concatenate([first, last], axis=-1))


def iou(boxes_N4: Any, others_M4: Any) -> Any:
    """Intersection over union [N, M], of NumPy or JAX; 0 where the union is empty."""
    xp = boxes_N4.__array_namespace__()
    shared_NM = intersection(boxes_N4, others_M4)
    union_NM = area(boxes_N4)[:, None] + area(others_M4)[None] - shared_NM
    one = xp.ones((), dtype=union_NM.dtype)
    return xp.where(union_NM > 0, shared_NM / xp.where(union_NM > 0, union_NM, one), 0 * one)


def encode(boxes: jax.Array, anchors: jax.Array) -> jax.Array:
    """Boxes [..., 4] as offsets from anchors of the same shape (Girshick et al. 2014, appendix C; Liu et al. 2016).

    (y, x) of the centers' distance in sizes of the anchor, times `CENTER_SCALE`, and the logarithms of height and width
    relative to the anchor's, times `SIZE_SCALE`. A box without area has the offset of one of 1e-6 of the image.
    """
    (center, size), (anchor_center, anchor_size) = map(_center_and_size, (boxes, anchors))
    size = jnp.maximum(size, jnp.asarray(1e-6, size.dtype))
    return jnp.concatenate(
        [CENTER_SCALE * (center - anchor_center) / anchor_size, SIZE_SCALE * jnp.log(size / anchor_size)], -1
    )


def decode(offsets: jax.Array, anchors: jax.Array) -> jax.Array:
    """The inverse of `encode`: boxes [..., 4], which may reach beyond the image."""
    anchor_center, anchor_size = _center_and_size(anchors)
    center = offsets[..., :2] * (1 / CENTER_SCALE) * anchor_size + anchor_center
    size = jnp.exp(jnp.minimum(offsets[..., 2:] * (1 / SIZE_SCALE), LARGEST_OFFSET)) * anchor_size
    return jnp.concatenate([center - size / 2, center + size / 2], -1)


def _center_and_size(boxes: jax.Array) -> tuple[jax.Array, jax.Array]:
    return (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
