"""Preparing with TFDS and reading back; only the last test needs TensorFlow."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from mnet_jax import config
from mnet_jax.data import disk, load, pipeline, prepare, transforms
from mnet_jax.data.dataset import split
from mnet_jax.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore")

COUNTS = {"train": 30, "test": 9}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A folder of images of many sizes, and the same stored by TFDS with a short side of 32."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for part, count in COUNTS.items():
        for number in range(count):
            folder = root / "photos" / part / ("cat", "dog")[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8))
            coarse.resize(tuple(rng.integers(30, 90, 2).tolist())).save(folder / f"{number:02}.jpg")
    prepare.prepare("photos", root, short_side=32)
    return root


def test_stored_smaller_images_are_the_same_in_the_same_order(root: Path):
    large, small = load.from_name("photos", str(root)), load.from_name("photos/short_32", str(root))
    np.testing.assert_array_equal(large.labels_N[large.train_indices], small.labels_N[small.train_indices])
    assert small.class_names == large.class_names
    assert (len(small.train_indices), len(small.test_indices)) == (30, 9)
    for a, b in ((large.train_indices[7], small.train_indices[7]), (large.test_indices[3], small.test_indices[3])):
        image, shrunk = large.image(int(a)), small.image(int(b))
        assert min(shrunk.shape[:2]) == min(32, *image.shape[:2])
        thumbnails = [transforms.center_crop(x, 16, 1.0).astype(float) for x in (image, shrunk)]
        assert np.abs(thumbnails[0] - thumbnails[1]).mean() < 6
    assert not list(root.glob(".preparing*"))


def test_tensorflow_is_not_needed_to_read(root: Path):
    program = f"""
import sys
from mnet_jax import config
from mnet_jax.data import load, pipeline
from mnet_jax.data.dataset import split
from mnet_jax.errors import UserError
data = config.default().data
data.source, data.dir, data.size = "photos/short_32", {str(root)!r}, 16
dataset = load.from_config(data)
assert len(next(pipeline.Feed(dataset, split(dataset, 0), data, 0, 10).batches())["targets"]["labels"]) == 10
assert not any(name.split(".")[0] == "tensorflow" for name in sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_what_is_whole_is_left_alone(root: Path, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("built again")

    monkeypatch.setattr(prepare, "_shrink", refuse)
    monkeypatch.setattr(prepare, "_measure", refuse)
    assert prepare.prepare("photos", root, short_side=32).name == "photos/short_32"


def test_smaller_images_follow_changed_labels(root: Path, tmp_path: Path):
    subprocess.run(["cp", "-r", str(root / "photos"), str(tmp_path)], check=True)
    (tmp_path / "photos" / "train" / "cat" / "00.jpg").rename(tmp_path / "photos" / "train" / "dog" / "00.jpg")
    small = prepare.prepare("photos", tmp_path, short_side=32)
    large = prepare.prepare("photos", tmp_path)
    np.testing.assert_array_equal(small.labels_N[small.train_indices], large.labels_N[large.train_indices])
    assert np.bincount(small.labels_N[small.train_indices]).tolist() == [14, 16]


def test_other_class_names_are_noticed(root: Path, tmp_path: Path):
    subprocess.run(["cp", "-r", str(root / "photos"), str(tmp_path)], check=True)
    (names,) = (tmp_path / "photos" / "short_32").glob("*/label.labels.txt")
    names.write_text("dog\ncat\n")
    with pytest.raises(UserError, match=r"the class names, .* are not those that were measured"):
        load.from_name("photos/short_32", tmp_path)


def test_a_corrupt_record_is_named_skipped_and_built_anew(root: Path, tmp_path: Path, capsys):
    subprocess.run(["cp", "-r", str(root / "photos"), str(tmp_path)], check=True)
    (file,) = (tmp_path / "photos" / "short_32").glob("*/*train.array_record*")
    whole = file.read_bytes()
    source = load.from_name("photos/short_32", str(tmp_path))
    data = config.default().data
    data.source, data.dir, data.size, data.corrupt = "photos/short_32", str(tmp_path), 16, "skip"
    assert isinstance(source.images, disk.EncodedImages)
    place = whole.index(source.images[12][-60:-20])
    file.write_bytes(whole[:place] + bytes(byte ^ 255 for byte in whole[place : place + 40]) + whole[place + 40 :])
    failed = []
    for index in source.train_indices:
        try:
            source.image(int(index))
        except ValueError as error:
            failed.append(str(error))
    assert 1 <= len(failed) < 30
    assert "of split 'train' in " in failed[0]
    feed = pipeline.Feed(source, split(source, 0), data, 0, 30)
    assert feed.batch(0)["corrupt"] >= len(failed)
    prepare.prepare("photos", tmp_path, short_side=32, again=True)
    assert "prepared anew" in capsys.readouterr().err
    again = load.from_name("photos/short_32", str(root))
    rebuilt = disk.find(tmp_path / "photos" / "short_32", "")
    assert rebuilt is not None
    assert load.from_disk(rebuilt).fingerprint == again.fingerprint
    for index in range(30):
        np.testing.assert_array_equal(load.from_disk(rebuilt).image(index), again.image(index))


def test_an_interrupted_build_is_repeated(root: Path, tmp_path: Path, monkeypatch):
    subprocess.run(["cp", "-r", str(root / "photos"), str(tmp_path)], check=True)
    subprocess.run(["rm", "-r", str(tmp_path / "photos" / "short_32")], check=True)
    measure = prepare._measure

    def interrupted(store):
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare, "_measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare.prepare("photos", tmp_path, short_side=32)
    assert not (tmp_path / "photos" / "short_32").exists()
    monkeypatch.setattr(prepare, "_measure", measure)
    prepare.prepare("photos", tmp_path, short_side=32)
    assert (tmp_path / "photos" / "short_32").exists()
    assert not list(tmp_path.glob(".preparing*"))


def split_infos(**sizes: int) -> list:
    return [tfds.core.SplitInfo(name=name, shard_lengths=[size], num_bytes=0) for name, size in sizes.items()]


@pytest.mark.parametrize("words", ["train[:90%]", "train[33%:67%]", "train[-5:-1]", "test[5%:-10%]", "train[10:20]"])
def test_split_words_mean_what_they_mean_to_tfds(words: str):
    infos = {info.name: info for info in split_infos(train=97, test=13)}
    (absolute,) = tfds.core.ReadInstruction.from_spec(words).to_absolute(infos)
    expected = absolute.splitname, absolute.from_ or 0, absolute.to
    assert disk.parse_split(words, {"train": 97, "test": 13}) == [expected]


def test_imagenets_structure(tmp_path: Path, monkeypatch):
    """As TFDS declares it, with records that stand in for the images."""
    builder = tfds.builder("imagenet2012", data_dir=tmp_path)
    builder.info.set_splits(tfds.core.splits.SplitDict(split_infos(train=4, validation=4, test=4)))
    records = [{"image": bytes([number]), "label": np.int64(7 * number), "file_name": b""} for number in range(4)]
    monkeypatch.setattr(builder, "as_data_source", lambda split, decoders: records)
    images = object.__new__(disk.TfdsDataset)
    images._from_builder(builder, tmp_path)
    assert (images.name, images.channels, len(images.class_names)) == ("imagenet2012", 3, 1000)
    assert images.sizes == {"train": 4, "validation": 4, "test": 4}
    assert images.read("validation", 2) == (b"\2", 14)
    with pytest.raises(UserError, match="one label each"):
        object.__new__(disk.TfdsDataset)._from_builder(tfds.builder("voc", data_dir=tmp_path), tmp_path)


def test_a_name_that_tfds_does_not_know(tmp_path: Path):
    with pytest.raises(ValueError, match="fashion_mnst"):
        prepare.prepare("fashion_mnst", tmp_path)


@pytest.mark.slow
def test_the_official_builder_writes_what_the_original_files_hold(tmp_path: Path):
    import os

    original = Path(os.environ.get("MNET_DATA_DIR", "/nonexistent"))
    if not (original / "fashion_mnist").exists():
        pytest.skip("MNET_DATA_DIR does not hold it")
    pytest.importorskip("tensorflow")
    prepared = prepare.prepare("fashion_mnist", tmp_path, original / "fashion_mnist")
    plain = load.from_name("fashion_mnist", str(original))
    assert (prepared.mean, prepared.std, prepared.class_names) == (plain.mean, plain.std, plain.class_names)
    for pool in ("train_indices", "test_indices"):
        held = [
            sorted(images[index].tobytes() + bytes([source.labels_N[index]]) for index in getattr(source, pool))
            for source, images in ((source, source.in_memory()) for source in (prepared, plain))
        ]
        assert held[0] == held[1]
