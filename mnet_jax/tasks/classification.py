"""Image classification, from labels or from a teacher: the loss, and what its metrics are computed from."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mnet_jax.errors import UserError
from mnet_jax.fields import FRACTION, POSITIVE, Field
from mnet_jax.tasks.base import TRAIN_LOSS, Metric, Targets, Task

if TYPE_CHECKING:
    import jax

FIELDS = {
    "distill.temperature": Field(1.0, "temperature of teacher and student (Hinton et al. 2015, section 2)", POSITIVE),
    "distill.weight": Field(0.9, "weight of the teacher's part of the loss; the labels have the rest", FRACTION),
}


def metrics(cfg: Any) -> tuple[Metric, ...]:
    """Accuracy, negative log-likelihood (NLL) and, of more than 10 classes, top-5 accuracy.

    A diverged run counts as one that guesses: every class as likely as any other.
    """
    classes = cfg.model.num_classes
    guess = 1 / classes
    top5 = Metric("top5_accuracy", "top-5 accuracy", "%", 2, diverged=5 / classes)
    return (
        Metric("accuracy", "accuracy", "%", 2, diverged=guess),
        Metric("nll", "NLL", "nats", 3, higher_is_better=False, diverged=math.log(classes)),
        *((top5,) if classes > 10 else ()),
        replace(TRAIN_LOSS, diverged=math.log(classes)),
        Metric("train_accuracy", "training accuracy", "%", 2, diverged=guess, group="training"),
    )


def check(cfg: Any) -> None:
    if unseen := cfg.data.unseen_classes:
        raise UserError(f"data.unseen_classes={unseen} with task='classification'; allowed: 0")


def check_data(cfg: Any, dataset: Any) -> None:
    if cfg.model.num_classes != dataset.classes:
        raise UserError(f"model.num_classes={cfg.model.num_classes}; {dataset.name} needs {dataset.classes}")


def targets(dataset: Any, cfg: Any) -> Targets:
    """The data set's own, "labels" among them; with `data.label_noise` also "given", int32 [N], to train on."""
    if not cfg.data.label_noise:
        return dataset.targets
    from mnet_jax.data.dataset import given_labels

    given_N = given_labels(dataset.labels_N, dataset.classes, cfg.data.label_noise)
    return {**dataset.targets, "given": given_N}


def _to_learn(targets: Targets) -> Any:
    """The labels that training sees, [B]."""
    return targets.get("given", targets["labels"])


def augment(
    key: "jax.Array",
    images_BHWC: "jax.Array",
    targets: Targets,
    cfg: Any,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> tuple["jax.Array", Targets]:
    """By the fields `data.*`; where images were mixed, "shares" [B, K] are each class's part of the image."""
    from mnet_jax.data import augment

    labelled = {"labels": _to_learn(targets)}
    x_BHWC, moved = augment.batch(key, images_BHWC, labelled, cfg.data, cfg.model.num_classes, mean, std)
    mixed = moved["labels"].ndim == 2
    return x_BHWC, {**targets, "shares": moved["labels"]} if mixed else targets


def loss(
    logits_BK: "jax.Array", targets: Targets, cfg: Any, teacher: "jax.Array | None"
) -> tuple["jax.Array", dict[str, "jax.Array"]]:
    """Mean cross-entropy in nats against labels smoothed towards uniform (Szegedy et al. 2016, section 7).

    With a teacher's logits, `distill.weight` of it is T^2 times the cross-entropy against the teacher's probabilities
    at temperature T (Hinton et al. 2015, section 2; T^2 keeps the gradients' size). Its part is the images answered
    correctly.
    """
    import jax
    import jax.numpy as jnp
    import optax

    labels_B = _to_learn(targets)
    shares_BK = targets.get("shares")
    if shares_BK is None:
        shares_BK = jax.nn.one_hot(labels_B, logits_BK.shape[-1], dtype=logits_BK.dtype)
    smooth_BK = optax.losses.smooth_labels(shares_BK.astype(logits_BK.dtype), cfg.train.label_smoothing)
    value = optax.softmax_cross_entropy(logits_BK, smooth_BK).mean()
    if teacher is not None:
        temperature, weight = cfg.distill.temperature, cfg.distill.weight
        soft_BK = jax.nn.softmax(teacher.astype(logits_BK.dtype) / temperature)
        taught = temperature**2 * optax.softmax_cross_entropy(logits_BK / temperature, soft_BK).mean()
        value = weight * taught + (1 - weight) * value
    return value, {"accuracy": jnp.sum(_correct(logits_BK.astype(jnp.float32), labels_B))}


def sums(logits_BK: "jax.Array", targets: Targets, mask_B: "jax.Array", cfg: Any) -> dict[str, "jax.Array"]:
    """Images answered correctly, nats of negative log-likelihood and, of more than 10 classes, correct among five."""
    import jax
    import jax.numpy as jnp
    import optax

    logits_BK, labels_B = logits_BK.astype(jnp.float32), targets["labels"]
    nll_B = optax.softmax_cross_entropy_with_integer_labels(logits_BK, labels_B)
    totals = {
        "accuracy": jnp.sum(_correct(logits_BK, labels_B) * mask_B),
        "nll": jnp.sum(jnp.where(mask_B > 0, nll_B, 0.0)),
    }
    if logits_BK.shape[-1] > 10:
        _, best_B5 = jax.lax.top_k(logits_BK, 5)
        totals["top5_accuracy"] = jnp.sum(jnp.any(best_B5 == labels_B[:, None], -1).astype(jnp.float32) * mask_B)
    return totals


def _correct(logits_BK: "jax.Array", labels_B: "jax.Array") -> "jax.Array":
    import jax.numpy as jnp

    return (jnp.argmax(logits_BK, -1) == labels_B).astype(jnp.float32)


def score(sums: Mapping[str, Any], kept: Mapping[str, Any], cfg: Any) -> dict[str, float]:
    """Means over the held-out images."""
    return {name: float(total / sums["images"]) for name, total in sums.items() if name != "images"}


def predict(logits_BK: "jax.Array", cfg: Any) -> dict[str, "jax.Array"]:
    """The most likely class, int32 [B], and the probability of each, [B, K]."""
    import jax
    import jax.numpy as jnp

    logits_BK = logits_BK.astype(jnp.float32)
    return {"labels": jnp.argmax(logits_BK, -1).astype(jnp.int32), "probabilities": jax.nn.softmax(logits_BK)}


TASK = Task(
    name="classification",
    metrics=metrics,
    fields=FIELDS,
    check=check,
    check_data=check_data,
    targets=targets,
    augment=augment,
    loss=loss,
    sums=sums,
    score=score,
    predict=predict,
)
