"""The feed of large images: a batch is a function of (seed, step), whatever threads, processes, hosts and restarts."""

import itertools
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from mnet_jax import config
from mnet_jax.data import disk, load, pipeline, prepare, transforms
from mnet_jax.data.dataset import epoch_order, from_arrays, split

TRAIN, TEST = 26, 11


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A measured folder of images of many sizes, in two classes."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for part, count in (("train", TRAIN), ("test", TEST)):
        for number in range(count):
            folder = root / "photos" / part / ("cat", "dog")[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            height, width = rng.integers(20, 50, 2)
            coarse = rng.integers(0, 256, (5, 5, 3), np.uint8)
            Image.fromarray(coarse).resize((width, height)).save(folder / f"{number:02}.jpg")
    prepare.prepare("photos", root)
    return root


def settings(root: Path, **knobs):
    data = config.default().data
    values = {"source": "photos", "dir": str(root), "size": 16, "threads": 2, "randaugment": (1, 9)} | knobs
    for name, value in values.items():
        data[name] = value
    return data


def feed_of(data, seed: int, batch_size: int, shard: tuple[int, int] = (0, 1)) -> pipeline.Feed:
    dataset = load.from_config(data)
    return pipeline.Feed(dataset, split(dataset, seed), data, seed, batch_size, shard)


def taken(feed: pipeline.Feed, first: int, count: int) -> list[pipeline.Batch]:
    return list(itertools.islice(feed.batches(first), count))


def same(batches, others) -> None:
    for pair in zip(batches, others, strict=True):
        arrays = [{name: value for name, value in batch.items() if name != "corrupt"} for batch in pair]
        jax.tree.map(np.testing.assert_array_equal, *arrays)


def test_a_batch_is_a_function_of_seed_and_step(root: Path):
    feed, again, other = (feed_of(settings(root), seed, 4) for seed in (3, 3, 4))
    assert feed.steps_per_epoch == TRAIN // 4
    for step in (7, 0, 13):
        same([feed.batch(step)], [again.batch(step)])
        assert (feed.batch(step)["images"] != other.batch(step)["images"]).any()
    batch = feed.batch(0)
    assert (batch["images"].shape, batch["images"].dtype) == ((4, 16, 16, 3), np.uint8)
    for step in (0, 5, 10):
        batch, epoch = feed.batch(step), step // feed.steps_per_epoch
        order = epoch_order(3, epoch, feed.split.train, 4)[step % feed.steps_per_epoch]
        np.testing.assert_array_equal(batch["targets"]["labels"], feed.dataset.labels_N[order])
        images = [feed._augmented(feed.dataset.image(int(index)), epoch, int(index)) for index in order]
        np.testing.assert_array_equal(batch["images"], images)


def test_every_epoch_shows_each_image_once_and_augmented_anew(root: Path):
    feed = feed_of(settings(root, randaugment=(0, 9)), 0, 13)
    epochs = [np.concatenate([feed.batch(2 * epoch + step)["images"] for step in (0, 1)]) for epoch in (0, 1)]
    orders = [epoch_order(0, epoch, feed.split.train, 13).ravel() for epoch in (0, 1)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(TRAIN))
    assert (orders[0] != orders[1]).any()
    first, second = (images[np.argsort(order)] for images, order in zip(epochs, orders, strict=True))
    assert (first != second).any((1, 2, 3)).mean() > 0.9


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_hosts_make_the_rows_of_one_batch(root: Path, hosts: int):
    whole = feed_of(settings(root), 1, 8)
    feeds = [feed_of(settings(root), 1, 8, (host, hosts)) for host in range(hosts)]
    for step in (0, 5):
        parts = [feed.batch(step) for feed in feeds]
        assert all(len(part["targets"]["labels"]) == 8 // hosts for part in parts)
        joined = {
            name: jax.tree.map(lambda *rows: np.concatenate(rows), *(part[name] for part in parts))
            for name in ("images", "targets")
        }
        same([joined], [whole.batch(step)])


@pytest.mark.parametrize("hosts", [1, 4])
@pytest.mark.parametrize("batch_size", [4, 8, 16])
def test_every_held_out_image_is_counted_once_on_any_number_of_hosts(root: Path, hosts: int, batch_size: int):
    feeds = [feed_of(settings(root), 1, batch_size, (host, hosts)) for host in range(hosts)]
    numbers = range(feeds[0].held_out_batches)
    rows = [[feed.held_out_batch(number) for feed in feeds] for number in numbers]
    seen = [
        (image.tobytes(), int(label))
        for parts in rows
        for part in parts
        for image, label, mask in zip(part["images"], part["targets"]["labels"], part["mask"], strict=True)
        if mask
    ]
    expected = [
        (
            transforms.center_crop(feeds[0].dataset.image(int(index)), 16, 0.875).tobytes(),
            int(feeds[0].dataset.labels_N[index]),
        )
        for index in feeds[0].split.test
    ]
    assert len(seen) == TEST
    assert sorted(seen) == sorted(expected)
    assert all(not part["images"][part["mask"] == 0].any() for parts in rows for part in parts)


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_and_restarts_change_no_bit(root: Path, threads: int):
    feed = feed_of(settings(root, threads=threads), 2, 4)
    expected = [feed.batch(step) for step in range(14)]  # over two ends of epochs
    same(taken(feed, 0, 14), expected)
    same(taken(feed_of(settings(root, threads=threads), 2, 4), 9, 5), expected[9:])
    same(list(feed.held_out()), [feed.held_out_batch(number) for number in range(feed.held_out_batches)])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("workers", [1, 3])
def test_worker_processes_change_no_bit(root: Path, workers: int):
    feed = feed_of(settings(root, threads=1, workers=workers), 2, 4)
    same(taken(feed, 3, 9), [feed.batch(step) for step in range(3, 12)])


def corrupt(root: Path, tmp_path: Path, *files: str) -> Path:
    """A measured copy of the data in which these files were cut since."""
    for path in (root / "photos").rglob("*.*"):
        copy = tmp_path / path.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes()[:-50] if path.name in files else path.read_bytes())
    return tmp_path


def test_a_corrupt_image_is_named(root: Path, tmp_path: Path):
    feed = feed_of(settings(corrupt(root, tmp_path, "07.jpg")), 0, 13)
    for broken in (lambda: [feed.batch(step) for step in (0, 1)], lambda: feed.held_out_batch(0)):
        with pytest.raises(ValueError, match=r"photos: image \d+ of split '(train|test)', .*07\.jpg: .*truncated"):
            broken()
    with pytest.raises(ValueError, match=r"07\.jpg"):
        taken(feed, 0, 2)


def test_corrupt_images_can_be_skipped_and_are_counted(root: Path, tmp_path: Path):
    data = settings(corrupt(root, tmp_path, "04.jpg", "07.jpg"), corrupt="skip")
    clean, feed = feed_of(settings(root), 0, 13), feed_of(data, 0, 13)
    batches = [feed.batch(step) for step in range(2)]
    assert sum(int(batch["corrupt"]) for batch in batches) >= 2  # a neighbor may be corrupt, too
    differing = sum(
        (batch["images"] != clean.batch(step)["images"]).any((1, 2, 3)).sum() for step, batch in enumerate(batches)
    )
    assert differing == 2
    held_out = feed.held_out_batch(0)
    assert held_out["corrupt"] == 2
    assert held_out["mask"].sum() == TEST - 2
    same(taken(feed, 0, 2), batches)
    assert feed.corrupt == sum(int(batch["corrupt"]) for batch in batches)


def test_nothing_but_corrupt_images_is_an_error(root: Path, tmp_path: Path):
    every = [f"{number:02}.jpg" for number in range(TRAIN)]
    feed = feed_of(settings(corrupt(root, tmp_path, *every), corrupt="skip"), 0, 13)
    with pytest.raises(ValueError, match="100 corrupt images in a row"):
        feed.batch(0)


def test_hosts_must_share_a_batch_evenly(root: Path):
    with pytest.raises(ValueError, match=r"batch_size=6; allowed: a multiple of the 4 hosts"):
        feed_of(settings(root), 0, 6, (0, 4))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_bench_compares_what_is_installed(capsys):
    from mnet_jax.bench import data

    data.main(["--rounds", "1", "--batches", "1"])
    printed = capsys.readouterr().out
    assert printed.count("ours") >= 4
    assert "CPU-second" in printed


# Folders and facts.


def test_a_folder_is_measured_once(root: Path):
    source = load.from_name("photos", str(root))
    assert (source.class_names, source.shape) == (("cat", "dog"), (0, 0, 3))
    images = [source.image(index) / 255 for index in source.train_indices]
    flat = np.concatenate([image.reshape(-1, 3) for image in images])
    np.testing.assert_allclose(source.mean, flat.mean(0), rtol=1e-12)
    np.testing.assert_allclose(source.std, flat.std(0), rtol=1e-9)
    np.testing.assert_array_equal(np.bincount(source.labels_N[source.train_indices]), [13, 13])
    assert len(source.test_indices) == TEST
    with pytest.raises(ValueError, match=r"differ in size: set data\.size"):
        source.in_memory()


def test_parts_of_splits_are_pools_and_other_data(root: Path):
    def load_parts(*specs):
        return load.from_name("photos", str(root), *specs)

    whole, most, other = load_parts(), load_parts("train[:50%]", "train[50%:]"), load_parts("train[:50%]")
    assert (len(most.train_indices), len(most.test_indices)) == (13, 13)
    np.testing.assert_array_equal(np.concatenate([most.train_indices, most.test_indices]), whole.train_indices)
    np.testing.assert_array_equal(other.test_indices, whole.test_indices)
    assert len({whole.fingerprint, most.fingerprint, other.fingerprint}) == 3
    assert not load_parts("train+test", "train+test").has_fixed_test_set
    with pytest.raises(ValueError, match="share images"):
        load_parts("train[:60%]", "train[50%:]")
    with pytest.raises(ValueError, match=r"'tarin'; allowed: train, test"):
        load_parts("tarin")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("train", [("train", 0, 30)]),
        ("train[:90%]", [("train", 0, 27)]),
        ("train[-10%:]+test[2:]", [("train", 27, 30), ("test", 2, 7)]),
        ("test[5:99]", [("test", 5, 7)]),
        ("train[:33%]", [("train", 0, 10)]),
    ],
)
def test_split_words(words, expected):
    assert disk.parse_split(words, {"train": 30, "test": 7}) == expected


@pytest.mark.parametrize("words", ["", "valid", "train[3]", "train[:1.5%]", "train[5:5]", "train[9:2]", "train,test"])
def test_words_that_are_no_split_are_refused(words):
    with pytest.raises(ValueError, match="split"):
        disk.parse_split(words, {"train": 30, "test": 7})


def test_data_that_are_not_those_measured_are_refused(root: Path, tmp_path: Path):
    copy = corrupt(root, tmp_path)
    store = disk.find(copy / "photos", "photos")
    assert store is not None
    facts = json.loads((copy / "photos" / disk.INFO_FILE).read_text())
    (copy / "photos" / disk.INFO_FILE).write_text(json.dumps(facts)[:-20])
    with pytest.raises(
        ValueError, match=r"facts\.json cannot be used.*measure again: python -m .*prepare photos --again"
    ):
        load.from_disk(store)
    (copy / "photos" / disk.INFO_FILE).write_text(json.dumps(facts))
    np.save(copy / "photos" / "labels-train.npy", np.zeros(TRAIN, np.int32))
    with pytest.raises(ValueError, match=r"labels-train\.npy is not the file that was measured"):
        load.from_disk(store)
    (copy / "photos" / "train" / "cat" / "00.jpg").unlink()
    with pytest.raises(ValueError, match=r"25.*were measured"):
        load.from_name("photos", str(copy))
    (copy / "photos" / disk.INFO_FILE).unlink()
    with pytest.raises(ValueError, match=r"was not measured yet: python -m mnet_jax\.data\.prepare photos"):
        load.from_name("photos", str(copy))


def test_a_class_that_train_does_not_have_is_refused(root: Path, tmp_path: Path):
    copy = corrupt(root, tmp_path)
    (copy / "photos" / "test" / "bird").mkdir()
    with pytest.raises(ValueError, match="classes that train does not have: bird"):
        load.from_name("photos", str(copy))


def test_preparing_again_reports_what_cannot_be_read(root: Path, tmp_path: Path, capsys):
    copy = corrupt(root, tmp_path, "03.jpg")
    source = prepare.prepare("photos", copy, again=True)
    printed = capsys.readouterr().err
    assert printed.count("03.jpg") == 2
    assert "2 images cannot be used" in printed
    assert len(source.train_indices) == TRAIN


def boxes_and_masks(count: int) -> dict[str, np.ndarray]:
    """Targets of several types and shapes that name their image in every element."""
    numbers = np.arange(count)
    return {
        "labels": numbers % 2,
        "boxes": np.broadcast_to(numbers[:, None, None], (count, 3, 4)).astype(np.float32),
        "masks": np.broadcast_to(numbers[:, None, None], (count, 6, 5)).astype(np.uint8),
    }


def test_a_batch_has_the_rows_of_every_target():
    images_NHWC = np.random.default_rng(0).integers(0, 256, (24, 6, 5, 3), np.uint8)
    dataset = from_arrays("mine", (images_NHWC, boxes_and_masks(24)), class_names=("a", "b"))
    drawn = split(dataset, 0, 12)
    feed = pipeline.Feed(dataset, drawn, settings(Path()), 0, 6)
    order = epoch_order(0, 0, drawn.train, 6)[1]
    assert feed.batch(1)["targets"].keys() == dataset.targets.keys()
    for name, array in dataset.targets.items():
        np.testing.assert_array_equal(feed.batch(1)["targets"][name], array[order])
        assert feed.batch(1)["targets"][name].dtype == array.dtype
    last = feed.held_out_batch(1)
    np.testing.assert_array_equal(last["targets"]["boxes"][:2], dataset.targets["boxes"][drawn.test[6:]])
    assert not any(array[2:].any() for array in last["targets"].values())


def test_the_preview_shows_the_same_images_in_every_row(root: Path):
    from mnet_jax import figures

    rows = prepare.examples(load.from_name("photos", str(root)), 4)
    assert {images.shape for images in rows.values()} == {(4, 224, 224, 3)}
    means = np.array([images.mean((1, 2, 3)) for images in (rows["held out"], rows["random crop"])])
    assert np.corrcoef(means)[0, 1] > 0.7
    figure = figures.contact_sheet(rows)
    assert len(figure.axes) == 4 * len(rows)
    assert {"original", "mixup 1.0"} <= prepare.examples(load.from_name("digits")).keys()
