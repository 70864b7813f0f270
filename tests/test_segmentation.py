"""Segmentation: output stride, heads, masks that move with pixels, the confusion matrix, readers, and whole runs."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from PIL import Image

from mnet_jax import config, cost, experiment, feed, models, results, sharding, step, sweep, train, trained
from mnet_jax.cost import conventions
from mnet_jax.data import augment, load, masks, scenes
from mnet_jax.errors import UserError
from mnet_jax.models import specs, weights
from mnet_jax.models.heads import deeplab
from mnet_jax.tasks import TASKS, shown
from mnet_jax.tasks import segmentation as task

TINY = {
    "task": "segmentation",
    "model.name": "mobilenet_v2",
    "model.divisor": 1,
    "model.stem": (4, 2),
    "model.blocks": ((1, 4, 1, 1), (2, 4, 1, 2), (2, 6, 1, 2), (2, 6, 1, 1)),
    "model.last": 8,
    "model.in_channels": 1,
    "model.num_classes": 11,
    "model.output_stride": 4,
    "model.padding": "symmetric",
    "model.init": "he",
    "model.dropout": 0.0,
    "model.norm.momentum": 0.9,
    "model.norm.group": 0,
    "data.source": "scenes",
    "data.resolution": 32,
    "data.train_size": 64,
    "data.flip": True,
    "segmentation.channels": 4,
    "segmentation.rates": (2, 3),
    "segmentation.random_scale": (0.5, 2.0),
    "train.epochs": 1,
    "train.batch_size": 16,
    "train.eval_every": 1,
    "train.label_smoothing": 0.0,
    "train.ema": 0.0,
    "optim.name": "sgd",
    "optim.schedule": "poly",
    "optim.lr": 0.1,
}


def tiny_config(**changes):
    cfg = config.default()
    config.override(cfg, TINY | changes)
    config.check(cfg)
    return cfg


def network(cfg, seed=0):
    """A network in evaluation mode whose every weight and statistic is random."""
    module = task.build(cfg, nnx.Rngs(seed))
    graphdef, params, batch_stats = weights.split(module)
    rng = np.random.default_rng(seed)
    positive = ("var", "scale")

    def draw(path, leaf):
        drawn = rng.normal(size=leaf.shape).astype("float32") * 0.5
        return jnp.asarray(np.abs(drawn) + 0.5 if path[-1].key in positive else drawn)

    module = nnx.merge(graphdef, *(jax.tree_util.tree_map_with_path(draw, tree) for tree in (params, batch_stats)))
    module.eval()
    return module


# Output stride.


def strides_and_dilations(name, **fields):
    model = config.default().model
    model.name = name
    for field, value in fields.items():
        setattr(model, field, value)
    return [(block.stride, block.dilation) for block in specs.network(model).blocks]


def test_atrous_blocks_follow_slims_rule():
    """Block 14 of V2 loses its stride and keeps the dilation before it; those behind it are dilated (section 6.3)."""
    plain = strides_and_dilations("mobilenet_v2")
    assert strides_and_dilations("mobilenet_v2", output_stride=32) == plain
    at16 = strides_and_dilations("mobilenet_v2", output_stride=16)
    assert [stride for stride, _ in at16] == [1 if number == 13 else stride for number, (stride, _) in enumerate(plain)]
    assert [dilation for _, dilation in at16] == [1] * 14 + [2] * 3
    at8 = strides_and_dilations("mobilenet_v2", output_stride=8)
    assert [dilation for _, dilation in at8] == [1] * 7 + [2] * 7 + [4] * 3
    assert {dilation for _, dilation in strides_and_dilations("mobilenet_v2", output_stride=8, atrous=False)} == {1}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenet_v1", "mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small"])
@pytest.mark.parametrize("stride", [8, 16, 32])
def test_the_last_map_is_as_much_smaller_as_the_output_stride_says(name, stride):
    model = config.default().model
    model.name, model.output_stride, model.norm.group = name, stride, 0

    def last_map():
        backbone = models.structure(model, until=f"block{len(specs.network(model).blocks)}")
        backbone.eval()
        return backbone(jnp.zeros((1, 64, 64, 3)))[0]

    x = jax.eval_shape(last_map)
    assert x.shape[1:3] == (64 // stride, 64 // stride)


@pytest.mark.slow
@pytest.mark.parametrize("formulation", ["lax", "shift", "auto"])
def test_an_atrous_network_computes_the_strided_ones_pixels_and_those_between(formulation):
    """Images of 2^n + 1 pixels: every stride then takes the first, third .. of the pixels."""
    rows = ((1, 4, 1, 1), (2, 4, 1, 2), (2, 6, 1, 2), (2, 6, 1, 1))
    outputs = {}
    for stride in (2, 4, 8):
        cfg = tiny_config(**{"model.blocks": rows, "model.output_stride": stride, "model.formulation": formulation})
        outputs[stride], _ = network(cfg).backbone(images(33, 1))
    assert outputs[2].shape[1:3] == (17, 17)
    for stride in (4, 8):
        every = stride // 2
        np.testing.assert_allclose(outputs[2][:, ::every, ::every], outputs[stride], rtol=2e-4, atol=2e-4)


def images(side, channels=3, batch=2):
    return jnp.asarray(np.random.default_rng(1).normal(size=(batch, side, side, channels)), jnp.float32)


@pytest.mark.slow
def test_the_fused_training_step_of_a_dilated_block_is_that_of_lax():
    results = []
    for formulation in ("lax", "auto"):
        module = network(tiny_config(**{"model.output_stride": 2, "model.formulation": formulation}))
        module.train()

        def loss(params, module=module):
            graphdef, _, batch_stats = weights.split(module)
            logits, _ = nnx.merge(graphdef, params, batch_stats)(images(16, 1))
            return jnp.sum(jnp.sin(logits))

        results.append(jax.value_and_grad(loss)(weights.split(module)[1]))
    for a, b in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-3 * max(1, np.abs(b).max()))


@pytest.mark.parametrize("stride", [1, 3, 64])
def test_an_output_stride_that_is_not_reached_is_refused_with_those_that_are(stride):
    with pytest.raises(UserError, match=rf"model.output_stride={stride} on mobilenet_v2; allowed: 2, 4, 8, 16, 32, or"):
        strides_and_dilations("mobilenet_v2", output_stride=stride)


@pytest.mark.slow
@pytest.mark.parametrize("until", ["block2", "head"])
def test_until_ends_the_network_and_neither_head_nor_classifier_is_built(until):
    cfg = tiny_config()
    backbone = models.build(cfg.model, nnx.Rngs(0), until=until)
    backbone.eval()
    x, endpoints = backbone(images(16, 1))
    assert list(endpoints)[-1] == until
    assert x is endpoints[until]
    assert x.shape[-1] == backbone.channels
    names = set(weights.flatten(*weights.split(backbone)[1:]))
    assert not any(name.startswith("classifier") for name in names)
    assert any(name.startswith("head") for name in names) == (until == "head")
    assert not any(layer.type == "unused" for layer in cost.count(backbone, input_shape=(16, 16, 1)).layers)


def test_until_an_unknown_map_is_refused():
    with pytest.raises(UserError, match="until 'block9'; allowed: block1, block2, block3, block4, head"):
        models.build(tiny_config().model, nnx.Rngs(0), until="block9")
    cfg = config.default()
    cfg.model.name = "vgg16"
    with pytest.raises(UserError, match="'vgg16' without its classifier"):
        models.build(cfg.model, nnx.Rngs(0), until="block1")


# Heads and their costs.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fields", "params", "madds", "printed"),
    [
        # Sandler et al. 2018, Table 7: MNet V2*, 2.11 M and 2.75 B, 4.52 M and 5.8 B; MNet V1, 11.15 M and 14.25 B.
        ({}, 2_113_557, 2_740_709_056, 2.75e9),
        ({"segmentation.head": "aspp"}, 4_523_541, 5_363_508_928, 5.8e9),
        ({"model.name": "mobilenet_v1", "segmentation.head": "aspp"}, 11_145_301, 12_760_886_976, 14.25e9),
    ],
)
def test_published_sizes(fields, params, madds, printed):
    """Exact counts of another program; the published multiply-adds are those of padded grids, within 0.4 %."""
    cfg = config.at_scale("voc", task="segmentation")
    config.override(cfg, fields)
    cfg.model.formulation = "lax"
    counted = cost.count(nnx.eval_shape(lambda: task.build(cfg, nnx.Rngs(0))), 513)
    assert (counted.params_trainable, counted.madds) == (params, madds)
    assert conventions.madds_on_padded_grids(counted.layers) == pytest.approx(printed, rel=4e-3)
    assert not counted.unknown
    assert "unused" not in {layer.type for layer in counted.layers}


def test_arms_that_differ_in_their_head_have_their_own_cost():
    def heads(cfg):
        yield {"name": "reduced"}
        yield {"name": "aspp", "segmentation.head": "aspp"}

    claim = {"text": "t", "source": "s", "published": "p", "contrasts": (config.greater("aspp", "reduced"),)}
    about = experiment.Experiment(
        "heads", "", lambda _: tiny_config(), heads, claim, Path("heads.py"), "", experiment.Code()
    )
    reduced, aspp = sweep.plan(about, "scenes", {}, "train", "").arms
    assert aspp.cost["params"] > reduced.cost["params"]
    assert aspp.cost["madds"] > reduced.cost["madds"]
    assert aspp.network != reduced.network


@pytest.mark.slow
def test_scales_and_mirror_images_are_counted_as_so_many_passes():
    """Table 7's 152.6 B are the sum of 12 passes at output stride 8; exactly it is 152,334,636,288."""
    cfg = config.at_scale("voc", task="segmentation")
    scales = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
    config.override(cfg, {"model.output_stride": 8, "segmentation.scales": scales, "segmentation.mirror": True})
    cfg.model.formulation = "lax"
    counted = cost.count(nnx.eval_shape(lambda: task.build(cfg, nnx.Rngs(0))), 513)
    assert (counted.params_trainable, counted.madds) == (2_113_557, 152_334_636_288)


def reference_conv(x, kernel, stride=1, dilation=1, groups=1):
    """Sums over the kernel's elements in numpy, padded as PyTorch does."""
    size = kernel.shape[0]
    pad = dilation * (size - 1) // 2
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    rows = (x.shape[1] - 1) // stride + 1
    total = 0
    for i in range(size):
        for j in range(size):
            window = padded[:, i * dilation :, j * dilation :][:, : (rows - 1) * stride + 1 : stride]
            window = window[:, :, : (rows - 1) * stride + 1 : stride]
            total = total + (window * kernel[i, j] if groups > 1 else window @ kernel[i, j])
    return total


def reference_deeplab(x, tensors, blocks, rates, size):
    """Logits of DeepLab on a V2, from weights by name, in float64."""

    def layer(x, name, high, **how):
        kernel = tensors[f"{name}.kernel"]
        kernel = kernel[None, None] if kernel.ndim == 2 else kernel
        y = reference_conv(x, kernel, **how)
        scale = tensors[f"{name}.scale"] / np.sqrt(tensors[f"{name}.var"] + 1e-3)
        return np.clip(
            (y - tensors[f"{name}.mean"]) * scale + tensors[f"{name}.bias"], -high if high == INF else 0, high
        )

    x = layer(x, "backbone.stem", 6, stride=2)
    for number, (stride, dilation) in enumerate(blocks):
        name, before = f"backbone.blocks.{number}", x
        if f"{name}.expand.kernel" in tensors:
            x = layer(x, f"{name}.expand", 6)
        x = layer(x, f"{name}.depthwise", 6, stride=stride, dilation=dilation, groups=2)
        x = layer(x, f"{name}.project", INF)
        x = x + before if x.shape == before.shape else x
    pooled = layer(x.mean((1, 2), keepdims=True), "head.pooled", 1e9)
    branches = [np.broadcast_to(pooled, (*x.shape[:3], pooled.shape[-1])), layer(x, "head.pointwise", 1e9)]
    branches += [layer(x, f"head.atrous.{number}", 1e9, dilation=rate) for number, rate in enumerate(rates)]
    x = layer(np.concatenate(branches, -1), "head.project", 1e9)
    x = x @ tensors["head.classifier.kernel"] + tensors["head.classifier.bias"]
    for axis in (1, 2):
        places = np.arange(size) * (x.shape[axis] - 1) / (size - 1)
        low = np.minimum(places.astype(int), x.shape[axis] - 2)
        share = (places - low).reshape([-1 if a == axis else 1 for a in range(4)])
        x = np.take(x, low, axis) * (1 - share) + np.take(x, low + 1, axis) * share
    return x


INF = float("inf")


@pytest.mark.slow
@pytest.mark.parametrize("head", ["reduced", "aspp"])
@pytest.mark.parametrize(
    ("output_stride", "blocks"),
    [
        (8, [(1, 1), (2, 1), (2, 1), (1, 1)]),
        (4, [(1, 1), (2, 1), (1, 1), (1, 2)]),
        (2, [(1, 1), (1, 1), (1, 2), (1, 4)]),
    ],
)
def test_logits_are_those_of_an_independent_deeplab(head, output_stride, blocks):
    cfg = tiny_config(**{"segmentation.head": head, "model.output_stride": output_stride})
    module = network(cfg)
    tensors = {
        name: np.asarray(value, "float64") for name, value in weights.flatten(*weights.split(module)[1:]).items()
    }
    rates = cfg.segmentation.rates if head == "aspp" else ()
    expected = reference_deeplab(np.asarray(images(32, 1), "float64"), tensors, blocks, rates, 32)
    logits, _ = module(images(32, 1))
    assert logits.shape == (2, 32, 32, 11)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.slow
def test_lr_aspp_adds_the_scores_of_two_maps():
    cfg = tiny_config(**{"segmentation.head": "lr_aspp"})
    module = network(cfg)
    logits, endpoints = module(images(32, 1))
    head, x = module.head, np.asarray(endpoints["block4"])
    kernels = (layer.kernel[...] for layer in (head.gate, head.classifier, head.earlier_classifier))
    gate, kernel, earlier_kernel = map(np.asarray, kernels)
    pooled = x.mean((1, 2)) @ gate
    gated = np.asarray(head.pointwise(endpoints["block4"], (0.0, INF))) / (1 + np.exp(-pooled))[:, None, None]
    earlier = np.asarray(endpoints[module.earlier])
    assert earlier.shape[1] == 2 * x.shape[1]
    biases = np.asarray(head.classifier.bias[...]) + np.asarray(head.earlier_classifier.bias[...])
    small = np.asarray(deeplab.resize(jnp.asarray(gated), (16, 16))) @ kernel + earlier @ earlier_kernel + biases
    np.testing.assert_allclose(logits, deeplab.resize(jnp.asarray(small), (32, 32)), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_several_passes_average_probabilities_in_an_evaluation_only():
    cfg = tiny_config(**{"segmentation.scales": (1.0, 0.5), "segmentation.mirror": True})
    several, one = network(cfg), network(tiny_config())
    x = images(32, 1)

    def share(x):
        half = jnp.asarray(deeplab.resize(x, (16, 16)))  # int(31 / 2 + 1)
        logits = [one.one_pass(image, (32, 32), None, None)[0] for image in (x, half)]
        return sum(map(jax.nn.softmax, logits))

    mirrored = share(x[:, :, ::-1])
    expected = (share(x) + mirrored[:, :, ::-1]) / 4  # pyrefly: ignore
    np.testing.assert_allclose(jnp.exp(several(x)[0]), expected, rtol=1e-4, atol=1e-6)
    several.train()
    one.train()
    np.testing.assert_array_equal(several(x)[0], one(x)[0])


def test_resize_puts_corners_on_corners_and_passes_gradients():
    x = jnp.asarray([[0.0, 1, 2], [10, 11, 12]])[None, ..., None]
    np.testing.assert_allclose(
        deeplab.resize(x, (3, 5))[0, ..., 0],
        [[0, 0.5, 1, 1.5, 2], [5, 5.5, 6, 6.5, 7], [10, 10.5, 11, 11.5, 12]],
        rtol=1e-6,
    )
    np.testing.assert_allclose(jax.grad(lambda x: jnp.sum(deeplab.resize(x, (3, 5))))(x).sum(), 15, rtol=1e-6)


# Pixels and masks move together.


@pytest.mark.parametrize(
    ("scales", "shift", "flip"), [((1.0, 1.0), 3, False), ((1.0, 1.0), 0, True), ((0.5, 2.0), 2, True)]
)
def test_masks_move_with_their_pixels(scales, shift, flip):
    """Images whose level is their mask's: where no edge is near, the moved image has the moved mask's level."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(1, 5, (64, 4, 4))
    masks_BHW = jnp.asarray(coarse.repeat(8, 1).repeat(8, 2), jnp.uint8)
    places = augment.places(jax.random.key(0), masks_BHW.shape, scales, shift, flip)
    moved = np.asarray(augment.move_masks(masks_BHW, places, 255))
    x = np.asarray(augment.move_images(masks_BHW.astype(jnp.float32)[..., None], places))[..., 0]
    assert len(np.unique(moved, axis=0)) == 64
    assert (np.asarray(masks_BHW) != moved).any()
    np.testing.assert_array_equal(x[moved == 255], 0)
    same = np.isclose(x, moved, atol=1e-4)
    assert same[moved != 255].mean() > (0.999 if scales == (1.0, 1.0) else 0.7)
    assert (moved == 255).any() == (shift > 0 or scales[0] < 1)


def test_without_augmentation_nothing_moves():
    assert augment.places(jax.random.key(0), (2, 8, 8), (1.0, 1.0), 0, False) is None


def test_a_mirrored_place_mirrors():
    one = jnp.ones(1)
    places = augment.Places(one, 0 * one, 0 * one, one > 0)
    mask = jnp.arange(12, dtype=jnp.uint8).reshape(1, 3, 4)
    np.testing.assert_array_equal(augment.move_masks(mask, places, 255), mask[:, :, ::-1])
    moved = augment.move_images(mask.astype(jnp.float32)[..., None], places)
    np.testing.assert_allclose(moved[..., 0], mask[:, :, ::-1].astype(jnp.float32), atol=1e-5)


# The loss and the metrics.


def random_masks(classes=5, ignored=0.2):
    rng = np.random.default_rng(0)
    truth = rng.integers(0, classes, (3, 8, 8)).astype(np.uint8)
    truth[rng.random(truth.shape) < ignored] = 255
    return truth, rng.normal(size=(3, 8, 8, classes)).astype(np.float32)


def test_confusion_and_mean_iou_are_scikit_learns():
    from sklearn.metrics import accuracy_score, confusion_matrix, jaccard_score

    truth, logits = random_masks()
    sums = task.sums(jnp.asarray(logits), {"masks": jnp.asarray(truth)}, jnp.asarray([1.0, 1, 0]), None)
    pairs = truth[:2].ravel(), logits[:2].argmax(-1).ravel()
    true, predicted = (array[pairs[0] != 255] for array in pairs)
    np.testing.assert_array_equal(sums["confusion"], confusion_matrix(true, predicted, labels=range(5)))
    scored = task.score({name: np.asarray(value, "float64") for name, value in sums.items()}, {}, None)
    assert scored["mean_iou"] == pytest.approx(jaccard_score(true, predicted, average="macro"), abs=1e-12)
    assert scored["pixel_accuracy"] == pytest.approx(accuracy_score(true, predicted), abs=1e-12)


def test_a_class_that_does_not_occur_is_not_in_the_mean():
    scored = task.score({"confusion": np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]])}, {}, None)
    assert scored["mean_iou"] == pytest.approx((3 / 4 + 4 / 5) / 2)
    assert "iou/2" not in scored


def test_the_loss_is_the_mean_over_pixels_that_count():
    truth, logits = random_masks()
    value, parts = task.loss(jnp.asarray(logits), {"masks": jnp.asarray(truth)}, None, None)
    shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    counts = truth != 255
    nll = -np.log(np.take_along_axis(shares, np.where(counts, truth, 0)[..., None].astype(int), -1)[..., 0])
    assert float(value) == pytest.approx(nll[counts].mean(), rel=1e-5)
    right = (logits.argmax(-1) == truth) & counts
    assert float(parts["pixel_accuracy"]) == pytest.approx((right.sum((1, 2)) / counts.sum((1, 2))).sum(), rel=1e-5)


def test_a_batch_without_a_pixel_that_counts_has_no_loss_and_no_gradient():
    truth = {"masks": jnp.full((2, 4, 4), 255, jnp.uint8)}
    value, gradient = jax.value_and_grad(lambda x: task.loss(x, truth, None, None)[0])(jnp.ones((2, 4, 4, 3)))
    assert float(value) == 0
    assert not gradient.any()
    with pytest.raises(UserError, match="every pixel of the held-out masks is ignored"):
        task.score({"confusion": np.zeros((3, 3))}, {}, None)


# Scenes.


def test_scenes_have_exact_boxes_classes_and_masks():
    dataset = load.from_name("scenes")
    assert dataset.in_memory().shape == (3500, 64, 64, 1)
    assert dataset.class_names == scenes.CLASS_NAMES
    boxes, classes, truth = (dataset.targets[name] for name in ("boxes", "classes", "masks"))
    assert (classes > 0).any(1).all()
    assert set(np.unique(truth)) == set(range(11))
    for index in (0, 1, 2, 3000, 3001):
        for box, number in zip(boxes[index], classes[index], strict=True):
            if not number:
                assert not box.any()
                continue
            top, left, bottom, right = np.rint(box * 64).astype(int)
            inside = truth[index, top:bottom, left:right]
            assert set(np.unique(inside)) == {0, number}
            assert min((inside > 0).any(1).mean(), (inside > 0).any(0).mean()) > 0.7


def test_a_silhouette_is_a_digit_without_its_holes():
    ink = np.array([list(row) for row in ("01100", "10010", "10010", "01100", "00001")]) == "1"
    filled = np.array([list(row) for row in ("01100", "11110", "11110", "01100", "00001")]) == "1"
    np.testing.assert_array_equal(scenes._silhouette(ink), filled)


def test_scenes_are_read_from_the_cache_as_they_were_drawn(monkeypatch, tmp_path):
    monkeypatch.setattr(scenes, "SIZES", (6, 4))
    monkeypatch.setattr(scenes.Path, "expanduser", lambda path: tmp_path / path.name)
    drawn = scenes.scenes()
    monkeypatch.setattr(scenes, "_draw", None)
    assert scenes.scenes().fingerprint == drawn.fingerprint
    (file,) = tmp_path.rglob("*.npz")
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(TypeError):  # a damaged file is drawn again
        scenes.scenes()


def test_resized_scenes_have_resized_masks():
    dataset = load.from_name("scenes", resolution=32)
    assert dataset.targets["masks"].shape == (3500, 32, 32)
    assert set(np.unique(dataset.targets["masks"])) == set(range(11))


# Readers.


def write_folder(folder, size=(6, 8), level=None, suffix=".png"):
    """Two images with masks in the plain layout."""
    (folder / "classes.txt").parent.mkdir(parents=True, exist_ok=True)
    (folder / "classes.txt").write_text("ground\ntree\n")
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (folder / kind / split).mkdir(parents=True, exist_ok=True)
        image = np.full((6, 8, 3), 50, np.uint8)
        Image.fromarray(image).save(folder / "images" / split / f"a{suffix}")
        mask = np.arange(size[0] * size[1], dtype=np.uint8).reshape(size) % 2
        mask[0, 0] = 255 if level is None else level
        masks.write(folder / "masks" / split / "a.png", mask)
    return folder


def test_a_folder_of_images_and_masks_is_a_dataset(tmp_path):
    write_folder(tmp_path / "park")
    dataset = load.from_name("park", tmp_path)
    assert dataset.class_names == ("ground", "tree")
    assert dataset.targets["masks"].shape == (2, 6, 8)
    assert dataset.targets["masks"][0, 0].tolist() == [255, 1, 0, 1, 0, 1, 0, 1]
    fitted = load.from_name("park", tmp_path, resolution=16)
    assert fitted.shape == (16, 16, 3)
    assert (fitted.targets["masks"][:, 12:] == 255).all()
    assert (fitted.in_memory()[:, 12:] == 0).all()
    assert fitted.targets["masks"][0, 0, 2:6].tolist() == [1, 1, 0, 0]


def test_masks_are_written_with_vocs_palette_and_read_as_indices(tmp_path):
    mask = np.arange(256, dtype=np.uint8).reshape(16, 16)
    masks.write(tmp_path / "mask.png", mask)
    np.testing.assert_array_equal(masks.read(tmp_path / "mask.png"), mask)
    colors = np.asarray(Image.open(tmp_path / "mask.png").convert("RGB")).reshape(256, 3)
    # VOC's development kit: aeroplane, bicycle, bird, person, tvmonitor, border.
    expected = {
        1: (128, 0, 0),
        2: (0, 128, 0),
        3: (128, 128, 0),
        15: (192, 128, 128),
        20: (0, 64, 128),
        255: (224, 224, 192),
    }
    assert {index: tuple(colors[index].tolist()) for index in expected} == expected


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda f: write_folder(f, size=(8, 6)), r"a.png is 8x6, its image 6x8; allowed: the same size"),
        (lambda f: write_folder(f, level=7), r"a.png has the level 7; allowed: 0 to 1, and the ignored one"),
        (lambda f: (f / "masks/val/a.png").unlink(), r"images/val/a.png has no mask .*masks/val/a.png"),
        (lambda f: Image.new("RGB", (8, 6)).save(f / "masks/train/a.png"), r"a.png: a mask with pixels of mode RGB"),
        (
            lambda f: masks.write(f / "masks/train/a.png", np.full((6, 8), 255, np.uint8)),
            r"a.png: every pixel is ignored",
        ),
        (lambda f: (f / "classes.txt").unlink(), r"classes.txt does not exist"),
        (lambda f: (f / "images/val/a.png").unlink(), r"no images to train on, or none to test on"),
        (lambda f: (f / "masks/val/a.png").write_bytes(b"x"), r"a.png cannot be read as a mask"),
        (lambda f: (f / "images/val/a.png").write_bytes(b"x"), r"images/val/a.png cannot be read as an image"),
    ],
)
def test_bad_masks_are_one_line_each(tmp_path, break_it, message):
    folder = write_folder(tmp_path / "park")
    break_it(folder)
    with pytest.raises(UserError, match=message) as caught:
        load.from_name("park", tmp_path)
    assert "\n" not in str(caught.value)


def test_images_of_several_sizes_need_a_resolution(tmp_path):
    folder = write_folder(tmp_path / "park")
    Image.new("RGB", (5, 5)).save(folder / "images/train/b.png")
    masks.write(folder / "masks/train/b.png", np.zeros((5, 5), np.uint8))
    with pytest.raises(UserError, match=r"set data\.resolution"):
        load.from_name("park", tmp_path)
    assert load.from_name("park", tmp_path, resolution=8).shape == (8, 8, 3)


def test_voc_camvid_and_coco_layouts(tmp_path):
    mask = np.array([[0, 1], [15, 255]], np.uint8)
    voc = tmp_path / "voc"
    for part in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (voc / part).mkdir(parents=True)
    for split in ("train", "val"):
        (voc / f"ImageSets/Segmentation/{split}.txt").write_text(f"{split}1\n")
        Image.new("RGB", (2, 2)).save(voc / f"JPEGImages/{split}1.jpg")
        masks.write(voc / f"SegmentationClass/{split}1.png", mask)
    np.testing.assert_array_equal(masks.from_folder(voc).targets["masks"], [mask, mask])

    camvid, coco = tmp_path / "camvid", tmp_path / "coco"
    for split in ("train", "test"):
        for folder in (camvid / split, camvid / f"{split}annot", coco / "images" / split, coco / "masks_coco" / split):
            folder.mkdir(parents=True)
        Image.new("RGB", (2, 2)).save(camvid / split / "a.png")
        masks.write(camvid / f"{split}annot/a.png", np.array([[0, 10], [11, 3]], np.uint8))
        Image.new("RGB", (2, 2)).save(coco / f"images/{split}/a.jpg")
        masks.write(coco / f"masks_coco/{split}/a.png", np.array([[0, 1], [72, 200]], np.uint8))
    read = masks.from_folder(camvid)
    assert read.targets["masks"][0].tolist() == [[0, 10], [255, 3]]
    assert read.classes == 11
    read = masks.from_folder(coco)  # unlabeled, person, tv, a kind of stuff
    assert read.targets["masks"][0].tolist() == [[255, 15], [20, 0]]
    assert read.classes == 21


# Settings.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.size": 32}, r"data.size=32 with task='segmentation'; allowed: 0"),
        ({"data.mixup": 0.2}, r"data.mixup=0.2 with task='segmentation'"),
        ({"train.label_smoothing": 0.1}, r"train.label_smoothing=0.1"),
        ({"analysis": True}, r"analysis=True"),
        ({"segmentation.scales": ()}, r"segmentation.scales=\(\)"),
        ({"segmentation.rates": (0,)}, r"segmentation.rates=\(0,\)"),
        ({"segmentation.random_scale": (2.0, 1.0)}, r"segmentation.random_scale=\(2.0, 1.0\)"),
        ({"model.output_stride": 64}, r"model.output_stride=64 on mobilenet_v2; allowed: 2, 4, 8, or 0"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        tiny_config(**changes)


def test_data_without_masks_or_of_other_classes_is_refused():
    with pytest.raises(UserError, match="digits has no masks, only labels"):
        task.check_data(tiny_config(), load.from_name("digits"))
    with pytest.raises(UserError, match=r"model\.num_classes=7; scenes needs 11"):
        task.check_data(tiny_config(**{"model.num_classes": 7}), load.from_name("scenes"))


def test_poly_goes_to_zero_as_deeplab_trains():
    from mnet_jax import optim

    factor = optim.schedule(tiny_config().optim, 10, 100)
    assert [float(factor(jnp.int32(step))) for step in (0, 50, 100)] == pytest.approx([1, 0.5**0.9, 0])


# Whole runs.

EXPERIMENT = f'''"""Tiny masks.

For tests.
"""
from mnet_jax import config

def get_config(scale="scenes"):
    cfg = config.at_scale(scale, task="segmentation")
    config.override(cfg, {TINY | {"seeds": 1}!r})
    return cfg

def sweep(cfg):
    for act in ("linear", "relu6"):
        yield {{"model.project_act": act}}

claim = {{"text": "t", "source": "s", "published": "p", "contrasts": (config.greater("linear", "relu6"),)}}
'''


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A sweep of two runs of 4 steps: its folder, its plan, and the folder of one that was stopped and went on."""
    folders = []
    for name in ("whole", "stopped"):
        folder = tmp_path_factory.mktemp(name)
        plan = sweep.plan(experiment.load(tiny.write(folder, EXPERIMENT)), "scenes", {}, "train", "the command")
        results.write_sweep(folder, plan)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(feed, "CHUNK_STEPS", 3)
            for job in plan.jobs:
                if name == "stopped":
                    with pytest.raises(train.Preempted):
                        train.train(folder, plan, job, lambda: True, train.Clock())
                train.train(folder, plan, job, lambda: False, train.Clock())
        folders.append(folder)
    return folders[0], plan, folders[1]


@pytest.mark.slow
def test_a_run_has_the_metrics_of_the_task_and_logs_the_classes(finished):
    folder, plan, _ = finished
    assert plan.claim.metric == "mean_iou"
    rows = results.read_rows(folder, plan)
    assert {name for row in rows for name in row["metrics"]} == {
        *("mean_iou", "pixel_accuracy", "train_loss", "train_pixel_accuracy")
    }
    line = results.read_metrics(folder, rows[0]["run"])[-1]
    iou = [value for name, value in line.items() if name.startswith("iou/")]
    assert line["mean_iou"] == pytest.approx(np.mean(iou))
    assert 0 < line["pixel_accuracy"] < 1


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_same_bits(finished):
    whole, plan, stopped = finished
    for run in plan.runs:
        read = [
            weights.read(results.run_dir(folder, run.name) / "weights.safetensors")[0] for folder in (whole, stopped)
        ]
        assert read[0].keys() == read[1].keys()
        for name in read[0]:
            np.testing.assert_array_equal(read[0][name], read[1][name])
        lines = [results.read_metrics(folder, run.name)[-1] for folder in (whole, stopped)]
        assert lines[0] == lines[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("classification", [[0, 0]] * 2),
        ("attributes", [[0, 0]] * 2),
        ("detection", [[200, 0]] * 2),
        ("segmentation", [[200, 0], [0, 0]]),
    ],
)
def test_a_file_becomes_a_square_as_in_its_tasks_folders(name, expected):
    """Of twice the width, and gray on the left half: the central square, the whole, or the upper left corner."""
    image_HWC = np.zeros((8, 16, 1), np.uint8)
    image_HWC[:, : 4 if name in ("classification", "attributes") else 8] = 200
    assert TASKS[name].fit(image_HWC, 2)[..., 0].tolist() == expected


def test_trained_weights_predict_masks(finished):
    folder, plan, _ = finished
    network = trained.load(results.run_dir(folder, plan.runs[0].name) / "weights.safetensors")
    predicted = network.predict(load.from_name("scenes").in_memory()[:3])
    assert predicted["masks"].shape == predicted["probabilities"].shape == (3, 32, 32)
    assert predicted["masks"].dtype == np.uint8
    assert predicted["masks"].max() < 11
    assert (predicted["probabilities"] >= 1 / 11 - 1e-6).all()


@pytest.mark.slow
def test_the_report_shows_masks_and_classes(finished):
    folder, plan, _ = finished
    pictures = list(TASKS["segmentation"].pictures(folder, plan))
    assert [title for title, _, _ in pictures] == ["Classes", "Masks"]
    names = [label.get_text() for label in pictures[0][1].axes[0].get_yticklabels()]
    assert names[0] == "background"
    assert len(pictures[1][1].axes) == 3 * 2 * shown.DRAWN


@pytest.mark.slow
def test_one_and_eight_devices_train_and_evaluate_alike():
    cfg = tiny_config(**{"model.formulation": "shift"})
    dataset = load.from_config(cfg.data)
    arrays = jnp.asarray(dataset.in_memory()[:64]), {"masks": jnp.asarray(dataset.targets["masks"][:64])}
    index = jnp.arange(32, dtype=jnp.int32).reshape(1, 2, 16)
    traced = jax.tree.map(lambda value: jnp.full(1, value, jnp.float32), config.traced_values(cfg))
    ends = []
    for devices in (1, 8):
        mesh = sharding.mesh(1, 16, jax.devices()[:devices])
        program = step.build(TASKS["segmentation"], cfg, 1, dataset.mean, dataset.std, 2, mesh)
        state = program.init(jnp.zeros(1, jnp.int32))
        state, sums = program.train(state, traced, (), arrays, {"index": index}, jnp.int32(0), jnp.int32(2))
        held_out = {"index": index, "mask": jnp.ones((1, 2, 16))}
        confusion = program.evaluate(state, traced, arrays, held_out)[0]["confusion"]
        assert confusion.dtype == jnp.int32
        assert confusion.sum() == 32 * 32 * 32
        ends.append((float(sums["loss"][0]), np.asarray(confusion[0])))
    assert ends[0][0] == pytest.approx(ends[1][0], rel=1e-4)
    assert np.abs(ends[0][1] - ends[1][1]).sum() < 0.01 * ends[0][1].sum()
