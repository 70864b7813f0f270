"""Image classification, from labels or from a teacher: the loss, and what its metrics are computed from."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

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


def per_image(logits_BK: "jax.Array", targets: Targets, cfg: Any) -> dict[str, "jax.Array"]:
    """The true class and the most likely one, int32 [B], and the probability of the latter, float32 [B]."""
    import jax
    import jax.numpy as jnp

    logits_BK = logits_BK.astype(jnp.float32)
    confidence_B = jnp.exp(jnp.max(logits_BK, -1) - jax.nn.logsumexp(logits_BK, -1))
    predicted_B = jnp.argmax(logits_BK, -1).astype(jnp.int32)
    return {"label": targets["labels"], "predicted": predicted_B, "confidence": confidence_B}


def score(sums: Mapping[str, Any], kept: Mapping[str, Any], cfg: Any) -> dict[str, float]:
    """Means over the held-out images."""
    return {name: float(total / sums["images"]) for name, total in sums.items() if name != "images"}


def predict(logits_BK: "jax.Array", cfg: Any) -> dict[str, "jax.Array"]:
    """The most likely class, int32 [B], and the probability of each, [B, K]."""
    import jax
    import jax.numpy as jnp

    logits_BK = logits_BK.astype(jnp.float32)
    return {"labels": jnp.argmax(logits_BK, -1).astype(jnp.int32), "probabilities": jax.nn.softmax(logits_BK)}


MOST_CLASSES = 20
"""Classes that the report shows, those with the most mistakes."""

MISTAKES, MISTAKE_PIXELS = 12, 96
"""Wrongly answered images that it shows, and the largest side of those that are cropped."""


def pictures(workdir: Path, sweep: Any) -> Iterator[tuple[str, Any, str]]:
    """Of the first arm: the accuracy of each class, which classes are taken for which, and its surest mistakes."""
    from mnet_jax import figures, stats
    from mnet_jax.arms import arm_config

    arm = sweep.arms[0]
    answers = _answers(workdir, sweep, arm)
    if not answers:
        return
    classes = arm_config(sweep.config, arm).model.num_classes
    dataset = _dataset(workdir, sweep, arm, next(iter(answers)))
    names = dataset.class_names if dataset else tuple(map(str, range(classes)))
    confusion_SKK = np.zeros((len(answers), len(names), len(names)))
    for confusion_KK, (label_N, predicted_N, _) in zip(confusion_SKK, answers.values(), strict=True):
        np.add.at(confusion_KK, (label_N, predicted_N), 1)
    images_SK, right_SK = confusion_SKK.sum(2), np.diagonal(confusion_SKK, axis1=1, axis2=2)
    order = np.argsort(-(images_SK - right_SK).sum(0), kind="stable")
    shown = np.sort(order[:MOST_CLASSES])
    whose = f"; the {len(shown)} of {len(names)} classes with the most mistakes" if len(shown) < len(names) else ""

    by_class = {}
    for number in shown:
        measured = images_SK[:, number] > 0
        values = 100 * right_SK[measured, number] / images_SK[measured, number]
        by_class[names[number]] = stats.within(stats.estimate(values), *OF_CLASS.bounds), values.tolist()
    caption = f"The seeds of {arm.name} with mean and 95 % t-interval{whose}."
    yield "Classes", figures.seeds({name: drawn for name, drawn in by_class.items() if drawn[1]}, OF_CLASS), caption
    if confusion_SKK.sum() == right_SK.sum():
        return
    images_K, confusion_KK = images_SK.sum(0), confusion_SKK.sum(0)
    percent_KK = 100 * confusion_KK[np.ix_(shown, shown)] / np.maximum(images_K[shown, None], 1)
    caption = f"How {arm.name} answers the images of each class, in percent of the class, over all its seeds{whose}."
    yield "Confusions", figures.confusion(percent_KK, [names[number] for number in shown]), caption
    if dataset:
        yield from _mistakes(dataset, sweep, arm, answers)


OF_CLASS = Metric("accuracy", "accuracy on the class", "%", 1)


def _answers(workdir: Path, sweep: Any, arm: Any) -> dict[Any, tuple[np.ndarray, ...]]:
    """Finished run of an arm -> true classes, answers and their probabilities, [N] each; UserError for other arrays."""
    from mnet_jax import results
    from mnet_jax.arms import arm_config

    names = [f"{results.PER_IMAGE}{name}" for name in ("label", "predicted", "confidence")]
    answers = {}
    for run in (run for run in sweep.runs if run.arm == arm.name and results.is_done(workdir, run.name)):
        arrays = results.read_arrays(workdir, run.name)
        if names[0] not in arrays:
            continue
        classes = arm_config(sweep.config, arm).model.num_classes
        answers[run] = label_N, predicted_N, confidence_N = tuple(arrays.get(name, np.zeros(0)) for name in names)
        fits = label_N.shape == predicted_N.shape == confidence_N.shape and label_N.ndim == 1 and label_N.size
        for array_N in (label_N, predicted_N):
            fits = fits and array_N.dtype == np.int32 and 0 <= array_N.min() <= array_N.max() < classes
        if not fits:
            path = results.run_dir(workdir, run.name) / "arrays.npz"
            raise UserError(
                f"{path}: the answers are not {classes} classes' of the same images; remove the folder to run again"
            )
    return answers


def _dataset(workdir: Path, sweep: Any, arm: Any, run: Any) -> Any:
    """The data that a run of the arm was trained on; None where they are not at hand, as on another machine."""
    from mnet_jax import experiment, results
    from mnet_jax.arms import arm_config

    try:
        dataset = experiment.code_of(workdir, sweep).load_dataset(arm_config(sweep.config, arm).data)
    except UserError:
        return None
    trained_on = results.read_row(workdir, sweep, run)["data"]["fingerprint"]
    return dataset if dataset.fingerprint == trained_on else None


def _mistakes(
    dataset: Any, sweep: Any, arm: Any, answers: Mapping[Any, tuple[np.ndarray, ...]]
) -> Iterator[tuple[str, Any, str]]:
    """The picture of the wrong answers with the highest probability of the arm's first run that has any.

    None where images were skipped (`data.corrupt`), since it is not known which answer is whose then.
    """
    from mnet_jax import figures
    from mnet_jax.arms import arm_config
    from mnet_jax.data import dataset as datasets
    from mnet_jax.data import transforms

    run = next(run for run, (label_N, predicted_N, _) in answers.items() if (label_N != predicted_N).any())
    label_N, predicted_N, confidence_N = answers[run]
    data = arm_config(sweep.config, arm).data
    test = datasets.split(dataset, run.seed, data.train_size, data.holdout).test
    if not np.array_equal(dataset.labels_N[test], label_N):
        return
    wrong = np.flatnonzero(label_N != predicted_N)
    surest = wrong[np.argsort(-confidence_N[wrong], kind="stable")][:MISTAKES]
    images = []
    for place in surest:
        image_HWC = dataset.image(int(test[place]))
        if data.size:
            image_HWC = transforms.center_crop(image_HWC, min(data.size, MISTAKE_PIXELS), 1.0)
        true, answer = dataset.class_names[label_N[place]], dataset.class_names[predicted_N[place]]
        images.append((f"{true} → {answer}, {100 * confidence_N[place]:.0f} %", image_HWC))
    caption = f"Held-out images that {arm.name}, seed {run.seed}, is surest of and gets wrong: class → answer, and the "
    yield "Most confident mistakes", figures.gallery(images), f"{caption}probability of the answer."


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
    per_image=per_image,
    score=score,
    predict=predict,
    pictures=pictures,
)
