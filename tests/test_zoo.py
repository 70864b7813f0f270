"""The networks of other papers, and V3, have the published sizes and run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mnet_jax import config, cost, models
from mnet_jax.models import init, layers, specs, zoo
from mnet_jax.models.zoo.shufflenet import shuffle


def model_config(name, **fields):
    cfg = config.default().model
    cfg.name, cfg.norm.group, cfg.init, cfg.dropout = name, 0, "he", 0.0
    for key, value in fields.items():
        setattr(cfg, key, value)
    return cfg


def test_the_names_known_without_jax_are_the_files_of_the_zoo():
    assert tuple(sorted(zoo.NETWORKS)) == specs.ZOO


@pytest.mark.parametrize(
    ("name", "fields", "resolution", "kind", "params", "madds"),
    [
        ("vgg16", {}, 224, "trainable", 138_357_544, 15_470_264_320),
        ("alexnet", {}, 227, "weights", 60_954_656, 724_406_816),
        ("squeezenet", {}, 227, "trainable", 1_248_424, 832_667_936),
        ("squeezenet", {}, 224, "trainable", 1_248_424, 818_924_576),
        ("googlenet", {}, 224, "weights", 6_990_272, 1_582_671_872),
        ("inception_v3", {}, 299, "all", 23_851_784, 5_713_216_096),
        ("inception_v3", {"num_classes": 120}, 299, "all", 22_048_664, None),
        ("nasnet_a_mobile", {}, 224, "trainable", 5_289_978, 563_638_816),
        ("nasnet_a_mobile", {}, 224, "all", 5_326_716, 563_638_816),
        # He et al. 2016, Table 1: 3.8 G; PyTorch's count of the model's weights.
        ("resnet50", {}, 224, "trainable", 25_557_032, 3_857_973_248),
        # Hu et al. 2018, section 4: 2.5 M more; timm's legacy_seresnet50.
        ("se_resnet50", {}, 224, "trainable", 28_088_024, 3_860_488_192),
        # Howard et al. 2019, Table 3: 5.4 M, 219 M; 4.0 M, 155 M; torchvision's and Keras's counts.
        ("mobilenet_v3_large", {}, 224, "trainable", 5_483_032, 216_589_760),
        ("mobilenet_v3_large", {}, 224, "all", 5_507_432, 216_589_760),
        ("mobilenet_v3_large", {"width": 0.75}, 224, "weights", 3_968_208, 154_560_624),
        ("mobilenet_v3_small", {}, 224, "trainable", 2_542_856, 56_510_400),
        ("mobilenet_v3_small", {"last": 1280}, 224, "weights", 2_929_288, 56_913_856),  # Table 3: 2.9 M
        ("mobilenet_v3_large_minimalistic", {}, 224, "weights", 3_897_608, 209_136_704),  # released: 3.9 M, 209 M
        ("mobilenet_v3_small_minimalistic", {}, 224, "weights", 2_030_600, 52_288_448),  # released: 2.0 M
        # Zhang et al. 2018, Tables 5 and 1; the last with half of the units.
        ("shufflenet", {"width": 2.0}, 224, "weights", 5_400_816, 524_045_184),
        ("shufflenet", {"width": 1.5}, 224, "weights", 3_404_448, 292_443_552),
        ("shufflenet", {"groups": 1}, 224, "weights", 1_516_248, 143_078_976),
        ("shufflenet", {"groups": 2}, 224, "weights", 1_712_448, 140_836_512),
        ("shufflenet", {"groups": 3}, 224, "weights", 1_840_248, 137_460_672),
        ("shufflenet", {"groups": 4}, 224, "weights", 1_939_600, 134_339_776),
        ("shufflenet", {"groups": 8}, 224, "weights", 2_394_600, 138_365_952),
        ("shufflenet", {"groups": 1, "width": 0.25}, 224, "weights", 205_236, 13_162_320),
        ("shufflenet", {"groups": 3, "width": 0.25}, 224, "weights", 299_004, 13_300_656),
        (
            "shufflenet",
            {"width": 0.5, "blocks": ((240, 2, 2), (480, 4, 2), (960, 2, 2))},
            224,
            "weights",
            580_224,
            21_584_496,
        ),
    ],
)
def test_published_sizes(name, fields, resolution, kind, params, madds):
    count = cost.count(model_config(name, **fields), resolution)
    assert getattr(count, f"params_{kind}") == params
    assert madds is None or count.madds == madds
    assert not count.unknown


@pytest.mark.parametrize(("groups", "width", "printed"), [(3, 0.5, 38), (4, 0.5, 38), (2, 0.25, 13), (4, 0.25, 13)])
def test_narrow_shufflenets_come_to_the_printed_multiply_adds(groups, width, printed):
    """Zhang et al. 2018, Table 2, where a quarter of the channels is no multiple of the groups, or the stem is."""
    madds = cost.count(model_config("shufflenet", groups=groups, width=width), 224).madds / 1e6
    assert printed in (round(madds), int(madds))


@pytest.mark.parametrize("groups", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("width", [0.25, 0.5, 0.8, 1.3, 3.0])
def test_shufflenets_of_all_groups_and_widths_can_be_made(groups, width):
    cfg = model_config("shufflenet", groups=groups, width=width)
    network = nnx.eval_shape(lambda: models.structure(cfg))
    for stage in network.stages:
        for unit in stage:
            assert unit.expand.kernel.shape[2] * groups == unit.depthwise.kernel.shape[2]


@pytest.mark.parametrize(
    ("name", "resolution", "shapes"),
    [
        # The papers' tables of output sizes.
        ("vgg16", 224, {"stage1": (224, 224, 64), "stage5": (14, 14, 512), "fc2": (4096,)}),
        ("alexnet", 227, {"conv1": (55, 55, 96), "conv2": (27, 27, 256), "conv5": (13, 13, 256), "fc7": (4096,)}),
        ("squeezenet", 227, {"conv1": (111, 111, 96), "fire4": (55, 55, 256), "fire9": (13, 13, 512)}),
        ("squeezenet", 224, {"fire4": (54, 54, 256), "conv10": (13, 13, 1000)}),
        ("googlenet", 224, {"conv1": (112, 112, 64), "3a": (28, 28, 256), "4e": (14, 14, 832), "5b": (7, 7, 1024)}),
        ("inception_v3", 299, {"conv2b": (147, 147, 64), "mixed2": (35, 35, 288), "mixed7": (17, 17, 768)}),
        ("inception_v3", 75, {"mixed10": (1, 1, 2048)}),
        ("resnet50", 224, {"conv1": (112, 112, 64), "stage1": (56, 56, 256), "stage4": (7, 7, 2048)}),
        ("se_resnet50", 224, {"stage2": (28, 28, 512), "pooled": (2048,)}),
        ("shufflenet", 224, {"stem": (112, 112, 24), "stage2": (28, 28, 240), "stage4": (7, 7, 960)}),
        ("nasnet_a_mobile", 224, {"cell1": (56, 56, 44), "cell6": (28, 28, 264), "cell16": (7, 7, 1056)}),
        ("mobilenet_v3_large", 224, {"block1": (112, 112, 16), "head": (7, 7, 960), "features": (1280,)}),
        ("mobilenet_v3_small", 224, {"block1": (56, 56, 16), "head": (7, 7, 576), "features": (1024,)}),
    ],
)
def test_endpoints(name, resolution, shapes):
    network = nnx.eval_shape(lambda: models.structure(model_config(name)))
    network.eval()
    images = jax.ShapeDtypeStruct((2, resolution, resolution, 3), jnp.float32)
    logits, endpoints = nnx.eval_shape(lambda network, images: network(images), network, images)
    assert logits.shape == (2, 1000)
    assert {key: endpoints[key].shape for key in shapes} == {key: (2, *shape) for key, shape in shapes.items()}


def gradient_step(name, resolution, batch=4, **sizes):
    """One forward, one gradient, one small step down it: the loss falls."""
    cfg = model_config(name, num_classes=10)
    network = models.structure(cfg, **sizes)
    init.initialize(network, jax.random.key(0), cfg.init)
    network.train()
    graphdef, params, rest = nnx.split(network, nnx.Param, ...)
    images_BHWC = jax.random.normal(jax.random.key(1), (batch, resolution, resolution, 3))

    @jax.jit
    def step(params):
        def loss(params):
            logits_BK, _ = nnx.merge(graphdef, params, rest, copy=True)(images_BHWC)
            return -jnp.mean(jnp.diagonal(jax.nn.log_softmax(logits_BK)))

        value, grads = jax.value_and_grad(loss)(params)
        norm = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(grads)))
        return value, grads, jax.tree.map(lambda param, grad: param - 1e-3 * grad / norm, params, grads)

    before, grads, params = step(params)
    after, _, _ = step(params)
    for path, grad in jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(grads)):
        assert jnp.any(grad != 0), jax.tree_util.keystr(path)
    assert after < before


def test_mobilenet_v3_has_gradients_everywhere():
    gradient_step("mobilenet_v3_small", 64)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "resolution", "sizes"),
    [
        ("alexnet", 227, {}),
        ("googlenet", 64, {}),
        ("inception_v3", 75, {}),
        ("mobilenet_v3_large", 64, {}),
        ("mobilenet_v3_large_minimalistic", 64, {}),
        ("mobilenet_v3_small_minimalistic", 64, {}),
        ("nasnet_a_mobile", 64, {}),
        ("resnet50", 64, {}),
        ("se_resnet50", 64, {}),
        ("shufflenet", 64, {}),
        ("squeezenet", 64, {}),
        ("vgg16", 32, {"side": 1}),
    ],
)
def test_every_network_learns(name, resolution, sizes):
    gradient_step(name, resolution, **sizes)


def test_v3_rows_say_where_the_gates_and_the_hard_swishes_are():
    blocks = specs.network(model_config("mobilenet_v3_large")).blocks
    assert [block.squeezed for block in blocks] == [0, 0, 0, 24, 32, 32, 0, 0, 0, 0, 120, 168, 168, 240, 240]
    assert [block.act for block in blocks] == ["relu"] * 6 + ["hard_swish"] * 9
    plain = specs.network(model_config("mobilenet_v3_large_minimalistic")).blocks
    assert {(block.kernel_size, block.act, block.squeezed) for block in plain} == {(3, "relu", 0)}


def test_v3_gates_scale_their_channels():
    """A gate of hard_sigmoid(+-3) opens or shuts its channel, whatever the input."""
    network = models.structure(model_config("mobilenet_v3_small"))
    gate = network.blocks[0].excite
    gate.excite.bias.set_value(jnp.asarray([3.0, -3.0] * 8))
    x_BHWC = jax.random.normal(jax.random.key(0), (2, 3, 3, 16))
    np.testing.assert_allclose(gate(x_BHWC), x_BHWC * jnp.asarray([1.0, 0.0] * 8)[None, None, None], rtol=1e-6)


def test_hard_swish():
    x = jnp.asarray([-4.0, -3.0, -1.5, 0.0, 3.0, 5.0])
    np.testing.assert_allclose(layers.hard_swish(x), [0, 0, -0.375, 0, 3, 5], atol=1e-6)


def test_towers_see_their_own_half():
    conv = models.structure(model_config("alexnet")).conv4
    conv.kernel.set_value(jnp.ones(conv.kernel.shape))
    x_BHWC = jnp.concatenate([jnp.ones((1, 3, 3, 192)), jnp.zeros((1, 3, 3, 192))], -1)
    y_BHWC = conv(x_BHWC, layers.LINEAR)
    assert jnp.all(y_BHWC[..., :192] > 0)
    assert jnp.all(y_BHWC[..., 192:] == 0)


def test_shuffle_deals_out_the_groups():
    x_BHWC = jnp.arange(6.0)[None, None, None]
    np.testing.assert_array_equal(shuffle(x_BHWC, 3)[0, 0, 0], [0, 2, 4, 1, 3, 5])


@pytest.mark.parametrize("padding", ["same", "symmetric", "valid", "ceil"])
@pytest.mark.parametrize(("size", "stride"), [(3, 1), (3, 2), (2, 2)])
def test_pools_see_the_pixels_of_the_image_only(padding, size, stride):
    x_BHWC = np.random.default_rng(0).normal(size=(1, 8, 7, 2)).astype(np.float32) - 5
    pad = layers.pad_widths(x_BHWC.shape[1:3], (size, size), stride, padding)
    padded = np.pad(x_BHWC, ((0, 0), *pad, (0, 0)), constant_values=np.nan)
    tops, lefts = (range(0, n - size + 1, stride) for n in padded.shape[1:3])
    windows = [[padded[:, i : i + size, j : j + size] for j in lefts] for i in tops]
    for pool, reduce in ((layers.max_pool, np.nanmax), (layers.average_pool, np.nanmean)):
        expected = np.stack([np.stack([reduce(w, (1, 2)) for w in row], 1) for row in windows], 1)
        np.testing.assert_allclose(pool(jnp.asarray(x_BHWC), size, stride, padding), expected, rtol=1e-5)


def test_caffes_pooling_leaves_no_pixel_out():
    assert layers.max_pool(jnp.ones((1, 54, 54, 1)), 3, 2, "ceil").shape == (1, 27, 27, 1)
    assert layers.max_pool(jnp.ones((1, 55, 55, 1)), 3, 2, "ceil").shape == (1, 27, 27, 1)


def test_local_response_norm():
    x_BHWC = np.random.default_rng(0).normal(0, 30, size=(1, 1, 1, 7)).astype(np.float32)
    x_C = x_BHWC[0, 0, 0]
    sums = [sum(x_C[max(0, c - 2) : c + 3] ** 2) for c in range(7)]
    expected = x_C / (2 + 1e-4 * np.asarray(sums)) ** 0.75
    np.testing.assert_allclose(layers.local_response_norm(jnp.asarray(x_BHWC))[0, 0, 0], expected, rtol=1e-5)


def checked(name, **fields):
    cfg = config.default()
    config.override(cfg, {"model.name": name, **{f"model.{key}": value for key, value in fields.items()}})
    config.check(cfg)
    return models.structure(cfg.model)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("resnet51", {}, r"model.name='resnet51'; did you mean 'resnet50'\?"),
        ("resnet50", {"width": 0.5}, "model.width=0.5 means nothing to resnet50; allowed: the default 1.0"),
        ("mobilenet_v2", {"groups": 2}, "model.groups=2 means nothing to mobilenet_v2; allowed: the default 3"),
        ("mobilenet_v2", {"depth": "shallow"}, "model.depth='shallow' means nothing to mobilenet_v2"),
        ("mobilenet_v1", {"project_act": "relu"}, "model.project_act='relu' means nothing to mobilenet_v1"),
        ("mobilenet_v1", {"shortcut": "none"}, "model.shortcut='none' means nothing to mobilenet_v1"),
        ("mobilenet_v1", {"split": 2}, "model.split=2 means nothing to mobilenet_v1"),
        ("mobilenet_v1", {"expansion": 2}, "model.expansion=2 means nothing to mobilenet_v1"),
        ("mobilenet_v3_large", {"split": 2}, "model.split=2 means nothing to mobilenet_v3_large"),
        ("mobilenet_v3_large", {"shortcut": "expansion"}, "model.shortcut='expansion' on mobilenet_v3_large; allowed"),
        ("mobilenet_v2", {"split": 2, "shortcut": "expansion"}, "model.split=2 with model.shortcut='expansion'"),
        ("mobilenet_v3_large", {"act": "relu"}, "model.act='relu' means nothing to mobilenet_v3_large"),
        ("mobilenet_v3_large", {"blocks": ((3, 16, 16, 1, "relu", 1),)}, r"not a row \(kernel, expanded, channels, "),
        ("mobilenet_v3_large", {"blocks": ((3, 16, 16, True, "selu", 1),)}, "act of linear, relu, relu6, hard_swish, "),
        (
            "mobilenet_v2",
            {"act": "selu"},
            "model.act='selu'.*; allowed: .*'hard_swish', 'silu', 'gelu'",
        ),
        ("mobilenet_v2", {"project_act": "silu"}, "model.project_act='silu'.*; allowed: 'linear', 'relu', 'relu6'$"),
        ("shufflenet", {"width": 0}, "model.width=0; allowed: from 0.001 to 100"),
        ("shufflenet", {"groups": 5}, "model.groups=5; allowed: 1, 2, 3, 4, 8"),
        ("shufflenet", {"blocks": ((250, 4, 2),)}, "a unit from 24 to 250 channels with model.groups=3; allowed"),
        ("shufflenet", {"stem": (25, 2)}, "a unit from 25 to 240 channels with model.groups=3; allowed"),
    ],
)
def test_impossible_networks_are_refused(name, fields, message):
    with pytest.raises(ValueError, match=message):
        checked(name, **fields)


@pytest.mark.parametrize(
    ("name", "resolution", "message"),
    [
        ("vgg16", 160, "takes 25088 features, these images make 12800"),
        ("alexnet", 160, "takes 9216 features"),
        ("inception_v3", 60, "larger than input"),
    ],
)
def test_images_of_another_size_are_refused(name, resolution, message):
    network = nnx.eval_shape(lambda: models.structure(model_config(name)))
    images = jax.ShapeDtypeStruct((1, resolution, resolution, 3), jnp.float32)
    with pytest.raises(ValueError, match=message):
        nnx.eval_shape(lambda network, images: network(images), network, images)
