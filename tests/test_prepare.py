"""Preparing with TFDS and reading back; all but the last need only what reads, not TensorFlow."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mnet_jax import config
from mnet_jax.data import pipeline, pixels, prepare, sources, stored

tfds = pytest.importorskip("tensorflow_datasets", exc_type=ImportError)
pytestmark = pytest.mark.filterwarnings("ignore")

COUNTS = {"train": 30, "test": 9}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A folder of images of many sizes, and the same stored by TFDS with a short side of 32."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for split, count in COUNTS.items():
        for number in range(count):
            folder = root / "photos" / split / ("cat", "dog")[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8))
            coarse.resize(tuple(rng.integers(30, 90, 2).tolist())).save(folder / f"{number:02}.jpg")
    prepare.prepare("photos", root, short_side=32)
    return root


def test_stored_smaller_images_are_the_same_in_the_same_order(root: Path):
    large, small = sources.load("photos", str(root)), sources.load("photos/short_32", str(root))
    np.testing.assert_array_equal(large.labels_N[large.train_pool], small.labels_N[small.train_pool])
    assert small.class_names == large.class_names
    assert (len(small.train_pool), len(small.test_pool)) == (30, 9)
    for a, b in ((large.train_pool[7], small.train_pool[7]), (large.test_pool[3], small.test_pool[3])):
        image, shrunk = large.image(int(a)), small.image(int(b))
        assert min(shrunk.shape[:2]) == min(32, *image.shape[:2])
        thumbnails = [pixels.center_crop(x, 16, 1.0).astype(float) for x in (image, shrunk)]
        assert np.abs(thumbnails[0] - thumbnails[1]).mean() < 6
    assert not list(root.glob(".preparing*"))


def test_tensorflow_is_not_needed_to_read(root: Path):
    program = f"""
import sys
from mnet_jax import config
from mnet_jax.data import pipeline
data = config.default().data
data.source, data.dir, data.size = "photos/short_32", {str(root)!r}, 16
assert len(next(pipeline.open(data, 0, 10).batches())["labels"]) == 10
assert not any(name.split(".")[0] == "tensorflow" for name in sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_what_is_whole_is_left_alone(root: Path, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("built again")

    monkeypatch.setattr(prepare, "_shrink", refuse)
    monkeypatch.setattr(prepare, "_measure", refuse)
    assert prepare.prepare("photos", root, short_side=32).name == "photos/short_32"


def test_a_damaged_record_is_named_skipped_and_built_anew(root: Path, tmp_path: Path, capsys):
    subprocess.run(["cp", "-r", str(root / "photos"), str(tmp_path)], check=True)
    (file,) = (tmp_path / "photos" / "short_32").glob("*/*train.array_record*")
    whole = file.read_bytes()
    source = sources.load("photos/short_32", str(tmp_path))
    data = config.default().data
    data.source, data.dir, data.size, data.corrupt = "photos/short_32", str(tmp_path), 16, "skip"
    assert isinstance(source.images, stored.Records)
    place = whole.index(source.images[12][-60:-20])
    file.write_bytes(whole[:place] + bytes(byte ^ 255 for byte in whole[place : place + 40]) + whole[place + 40 :])
    failed = []
    for index in source.train_pool:
        try:
            source.image(int(index))
        except ValueError as error:
            failed.append(str(error))
    assert 1 <= len(failed) < 30
    assert "of split 'train' in " in failed[0]
    feed = pipeline.open(data, 0, 30)
    assert feed.batch(0)["skipped"] >= len(failed)
    prepare.prepare("photos", tmp_path, short_side=32, again=True)
    assert "prepared anew" in capsys.readouterr().err
    again = sources.load("photos/short_32", str(root))
    rebuilt = stored.find(tmp_path / "photos" / "short_32", "")
    assert rebuilt is not None
    assert sources.from_store(rebuilt).fingerprint == again.fingerprint
    for index in range(30):
        np.testing.assert_array_equal(sources.from_store(rebuilt).image(index), again.image(index))


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
    assert stored.ranges(words, {"train": 97, "test": 13}) == [expected]


def test_imagenets_structure():
    with tfds.testing.mock_data(num_examples=4):
        builder = tfds.builder("imagenet2012")
        builder.info.set_splits(tfds.core.splits.SplitDict(split_infos(train=4, validation=4, test=4)))
        store = object.__new__(stored.Tfds)
        store.take(builder, Path("nowhere"))
        assert (store.name, store.channels, len(store.class_names)) == ("imagenet2012", 3, 1000)
        assert set(store.sizes) == {"train", "validation", "test"}
        data, label = store.read("validation", 2)
        assert pixels.decode(data, 3).ndim == 3
        assert 0 <= label < 1000
        with pytest.raises(ValueError, match="one label each"):
            object.__new__(stored.Tfds).take(tfds.builder("voc"), Path("nowhere"))


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
    plain = sources.load("fashion_mnist", str(original))
    assert (prepared.mean, prepared.std, prepared.class_names) == (plain.mean, plain.std, plain.class_names)
    for pool in ("train_pool", "test_pool"):
        held = [
            sorted(images[index].tobytes() + bytes([source.labels_N[index]]) for index in getattr(source, pool))
            for source, images in ((source, sources.in_memory(source)) for source in (prepared, plain))
        ]
        assert held[0] == held[1]
