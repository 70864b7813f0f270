"""Data sets on disk that need not fit in memory: those TFDS has prepared, and folders of images by class.

Both give encoded images by index. Labels, mean and standard deviation take a pass over all images, so
`python -m mnet_jax.data.prepare NAME` measures them once and writes `facts.json` and `labels-SPLIT.npy` beside the
images.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mnet_jax import schema
from mnet_jax.errors import UserError

INFO_FILE = "facts.json"

FORMAT = 1
"""Of that file; to be raised when a change of it would be read wrongly."""


@dataclass(frozen=True)
class DatasetInfo:
    """What `data.prepare` measures.

    `sizes`        the number of images of each split.
    `labels`       SHA-256 of each split's labels as little-endian int32.
    `listing`      `DiskDataset.listing` when it was measured.
    `shape`        (H, W, C); H and W are 0 where the images differ in size, C is 1 for gray images.
    `mean`, `std`  of each channel over the split "train", of images scaled to [0, 1].
    """

    name: str
    version: str
    class_names: tuple[str, ...]
    sizes: dict[str, int]
    labels: dict[str, str]
    listing: str
    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]


class DiskDataset(Protocol):
    """Encoded images with one label each.

    `channels`  of the decoded images.
    `sizes`     the number of images of each split.
    `listing`   a digest of the class names and, of a folder, of every file and its label: what a start can compare
                without reading an image.
    """

    path: Path
    name: str
    version: str
    class_names: tuple[str, ...]
    channels: int
    sizes: dict[str, int]
    listing: str

    def read(self, split: str, index: int) -> tuple[bytes, int]:
        """The encoded image and its label; -1 where the split has no labels."""
        ...

    def location(self, split: str, index: int) -> str:
        """Where that image lies, for messages."""
        ...


class TfdsDataset:
    """A data set that TFDS has prepared as array_record, read without TensorFlow.

    Raises UserError where its examples are not one image with one label.
    """

    def __init__(self, path: Path):
        try:
            import tensorflow_datasets as tfds
        except ImportError as error:
            raise UserError(f"{path} needs tensorflow-datasets: pip install 'mnet_jax[data]' ({error})") from None
        self._from_builder(tfds.builder_from_directory(path), path)

    def _from_builder(self, builder: Any, path: Path) -> None:
        import tensorflow_datasets as tfds

        info = builder.info
        self.path, self.name, self.version = path, info.full_name.rsplit("/", 1)[0], str(info.version)
        keys = info.supervised_keys or ()
        kinds = [type(info.features[key]).__name__ for key in keys]
        if kinds != ["Image", "ClassLabel"]:
            raise UserError(f"{path} holds {info.features}; allowed: images with one label each (supervised_keys)")
        self._image, self._label = map(str, keys)
        self.class_names = tuple(info.features[self._label].names)
        self.channels = info.features[self._image].shape[-1] or 3
        images = [key for key, feature in info.features.items() if isinstance(feature, tfds.features.Image)]
        decoders = {key: tfds.decode.SkipDecoding() for key in images}
        self._sources = {split: builder.as_data_source(split, decoders=decoders) for split in info.splits}
        self.sizes = {split: len(source) for split, source in self._sources.items()}
        self.listing = _listing_digest(self.class_names, {})

    def read(self, split: str, index: int) -> tuple[bytes, int]:
        example = self._sources[split][index]
        return example[self._image], int(example[self._label])

    def location(self, split: str, index: int) -> str:
        return f"record {index} of split {split!r} in {self.path}"


IMAGE_SUFFIXES = frozenset((".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"))
SPLITS = ("train", "validation", "val", "test")


class ImageFolder:
    """Encoded images as `SPLIT/CLASS/*`, as torchvision's ImageFolder; the folders of `train` are the classes.

    An image is a regular file, or a link to one, with one of `IMAGE_SUFFIXES`; `ignored` lists everything else in the
    class folders, for a message. Hidden files and folders do not count at all. Raises UserError where `train` holds no
    class, a class of it holds no image, or another split holds a class that `train` does not have.
    """

    version = "folder"
    channels = 3

    def __init__(self, path: Path, name: str):
        self.path, self.name = path, name
        self.class_names = tuple(_visible_folders(path / "train"))
        if not self.class_names:
            raise UserError(f"{path / 'train'} holds no folder; allowed: a folder of images for each class")
        self.ignored: list[Path] = []
        self._files: dict[str, list[tuple[str, int]]] = {}
        for split in SPLITS:
            if (path / split).is_dir():
                self._files[split] = self._list(path / split)
        empty = set(range(len(self.class_names))) - {label for _, label in self._files["train"]}
        if empty:
            names = ", ".join(self.class_names[label] for label in sorted(empty))
            raise UserError(f"{path / 'train'} holds no image in {names}; allowed: only folders with images")
        self.sizes = {split: len(files) for split, files in self._files.items()}
        self.listing = _listing_digest(self.class_names, self._files)

    def _list(self, split: Path) -> list[tuple[str, int]]:
        if extra := set(_visible_folders(split)) - set(self.class_names):
            raise UserError(f"{split} holds classes that train does not have: {', '.join(sorted(extra))}")
        files = []
        for label, name in enumerate(self.class_names):
            if not (split / name).is_dir():
                continue
            with os.scandir(split / name) as entries:
                visible = sorted((entry for entry in entries if entry.name[0] != "."), key=lambda entry: entry.name)
            for entry in visible:
                regular = entry.is_file(follow_symlinks=False) or os.path.isfile(entry)
                if regular and Path(entry.name).suffix.lower() in IMAGE_SUFFIXES:
                    files.append((f"{split.name}/{name}/{entry.name}", label))
                else:
                    self.ignored.append(Path(entry))
        return files

    def read(self, split: str, index: int) -> tuple[bytes, int]:
        file, label = self._files[split][index]
        return (self.path / file).read_bytes(), label

    def location(self, split: str, index: int) -> str:
        return f"image {index} of split {split!r}, {self.path / self._files[split][index][0]}"


def flat_classes(folder: Path) -> dict[str, list[Path]]:
    """Class -> image files of a folder that holds CLASS/* without splits; {} where it holds no such images."""
    if not folder.is_dir():
        return {}
    names = [name for name in _visible_folders(folder) if name not in SPLITS]
    files = {name: sorted(path for path in (folder / name).glob("[!.]*") if _is_image(path)) for name in names}
    return {name: found for name, found in files.items() if found}


def _is_image(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES


def _visible_folders(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir() if entry.name[0] != "." and entry.is_dir())


def _listing_digest(class_names: tuple[str, ...], files: Mapping[str, list[tuple[str, int]]]) -> str:
    """SHA-256 of the class names and of (file, label) of every image whose label follows from where it lies."""
    return hashlib.sha256(repr((class_names, sorted(files.items()))).encode()).hexdigest()


def find(folder: Path, name: str) -> DiskDataset | None:
    """The data set in `folder`: the newest version that TFDS has prepared, or images by class; None without either.

    Raises UserError where the folder holds other splits without `train`, or as `ImageFolder` and `TfdsDataset` do.
    """
    versions = [path.parent for path in folder.glob("*.*.*/features.json") if re.fullmatch(r"[\d.]+", path.parent.name)]
    if versions:
        return TfdsDataset(max(versions, key=lambda path: [int(part) for part in path.name.split(".")]))
    if (folder / "train").is_dir():
        return ImageFolder(folder, name)
    if others := [split for split in SPLITS if (folder / split).is_dir()]:
        raise UserError(f"{folder} holds no train/, only {', '.join(others)}; allowed: images as train/CLASS/*")
    return None


def read_info(disk: DiskDataset) -> tuple[DatasetInfo, dict[str, np.ndarray]] | None:
    """What was measured and each split's labels, int32 [N]; None = not measured yet.

    Raises UserError where these files are corrupt, or the images beside them are not the measured ones.
    """
    path = disk.path / INFO_FILE
    if not path.exists():
        return None
    try:
        info = schema.parse(
            schema.without_format(json.loads(path.read_text()), FORMAT, INFO_FILE), DatasetInfo, INFO_FILE
        )
        if info.sizes != dict(disk.sizes):
            raise ValueError(f"it holds {dict(disk.sizes)} images, {info.sizes} were measured")
        if info.listing != disk.listing:
            raise ValueError("the class names, the files or their classes are not those that were measured")
        labels = {split: np.load(disk.path / f"labels-{split}.npy") for split in info.sizes}
        for split, labels_N in labels.items():
            if labels_digest(labels_N) != info.labels.get(split):
                raise ValueError(f"labels-{split}.npy is not the file that was measured")
    except (OSError, ValueError, EOFError, RecursionError) as error:
        raise UserError(
            f"{path} cannot be used: {error}; measure again: {prepare_command(disk.name)} --again"
        ) from error
    return info, labels


def write_info(disk: DiskDataset, info: DatasetInfo, labels: Mapping[str, np.ndarray]) -> None:
    """Writes what was measured beside the images; `INFO_FILE` comes last, so an interrupted call leaves none."""
    for split, labels_N in labels.items():
        np.save(disk.path / f"labels-{split}.npy", labels_N)
    partial = disk.path / f"{INFO_FILE}.partial"
    partial.write_text(json.dumps({"format": FORMAT, **asdict(info)}, indent=1))
    partial.replace(disk.path / INFO_FILE)


def labels_digest(labels_N: np.ndarray) -> str:
    """SHA-256 of labels as little-endian int32, hexadecimal."""
    return hashlib.sha256(labels_N.astype("<i4").data).hexdigest()


def prepare_command(name: str) -> str:
    """The command that prepares the data set, for messages."""
    base, _, side = name.partition("/short_")
    return f"python -m mnet_jax.data.prepare {base}" + (f" --short_side {side}" if side else "")


class EncodedImages:
    """The encoded images of all splits, one split after the other: `images[index]` gives bytes.

    `shape`  (H, W, C) of every image; H and W are 0 where the images differ in size.
    """

    def __init__(self, disk: DiskDataset, shape: tuple[int, int, int]):
        self.disk, self.shape = disk, shape
        self.starts = np.cumsum([0, *disk.sizes.values()])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, index: int) -> bytes:
        return self.disk.read(*self._place(index))[0]

    def location(self, index: int) -> str:
        """Where that image lies, for messages."""
        return self.disk.location(*self._place(index))

    def _place(self, index: int) -> tuple[str, int]:
        number = int(np.searchsorted(self.starts, index, side="right")) - 1
        return list(self.disk.sizes)[number], int(index - self.starts[number])


def parse_split(spec: str, sizes: Mapping[str, int]) -> list[tuple[str, int, int]]:
    """TFDS's split syntax as (split, first, stop): `train`, `train[:90%]`, `train[100:]+test[-5%:]`.

    Raises UserError for an unknown split, an empty one and any other syntax.
    """
    ranges: list[tuple[str, int, int]] = []
    for part in spec.split("+"):
        match = re.fullmatch(r"\s*(\w+)(?:\[(?P<start>-?\d+%?)?:(?P<stop>-?\d+%?)?\])?\s*", part)
        if not match or match[1] not in sizes:
            raise UserError(f"split {part!r}; allowed: {', '.join(sizes)}, or a part such as 'train[:90%]'")
        size = sizes[match[1]]
        first = _boundary(match["start"], size) if match["start"] else 0
        stop = _boundary(match["stop"], size) if match["stop"] else size
        if first >= stop:
            raise UserError(f"split {part!r} is empty: {match[1]!r} has {size} images")
        ranges.append((match[1], first, stop))
    return ranges


def _boundary(bound: str, size: int) -> int:
    index = round(int(bound[:-1]) * size / 100) if bound.endswith("%") else int(bound)
    return min(max(index + size if index < 0 else index, 0), size)
