"""Large images, read and cropped ahead: the chunks of batches that the step takes, and training on them."""

import jax
import numpy as np
import pytest
import test_train
from tiny import EXPERIMENT, finish, never, rows

from mnet_jax import config, feed, results, sharding, worker
from mnet_jax.data import load, pipeline, prepare
from mnet_jax.data.dataset import split
from mnet_jax.errors import UserError

pytest.importorskip("grain")

pytestmark = pytest.mark.usefixtures("chunks_of_three")

STREAMED = EXPERIMENT.replace(
    "config.override(cfg, ",
    "config.override(cfg, {'data.source': 'pictures', 'data.dir': FOLDER, 'data.size': 16, 'data.shift': 0, "
    "'data.flip': True, 'model.in_channels': 3, 'model.num_classes': 2, 'data.threads': 2})\n    config.override(cfg, ",
).replace("'data.train_size': 64", "'data.train_size': 40")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return pictures(tmp_path_factory.mktemp("data"))


def pictures(root):
    """48 training and 10 test JPEGs of two classes, no two of the same size."""
    from PIL import Image

    draw = np.random.default_rng(0)
    for part, count in (("train", 24), ("test", 5)):
        for label in ("bright", "dark"):
            place = root / "pictures" / part / label
            place.mkdir(parents=True)
            for number in range(count):
                shape = (20 + number, 44 - number, 3)
                level = draw.integers(0, 128, shape) + (127 if label == "bright" else 0)
                Image.fromarray(level.astype(np.uint8)).save(place / f"{number}.jpg")
    prepare.main(["pictures", "--data_dir", str(root)])
    return str(root)


def make(tmp_path, folder, **overrides):
    return test_train.make(tmp_path, STREAMED.replace("FOLDER", repr(folder)), train__batch_size=8, **overrides)


def test_chunks_are_the_batches_of_the_steps(folder, tmp_path):
    plan = make(tmp_path, folder)
    cfg = config.unflatten(plan.config)
    dataset = load.from_config(cfg.data)
    mesh = sharding.mesh(2, 8, jax.devices()[:2], spread_runs=False)
    host = feed.make(dataset, cfg.data, (0, 1), 8, mesh)
    assert isinstance(host, feed.HostFeed)
    assert host.steps_per_epoch == 5  # 40 images
    batches_of_seed = pipeline.Feed(dataset, split(dataset, 1, 40), cfg.data, 1, 8)
    for step, expected in ((0, 3), (3, 2), (5, 3), (1, 3), (4, 1)):  # the last two: a jump
        batches, first, count = host.next_chunk(step)
        assert (first, count) == (0, expected)
        assert batches["images"].shape == (2, 3, 8, 16, 16, 3)
        for index in range(count):
            batch = batches_of_seed.batch(step + index)
            np.testing.assert_array_equal(batches["images"][1, index], batch["images"])
            np.testing.assert_array_equal(batches["targets"]["labels"][1, index], batch["targets"]["labels"])
    assert sum(float(piece["mask"].sum()) for piece in host.held_out()) == 2 * 10
    host.close()


def test_training_stopped_and_resumed_is_unbroken(folder, tmp_path):
    plans = {}
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
        plans[name] = make(tmp_path / name, folder, seeds=1)
    worker.work_on(tmp_path / "whole", plans["whole"], never)
    finish(tmp_path / "broken", plans["broken"], 1)
    whole, broken = (rows(tmp_path / name, plan) for name, plan in plans.items())
    assert whole == broken
    assert whole[0]["data"]["corrupt"] == 0
    assert whole[0]["metrics"]["accuracy"] > 0.5
    assert results.read_rows(tmp_path / "whole", plans["whole"])[0]["timing"]["data"] > 0


def test_a_damaged_image_is_named_or_counted(folder, tmp_path):
    import shutil

    copy = tmp_path / "data"
    shutil.copytree(folder, copy)
    (copy / "pictures" / "train" / "dark" / "3.jpg").write_bytes(b"no image")
    stop, skip = tmp_path / "stop", tmp_path / "skip"
    for place in (stop, skip):
        place.mkdir()
    with pytest.raises(UserError, match=r"dark/3.jpg"):
        worker.work_on(stop, make(stop, str(copy), seeds=1, data__train_size=0), never)
    plan = make(skip, str(copy), seeds=1, data__train_size=0, data__corrupt="skip")
    worker.work_on(skip, plan, never)
    assert all(row["data"]["corrupt"] == 3 for row in rows(skip, plan))  # once an epoch
