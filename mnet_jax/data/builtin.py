"""The data sets that need no preparation: digits, Fashion-MNIST and CIFAR-10 from their original files."""

import contextlib
import gzip
import importlib.util
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from mnet_jax.data import disk, transforms
from mnet_jax.data.dataset import Dataset, Part, check_labels, from_arrays
from mnet_jax.errors import UserError

SIZES = {"digits": (1_797, 0), "fashion_mnist": (60_000, 10_000), "cifar10": (50_000, 10_000)}
"""name -> how many training and test images the data set has; other numbers are refused."""

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


def digits() -> Dataset:
    """The 1,797 digits that come with scikit-learn (from UCI's Optical Recognition of Handwritten Digits).

    8x8 pixels of 0 to 16, enlarged bilinearly (half-pixel centers) to 16x16x1 and scaled to 0 to 255. No
    test set is fixed. The file is read without importing scikit-learn, which takes over a second.
    """
    path = scikit_learn_file("data", "digits.csv.gz")
    with _naming(path):
        table = np.loadtxt(path, delimiter=",", dtype=np.uint8).reshape(SIZES["digits"][0], 65)
        check_labels(table[:, 64], CLASS_NAMES["digits"])
    weights = transforms.bilinear_weights(8, 16)
    images_NHW = np.rint(weights @ table[:, :64].reshape(-1, 8, 8) @ weights.T * (255 / 16))
    images_NHWC = images_NHW[..., None].astype(np.uint8)
    return from_arrays("digits", (images_NHWC, {"labels": table[:, 64]}), class_names=CLASS_NAMES["digits"])


def scikit_learn_file(*parts: str) -> Path:
    """A file of scikit-learn's folder `datasets`; UserError where scikit-learn is not installed."""
    spec = importlib.util.find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("the digits and the photographs come with scikit-learn, which is not installed")
    return Path(spec.submodule_search_locations[0]).joinpath("datasets", *parts)


def fashion_mnist(folder: Path) -> Dataset:
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
            check_labels(labels_N, CLASS_NAMES["fashion_mnist"])
        parts.append((images_NHW[..., None], {"labels": labels_N}))
    return from_arrays("fashion_mnist", *parts, class_names=CLASS_NAMES["fashion_mnist"])


def cifar10(folder: Path) -> Dataset:
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
    return from_arrays("cifar10", *parts, class_names=CLASS_NAMES["cifar10"])


FROM_FOLDER: Mapping[str, Callable[[Path], Dataset]] = {
    "fashion_mnist": fashion_mnist,
    "cifar10": cifar10,
}
"""name -> the function that reads the data set from the folder of its original files."""


def _read_idx(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """A gzipped idx file: big-endian magic number (0x08 = bytes, then the number of axes), sizes, bytes."""
    data = gzip.decompress(path.read_bytes())
    expected = (0x0800 + len(shape), *shape)
    header = tuple(np.frombuffer(data[: 4 * len(expected)], ">i4").tolist())
    if header != expected:
        raise UserError(f"its header is {header}, expected is {expected}")
    return np.frombuffer(data, np.uint8, offset=4 * len(expected)).reshape(shape)


def _read_cifar10_archive(path: Path) -> list[Part]:
    """Records of a label byte and 3,072 pixel bytes, CHW, straight from the tar."""
    files = {}
    with _naming(path):
        with tarfile.open(path) as archive:
            for member in archive:
                if file := archive.extractfile(member):
                    files[Path(member.name).name] = file.read()
        parts: list[Part] = []
        for names, size in zip(_CIFAR10_BATCHES, SIZES["cifar10"], strict=True):
            if missing := set(names) - files.keys():
                raise UserError(f"it holds no {', '.join(sorted(missing))}")
            records = np.frombuffer(b"".join(files[name] for name in names), np.uint8).reshape(size, 3_073)
            check_labels(records[:, 0], CLASS_NAMES["cifar10"])
            parts.append((records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), {"labels": records[:, 0]}))
    return parts


def _read_sheets(folder: Path, part: str, size: int) -> Part:
    from PIL import Image

    sheets = []
    for path in sorted(folder.glob(f"{part}-*.webp")):
        with _naming(path), Image.open(path) as sheet:
            sheets.append(np.asarray(sheet.convert("RGB")).reshape(_IMAGES_PER_SHEET, 32, 32, 3))
    with _naming(folder / f"{part}-*.webp"):
        if len(sheets) * _IMAGES_PER_SHEET != size:
            raise UserError(f"{len(sheets)} sheets of {_IMAGES_PER_SHEET} images, expected are {size} images")
    path = folder / f"{part}-labels.npy"
    with _naming(path):
        labels = np.load(path)
        if labels.shape != (size,) or not np.issubdtype(labels.dtype, np.integer):
            raise UserError(f"it holds {labels.dtype}{list(labels.shape)}, expected are {size} integers")
        check_labels(labels, CLASS_NAMES["cifar10"])
    return np.concatenate(sheets), {"labels": labels}


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turns whatever is wrong with a file into a UserError that names it."""
    try:
        yield
    except (OSError, EOFError, ValueError, zlib.error, tarfile.TarError) as error:
        raise UserError(
            f"{path} cannot be used: {error} (corrupt, cut short, or another file under this name)"
        ) from error


def _missing(name: str, path: Path, files: str, home: str) -> UserError:
    return UserError(
        f"data source {name!r} needs {path}, which does not exist: put {files} from {home} into {path.parent}, or "
        f"get it with `{disk.prepare_command(name)} --data_dir {path.parent.parent}`, or name another folder that "
        f"holds {name}/ by --config.data.dir= or the environment variable MNET_DATA_DIR"
    )
