"""The counter agrees with the papers, with hand counts, and with any module that a user passes."""

import csv
import io
from dataclasses import replace
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from mnet_jax import config, cost, models
from mnet_jax.cost import __main__ as door
from mnet_jax.cost import conventions, papers
from mnet_jax.cost.parts import Parts, count_of
from mnet_jax.models import specs


def network(name, **fields):
    cfg = config.default().model
    cfg.name = name
    for key, value in fields.items():
        setattr(cfg, key, value)
    return cfg


class Separable(nnx.Module):
    def __init__(self, inputs, outputs, size, stride):
        rngs, depthwise = nnx.Rngs(0), {"feature_group_count": inputs, "use_bias": False, "padding": "SAME"}
        self.depthwise = nnx.Conv(inputs, inputs, (size, size), strides=stride, **depthwise, rngs=rngs)
        self.pointwise = nnx.Conv(inputs, outputs, (1, 1), use_bias=False, rngs=rngs)

    def __call__(self, x_BHWC):
        return self.pointwise(self.depthwise(x_BHWC))


SIZES = st.integers(1, 12)


@settings(max_examples=25, deadline=None)
@given(
    M=SIZES,
    N=SIZES,
    D_K=st.sampled_from([1, 3, 5]),
    D_F=SIZES,
    a=st.sampled_from([Fraction(1, 4), Fraction(1, 2), Fraction(3, 4), 1]),
    r=st.integers(1, 3),
    stride=st.integers(1, 2),
)
def test_a_separable_layer_costs_what_the_equations_say(M, N, D_K, D_F, a, r, stride):
    M, N, D_F = 4 * M, 4 * N, D_F * r * stride
    aM, aN, rD_F = int(a * M), int(a * N), D_F // r
    separable = nnx.eval_shape(lambda: Separable(aM, aN, D_K, stride))
    counted = cost.count(separable, input_shape=(rD_F, rD_F, aM))
    out = rD_F // stride  # D_F of the paper is the output's
    depthwise, pointwise = counted.layers
    assert depthwise.madds == D_K * D_K * aM * out * out  # equation 4
    assert counted.madds == D_K * D_K * aM * out * out + aM * aN * out * out  # equations 5, 6 and 7
    full = nnx.eval_shape(lambda: nnx.Conv(aM, aN, (D_K, D_K), strides=stride, use_bias=False, rngs=nnx.Rngs(0)))
    dense = cost.count(full, input_shape=(rD_F, rD_F, aM))
    assert dense.madds == D_K * D_K * aM * aN * out * out  # equation 2
    assert Fraction(counted.madds, dense.madds) == Fraction(1, aN) + Fraction(1, D_K * D_K)
    assert pointwise.flops == (2 * aM - 1) * out * out * aN


def check(figures):
    for comparison in papers.compare(figures):
        figure = comparison.published
        if figure.independent:
            assert str(comparison.counted) == figure.independent, figure
        if figure.kind:
            assert figure.reason, figure
        else:
            assert comparison.follows, figure


def test_figures_of_v1_and_v2():
    figures = [figure for figure in papers.published() if figure.settings == "resolution=224"]
    check([figure for figure in figures if figure.network in ("mobilenet_v1", "mobilenet_v2")])


@pytest.mark.slow
def test_every_published_figure_follows_or_has_its_reason():
    check(papers.published())


@pytest.mark.parametrize(
    ("printed", "unit", "counted", "follows"),
    [
        ("4.253864", "M", 4_253_864, "exact"),
        ("569", "M", 568_740_352, "rounds to"),
        ("3.4", "M", 3_469_760, "floors to"),
        ("15300", "M", 15_346_630_656, "rounds to 3 digits"),
        ("575", "M", 568_740_352, ""),
        ("94.86", "%", Fraction(9485669, 100_000), "rounds to"),
        ("199", "KB", 100_352, ""),
    ],
)
def test_how_a_printed_figure_follows(printed, unit, counted, follows):
    figure = replace(papers.published()[0], printed=printed, unit=unit)
    assert papers.agreement(figure, counted) == follows


def test_one_v2_has_four_parameter_counts():
    counted = cost.count(network("mobilenet_v2"), 224)
    names = ("weights", "weights and biases", "weights, biases, norm scale and bias", "all variables")
    by_name = [conventions.CONVENTIONS[name](counted.layers) for name in names]
    assert by_name == [3_469_760, 3_470_760, 3_504_872, 3_538_984]
    assert (counted.params_weights, counted.params_trainable, counted.params_all) == (by_name[0], *by_name[2:])


def test_a_layer_of_v1_in_full():
    stem, norm, act = cost.count(network("mobilenet_v1"), 224).layers[:3]
    assert (stem.name, stem.type, stem.kernel, stem.stride) == ("stem", "conv", (3, 3), (2, 2))
    assert (stem.input_shape, stem.output_shape) == ((224, 224, 3), (112, 112, 32))
    assert (stem.madds, stem.flops) == (10_838_016, (2 * 27 - 1) * 112 * 112 * 32)
    # "SAME" pads a row and a column after the image: 3 taps of 112 pixels in each, the corner once.
    assert stem.padding_madds == 32 * 3 * (2 * 112 * 3 - 1)
    assert (stem.activation_bytes, stem.memory_access_bytes) == (802_816, 2 * (224 * 224 * 3 + 112 * 112 * 32 + 864))
    assert (norm.type, norm.params, norm.statistics, act.type, act.inputs) == ("norm", 64, 64, "activation", (1,))


class Attention(nnx.Module):
    """A user's block: norms, activations and pooling of Flax, a gate, a shortcut, and a parameter that is not used."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(4, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.gate = nnx.Linear(4, 4, rngs=rngs)
        self.scale = nnx.LayerNorm(4, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.spare = nnx.Param(jnp.zeros(7))

    def __call__(self, x_BHWC):
        with jax.named_scope("body"):
            y_BHWC = nnx.hard_swish(self.norm(self.conv(x_BHWC)))
        g_BC = nnx.sigmoid(self.gate(jnp.mean(y_BHWC, (1, 2))))
        y_BHWC = self.scale(x_BHWC + y_BHWC * g_BC[:, None, None])
        return nnx.max_pool(self.dropout(y_BHWC), (2, 2), (2, 2))


def test_a_users_block():
    block = Attention(nnx.Rngs(0))
    counted = cost.count(block, input_shape=(1, 8, 8, 4))
    assert [(layer.name, layer.type) for layer in counted.layers] == [
        ("conv", "conv"),
        ("norm", "norm"),
        ("body", "activation"),
        ("pool", "pool"),
        ("gate", "dense"),
        ("activation", "activation"),
        ("multiply", "multiply"),
        ("add", "add"),
        ("scale", "norm"),
        ("pool", "pool"),
        ("spare", "unused"),
    ]
    params = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(block, nnx.Param)))
    assert (counted.params_trainable, counted.params_all, counted.unknown) == (params, params + 8, {})
    assert counted.params_weights == 9 * 16 + 16
    assert [layer.biases for layer in counted.layers if layer.type in ("conv", "dense")] == [4, 4]
    assert not hasattr(block.conv, "_scope")


def test_a_linen_module():
    class Block(linen.Module):
        @linen.compact
        def __call__(self, x_BHWC):
            x_BHWC = linen.relu(linen.BatchNorm(use_running_average=True)(linen.Conv(8, (3, 3))(x_BHWC)))
            return linen.Dense(5)(x_BHWC.mean((1, 2)))

    counted = cost.count(Block(), 8)
    assert [layer.type for layer in counted.layers] == ["conv", "norm", "activation", "pool", "dense"]
    assert counted.layers[0].name == "Block/Conv_0"
    assert counted.params_all == 27 * 8 + 8 + 4 * 8 + 8 * 5 + 5


def test_a_built_network_counts_as_its_config():
    cfg = network("s8", num_classes=10, formulation="shift")
    module = models.structure(cfg)
    assert cost.count(module, 32) == cost.count(cfg, 32)
    assert module.stem.config.formulation == "shift"


def test_an_unknown_operation_is_reported():
    class Sorts(nnx.Module):
        def __call__(self, x_BHWC):
            return jnp.sort(x_BHWC, axis=-1)

    assert cost.count(Sorts(), 4).unknown == {"sort": 1}


def test_a_loop_counts_as_often_as_it_runs():
    class Loops(nnx.Module):
        def __init__(self):
            self.conv = nnx.Conv(3, 3, (1, 1), use_bias=False, rngs=nnx.Rngs(0))

        def __call__(self, x_BHWC):
            return jax.lax.fori_loop(0, 5, lambda _, x_BHWC: self.conv(x_BHWC), x_BHWC)

    assert cost.count(Loops(), 4).madds == 5 * 16 * 9


def test_peak_holds_the_shortcut():
    class Residual(nnx.Module):
        def __init__(self):
            rngs = nnx.Rngs(0)
            self.wide, self.back = nnx.Linear(2, 10, rngs=rngs), nnx.Linear(10, 2, rngs=rngs)

        def __call__(self, x_BC):
            return x_BC + self.back(nnx.relu(self.wide(x_BC)))

    counted = cost.count(Residual(), input_shape=(1, 2), bytes_per_element=4)
    assert counted.peak_bytes == 4 * (2 + 10 + 2)
    assert counted.max_activation_bytes == 4 * 10


def test_an_addition_writes_over_an_input_that_nothing_else_needs():
    class Adds(nnx.Module):
        def __init__(self, keep):
            rngs, self.keep = nnx.Rngs(0), keep
            self.a, self.b = nnx.Linear(2, 10, rngs=rngs), nnx.Linear(2, 10, rngs=rngs)

        def __call__(self, x_BC):
            a_BC, b_BC = self.a(x_BC), self.b(x_BC)
            y_BC = a_BC + b_BC
            return jnp.concatenate([y_BC * a_BC, b_BC], -1) if self.keep else y_BC

    def peak(module):
        return cost.count(module, input_shape=(1, 2), bytes_per_element=1).peak_bytes

    assert peak(Adds(keep=False)) == 2 + 10 + 10  # x beside a and b; the sum takes the place of one of them
    assert peak(Adds(keep=True)) == 10 + 10 + 20  # the product is in place, and beside b the concatenation


TINY = {"blocks": ((1, 8, 1, 1), (6, 8, 2, 2), (6, 12, 2, 1)), "stem": (8, 2), "last": 16, "init": "he", "dropout": 0.0}


def test_split_computes_the_same_with_less_memory():
    random, logits = np.random.default_rng(0), []
    structures = [models.structure(network("mobilenet_v2", split=split, **TINY)) for split in (1, 2, 3, 6)]
    state = jax.tree.map(lambda leaf: random.uniform(0.1, 0.3, leaf.shape), nnx.split(structures[0])[1])
    image_BHWC = random.normal(size=(1, 16, 16, 3))
    with jax.enable_x64(True):
        for structure in structures:
            structure.eval()
            graphdef = nnx.split(structure)[0]
            logits.append(jax.jit(lambda state, graphdef=graphdef: nnx.merge(graphdef, state)(image_BHWC)[0])(state))
    assert logits[0].dtype == np.float64
    assert np.ptp(logits[0]) > 0.1
    for other in logits[1:]:
        np.testing.assert_allclose(other, logits[0], rtol=0, atol=1e-12)
    counts = [cost.count(network("mobilenet_v2", split=split), 224) for split in (1, 2, 3)]
    assert {counted.madds for counted in counts} == {300_774_272}
    assert counts[0].peak_bytes > counts[1].peak_bytes > counts[2].peak_bytes


@pytest.mark.parametrize(
    ("name", "fields", "resolution", "message"),
    [
        ("mobilenet_v22", {}, 224, "did you mean 'mobilenet_v2'"),
        ("mobilenet_v2", {"width": 0.0}, 224, "model.width=0.0; allowed: from 0.001 to 100"),
        ("mobilenet_v2", {}, 16, "16x16x3 is too small for the strides of mobilenet_v2: blocks.13.depthwise"),
        ("mobilenet_v2", {}, 0, "0x0x3; allowed: sizes of at least 1"),
        ("inception_v3", {}, 32, "inception_v3 does not take an input of 32x32x3: kernel"),
        ("mobilenet_v2", {"split": 5}, 224, "model.split=5 and model.conv='depthwise' on an expansion of 96"),
        ("mobilenet_v1", {"split": 2}, 224, "model.split=2"),
    ],
)
def test_mistakes_are_named(name, fields, resolution, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the message is compared)
        cost.count(network(name, **fields), resolution)
    assert message in str(caught.value)


def test_resolution_or_shape():
    with pytest.raises(ValueError, match="allowed: one of the two"):
        cost.count(network("s8"))


@pytest.mark.parametrize("form", door.FORMATS)
def test_table_of_layers(form, capsys):
    door.main(["mobilenet_v1", "--width", "0.5", "--format", form])
    out = capsys.readouterr().out
    stem = next(line for line in out.splitlines() if "stem" in line)
    assert ("5419008" if form == "csv" else "5,419,008") in stem


def test_shares_of_v1(capsys):
    door.main(["mobilenet_v1", "--summary", "--format", "csv"])
    rows = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    assert [(row[0], row[2], row[4]) for row in rows[1:]] == [
        ("conv 1x1", "94.86%", "74.59%"),
        ("depthwise conv 3x3", "3.06%", "1.06%"),
        ("conv 3x3", "1.91%", "0.02%"),  # Table 2 prints 1.19
        ("dense", "0.18%", "24.33%"),
    ]


def test_xla_counts_what_is_listed(capsys):
    door.main(["s8", "--in_channels", "1", "--resolution", "16", "--xla", "--format", "csv"])
    terms = {what: int(number) for what, number in csv.reader(io.StringIO(capsys.readouterr().out)) if what}
    total, rest = terms.pop("XLA's cost_analysis"), terms.pop("the rest")
    assert sum(terms.values()) + rest == total
    assert 0 <= rest < 0.02 * total  # arithmetic on the norms' parameters, clips without bounds


def test_the_door_takes_a_resolution_at_its_word():
    with pytest.raises(ValueError, match="0x0x3; allowed: sizes of at least 1"):
        door.main(["mobilenet_v2", "--resolution", "0"])


@pytest.mark.parametrize("act", ["hard_swish", "silu", "gelu"])
def test_an_activation_is_one_layer_whatever_its_operations(act):
    plain, other = (cost.count(network("s8", act=name), 32) for name in ("relu6", act))
    assert not other.unknown
    assert [(layer.name, layer.type) for layer in other.layers] == [(layer.name, layer.type) for layer in plain.layers]


def counted(model, side, parts):
    """The network of a config counted as a whole, which `parts` learns; with its rows and the shape of its images."""
    shape = (side, side, model.in_channels)
    net, built = specs.resolve(model), nnx.eval_shape(lambda: models.structure(model))
    whole = cost.count(built, input_shape=shape)
    parts.learn(net, shape, built, whole)
    return net, shape, count_of(built, whole)


@pytest.mark.parametrize("name", ["c13", "s8", "mobilenet_v3_small"])
def test_a_network_of_parts_that_were_counted_is_their_sum(name):
    """Exactly, and only where all of them were: not on larger images, nor behind another stride."""
    parts = Parts()
    counted(network(name, num_classes=7), 64, parts)
    classes = counted(network(name, num_classes=9), 64, parts)
    rows = list(specs.NETWORKS[name].blocks)
    rows[-1] = (*rows[-1][:-1], 3 - rows[-1][-1])
    other = counted(network(name, num_classes=9, blocks=tuple(rows)), 64, parts)
    for net, shape, total in (classes, other):
        assert parts.total(net, shape) == total
    mixed = counted(network(name, num_classes=7, blocks=tuple(rows)), 64, Parts())
    assert parts.total(*mixed[:2]) is None  # behind another stride the images that are pooled have another size
    assert parts.total(classes[0], (96, 96, 3)) is None
    rows = [(*row[:-1], 1) for row in rows]
    assert parts.total(specs.resolve(network(name, blocks=tuple(rows))), (64, 64, 3)) is None


def test_a_detector_is_counted_by_its_name(capsys):
    """Sandler et al. 2018, Table 6: 4.3 M and .8 B; every figure of detectors is in the slow test above."""
    door.main(["ssdlite_mobilenet_v2", "--format", "csv"])
    assert "MAdds,788830144\n" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"--xla of ssd_mobilenet_v1; allowed: any of "):
        door.main(["ssd_mobilenet_v1", "--xla"])
    with pytest.raises(ValueError, match=r"detection\.extras='x'"):
        door.main(["ssd_mobilenet_v1", "--extras", "x"])
    with pytest.raises(ValueError, match=r"model\.name='ssdlite_vgg16'"):
        door.main(["ssdlite_vgg16"])
