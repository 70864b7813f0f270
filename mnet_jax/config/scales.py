"""The settings of each scale: data, networks of V1 and V2, and recipe."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from ml_collections import ConfigDict

from mnet_jax.config.settings import default, override
from mnet_jax.errors import UserError
from mnet_jax.fields import nearest


def _short_recipe(config: ConfigDict) -> None:
    """Of every scale but imagenet."""
    override(
        config,
        {
            "model.num_classes": 10,
            "model.padding": "symmetric",
            "model.init": "he",
            "model.dropout": 0.0,
            "model.norm.momentum": 0.9,
            "model.norm.eps": 1e-5,
            "model.norm.group": 0,
            "train.label_smoothing": 0.0,
            "train.ema": 0.0,
            "optim.name": "sgd",
            "optim.nesterov": True,
            "optim.schedule": "cosine",
            "optim.warmup": 0.1,
            "optim.weight_decay": 1e-4,
        },
    )


def _digits(config: ConfigDict) -> None:
    """600 of scikit-learn's digits at 16x16 on a thin 17-block V2: seconds a run, and arms still differ."""
    _short_recipe(config)
    override(
        config,
        {
            "model.in_channels": 1,
            "data.source": "digits",
            "data.train_size": 600,
            "data.shift": 1,
            "train.epochs": 30,
            "train.batch_size": 60,
            "train.eval_every": 6,
            "optim.lr": 0.6,
        },
    )


def _cifar10_quick(config: ConfigDict) -> None:
    """5,000 of CIFAR-10's images on an 8-block V2; the test set whole."""
    _short_recipe(config)
    override(
        config,
        {
            "seeds": 5,
            "data.source": "cifar10",
            "data.train_size": 5000,
            "data.shift": 3,
            "data.flip": True,
            "train.epochs": 15,
            "train.batch_size": 128,
            "train.eval_every": 5,
            "optim.lr": 0.6,
        },
    )


def _fashion_mnist(config: ConfigDict) -> None:
    """5,000 of Fashion-MNIST's images on an 8-block V2; the test set whole."""
    _cifar10_quick(config)
    override(
        config,
        {
            "model.in_channels": 1,
            "data.source": "fashion_mnist",
            "data.shift": 2,
            "train.epochs": 12,
            "train.eval_every": 4,
        },
    )


def _cifar10(config: ConfigDict) -> None:
    """All of CIFAR-10 on a 17-block V2."""
    _cifar10_quick(config)
    override(
        config,
        {
            "data.train_size": 0,
            "train.epochs": 10,
            "train.eval_every": 2,
            "optim.lr": 0.4,
        },
    )


def _photos(config: ConfigDict) -> None:
    """A folder of one's own photographs at 96x96 on a MobileNetV2 of width 0.35; classes are those of the folder.

    With `train.init_from` the weights start from a file as far as they fit, which is fine-tuning.
    """
    _short_recipe(config)
    override(
        config,
        {
            "seeds": 5,
            "model.width": 0.35,
            "model.num_classes": 0,
            "model.in_channels": 0,
            "data.source": "photos",
            "data.size": 96,
            "data.area": (0.25, 1.0),
            "data.flip": True,
            "train.epochs": 30,
            "train.batch_size": 32,
            "train.eval_every": 5,
            "train.init_match": "fitting",
            "optim.lr": 0.1,
        },
    )


def _imagenet(config: ConfigDict) -> None:
    """ImageNet as the papers trained: V2's section 6.1 and the released recipe are the defaults."""
    override(config, {"seeds": 3, "data.source": "imagenet2012", "data.size": 224, "data.flip": True})


def _imagenet_v1(config: ConfigDict) -> None:
    """V1's recipe (section 3.2): RMSProp without label smoothing; what it does not state is the released code's.

    Batch and epochs stand in neither: they are V2's.
    """
    override(
        config,
        {
            "model.norm.momentum": 0.9997,
            "model.dropout": 0.001,
            "train.label_smoothing": 0.0,
            "optim.decay_rate": 0.94,
            "optim.decay_epochs": 2.5,
        },
    )


def _scenes_attributes(config: ConfigDict) -> None:
    """Which digits scenes of 64x64 pixels hold, by AdamW as for masks."""
    _short_recipe(config)
    _adamw(config)
    override(
        config,
        {
            "task": "attributes",
            "seeds": 5,
            "model.in_channels": 1,
            "data.source": "scenes",
            "data.shift": 4,
            "train.epochs": 16,
            "train.batch_size": 32,
            "train.eval_every": 4,
            "optim.lr": 0.02,
            "tune.lrs": (0.005, 0.01, 0.02, 0.04),
            "tune.holdout": 500,
        },
    )


def _adamw(config: ConfigDict) -> None:
    """AdamW with its usual constants."""
    override(
        config,
        {
            "optim.name": "adamw",
            "optim.lr": 0.01,
            "optim.momentum": 0.9,
            "optim.decay": 0.999,
            "optim.eps": 1e-8,
        },
    )


def _scenes_masks(config: ConfigDict) -> None:
    """Masks of digits in scenes of 64x64 pixels on an 8-block V2.

    AdamW, since gradient descent stays at "all is background" for as long; digits are not mirrored, and differ in size.
    """
    _short_recipe(config)
    _adamw(config)
    override(
        config,
        {
            "task": "segmentation",
            "seeds": 5,
            "model.in_channels": 1,
            "model.num_classes": 11,
            "model.output_stride": 8,
            "data.source": "scenes",
            "data.shift": 4,
            "segmentation.channels": 32,
            "segmentation.rates": (2, 3, 4),
            "train.epochs": 16,
            "train.batch_size": 16,
            "train.eval_every": 8,
        },
    )


def _voc_masks(config: ConfigDict) -> None:
    """VOC 2012 as the released DeepLab code trains on it, but for its pretraining on COCO: 30,000 steps."""
    override(
        config,
        {
            "task": "segmentation",
            "seeds": 3,
            "model.num_classes": 21,
            "model.output_stride": 16,
            "model.dropout": 0.1,
            "model.norm.momentum": 0.9997,
            "model.norm.group": 0,
            "data.source": "voc",
            "data.resolution": 513,
            "data.flip": True,
            "segmentation.random_scale": (0.5, 2.0),
            "train.epochs": 330,
            "train.batch_size": 16,
            "train.label_smoothing": 0.0,
            "train.ema": 0.0,
            "optim.name": "sgd",
            "optim.lr": 0.007,
            "optim.schedule": "poly",
        },
    )


def _scenes_boxes(config: ConfigDict) -> None:
    """Boxes of digits in scenes of 64x64 pixels: SSDLite on an 8-block V2, with maps of 16, 8 and 4 pixels a side."""
    _short_recipe(config)
    override(
        config,
        {
            "task": "detection",
            "seeds": 5,
            "model.in_channels": 1,
            "model.num_classes": 11,
            "data.source": "scenes",
            "data.shift": 4,
            "detection.extras": (64,),
            "detection.smallest": 0.25,
            "detection.largest": 0.4,
            "detection.candidates": 200,
            "train.epochs": 10,
            "train.batch_size": 32,
            "train.eval_every": 5,
            "optim.name": "adamw",
            "optim.lr": 0.01,
            "optim.momentum": 0.9,
            "optim.decay": 0.999,
            "optim.eps": 1e-8,
        },
    )


def _bccd(config: ConfigDict) -> None:
    """Blood cells of three kinds in 364 photographs, 160x160, on a 15-block V2 from drawn weights."""
    _scenes_boxes(config)
    override(
        config,
        {
            "model.in_channels": 3,
            "model.num_classes": 4,
            "data.source": "bccd",
            "data.resolution": 160,
            "data.flip": True,
            "data.jitter": 0.2,
            "data.shift": 8,
            "data.corrupt": "skip",
            "detection.extras": (96, 96),
            "detection.smallest": 0.15,
            "detection.largest": 0.4,
            "train.epochs": 60,
            "train.batch_size": 16,
            "train.eval_every": 20,
        },
    )


def _coco_boxes(config: ConfigDict) -> None:
    """COCO 2017 by the recipe of the released SSDLite on V2, at the paper's 320 pixels: 200,000 steps.

    It starts from drawn weights, scales images where the released one cuts out parts by their overlap with a box, and
    has 81 classes where that one has 91.
    """
    override(
        config,
        {
            "task": "detection",
            "seeds": 3,
            "model.num_classes": 81,
            "model.norm.momentum": 0.9997,
            "model.norm.group": 0,
            "data.source": "coco",
            "data.resolution": 320,
            "data.flip": True,
            "data.corrupt": "skip",
            "detection.random_scale": (0.5, 2.0),
            "train.epochs": 41,
            "train.batch_size": 24,
            "train.label_smoothing": 0.0,
            "train.ema": 0.0,
            "optim.lr": 0.004,
            "optim.schedule": "constant",
        },
    )


def _voc_boxes(config: ConfigDict) -> None:
    """VOC 2007 and 2012, 16,551 images, by the same recipe: 120,000 steps."""
    _coco_boxes(config)
    override(
        config,
        {"model.num_classes": 21, "data.source": "voc0712", "data.targets": "boxes", "train.epochs": 174},
    )


class Scale(NamedTuple):
    """How a scale sets the config, and its networks of V1 and V2."""

    set: Callable[[ConfigDict], None]
    v1: str
    v2: str


SCALES: Mapping[str, Scale] = {
    "digits": Scale(_digits, "d13", "d17"),
    "fashion_mnist": Scale(_fashion_mnist, "c13", "c8"),
    "cifar10_quick": Scale(_cifar10_quick, "c13", "c8"),
    "cifar10": Scale(_cifar10, "c13", "c17"),
    "photos": Scale(_photos, "mobilenet_v1", "mobilenet_v2"),
    "imagenet": Scale(_imagenet, "mobilenet_v1", "mobilenet_v2"),
}

TASK_SCALES: Mapping[str, Mapping[str, Scale]] = {
    "classification": SCALES,
    "attributes": {"scenes": Scale(_scenes_attributes, "c13", "c8")},
    "segmentation": {
        "scenes": Scale(_scenes_masks, "c13", "c8"),
        "voc": Scale(_voc_masks, "mobilenet_v1", "mobilenet_v2"),
    },
    "detection": {
        "scenes": Scale(_scenes_boxes, "c13", "c8"),
        "bccd": Scale(_bccd, "c13", "c17"),
        "voc": Scale(_voc_boxes, "mobilenet_v1", "mobilenet_v2"),
        "coco": Scale(_coco_boxes, "mobilenet_v1", "mobilenet_v2"),
    },
}
"""Task -> its scales by name; a task without its own starts from those of classification."""


def at_scale(scale: str, family: str = "v2", only: Sequence[str] = (), task: str = "classification") -> ConfigDict:
    """The setting of a scale: data, network of the `family` ("v1" or "v2") and recipe.

    But for imagenet the recipe is a short one: SGD with Nesterov's momentum, 10 % warm-up and a cosine to zero; weight
    decay on dense weights only; He initialisation; no label smoothing, averaging or dropout. A scale that is not one
    of `only`, () for all of the `task` (of classification, where it has none), is a UserError.
    """
    scales = TASK_SCALES.get(task, SCALES)
    allowed = only or tuple(scales)
    if scale not in allowed:
        raise UserError(f"no scale {scale!r}{nearest(str(scale), allowed)}; allowed: {', '.join(allowed)}")
    config = default()
    scales[scale].set(config)
    if scale == "imagenet" and family == "v1":
        _imagenet_v1(config)
    config.model.name = getattr(scales[scale], family)
    config.scale = scale
    return config
