"""What a task is: a record of its metrics, its config fields and the pure functions of one run.

The step, the plan, the cost counter, the report and the benchmark ask the record and never which task it is, so a new
task is one file, here or in an experiment file. Shape letters: B images of a batch, N images of a data set, H W C.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from mnet_jax.errors import UserError
from mnet_jax.fields import Field

if TYPE_CHECKING:
    import jax
    from flax import nnx

Targets = Mapping[str, Any]
"""What the answers are scored against: name -> array whose first axis is that of the images, [B, ...] or [N, ...]."""

Outputs = Any
"""What the network returns first, a pytree of arrays [B, ...]."""


@dataclass(frozen=True)
class Metric:
    """A number that every run of a task ends with.

    `name`              its key in rows, metrics.jsonl and claims, such as "top5_accuracy".
    `title`             what a reader sees, such as "top-5 accuracy".
    `unit`              "%" for fractions, which are stored from 0 to 1, printed times 100, and whose differences are in
                        points; any other unit ("nats", "km", "") is printed behind the number as it is stored.
    `decimals`          digits behind the point in print; None prints three significant digits.
    `higher_is_better`  the direction, for tuning and for words like "best".
    `diverged`          what a run whose loss stopped being finite scores, as stored: the level of guessing. None where
                        such a run has no score.
    `group`             "test" for what is measured on the held-out images, "training" for what is measured on the
                        training images, "inside" for what is measured inside the trained network.
    """

    name: str
    title: str
    unit: str = ""
    decimals: int | None = None
    higher_is_better: bool = True
    diverged: float | None = None
    group: str = "test"

    @property
    def print_factor(self) -> float:
        """What a stored value is multiplied with in print."""
        return 100.0 if self.unit == "%" else 1.0

    @property
    def bounds(self) -> tuple[float, float]:
        """What a printed value lies between."""
        return (0.0, 100.0) if self.unit == "%" else (-math.inf, math.inf)

    @property
    def guessing(self) -> float | None:
        """What guessing scores, in print; None where that is not known."""
        return None if self.diverged is None else self.print_factor * self.diverged

    @property
    def difference_unit(self) -> str:
        """The unit of a difference of two printed values."""
        return "points" if self.unit == "%" else self.unit


def _build(cfg: Any, rngs: "nnx.Rngs") -> "nnx.Module":
    from mnet_jax import models

    return models.build(cfg.model, rngs)


def _augment(
    key: "jax.Array",
    images_BHWC: "jax.Array",
    targets: Targets,
    cfg: Any,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> tuple["jax.Array", Targets]:
    from mnet_jax.data import augment

    return augment.images(key, images_BHWC, cfg.data, mean, std), targets


def _accept(*_: Any) -> None:
    """Refuses nothing."""


def _central_square(image_HWC: np.ndarray, side: int) -> np.ndarray:
    from mnet_jax.data import transforms

    return transforms.center_crop(image_HWC, side, 1.0)


@dataclass(frozen=True)
class Task:
    """One kind of work that a run does.

    A task whose `measure` is given trains nothing: that function is the whole run. All others are trained, and of them
    `loss`, `sums` or `per_image`, and `score` must be given. `cfg` is the run's config; inside the compiled step it
    lacks the traced fields (`mnet_jax.fields.Field`), so that reading one there fails.

    `name`        the word of the config field `task`.
    `metrics`     (cfg) -> the metrics of a row; the first one decides where a claim names none.
    `fields`      the task's section of the config: {"spiral.dim": Field(...)}.
    `check`       (cfg) refuses settings that do not go together, with a UserError.
    `check_data`  (cfg, dataset) refuses a data set that the task or its network does not fit.
    `targets`     (dataset, cfg) -> the targets of all images, [N, ...] each.
    `build`       (cfg, rngs) -> the network with its heads, initialized. It is called with (images_BHWC, knobs=, rngs=)
                  and returns (outputs, endpoints).
    `augment`     (key, images uint8 [B, H, W, C], targets, cfg, mean, std) -> normalized images and the targets, which
                  move together.
    `loss`        (outputs, targets, cfg, teacher) -> the scalar to minimize, and its named parts as sums over the
                  images of the batch: each becomes `train_NAME`, a mean over the images of an epoch. `teacher` is what
                  the teacher's network returns for the same images, None without one.
    `sums`        (outputs, targets, mask_B, cfg) -> what an evaluation adds up over the images with mask 1.
    `per_image`   (outputs, targets, cfg) -> what an evaluation keeps of every image, arrays [B, ...] by name:
                  predictions, and the targets that they are scored against. Of the last evaluation they are written
                  to the run's arrays, in the order of the held-out images.
    `score`       (sums, kept, cfg) -> the metrics of group "test" by name. `sums` are those of `sums`, and "images";
                  `kept` is what `per_image` returned, [N, ...], in the order of the held-out images. Runs on the host.
    `predict`     (outputs, cfg) -> what a user is told of each image, arrays [B, ...] by name.
    `fit`         (image uint8 [H, W, C], side) -> the image of a file as a square, as the readers of this task's data
                  sets make it; the central square by default.
    `measure`     (cfg, seeds) -> the metrics of each seed, and arrays of the first one by name.
    `pictures`    (workdir, sweep) -> pictures of this task for the report: (title, figure, caption) each.
    """

    name: str
    metrics: Callable[[Any], tuple[Metric, ...]]
    fields: Mapping[str, Field] = field(default_factory=dict)
    check: Callable[[Any], None] = _accept
    check_data: Callable[[Any, Any], None] = _accept
    targets: Callable[[Any, Any], Targets] = lambda dataset, cfg: dataset.targets
    build: Callable[[Any, "nnx.Rngs"], Any] = _build
    augment: Callable[..., tuple["jax.Array", Targets]] = _augment
    loss: Callable[[Outputs, Targets, Any, Outputs | None], tuple[Any, Mapping[str, Any]]] | None = None
    sums: Callable[[Outputs, Targets, Any, Any], Mapping[str, Any]] = lambda outputs, targets, mask_B, cfg: {}
    per_image: Callable[[Outputs, Targets, Any], Mapping[str, Any]] = lambda outputs, targets, cfg: {}
    score: Callable[[Mapping[str, Any], Mapping[str, np.ndarray], Any], Mapping[str, float]] | None = None
    predict: Callable[[Outputs, Any], Mapping[str, Any]] = lambda outputs, cfg: {"outputs": outputs}
    fit: Callable[[np.ndarray, int], np.ndarray] = _central_square
    measure: Callable[[Any, list[int]], tuple[list[dict[str, float]], dict[str, np.ndarray]]] | None = None
    pictures: Callable[..., Iterable[tuple[str, Any, str]]] = lambda workdir, sweep: ()

    @property
    def trains(self) -> bool:
        """Whether a run of this task trains a network."""
        return self.measure is None


DENSE_TARGETS_REFUSE = (
    "data.size",
    "data.mixup",
    "data.cutmix",
    "data.erase",
    "data.noisy_size",
    "data.unseen_classes",
    "train.label_smoothing",
    "train.teacher",
)
"""Fields that must be off where targets are masks or boxes: their functions move or mix labels only."""


def refuse_if_set(cfg: Any, names: Iterable[str]) -> None:
    """A UserError for the first of these fields, "section.name" each, whose value is not 0, "" or the like."""
    for name in names:
        section, leaf = name.split(".")
        if value := cfg[section][leaf]:
            raise UserError(f"{name}={value!r} with task={cfg.task!r}; allowed: {type(value)()!r}")
    if cfg.analysis:
        raise UserError(f"analysis=True with task={cfg.task!r}; allowed: False")


def check_scale_range(name: str, pair: Any) -> None:
    """A UserError where the field `name`, the smallest and the largest size of a training image, is no such pair."""
    if len(pair) != 2 or not all(isinstance(end, int | float) for end in pair) or not 0.25 <= pair[0] <= pair[1] <= 4:
        raise UserError(f"{name}={pair!r}; allowed: (low, high) from 0.25 to 4")


TRAIN_LOSS = Metric("train_loss", "training loss", "nats", 3, higher_is_better=False, group="training")
"""The mean of the loss over the last epoch, of every task that trains."""
