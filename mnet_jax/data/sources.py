"""Labelled images, in memory or on disk, and what the seed decides about them: the split and the order of an epoch.

Nothing is ever downloaded here. Splits and orders sort the raw bits of a Philox generator whose 128-bit key is
(seed, purpose), so the two never share a stream. numpy keeps these bits the same in every version (NEP 19),
which it does not promise of `permutation`.
"""

import contextlib
import difflib
import functools
import gzip
import hashlib
import importlib.util
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mnet_jax.data import pixels, stored


@dataclass(frozen=True, eq=False)
class Source:
    """A data set; its arrays are read-only.

    `images`       uint8 [N, H, W, C] in memory, or encoded on disk.
    `labels_N`     int32, from 0 to `classes` - 1.
    `train_pool`   int64 indices of the images that a seed may train on.
    `test_pool`    int64 indices of those it may hold out: the same ones where there is no fixed test set.
    `mean`, `std`  of each channel over the training pool, of images scaled to [0, 1].
    `fingerprint`  12 hexadecimal digits of the SHA-256 of name, shapes, labels and image bytes; of images on disk,
                   name, version, parts, counts and labels.
    """

    name: str
    images: np.ndarray | stored.Records
    labels_N: np.ndarray
    class_names: tuple[str, ...]
    train_pool: np.ndarray
    test_pool: np.ndarray
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str

    @property
    def classes(self) -> int:
        return len(self.class_names)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C); H and W are 0 where the images differ in size."""
        _, H, W, C = (0, *self.images.shape) if isinstance(self.images, stored.Records) else self.images.shape
        return H, W, C

    def image(self, index: int) -> np.ndarray:
        """uint8 [H, W, C]. Raises ValueError, which names the image, where it is damaged."""
        if isinstance(self.images, np.ndarray):
            return self.images[index]
        try:
            return pixels.decode(self.images[index], self.shape[-1])
        except Exception as error:  # file formats and decoders raise what the bytes lead them to
            raise pixels.Damaged(f"{self.name}: {self.images.where(index)}: {error}") from error

    @property
    def one_pool(self) -> bool:
        return np.array_equal(self.train_pool, self.test_pool)


class Split(NamedTuple):
    """Sorted int64 indices of training and held-out images; `rule` says how any seed chooses them."""

    train: np.ndarray
    test: np.ndarray
    rule: str


SIZES = {"digits": (1_797, 0), "fashion_mnist": (60_000, 10_000), "cifar10": (50_000, 10_000)}
"""name -> how many training and test images the data set has; a file that holds another number is refused."""

CLASS_NAMES = {
    "digits": tuple("0123456789"),
    "fashion_mnist": (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
    "cifar10": (
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    ),
}

_FASHION_MNIST_FILES = (
    ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
)
_CIFAR10_BATCHES = (tuple(f"data_batch_{number}.bin" for number in range(1, 6)), ("test_batch.bin",))
_IMAGES_PER_SHEET = 500


PLANNED = {"imagenet2012": ((224, 224, 3), 1_281_167, 50_000, 1000)}
"""name -> (H, W, C), training and test images, classes, of data sets that can be planned for without being there."""


@functools.cache
def outline(name: str, data_dir: str = "", train_split: str = "train", test_split: str = "") -> Source:
    """What a plan needs to know: as by `load`; of one of `PLANNED` that is not there, all but the pixels."""
    if name not in PLANNED or stored.find(root(data_dir) / name, name) is not None:
        return load(name, data_dir, train_split, test_split)
    shape, train, test, classes = PLANNED[name]
    return Source(
        name=name,
        images=np.broadcast_to(np.uint8(0), (train + test, *shape)),
        labels_N=np.broadcast_to(np.int32(0), train + test),
        class_names=("",) * classes,
        train_pool=np.arange(train),
        test_pool=np.arange(train, train + test),
        mean=(0.0,) * shape[-1],
        std=(1.0,) * shape[-1],
        fingerprint="",
    )


def load(
    name: str, data_dir: str = "", train_split: str = "train", test_split: str = "", resolution: int = 0
) -> Source:
    """Loads a data set, once per process. Of images on disk only the facts are read.

    Args:
      name: of the folder that holds the data: what `python -m mnet_jax.data.prepare` has written (TFDS's words, such
        as "imagenet2012" or "imagenet2012/short_256"), images as `train/CLASS/*`, or the original files of a key of
        `SOURCES`. "digits" needs no folder: it comes with scikit-learn.
      data_dir: where that folder is; "" = the environment variable MNET_DATA_DIR, or else ~/.cache/mnet_jax.
      train_split: what a seed may train on, such as "train[:90%]"; only of images on disk.
      test_split: what it may hold out; "" = the test set, or the validation set where that has no labels.
      resolution: height and width that the images are resized to (V1's resolution multiplier); 0 = as they are. The
        fingerprint stays that of the images as they are, so that arms of other resolutions compare.

    Raises:
      ValueError: it is not there (with the command that gets it) or damaged, or a split is unknown.
    """
    return _load(name, root(data_dir), train_split, test_split, resolution)


def chosen(data: Any) -> Source:
    """The source that the knobs `data` name."""
    return load(data.source, data.dir, data.train_split, data.test_split, data.resolution)


def root(data_dir: str = "") -> Path:
    """The folder of the data sets."""
    return Path(data_dir or os.environ.get("MNET_DATA_DIR") or "~/.cache/mnet_jax").expanduser()


@functools.cache
def _load(name: str, data_dir: Path, train_split: str, test_split: str, resolution: int) -> Source:
    if resolution:
        source = _load(name, data_dir, train_split, test_split, 0)
        return replace(source, images=resized(in_memory(source), resolution))
    store = None if name == "digits" else stored.find(data_dir / name, name)
    if store is not None:
        return from_store(store, train_split, test_split)
    if (train_split, test_split) != ("train", ""):
        raise ValueError(
            f"data.train_split={train_split!r}, data.test_split={test_split!r} need prepared data; "
            f"{data_dir / name} holds none: {stored.command(name)}"
        )
    if name not in SOURCES:
        nearest = difflib.get_close_matches(name, SOURCES, n=1)
        hint = f"did you mean {nearest[0]!r}? " if nearest else ""
        raise ValueError(
            f"data source {name!r} is not in {data_dir}: {hint}prepare it with `{stored.command(name)} "
            f"--data_dir {data_dir}`, or put images into {data_dir / name} as train/CLASS/*; 'digits' needs no file"
        )
    return SOURCES[name](data_dir / name)


def from_store(store: stored.Store, train_split: str = "train", test_split: str = "") -> Source:
    """A measured data set on disk; see `load`."""
    measured = stored.read_facts(store)
    if measured is None:
        raise ValueError(f"{store.path} was not measured yet: {stored.command(store.name)}")
    facts, labels = measured
    labelled = {split: size for split, size in store.sizes.items() if labels[split].min(initial=0) >= 0}
    choices = [split for split in ("test", "validation", "val") if split in labelled]
    words = train_split, test_split or (choices[0] if choices else train_split)
    starts = dict(zip(store.sizes, np.cumsum([0, *store.sizes.values()]).tolist(), strict=False))
    parts = [stored.ranges(word, labelled) for word in words]
    pools = [
        np.concatenate([np.arange(starts[split] + first, starts[split] + last) for split, first, last in part])
        for part in parts
    ]
    if parts[0] != parts[1] and len(np.intersect1d(pools[0], pools[1])):
        raise ValueError(f"train_split={words[0]!r} and test_split={words[1]!r} share images")
    labels_N = np.concatenate([labels[split] for split in store.sizes])
    digest = hashlib.sha256(repr((facts.name, facts.version, parts, sorted(facts.labels.items()))).encode())
    for array in (labels_N, *pools):
        array.flags.writeable = False
    return Source(
        name=facts.name,
        images=stored.Records(store, facts.shape),
        labels_N=labels_N,
        class_names=facts.class_names,
        train_pool=pools[0],
        test_pool=pools[1],
        mean=facts.mean,
        std=facts.std,
        fingerprint=digest.hexdigest()[:12],
    )


def from_arrays(name: str, *parts: tuple[np.ndarray, np.ndarray], class_names: tuple[str, ...]) -> Source:
    """A data set from arrays: (uint8 [N, H, W, C], integers [N]) to train on and, if there is one, the test set."""
    for images, labels in parts:
        if images.dtype != np.uint8 or images.ndim != 4 or labels.shape != images.shape[:1]:
            came = f"{images.dtype}{list(images.shape)} with labels {labels.dtype}{list(labels.shape)}"
            raise ValueError(f"{name}: {came}; allowed: uint8[N, H, W, C] with integers[N]")
        _check_labels(class_names, labels)
    return _source(name, *parts, class_names=class_names)


def in_memory(source: Source) -> np.ndarray:
    """All images, uint8 [N, H, W, C]; those on disk are decoded. Raises ValueError where they differ in size."""
    if isinstance(source.images, np.ndarray):
        return source.images
    H, W, C = source.shape
    if not H:
        raise ValueError(f"the images of {source.name} differ in size: set data.size to what they are cropped to")
    images = np.empty((len(source.images), H, W, C), np.uint8)
    for index in range(len(images)):
        images[index] = source.image(index)
    return images


def resized(images_NHWC: np.ndarray, resolution: int) -> np.ndarray:
    """Resizes uint8 images bilinearly, with a triangle as wide as the step where they shrink; read-only."""
    _, H, W, _ = images_NHWC.shape
    rows, columns = (_triangles(size, resolution).astype(np.float32) for size in (H, W))
    made_NHWC = np.empty((len(images_NHWC), resolution, resolution, images_NHWC.shape[-1]), np.uint8)
    for first in range(0, len(images_NHWC), 1000):
        block = images_NHWC[first : first + 1000].astype(np.float32)
        block = np.einsum("yh,xw,nhwc->nyxc", rows, columns, block, optimize=True)
        made_NHWC[first : first + 1000] = np.rint(block)
    made_NHWC.flags.writeable = False
    return made_NHWC


def _triangles(before: int, after: int) -> np.ndarray:
    """[after, before]: the share of each old pixel in a new one; pixels are squares, and centers their places."""
    scale = max(1.0, before / after)
    centers = (np.arange(after) + 0.5) * before / after - 0.5
    weights = np.maximum(0, 1 - np.abs(centers[:, None] - np.arange(before)) / scale)
    return weights / weights.sum(1, keepdims=True)


def digits(folder: Path) -> Source:
    """The 1,797 digits that come with scikit-learn (from UCI's Optical Recognition of Handwritten Digits).

    8x8 pixels of 0 to 16, enlarged bilinearly (half-pixel centers) to 16x16x1 and scaled to 0 to 255. No
    test set is fixed. The file is read without importing scikit-learn, which takes over a second.
    """
    spec = importlib.util.find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise ValueError("data source 'digits' comes with scikit-learn, which is not installed")
    path = Path(spec.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    with _naming(path):
        table = np.loadtxt(path, delimiter=",", dtype=np.uint8).reshape(SIZES["digits"][0], 65)
        _check_labels(CLASS_NAMES["digits"], table[:, 64])
    weights = _triangles(8, 16)
    images = np.rint(weights @ table[:, :64].reshape(-1, 8, 8) @ weights.T * (255 / 16))
    return _source("digits", (images[..., None].astype(np.uint8), table[:, 64]))


def fashion_mnist(folder: Path) -> Source:
    """Fashion-MNIST (Xiao et al. 2017), the original files: 28x28x1, 60,000 training, 10,000 test images."""
    files = [file for pair in _FASHION_MNIST_FILES for file in pair]
    for file in files:
        if not (folder / file).exists():
            home = "github.com/zalandoresearch/fashion-mnist"
            raise _missing("fashion_mnist", folder / file, ", ".join(files), home)
    parts = []
    for size, (images, labels) in zip(SIZES["fashion_mnist"], _FASHION_MNIST_FILES, strict=True):
        with _naming(folder / images):
            images_NHW = _read_idx(folder / images, (size, 28, 28))
        with _naming(folder / labels):
            labels_N = _read_idx(folder / labels, (size,))
            _check_labels(CLASS_NAMES["fashion_mnist"], labels_N)
        parts.append((images_NHW[..., None], labels_N))
    return _source("fashion_mnist", *parts)


def cifar10(folder: Path) -> Source:
    """CIFAR-10 (Krizhevsky 2009): 32x32x3, 50,000 training and 10,000 test images.

    Read from the official `cifar-10-binary.tar.gz`, or else from lossless WebP sheets: `train-NNN.webp` and
    `test-NNN.webp` with 500 images one under the other, labels in `train-labels.npy` and `test-labels.npy`.
    The same images in another order are another data set to a seed, so they have another fingerprint.
    """
    archive = folder / "cifar-10-binary.tar.gz"
    if archive.exists():
        parts = _read_cifar10_archive(archive)
    elif (folder / "train-labels.npy").exists():
        sizes = zip(("train", "test"), SIZES["cifar10"], strict=True)
        parts = [_read_sheets(folder, part, size) for part, size in sizes]
    else:
        files = "cifar-10-binary.tar.gz (or WebP sheets with train-labels.npy and test-labels.npy)"
        raise _missing("cifar10", archive, files, "www.cs.toronto.edu/~kriz/cifar.html")
    return _source("cifar10", *parts)


SOURCES: Mapping[str, Callable[[Path], Source]] = {
    "digits": digits,
    "fashion_mnist": fashion_mnist,
    "cifar10": cifar10,
}


def split(source: Source, seed: int, train_size: int = 0, holdout: int = 0) -> Split:
    """Which images this seed trains on and which it holds out.

    Args:
      source: a data set.
      seed: the run's seed.
      train_size: images drawn from the training pool without replacement; 0 = all that may be trained on.
      holdout: 0 = the held-out set is the test set, or the rest of the pool where there is no fixed test set.
        Otherwise (tuning) this many images of the training pool are held out instead, and the test set is
        never touched; with one pool this is ignored, as every seed already holds out images of its own.

    Raises:
      ValueError: these sizes leave nothing to train on or nothing to hold out.
    """
    pool = len(source.train_pool)
    cut = 0 if source.one_pool else holdout
    if not 0 <= cut < pool:
        raise ValueError(f"holdout={holdout}: allowed are 0 to {pool - 1}, {source.name} has {pool} training images")
    least, most = (1, pool - 1) if source.one_pool else (0, pool - cut)
    if not least <= train_size <= most:
        held = "the rest is held out" if source.one_pool else f"{cut} of them held out"
        raise ValueError(
            f"train_size={train_size}: allowed are {least} to {most}, {source.name} has {pool} images, {held}"
        )
    drawn = _shuffled(source.train_pool, seed, "split")
    train = np.sort(drawn[: train_size or most])
    test = np.sort(drawn[pool - cut :]) if cut else np.setdiff1d(source.test_pool, train)
    if source.one_pool:
        rule = f"{len(train)} training images drawn by the seed, the other {len(test)} held out"
        rule += " (one pool: a tuning seed holds out its own images)" if holdout else ""
    else:
        draw = " drawn by the seed" if len(train) < pool else ""
        held = f"{cut} others held out, test set untouched" if cut else f"the test set of {len(test)} held out"
        rule = f"{len(train)} of {pool} training images{draw}, {held}"
    return Split(train, test, rule)


def epoch_order(seed: int, epoch: int, train_indices: np.ndarray, batch_size: int) -> np.ndarray:
    """The batches of one epoch, int32 [steps, batch]; an incomplete last batch is dropped.

    The permutation depends on (seed, epoch) only, so a run can start at any epoch.

    Raises:
      ValueError: there are fewer images than one batch takes.
    """
    images = len(train_indices)
    if not 1 <= batch_size <= images:
        raise ValueError(f"batch_size={batch_size}: allowed are 1 to {images}, the number of training images")
    steps = images // batch_size
    order = _shuffled(train_indices, seed, "order", epoch)
    return order[: steps * batch_size].reshape(steps, batch_size).astype(np.int32)


def _shuffled(indices: np.ndarray, seed: int, purpose: str, epoch: int = 0) -> np.ndarray:
    """A permutation by (seed, purpose, epoch): the key and, for the epoch, the counter's highest word."""
    key = np.array([seed, int.from_bytes(purpose.encode())], np.uint64)
    bits = np.random.Philox(key=key, counter=np.array([0, 0, 0, epoch], np.uint64)).random_raw(len(indices))
    return indices[np.argsort(bits, kind="stable")]


def _source(name: str, *parts: tuple[np.ndarray, np.ndarray], class_names: tuple[str, ...] = ()) -> Source:
    """Joins (images, labels) of training and, where there is one, the fixed test set, and measures them."""
    images = np.ascontiguousarray(np.concatenate([images for images, _ in parts]))
    labels = np.concatenate([labels for _, labels in parts]).astype(np.int32)
    everything = np.arange(len(images))
    pool = everything[: len(parts[0][0])]
    test_pool = everything[len(pool) :] if len(parts) > 1 else pool
    # Whole-number sums, so that mean and std do not depend on the order of summation.
    channels = images.shape[-1]
    flat = images[: len(pool)].reshape(len(pool), -1)
    count = flat.size // channels
    total = flat.sum(0, np.int64).reshape(-1, channels).sum(0)
    squares = np.square(flat, dtype=np.uint16).sum(0, np.int64).reshape(-1, channels).sum(0)
    mean = total / count
    std = np.sqrt(squares / count - mean**2)
    digest = hashlib.sha256(repr((name, images.shape, labels.shape, len(pool))).encode())
    digest.update(labels.astype("<i4").data)
    digest.update(images.data)
    for array in (images, labels, pool, test_pool):
        array.flags.writeable = False
    return Source(
        name=name,
        images=images,
        labels_N=labels,
        class_names=class_names or CLASS_NAMES[name],
        train_pool=pool,
        test_pool=test_pool,
        mean=tuple((mean / 255).tolist()),
        std=tuple((std / 255).tolist()),
        fingerprint=digest.hexdigest()[:12],
    )


def _read_idx(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """A gzipped idx file: big-endian magic number (0x08 = bytes, then the number of axes), sizes, bytes."""
    data = gzip.decompress(path.read_bytes())
    expected = (0x0800 + len(shape), *shape)
    header = tuple(np.frombuffer(data[: 4 * len(expected)], ">i4").tolist())
    if header != expected:
        raise ValueError(f"its header is {header}, expected is {expected}")
    return np.frombuffer(data, np.uint8, offset=4 * len(expected)).reshape(shape)


def _read_cifar10_archive(path: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Records of a label byte and 3,072 pixel bytes, CHW, straight from the tar."""
    files = {}
    with _naming(path):
        with tarfile.open(path) as archive:
            for member in archive:
                if file := archive.extractfile(member):
                    files[Path(member.name).name] = file.read()
        parts = []
        for names, size in zip(_CIFAR10_BATCHES, SIZES["cifar10"], strict=True):
            if missing := set(names) - files.keys():
                raise ValueError(f"it holds no {', '.join(sorted(missing))}")
            records = np.frombuffer(b"".join(files[name] for name in names), np.uint8).reshape(size, 3_073)
            _check_labels(CLASS_NAMES["cifar10"], records[:, 0])
            parts.append((records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), records[:, 0]))
    return parts


def _read_sheets(folder: Path, part: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    from PIL import Image

    sheets = []
    for path in sorted(folder.glob(f"{part}-*.webp")):
        with _naming(path), Image.open(path) as sheet:
            sheets.append(np.asarray(sheet.convert("RGB")).reshape(_IMAGES_PER_SHEET, 32, 32, 3))
    with _naming(folder / f"{part}-*.webp"):
        if len(sheets) * _IMAGES_PER_SHEET != size:
            raise ValueError(f"{len(sheets)} sheets of {_IMAGES_PER_SHEET} images, expected are {size} images")
    path = folder / f"{part}-labels.npy"
    with _naming(path):
        labels = np.load(path)
        if labels.shape != (size,) or not np.issubdtype(labels.dtype, np.integer):
            raise ValueError(f"it holds {labels.dtype}{list(labels.shape)}, expected are {size} integers")
        _check_labels(CLASS_NAMES["cifar10"], labels)
    return np.concatenate(sheets), labels


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turns whatever is wrong with a file into a ValueError that names it."""
    try:
        yield
    except (OSError, EOFError, ValueError, zlib.error, tarfile.TarError) as error:
        raise ValueError(
            f"{path} cannot be used: {error} (damaged, cut short, or another file under this name)"
        ) from error


def _check_labels(class_names: tuple[str, ...], labels: np.ndarray) -> None:
    classes = len(class_names)
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"its labels go from {labels.min()} to {labels.max()}, allowed are 0 to {classes - 1}")


def _missing(name: str, path: Path, files: str, home: str) -> ValueError:
    return ValueError(
        f"data source {name!r} needs {path}, which does not exist: put {files} from {home} into {path.parent}, or "
        f"get it with `{stored.command(name)} --data_dir {path.parent.parent}`, or name another folder that holds "
        f"{name}/ by --config.data.dir= or the environment variable MNET_DATA_DIR"
    )
