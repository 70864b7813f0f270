"""Detection: the boxes and classes of an image's objects, found by a single-shot detector, and COCO's mean AP.

Shape letters: B images, H W their height and width, A anchors, M true boxes of an image, D detections of an image, K
classes with the background, which is class 0 and also fills up the arrays of boxes.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mnet_jax.errors import UserError
from mnet_jax.fields import COUNT, Field, Range, nearest
from mnet_jax.models import specs
from mnet_jax.tasks.base import (
    DENSE_TARGETS_REFUSE,
    TRAIN_LOSS,
    Metric,
    Targets,
    Task,
    check_scale_range,
    refuse_if_set,
)

if TYPE_CHECKING:
    import jax
    from flax import nnx

    from mnet_jax.detection.suppression import Detections
    from mnet_jax.models.heads.ssd import Predictions

HEADS = ("ssdlite", "ssd", "ssd_1x1")

FIELDS = {
    "detection.head": Field(
        "ssdlite", "convolutions of the head: separable 3x3 (V2 6.2), 3x3, or 3x3 with 1x1 predictors", HEADS
    ),
    "detection.taps": Field(
        (), "two or more of the backbone's maps, such as ('block14/expansion', 'head'), the finest first; () = V2 6.2's"
    ),
    "detection.extras": Field(
        (512, 256, 256, 128), "channels of the further maps, each of half the size of the one before (released SSDLite)"
    ),
    "detection.smallest": Field(0.2, "scale of the first map's anchors (Liu et al. 2016, equation 4)", Range(0.01, 1)),
    "detection.largest": Field(0.95, "scale of the last map's anchors (released SSDLite)", Range(0.01, 1)),
    "detection.overlap": Field(0.6, "intersection over union above which one of two detections goes", Range(0.01, 1)),
    "detection.candidates": Field(400, "pairs of anchor and class of an image that suppression looks at", COUNT),
    "detection.random_scale": Field(
        (1.0, 1.0), "smallest and largest size of a training image, in steps of 1/4; larger ones are cut off"
    ),
}

NEGATIVES = 3
"""Background anchors that the loss counts for each matched one, the hardest (Liu et al. 2016, section 2.2).

It is also the least number of them in an image (the released V2 detectors).
"""

MOST = 100
"""Detections of an image (COCO)."""


def metrics(cfg: Any) -> tuple[Metric, ...]:
    """COCO's mean AP, that at an overlap of .5 and of .75; a run that diverged found nothing.

    An evaluation also logs VOC's mean AP, "voc_map", and COCO's AP of each class that occurs, "ap/1" and so on.
    """
    return (
        Metric("coco_map", "mAP", "%", 2, diverged=0.0),
        Metric("ap50", "AP at 0.5", "%", 2, diverged=0.0),
        Metric("ap75", "AP at 0.75", "%", 2, diverged=0.0),
        TRAIN_LOSS,
        Metric("train_class_loss", "training loss of classes", "nats", 3, higher_is_better=False, group="training"),
        Metric("train_box_loss", "training loss of boxes", "", 3, higher_is_better=False, group="training"),
    )


def check(cfg: Any) -> None:
    settings = cfg.detection
    refuse_if_set(cfg, DENSE_TARGETS_REFUSE)
    check_scale_range("detection.random_scale", settings.random_scale)
    if cfg.model.name in specs.ZOO:
        raise UserError(f"model.name={cfg.model.name!r} with task='detection'; allowed: {', '.join(specs.NETWORKS)}")
    if not all(type(channels) is int and channels > 1 for channels in settings.extras):
        raise UserError(f"detection.extras={settings.extras!r}; allowed: a tuple of whole numbers above 1")
    if settings.smallest > settings.largest:
        came = f"detection.smallest={settings.smallest} and detection.largest={settings.largest}"
        raise UserError(f"{came}; allowed: the smaller first")
    _taps(cfg)


def _taps(cfg: Any) -> dict[str, int]:
    """The maps that the head is on, the finest first -> their channels."""
    net = specs.network(cfg.model)
    known = specs.feature_maps(net)
    taps = cfg.detection.taps or _default_taps(net)
    for tap in taps:
        if tap not in known:
            raise UserError(f"detection.taps: no map {tap!r}{nearest(str(tap), known)}; allowed: {', '.join(known)}")
        if "/" in tap and net.split > 1:
            raise UserError(f"model.split={net.split} with a head on {tap}; allowed: 1, which keeps that map whole")
    strides = [known[tap][1] for tap in taps]
    if len(taps) < 2 or strides != sorted(set(strides)):
        came = ", ".join(f"{tap} (stride {stride})" for tap, stride in zip(taps, strides, strict=True))
        raise UserError(f"detection.taps: {came}; allowed: two maps or more, each smaller than the one before")
    return {tap: known[tap][0] for tap in taps}


def _default_taps(net: specs.Network) -> tuple[str, str]:
    """The maps that the released detectors' heads are on: the network's last one, and the last one of twice its size.

    Of V1 that is the output of the block before the last one with a stride (block 11), of V2 and V3 the expansion of
    the block with that stride (V2's block 14).
    """
    strided = max((number for number, block in enumerate(net.blocks, 1) if block.stride > 1), default=1)
    before = f"block{strided}/expansion" if net.family != "v1" else f"block{strided - 1}" if strided > 1 else "stem"
    return before, "head" if net.last else f"block{len(net.blocks)}"


def check_data(cfg: Any, dataset: Any) -> None:
    if "boxes" not in dataset.targets:
        raise UserError(f"task='detection': {dataset.name} has no boxes, only {', '.join(dataset.targets)}")
    if cfg.model.num_classes != dataset.classes:
        raise UserError(f"model.num_classes={cfg.model.num_classes}; {dataset.name} needs {dataset.classes}")


def targets(dataset: Any, cfg: Any) -> Targets:
    """{"boxes"}: float32 [N, M, 4]; {"classes"}: int32 [N, M]; {"ignored"}: bool [N, M], as `Images` has them."""
    given = dataset.targets
    ignored_NM = given.get("ignored", np.zeros(given["classes"].shape, bool))
    return {"boxes": given["boxes"], "classes": given["classes"], "ignored": ignored_NM}


def build(cfg: Any, rngs: "nnx.Rngs") -> "nnx.Module":
    """The backbone without classifier, and the head on some of its maps."""
    from mnet_jax import models
    from mnet_jax.detection import anchors
    from mnet_jax.models import init
    from mnet_jax.models.heads import ssd

    settings, taps = cfg.detection, _taps(cfg)
    backbone = models.structure(cfg.model, until=list(taps)[-1].split("/")[0])
    shapes = anchors.shapes(len(taps) + len(settings.extras), settings.smallest, settings.largest)
    head = ssd.Ssd(
        specs.layer_config(cfg.model),
        settings.head,
        channels=list(taps.values()),
        extras=settings.extras,
        anchors=list(map(len, shapes)),
        classes=cfg.model.num_classes,
    )
    network = ssd.Detector(backbone, head, list(taps))
    init.initialize(network, rngs.params(), cfg.model.init)
    return network


def augment(
    key: "jax.Array",
    images_BHWC: "jax.Array",
    targets: Targets,
    cfg: Any,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> tuple["jax.Array", Targets]:
    """Random size, shift and mirror image of images and boxes alike; what comes in from outside is gray."""
    import jax.numpy as jnp

    from mnet_jax.data import augment

    x_BHWC, places = augment.moved(key, images_BHWC, cfg.data, cfg.detection.random_scale, mean, std)
    boxes_BM4, stay_BM = augment.move_boxes(targets["boxes"], places, *images_BHWC.shape[1:3])
    classes_BM = jnp.where(stay_BM, targets["classes"], 0)
    return x_BHWC, {**targets, "boxes": boxes_BM4, "classes": classes_BM}


def _joined(predictions: "Predictions", cfg: Any) -> tuple["jax.Array", "jax.Array", "jax.Array"]:
    """(logits_BAK, offsets_BA4, anchors_A4) of all maps."""
    import jax.numpy as jnp

    from mnet_jax.detection import anchors

    sizes = [(logits.shape[1], logits.shape[2]) for logits, _ in predictions]
    logits_BAK, offsets_BA4 = (
        jnp.concatenate([part.reshape(len(part), -1, part.shape[-1]) for part in parts], 1)
        for parts in zip(*predictions, strict=True)
    )
    anchors_A4 = anchors.of_maps(sizes, cfg.detection.smallest, cfg.detection.largest)
    return logits_BAK, offsets_BA4, jnp.asarray(anchors_A4, offsets_BA4.dtype)


def loss(
    predictions: "Predictions", targets: Targets, cfg: Any, teacher: Any
) -> tuple["jax.Array", dict[str, "jax.Array"]]:
    """SSD's loss (Liu et al. 2016, equations 1 to 3, as the released MobileNet detectors have it).

    Of the matched anchors and of the hardest `NEGATIVES` others, the sum over the classes of sigmoid cross-entropy, in
    nats; of the matched ones also the smooth L1 distance of the offsets (Girshick 2015, equation 3). Both are divided
    by the number of matched anchors of the batch.
    """
    import jax
    import jax.numpy as jnp
    import optax

    from mnet_jax.detection import boxes, matching

    del teacher
    logits_BAK, offsets_BA4, anchors_A4 = _joined(predictions, cfg)
    true_BM4 = targets["boxes"].astype(anchors_A4.dtype)
    valid_BM = (targets["classes"] > 0) & ~targets["ignored"]
    match = jax.vmap(matching.match, (None, 0, 0))(anchors_A4, true_BM4, valid_BM)
    classes_BA = jnp.where(match.matched_A, jnp.take_along_axis(targets["classes"], match.box_A, 1), 0)
    answers_BA4 = boxes.encode(jnp.take_along_axis(true_BM4, match.box_A[..., None], 1), anchors_A4[None])

    one_hot_BAK = jax.nn.one_hot(classes_BA, logits_BAK.shape[-1], dtype=logits_BAK.dtype)
    class_BA = jnp.sum(optax.sigmoid_binary_cross_entropy(logits_BAK, one_hot_BAK), -1)
    counted_BA = match.matched_A | _hardest(jax.lax.stop_gradient(class_BA), match.matched_A)
    distance_BA4 = jnp.where(match.matched_A[..., None], offsets_BA4 - answers_BA4, 0)
    box_BA = jnp.sum(optax.huber_loss(distance_BA4), -1)

    matches = jnp.maximum(jnp.sum(match.matched_A), 1).astype(class_BA.dtype)
    class_loss = jnp.sum(jnp.where(counted_BA, class_BA, 0)) / matches
    box_loss = jnp.sum(box_BA) / matches
    images = len(logits_BAK)  # parts are sums over the images
    return class_loss + box_loss, {"class_loss": class_loss * images, "box_loss": box_loss * images}


def _hardest(class_BA: "jax.Array", matched_BA: "jax.Array") -> "jax.Array":
    """The unmatched anchors with the largest loss, `NEGATIVES` for each matched one and for each image."""
    import jax.numpy as jnp

    unmatched_BA = jnp.where(matched_BA, -jnp.inf, class_BA)
    anchors = class_BA.shape[1]
    wanted_B = jnp.clip(NEGATIVES * jnp.sum(matched_BA, 1), NEGATIVES, anchors)
    least_B1 = jnp.take_along_axis(jnp.sort(unmatched_BA, 1), anchors - wanted_B[:, None], 1)
    return ~matched_BA & (unmatched_BA >= least_B1)


def _detect(predictions: "Predictions", cfg: Any) -> "Detections":
    """What is found in each image, [B, D, ...] each."""
    import jax

    from mnet_jax.detection import boxes, suppression

    logits_BAK, offsets_BA4, anchors_A4 = _joined(predictions, cfg)
    boxes_BA4 = boxes.decode(offsets_BA4, anchors_A4[None])
    settings = cfg.detection

    def of_image(boxes_A4: "jax.Array", scores_AK: "jax.Array") -> "Detections":
        return suppression.suppress(boxes_A4, scores_AK, settings.overlap, settings.candidates, MOST)

    return jax.vmap(of_image)(boxes_BA4, jax.nn.sigmoid(logits_BAK))


def per_image(predictions: "Predictions", targets: Targets, cfg: Any) -> dict[str, "jax.Array"]:
    """The fields of `average_precision.Images`, [B, ...] each."""
    found = _detect(predictions, cfg)
    return _kept({"boxes": found.boxes_D4, "scores": found.scores_D, "classes": found.classes_D}, targets)


def _kept(found: Mapping[str, Any], targets: Targets) -> dict[str, Any]:
    return {
        "boxes_ND4": found["boxes"],
        "scores_ND": found["scores"],
        "classes_ND": found["classes"],
        "true_boxes_NM4": targets["boxes"],
        "true_classes_NM": targets["classes"],
        "ignored_NM": targets["ignored"],
    }


def score(sums: Mapping[str, Any], kept: Mapping[str, Any], cfg: Any) -> dict[str, float]:
    """COCO's mean AP, AP50 and AP75, VOC's mean AP, and COCO's AP of each class that occurs."""
    from mnet_jax.detection import average_precision

    return dict(average_precision.summary(average_precision.Images(**kept)))


def predict(predictions: "Predictions", cfg: Any) -> dict[str, "jax.Array"]:
    """What is found in each image, the best first; where nothing more is, score and class are 0.

    "boxes": float32 [B, D, 4], (top, left, bottom, right) as shares of the image; "scores": float32 [B, D], from 0 to
    1; "classes": int32 [B, D], numbers in `class_names`.
    """
    import jax.numpy as jnp

    found = _detect(predictions, cfg)
    boxes_BD4 = jnp.clip(found.boxes_D4, 0, 1)
    return {"boxes": boxes_BD4, "scores": found.scores_D, "classes": found.classes_D}


SHOWN_SCORE = 0.3
"""Least score of the detections that are drawn."""


def fit(image_HWC: np.ndarray, side: int) -> np.ndarray:
    """The whole image, whatever its aspect: boxes are shares of it."""
    from mnet_jax.data import transforms

    return transforms.resize_batch(image_HWC[None], side)[0]


def pictures(workdir: Path, sweep: Any) -> Iterator[tuple[str, Any, str]]:
    """AP of each class over the first arm's seeds, and what its seed 0 finds, and misses, in the best and worst images.

    The best and worst are by COCO's mean AP of an image alone.
    """
    from mnet_jax import figures
    from mnet_jax.data import boxes
    from mnet_jax.tasks import shown

    if (arm := shown.first_arm(workdir, sweep)) is None:
        return
    caption = f"COCO's average precision of each class; the seeds of {arm.name} with mean and 95 % t-interval."
    yield "Classes", figures.seeds(arm.by_number("ap", arm.dataset.class_names), Metric("ap", "AP", "%", 1)), caption
    if arm.network is None:
        return
    images_NHWC = arm.dataset.in_memory()[arm.test]
    found = arm.network.predict(images_NHWC)
    truth = {name: array[arm.test] for name, array in targets(arm.dataset, arm.cfg).items()}
    kept = _kept(found, truth)
    alone = [{name: array[[index]] for name, array in kept.items()} for index in range(len(images_NHWC))]
    rows: dict[str, list[np.ndarray]] = {"truth": [], "found": [], "missed": []}
    for index in shown.best_and_worst([score({}, image, arm.cfg)["coco_map"] for image in alone]):
        image_HWC, true_M4, classes_M = images_NHWC[index], truth["boxes"][index], truth["classes"][index]
        found_D4 = found["boxes"][index]
        classes_D = np.where(found["scores"][index] >= SHOWN_SCORE, found["classes"][index], 0)
        rows["truth"].append(boxes.overlay(image_HWC, true_M4, classes_M))
        rows["found"].append(boxes.overlay(image_HWC, found_D4[::-1], classes_D[::-1]))  # the best on top
        rows["missed"].append(boxes.overlay(image_HWC, true_M4, _missed(true_M4, classes_M, found_D4, classes_D)))
    caption = f"{arm.sentence('mean AP')} Found: with a score of {SHOWN_SCORE} or more. Missed: none of these of its "
    caption += "class overlaps it by half. Colors are VOC's palette."
    yield "Boxes", figures.contact_sheet({words: np.stack(drawn) for words, drawn in rows.items()}), caption


def _missed(true_M4: np.ndarray, classes_M: np.ndarray, found_D4: np.ndarray, classes_D: np.ndarray) -> np.ndarray:
    """The classes of the true boxes that no detection of their class overlaps by half, 0 for the others."""
    from mnet_jax.detection.boxes import iou

    fits_MD = (iou(true_M4, found_D4) >= 0.5) & (classes_M[:, None] == classes_D)
    return np.where(fits_MD.any(1), 0, classes_M)


TASK = Task(
    name="detection",
    metrics=metrics,
    fields=FIELDS,
    check=check,
    check_data=check_data,
    targets=targets,
    build=build,
    augment=augment,
    loss=loss,
    per_image=per_image,
    score=score,
    predict=predict,
    fit=fit,
    pictures=pictures,
)
