"""A data set by its name or by the config; nothing is ever downloaded here."""

import difflib
import functools
import hashlib
import importlib.util
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mnet_jax.data import boxes, builtin, disk, masks, scenes, tables
from mnet_jax.data.dataset import Dataset, with_unseen_classes
from mnet_jax.errors import UserError


class Planned(NamedTuple):
    """A data set that a plan may use before it exists: (H, W, C), training and test images, classes, boxes of an image.

    Where there are boxes, these are its targets, and else labels.
    """

    shape: tuple[int, int, int]
    train: int
    test: int
    classes: int
    boxes: int = 0


PLANNED = {
    "imagenet2012": Planned((224, 224, 3), 1_281_167, 50_000, 1000),
    "coco": Planned((320, 320, 3), 118_287, 5_000, 81, boxes=93),
    "voc0712": Planned((320, 320, 3), 16_551, 4_952, 21, boxes=56),
}
"""name -> what is known of it."""


GENERATED = {"digits": builtin.digits, "scenes": scenes.scenes}
"""name -> the function that makes a data set from what is installed; these need no folder."""


def from_config(data: Any) -> Dataset:
    """The data set that the fields `data` of a config name, loaded once per process; see `from_name`."""
    splits = data.train_split, data.test_split
    return _seen(from_name(data.source, data.dir, *splits, data.resolution, data.targets, data.corrupt), data)


def _seen(dataset: Dataset, data: Any) -> Dataset:
    """The data set without the classes that are not to be seen in training."""
    return with_unseen_classes(dataset, data.unseen_classes) if data.unseen_classes else dataset


def metadata(data: Any) -> Dataset:
    """What a plan needs: as `from_config`, not resized; black images of all classes for a missing one of `PLANNED`.

    Raises UserError as `from_name`, and where packages are missing that a training on these data needs.
    """
    if data.source in GENERATED:
        return _seen(from_name(data.source, "", data.train_split, data.test_split), data)
    folder = data_dir(data.dir) / data.source
    in_folder = any(stands(folder) for stands, _ in READERS.values())
    if data.source in PLANNED and not in_folder and disk.find(folder, data.source) is None:
        return _seen(_zeros(data.source, PLANNED[data.source]), data)
    if data.size and importlib.util.find_spec("grain") is None:
        raise UserError(f"data.size={data.size} needs Grain and OpenCV: pip install 'mnet_jax[data]'")
    if in_folder:
        return from_config(data)  # its images may have one size only once they are fitted into a square
    return _seen(from_name(data.source, data.dir, data.train_split, data.test_split), data)


def from_name(
    name: str,
    directory: str | Path = "",
    train_split: str = "train",
    test_split: str = "",
    resolution: int = 0,
    targets: str = "",
    corrupt: str = "error",
) -> Dataset:
    """Loads a data set, once per process. Of images on disk only what was measured is read.

    Args:
      name: of `GENERATED`, or the folder that holds the data: what `python -m mnet_jax.data.prepare`
        has written (TFDS's names, such as "imagenet2012" or "imagenet2012/short_256"), images as `train/CLASS/*`,
        the original files of "fashion_mnist" or "cifar10", or images with masks (`data.masks.from_folder`), boxes
        (`data.boxes.from_folder`) or attributes (`data.tables.from_folder`).
      directory: where that folder is; "" = the environment variable MNET_DATA_DIR, or else ~/.cache/mnet_jax.
      train_split: what a seed may train on, such as "train[:90%]"; only of images on disk.
      test_split: what it may hold out; "" = the test set, or the validation set where that has no labels.
      resolution: height and width that the images are resized to (V1's resolution multiplier); 0 = as they are.
      targets: of a folder that has both, "masks" or "boxes"; "" = masks.
      corrupt: what happens to a box that is not in its image: "error", or "skip" = it is left out and counted.

    Raises:
      UserError: the data set does not exist (with the command that prepares it) or is corrupt, or a split is unknown.
    """
    root = None if name in GENERATED else data_dir(directory)
    return _load(name, root, train_split, test_split, resolution, targets, corrupt)


def data_dir(directory: str | Path = "") -> Path:
    """The folder of the data sets; see `from_name`. Raises UserError where a home directory is needed and unknown."""
    path = Path(directory or os.environ.get("MNET_DATA_DIR") or "~/.cache/mnet_jax")
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise UserError(
            f"the folder of the data sets is {path}, whose home directory is unknown: name another folder by "
            "--config.data.dir= or the environment variable MNET_DATA_DIR"
        ) from error


def from_disk(images: disk.DiskDataset, train_split: str = "train", test_split: str = "") -> Dataset:
    """A data set on disk that `data.prepare` has measured; see `from_name`."""
    measured = disk.read_info(images)
    if measured is None:
        raise UserError(f"{images.path} was not measured yet: {disk.prepare_command(images.name)}")
    info, labels = measured
    labelled = {split: size for split, size in images.sizes.items() if labels[split].min(initial=0) >= 0}
    choices = [split for split in ("test", "validation", "val") if split in labelled]
    specs = train_split, test_split or (choices[0] if choices else train_split)
    starts = dict(zip(images.sizes, np.cumsum([0, *images.sizes.values()]).tolist(), strict=False))
    parts = [disk.parse_split(spec, labelled) for spec in specs]
    train_indices, test_indices = (
        np.concatenate([np.arange(starts[split] + first, starts[split] + stop) for split, first, stop in part])
        for part in parts
    )
    if parts[0] != parts[1] and len(np.intersect1d(train_indices, test_indices)):
        raise UserError(f"train_split={specs[0]!r} and test_split={specs[1]!r} share images")
    labels_N = np.concatenate([labels[split] for split in images.sizes])
    digest = hashlib.sha256(repr((info.name, info.version, info.listing, parts, sorted(info.labels.items()))).encode())
    for array in (labels_N, train_indices, test_indices):
        array.flags.writeable = False
    return Dataset(
        name=info.name,
        images=disk.EncodedImages(images, info.shape),
        targets={"labels": labels_N},
        class_names=info.class_names,
        train_indices=train_indices,
        test_indices=test_indices,
        mean=info.mean,
        std=info.std,
        fingerprint=digest.hexdigest()[:12],
    )


@functools.cache
def _load(
    name: str, root: Path | None, train_split: str, test_split: str, resolution: int, targets: str, corrupt: str
) -> Dataset:
    if root and (kind := _targets_of(root / name, targets)):
        if (train_split, test_split) != ("train", ""):
            raise UserError(
                f"data.train_split={train_split!r}, data.test_split={test_split!r}; {name} has fixed splits"
            )
        _, read = READERS[kind]
        return read(root / name, resolution, corrupt)
    if resolution:
        return _load(name, root, train_split, test_split, 0, targets, corrupt).resized(resolution)
    if root and (images := disk.find(root / name, name)):
        return from_disk(images, train_split, test_split)
    if (train_split, test_split) != ("train", ""):
        reason = f"{root / name} holds none: {disk.prepare_command(name)}" if root else f"the {name} have none"
        raise UserError(
            f"data.train_split={train_split!r}, data.test_split={test_split!r} need prepared data; {reason}"
        )
    if root is None:
        return GENERATED[name]()
    if name in builtin.FROM_FOLDER:
        return builtin.FROM_FOLDER[name](root / name)
    nearest = difflib.get_close_matches(name, (*GENERATED, *builtin.FROM_FOLDER), n=1)
    missing = f"{root / name} holds no train/; " if (root / name).is_dir() else ""
    if disk.flat_classes(root / name):
        command = f"{disk.prepare_command(name)} --data_dir {root} --holdout 0.2"
        raise UserError(f"{root / name} holds images as CLASS/*, but no train/ and test/; `{command}` makes them")
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    raise UserError(
        f"data source {name!r} is not in {root}: {missing}{hint}prepare it with `{disk.prepare_command(name)} "
        f"--data_dir {root}`, or put images into {root / name} as train/CLASS/*; 'digits' needs no file"
    )


READERS: Mapping[str, tuple[Callable[[Path], bool], Callable[[Path, int, str], Dataset]]] = {
    "masks": (masks.has_masks, lambda folder, side, corrupt: masks.from_folder(folder, side)),
    "boxes": (boxes.has_boxes, boxes.from_folder),
    "attributes": (tables.has_table, lambda folder, side, corrupt: tables.from_folder(folder, side)),
}
"""Targets -> whether a folder has them, and what reads it: images in memory, fitted into squares of one side."""


def _targets_of(folder: Path, wanted: str) -> str:
    """Which targets of a folder are read; "" where it is in no such layout and none is wanted."""
    found = [kind for kind, (stands, _) in READERS.items() if stands(folder)]
    if wanted and wanted not in found:
        raise UserError(
            f"data.targets={wanted!r}: {folder} has {' and '.join(found) or 'none of ' + ', '.join(READERS)}"
        )
    return wanted or (found[0] if found else "")


@functools.cache
def _zeros(name: str, planned: Planned) -> Dataset:
    shape, train, test, classes, most = planned
    count = train + test
    targets = {"labels": np.arange(count, dtype=np.int32) % classes}
    if most:
        targets = {
            "boxes": np.broadcast_to(np.float32(0), (count, most, 4)),
            "classes": np.broadcast_to(np.int32(0), (count, most)),
        }
    return Dataset(
        name=name,
        images=np.broadcast_to(np.uint8(0), (count, *shape)),
        targets=targets,
        class_names=("",) * classes,
        train_indices=np.arange(train),
        test_indices=np.arange(train, count),
        mean=(0.0,) * shape[-1],
        std=(1.0,) * shape[-1],
        fingerprint="",
    )
