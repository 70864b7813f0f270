"""Every field of the config once, with its default (the papers' value), meaning, source and allowed values."""

from collections.abc import Mapping

from mnet_jax.fields import COUNT, FRACTION, NONNEGATIVE, POSITIVE, Field, Range
from mnet_jax.flags import MAX_RESOLUTION
from mnet_jax.models.specs import ACTIVATION_NAMES, ACTIVATIONS, MOST_CHANNELS, NETWORKS, ZOO
from mnet_jax.tasks import TASKS

SEEDS = Range(1, 9_999)
"""Below `TUNING_SEED`, so that reported and tuning seeds never meet."""

PIXELS = Range(0, MAX_RESOLUTION)
PROCESSES = Range(0, 1024)

_COMMON: Mapping[str, Field] = {
    "scale": Field("", "the scale whose setting this is; '' = none"),
    "task": Field(
        "classification",
        "what a run does: classification, attributes, embedding, segmentation, detection, spiral, or the file's own",
    ),
    "seeds": Field(12, "seeds 0..n-1 of every arm", SEEDS),
    "seeds_until": Field(
        0.0, "more seeds until every primary 95 % interval is as narrow, in points; 0 = off", NONNEGATIVE
    ),
    "seeds_max": Field(100, "upper limit of `seeds_until`", SEEDS),
    "runs_per_job": Field(
        0, "runs that one process trains in one program; 0 = one on a CPU, else as many as fit", NONNEGATIVE
    ),
    "analysis": Field(False, "measure dead filters and active channels of the trained net (mnet_jax/analysis)"),
    # The network; the papers' values.
    "model.name": Field("mobilenet_v2", "a row of models/specs.py, or of the zoo", (*NETWORKS, *ZOO)),
    "model.width": Field(1.0, "width multiplier alpha (V1 3.3)", Range(1e-3, 100)),
    "model.in_channels": Field(3, "channels of the images; 0 = those of the data", Range(0, MOST_CHANNELS)),
    "model.num_classes": Field(1000, "outputs of the classifier; 0 = the classes of the data", Range(0, MOST_CHANNELS)),
    "model.blocks": Field(
        (),
        "rows (t, c, n, s) for V2, (c, n, s) for V1, (kernel, expanded, c, squeeze, act, s) for V3; () = the network's",
    ),
    "model.block": Field("", "name in an experiment's `blocks` of the class for all blocks of V1 or V2; '' = stock"),
    "model.stem": Field((), "(channels, stride) of the first convolution; () = the named network's"),
    "model.last": Field(
        -1, "channels of the last 1x1 convolution; 0 = none, -1 = the named network's", Range(-1, MOST_CHANNELS)
    ),
    "model.divisor": Field(
        0, "channels are multiples of this; 8 = the papers', 0 = the named network's", Range(0, 1024)
    ),
    "model.groups": Field(3, "of ShuffleNet's 1x1 convolutions (Zhang et al. 2018, Table 1)", (1, 2, 3, 4, 8)),
    "model.kernel_size": Field(3, "depthwise kernel", (1, 3, 5, 7, 9)),
    "model.conv": Field("depthwise", "full = a dense convolution in its place (V1 Table 4)", ("depthwise", "full")),
    "model.output_stride": Field(
        0,
        "pixels of the image a side for each of the last feature map's (V2 6.3); 0 = the named network's",
        NONNEGATIVE,
    ),
    "model.atrous": Field(True, "dilate the kernels behind a stride that `model.output_stride` drops (V2 6.3)"),
    "model.depth": Field(
        "full", "shallow = without the repeats of V1's longest stage (V1 Table 5)", ("full", "shallow")
    ),
    "model.expansion": Field(0, "t of every V2 block that expands; 0 = the rows'", Range(0, 100)),
    "model.project_act": Field(
        "linear", "after V2's projection (V2 Fig. 6a)", tuple(ACTIVATIONS), traced=ACTIVATIONS.__getitem__
    ),
    "model.shortcut": Field("bottleneck", "what V2's shortcuts join (V2 Fig. 6b)", ("bottleneck", "expansion", "none")),
    "model.act": Field("relu6", "activation everywhere else", ACTIVATION_NAMES),
    "model.padding": Field("same", "same = TensorFlow's, symmetric = PyTorch's", ("same", "symmetric")),
    "model.init": Field(
        "released", "released = truncated normal 0.09; he = He normal, for small nets", ("released", "he")
    ),
    "model.dropout": Field(0.2, "before the classifier (released V2 code)", Range(0, 0.99)),
    "model.split": Field(
        1, "V2's blocks evaluate their expansion in this many parts (V2 5.1), to save memory", Range(1, 1024)
    ),
    "model.formulation": Field(
        "auto", "of convolutions and norms: auto = the platform's fastest", ("auto", "lax", "shift", "native", "pallas")
    ),
    "model.dtype": Field("float32", "of convolutions and feature maps; all else is float32", ("float32", "bfloat16")),
    "model.act_bits": Field(
        0, "feature maps after a norm are rounded to this many bits (Jacob et al. 2018, 3); 0 = they are not", (0, 4, 8)
    ),
    "model.norm.momentum": Field(0.997, "decay of BatchNorm's running statistics (released V2 code)", FRACTION),
    "model.norm.eps": Field(1e-3, "added to BatchNorm's variance (released V2 code)", POSITIVE),
    "model.norm.group": Field(
        96,
        "images whose statistics are shared (V2 6.1: 96 a worker), a divisor of the batch; 0 = the batch",
        NONNEGATIVE,
    ),
    # The data.
    "data.source": Field(
        "digits", "the data set: digits, scenes, fashion_mnist, cifar10, or what `data.prepare` has prepared"
    ),
    "data.dir": Field("", "folder of the data sets; '' = $MNET_DATA_DIR or ~/.cache/mnet_jax"),
    "data.train_split": Field("train", "of prepared data, in TFDS's words: train, train[:90%]"),
    "data.test_split": Field("", "'' = test, or validation where that has no labels"),
    "data.train_size": Field(0, "training images, drawn by the seed; 0 = all", NONNEGATIVE),
    "data.unseen_classes": Field(
        0, "the last classes, so many, are not trained on and are all that is tested on; 0 = none", NONNEGATIVE
    ),
    "data.noisy_size": Field(
        0, "more training images, drawn by the seed, whose labels may be wrong (V1 4.3); 0 = none", NONNEGATIVE
    ),
    "data.label_noise": Field(
        0.0, "share of them with a wrong label, of any other class (Patrini et al. 2017)", FRACTION
    ),
    "data.train_on": Field(
        "clean",
        "the `train_size` images with right labels, the `noisy_size` others, or both",
        ("clean", "noisy", "pooled"),
    ),
    "data.holdout": Field(0, "images cut from the training set to score on; 0 = the test set", NONNEGATIVE),
    "data.size": Field(0, "pixels a side that the host crops to; 0 = small images stay as they are", PIXELS),
    "data.area": Field(
        (0.08, 1.0), "share of an image that a training crop keeps (Szegedy et al. 2015; V1: not small)"
    ),
    "data.aspect": Field((3 / 4, 4 / 3), "width / height of that part"),
    "data.eval_crop": Field(0.875, "share of the short side that the central square keeps to evaluate", Range(0.01, 1)),
    "data.randaugment": Field(
        (0, 9), "(operations, magnitude, 10 the strongest) (Cubuk et al. 2020: 2, 9); size > 0 only"
    ),
    "data.corrupt": Field(
        "error",
        "an image that cannot be read, or a box not in its image: error = stop, skip = count it",
        ("error", "skip"),
    ),
    "data.targets": Field(
        "", "read of a folder that has several; '' = the first of them", ("", "masks", "boxes", "attributes")
    ),
    "data.threads": Field(0, "decoding threads of each process; 0 = one for each core", PROCESSES),
    "data.workers": Field(0, "processes that decode; 0 = the training process does", PROCESSES),
    "data.resolution": Field(0, "height and width that images are resized to (V1 3.4); 0 = as they are", PIXELS),
    "data.shift": Field(0, "augmentation: shift by at most this many pixels", Range(0, 16)),
    "data.flip": Field(False, "augmentation: mirror half of the images"),
    "data.jitter": Field(0.0, "augmentation: brightness, contrast, saturation times 1 -/+ this", FRACTION),
    "data.erase": Field(0.0, "augmentation: share of images with a rectangle erased (Zhong et al. 2017)", FRACTION),
    "data.mixup": Field(0.0, "averages two images by Beta(a, a) (Zhang et al. 2018: 0.2); 0 = off", NONNEGATIVE),
    "data.cutmix": Field(
        0.0, "pastes a part of another image by Beta(a, a) (Yun et al. 2019: 1); 0 = off", NONNEGATIVE
    ),
    # The training; V2 section 6.1 and the released recipe.
    "train.epochs": Field(300, "passes over the training images", COUNT),
    "train.batch_size": Field(1536, "images a step over all devices (V2 6.1: 16 x 96)", COUNT),
    "train.label_smoothing": Field(0.1, "(released V2 recipe)", Range(0, 0.99)),
    "train.ema": Field(
        0.9999, "decay of averaged weights and norm statistics, which are then evaluated; 0 = off", Range(0, 0.999999)
    ),
    "train.eval_every": Field(10, "epochs between evaluations; the last epoch always has one", COUNT),
    "train.init_from": Field("", "arm of this sweep, or weights file, that a run's weights start from; '' = drawn"),
    "train.init_match": Field(
        "all", "weights taken from `init_from`: all of them, or those that fit by name and shape", ("all", "fitting")
    ),
    "train.teacher": Field("", "arm of this sweep, or weights file, whose outputs the loss also sees; '' = none"),
    "train.checkpoint_seconds": Field(60.0, "between checkpoints", NONNEGATIVE),
    "train.hang_seconds": Field(3600.0, "without progress after which a worker is killed; 0 = never", NONNEGATIVE),
    "optim.name": Field("rmsprop", "rmsprop is TensorFlow's (V2 6.1)", ("rmsprop", "sgd", "adamw")),
    "optim.lr": Field(0.045, "learning rate at the start, or after the warm-up (V2 6.1)", Range(0, 1e38), traced=True),
    "optim.momentum": Field(0.9, "(V2 6.1); beta1 of AdamW", Range(0, 0.9999)),
    "optim.nesterov": Field(False, "Nesterov's momentum (sgd)"),
    "optim.decay": Field(0.9, "of RMSProp's accumulator (V2 6.1); beta2 of AdamW", Range(0, 0.99999)),
    "optim.eps": Field(1.0, "inside RMSProp's root (released V2 code); beside it in AdamW", POSITIVE),
    "optim.schedule": Field("exponential", "of the learning rate", ("exponential", "cosine", "constant", "poly")),
    "optim.warmup": Field(0.0, "linear, as a share of the training", FRACTION),
    "optim.decay_rate": Field(0.98, "of the exponential schedule (V2 6.1)", FRACTION),
    "optim.decay_epochs": Field(1.0, "epochs between its steps (V2 6.1)", POSITIVE),
    "optim.weight_decay": Field(4e-5, "(V2 6.1), L2 of the weights; decoupled in AdamW", NONNEGATIVE, traced=True),
    "optim.decay_depthwise": Field(False, "weight decay on depthwise filters (V1 3.2: little or none)"),
    "optim.trainable": Field(
        (), "patterns of the weights that are trained, such as ('classifier.*',); () = all of them"
    ),
    # Tuning of the learning rate.
    "tune.lrs": Field((0.1, 0.2, 0.4, 0.8), "the grid that `--mode tune` starts from; rates are added at its edges"),
    "tune.seeds": Field(8, "tuning seeds of every arm and rate, disjoint from the reported ones", SEEDS),
    "tune.holdout": Field(5000, "images cut from the training set for them, where there is a fixed test set", COUNT),
}

FIELDS: dict[str, Field] = {**_COMMON}
for _task in TASKS.values():
    FIELDS.update(_task.fields)

TUNING_SEED = 10_000
"""Tuning runs have the seeds from here on, reported ones those from 0."""

EXECUTION = frozenset(
    {
        *("runs_per_job", "analysis", "data.dir", "data.threads", "data.workers"),
        *("train.checkpoint_seconds", "train.hang_seconds"),
    }
)
"""Fields that change how and where runs are made, and nothing that they compute."""

PLANNING = frozenset(
    {"scale", "seeds", "seeds_until", "seeds_max", *(name for name in FIELDS if name.startswith("tune."))}
)
"""Fields that change which runs are made, but not what one of them computes."""

NOT_PROGRAM = frozenset({*EXECUTION, *PLANNING, "train.init_from", "train.init_match"})
"""Fields that the compiled program does not depend on."""
