"""Every knob once, with its meaning, source and allowed values; what experiment files are written with.

An experiment file defines `get_config(scale)`, usually `at_scale(scale)` with a few lines changed; `sweep(config)`, a
generator of overrides `{"model.project_act": "relu6"}` in the words of the command line; and `claim`, what the paper
says, with the contrasts that decide, as a dict or as a function of the config that returns it.
"""

import ast
import difflib
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from mnet_jax.models.specs import ACTIVATION_NAMES, ACTIVATIONS, NETWORKS, ZOO, fields, resolve


class Knob(NamedTuple):
    """A field of the config.

    `allowed` is a tuple of values, or (low, high) inclusive for numbers, or None for anything of the default's type.
    `traced` fields are numbers that the compiled step takes as arguments, so arms that differ in them share it.
    """

    default: Any
    meaning: str
    allowed: tuple[Any, ...] | None = None
    traced: bool = False


class Range(tuple[float, float]):
    """Inclusive bounds of a number."""

    def __new__(cls, low: float, high: float = float("inf")) -> "Range":
        """Makes the pair."""
        return super().__new__(cls, (low, high))


POSITIVE = Range(1e-30)
COUNT = Range(1)
NONNEGATIVE = Range(0)
FRACTION = Range(0, 1)

KNOBS: Mapping[str, Knob] = {
    "scale": Knob("", "the scale whose setting this is; '' = none"),
    "task": Knob("classification", "what a run does", ("classification", "spiral")),
    "seeds": Knob(12, "seeds 0..n-1 of every arm", COUNT),
    "seeds_until": Knob(
        0.0, "more seeds until every primary 95 % interval is as narrow, in points; 0 = off", NONNEGATIVE
    ),
    "seeds_max": Knob(100, "and no more than these", COUNT),
    "runs_per_job": Knob(
        0, "runs that one process trains in one program; 0 = one on a CPU, else as many as fit", NONNEGATIVE
    ),
    "analysis": Knob(False, "measure dead filters and active channels of the trained net (mnet_jax/analysis)"),
    # The network; the papers' values.
    "model.name": Knob("mobilenet_v2", "a row of models/specs.py, or of the zoo", (*NETWORKS, *ZOO)),
    "model.width": Knob(1.0, "width multiplier alpha (V1 3.3)", POSITIVE),
    "model.in_channels": Knob(3, "channels of the images", COUNT),
    "model.num_classes": Knob(1000, "outputs of the classifier", Range(2)),
    "model.blocks": Knob((), "rows (t, c, n, s) for V2, (c, n, s) for V1; () = the named network's"),
    "model.stem": Knob((), "(channels, stride) of the first convolution; () = the named network's"),
    "model.last": Knob(-1, "channels of the last 1x1 convolution; 0 = none, -1 = the named network's", Range(-1)),
    "model.divisor": Knob(0, "channels are multiples of this; 8 = the papers', 0 = the named network's", NONNEGATIVE),
    "model.groups": Knob(3, "of ShuffleNet's 1x1 convolutions (Zhang et al. 2018, Table 1)", (1, 2, 3, 4, 8)),
    "model.kernel_size": Knob(3, "depthwise kernel", (1, 3, 5, 7, 9)),
    "model.conv": Knob("depthwise", "full = a dense convolution in its place (V1 Table 4)", ("depthwise", "full")),
    "model.depth": Knob(
        "full", "shallow = without the repeats of V1's longest stage (V1 Table 5)", ("full", "shallow")
    ),
    "model.expansion": Knob(0, "t of every V2 block that expands; 0 = the rows'", NONNEGATIVE),
    "model.project_act": Knob("linear", "after V2's projection (V2 Fig. 6a)", tuple(ACTIVATIONS), traced=True),
    "model.shortcut": Knob("bottleneck", "what V2's shortcuts join (V2 Fig. 6b)", ("bottleneck", "expansion", "none")),
    "model.act": Knob("relu6", "activation everywhere else", ACTIVATION_NAMES),
    "model.block": Knob("", "name in models.build's `blocks` of the class for all blocks of V1 or V2; '' = stock"),
    "model.padding": Knob("same", "same = TensorFlow's, symmetric = PyTorch's", ("same", "symmetric")),
    "model.init": Knob(
        "released", "released = truncated normal 0.09; he = He normal, for small nets", ("released", "he")
    ),
    "model.dropout": Knob(0.2, "before the classifier (released V2 code)", Range(0, 0.99)),
    "model.split": Knob(1, "V2's blocks evaluate their expansion in this many parts (V2 5.1), to save memory", COUNT),
    "model.formulation": Knob(
        "auto", "of convolutions and norms: auto = the platform's fastest", ("auto", "lax", "shift", "native", "pallas")
    ),
    "model.dtype": Knob("float32", "of convolutions and feature maps; all else is float32", ("float32", "bfloat16")),
    "model.act_bits": Knob(
        0, "feature maps after a norm are rounded to this many bits (Jacob et al. 2018, 3); 0 = they are not", (0, 4, 8)
    ),
    "model.norm.momentum": Knob(0.997, "decay of BatchNorm's running statistics (released V2 code)", FRACTION),
    "model.norm.eps": Knob(1e-3, "added to BatchNorm's variance (released V2 code)", POSITIVE),
    "model.norm.group": Knob(
        96, "images whose statistics are shared (V2 6.1: 96 a worker); 0 = the batch", NONNEGATIVE
    ),
    # The data.
    "data.source": Knob("digits", "the data set: digits, fashion_mnist, cifar10, or what `data.prepare` has prepared"),
    "data.dir": Knob("", "folder of the data sets; '' = $MNET_DATA_DIR or ~/.cache/mnet_jax"),
    "data.train_split": Knob("train", "of prepared data, in TFDS's words: train, train[:90%]"),
    "data.test_split": Knob("", "'' = test, or validation where that has no labels"),
    "data.train_size": Knob(0, "training images, drawn by the seed; 0 = all", NONNEGATIVE),
    "data.holdout": Knob(0, "images cut from the training set to score on; 0 = the test set", NONNEGATIVE),
    "data.size": Knob(0, "pixels a side that the host crops to; 0 = small images stay as they are", NONNEGATIVE),
    "data.area": Knob((0.08, 1.0), "share of an image that a training crop keeps (Szegedy et al. 2015; V1: not small)"),
    "data.aspect": Knob((3 / 4, 4 / 3), "width / height of that part"),
    "data.eval_crop": Knob(0.875, "share of the short side that the central square keeps to evaluate", Range(0.01, 1)),
    "data.randaugment": Knob((0, 9), "(operations, magnitude of 10) (Cubuk et al. 2020: 2, 9); size > 0 only"),
    "data.corrupt": Knob("error", "an image that cannot be read: error = stop, skip = count it", ("error", "skip")),
    "data.threads": Knob(0, "that read and crop; 0 = one a core", NONNEGATIVE),
    "data.workers": Knob(0, "processes with so many threads each; 0 = this one", NONNEGATIVE),
    "data.resolution": Knob(0, "height and width that images are resized to (V1 3.4); 0 = as they are", NONNEGATIVE),
    "data.shift": Knob(0, "augmentation: shift by at most this many pixels", Range(0, 16)),
    "data.flip": Knob(False, "augmentation: mirror half of the images"),
    "data.jitter": Knob(0.0, "augmentation: brightness, contrast, saturation times 1 -/+ this", FRACTION),
    "data.erase": Knob(0.0, "augmentation: share of images with a rectangle erased (Zhong et al. 2017)", FRACTION),
    "data.mixup": Knob(0.0, "averages two images by Beta(a, a) (Zhang et al. 2018: 0.2); 0 = off", NONNEGATIVE),
    "data.cutmix": Knob(0.0, "pastes a part of another image by Beta(a, a) (Yun et al. 2019: 1); 0 = off", NONNEGATIVE),
    # The training; V2 section 6.1 and the released recipe.
    "train.epochs": Knob(300, "passes over the training images", COUNT),
    "train.batch_size": Knob(1536, "images a step over all devices (V2 6.1: 16 x 96)", COUNT),
    "train.label_smoothing": Knob(0.1, "(released V2 recipe)", Range(0, 0.99)),
    "train.ema": Knob(0.9999, "decay of the averaged weights, which are then evaluated; 0 = off", Range(0, 0.999999)),
    "train.eval_every": Knob(10, "epochs between evaluations; the last epoch always has one", COUNT),
    "train.checkpoint_seconds": Knob(60.0, "between checkpoints", NONNEGATIVE),
    "train.hang_seconds": Knob(3600.0, "without progress after which a worker is killed; 0 = never", NONNEGATIVE),
    "optim.name": Knob("rmsprop", "rmsprop is TensorFlow's (V2 6.1)", ("rmsprop", "sgd", "adamw")),
    "optim.lr": Knob(0.045, "learning rate at the start, or after the warm-up (V2 6.1)", Range(0), traced=True),
    "optim.momentum": Knob(0.9, "(V2 6.1); beta1 of AdamW", Range(0, 0.9999)),
    "optim.nesterov": Knob(False, "Nesterov's momentum (sgd)"),
    "optim.decay": Knob(0.9, "of RMSProp's accumulator (V2 6.1); beta2 of AdamW", Range(0, 0.99999)),
    "optim.eps": Knob(1.0, "inside RMSProp's root (released V2 code); beside it in AdamW", POSITIVE),
    "optim.schedule": Knob("exponential", "of the learning rate", ("exponential", "cosine", "constant")),
    "optim.warmup": Knob(0.0, "linear, as a share of the training", FRACTION),
    "optim.decay_rate": Knob(0.98, "of the exponential schedule (V2 6.1)", FRACTION),
    "optim.decay_epochs": Knob(1.0, "epochs between its steps (V2 6.1)", POSITIVE),
    "optim.weight_decay": Knob(4e-5, "(V2 6.1), L2 of the weights; decoupled in AdamW", NONNEGATIVE, traced=True),
    "optim.decay_depthwise": Knob(False, "weight decay on depthwise filters (V1 3.2: little or none)"),
    "optim.decay_bias": Knob(False, "weight decay on the classifier's bias"),
    "optim.decay_norm": Knob(False, "weight decay on BatchNorm's scale and bias"),
    # Tuning of the learning rate.
    "tune.lrs": Knob((0.1, 0.3, 0.6, 1.0), "the grid of `--mode tune`"),
    "tune.seeds": Knob(3, "tuning seeds of every arm and rate, disjoint from the reported ones", COUNT),
    "tune.holdout": Knob(5000, "images cut from the training set for them", COUNT),
    # V2 Figure 1.
    "spiral.dim": Knob(2, "dimension that the spiral is embedded in", COUNT),
    "spiral.points": Knob(1000, "points on the spiral", Range(2)),
    "spiral.act": Knob("relu", "the activation there", tuple(ACTIVATIONS)),
}

TUNING_SEED = 10_000
"""Tuning runs have the seeds from here on, reported ones those from 0: they never meet."""

HOW = (
    *("runs_per_job", "analysis", "data.dir", "data.threads", "data.workers"),
    *("train.checkpoint_seconds", "train.hang_seconds"),
)
"""Fields that change how and where runs are made, and nothing else."""

NOT_PROGRAM = ("scale", "seeds", "tune.", *HOW)
"""Fields that change which runs are made, or where, but not what one of them computes."""


def default() -> ConfigDict:
    """The papers' MobileNetV2 recipe as a locked ConfigDict: `cfg.model.width = 0.75` works, `cfg.widht = 1` not."""
    config = ConfigDict()
    for name, knob in KNOBS.items():
        *path, leaf = name.split(".")
        node = config
        for part in path:
            if part not in node:
                node[part] = ConfigDict()
            node = node[part]
        node[leaf] = knob.default
    return config.lock()


def flatten(config: ConfigDict) -> dict[str, Any]:
    """{"model.width": 1.0, ...} in the order of `KNOBS`."""
    return {name: _read(config, name) for name in KNOBS}


def unflatten(flat: Mapping[str, Any]) -> ConfigDict:
    """The inverse of `flatten`; lists (from JSON) become tuples."""
    config = default()
    override(config, flat)
    return config


def override(config: ConfigDict, overrides: Mapping[str, Any], where: str = "config") -> None:
    """Sets dotted keys, from the command line (strings) and from sweep rows (values) alike.

    Raises ValueError for an unknown key, with the nearest one; for a value of the wrong type or out of range, with what
    is allowed. `where` says in the message who asked.
    """
    for name, value in overrides.items():
        if name not in KNOBS:
            raise ValueError(f"{where}: no such field {name!r}{_nearest(name, KNOBS)}")
        *path, leaf = name.split(".")
        node = config
        for part in path:
            node = node[part]
        node[leaf] = _coerce(name, value, where)


def check(config: ConfigDict, where: str = "config") -> None:
    """Refuses impossible values and combinations with a ValueError that shows what came and what is allowed."""
    flat = {name: _coerce(name, value, where) for name, value in flatten(config).items()}
    if flat["seeds_until"] and not 2 <= flat["seeds"] <= flat["seeds_max"]:
        raise ValueError(
            f"{where}: seeds={flat['seeds']} and seeds_max={flat['seeds_max']}; with seeds_until allowed: at least 2, "
            "for they give the spread, and at most seeds_max"
        )
    batch, group = flat["train.batch_size"], flat["model.norm.group"]
    if flat["task"] == "classification":
        read = {f"model.{field}" for field in fields(flat["model.name"])}
        for knob in (name for name in KNOBS if name.startswith("model.") and name not in read):
            if flat[knob] != KNOBS[knob].default:
                raise ValueError(
                    f"{where}: {knob}={flat[knob]!r} means nothing to {flat['model.name']}; "
                    f"allowed: the default {KNOBS[knob].default!r}"
                )
        if group and batch % group:
            raise ValueError(
                f"{where}: model.norm.group={group} does not divide train.batch_size={batch}; "
                "allowed: a divisor of it, or 0 for the whole batch"
            )
        if not any(flat["tune.lrs"]) or not all(isinstance(lr, int | float) and lr > 0 for lr in flat["tune.lrs"]):
            raise ValueError(f"{where}: tune.lrs={flat['tune.lrs']!r}; allowed: a tuple of positive numbers")
        for name, (low, high) in {"data.area": (0, 1), "data.aspect": (0.1, 10), "data.randaugment": (0, 10)}.items():
            pair = flat[name]
            if len(pair) != 2 or not all(isinstance(x, int | float) and low <= x <= high for x in pair):
                raise ValueError(f"{where}: {name}={pair!r}; allowed: a pair of numbers from {low} to {high}")
        if flat["data.randaugment"][0] and not flat["data.size"]:
            raise ValueError(f"{where}: data.randaugment works on the host: set data.size, the side of its crops")
        stem = flat["model.stem"]
        if stem and not (len(stem) == 2 and all(isinstance(entry, int) and entry > 0 for entry in stem)):
            raise ValueError(f"{where}: model.stem={stem!r}; allowed: (channels, stride), or () for the network's own")
        try:
            resolve(config.model)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None


def experiment_error(error: Exception, where: str) -> ValueError:
    """What a ConfigDict raises on a misspelt field or a wrong type in an experiment file, as one clear ValueError."""
    text = " ".join(str(error.args[0] if error.args else error).split())
    if unknown := re.search(r'Key "(\w+)" does not exist', text) or re.fullmatch(r"['\"]*(\w+)['\"]*", text):
        return ValueError(f"{where}: no such field {unknown[1]!r}{_nearest(unknown[1], KNOBS)}")
    return ValueError(f"{where}: {text}")


def static(config: ConfigDict) -> dict[str, Any]:
    """The fields that fix the compiled program: runs that agree in them share one."""
    return {
        name: value
        for name, value in flatten(config).items()
        if not KNOBS[name].traced and not name.startswith(NOT_PROGRAM)
    }


class Knobs(NamedTuple):
    """The traced fields, as the compiled step takes them: numbers, or arrays of S of them."""

    lr: Any
    weight_decay: Any
    project_act: tuple[Any, Any]


def knobs(config: ConfigDict) -> Knobs:
    return Knobs(config.optim.lr, config.optim.weight_decay, ACTIVATIONS[config.model.project_act])


# What experiment files are written with.


def greater(better: str, worse: str, published: float | None = None) -> dict[str, Any]:
    """Contrast "the metric of `better` exceeds that of `worse`"; `published` is the paper's difference in points."""
    return {"kind": "greater", "arms": (better, worse), "published": published}


def equivalent(a: str, b: str, margin: float, published: float | None = None) -> dict[str, Any]:
    """Contrast "arms `a` and `b` differ by less than `margin` points"."""
    return {"kind": "equivalent", "arms": (a, b), "margin": margin, "published": published}


def trend(arms: Sequence[str], x: Sequence[float], sign: int = 1, published: float | None = None) -> dict[str, Any]:
    """Contrast "the metric grows (`sign` 1) or falls (-1) with `x` over these arms"."""
    return {"kind": "trend", "arms": tuple(arms), "x": tuple(x), "sign": sign, "published": published}


def interaction(
    pairs: Sequence[tuple[str, str]], x: Sequence[float], sign: int = 1, published: float | None = None
) -> dict[str, Any]:
    """Contrast "the first arm's lead over the second grows (`sign` 1) or shrinks (-1) with `x` over these pairs"."""
    arms = tuple(arm for pair in pairs for arm in pair)
    return {"kind": "interaction", "arms": arms, "x": tuple(x), "sign": sign, "published": published}


def tuned(
    arms: Mapping[str, Mapping[str, Any]], rates: Mapping[str, Mapping[str, float] | float], config: ConfigDict
) -> Iterator[dict[str, Any]]:
    """Yields the sweep rows of named arms, each at its learning rate in `rates[scale]`, or else at the config's.

    A number in the place of the arms' rates is that of all.
    """
    of_scale = rates.get(config.scale, {})
    for name, overrides in arms.items():
        lr = of_scale.get(name, config.optim.lr) if isinstance(of_scale, Mapping) else of_scale
        yield {"name": name, **overrides, "optim.lr": lr}


def at_resolution(config: ConfigDict, pixels: int) -> dict[str, int]:
    """The override that makes the images `pixels` high and wide: crops of large ones, small ones resized."""
    return {"data.size" if config.data.size else "data.resolution": pixels}


def multipliers(
    config: ConfigDict, widths: Sequence[float], resolutions: Sequence[int]
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Arms "width@resolution" of every pair, both ascending, and what a claim says of them.

    The claim's trends are those of width at the highest resolution and of resolution at the largest width, each against
    2 log2 of it: multiply-adds go with the square of either (Howard et al. 2017, equation 7), so that a slope is in
    points for each doubling of them. Its curve is a line for each resolution.
    """

    def name(width: float, resolution: int) -> str:
        return f"{width:g}@{resolution}"

    arms = {
        name(width, resolution): {"model.width": width, **at_resolution(config, resolution)}
        for resolution in reversed(resolutions)
        for width in reversed(widths)
    }
    by_resolution = {resolution: [name(width, resolution) for width in widths] for resolution in resolutions}
    by_width = [name(widths[-1], resolution) for resolution in resolutions]
    contrasts = (
        trend(by_resolution[resolutions[-1]], [2 * math.log2(width) for width in widths]),
        trend(by_width, [2 * math.log2(resolution) for resolution in resolutions]),
    )
    series = {f"resolution {resolution}": members for resolution, members in by_resolution.items()}
    return arms, {"contrasts": contrasts, "curve": {"x": "madds", "points": {}, "series": series}}


def rows(config: ConfigDict) -> tuple[tuple[Any, ...], ...]:
    """The rows of the named network, to make `model.blocks` from."""
    return NETWORKS[config.model.name].blocks


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
    "imagenet": Scale(_imagenet, "mobilenet_v1", "mobilenet_v2"),
}


def at_scale(scale: str, family: str = "v2", only: Sequence[str] = tuple(SCALES)) -> ConfigDict:
    """The setting of a scale: data, network of the `family` ("v1" or "v2") and recipe.

    But for imagenet the recipe is a short one: SGD with Nesterov's momentum, 10 % warm-up and a cosine to zero; weight
    decay on dense weights only; He initialisation; no label smoothing, averaging or dropout. A scale that is not one
    of `only` is a ValueError.
    """
    if scale not in only:
        raise ValueError(f"no scale {scale!r}{_nearest(scale, dict.fromkeys(only))}; allowed: {', '.join(only)}")
    config = default()
    SCALES[scale].set(config)
    if scale == "imagenet" and family == "v1":
        _imagenet_v1(config)
    config.model.name = getattr(SCALES[scale], family)
    config.scale = scale
    return config


def _read(config: ConfigDict, name: str) -> Any:
    node = config
    for part in name.split("."):
        node = node[part]
    return node


def _nearest(name: str, names: Mapping[str, Any]) -> str:
    leaves = {known.split(".")[-1]: known for known in names}
    close = difflib.get_close_matches(name, names, n=1) or [
        leaves[leaf] for leaf in difflib.get_close_matches(name.split(".")[-1], leaves, n=1)
    ]
    return f"; did you mean {close[0]!r}?" if close else ""


def _coerce(name: str, value: Any, where: str) -> Any:
    knob = KNOBS[name]
    kind = type(knob.default)
    given = value
    if isinstance(value, str) and kind is not str:
        try:
            value = ast.literal_eval(value.capitalize() if kind is bool else value)
        except (ValueError, SyntaxError):
            raise ValueError(f"{where}: {name}={given!r} is not {_ALLOWED_KIND[kind]}") from None
    if kind is float and type(value) is int:
        value = float(value)
    if kind is tuple and isinstance(value, list | tuple):
        value = tuple(tuple(entry) if isinstance(entry, list | tuple) else entry for entry in value)
    if type(value) is not kind:
        raise ValueError(f"{where}: {name}={given!r} is not {_ALLOWED_KIND[kind]}")
    if isinstance(knob.allowed, Range):
        low, high = knob.allowed
        if not low <= value <= high:
            bounds = f"from {low:g} to {high:g}" if high < float("inf") else f"at least {low:g}"
            raise ValueError(f"{where}: {name}={given!r}; allowed: {bounds}")
    elif knob.allowed is not None and value not in knob.allowed:
        near = _nearest(str(value), dict.fromkeys(map(str, knob.allowed)))
        raise ValueError(f"{where}: {name}={given!r}{near}; allowed: {', '.join(map(repr, knob.allowed))}")
    return value


_ALLOWED_KIND = {
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    str: "a word",
    tuple: "a tuple, such as '(1, 2)'",
}
