"""Folders of images: what counts as an image, and that no change goes unnoticed."""

import json
import os
import pwd
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mnet_jax import arm_cost, config, experiment
from mnet_jax.data import disk, load, prepare
from mnet_jax.data.dataset import Dataset
from mnet_jax.errors import UserError

COUNTS = {"train/a": 3, "train/b": 5, "test/a": 2, "test/b": 1}


def write_image(path: Path, level: int = 100) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 9, 3), level, np.uint8)).save(path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of images that is not measured yet."""
    for folder, count in COUNTS.items():
        for number in range(count):
            write_image(tmp_path / "photos" / folder / f"{number}.png", 10 * number + len(folder))
    return tmp_path / "photos"


@pytest.fixture
def no_hang() -> Iterator[None]:
    """Ends a test that would wait for ever."""

    def stop(*_):
        raise TimeoutError("20 seconds have passed")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def measured(photos: Path, again: bool = False) -> Dataset:
    return prepare.prepare("photos", photos.parent, again=again)


def start(photos: Path) -> Dataset:
    """What a run does when it starts; `load.from_name` would keep the answer."""
    images = disk.find(photos, "photos")
    assert images is not None
    return load.from_disk(images)


def swap(a: Path, b: Path) -> None:
    a.rename(a.with_suffix(".moved"))
    b.rename(a)
    a.with_suffix(".moved").rename(b)


CHANGES: dict[str, Callable[[Path], object]] = {
    "an image moves to another class": lambda path: (path / "train/a/0.png").rename(path / "train/b/9.png"),
    "a class is renamed": lambda path: [(path / split / "a").rename(path / split / "z") for split in ("train", "test")],
    "class names are swapped": lambda path: swap(path / "test/a", path / "test/b"),
    "a file is renamed": lambda path: (path / "train/a/0.png").rename(path / "train/a/00.png"),
    "an image is added": lambda path: write_image(path / "train/a/7.png"),
    "an image is removed": lambda path: (path / "train/a/1.png").unlink(),
    "a class is added": lambda path: write_image(path / "train/c/0.png"),
    "an image becomes hidden": lambda path: (path / "test/a/0.png").rename(path / "test/a/.0.png"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_folder_that_changed_is_refused_until_it_is_measured_again(photos: Path, change):
    before = measured(photos)
    assert start(photos).fingerprint == before.fingerprint
    change(photos)
    with pytest.raises(UserError, match=r"facts\.json cannot be used: .*measured; measure again: python -m"):
        start(photos)
    after = measured(photos)
    assert after.fingerprint != before.fingerprint
    names = [after.class_names[label] for label in after.labels_N]
    assert isinstance(after.images, disk.EncodedImages)
    assert names == [after.images.location(index).split("/")[-2] for index in range(len(names))]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, r"facts\.json is of another version of mnet_jax; allowed: format 1"),
        ({"mean": "0.5"}, r"mean is '0\.5'; allowed: a list"),
        ({"sizes": {"train": "5"}}, r"sizes\.train is '5'; allowed: a whole number"),
        ({"shape": [16, 16]}, "shape has 2 entries; allowed: 3"),
        ({"labels": {}}, r"labels-train\.npy is not the file that was measured"),
        ({"widht": 1}, "has no key 'widht'; allowed: .*"),
    ],
)
def test_facts_that_cannot_be_are_refused(photos: Path, changes, message):
    measured(photos)
    path = photos / disk.INFO_FILE
    facts = json.loads(path.read_text())
    assert facts["format"] == 1
    path.write_text(json.dumps(facts | changes))
    with pytest.raises(UserError, match=rf"facts\.json cannot be used: .*{message}; measure again"):
        start(photos)


def special_files(folder: Path) -> list[Path]:
    """Makes entries in the folder of a class that are no image files."""
    (folder / "0.txt").write_text("no image")
    (folder / "noextension").write_bytes((folder / "0.png").read_bytes())
    os.mkfifo(folder / "fifo.png")
    (folder / "zero.png").symlink_to("/dev/zero")
    (folder / "dangling.png").symlink_to("nowhere.png")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "folder.png").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(folder / "socket.png"))
    names = ("0.txt", "noextension", "fifo.png", "zero.png", "dangling.png", "loop.png", "folder.png", "socket.png")
    return [folder / name for name in names]


def test_what_is_no_image_file_is_named_and_ignored(photos: Path, no_hang: None, capsys, monkeypatch):
    monkeypatch.chdir(photos)  # the path of a socket is short
    before = measured(photos)
    ignored = special_files(photos / "train/a") + special_files(photos / "test/b")
    after = measured(photos, again=True)
    assert after.fingerprint == before.fingerprint
    printed = capsys.readouterr().err
    for path in ignored:
        assert f"ignored, not an image file: {path}\n" in printed
    assert printed.count("ignored") == len(ignored)


def test_hidden_files_and_folders_do_not_count(photos: Path, capsys):
    before = measured(photos)
    for hidden in ("train/.ipynb_checkpoints", "test/.Trash", "train/a/.ipynb_checkpoints"):
        write_image(photos / hidden / "0.png")
    shutil.copy(photos / "train/a/0.png", photos / "train/a/.0.png")
    assert start(photos).fingerprint == before.fingerprint
    assert measured(photos, again=True).class_names == ("a", "b")
    assert "ignored" not in capsys.readouterr().err


def test_links_to_images_and_suffixes_in_capitals_count(photos: Path):
    (photos / "train/a/link.png").symlink_to("0.png")
    (photos / "train/a/0.png").rename(photos / "train/a/0.PNG")
    (photos / "train/a/link.png").unlink()
    (photos / "train/a/link.png").symlink_to("0.PNG")
    (photos / "train/c").symlink_to("a")
    assert measured(photos).class_names == ("a", "b", "c")
    np.testing.assert_array_equal(np.bincount(start(photos).labels_N[start(photos).train_indices]), [4, 5, 4])


@pytest.mark.parametrize("file", ["", "0.txt", ".0.png"])
def test_a_class_without_images_is_refused_by_name(photos: Path, file: str):
    (photos / "train/nothing").mkdir()
    if file:
        shutil.copy(photos / "train/a/0.png", photos / "train/nothing" / file)
    for use in (measured, start):
        with pytest.raises(UserError, match="train holds no image in nothing; allowed"):
            use(photos)


@pytest.mark.parametrize("left", ["test", "empty", "file"])
def test_a_folder_without_train_is_refused(photos: Path, left: str):
    shutil.rmtree(photos / "train")
    if left != "test":
        shutil.rmtree(photos / "test")
    if left == "file":
        write_image(photos / "0.png")
    message = "photos holds no train/, only test; allowed" if left == "test" else "photos holds no train/"
    with pytest.raises(UserError, match=message):
        load.from_name("photos", photos.parent)
    with pytest.raises(UserError, match=message):
        measured(photos)


def test_a_training_folder_without_classes_is_refused(photos: Path):
    for name in ("a", "b"):
        shutil.rmtree(photos / "train" / name)
    write_image(photos / "train" / "0.png")
    with pytest.raises(UserError, match="train holds no folder; allowed: a folder of images for each class"):
        measured(photos)


def with_size(path: Path, height: int, width: int) -> None:
    """Writes a JPEG whose header claims this size."""
    write_image(path)
    data = bytearray(path.read_bytes())
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    path.write_bytes(data)


UNREADABLE: dict[str, Callable[[Path], object]] = {
    "text.png": lambda path: path.write_text("no image"),
    "empty.png": lambda path: path.write_bytes(b""),
    "int32.tif": lambda path: Image.fromarray(np.zeros((8, 8), np.int32)).save(path),
    "float32.tif": lambda path: Image.fromarray(np.zeros((8, 8), np.float32)).save(path),
    "wide.jpg": lambda path: with_size(path, 30_000, 30_000),
    "overflow.jpg": lambda path: with_size(path, 65_500, 65_500),
    "large.jpg": lambda path: with_size(path, 9_500, 9_500),
}


def test_images_that_cannot_be_decoded_are_named_and_left_out(photos: Path, no_hang: None, capsys):
    before = measured(photos)
    for name, write in UNREADABLE.items():
        write(photos / "train/a" / name)
    after = measured(photos, again=True)
    printed = capsys.readouterr().err
    assert isinstance(after.images, disk.EncodedImages)
    for name in UNREADABLE:
        assert printed.count(f"a/{name}: ") == 1
        index = next(i for i in after.train_indices if name in after.images.location(i))
        with pytest.raises(UserError, match=name):
            after.image(index)
    assert f"{len(UNREADABLE)} images cannot be used" in printed
    assert (after.mean, after.std, after.shape) == (before.mean, before.std, before.shape)


def test_only_a_data_set_in_a_folder_needs_a_home_directory(tmp_path: Path, monkeypatch):
    def nobody(*_):
        raise KeyError("no entry")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("MNET_DATA_DIR", raising=False)
    for lookup in ("getpwuid", "getpwnam"):
        monkeypatch.setattr(pwd, lookup, nobody)
    load._load.cache_clear()
    for directory in ("", "~", "~nobody_xx/data"):
        assert load.from_name("digits", directory).name == prepare.prepare("digits", directory).name == "digits"
        for use in (load.from_name, prepare.prepare):
            with pytest.raises(UserError, match=r"home directory is unknown: .*--config\.data\.dir=.*MNET_DATA_DIR"):
                use("cifar10", directory)
    monkeypatch.setenv("MNET_DATA_DIR", str(tmp_path))
    with pytest.raises(UserError, match=r"cifar-10-binary\.tar\.gz, which does not exist"):
        load.from_name("cifar10")


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """A folder of two classes without splits."""
    for folder, count in {"cat": 10, "dog": 3}.items():
        for number in range(count):
            write_image(tmp_path / "pets" / folder / f"{number}.png", 10 * number + len(folder))
    (tmp_path / "pets" / "notes.txt").touch()
    return tmp_path / "pets"


def test_a_flat_folder_is_split_by_a_share_of_each_class(flat: Path):
    prepare.main(["pets", "--data_dir", str(flat.parent), "--holdout", "0.2"])
    dataset = start(flat.parent / "pets")
    assert dataset.class_names == ("cat", "dog")
    assert np.bincount(dataset.labels_N[dataset.test_indices]).tolist() == [2, 1]
    assert np.bincount(dataset.labels_N[dataset.train_indices]).tolist() == [8, 2]
    names = {
        part: {path.relative_to(flat / part) for path in (flat / part).rglob("*.png")} for part in ("train", "test")
    }
    assert not names["train"] & names["test"]
    originals = {path.relative_to(flat): path.stat().st_ino for path in flat.glob("[cd]*/*.png")}
    assert names["train"] | names["test"] == originals.keys(), "the files of CLASS/* stay"
    assert (flat / "train" / min(names["train"])).stat().st_ino == originals[min(names["train"])], "no second copy"
    with pytest.raises(UserError, match=r"train is there already; allowed: a folder without it"):
        prepare.main(["pets", "--data_dir", str(flat.parent), "--holdout", "0.5"])


def test_the_same_images_are_held_out_wherever_the_folder_lies(flat: Path, tmp_path: Path):
    shutil.copytree(flat, tmp_path / "elsewhere")
    held = []
    for folder in (flat, tmp_path / "elsewhere"):
        prepare.split_folder(folder, 0.3)
        held.append(sorted(path.relative_to(folder) for path in (folder / "test").rglob("*.png")))
    assert held[0] == held[1]


def test_a_flat_folder_is_told_from_a_data_set_that_is_not_there(flat: Path):
    for use in (load.from_name, prepare.prepare):
        with pytest.raises(UserError, match=r"pets holds images as CLASS/\*.*--holdout 0\.2"):
            use("pets", flat.parent)
    (flat / "dog" / "1.png").unlink()
    (flat / "dog" / "2.png").unlink()
    with pytest.raises(UserError, match="fewer than two images in dog"):
        prepare.split_folder(flat, 0.2)


def test_a_plan_takes_classes_and_channels_from_the_data_and_misses_packages(photos: Path, monkeypatch):
    measured(photos)
    cfg = config.at_scale("photos")
    cfg.data.dir = str(photos.parent)
    arm_cost.fit_to_data(cfg, experiment.Code())
    assert (cfg.model.num_classes, cfg.model.in_channels) == (2, 3)
    monkeypatch.setattr(load.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"data\.size=96 needs Grain and OpenCV: pip install 'mnet_jax\[data\]'"):
        load.metadata(cfg.data)
