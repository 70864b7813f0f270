"""Semantic segmentation: the class of every pixel, and mean intersection over union.

Shape letters: B images, H W their height and width, K classes, P pixels. `IGNORED` pixels count nowhere.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mnet_jax.data.masks import IGNORED
from mnet_jax.errors import UserError
from mnet_jax.fields import COUNT, Field
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

HEADS = ("reduced", "aspp", "lr_aspp")

FIELDS = {
    "segmentation.head": Field("reduced", "DeepLab without or with ASPP (V2 6.3), or V3's LR-ASPP", HEADS),
    "segmentation.rates": Field((6, 12, 18), "dilations of ASPP's branches (Chen et al. 2017: at output stride 16)"),
    "segmentation.channels": Field(256, "of each of the head's branches (Chen et al. 2017; LR-ASPP: 128)", COUNT),
    "segmentation.input": Field(
        "blocks",
        "map that the head is on: the last block's (V2 6.3), or the last 1x1 convolution's",
        ("blocks", "last"),
    ),
    "segmentation.scales": Field((1.0,), "sizes of the image in an evaluation, whose probabilities are averaged"),
    "segmentation.mirror": Field(False, "an evaluation also averages over mirror images"),
    "segmentation.random_scale": Field(
        (1.0, 1.0), "smallest and largest size of a training image, in steps of 1/4 (DeepLab: 1/2 to 2)"
    ),
}


def metrics(cfg: Any) -> tuple[Metric, ...]:
    """Mean IOU and pixel accuracy; a diverged run counts as one that guesses among equally frequent classes.

    An evaluation also logs the IOU of each class that occurs, "iou/0" and so on.
    """
    classes = cfg.model.num_classes
    return (
        Metric("mean_iou", "mean IOU", "%", 2, diverged=1 / (2 * classes - 1)),
        Metric("pixel_accuracy", "pixel accuracy", "%", 2, diverged=1 / classes),
        replace(TRAIN_LOSS, diverged=float(np.log(classes))),
        Metric("train_pixel_accuracy", "training pixel accuracy", "%", 2, diverged=1 / classes, group="training"),
    )


def check(cfg: Any) -> None:
    settings = cfg.segmentation
    refuse_if_set(cfg, DENSE_TARGETS_REFUSE)
    if not settings.scales or not all(
        isinstance(scale, int | float) and 0.1 <= scale <= 4 for scale in settings.scales
    ):
        raise UserError(f"segmentation.scales={settings.scales!r}; allowed: a tuple of numbers from 0.1 to 4")
    if not settings.rates or not all(type(rate) is int and rate > 0 for rate in settings.rates):
        raise UserError(f"segmentation.rates={settings.rates!r}; allowed: a tuple of positive whole numbers")
    check_scale_range("segmentation.random_scale", settings.random_scale)
    if cfg.model.name in specs.ZOO:
        raise UserError(f"model.name={cfg.model.name!r} with task='segmentation'; allowed: {', '.join(specs.NETWORKS)}")
    if settings.head == "lr_aspp":
        _earlier(specs.network(cfg.model))


def check_data(cfg: Any, dataset: Any) -> None:
    if "masks" not in dataset.targets:
        raise UserError(f"task='segmentation': {dataset.name} has no masks, only {', '.join(dataset.targets)}")
    if cfg.model.num_classes != dataset.classes:
        raise UserError(f"model.num_classes={cfg.model.num_classes}; {dataset.name} needs {dataset.classes}")


def targets(dataset: Any, cfg: Any) -> Targets:
    """{"masks"}: uint8 [N, H, W], the class of each pixel or `IGNORED`."""
    return {"masks": dataset.targets["masks"]}


def build(cfg: Any, rngs: "nnx.Rngs") -> "nnx.Module":
    """The backbone without classifier, and the head."""
    from mnet_jax import models
    from mnet_jax.models import init
    from mnet_jax.models.heads import deeplab

    settings, net = cfg.segmentation, specs.network(cfg.model)
    backbone = models.structure(cfg.model, until="head" if settings.input == "last" else f"block{len(net.blocks)}")
    earlier, classes = "", cfg.model.num_classes
    if settings.head == "lr_aspp":
        earlier, channels = _earlier(net)
        head = deeplab.LrAspp(net.layer_config, backbone.channels, channels, classes, settings.channels)
    else:
        rates = settings.rates if settings.head == "aspp" else ()
        sizes = backbone.channels, classes, settings.channels
        head = deeplab.DeepLab(net.layer_config, *sizes, rates, cfg.model.dropout)
    network = deeplab.Segmenter(backbone, head, earlier, settings.scales, settings.mirror)
    init.initialize(network, rngs.params(), cfg.model.init)
    return network


def _earlier(net: specs.Network) -> tuple[str, int]:
    """The last block's output of half the network's output stride, and its channels."""
    number = max((index for index, block in enumerate(net.blocks) if block.stride > 1), default=0)
    if not number or net.blocks[number].stride != 2:
        raise UserError("segmentation.head='lr_aspp' needs a feature map of half the output stride before the last one")
    return f"block{number}", net.blocks[number - 1].channels


def augment(
    key: "jax.Array",
    images_BHWC: "jax.Array",
    targets: Targets,
    cfg: Any,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> tuple["jax.Array", Targets]:
    """Random size, shift and mirror image of images and masks alike; what comes in from outside is gray and ignored."""
    from mnet_jax.data import augment

    x_BHWC, places = augment.moved(key, images_BHWC, cfg.data, cfg.segmentation.random_scale, mean, std)
    masks_BHW = augment.move_masks(targets["masks"], places, IGNORED)
    return x_BHWC, {**targets, "masks": masks_BHW}


def loss(
    logits_BHWK: "jax.Array", targets: Targets, cfg: Any, teacher: Any
) -> tuple["jax.Array", dict[str, "jax.Array"]]:
    """Mean cross-entropy in nats over the pixels of the batch that are not ignored.

    Its part is the share of each image's pixels that have the right class.
    """
    import jax.numpy as jnp
    import optax

    del teacher
    masks_BHW = targets["masks"].astype(jnp.int32)
    counts_BHW = masks_BHW != IGNORED
    classes_BHW = jnp.where(counts_BHW, masks_BHW, 0)
    nll_BHW = optax.softmax_cross_entropy_with_integer_labels(logits_BHWK, classes_BHW)
    pixels_B = jnp.sum(counts_BHW, (1, 2)).astype(nll_BHW.dtype)
    value = jnp.sum(jnp.where(counts_BHW, nll_BHW, 0)) / jnp.maximum(jnp.sum(pixels_B), 1)
    right_BHW = counts_BHW & (jnp.argmax(logits_BHWK, -1) == classes_BHW)
    right_B = jnp.sum(right_BHW, (1, 2)).astype(jnp.float32)
    return value, {"pixel_accuracy": jnp.sum(right_B / jnp.maximum(pixels_B.astype(jnp.float32), 1))}


def sums(logits_BHWK: "jax.Array", targets: Targets, mask_B: "jax.Array", cfg: Any) -> dict[str, "jax.Array"]:
    """{"confusion"}: pixels by true and predicted class, int32 [K, K]."""
    import jax
    import jax.numpy as jnp

    classes = logits_BHWK.shape[-1]
    B = len(logits_BHWK)
    true_BPK = jax.nn.one_hot(targets["masks"].reshape(B, -1).astype(jnp.int32), classes)  # none of them for `IGNORED`
    predicted_BPK = jax.nn.one_hot(jnp.argmax(logits_BHWK, -1).reshape(B, -1), classes)
    # Exact in float32: an image has fewer than 2^24 pixels.
    confusion_BKK = jnp.einsum("bpk,bpl->bkl", true_BPK, predicted_BPK, precision="highest").astype(jnp.int32)
    return {"confusion": jnp.sum(jnp.where(mask_B[:, None, None] > 0, confusion_BKK, 0), 0)}


def score(sums: Mapping[str, Any], kept: Mapping[str, Any], cfg: Any) -> dict[str, float]:
    """Mean over the classes that occur, in truth or prediction, of intersection over union; and pixel accuracy."""
    confusion_KK = np.asarray(sums["confusion"], np.float64)
    if not confusion_KK.sum():
        raise UserError("every pixel of the held-out masks is ignored; allowed: masks with pixels of some class")
    shared_K = np.diag(confusion_KK)
    union_K = confusion_KK.sum(0) + confusion_KK.sum(1) - shared_K
    iou = {number: float(shared_K[number] / union_K[number]) for number in np.flatnonzero(union_K).tolist()}
    return {
        "mean_iou": float(np.mean(list(iou.values()))),
        "pixel_accuracy": float(shared_K.sum() / confusion_KK.sum()),
        **{f"iou/{number}": value for number, value in iou.items()},
    }


def predict(logits_BHWK: "jax.Array", cfg: Any) -> dict[str, "jax.Array"]:
    """The most likely class of each pixel, uint8 [B, H, W], and its probability, float32 [B, H, W]."""
    import jax
    import jax.numpy as jnp

    probabilities_BHWK = jax.nn.softmax(logits_BHWK.astype(jnp.float32))
    masks_BHW = jnp.argmax(logits_BHWK, -1).astype(jnp.uint8)
    return {"masks": masks_BHW, "probabilities": jnp.max(probabilities_BHWK, -1)}


def fit(image_HWC: np.ndarray, side: int) -> np.ndarray:
    """The image in the upper left corner of a square, filled up with black."""
    from mnet_jax.data import masks

    return masks.in_corner(image_HWC, side)


def pictures(workdir: Path, sweep: Any) -> Iterator[tuple[str, Any, str]]:
    """Predicted masks of the first arm's seed 0, and the IOU of each class over that arm's seeds."""
    from mnet_jax import figures
    from mnet_jax.data import masks
    from mnet_jax.tasks import shown

    if (arm := shown.first_arm(workdir, sweep)) is None:
        return
    caption = f"Intersection over union of each class; the seeds of {arm.name} with mean and 95 % t-interval."
    yield "Classes", figures.seeds(arm.by_number("iou", arm.dataset.class_names), Metric("iou", "IOU", "%", 1)), caption
    if arm.network is None:
        return
    images_NHWC, truth_NHW = arm.dataset.in_memory()[arm.test], arm.dataset.targets["masks"][arm.test]
    predicted_NHW = arm.network.predict(images_NHWC)["masks"]
    pairs = zip(truth_NHW, predicted_NHW, strict=True)
    chosen = shown.best_and_worst([_image_iou(*pair, arm.dataset.classes) for pair in pairs])
    rows = {
        "image": images_NHWC[chosen],
        "truth": masks.overlay(images_NHWC[chosen], truth_NHW[chosen]),
        "predicted": masks.overlay(images_NHWC[chosen], predicted_NHW[chosen]),
    }
    caption = f"{arm.sentence('mean IOU')} Colors are VOC's palette; white is ignored."
    yield "Masks", figures.contact_sheet(rows), caption


def _image_iou(truth_HW: np.ndarray, predicted_HW: np.ndarray, classes: int) -> float:
    """Mean IOU of one image; 0 where all of it is ignored."""
    counted = truth_HW != IGNORED
    pairs = truth_HW[counted].astype(np.int64) * classes + predicted_HW[counted]
    confusion_KK = np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
    return score({"confusion": confusion_KK}, {}, None)["mean_iou"] if counted.any() else 0.0


TASK = Task(
    name="segmentation",
    metrics=metrics,
    fields=FIELDS,
    check=check,
    check_data=check_data,
    targets=targets,
    build=build,
    augment=augment,
    loss=loss,
    sums=sums,
    score=score,
    predict=predict,
    fit=fit,
    pictures=pictures,
)
