"""Data sets on disk that need not fit in memory: those TFDS has prepared, and folders of images by class.

Both give encoded images by index. What a start-up must not scan for (labels, mean, deviation) is measured once by
`python -m mnet_jax.data.prepare NAME` and lies beside the images as `facts.json` and `labels-SPLIT.npy`.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

FACTS = "facts.json"


@dataclass(frozen=True)
class Facts:
    """What is measured once.

    `sizes`        images of each split.
    `labels`       SHA-256 of each split's labels as little-endian int32.
    `shape`        (H, W, C); H and W are 0 where the images differ in size, C is 1 for gray images.
    `mean`, `std`  of each channel over the split "train", of images scaled to [0, 1].
    """

    name: str
    version: str
    class_names: tuple[str, ...]
    sizes: dict[str, int]
    labels: dict[str, str]
    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]


class Store(Protocol):
    """A data set on disk: `read(split, i)` gives an encoded image and its label, `where(split, i)` names them."""

    path: Path
    name: str
    version: str
    class_names: tuple[str, ...]
    channels: int
    sizes: dict[str, int]

    def read(self, split: str, index: int) -> tuple[bytes, int]: ...

    def where(self, split: str, index: int) -> str: ...


class Tfds:
    """What `tfds` has prepared as array_record, read without TensorFlow.

    Raises ValueError where it is another format, or no set of images with one label each.
    """

    def __init__(self, path: Path):
        try:
            import tensorflow_datasets as tfds
        except ImportError as error:
            raise ValueError(
                f"{path} needs tensorflow-datasets to be read: pip install 'mnet_jax[data]' ({error})"
            ) from None
        self.take(tfds.builder_from_directory(path), path)

    def take(self, builder: Any, path: Path) -> None:
        import tensorflow_datasets as tfds

        info = builder.info
        self.path, self.name, self.version = path, info.full_name.rsplit("/", 1)[0], str(info.version)
        keys = info.supervised_keys or ()
        kinds = [type(info.features[key]).__name__ for key in keys]
        if kinds != ["Image", "ClassLabel"]:
            raise ValueError(f"{path} holds {info.features}; allowed: images with one label each (supervised_keys)")
        self._image, self._label = map(str, keys)
        self.class_names = tuple(info.features[self._label].names)
        self.channels = info.features[self._image].shape[-1] or 3
        pictures = [key for key, feature in info.features.items() if isinstance(feature, tfds.features.Image)]
        decoders = {key: tfds.decode.SkipDecoding() for key in pictures}
        self._sources = {split: builder.as_data_source(split, decoders=decoders) for split in info.splits}
        self.sizes = {split: len(source) for split, source in self._sources.items()}

    def read(self, split: str, index: int) -> tuple[bytes, int]:
        example = self._sources[split][index]
        return example[self._image], int(example[self._label])

    def where(self, split: str, index: int) -> str:
        return f"record {index} of split {split!r} in {self.path}"


class Folder:
    """`SPLIT/CLASS/*` with encoded images, as torchvision's ImageFolder has them; the classes are those of `train`."""

    version = "folder"
    channels = 3

    def __init__(self, path: Path, name: str):
        self.path, self.name = path, name
        self.class_names = tuple(sorted(entry.name for entry in (path / "train").iterdir() if entry.is_dir()))
        self._files: dict[str, list[tuple[str, int]]] = {}
        for split in ("train", "validation", "val", "test"):
            if (path / split).is_dir():
                self._files[split] = self._listed(path / split)
        self.sizes = {split: len(files) for split, files in self._files.items()}

    def _listed(self, folder: Path) -> list[tuple[str, int]]:
        if extra := sorted({entry.name for entry in folder.iterdir() if entry.is_dir()} - set(self.class_names)):
            raise ValueError(f"{folder} holds classes that train does not have: {', '.join(extra)}")
        return [
            (f"{folder.name}/{name}/{file.name}", label)
            for label, name in enumerate(self.class_names)
            for file in sorted((folder / name).glob("*"))
        ]

    def read(self, split: str, index: int) -> tuple[bytes, int]:
        file, label = self._files[split][index]
        return (self.path / file).read_bytes(), label

    def where(self, split: str, index: int) -> str:
        return f"image {index} of split {split!r}, {self.path / self._files[split][index][0]}"


def find(folder: Path, name: str) -> Store | None:
    """The data set in `folder`: TFDS's newest version of it, or images by class; None = neither is there."""
    versions = [path.parent for path in folder.glob("*.*.*/features.json") if re.fullmatch(r"[\d.]+", path.parent.name)]
    if versions:
        return Tfds(max(versions, key=lambda path: [int(part) for part in path.name.split(".")]))
    return Folder(folder, name) if (folder / "train").is_dir() else None


def read_facts(store: Store) -> tuple[Facts, dict[str, np.ndarray]] | None:
    """The measured facts and each split's labels; None = not measured yet.

    Raises ValueError where they are damaged, or the images beside them are others than those measured.
    """
    path = store.path / FACTS
    if not path.exists():
        return None
    try:
        raw = json.loads(path.read_text())
        tuples = {key: tuple(raw[key]) for key in ("class_names", "shape", "mean", "std")}
        facts = Facts(**raw | tuples)
        if facts.sizes != dict(store.sizes):
            raise ValueError(f"{dict(store.sizes)} images are there, {facts.sizes} were measured")
        labels = {split: np.load(store.path / f"labels-{split}.npy") for split in facts.sizes}
        for split, labels_N in labels.items():
            if digest(labels_N) != facts.labels[split]:
                raise ValueError(f"labels-{split}.npy is not the file that was measured")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be used: {error}; measure again: {command(store.name)} --again") from error
    return facts, labels


def write_facts(store: Store, facts: Facts, labels: Mapping[str, np.ndarray]) -> None:
    """Puts the facts beside the images; the file that makes them count comes last."""
    for split, labels_N in labels.items():
        np.save(store.path / f"labels-{split}.npy", labels_N)
    partial = store.path / f"{FACTS}.partial"
    partial.write_text(json.dumps(asdict(facts), indent=1))
    partial.replace(store.path / FACTS)


def digest(labels_N: np.ndarray) -> str:
    return hashlib.sha256(labels_N.astype("<i4").data).hexdigest()


def command(name: str) -> str:
    base, _, side = name.partition("/short_")
    return f"python -m mnet_jax.data.prepare {base}" + (f" --short_side {side}" if side else "")


class Records:
    """The encoded images of a store's splits, one split after the other: `records[i]` -> bytes."""

    def __init__(self, store: Store, shape: tuple[int, int, int]):
        self.store, self.shape = store, shape
        self.starts = np.cumsum([0, *store.sizes.values()])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, index: int) -> bytes:
        return self.store.read(*self._place(index))[0]

    def where(self, index: int) -> str:
        return self.store.where(*self._place(index))

    def _place(self, index: int) -> tuple[str, int]:
        number = int(np.searchsorted(self.starts, index, side="right")) - 1
        return list(self.store.sizes)[number], int(index - self.starts[number])


def ranges(words: str, sizes: Mapping[str, int]) -> list[tuple[str, int, int]]:
    """TFDS's split words as (split, from, to): `train`, `train[:90%]`, `train[100:]+test[-5%:]`.

    Raises ValueError for a split that is not there and for words that are none.
    """
    found: list[tuple[str, int, int]] = []
    for part in words.split("+"):
        match = re.fullmatch(r"\s*(\w+)(?:\[(?P<start>-?\d+%?)?:(?P<stop>-?\d+%?)?\])?\s*", part)
        if not match or match[1] not in sizes:
            raise ValueError(f"split {part!r}; allowed: {', '.join(sizes)}, or a part such as 'train[:90%]'")
        size = sizes[match[1]]
        first = _boundary(match["start"], size) if match["start"] else 0
        last = _boundary(match["stop"], size) if match["stop"] else size
        if first >= last:
            raise ValueError(f"split {part!r} is empty: {match[1]!r} has {size} images")
        found.append((match[1], first, last))
    return found


def _boundary(word: str, size: int) -> int:
    place = round(int(word[:-1]) * size / 100) if word.endswith("%") else int(word)
    return min(max(place + size if place < 0 else place, 0), size)
