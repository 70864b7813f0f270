"""The detection task: taps, heads, targets that move with pixels, the loss, whole runs, and predictions of a file."""

import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from PIL import Image

from mnet_jax import config, cost, experiment, feed, models, report, results, sharding, step, sweep, train
from mnet_jax.cost import conventions
from mnet_jax.data import augment, boxes, load, transforms
from mnet_jax.detection import anchors, matching
from mnet_jax.errors import UserError
from mnet_jax.models import specs, weights
from mnet_jax.tasks import TASKS, shown
from mnet_jax.tasks import detection as task
from mnet_jax.trained import TrainedNetwork

TINY = {
    "task": "detection",
    "model.name": "mobilenet_v2",
    "model.divisor": 1,
    "model.stem": (4, 2),
    "model.blocks": ((1, 4, 1, 2), (2, 6, 1, 2)),
    "model.last": 8,
    "model.in_channels": 1,
    "model.num_classes": 11,
    "model.padding": "symmetric",
    "model.init": "he",
    "model.dropout": 0.0,
    "model.norm.momentum": 0.9,
    "model.norm.group": 0,
    "data.source": "scenes",
    "data.resolution": 32,
    "data.train_size": 64,
    "data.flip": True,
    "detection.extras": (6,),
    "detection.smallest": 0.3,
    "detection.largest": 0.6,
    "detection.candidates": 50,
    "train.epochs": 1,
    "train.batch_size": 16,
    "train.eval_every": 1,
    "train.label_smoothing": 0.0,
    "train.ema": 0.0,
    "optim.name": "sgd",
    "optim.schedule": "cosine",
    "optim.lr": 0.01,
}


COCO_MINI = Path(os.environ.get("MNET_DATA_DIR", "nowhere")) / "coco_mini"

OVERFIT = {
    "model.name": "c8",
    "model.dropout": 0.0,
    "model.init": "he",
    "model.norm.momentum": 0.9,
    "data.resolution": 96,
    "data.flip": False,
    "detection.random_scale": (1.0, 1.0),
    "detection.extras": (64, 64),
    "detection.smallest": 0.05,
    "detection.largest": 0.8,
    "train.epochs": 300,
    "train.batch_size": 8,
    "optim.name": "adamw",
    "optim.lr": 0.01,
    "optim.schedule": "cosine",
    "optim.decay": 0.999,
    "optim.eps": 1e-8,
}


def tiny_config(**changes):
    cfg = config.default()
    config.override(cfg, TINY | changes)
    config.check(cfg)
    return cfg


# The network and its cost.


def counted(name, resolution, classes, **changes):
    cfg = config.default()
    fields = {"task": "detection", "model.name": name, "model.num_classes": classes, "model.formulation": "lax"}
    config.override(cfg, fields | changes)
    return cost.count(nnx.eval_shape(lambda: task.build(cfg, nnx.Rngs(0))), resolution)


@pytest.mark.parametrize(
    ("name", "taps"),
    [
        ("mobilenet_v1", ("block11", "block13")),
        ("mobilenet_v2", ("block14/expansion", "head")),
        ("mobilenet_v3_large", ("block13/expansion", "head")),
        ("c8", ("block7/expansion", "head")),
    ],
)
def test_the_head_is_on_the_released_detectors_maps(name, taps):
    cfg = config.default()
    config.override(cfg, {"task": "detection", "model.name": name})
    assert tuple(task._taps(cfg)) == taps


@pytest.mark.parametrize("name", ["mobilenet_v1", "mobilenet_v2", "mobilenet_v3_small"])
def test_the_named_maps_of_a_network_are_its_endpoints(name):
    cfg = config.default()
    cfg.model.name, cfg.model.norm.group, cfg.model.formulation = name, 0, "lax"

    def endpoints():
        network = models.structure(cfg.model)
        network.eval()
        return network(jnp.zeros((1, 64, 64, 3)))[1]

    found = {tap: (x.shape[-1], 64 // x.shape[1]) for tap, x in jax.eval_shape(endpoints).items() if x.ndim == 4}
    assert found == specs.feature_maps(specs.network(cfg.model))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "resolution", "classes", "changes", "parameters", "madds"),
    [
        # Sandler et al. 2018, Table 6: 4.3 M and .8 B; 5.1 M and 1.3 B.
        ("mobilenet_v2", 320, 81, {}, 4_286_261, 788_830_144),
        ("mobilenet_v1", 320, 81, {}, 5_063_413, 1_309_162_944),
        # Howard et al. 2017, Table 13: 6.8 M and 1.2 B.
        ("mobilenet_v1", 300, 91, {"detection.head": "ssd_1x1"}, 6_794_495, 1_237_129_408),
    ],
)
def test_published_sizes(name, resolution, classes, changes, parameters, madds):
    """Weights and biases without the norms, as another program counts them."""
    found = counted(name, resolution, classes, **changes)
    assert (conventions.weights_and_biases(found.layers), found.madds) == (parameters, madds)
    assert not found.unknown
    assert "unused" not in {layer.type for layer in found.layers}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("head", "parameters", "madds"), [("ssd", 14_773_173, 1_259_068_672), ("ssdlite", 2_096_501, 177_617_344)]
)
def test_published_sizes_of_the_heads(head, parameters, madds):
    """Sandler et al. 2018, Table 5: 14.8 M and 1.25 B; 2.1 M and .35 B, which are twice the multiply-adds."""
    layers = [
        layer
        for layer in counted("mobilenet_v2", 320, 81, **{"detection.head": head}).layers
        if layer.name.startswith("head.")
    ]
    assert (conventions.weights_and_biases(layers), conventions.madds(layers)) == (parameters, madds)


@pytest.mark.slow
def test_predictions_are_those_of_layers_called_one_by_one():
    """The order of maps, rows, columns and anchors, and which map each predictor sees."""
    cfg = tiny_config()
    network: Any = task.build(cfg, nnx.Rngs(0))
    network.eval()
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 32, 32, 1)), jnp.float32)
    predictions, endpoints = network(x)
    assert [logits.shape for logits, _ in predictions] == [(2, 8, 8, 3, 11), (2, 4, 4, 6, 11), (2, 2, 2, 6, 11)]
    assert [offsets.shape for _, offsets in predictions] == [(2, 8, 8, 3, 4), (2, 4, 4, 6, 4), (2, 2, 2, 6, 4)]
    further = network.head.extras[0](endpoints["head"])
    for (logits, _), feature, predictor in zip(
        predictions, (endpoints["block2/expansion"], endpoints["head"], further), network.head.classes, strict=True
    ):
        hidden = predictor.depthwise(feature, (0.0, 6.0))
        expected = np.asarray(hidden) @ np.asarray(predictor.predict.kernel[...])
        np.testing.assert_allclose(logits.reshape(expected.shape), expected, rtol=1e-4, atol=1e-5)


# Settings.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.size": 32}, r"data.size=32 with task='detection'; allowed: 0"),
        ({"data.mixup": 0.2}, r"data.mixup=0.2 with task='detection'"),
        ({"analysis": True}, r"analysis=True with task='detection'; allowed: False"),
        (
            {"detection.taps": ("block2/expension", "head")},
            r"no map 'block2/expension'; did you mean 'block2/expansion'",
        ),
        ({"detection.taps": ("head", "block1")}, r"head \(stride 8\), block1 \(stride 4\); allowed: two maps or more"),
        ({"detection.taps": ("head",)}, r"head \(stride 8\); allowed: two maps or more"),
        ({"detection.extras": (0,)}, r"detection.extras=\(0,\); allowed: a tuple of whole numbers above 1"),
        ({"detection.largest": 0.1}, r"smallest=0.3 and detection.largest=0.1; allowed: the smaller first"),
        ({"detection.random_scale": (2.0, 1.0)}, r"detection.random_scale=\(2.0, 1.0\); allowed: \(low, high\)"),
        ({"model.split": 2}, r"model.split=2 with a head on block2/expansion; allowed: 1"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        tiny_config(**changes)


def test_data_without_boxes_or_of_other_classes_is_refused():
    with pytest.raises(UserError, match="digits has no boxes, only labels"):
        task.check_data(tiny_config(), load.from_name("digits"))
    with pytest.raises(UserError, match=r"model\.num_classes=7; scenes needs 11"):
        task.check_data(tiny_config(**{"model.num_classes": 7}), load.from_name("scenes"))


# Pixels and boxes move together.


@pytest.mark.parametrize(
    ("scales", "shift", "flip"), [((1.0, 1.0), 3, False), ((1.0, 1.0), 0, True), ((0.5, 2.0), 2, True)]
)
def test_boxes_move_with_their_pixels(scales, shift, flip):
    """A bright box is drawn, moved, and found again in the pixels."""
    rng, B, side = np.random.default_rng(0), 64, 48
    corner = rng.integers(4, 30, (B, 2))
    size = rng.integers(8, 16, (B, 2))
    drawn = np.zeros((B, side, side, 1), np.float32)
    for image, (top, left), (height, width) in zip(drawn, corner, size, strict=True):
        image[top : top + height, left : left + width] = 1
    boxes_BM4 = jnp.asarray(np.concatenate([corner, corner + size], 1)[:, None] / side, jnp.float32)

    @jax.jit
    def move(images, boxes_BM4):
        places = augment.places(jax.random.key(0), (B, side, side), scales, shift, flip)
        return augment.move_images(images, places), *augment.move_boxes(boxes_BM4, places, side, side)

    moved, found_BM4, stay_BM = map(np.asarray, move(drawn, boxes_BM4))
    assert stay_BM.mean() > 0.6
    assert stay_BM.all() == (scales == (1.0, 1.0))
    for image, (box,), (stays,) in zip(moved[..., 0], found_BM4 * side, stay_BM, strict=True):
        rows, columns = (np.flatnonzero((image > 0.5).any(axis)) for axis in (1, 0))
        if stays:
            seen = rows[0], columns[0], rows[-1] + 1, columns[-1] + 1
            np.testing.assert_allclose(box, seen, atol=1.01 if scales != (1.0, 1.0) else 1e-3)


def test_without_augmentation_no_box_moves():
    truth = jnp.asarray([[[0.1, 0.2, 0.3, 0.4]]])
    moved, stays = augment.move_boxes(truth, None, 8, 8)
    assert (moved == truth).all()
    assert stays.all()


# The loss.


def random_predictions(cfg, seed=0):
    """Predictions of maps of 4x4 and 2x2 pixels, two images with three boxes and none."""
    rng = np.random.default_rng(seed)
    counts = [(4, 3), (2, 6), (1, 6)]
    K = cfg.model.num_classes
    predictions = [
        (rng.normal(size=(2, side, side, a, K)), rng.normal(size=(2, side, side, a, 4)) * 3) for side, a in counts
    ]
    truth = np.zeros((2, 4, 4))
    truth[0, :3] = [[0.1, 0.1, 0.4, 0.5], [0.5, 0.4, 0.9, 0.9], [0.0, 0.0, 1.0, 1.0]]
    classes, ignored = np.zeros((2, 4), np.int32), np.zeros((2, 4), bool)
    classes[0, :3], ignored[0, 2] = (3, 1, 5), True
    return predictions, {"boxes": truth, "classes": classes, "ignored": ignored}


def test_the_loss_is_ssds():
    """Sums over anchors one by one; the ignored box takes no part, and an image without boxes has three negatives."""
    cfg = tiny_config()
    predictions, targets = random_predictions(cfg)
    with jax.enable_x64():
        on_device = jax.tree.map(jnp.asarray, (predictions, targets))
        value, parts = jax.jit(lambda p, t: task.loss(p, t, cfg, None))(*on_device)
        grid = jnp.asarray(anchors.of_maps([(4, 4), (2, 2), (1, 1)], 0.3, 0.6))
        match = matching.match(grid, jnp.asarray(targets["boxes"][0]), jnp.asarray([True, True, False, False]))
        box_A, matched_A = map(np.asarray, match)
    logits, offsets = (
        np.concatenate([part.reshape(2, -1, part.shape[-1]) for part in parts], 1)
        for parts in zip(*predictions, strict=True)
    )
    class_sum = box_sum = 0.0
    for image, matched in enumerate((matched_A, np.zeros_like(matched_A))):
        entropies = []
        for a, is_matched in enumerate(matched):
            answer = np.zeros(logits.shape[-1])
            answer[targets["classes"][image, box_A[a]] if is_matched else 0] = 1
            p = 1 / (1 + np.exp(-logits[image, a]))
            entropies.append(-(answer * np.log(p) + (1 - answer) * np.log(1 - p)).sum())
            if is_matched:
                top, left, bottom, right = targets["boxes"][image, box_A[a]]
                first, second, third, fourth = np.asarray(grid[a])
                height, width = third - first, fourth - second
                wanted = np.array(
                    [
                        10 * ((top + bottom) / 2 - (first + third) / 2) / height,
                        10 * ((left + right) / 2 - (second + fourth) / 2) / width,
                        5 * np.log((bottom - top) / height),
                        5 * np.log((right - left) / width),
                    ]
                )
                distance = np.abs(offsets[image, a] - wanted)
                box_sum += np.where(distance < 1, distance**2 / 2, distance - 0.5).sum()
        entropies = np.array(entropies)
        negatives = np.sort(entropies[~matched])[::-1][: max(3, 3 * matched.sum())]
        class_sum += entropies[matched].sum() + negatives.sum()
    assert matched_A.sum() >= 2
    assert float(value) == pytest.approx((class_sum + box_sum) / matched_A.sum(), rel=1e-9)
    assert float(parts["class_loss"]) == pytest.approx(2 * class_sum / matched_A.sum(), rel=1e-9)
    assert float(parts["box_loss"]) == pytest.approx(2 * box_sum / matched_A.sum(), rel=1e-9)


def test_a_batch_without_boxes_has_a_finite_loss_and_gradient():
    cfg = tiny_config()
    predictions, targets = jax.tree.map(jnp.asarray, random_predictions(cfg))
    predictions = jax.tree.map(lambda x: x.astype(jnp.float32), predictions)
    empty = {**targets, "boxes": jnp.zeros((2, 4, 4)), "classes": jnp.zeros((2, 4), jnp.int32)}
    value, gradient = jax.jit(jax.value_and_grad(lambda p: task.loss(p, empty, cfg, None)[0]))(predictions)
    assert jnp.isfinite(value)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_perfect_predictions_are_found_and_scored_as_such():
    """Offsets of the matched anchors as the loss wants them, and logits of their classes, come back as the truth."""
    from mnet_jax.detection import boxes as offsets_of

    cfg = tiny_config()
    grid = jnp.asarray(anchors.of_maps([(4, 4), (2, 2), (1, 1)], 0.3, 0.6), jnp.float32)
    truth = jnp.asarray([[0.1, 0.1, 0.4, 0.5], [0.5, 0.4, 0.9, 0.9]], jnp.float32)
    classes = jnp.asarray([3, 1], jnp.int32)
    box_A, matched_A = map(np.asarray, jax.jit(matching.match)(grid, truth, jnp.ones(2, bool)))
    offsets = np.asarray(jax.jit(offsets_of.encode)(truth[box_A], grid))
    logits = np.where(matched_A[:, None], 20 * np.eye(11, dtype=np.float32)[np.asarray(classes)[box_A]] - 10, -10)
    predictions, start = [], 0
    for side, a in ((4, 3), (2, 6), (1, 6)):
        part = slice(start, start + side * side * a)
        predictions.append((logits[part].reshape(1, side, side, a, 11), offsets[part].reshape(1, side, side, a, 4)))
        start = part.stop
    targets = {"boxes": truth[None], "classes": classes[None], "ignored": jnp.zeros((1, 2), bool)}
    kept = jax.tree.map(np.asarray, jax.jit(lambda p, t: task.per_image(p, t, cfg))(predictions, targets))
    scored = task.score({}, kept, cfg)
    assert scored == {**scored, "coco_map": 1.0, "ap50": 1.0, "ap75": 1.0, "ap/1": 1.0, "ap/3": 1.0}


# Whole runs.

EXPERIMENT = f'''"""Tiny boxes.

For tests.
"""
from mnet_jax import config

def get_config(scale="scenes"):
    cfg = config.at_scale(scale, task="detection")
    config.override(cfg, {TINY | {"seeds": 1}!r})
    return cfg

def sweep(cfg):
    for act in ("linear", "relu6"):
        yield {{"model.project_act": act}}

claim = {{"text": "t", "source": "s", "published": "p", "contrasts": (config.greater("linear", "relu6"),)}}
'''


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A sweep of two runs of 4 steps: its folder, its plan, and one where the first run was stopped and went on."""
    folders = []
    for name in ("whole", "stopped"):
        folder = tmp_path_factory.mktemp(name)
        plan = sweep.plan(experiment.load(tiny.write(folder, EXPERIMENT)), "scenes", {}, "train", "the command")
        results.write_sweep(folder, plan)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(feed, "CHUNK_STEPS", 3)
            for job in plan.jobs if name == "whole" else plan.jobs[:1]:
                if name == "stopped":
                    with pytest.raises(train.Preempted):
                        train.train(folder, plan, job, lambda: True, train.Clock())
                train.train(folder, plan, job, lambda: False, train.Clock())
        folders.append(folder)
    return folders[0], plan, folders[1]


@pytest.mark.slow
def test_a_run_has_the_metrics_of_the_task_and_logs_the_classes(finished):
    folder, plan, _ = finished
    assert plan.claim.metric == "coco_map"
    rows = results.read_rows(folder, plan)
    assert {name for row in rows for name in row["metrics"]} == {
        *("coco_map", "ap50", "ap75", "train_loss", "train_class_loss", "train_box_loss")
    }
    line = results.read_metrics(folder, rows[0]["run"])[-1]
    by_class = [value for name, value in line.items() if name.startswith("ap/")]
    assert len(by_class) == 10
    assert line["coco_map"] == pytest.approx(np.mean(by_class))
    assert line["train_loss"] == pytest.approx(line["train_class_loss"] + line["train_box_loss"], rel=1e-5)


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_same_bits(finished):
    whole, plan, stopped = finished
    run = plan.runs[0].name
    read = [weights.read(results.run_dir(folder, run) / "weights.safetensors")[0] for folder in (whole, stopped)]
    assert read[0].keys() == read[1].keys()
    for name in read[0]:
        np.testing.assert_array_equal(read[0][name], read[1][name])
    assert results.read_metrics(whole, run)[-1] == results.read_metrics(stopped, run)[-1]


@pytest.mark.slow
def test_trained_weights_find_boxes_in_files(finished, tmp_path):
    folder, plan, _ = finished
    network = models.load(results.run_dir(folder, plan.runs[0].name) / "weights.safetensors")
    images = load.from_name("scenes").in_memory()[:2, ..., 0]
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    found = network.predict([tmp_path / "0.png", tmp_path / "1.png"])
    of_arrays = network.predict(images[..., None])
    for name, array in found.items():
        np.testing.assert_array_equal(array, of_arrays[name])
    assert found["boxes"].shape == (2, 50, 4)
    assert found["boxes"].min() >= 0
    assert found["boxes"].max() <= 1
    assert (np.diff(found["scores"], axis=1) <= 0).all()
    assert ((found["classes"] > 0) == (found["scores"] > 0)).all()
    assert found["classes"].max() < 11


@pytest.mark.slow
def test_the_report_shows_boxes_and_classes(finished):
    folder, plan, _ = finished
    pictures = list(TASKS["detection"].pictures(folder, plan))
    assert [title for title, _, _ in pictures] == ["Classes", "Boxes"]
    assert [label.get_text() for label in pictures[0][1].axes[0].get_yticklabels()][:2] == ["0", "1"]
    assert len(pictures[1][1].axes) == 3 * 2 * shown.DRAWN
    summary, drawn = report.write(folder)
    assert {"Classes", "Boxes", "Every run"} <= {figure.title for figure in drawn}
    assert "AP at 0.75" in report.to_text(summary)


def test_a_file_is_resized_whole_as_in_an_evaluation(tmp_path):
    """Boxes are shares of the image, so that no part of it may be cut off."""
    image = np.arange(80, dtype=np.uint8).reshape(8, 10)
    Image.fromarray(image).save(tmp_path / "a.png")
    made: dict[str, Any] = {"network": None, "task": TASKS["detection"], "cfg": tiny_config(), "class_names": ()}
    square = TrainedNetwork(**made, mean=(0,), std=(1,), input_shape=(4, 4, 1), made_by={})
    np.testing.assert_array_equal(
        square._prepared(tmp_path / "a.png"), transforms.resize_batch(image[None, ..., None], 4)
    )
    other = TrainedNetwork(**made, mean=(0,), std=(1,), input_shape=(4, 6, 1), made_by={})
    with pytest.raises(UserError, match=r"a\.png is 8x10; allowed: 4x6, as the network was trained"):
        other._prepared(tmp_path / "a.png")


def test_a_box_is_missed_where_no_detection_of_its_class_overlaps_it_by_half():
    truth = np.array([[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1], [0, 0.5, 0.5, 1], [0] * 4])
    found = np.array([[0, 0, 0.5, 0.3], [0.5, 0.5, 1, 1], [0, 0.5, 0.5, 0.7]])
    missed = task._missed(truth, np.array([1, 2, 3, 0]), found, np.array([1, 1, 3]))
    assert missed.tolist() == [0, 2, 3, 0]


@pytest.mark.slow
def test_one_and_eight_devices_train_and_find_alike():
    cfg = tiny_config(**{"model.formulation": "shift"})
    dataset = load.from_config(cfg.data)
    targets = {name: jnp.asarray(array[:64]) for name, array in task.targets(dataset, cfg).items()}
    arrays = jnp.asarray(dataset.in_memory()[:64]), targets
    index = jnp.arange(32, dtype=jnp.int32).reshape(1, 2, 16)
    traced = jax.tree.map(lambda value: jnp.full(1, value, jnp.float32), config.traced_values(cfg))
    ends = []
    for devices in (1, 8):
        mesh = sharding.mesh(1, 16, jax.devices()[:devices])
        program = step.build(TASKS["detection"], cfg, 1, dataset.mean, dataset.std, 2, mesh)
        state = program.init(jnp.zeros(1, jnp.int32))
        held_out = {"index": index, "mask": jnp.ones((1, 2, 16))}
        kept = program.evaluate(state, traced, arrays, held_out)[1]
        kept = {name: np.asarray(array)[0].reshape(32, *array.shape[3:]) for name, array in kept.items()}
        state, sums = program.train(state, traced, (), arrays, {"index": index}, jnp.int32(0), jnp.int32(1))
        ends.append((float(sums["loss"][0]), task.score({}, kept, cfg)["coco_map"]))
    assert ends[0][0] == pytest.approx(ends[1][0], rel=1e-5)
    assert ends[0][1] == pytest.approx(ends[1][1], abs=1e-6)


@pytest.mark.slow
@pytest.mark.skipif(not (COCO_MINI / "annotations").is_dir(), reason="COCO's photographs are not unpacked here")
def test_a_detector_learns_eight_photographs_by_heart():
    cfg = config.at_scale("coco", task="detection")
    config.override(cfg, OVERFIT)
    config.check(cfg)
    dataset = boxes.from_folder(COCO_MINI, cfg.data.resolution)
    targets = {name: jnp.asarray(array[:8]) for name, array in task.targets(dataset, cfg).items()}
    arrays = jnp.asarray(dataset.in_memory()[:8]), targets
    program = step.build(
        TASKS["detection"], cfg, 1, dataset.mean, dataset.std, 1, sharding.mesh(1, 8, jax.devices()[:1])
    )
    traced = jax.tree.map(lambda value: jnp.full(1, value, jnp.float32), config.traced_values(cfg))
    state, eight = program.init(jnp.zeros(1, jnp.int32)), jnp.arange(8, dtype=jnp.int32)
    batches = {"index": jnp.broadcast_to(eight, (1, cfg.train.epochs, 8))}
    with jax.numpy_dtype_promotion("standard"):  # Optax's AdamW mixes types
        state, _ = program.train(state, traced, (), arrays, batches, jnp.int32(0), jnp.int32(cfg.train.epochs))
    held_out = {"index": eight.reshape(1, 1, 8), "mask": jnp.ones((1, 1, 8))}
    kept = program.evaluate(state, traced, arrays, held_out)[1]
    kept = {name: np.asarray(array)[0, 0] for name, array in kept.items()}
    assert task.score({}, kept, cfg)["ap50"] > 0.9
