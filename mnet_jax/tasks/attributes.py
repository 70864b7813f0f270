"""Attributes: several yes or no questions about each image, from labels or from a teacher; mean average precision.

Howard et al. 2017, section 4.5 and Table 12. Shape letters: B images of a batch, N images, K attributes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mnet_jax.errors import UserError
from mnet_jax.tasks.base import TRAIN_LOSS, Metric, Targets, Task

if TYPE_CHECKING:
    import jax


def metrics(cfg: Any) -> tuple[Metric, ...]:
    """Mean average precision (AP), and the cross-entropy, a mean over images and attributes.

    A diverged run counts as one that answers 1/2 to everything, but has the least mean AP there is: that of guessing,
    the share of images with the attribute, is the data's and not the config's. An evaluation also logs the AP of each
    attribute that occurs, "ap/0" and so on.
    """
    guess = float(np.log(2))
    return (
        Metric("mean_ap", "mean AP", "%", 2, diverged=0.0),
        Metric("cross_entropy", "cross-entropy", "nats", 3, higher_is_better=False, diverged=guess),
        replace(TRAIN_LOSS, diverged=guess),
        Metric("train_accuracy", "training accuracy", "%", 2, diverged=0.5, group="training"),
    )


def check(cfg: Any) -> None:
    for name in ("data.mixup", "data.cutmix", "data.noisy_size", "data.unseen_classes", "train.label_smoothing"):
        section, leaf = name.split(".")
        if value := cfg[section][leaf]:
            raise UserError(f"{name}={value!r} with task='attributes'; allowed: {type(value)()!r}")
    if cfg.distill.temperature != 1:
        raise UserError(f"distill.temperature={cfg.distill.temperature!r} with task='attributes'; allowed: 1.0")


def check_data(cfg: Any, dataset: Any) -> None:
    if not {"attributes", "classes"} & set(dataset.targets):
        raise UserError(f"task='attributes': {dataset.name} has neither attributes nor boxes, only {_listed(dataset)}")
    attributes_NK = targets(dataset, cfg)["attributes"]
    if cfg.model.num_classes != attributes_NK.shape[1]:
        raise UserError(
            f"model.num_classes={cfg.model.num_classes}; {dataset.name} needs {attributes_NK.shape[1]}, its attributes"
        )
    for part, indices in (("training", dataset.train_indices), ("test", dataset.test_indices)):
        share_K = attributes_NK[indices].mean(0)
        if constant := [name for name, share in zip(names(dataset), share_K, strict=True) if share in (0, 1)]:
            raise UserError(
                f"{dataset.name}: all {part} images answer alike to {constant[0]!r}; allowed: attributes that some "
                "images have and others lack"
            )


def _listed(dataset: Any) -> str:
    return ", ".join(dataset.targets)


def names(dataset: Any) -> tuple[str, ...]:
    """What the attributes are called: the class names, but for the background of boxes."""
    return dataset.class_names if "attributes" in dataset.targets else dataset.class_names[1:]


def targets(dataset: Any, cfg: Any) -> Targets:
    """{"attributes"}: uint8 [N, K], 1 where the image has it; of boxes, where it holds one of class k + 1."""
    if "attributes" in dataset.targets:
        return {"attributes": dataset.targets["attributes"]}
    classes_NM = dataset.targets["classes"]
    holds_NK = (classes_NM[:, :, None] == np.arange(1, dataset.classes)).any(1)
    return {"attributes": holds_NK.astype(np.uint8)}


def loss(
    logits_BK: "jax.Array", targets: Targets, cfg: Any, teacher: "jax.Array | None"
) -> tuple["jax.Array", dict[str, "jax.Array"]]:
    """Sigmoid cross-entropy in nats, a mean over images and attributes.

    With a teacher's logits, `distill.weight` of it is against the teacher's probabilities (V1 section 4.5, where it is
    all of it). Its part is the share of each image's attributes answered as labelled.
    """
    import jax
    import jax.numpy as jnp
    import optax

    labels_BK = targets["attributes"].astype(logits_BK.dtype)
    value = optax.sigmoid_binary_cross_entropy(logits_BK, labels_BK).mean()
    if teacher is not None:
        taught = optax.sigmoid_binary_cross_entropy(logits_BK, jax.nn.sigmoid(teacher.astype(logits_BK.dtype))).mean()
        value = cfg.distill.weight * taught + (1 - cfg.distill.weight) * value
    right_BK = (logits_BK > 0) == (labels_BK > 0)
    return value, {"accuracy": jnp.sum(jnp.mean(right_BK.astype(jnp.float32), -1))}


def per_image(logits_BK: "jax.Array", targets: Targets, cfg: Any) -> dict[str, Any]:
    """{"logits", "attributes"}: [B, K] each."""
    return {"logits": logits_BK, "attributes": targets["attributes"]}


def average_precision(has_N: np.ndarray, scores_N: np.ndarray) -> float:
    """Area under the steps of precision over recall: the sum of (R_n - R_n-1) P_n over the thresholds n.

    Args:
      has_N: 1 where the image has the attribute, at least once.
      scores_N: higher where it is more likely; equal ones share a threshold.
    """
    order = np.argsort(-scores_N, kind="stable")
    last = np.flatnonzero(np.append(np.diff(scores_N[order]), 1))
    found = np.cumsum(has_N[order], dtype=np.float64)[last]
    return float(np.sum(np.diff(found, prepend=0) / found[-1] * found / (last + 1)))


def score(sums: Mapping[str, Any], kept: Mapping[str, np.ndarray], cfg: Any) -> dict[str, float]:
    """Means over the attributes that occur in the held-out images."""
    logits_NK, has_NK = kept["logits"].astype(np.float64), kept["attributes"]
    occurring = np.flatnonzero(has_NK.any(0)).tolist()
    ap = {number: average_precision(has_NK[:, number], logits_NK[:, number]) for number in occurring}
    return {
        "mean_ap": float(np.mean(list(ap.values()))),
        "cross_entropy": float(np.mean(np.logaddexp(0, logits_NK) - has_NK * logits_NK)),
        **{f"ap/{number}": value for number, value in ap.items()},
    }


def predict(logits_BK: "jax.Array", cfg: Any) -> dict[str, "jax.Array"]:
    """The probability of each attribute, float32 [B, K]."""
    import jax
    import jax.numpy as jnp

    return {"probabilities": jax.nn.sigmoid(logits_BK.astype(jnp.float32))}


def pictures(workdir: Path, sweep: Any) -> Iterator[tuple[str, Any, str]]:
    """The AP of each attribute over the first arm's seeds."""
    from mnet_jax import figures
    from mnet_jax.tasks import shown

    if (arm := shown.first_arm(workdir, sweep)) is not None:
        caption = f"Average precision of each attribute; the seeds of {arm.name} with mean and 95 % t-interval."
        by_attribute = arm.by_number("ap", names(arm.dataset))
        yield "Attributes", figures.seeds(by_attribute, Metric("ap", "AP", "%", 1)), caption


TASK = Task(
    name="attributes",
    metrics=metrics,
    check=check,
    check_data=check_data,
    targets=targets,
    loss=loss,
    per_image=per_image,
    score=score,
    predict=predict,
    pictures=pictures,
)
