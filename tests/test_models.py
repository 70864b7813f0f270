"""The networks have the papers' sizes and do what their switches say."""

import dataclasses
import itertools
from functools import partial
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from flax import nnx
from ml_collections import ConfigDict

from mnet_jax import config, cost, models
from mnet_jax.errors import UserError
from mnet_jax.models import layers, specs, weights
from mnet_jax.models.blocks import SeparableBlock
from mnet_jax.models.layers import ConvNorm, FakeQuant, hard_swish


def model_config(name, **fields):
    cfg = config.default().model
    cfg.name, cfg.norm.group = name, 0
    for key, value in fields.items():
        setattr(cfg, key, value)
    return cfg


TINY_V2 = {"blocks": ((1, 4, 1, 1), (6, 4, 2, 2), (6, 6, 2, 1)), "stem": (4, 1), "last": 8, "num_classes": 3}
TINY_V1 = {"blocks": ((4, 1, 1), (6, 3, 2)), "stem": (4, 1), "num_classes": 3}


def tiny(family="v2", **fields):
    shape = TINY_V2 if family == "v2" else TINY_V1
    return model_config(f"mobilenet_{family}", **({"divisor": 1, "init": "he", "dropout": 0.0} | shape | fields))


def images(batch=2, size=8):
    return jnp.asarray(np.random.default_rng(0).normal(size=(batch, size, size, 3)), jnp.float32)


@pytest.mark.parametrize(
    ("name", "fields", "resolution", "madds", "params"),
    [
        # Params are weights + BatchNorm scale and bias + classifier bias.
        ("mobilenet_v1", {}, 224, 568_740_352, 4_231_976),  # Howard et al. 2017, Table 4: 569 M, 4.2 M
        ("mobilenet_v1", {"width": 0.75}, 224, 325_400_448, 2_585_560),  # Table 6: 325 M, 2.6 M
        ("mobilenet_v1", {"width": 0.25}, 224, None, 470_072),
        ("mobilenet_v2", {}, 224, 300_774_272, 3_504_872),  # Sandler et al. 2018, Table 4: 300 M, 3.4 M
        ("mobilenet_v2", {"width": 1.4}, 224, None, 6_108_776),
        ("mobilenet_v2", {"width": 0.35}, 224, None, 1_677_128),
        # Qin et al. 2024: counted in timm 1.0.31's modules.
        ("mobilenet_v4_conv_small", {}, 224, 186_005_568, 3_774_024),
        ("mobilenet_v4_conv_medium", {}, 256, 1_080_244_224, 9_715_512),
        ("mobilenet_v4_conv_large", {}, 384, 6_376_220_672, 32_590_864),
    ],
)
def test_published_sizes(name, fields, resolution, madds, params):
    count = cost.count(model_config(name, **fields), resolution)
    assert count.params_trainable == params
    assert madds is None or count.madds == madds


def test_v1_ablations_have_the_published_sizes():
    full = cost.count(model_config("mobilenet_v1", conv="full"), 224)
    assert full.madds - 1024 * 1000 == 4_866_269_184  # Table 4: 4866 M, the classifier left out
    shallow = cost.count(model_config("mobilenet_v1", depth="shallow"), 224)
    assert round(shallow.madds / 1e6) == 307  # Table 5


SMALL = {  # name -> params, blocks
    "d17": (42_874, 17),
    "s8": (19_194, 8),
    "c8": (35_354, 8),
    "c17": (241_498, 15),
    "d13": (16_458, 13),
    "c13": (30_890, 13),
}


@pytest.mark.parametrize(("name", "params", "blocks"), [(name, *sizes) for name, sizes in SMALL.items()])
def test_small_nets_are_pinned(name, params, blocks):
    """Changing a small net changes every measured result: then re-run the experiments, and say so in CHANGELOG.md."""
    channels = 3 if name.startswith("c") else 1
    cfg = model_config(name, num_classes=10, in_channels=channels)
    assert cost.count(cfg, 32).params_trainable == params
    assert len(specs.network(cfg).blocks) == blocks


def test_ten_of_seventeen_v2_blocks_have_a_shortcut():
    """With BatchNorm's scale of the projection at 0 a block returns its input, or 0 where there is no shortcut."""
    net = specs.network(model_config("mobilenet_v2", width=0.35))
    model = models.build(model_config("mobilenet_v2", width=0.35), nnx.Rngs(0))
    model.eval()
    inputs = (net.stem[0], *(block.channels for block in net.blocks))
    shortcuts = 0
    for block, spec, channels in zip(model.blocks, net.blocks, inputs, strict=False):
        block.project.scale[...] = jnp.zeros_like(block.project.scale[...])
        y_BHWC, _ = block(jnp.ones((1, 4, 4, channels)), model.project_bounds, None)
        expected = spec.stride == 1 and channels == spec.channels
        assert jnp.all(y_BHWC == float(expected))
        shortcuts += expected
    assert shortcuts == 10


def test_shortcut_between_expansions_adds_the_previous_depthwise_output():
    plain, joined = (models.build(tiny(shortcut=kind), nnx.Rngs(0)) for kind in ("none", "expansion"))
    plain.eval(), joined.eval()
    x = images()
    (_, a), (_, b) = plain(x), joined(x)
    np.testing.assert_array_equal(a["block2/depthwise"], b["block2/depthwise"])  # strides differ: nothing to add
    np.testing.assert_allclose(
        b["block3/depthwise"], a["block3/depthwise"] + a["block2/depthwise"], rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize(("act", "low", "high"), [("linear", -1e9, 1e9), ("relu", 0, 1e9), ("relu6", 0, 6)])
def test_bottleneck_activation(act, low, high):
    model = models.build(tiny(project_act=act, shortcut="none"), nnx.Rngs(0))
    model.train()
    model.blocks[0].project.scale[...] = 10 * model.blocks[0].project.scale[...]
    _, endpoints = model(images())
    value = endpoints["block1"]
    assert value.min() >= low
    assert value.max() <= high
    assert bool(value.min() < 0) == (act == "linear")
    assert bool(value.max() > 6) == (act != "relu6")


def test_traced_bounds_are_the_configs():
    cfg = tiny(project_act="relu6")
    knobs = SimpleNamespace(project_act=(jnp.float32(0), jnp.float32(6)))
    ours, theirs = models.build(cfg, nnx.Rngs(0)), models.build(tiny(project_act="linear"), nnx.Rngs(0))
    np.testing.assert_array_equal(ours(images())[0], theirs(images(), knobs=knobs)[0])


@pytest.mark.parametrize("family", ["v1", "v2"])
@pytest.mark.parametrize(
    "fields", [{}, {"conv": "full"}, {"padding": "symmetric", "kernel_size": 5}, {"init": "released"}]
)
def test_every_parameter_has_a_gradient(family, fields):
    graphdef, params, rest = nnx.split(models.build(tiny(family, **fields), nnx.Rngs(0)), nnx.Param, ...)

    def loss(params):
        logits, _ = nnx.merge(graphdef, params, rest, copy=True)(images(4))
        return jnp.sum(jax.nn.log_softmax(logits)[:, 0])

    grads = nnx.to_pure_dict(jax.jit(jax.grad(loss))(params))
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        assert jnp.any(grad != 0), jax.tree_util.keystr(path)


V4_FORMS = {  # (start, middle) -> names of the layers, the one that has the stride
    (3, 5): (("start", "expand", "depthwise", "project"), "depthwise"),
    (3, 0): (("start", "expand", "project"), "start"),
    (0, 3): (("expand", "depthwise", "project"), "depthwise"),
    (0, 0): (("expand", "project"), ""),
}


@pytest.fixture(scope="module")
def v4():
    """The four forms of V4's block with stride 1, those that can have one with stride 2, and the dense kinds."""
    rows = [("fused", 0, 3, 2, 4, 2), *(("uib", *form, 2, 4, 1) for form in V4_FORMS)]
    rows += [*(("uib", *form, 2, 4, 2) for form in V4_FORMS if any(form)), ("conv", 0, 1, 1, 8, 1)]
    fields = {"blocks": tuple(rows), "stem": (4, 1), "last": 6, "num_classes": 3}
    return model_config("mobilenet_v4_conv_small", divisor=1, init="he", dropout=0.0, **fields)


def test_v4s_block_has_the_layers_of_its_row(v4):
    network: Any = nnx.eval_shape(lambda: models.structure(v4))
    for block, row in zip(network.blocks, v4.blocks, strict=True):
        if row[0] == "uib":
            names, strided = V4_FORMS[row[1:3]]
            layers = {name: getattr(block, name) for name in names}
            assert {name for name, part in vars(block).items() if isinstance(part, ConvNorm)} == set(names)
            assert {name: layer.stride for name, layer in layers.items()} == {
                name: row[-1] if name == strided else 1 for name in names
            }
    assert isinstance(network.features, ConvNorm)


def test_v4_trains_every_weight_and_adds_the_input_where_shapes_agree(v4):
    network: Any = models.build(v4, nnx.Rngs(0))
    graphdef, params, rest = nnx.split(network, nnx.Param, ...)

    @jax.jit
    @partial(jax.grad, has_aux=True)
    def grads_and_maps(params):
        logits, endpoints = nnx.merge(graphdef, params, rest, copy=True)(images(4, 16))
        return jnp.sum(jax.nn.log_softmax(logits)[:, 0]), endpoints

    grads, _ = grads_and_maps(params)
    for path, grad in jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(grads)):
        assert jnp.any(grad != 0), jax.tree_util.keystr(path)
    for block in network.blocks[:-1]:
        block.project.scale.set_value(jnp.zeros_like(block.project.scale[...]))
        block.project.bias.set_value(jnp.ones_like(block.project.bias[...]))
    _, endpoints = grads_and_maps(nnx.state(network, nnx.Param))
    for number, row in enumerate(v4.blocks[:-1], 1):
        before = endpoints[f"block{number - 1}" if number > 1 else "stem"]
        expected = 1 + before if row[-1] == 1 else jnp.ones_like(endpoints[f"block{number}"])
        np.testing.assert_array_equal(endpoints[f"block{number}"], expected)


def test_without_project_act_in_the_config_a_call_needs_knobs():
    whole = tiny()
    without = ConfigDict({key: value for key, value in whole.items() if key != "project_act"})
    model = models.build(without, nnx.Rngs(0))
    with pytest.raises(UserError, match=r"without model\.project_act, and was called without knobs; allowed: "):
        model(images())
    knobs = SimpleNamespace(project_act=(0.0, 6.0))
    np.testing.assert_array_equal(
        model(images(), knobs=knobs)[0], models.build(whole, nnx.Rngs(0))(images(), knobs=knobs)[0]
    )


class SqueezedSeparable(SeparableBlock):
    """A user's block: V1's with a squeeze-and-excite behind it."""

    def __init__(self, net, block, inputs):
        super().__init__(net, block, inputs)
        self.excite = layers.SqueezeExcite(net.layer_config, block.channels, 2, layers.hard_sigmoid)

    def __call__(self, x_BHWC, project_bounds, previous_depthwise):
        y_BHWC, endpoints = super().__call__(x_BHWC, project_bounds, previous_depthwise)
        return self.excite(y_BHWC), endpoints | {"excite": y_BHWC}


def test_a_users_block_is_built_called_and_counted():
    cfg = tiny("v1", block="squeezed")
    blocks = {"squeezed": SqueezedSeparable}
    model = models.build(cfg, nnx.Rngs(0), blocks)
    logits, endpoints = model(images())
    assert logits.shape == (2, 3)
    assert "block2/excite" in endpoints
    for block in model.blocks:
        assert isinstance(block, SqueezedSeparable)
        assert jnp.any(block.excite.squeeze.kernel[...] != 0)  # drawn as the stock layers' kernels
    stock, counted = cost.count(tiny("v1"), 8), cost.count(models.structure(cfg, blocks), 8)
    gates = [2 * 2 * channels for channels in (4, 6, 6, 6)]  # channels to 2, and 2 to channels
    assert counted.madds == stock.madds + sum(gates)
    assert counted.params_weights == stock.params_weights + sum(gates)
    assert specs.network(cfg) != specs.network(tiny("v1"))


@pytest.mark.parametrize(("blocks", "names"), [(None, "''"), ({"squeezed": SqueezedSeparable}, "'', 'squeezed'")])
def test_an_unknown_block_is_refused_with_the_known_names(blocks, names):
    message = f"model.block='sqeezed' is none of the blocks that the network is built with: {names}"
    with pytest.raises(UserError, match=message):
        models.build(tiny("v1", block="sqeezed"), nnx.Rngs(0), blocks)


def test_every_activation_has_a_clip_or_a_function():
    assert tuple(layers.ACTIVATIONS) == specs.ACTIVATION_NAMES


@pytest.mark.parametrize("name", ["hard_swish", "silu", "gelu"])
def test_activations_that_are_no_clips(name):
    x = np.linspace(-8, 8, 99)
    expected = {
        "hard_swish": x * np.clip(x + 3, 0, 6) / 6,
        "silu": x / (1 + np.exp(-x)),
        "gelu": x * scipy.stats.norm.cdf(x),
    }
    with jax.enable_x64(True):
        y = layers.activate(jnp.asarray(x), layers.ACTIVATIONS[name])
        np.testing.assert_allclose(y, expected[name], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("family", ["v1", "v2"])
def test_the_activation_is_that_of_stem_and_blocks(family):
    """Every norm's output is a fixed number, so the endpoints are the activation of it."""
    for act in specs.ACTIVATION_NAMES:
        cfg = tiny(family, act=act)
        config.override(config.default(), {"model.act": act})
        model = models.structure(cfg)
        model.eval()
        for _, layer in nnx.iter_graph(model):
            if isinstance(layer, ConvNorm):
                layer.bias[...] = jnp.full_like(layer.bias[...], -0.5)
        _, endpoints = model(images())
        expected = float(layers.activate(jnp.float32(-0.5), layers.ACTIVATIONS[act]))
        names = ("stem", "block2/depthwise", *(("block2/expansion", "head") if family == "v2" else ("block2",)))
        for name in names:
            np.testing.assert_allclose(endpoints[name], expected, rtol=1e-6)


def test_training_moves_the_statistics_and_evaluation_does_not():
    model = models.build(tiny(), nnx.Rngs(0))
    start = model.stem.mean[...].copy()
    model.eval()
    model(images())
    np.testing.assert_array_equal(model.stem.mean[...], start)
    model.train()
    model(images())
    assert jnp.any(model.stem.mean[...] != start)


@pytest.mark.parametrize("frozen", ["expand", "depthwise", "project"])
@pytest.mark.parametrize("fields", [{}, {"split": 2}])
def test_the_norm_of_a_frozen_layer_in_training_is_that_of_an_evaluation(frozen, fields):
    """As the layers do that are called one by one; the others in training mode average their statistics."""
    block, alone = (models.build(tiny(**fields), nnx.Rngs(0)).blocks[1] for _ in range(2))
    x_BHWC = jnp.asarray(np.random.default_rng(0).normal(size=(4, 6, 6, 4)), jnp.float32)
    for each in (block, alone):
        getattr(each, frozen).eval()
    bounds = specs.ACTIVATIONS["linear"]
    y_BHWC, _ = block(x_BHWC, bounds, None)
    e_BHWE = alone.expand(x_BHWC, alone.act)
    expected_BHWC = alone.project(alone.depthwise(e_BHWE, alone.act), bounds)
    np.testing.assert_allclose(y_BHWC, expected_BHWC, rtol=1e-5, atol=1e-5)
    for name in ("expand", "depthwise", "project"):
        mine, other = getattr(block, name), getattr(alone, name)
        np.testing.assert_allclose(mine.mean[...], other.mean[...], rtol=1e-5, atol=1e-6)
        assert bool(jnp.all(mine.mean[...] == 0)) == (name == frozen)


def test_a_frozen_backbone_trains_its_head():
    """Its statistics stay, and the gradient of a kernel in it is that of a network with the same fixed norms."""
    model = models.build(tiny(), nnx.Rngs(0))
    model.train()
    for part in (model.stem, model.blocks, model.head):
        part.eval() if isinstance(part, nnx.Module) else [block.eval() for block in part]
    before = jax.tree.leaves(nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)))
    logits, _ = model(images(4))
    for old, new in zip(before, jax.tree.leaves(nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))), strict=True):
        np.testing.assert_array_equal(old, new)
    model.eval()
    np.testing.assert_allclose(logits, model(images(4))[0], rtol=1e-6)


def test_running_averages_move_by_the_share_that_momentum_leaves():
    layer = ConvNorm(specs.layer_config(tiny(formulation="shift")), "pointwise", 3, 5)
    layer.kernel[...] = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5)), jnp.float32)
    layer.mean[...], layer.var[...] = jnp.arange(5.0), jnp.arange(1.0, 6.0)
    layer(images(4), specs.ACTIVATIONS["linear"])
    y_NC = (np.asarray(images(4)) @ np.asarray(layer.kernel[...])).reshape(-1, 5)
    momentum = layer.config.norm_momentum
    np.testing.assert_allclose(layer.mean[...], momentum * np.arange(5) + (1 - momentum) * y_NC.mean(0), rtol=1e-6)
    np.testing.assert_allclose(layer.var[...], momentum * np.arange(1, 6) + (1 - momentum) * y_NC.var(0), rtol=1e-6)


def test_formulations_agree_on_the_whole_network():
    fast, lax = (models.build(tiny(formulation=way), nnx.Rngs(0)) for way in ("shift", "lax"))
    np.testing.assert_allclose(fast(images())[0], lax(images())[0], rtol=1e-4, atol=1e-5)


def random_state(state, seed=0):
    """Float64 weights and statistics that do something; variances are positive."""
    random = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: random.uniform(0.2, 1.2, leaf.shape) * (1 if leaf.ndim == 1 else 0.3), state)


LAYERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "dense": (("dense", 6, 4, 3, 2), {}),
    "grouped": (("dense", 6, 4, 3), {"groups": 2}),
    "pointwise": (("pointwise", 6, 4), {}),
    "depthwise": (("depthwise", 6, 6, 3, 2), {}),
    "no scale": (("pointwise", 6, 4), {"learn_scale": False}),
}


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize(
    "act", [(-0.2, 0.2), (-float("inf"), float("inf")), hard_swish], ids=["clip", "linear", "function"]
)
def test_a_folded_norm_is_the_norm(kind, act):
    arguments, fields = LAYERS[kind]
    with jax.enable_x64(True):
        layer_config = specs.layer_config(tiny(formulation="shift"))
        graphdef, state = nnx.split(ConvNorm(layer_config, *arguments, **fields))
        layer = nnx.merge(graphdef, random_state(state))
        layer.eval()
        x_BHWC = jnp.asarray(np.random.default_rng(1).normal(size=(2, 5, 5, 6)))
        convolved_BHWC = np.asarray(layer.convolve(x_BHWC, layer.kernel[...]))
        scale, bias, mean, var = (
            np.asarray(getattr(layer, name)[...]) if hasattr(layer, name) else 1.0
            for name in ("scale", "bias", "mean", "var")
        )
        y_BHWC = (convolved_BHWC - mean) / np.sqrt(var + layer_config.norm_eps) * scale + bias
        assert 0.1 < np.mean(abs(y_BHWC) < 0.2) < 0.9
        y_BHWC = act(jnp.asarray(y_BHWC)) if callable(act) else np.clip(y_BHWC, *act)
        assert layer.folded()[1] is None
        np.testing.assert_allclose(layer(x_BHWC, act), y_BHWC, rtol=0, atol=1e-12)


@pytest.mark.parametrize("fields", [{}, {"split": 2}, {"conv": "full"}, {"shortcut": "expansion"}])
def test_a_folded_network_evaluates_as_the_plain_one(fields):
    logits = []
    with jax.enable_x64(True):
        for formulation in ("shift", "lax"):
            graphdef, state = nnx.split(models.build(tiny(formulation=formulation, **fields), nnx.Rngs(0)))
            model = nnx.merge(graphdef, random_state(state))
            model.eval()
            logits.append(model(images().astype(jnp.float64))[0])
    assert logits[0].dtype == np.float64
    assert np.ptp(logits[0]) > 0.1
    np.testing.assert_allclose(logits[0], logits[1], rtol=1e-12, atol=1e-12)


OTHER_VALUES = {
    **{"width": 0.5, "stem": (8, 1), "last": 64, "divisor": 4, "act_bits": 8, "kernel_size": 5, "conv": "full"},
    **{"act": "relu", "depth": "shallow", "expansion": 3, "project_act": "relu", "shortcut": "none", "split": 2},
    **{"groups": 4, "in_channels": 1, "num_classes": 7, "dropout": 0.5, "padding": "symmetric", "init": "he"},
    **{"formulation": "lax", "dtype": "bfloat16", "norm.momentum": 0.5, "norm.eps": 0.1, "norm.group": 7},
    **{"block": "other", "output_stride": 16, "atrous": False},
}
"""A value that is not the default for each field of `config.model` but the name and the rows."""


@pytest.mark.parametrize("name", ["mobilenet_v1", "mobilenet_v2", "mobilenet_v3_small", "shufflenet", "vgg16"])
def test_a_network_reads_the_fields_that_it_names_and_no_other_may_be_set(name):
    assert {*OTHER_VALUES, "name", "blocks"} == {key.removeprefix("model.") for key in config.FIELDS if "model." in key}
    base = {"model.name": name} | ({"model.width": 0.1} if "width" in specs.fields(name) else {})
    for field, value in OTHER_VALUES.items():
        needed = {"model.output_stride": 16} if field == "atrous" and field in specs.fields(name) else {}
        plain, cfg = (config.unflatten(base | needed | change) for change in ({}, {f"model.{field}": value}))
        cfg.train.batch_size = 7 * 96
        if field in specs.fields(name):
            config.check(cfg)
            assert specs.resolve(cfg.model) != specs.resolve(plain.model), field
        else:
            with pytest.raises(ValueError, match=f"model.{field}=.* means nothing to {name}; allowed: the default"):
                config.check(cfg)


def test_v3_without_shortcuts_adds_nothing():
    """With the projection's scale at 0 a block with a shortcut returns its input, and one without returns 0."""
    for shortcut in ("bottleneck", "none"):
        cfg = model_config("mobilenet_v3_small", shortcut=shortcut, width=0.25)
        model = models.structure(cfg)
        model.eval()
        channels = specs.network(cfg).blocks[1].channels
        block = model.blocks[2]  # of stride 1 with as many inputs as outputs
        block.project.scale[...] = jnp.zeros_like(block.project.scale[...])
        y_BHWC, _ = block(jnp.ones((1, 4, 4, channels)), specs.ACTIVATIONS["linear"], None)
        assert jnp.all(y_BHWC == float(shortcut == "bottleneck"))


def test_width_multiplier_keeps_the_last_convolution_below_one():
    assert specs.network(model_config("mobilenet_v2", width=0.5)).last == 1280
    assert specs.network(model_config("mobilenet_v2", width=1.4)).last == 1792
    assert [block.channels for block in specs.network(model_config("mobilenet_v2", width=0.35)).blocks][:4] == [
        8,
        8,
        8,
        16,
    ]


def test_expansion_replaces_t_of_the_blocks_that_expand():
    blocks = specs.network(model_config("mobilenet_v2", expansion=2)).blocks
    assert not blocks[0].expand
    assert all(block.expanded == 2 * before.channels for before, block in itertools.pairwise(blocks))


def test_an_expansion_below_1_reduces_and_the_shortcut_joins_the_wide_layers():
    cfg = tiny(blocks=((1, 12, 1, 1), (1 / 6, 12, 2, 1)))
    assert [block.expanded for block in specs.network(cfg).blocks] == [4, 2, 2]
    model = models.build(cfg, nnx.Rngs(0))
    _, endpoints = model(images())
    assert endpoints["block2/depthwise"].shape[-1] == 2
    project = model.blocks[1].project
    project.scale[...] = jnp.zeros_like(project.scale[...])
    _, endpoints = model(images())
    np.testing.assert_array_equal(endpoints["block2"], endpoints["block1"])


@pytest.mark.parametrize("family", ["v1", "v2"])
def test_bfloat16_computes_in_16_bits_and_keeps_parameters_statistics_and_logits_in_32(family):
    half, whole = (models.build(tiny(family, dtype=dtype), nnx.Rngs(0)) for dtype in ("bfloat16", "float32"))
    x = images(8)
    (logits, endpoints), (expected, _) = half(x), whole(x)
    assert {name: value.dtype for name, value in endpoints.items() if name != "pooled"} == dict.fromkeys(
        [name for name in endpoints if name != "pooled"], jnp.bfloat16
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(half))} == {jnp.dtype("float32")}
    assert logits.dtype == jnp.float32
    assert 0 < np.abs(logits - expected).max() < 0.1 * np.abs(expected).max()


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "squeezenet"])
def test_bfloat16_reaches_every_kind_of_layer(name):
    cfg = model_config(name, dtype="bfloat16", num_classes=11)
    logits, endpoints = nnx.eval_shape(lambda x: models.build(cfg, nnx.Rngs(0))(x, rngs=nnx.Rngs(0)), images(2, 224))
    assert logits.dtype == jnp.float32
    assert all(value.dtype == jnp.bfloat16 for value in endpoints.values() if value.ndim == 4)


def levels(x, step):
    """The whole number of steps at each value, after a check that there is one."""
    number = np.asarray(x, np.float64) / step
    np.testing.assert_allclose(number, np.round(number), atol=1e-3)
    return np.unique(np.round(number))


@pytest.mark.parametrize("bits", [4, 8])
def test_simulated_integers_of_relu6_are_multiples_of_a_fixed_step(bits):
    """Jacob et al. 2018, equation 12, with the range [0, 6]; whatever the batch, in training and evaluation."""
    model = models.build(tiny("v1", act_bits=bits), nnx.Rngs(0))
    for switch in (model.train, model.eval):
        switch()
        _, endpoints = model(10 * images(8))
        found = levels(endpoints["block1"], 6 / (2**bits - 1))
        assert found.min() == 0
        assert found.max() <= 2**bits - 1


def test_simulated_integers_without_bounds_span_the_batch_in_training_and_its_average_later():
    layer = FakeQuant(specs.layer_config(tiny(act_bits=4)))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(64, 1, 1, 8)), jnp.float32)
    q = layer(x, specs.ACTIVATIONS["linear"])
    step = float(x.max() - x.min()) / 15
    assert len(levels(q, step)) == 16
    assert np.abs(q - x).max() <= 1.01 * step  # half a step, and the zero's own rounding at the ends
    momentum = layer.momentum
    np.testing.assert_allclose(layer.high[...], (1 - momentum) * x.max(), rtol=1e-5)
    layer.use_running_average = True
    held = layer.high[...]
    wide = layer(100 * x, specs.ACTIVATIONS["relu"])
    np.testing.assert_allclose(wide.max(), held, rtol=1e-5)
    np.testing.assert_array_equal(layer.high[...], held)


def test_simulated_integers_have_a_zero_where_all_values_are_positive():
    layer = FakeQuant(specs.layer_config(tiny(act_bits=4)))
    x = jnp.linspace(1.0, 3.0, 64).reshape(1, 8, 8, 1)
    q = layer(x, specs.ACTIVATIONS["linear"])
    assert len(levels(q, 3 / 15)) == 11  # 5 to 15 of the steps from 0 to 3
    np.testing.assert_allclose([q.min(), q.max()], [1, 3], rtol=1e-6)


def test_simulated_integers_pass_gradients_straight_through_and_survive_a_dead_map():
    layer = FakeQuant(specs.layer_config(tiny(act_bits=8)))
    layer.use_running_average = True
    slope = jax.grad(lambda x: jnp.sum(layer(x, specs.ACTIVATIONS["relu6"]) * x))(jnp.full((1, 1, 1, 2), 1.0))
    np.testing.assert_allclose(slope, 2, atol=6 / 255)
    assert jnp.all(layer(jnp.zeros((1, 1, 1, 2)), specs.ACTIVATIONS["relu"]) == 0)


def test_precision_costs_nothing_in_the_count():
    plain, low = (cost.count(tiny(**fields), 8) for fields in ({}, {"dtype": "bfloat16", "act_bits": 8}))
    assert plain == low


def test_weights_survive_the_disk(tmp_path):
    cfg = config.at_scale("digits")
    cfg.model.name = "s8"
    cfg.model.act_bits = 8
    model = models.build(cfg.model, nnx.Rngs(0))
    x = images()[..., :1]
    model(x)
    params, stats = (nnx.to_pure_dict(nnx.state(model, kind)) for kind in (nnx.Param, nnx.BatchStat))
    header = {"config": config.flatten(cfg), "mean": [0.5], "std": [0.5], "class_names": [], "input_shape": [8, 8, 1]}
    weights.save(tmp_path / "w.safetensors", params, stats, header)
    model.eval()
    np.testing.assert_array_equal(models.load(tmp_path / "w.safetensors").network(x)[0], model(x)[0])


def test_damaged_weights_are_named(tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"\x10\x00")
    with pytest.raises(ValueError, match=r"w\.safetensors is not a readable safetensors file"):
        models.load(path)


HEADER = {"config": {}, "mean": [0.5], "std": [0.5], "class_names": [], "input_shape": [8, 8, 1]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "its header is of another version of mnet_jax; allowed: format 1"),
        ({"input_shape": [8, 8]}, "its header: input_shape has 2 entries; allowed: 3"),
        ({"mean": 0.5}, r"its header: mean is 0\.5; allowed: a list"),
        ({"mean": [float("inf")]}, r"its header: mean \(inf,\), std \(0\.5,\).*; allowed: finite"),
        ({"std": [0.0]}, r"its header: mean \(0\.5,\), std \(0\.0,\)"),
        ({"config": {"model.widht": 1}}, "is of another version of mnet_jax: config: no such field 'model.widht'"),
        ({"config": {"task": "chess"}}, "is of the task 'chess'; allowed: classification"),
        ({"config": {"model.width": "wide"}}, "is of another version of mnet_jax: config: model.width='wide'"),
    ],
)
def test_a_header_that_cannot_be_is_refused(tmp_path, changes, message):
    path = tmp_path / "w.safetensors"
    weights.save(path, {}, {}, HEADER | changes)
    with pytest.raises(UserError, match=message):
        models.load(path)


def test_networks_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        specs.network(config.default().model).last = 3  # pyrefly: ignore
