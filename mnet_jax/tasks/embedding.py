"""Embeddings: points on a sphere, near each other for images of one class, for classes that nobody trained on, too.

Learned by triplets (Schroff et al. 2015) or from a teacher's embeddings (Howard et al. 2017, section 4.7 and Table 14).
Shape letters: B images of a batch, N images, D dimensions.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mnet_jax.errors import UserError
from mnet_jax.fields import POSITIVE, Field, Range
from mnet_jax.tasks.base import TRAIN_LOSS, Metric, Targets, Task

if TYPE_CHECKING:
    import jax

FIELDS = {
    "embedding.margin": Field(
        0.2, "by which a triplet's negative is to be farther (Schroff et al. 2015, 3.1)", POSITIVE
    ),
    "embedding.far": Field(0.01, "share of the pairs of different classes that may be accepted", Range(1e-9, 0.5)),
}


def metrics(cfg: Any) -> tuple[Metric, ...]:
    """True accept rate at the false accept rate `embedding.far`, over all pairs of held-out images.

    A diverged run counts as one that accepts pairs by chance.
    """
    return (
        Metric("true_accept_rate", f"true accept rate at {cfg.embedding.far:g}", "%", 2, diverged=cfg.embedding.far),
        replace(TRAIN_LOSS, unit="", diverged=cfg.embedding.margin),
    )


def check(cfg: Any) -> None:
    for name in ("data.mixup", "data.cutmix", "data.noisy_size", "train.label_smoothing"):
        section, leaf = name.split(".")
        if value := cfg[section][leaf]:
            raise UserError(f"{name}={value!r} with task='embedding'; allowed: {type(value)()!r}")
    if cfg.distill.temperature != 1:
        raise UserError(f"distill.temperature={cfg.distill.temperature!r} with task='embedding'; allowed: 1.0")


def check_data(cfg: Any, dataset: Any) -> None:
    for part, indices in (("training", dataset.train_indices), ("held-out", dataset.test_indices)):
        if len(found := np.unique(dataset.labels_N[indices])) < 2:
            only = dataset.class_names[found[0]]
            raise UserError(f"task='embedding': the {part} images of {dataset.name} are all of {only!r}; allowed: two "
                            "or more classes")  # fmt: skip


def normalized(outputs_BD: "jax.Array") -> "jax.Array":
    """Points on the unit sphere, float32 [B, D]."""
    import jax.numpy as jnp

    outputs_BD = outputs_BD.astype(jnp.float32)
    return outputs_BD / jnp.sqrt(jnp.maximum(jnp.sum(outputs_BD**2, -1, keepdims=True), 1e-12))


def triplet_loss(points_BD: "jax.Array", labels_B: "jax.Array", margin: float) -> "jax.Array":
    """Mean over the pairs of one class of max(0, d(a, p) - d(a, n) + margin) (Schroff et al. 2015, equation 3).

    d are squared distances. n is the semi-hard negative: of the batch's images of other classes that are farther from a
    than p is the nearest one (equation 4), and where there is none the farthest. 0 where no two images share a class.
    """
    import jax.numpy as jnp

    distance_BB = jnp.sum((points_BD[:, None] - points_BD[None]) ** 2, -1)
    same_BB = labels_B[:, None] == labels_B[None]
    positive_BB = same_BB & ~jnp.eye(len(labels_B), dtype=bool)
    farther_BBB = ~same_BB[:, None] & (distance_BB[:, None] > distance_BB[:, :, None])
    nearest_BB = jnp.min(jnp.where(farther_BBB, distance_BB[:, None], jnp.inf), -1)
    farthest_B1 = jnp.max(jnp.where(same_BB, 0.0, distance_BB), -1, keepdims=True)
    negative_BB = jnp.where(jnp.isfinite(nearest_BB), nearest_BB, farthest_B1)
    losses_BB = jnp.where(positive_BB, jnp.maximum(distance_BB - negative_BB + margin, 0.0), 0.0)
    return jnp.sum(losses_BB) / jnp.maximum(jnp.sum(positive_BB.astype(jnp.float32)), 1.0)


def loss(
    outputs_BD: "jax.Array", targets: Targets, cfg: Any, teacher: "jax.Array | None"
) -> tuple["jax.Array", dict[str, "jax.Array"]]:
    """The triplet loss; with a teacher `distill.weight` of it is the squared distance to the teacher's points.

    V1 section 4.7, where the squared distance is all of it, a mean over the images. The loss has no parts.
    """
    import jax.numpy as jnp

    points_BD = normalized(outputs_BD)
    value = triplet_loss(points_BD, targets["labels"], cfg.embedding.margin)
    if teacher is not None:
        taught = jnp.mean(jnp.sum((points_BD - normalized(teacher)) ** 2, -1))
        value = cfg.distill.weight * taught + (1 - cfg.distill.weight) * value
    return value, {}


def per_image(outputs_BD: "jax.Array", targets: Targets, cfg: Any) -> dict[str, Any]:
    """{"points": [B, D], "labels": [B]}."""
    return {"points": normalized(outputs_BD), "labels": targets["labels"]}


def true_accept_rate(points_ND: np.ndarray, labels_N: np.ndarray, far: float) -> float:
    """The share of pairs of one class that are as near as the threshold that accepts the share `far` of all others.

    The threshold is the largest distance at which no larger share is accepted.
    """
    rows, columns = np.triu_indices(len(labels_N), 1)
    near_P = (points_ND @ points_ND.T)[rows, columns]
    same_P = labels_N[rows] == labels_N[columns]
    impostors = np.sort(near_P[~same_P])[::-1]
    accepted = int(far * len(impostors))
    return float(np.mean(near_P[same_P] > impostors[min(accepted, len(impostors) - 1)]))


def score(sums: Mapping[str, Any], kept: Mapping[str, np.ndarray], cfg: Any) -> dict[str, float]:
    """Over all pairs of held-out images."""
    return {"true_accept_rate": true_accept_rate(kept["points"], kept["labels"], cfg.embedding.far)}


def predict(outputs_BD: "jax.Array", cfg: Any) -> dict[str, "jax.Array"]:
    """The point of each image, float32 [B, D]: pairs are compared by their distance, or inner product."""
    return {"points": normalized(outputs_BD)}


TASK = Task(
    name="embedding",
    metrics=metrics,
    fields=FIELDS,
    check=check,
    check_data=check_data,
    loss=loss,
    per_image=per_image,
    score=score,
    predict=predict,
)
