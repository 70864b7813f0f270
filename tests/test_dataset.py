"""Data sets: files are read back exactly, corrupt ones are named, and the seed alone decides splits and orders."""

import gzip
import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest

from mnet_jax import config
from mnet_jax.data import builtin, load
from mnet_jax.data.dataset import (
    CLEAN_EVERY,
    TRAIN_ON,
    Dataset,
    epoch_order,
    from_arrays,
    given_labels,
    split,
    with_unseen_classes,
)
from mnet_jax.errors import UserError

TRAIN, TEST = 12, 5
SHEET = 500


def example(name: str, train: int = TRAIN, test: int = TEST) -> list[tuple[np.ndarray, np.ndarray]]:
    """Random (images, labels) of training and test in the shape of a data set."""
    rng = np.random.default_rng(7)
    shape = {"fashion_mnist": (28, 28, 1), "cifar10": (32, 32, 3)}[name]
    return [
        (rng.integers(0, 256, (size, *shape), np.uint8), rng.integers(0, 10, size, np.uint8)) for size in (train, test)
    ]


def write_idx(folder: Path, parts: list[tuple[np.ndarray, np.ndarray]]) -> None:
    folder.mkdir()
    for part, (images, labels) in zip(("train", "t10k"), parts, strict=True):
        for kind, array in (("images-idx3", images[..., 0]), ("labels-idx1", labels)):
            header = np.array([0x0800 + array.ndim, *array.shape], ">i4").tobytes()
            path = folder / f"{part}-{kind}-ubyte.gz"
            path.write_bytes(gzip.compress(header + array.tobytes(), 1))


def write_archive(folder: Path, parts: list[tuple[np.ndarray, np.ndarray]], leave_out: str = "") -> None:
    """Writes the official layout; the training images are dealt to five batches in order."""
    folder.mkdir()
    (train, train_labels), test = parts
    dealt = zip(np.array_split(train, 5), np.array_split(train_labels, 5), strict=True)
    batches = {f"data_batch_{number}.bin": batch for number, batch in enumerate(dealt, start=1)}
    with tarfile.open(folder / "cifar-10-binary.tar.gz", "w:gz", compresslevel=1) as archive:
        for name, (images, labels) in [("readme.html", test), *batches.items(), ("test_batch.bin", test)]:
            pixels = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
            data = np.concatenate([labels[:, None], pixels], axis=1).tobytes()
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(data)
            if name != leave_out:
                archive.addfile(member, io.BytesIO(data))


def write_sheets(folder: Path, parts: list[tuple[np.ndarray, np.ndarray]]) -> None:
    from PIL import Image

    folder.mkdir()
    for part, (images, labels) in zip(("train", "test"), parts, strict=True):
        np.save(folder / f"{part}-labels.npy", labels)
        for number, sheet in enumerate(images.reshape(-1, SHEET * 32, 32, 3)):
            Image.fromarray(sheet).save(folder / f"{part}-{number:03}.webp", lossless=True, quality=0, method=0)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("fashion_mnist", "cifar10"):
        monkeypatch.setitem(builtin.SIZES, name, (TRAIN, TEST))


@pytest.fixture
def fashion(small: None, tmp_path: Path) -> Dataset:
    write_idx(tmp_path / "fashion_mnist", example("fashion_mnist"))
    return load.from_name("fashion_mnist", str(tmp_path))


def assert_holds(source: Dataset, parts: list[tuple[np.ndarray, np.ndarray]]) -> None:
    for indices, (images, labels) in zip((source.train_indices, source.test_indices), parts, strict=True):
        np.testing.assert_array_equal(source.in_memory()[indices], images)
        np.testing.assert_array_equal(source.labels_N[indices], labels)
    assert len(source.images) == len(source.train_indices) + len(source.test_indices)
    assert source.in_memory().dtype == np.uint8
    assert source.labels_N.dtype == np.int32


# Digits.


def test_digits_are_those_of_scikit_learn_enlarged_bilinearly():
    from PIL import Image
    from sklearn.datasets import load_digits

    source = load.from_name("digits")
    pixels, labels = load_digits(return_X_y=True)
    np.testing.assert_array_equal(source.labels_N, labels)
    assert source.images.shape == (1797, 16, 16, 1)
    for image, original in zip(source.in_memory()[::100, :, :, 0], pixels[::100], strict=True):
        bilinear = Image.fromarray(original.reshape(8, 8).astype(np.float32)).resize(
            (16, 16), Image.Resampling.BILINEAR
        )
        np.testing.assert_allclose(image, np.asarray(bilinear) * (255 / 16), atol=0.5 + 1e-3)


def test_digits_are_the_same_data_everywhere():
    source = load.from_name("digits")
    assert source.fingerprint == "b1c2bcc850c9"
    assert (source.classes, source.class_names[9]) == (10, "9")
    np.testing.assert_array_equal(source.train_indices, source.test_indices)


def test_smaller_images_are_those_of_pillow_and_the_same_data():
    from PIL import Image

    source, small = load.from_name("digits"), load.from_name("digits", resolution=12)
    assert small.images.shape == (1797, 12, 12, 1)
    assert small.fingerprint == source.fingerprint
    assert not small.in_memory().flags.writeable
    for before, after in zip(*(dataset.in_memory()[:20, ..., 0] for dataset in (source, small)), strict=True):
        expected = Image.fromarray(before).resize((12, 12), Image.Resampling.BILINEAR)
        np.testing.assert_allclose(after.astype(int), np.asarray(expected).astype(int), atol=1)


def test_a_plan_needs_no_pixels():
    data = config.default().data
    assert load.metadata(data) is load.from_config(data)
    data.source = "imagenet2012"
    source = load.metadata(data)
    assert source.images.shape == (1_331_167, 224, 224, 3)
    assert (source.classes, len(source.train_indices), len(source.test_indices)) == (1000, 1_281_167, 50_000)
    assert load.metadata(data) is source


# Files.


def test_idx_files_are_read_exactly(fashion: Dataset):
    assert_holds(fashion, example("fashion_mnist"))
    assert fashion.class_names[9] == "Ankle boot"
    pixels = example("fashion_mnist")[0][0] / 255
    np.testing.assert_allclose(fashion.mean, [pixels.mean()], rtol=1e-12)
    np.testing.assert_allclose(fashion.std, [pixels.std()], rtol=1e-12)


def test_the_official_archive_is_read_exactly(small: None, tmp_path: Path):
    write_archive(tmp_path / "cifar10", example("cifar10"))
    source = load.from_name("cifar10", str(tmp_path))
    assert_holds(source, example("cifar10"))
    pixels = example("cifar10")[0][0] / 255
    np.testing.assert_allclose(source.mean, pixels.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(source.std, pixels.std((0, 1, 2)), rtol=1e-12)


def test_webp_sheets_are_read_exactly_and_a_missing_one_is_noticed(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(builtin.SIZES, "cifar10", (2 * SHEET, SHEET))
    parts = example("cifar10", 2 * SHEET, SHEET)
    folder = tmp_path / "cifar10"
    write_sheets(folder, parts)
    assert_holds(builtin.cifar10(folder), parts)

    kept = (folder / "train-000.webp").read_bytes()
    (folder / "train-000.webp").write_bytes(kept[: len(kept) // 2])
    with pytest.raises(ValueError, match=r"train-000\.webp cannot be used"):
        builtin.cifar10(folder)
    (folder / "train-000.webp").unlink()
    with pytest.raises(ValueError, match=r"train-\*\.webp cannot be used: 1 sheets"):
        builtin.cifar10(folder)
    (folder / "train-000.webp").write_bytes(kept)
    for labels in (parts[1][1][:-1], parts[1][1] * 1.0, parts[1][1] + 1):
        np.save(folder / "test-labels.npy", labels)
        with pytest.raises(ValueError, match=r"test-labels\.npy cannot be used"):
            builtin.cifar10(folder)
    (folder / "test-labels.npy").unlink()
    with pytest.raises(ValueError, match=r"test-labels\.npy cannot be used"):
        builtin.cifar10(folder)


def test_the_fingerprint_tells_data_apart(small: None, tmp_path: Path):
    def fingerprint(name: str, parts: list[tuple[np.ndarray, np.ndarray]]) -> str:
        write_idx(tmp_path / name, parts)
        return builtin.fashion_mnist(tmp_path / name).fingerprint

    same, pixel, label = example("fashion_mnist"), example("fashion_mnist"), example("fashion_mnist")
    pixel[1][0][2, 3, 4] ^= 1
    label[0][1][0] = (label[0][1][0] + 1) % 10
    original = fingerprint("original", same)
    assert fingerprint("again", same) == original
    assert len({original, fingerprint("pixel", pixel), fingerprint("label", label)}) == 3


def test_arrays_are_loaded_once_and_are_read_only(fashion: Dataset, tmp_path: Path):
    assert load.from_name("fashion_mnist", str(tmp_path)) is fashion
    for array in (fashion.in_memory(), fashion.labels_N, fashion.train_indices, fashion.test_indices):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def with_other_count(data: bytes) -> bytes:
    return gzip.compress(gzip.decompress(data).replace(b"\0\0\0\x0c", b"\0\0\0\x0b", 1))


def with_other_magic(data: bytes) -> bytes:
    return gzip.compress(b"\0\0\x0d" + gzip.decompress(data)[3:])


@pytest.mark.parametrize("file", ["train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: b"<!DOCTYPE html>" + data,
        lambda data: data[:10] + b"\xff" + data[11:],
        lambda data: gzip.compress(gzip.decompress(data)[:-1]),
        lambda data: gzip.compress(gzip.decompress(data) + b"\0"),
        with_other_count,
        with_other_magic,
    ],
    ids=["empty", "cut", "not gzip", "overwritten", "short", "long", "count", "magic"],
)
def test_a_corrupt_idx_file_is_named(small: None, tmp_path: Path, file: str, damage):
    write_idx(tmp_path / "fashion_mnist", example("fashion_mnist"))
    path = tmp_path / "fashion_mnist" / file
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=f"{path} cannot be used"):
        load.from_name("fashion_mnist", str(tmp_path))


def test_labels_out_of_range_are_refused(small: None, tmp_path: Path):
    for name, write, file in (
        ("fashion_mnist", write_idx, "t10k-labels-idx1-ubyte.gz"),
        ("cifar10", write_archive, "cifar-10-binary.tar.gz"),
    ):
        parts = example(name)
        parts[1][1][3] = 10
        write(tmp_path / name, parts)
        with pytest.raises(ValueError, match=rf"{file} cannot be used.* to 10, allowed are 0 to 9"):
            load.from_name(name, str(tmp_path))


def test_a_corrupt_archive_is_named(small: None, tmp_path: Path):
    parts = example("cifar10")
    write_archive(tmp_path / "whole", parts)
    whole = (tmp_path / "whole" / "cifar-10-binary.tar.gz").read_bytes()
    for data in (b"", b"<!DOCTYPE html>", whole[: len(whole) // 2], whole[:-200]):
        (tmp_path / "whole" / "cifar-10-binary.tar.gz").write_bytes(data)
        with pytest.raises(ValueError, match=r"cifar-10-binary\.tar\.gz cannot be used"):
            builtin.cifar10(tmp_path / "whole")
    write_archive(tmp_path / "batch", parts, leave_out="data_batch_3.bin")
    with pytest.raises(ValueError, match=r"cifar-10-binary\.tar\.gz cannot be used: it holds no data_batch_3\.bin"):
        builtin.cifar10(tmp_path / "batch")
    write_archive(tmp_path / "fewer", example("cifar10", train=TRAIN - 1))
    with pytest.raises(ValueError, match=r"cifar-10-binary\.tar\.gz cannot be used"):
        builtin.cifar10(tmp_path / "fewer")


@pytest.mark.parametrize(
    ("name", "file", "home"),
    [
        ("fashion_mnist", "train-images-idx3-ubyte.gz", "github.com/zalandoresearch/fashion-mnist"),
        ("cifar10", "cifar-10-binary.tar.gz", "www.cs.toronto.edu/~kriz/cifar.html"),
    ],
)
def test_a_missing_data_set_says_what_to_do(tmp_path: Path, monkeypatch, name: str, file: str, home: str):
    monkeypatch.setenv("MNET_DATA_DIR", str(tmp_path))
    with pytest.raises(ValueError, match="does not exist") as error:
        load.from_name(name)
    for expected in (str(tmp_path / name / file), home, "--config.data.dir=", "MNET_DATA_DIR"):
        assert expected in str(error.value)


def test_one_missing_file_is_the_one_named(fashion: Dataset, tmp_path: Path):
    (tmp_path / "fashion_mnist" / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(ValueError, match=r"t10k-labels-idx1-ubyte\.gz, which does not exist"):
        builtin.fashion_mnist(tmp_path / "fashion_mnist")


def test_the_folder_is_the_argument_then_the_environment_then_the_cache(fashion, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("MNET_DATA_DIR", str(tmp_path))
    assert load.from_name("fashion_mnist") is fashion
    with pytest.raises(ValueError, match="elsewhere"):
        load.from_name("fashion_mnist", str(tmp_path / "elsewhere"))
    monkeypatch.delenv("MNET_DATA_DIR")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with pytest.raises(ValueError, match=str(tmp_path / "home" / ".cache" / "mnet_jax" / "fashion_mnist")):
        load.from_name("fashion_mnist")


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match=r"'cifar_10'.*did you mean 'cifar10'.*data.prepare cifar_10 --data_dir"):
        load.from_name("cifar_10")


@pytest.mark.parametrize(
    ("name", "images", "mean", "std"),
    [
        ("fashion_mnist", (70_000, 28, 28, 1), [0.28604], [0.35302]),
        (
            "cifar10",
            (60_000, 32, 32, 3),
            [0.49139968, 0.48215841, 0.44653091],
            [0.24703223, 0.24348513, 0.26158784],
        ),
    ],
)
def test_published_mean_and_deviation(name: str, images: tuple[int, ...], mean: list[float], std: list[float]):
    if not (Path(os.environ.get("MNET_DATA_DIR", "/nonexistent")) / name).exists():
        pytest.skip("MNET_DATA_DIR does not hold it")
    source = load.from_name(name)
    assert source.images.shape == images
    digits = 5e-6 if name == "fashion_mnist" else 5e-9
    np.testing.assert_allclose(source.mean, mean, rtol=0, atol=digits)
    np.testing.assert_allclose(source.std, std, rtol=0, atol=digits)
    np.testing.assert_array_equal(np.bincount(source.labels_N), [images[0] // 10] * 10)


# Arrays.


def arrays(count: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Images with labels, masks and boxes."""
    rng = np.random.default_rng(count)
    targets = {
        "labels": np.arange(count) % 2,
        "masks": rng.integers(0, 3, (count, 6, 5), np.uint8),
        "boxes": rng.random((count, 2, 4), np.float32),
    }
    return rng.integers(0, 256, (count, 6, 5, 3), np.uint8), targets


def test_arrays_are_a_data_set():
    train, test = arrays(15), arrays(5)
    dataset = from_arrays("mine", train, test, class_names=["a", "b"])
    assert (dataset.classes, dataset.shape, dataset.has_fixed_test_set) == (2, (6, 5, 3), True)
    np.testing.assert_array_equal(dataset.image(17), test[0][2])
    for name, array in dataset.targets.items():
        np.testing.assert_array_equal(array, np.concatenate([train[1][name], test[1][name]]))
        assert array.dtype == (np.int32 if name == "labels" else train[1][name].dtype)
        assert not array.flags.writeable
    np.testing.assert_array_equal(dataset.labels_N, dataset.targets["labels"])
    small = dataset.resized(4).targets
    assert small["masks"].shape == (20, 4, 4)
    assert all(small[name] is dataset.targets[name] for name in ("labels", "boxes"))
    alone = from_arrays("mine", (train[0], {}))
    assert (alone.classes, alone.has_fixed_test_set) == (0, False)
    np.testing.assert_allclose(alone.mean, (train[0] / 255).mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(alone.std, (train[0] / 255).std((0, 1, 2)), rtol=1e-12)


def test_every_array_is_part_of_the_fingerprint():
    def fingerprint(change: str = "", images: np.ndarray | None = None) -> str:
        train_images, targets = arrays(15)
        if change:
            targets[change] = targets[change].copy()
            targets[change].flat[3] = 1 if targets[change].flat[3] == 0 else 0
        return from_arrays("mine", (train_images if images is None else images, targets), class_names="ab").fingerprint

    other = arrays(15)[0].copy()
    other[3, 2, 1, 0] ^= 1
    assert fingerprint() == fingerprint()
    assert len({fingerprint(), fingerprint(images=other), *map(fingerprint, ("labels", "masks", "boxes"))}) == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": lambda x: x / 255}, r"images are float64\[15, 6, 5, 3\]; allowed: uint8"),
        ({"images": lambda x: x[..., 0]}, "allowed: uint8"),
        ({"images": lambda x: x[:0]}, "allowed: uint8"),
        ({"labels": lambda x: x * 1.0}, "'labels' is float64.*allowed: integers"),
        ({"labels": lambda x: x[:, None]}, "'labels' is .*allowed: integers"),
        ({"labels": lambda x: x + 1}, "from 1 to 2, allowed are 0 to 1"),
        ({"labels": lambda x: x - 1}, "from -1 to 0, allowed are 0 to 1"),
        ({"masks": lambda x: x[:-1]}, "'masks' is .* for 15 images"),
        ({"masks": lambda x: x.astype(object)}, "'masks' is object.*allowed: bool, uint8"),
        ({"boxes": lambda x: x.astype(np.float64)}, "'boxes' is float64.*float32"),
        ({"boxes": lambda x: x[:, :1]}, r"float32\[N, 1, 4\].* test arrays are .*float32\[N, 2, 4\]"),
        ({"masks": lambda x: x.astype(np.int32)}, "training arrays are .* test arrays are"),
        ({"images": lambda x: x[:, :4]}, "training arrays are .* test arrays are"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(change, message):
    images, targets = arrays(15)
    (name, function), *_ = change.items()
    if name == "images":
        images = function(images)
    else:
        targets[name] = function(targets[name])
    with pytest.raises(UserError, match=message):
        from_arrays("mine", (images, targets), arrays(5), class_names=("a", "b"))


def test_labels_need_names_and_both_parts_the_same_targets():
    images, targets = arrays(15)
    with pytest.raises(UserError, match="for 0 class names"):
        from_arrays("mine", (images, targets))
    with pytest.raises(UserError, match="test arrays are"):
        from_arrays("mine", (images, {}), arrays(5), class_names=("a", "b"))


# Splits.


def test_a_split_of_one_pool_is_disjoint_and_complete_but_for_what_is_for_tuning():
    source = load.from_name("digits")
    train, test, rule, drawn = split(source, seed=3, train_size=600)
    assert (len(train), len(test)) == (600, 897)
    np.testing.assert_array_equal(np.sort(np.concatenate([train, test, np.arange(0, 1797, 6)])), np.arange(1797))
    assert rule == "600 training images drawn by the seed, the other 897 held out, 300 set aside for tuning"
    assert drawn == "training and test images"


def test_the_seed_decides_the_split_and_not_its_rule():
    source = load.from_name("digits")
    a, again, b = (split(source, seed, 600) for seed in (3, 3, 4))
    np.testing.assert_array_equal(a.train, again.train)
    assert np.isin(a.train, b.train).sum() < 300  # 200 are expected of two independent draws
    assert a.rule == b.rule != split(source, 3, 601).rule


def test_every_image_is_drawn_equally_often():
    source = load.from_name("digits")
    draws = 400
    counts = np.bincount(np.concatenate([split(source, seed, 600).train for seed in range(draws)]))
    assert not counts[::6].any(), "these are for tuning"
    counts, share = np.delete(counts, np.arange(0, 1797, 6)), 600 / 1497
    deviations = (counts - draws * share) / np.sqrt(draws * share * (1 - share))
    assert len(counts) == 1497
    assert np.abs(deviations).max() < 5
    assert 0.85 < deviations.std() < 1.15


def test_a_fixed_test_set_is_held_out_whole(fashion: Dataset):
    some = split(fashion, 0, train_size=4)
    assert len(some.train) == 4
    assert (some.drawn, split(fashion, 0).drawn) == ("training images", "nothing")
    assert some.rule == "4 of 12 training images drawn by the seed, the test set of 5 held out"
    everything = split(fashion, 0)
    np.testing.assert_array_equal(everything.train, fashion.train_indices)
    assert everything.rule == "12 of 12 training images, the test set of 5 held out"
    for drawn in (some, everything):
        np.testing.assert_array_equal(drawn.test, fashion.test_indices)
        assert np.isin(drawn.train, fashion.train_indices).all()


def test_tuning_never_touches_the_test_set(fashion: Dataset):
    rest = split(fashion, 0, train_size=0, holdout=3)
    np.testing.assert_array_equal(np.sort(np.concatenate([rest.train, rest.test])), fashion.train_indices)
    some = split(fashion, 0, train_size=4, holdout=3)
    assert (len(rest.test), len(some.train), len(some.test)) == (3, 4, 3)
    assert not np.isin(some.test, some.train).any()
    assert np.isin(np.concatenate(some[:2]), fashion.train_indices).all()
    assert len({some.rule, rest.rule, split(fashion, 0, 4).rule}) == 3
    assert "test set untouched" in some.rule


def test_tuning_on_one_pool_scores_on_images_that_no_reported_run_sees():
    source = load.from_name("digits")
    tunings = [split(source, seed, 600, holdout=100) for seed in (10_000, 10_001)]
    for seed in range(5):
        reported = split(source, seed, 600)
        for tuning in tunings:
            assert not np.isin(tuning.test, np.concatenate([reported.train, reported.test])).any()
            assert not np.isin(tuning.test, tuning.train).any()
    np.testing.assert_array_equal(tunings[0].test, tunings[1].test)
    assert (tunings[0].train != tunings[1].train).any()
    assert tunings[0].rule == "600 training images drawn by the seed, the 300 for tuning held out"


@pytest.mark.parametrize(("train_size", "holdout"), [(13, 0), (10, 3), (-1, 0), (0, 12), (0, -1)])
def test_impossible_sizes_are_refused(fashion: Dataset, train_size: int, holdout: int):
    with pytest.raises(ValueError, match=r"(train_size|holdout)=-?\d+: allowed are"):
        split(fashion, 0, train_size, holdout)


@pytest.mark.parametrize("train_size", [0, 1497])
def test_one_pool_keeps_something_to_hold_out(train_size: int):
    with pytest.raises(ValueError, match=r"allowed are 1 to 1496"):
        split(load.from_name("digits"), 0, train_size)


# Orders.


def test_an_epoch_is_a_permutation_set_by_seed_and_epoch():
    train = np.arange(100, 700)
    order = epoch_order(2, 5, train, 60)
    assert (order.shape, order.dtype) == ((10, 60), np.int32)
    np.testing.assert_array_equal(np.sort(order, axis=None), train)
    np.testing.assert_array_equal(order, epoch_order(2, 5, train, 60))
    for other in (epoch_order(3, 5, train, 60), epoch_order(2, 6, train, 60)):
        assert (order == other).mean() < 0.05


def test_an_incomplete_last_batch_is_dropped():
    order = epoch_order(0, 0, np.arange(103), 25)
    assert order.shape == (4, 25)
    assert len(np.unique(order)) == 100
    np.testing.assert_array_equal(order.ravel(), epoch_order(0, 0, np.arange(103), 50).ravel())


def test_orders_and_splits_do_not_share_a_stream():
    source = load.from_name("digits")
    drawn = split(source, 1, 600).train
    first = epoch_order(1, 0, source.train_indices, 600)[0]
    assert np.isin(drawn, first).sum() < 300


@pytest.mark.parametrize("batch_size", [0, 101])
def test_a_batch_larger_than_the_data_is_refused(batch_size: int):
    with pytest.raises(ValueError, match=f"batch_size={batch_size}: allowed are 1 to 100"):
        epoch_order(0, 0, np.arange(100), batch_size)


def test_clean_and_noisy_images_are_drawn_apart_and_neither_is_held_out():
    digits = load.from_name("digits")
    clean, noisy, pooled = (split(digits, 3, 100, 0, 600, train_on) for train_on in TRAIN_ON)
    assert (len(clean.train), len(noisy.train)) == (100, 600)
    assert not (clean.train % CLEAN_EVERY).any()
    assert (noisy.train % CLEAN_EVERY).all()
    np.testing.assert_array_equal(pooled.train, np.union1d(clean.train, noisy.train))
    for other in (noisy, pooled):
        np.testing.assert_array_equal(clean.test, other.test)
    assert not np.intersect1d(pooled.train, pooled.test).size
    assert len(pooled.test) == 1497 - 700
    assert not np.array_equal(clean.train, split(digits, 4, 100, 0, 600).train)


def test_noisy_images_are_not_those_held_out_to_tune():
    source = with_unseen_classes(load.from_name("digits"), 3)
    train, test, *_ = split(source, 0, 100, 500, 500, "pooled")
    assert (len(train), len(test)) == (600, 500)
    assert not np.intersect1d(train, test).size
    with pytest.raises(UserError, match=r"noisy_size=600: with noisy labels allowed are 1 to 5\d\d of digits"):
        split(source, 0, 100, 500, 600)


@pytest.mark.parametrize(("clean", "noisy"), [(0, 4), (2, 10), (4, 4)])
def test_impossible_sizes_of_clean_and_noisy_images_are_refused(fashion: Dataset, clean: int, noisy: int):
    with pytest.raises(UserError, match=r"_size=\d+: with noisy labels allowed are 1 to \d of fashion_mnist"):
        split(fashion, 0, clean, 0, noisy)


def test_wrong_labels_are_a_share_spread_over_the_other_classes_and_grow_with_it():
    labels_N = np.arange(40_000, dtype=np.int32) // 4 % 10
    half_N, most_N = (given_labels(labels_N, 10, share) != labels_N for share in (0.5, 0.8))
    noisy_N = np.arange(len(labels_N)) % CLEAN_EVERY > 0
    assert not half_N[~noisy_N].any()
    assert half_N[noisy_N].mean() == pytest.approx(0.5, abs=0.01)
    assert most_N[noisy_N].mean() == pytest.approx(0.8, abs=0.01)
    assert most_N[half_N].all()
    given_N = given_labels(labels_N, 10, 0.5)
    assert given_N.dtype == np.int32
    np.testing.assert_allclose(
        np.bincount((given_N - labels_N)[half_N] % 10) / half_N.sum(), [0, *[1 / 9] * 9], atol=0.01
    )
