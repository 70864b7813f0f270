"""The record `Dataset`, and what the seed decides about it: the split and the order of an epoch.

Splits and orders sort the raw bits of a Philox generator whose 128-bit key is (seed, purpose), so the two never share a
stream. numpy promises that these bits stay the same in every version (NEP 19); it does not promise it of `permutation`.
"""

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from mnet_jax.data import disk, transforms
from mnet_jax.errors import UserError


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images with their targets; its arrays are read-only.

    `images`         uint8 [N, H, W, C] in memory, or encoded on disk.
    `targets`        name -> array [N, ...]; "labels" are int32 [N] from 0 to `classes` - 1.
    `class_names`    of the labels; empty without labels.
    `train_indices`  int64, the images that a seed may train on.
    `test_indices`   int64, the images that a seed may hold out: the same ones where there is no fixed test set.
    `mean`, `std`    of each channel over the training images, scaled to [0, 1].
    `fingerprint`    12 hexadecimal digits of the SHA-256 of name, shapes, targets and image bytes; of images on disk,
                     name, version, class names, file names, splits, counts and labels.
    """

    name: str
    images: np.ndarray | disk.EncodedImages
    targets: Mapping[str, np.ndarray]
    class_names: tuple[str, ...]
    train_indices: np.ndarray
    test_indices: np.ndarray
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str

    @property
    def labels_N(self) -> np.ndarray:
        """The class of each image, int32."""
        return self.targets["labels"]

    @property
    def classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C); H and W are 0 where the images differ in size."""
        H, W, C = self.images.shape[-3:]
        return H, W, C

    @property
    def has_fixed_test_set(self) -> bool:
        """Whether the held-out images are the same for every seed."""
        return not np.array_equal(self.train_indices, self.test_indices)

    def image(self, index: int) -> np.ndarray:
        """Image `index`, uint8 [H, W, C]. Raises CorruptImage, which names the file, where it cannot be decoded."""
        if isinstance(self.images, np.ndarray):
            return self.images[index]
        try:
            return transforms.decode(self.images[index], self.shape[-1])
        except Exception as error:  # file formats and decoders raise errors of many types
            raise transforms.CorruptImage(f"{self.name}: {self.images.location(index)}: {error}") from error

    def in_memory(self) -> np.ndarray:
        """All images, uint8 [N, H, W, C]; those on disk are decoded. Raises UserError where they differ in size."""
        if isinstance(self.images, np.ndarray):
            return self.images
        H, W, C = self.shape
        if not H:
            raise UserError(f"the images of {self.name} differ in size: set data.size to what they are cropped to")
        images_NHWC = np.empty((len(self.images), H, W, C), np.uint8)
        for index in range(len(images_NHWC)):
            images_NHWC[index] = self.image(index)
        return images_NHWC

    def resized(self, resolution: int) -> "Dataset":
        """The data set in memory with images of this height and width, and of masks the nearest pixels.

        The fingerprint stays that of the original images, so that arms of other resolutions compare.
        """
        images_NHWC = transforms.resize_batch(self.in_memory(), resolution)
        images_NHWC.flags.writeable = False
        targets = dict(self.targets)
        if "masks" in targets:
            _, H, W = targets["masks"].shape
            rows, columns = (((np.arange(resolution) + 0.5) * side / resolution).astype(int) for side in (H, W))
            targets["masks"] = targets["masks"][:, rows[:, None], columns]
            targets["masks"].flags.writeable = False
        return replace(self, images=images_NHWC, targets=targets)


@functools.cache
def with_unseen_classes(dataset: Dataset, count: int) -> Dataset:
    """The data set whose last `count` classes are not trained on, and are all that is tested on.

    Without a fixed test set all of their images are held out, for every seed. The fingerprint stays.

    Raises:
      UserError: the data set has no labels, or no class to train on would be left.
    """
    if "labels" not in dataset.targets:
        raise UserError(f"data.unseen_classes={count}: {dataset.name} has no labels; allowed: 0")
    if not 0 < count < dataset.classes:
        raise UserError(
            f"data.unseen_classes={count}: allowed are 0 to {dataset.classes - 1}, {dataset.name} has "
            f"{dataset.classes} classes"
        )
    unseen_N = dataset.labels_N >= dataset.classes - count
    train, test = (indices[unseen_N[indices] == is_test] for indices, is_test in (
        (dataset.train_indices, False), (dataset.test_indices, True)))  # fmt: skip
    for indices in (train, test):
        indices.flags.writeable = False
    return replace(dataset, train_indices=train, test_indices=test)


class Split(NamedTuple):
    """Sorted int64 indices of training and held-out images.

    `rule` says in words how a seed chooses them; `drawn` which of them other seeds have others of: "training and test
    images", "training images" or "nothing".
    """

    train: np.ndarray
    test: np.ndarray
    rule: str
    drawn: str


Part = tuple[np.ndarray, Mapping[str, np.ndarray]]
"""Images, uint8 [N, H, W, C], and their targets, name -> array [N, ...]."""

TARGET_TYPES = ("bool", "uint8", "int32", "float32")


def from_arrays(name: str, train: Part, test: Part | None = None, class_names: Sequence[str] = ()) -> Dataset:
    """A data set from arrays.

    Args:
      name: what rows and reports call it.
      train: the images that a seed may train on, and their targets, of `TARGET_TYPES`. The target "labels" holds
        classes: integers [N] of any type.
      test: the fixed test set; None = every seed holds out some of the images in `train`.
      class_names: of the target "labels".

    Raises:
      UserError: an array has another type or shape, training and test arrays do not fit together, or a label is none
        of the classes.
    """
    parts = [_checked(name, *part, class_names) for part in ([train] if test is None else [train, test])]
    kinds = [{"images": _kind(images)} | {key: _kind(targets[key]) for key in targets} for images, targets in parts]
    if kinds[0] != kinds[-1]:
        raise UserError(f"{name}: training arrays are {kinds[0]}, test arrays are {kinds[1]}; allowed: the same")
    images_NHWC = np.ascontiguousarray(np.concatenate([images for images, _ in parts]))
    targets = {key: np.concatenate([targets[key] for _, targets in parts]) for key in parts[0][1]}
    everything, train_size = np.arange(len(images_NHWC)), len(parts[0][0])
    train_indices = everything[:train_size]
    test_indices = everything[train_size:] if test is not None else train_indices
    for array in (images_NHWC, *targets.values(), train_indices, test_indices):
        array.flags.writeable = False
    mean, std = _mean_and_std(images_NHWC[:train_size])
    return Dataset(
        name=name,
        images=images_NHWC,
        targets=targets,
        class_names=tuple(class_names),
        train_indices=train_indices,
        test_indices=test_indices,
        mean=mean,
        std=std,
        fingerprint=_fingerprint(name, images_NHWC, targets, train_size),
    )


def check_labels(labels: np.ndarray, class_names: Sequence[str]) -> None:
    """Raises UserError where a label is none of the classes."""
    classes = len(class_names)
    if labels.min() < 0 or labels.max() >= classes:
        came = f"its labels go from {labels.min()} to {labels.max()}"
        raise UserError(f"{came}, allowed are 0 to {classes - 1}, for {classes} class names")


def _checked(
    name: str, images: np.ndarray, targets: Mapping[str, np.ndarray], class_names: Sequence[str]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The arrays with int32 labels. Raises UserError as `from_arrays` does."""
    if images.dtype != np.uint8 or images.ndim != 4 or not images.size:
        raise UserError(f"{name}: images are {images.dtype}{list(images.shape)}; allowed: uint8[N, H, W, C], N > 0")
    for key, array in targets.items():
        if key == "labels":
            fits, allowed = np.issubdtype(array.dtype, np.integer) and array.ndim == 1, "integers[N]"
        else:
            fits, allowed = array.dtype in TARGET_TYPES, f"{', '.join(TARGET_TYPES)}, of shape [N, ...]"
        if not fits or array.shape[:1] != images.shape[:1]:
            came = f"target {key!r} is {array.dtype}{list(array.shape)} for {len(images)} images"
            raise UserError(f"{name}: {came}; allowed: {allowed}")
    if "labels" not in targets:
        return images, dict(targets)
    check_labels(targets["labels"], class_names)
    return images, {**targets, "labels": targets["labels"].astype(np.int32)}


def _kind(array: np.ndarray) -> str:
    return f"{array.dtype}[{', '.join(['N', *map(str, array.shape[1:])])}]"


def _mean_and_std(images_NHWC: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Of each channel, of images scaled to [0, 1]; from sums of integers, which do not depend on the order."""
    channels = images_NHWC.shape[-1]
    flat = images_NHWC.reshape(len(images_NHWC), -1)
    count = flat.size // channels
    total = flat.sum(0, np.int64).reshape(-1, channels).sum(0)
    squares = np.square(flat, dtype=np.uint16).sum(0, np.int64).reshape(-1, channels).sum(0)
    mean = total / count
    std = np.sqrt(squares / count - mean**2)
    return tuple((mean / 255).tolist()), tuple((std / 255).tolist())


def _fingerprint(name: str, images_NHWC: np.ndarray, targets: Mapping[str, np.ndarray], train_size: int) -> str:
    digest = hashlib.sha256(repr((name, images_NHWC.shape, images_NHWC.shape[:1], train_size)).encode())
    if "labels" in targets:
        digest.update(targets["labels"].astype("<i4").data)
    digest.update(images_NHWC.data)
    for key in sorted(targets.keys() - {"labels"}):
        digest.update(repr((key, targets[key].dtype.name, targets[key].shape)).encode())
        digest.update(targets[key].data)
    return digest.hexdigest()[:12]


TUNING_EVERY = 6
"""Of a data set without a fixed test set every sixth image is set aside for tuning: no other run ever sees it."""


CLEAN_EVERY = 4
"""Where some training labels may be wrong, those of every fourth image are right."""


def given_labels(labels_N: np.ndarray, classes: int, wrong: float) -> np.ndarray:
    """Labels, int32 [N], of which a share is wrong: drawn evenly among the other classes (Patrini et al. 2017, 6.1).

    Each image's draw is its own and the same for every seed; what is wrong for a share is so for every larger one. The
    labels that `split` calls clean are right.
    """
    key = np.array([0, int.from_bytes(b"noise")], np.uint64)
    uniform_2N = (np.random.Philox(key=key).random_raw(2 * len(labels_N)) >> np.uint64(11)) * 2.0**-53
    is_wrong_N = (uniform_2N[: len(labels_N)] < wrong) & (np.arange(len(labels_N)) % CLEAN_EVERY > 0)
    others_N = 1 + (uniform_2N[len(labels_N) :] * (classes - 1)).astype(np.int32)
    return np.where(is_wrong_N, (labels_N + others_N) % classes, labels_N)


def sizes(data: Any) -> tuple[int, int, int, str]:
    """The fields of a config's section `data` that `split` takes, in its order."""
    return data.train_size, data.holdout, data.noisy_size, data.train_on


def split(
    dataset: Dataset, seed: int, train_size: int = 0, holdout: int = 0, noisy_size: int = 0, train_on: str = "clean"
) -> Split:
    """Which images this seed trains on and which it holds out.

    Args:
      dataset: a data set.
      seed: the run's seed.
      train_size: how many training images are drawn, without replacement; 0 = all that may be trained on.
      holdout: 0 = the fixed test set is held out. Otherwise (tuning) so many training images are held out instead,
        and the test set is never touched. Without a fixed test set a seed holds out all images that it does not train
        on, and a tuning seed, whatever the number, those that are set aside for tuning (`TUNING_EVERY`), which no other
        run ever sees.
      noisy_size: how many more are drawn, whose labels may be wrong (`given_labels`); the `train_size` others are then
        some of every `CLEAN_EVERY`-th image.
      train_on: which of the two are trained on: "clean", "noisy" or "pooled"; neither is ever held out.

    Raises:
      UserError: these sizes leave nothing to train on or nothing to hold out.
    """
    fixed = dataset.has_fixed_test_set
    aside = dataset.train_indices[: 0 if fixed else None : TUNING_EVERY]
    usable = np.setdiff1d(dataset.train_indices, aside)
    pool, cut = len(usable), holdout if fixed else 0
    if not 0 <= cut < pool:
        raise UserError(f"holdout={holdout}: allowed are 0 to {pool - 1}, {dataset.name} has {pool} training images")
    least, most = (0, pool - cut) if fixed else (1, pool - 1)
    if not least <= train_size <= most:
        held = f"{cut} of them held out" if fixed else f"the rest is held out, {len(aside)} others are for tuning"
        raise UserError(
            f"train_size={train_size}: allowed are {least} to {most}, {dataset.name} has {pool} images, {held}"
        )
    order = _shuffled(usable, seed, "split")
    if noisy_size:
        parts = _clean_and_noisy(order[: pool - cut], train_size, noisy_size, dataset.name)
        drawn_images, train = np.concatenate(parts), np.sort(np.concatenate(parts[TRAIN_ON[train_on]]))
    else:
        drawn_images = train = np.sort(order[: train_size or most])
    test = (
        np.sort(order[pool - cut :]) if cut else np.setdiff1d(dataset.test_indices if fixed else usable, drawn_images)
    )
    if holdout and not fixed:
        test = aside
    drawn = "training and test images" if cut or not (fixed or holdout) else "training images"
    if fixed:
        drawn = drawn if len(train) < pool else "nothing"
        draw = " drawn by the seed" if len(train) < pool else ""
        held = f"{cut} others held out, test set untouched" if cut else f"the test set of {len(test)} held out"
        rule = f"{len(train)} of {pool} training images{draw}, {held}"
    else:
        held = f"the {len(test)} for tuning held out" if holdout else f"the other {len(test)} held out"
        rule = f"{len(train)} training images drawn by the seed, {held}"
        rule += "" if holdout else f", {len(aside)} set aside for tuning"
    if noisy_size:
        rule += f"; of {train_size} images with right labels and {noisy_size} with noisy ones: {train_on}"
    return Split(train, test, rule, drawn)


TRAIN_ON = {"clean": slice(0, 1), "noisy": slice(1, 2), "pooled": slice(0, 2)}
"""Word of `data.train_on` -> which of the clean and the noisy images."""


def _clean_and_noisy(order: np.ndarray, clean: int, noisy: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The first images of an order whose labels are right, and the first whose labels may be wrong."""
    pools = order[order % CLEAN_EVERY == 0], order[order % CLEAN_EVERY > 0]
    for field, size, pool in zip(("train_size", "noisy_size"), (clean, noisy), pools, strict=True):
        if not 1 <= size <= len(pool):
            raise UserError(f"{field}={size}: with noisy labels allowed are 1 to {len(pool)} of {name}")
    return pools[0][:clean], pools[1][:noisy]


def epoch_order(seed: int, epoch: int, train_indices: np.ndarray, batch_size: int) -> np.ndarray:
    """The batches of one epoch, int32 [steps, batch]; an incomplete last batch is dropped.

    The permutation depends on (seed, epoch) only, so a run can start at any epoch.

    Raises:
      UserError: there are fewer images than one batch takes.
    """
    images = len(train_indices)
    if not 1 <= batch_size <= images:
        raise UserError(f"batch_size={batch_size}: allowed are 1 to {images}, the number of training images")
    steps = images // batch_size
    order = _shuffled(train_indices, seed, "order", epoch)
    return order[: steps * batch_size].reshape(steps, batch_size).astype(np.int32)


def _shuffled(indices: np.ndarray, seed: int, purpose: str, epoch: int = 0) -> np.ndarray:
    """A permutation by (seed, purpose, epoch): the key and, for the epoch, the counter's highest word."""
    key = np.array([seed, int.from_bytes(purpose.encode())], np.uint64)
    bits = np.random.Philox(key=key, counter=np.array([0, 0, 0, epoch], np.uint64)).random_raw(len(indices))
    return indices[np.argsort(bits, kind="stable")]
