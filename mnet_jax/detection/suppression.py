"""Non-maximum suppression: of detections of one class that overlap, only the best stays."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mnet_jax.detection.boxes import iou


class Detections(NamedTuple):
    """The detections of an image, the best first; behind the last one scores and classes are 0."""

    boxes_D4: jax.Array
    scores_D: jax.Array
    classes_D: jax.Array


def suppress(
    boxes_A4: jax.Array, scores_AK: jax.Array, threshold: float, candidates: int, most: int, least_score: float = 1e-8
) -> Detections:
    """Greedy suppression within each class, of the `candidates` best pairs of anchor and class of an image.

    Args:
      boxes_A4: decoded boxes.
      scores_AK: of each class; those of the background, class 0, are not looked at.
      threshold: a pair goes where its intersection over union with a better one of its class, that stays, is more.
      candidates: pairs that are looked at, the best of all classes.
      most: detections that are kept, `D`.
      least_score: pairs of this score and less go.
    """
    classes = scores_AK.shape[1] - 1
    scores, pairs = jax.lax.top_k(scores_AK[:, 1:].reshape(-1), min(candidates, len(scores_AK) * classes))
    boxes, labels = boxes_A4[pairs // classes], pairs % classes + 1
    rivals = (iou(boxes, boxes) > threshold) & (labels[:, None] == labels[None])
    places = jnp.arange(len(scores))

    def look_at(place: jax.Array, stays: jax.Array) -> jax.Array:
        return stays & ~(stays[place] & rivals[place] & (places > place))

    stays = jax.lax.fori_loop(0, len(scores), look_at, scores > least_score)
    most = min(most, len(scores))
    order = jnp.argsort(~stays, stable=True)[:most]  # those that stay, in the order of their scores
    found = stays[order]
    kept = jnp.where(found[:, None], boxes[order], 0), jnp.where(found, scores[order], 0)
    return Detections(*kept, jnp.where(found, labels[order], 0).astype(jnp.int32))
