"""Every formulation equals lax, in values and gradients, wherever it is called; norms and clips by definition."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from mnet_jax import config, sharding, step
from mnet_jax.errors import UserError
from mnet_jax.ops import native
from mnet_jax.ops.depthwise import depthwise, output_size, pads, same_padding
from mnet_jax.ops.formulation import FORMULATIONS, KERNELS, resolve
from mnet_jax.ops.norm import affine, affine_act, batch_norm_act, number_of_groups
from mnet_jax.ops.pointwise import dense_conv, pointwise
from mnet_jax.tasks import TASKS

INF = float("inf")
ONES = ((1, 1), (1, 1))
sizes = st.tuples(st.integers(1, 4), st.integers(1, 13), st.integers(1, 13), st.integers(1, 9))
styles = st.sampled_from(["same", "symmetric"])


def draws(examples):
    return settings(max_examples=examples, derandomize=True, deadline=None)


def normal(seed, *shape, dtype="float32"):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype("float32"), dtype)


def gradients(layer, x, k, way):
    """y = layer(x, k, way) and the gradients to x and k of a loss whose own gradient varies from place to place."""

    def loss(x, k):
        y = layer(x, k, way)
        return jnp.sum(jnp.sin(y)), y

    (_, y), (dx, dk) = jax.value_and_grad(loss, (0, 1), has_aux=True)(x, k)
    return y, dx, dk


def assert_close(got, expected, tolerance):
    """The norm of the error is within `tolerance` of the expected norm, or of 1 where that is less."""
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert a.shape == b.shape
        a, b = np.asarray(a, "float64"), np.asarray(b, "float64")
        assert np.linalg.norm(a - b) <= tolerance * max(np.linalg.norm(b), 1)


def assert_equals_lax(layer, x, k, exact=1e-12, single=1e-5, half=None):
    """`layer(x, k, formulation)`: "shift" against "lax" in float64, then "shift" in float32 against that too.

    With `half` given, only bfloat16 is tried, within `half`, against "lax" in bfloat16.
    """

    def run(way, dtype):
        cast = jax.tree.map(lambda leaf: leaf.astype(dtype), (x, k))
        result = jax.jit(lambda x, k: gradients(layer, x, k, way))(*cast)
        assert {leaf.dtype for leaf in jax.tree.leaves(result)} == {jnp.dtype(dtype)}
        return result

    if half:
        assert_close(run("shift", "bfloat16"), run("lax", "bfloat16"), half)
        return
    with jax.enable_x64(True):
        expected = run("lax", "float64")
        assert_close(run("shift", "float64"), expected, exact)
        assert_close(run("shift", "float32"), expected, single)


def valid_pads(size, kernel, stride, style, dilation=1):
    reach = (kernel - 1) * dilation + 1
    padding = pads(size[1:3], reach, stride, style)
    assume(min(n + sum(p) - reach for n, p in zip(size[1:3], padding, strict=True)) >= 0)
    return padding


@draws(20)
@given(
    size=sizes, kernel=st.integers(1, 5), stride=st.integers(1, 3), style=styles, dilation=st.sampled_from([1, 1, 2, 3])
)
def test_depthwise_shift_equals_lax(size, kernel, stride, style, dilation):
    padding = valid_pads(size, kernel, stride, style, dilation)
    x, k = normal(0, *size), normal(1, kernel, kernel, size[-1])
    assert_equals_lax(lambda x, k, way: depthwise(x, k, stride, padding, way, dilation), x, k)


@draws(12)
@given(
    size=sizes,
    kernel=st.integers(1, 5),
    stride=st.integers(1, 3),
    style=styles,
    outputs=st.integers(1, 5),
    dilation=st.sampled_from([1, 2, 4]),
)
def test_dense_conv_shift_equals_lax(size, kernel, stride, style, outputs, dilation):
    padding = valid_pads(size, kernel, stride, style, dilation)
    x, k = normal(0, *size), normal(1, kernel, kernel, size[-1], outputs)
    assert_equals_lax(lambda x, k, way: dense_conv(x, k, stride, padding, way, dilation), x, k)


@pytest.mark.parametrize("way", ["lax", "shift"])
@pytest.mark.parametrize("dilation", [1, 2, 4])
def test_dilation_by_hand(way, dilation):
    """One pixel spreads to the places that the dilated kernel meets it from; an image of one pixel meets the middle."""
    x = jnp.zeros((1, 9, 9, 1)).at[0, 4, 4, 0].set(1.0)
    k, padding = normal(0, 3, 3, 1), ((dilation, dilation),) * 2
    expected = np.zeros((9, 9))
    expected[4 - dilation : 5 + dilation : dilation, 4 - dilation : 5 + dilation : dilation] = k[::-1, ::-1, 0]
    for image, y in ((x, expected), (x[:, 4:5, 4:5], k[1:2, 1:2, 0])):
        np.testing.assert_array_equal(depthwise(image, k, 1, padding, way, dilation)[0, :, :, 0], y)
        np.testing.assert_array_equal(dense_conv(image, k[..., None], 1, padding, way, dilation)[0, :, :, 0], y)


def test_pointwise_product_equals_lax():
    assert_equals_lax(pointwise, normal(0, 3, 5, 4, 7), normal(1, 7, 6))


@pytest.mark.parametrize("stride", [1, 2])
def test_convolutions_in_bfloat16(stride):
    """Sums are in float32, so an error is a rounding or two of 2**-9, except where autodiff adds taps in bfloat16."""
    x, padding = normal(0, 3, 9, 8, 7), pads((9, 8), 3, stride, "same")
    assert_equals_lax(lambda x, k, way: depthwise(x, k, stride, padding, way), x, normal(1, 3, 3, 7), half=0.01)
    assert_equals_lax(lambda x, k, way: dense_conv(x, k, stride, padding, way), x, normal(2, 3, 3, 7, 5), half=0.02)
    assert_equals_lax(pointwise, x, normal(3, 7, 5), half=0.01)


@pytest.mark.parametrize(
    ("stride", "padding", "dilation"),
    [
        (1, ((4, 0), (0, 6)), 1),
        (2, ((0, 3), (5, 0)), 1),
        (4, ((0, 0), (1, 0)), 1),
        (3, ((2, 2), (0, 0)), 1),
        (2, ((1, 5), (6, 3)), 4),
    ],
)
def test_depthwise_takes_unequal_sides_and_any_padding(stride, padding, dilation):
    """A 2x5 kernel, more padding than the kernel reaches, strides and dilations that leave inputs untouched."""
    x, k = normal(0, 2, 6, 9, 3), normal(1, 2, 5, 3)
    assert_equals_lax(lambda x, k, way: depthwise(x, k, stride, padding, way, dilation), x, k)


@pytest.mark.parametrize("dilation", [1, 2])
def test_depthwise_has_second_derivatives(dilation):
    """The gradient of the norm of the gradient, as in a gradient penalty."""
    x, k = normal(0, 2, 6, 7, 3, dtype="float32"), normal(1, 3, 3, 3)

    def penalty(x, k, way):
        dx, dk = jax.grad(lambda x, k: jnp.sum(jnp.sin(depthwise(x, k, 2, ONES, way, dilation))), (0, 1))(x, k)
        return jnp.sum(dx * dx) + jnp.sum(dk**3)

    with jax.enable_x64(True):
        x, k = x.astype("float64"), k.astype("float64")
        shift, exact = (
            jax.jit(jax.grad(lambda x, k, way=way: penalty(x, k, way), (0, 1)))(x, k) for way in ("shift", "lax")
        )
        assert_close(shift, exact, 1e-12)


@pytest.mark.parametrize(("images", "block"), [(0, 1), (1, 1), (4, 3), (6, 6), (100, 6)])
def test_kernel_gradient_takes_as_many_images_at_once_as_fit(monkeypatch, images, block):
    x, k = normal(0, 6, 4, 5, 8), normal(1, 3, 3, 8)
    monkeypatch.setattr("mnet_jax.ops.depthwise.ACCUMULATOR_BYTES", images * 3 * 5 * 8 * 4)

    def run(x, k, way="shift"):
        return gradients(lambda x, k, way: depthwise(x, k, 1, ONES, way), x, k, way)

    assert f":f32[{block},3,5,8]" in str(jax.make_jaxpr(run)(x, k))
    assert_close(jax.jit(run)(x, k), run(x, k, "lax"), 1e-5)


@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_trains_in_a_loop_under_vmap(stride):
    """Three steps of gradient descent, seeds on a leading axis, equal lax step by step and seed by seed."""
    padding = pads((7, 6), 3, stride, "same")

    def step(way, x, k):
        _, dx, dk = gradients(lambda x, k, way: depthwise(x, k, stride, padding, way), x, k, way)
        return x - 0.1 * dx, k - 0.1 * dk

    def train(x, k):
        return lax.fori_loop(0, 3, lambda _, xk: step("shift", *xk), (x, k))

    with jax.enable_x64(True):
        x, k = normal(0, 4, 3, 7, 6, 5, dtype="float64"), normal(1, 4, 3, 3, 5, dtype="float64")
        got = jax.jit(jax.vmap(train))(x, k)
        reference = jax.jit(lambda x, k: step("lax", x, k))
        for seed in range(4):
            expected = x[seed], k[seed]
            for _ in range(3):
                expected = reference(*expected)
            assert_close((got[0][seed], got[1][seed]), expected, 1e-12)


def test_ranks_stay_low_with_seeds():
    """XLA:CPU has crashed on rank 7: here at most 6, the axis of vmap included."""
    x, k = normal(0, 2, 3, 6, 6, 4), normal(1, 2, 3, 3, 4)

    def run(x, k):
        return gradients(lambda x, k, way: depthwise(x, k, 2, ((0, 1), (0, 1)), way), x, k, "shift")

    shapes = re.findall(r"f32\[([\d,]+)\]", str(jax.make_jaxpr(jax.vmap(run))(x, k)))
    assert max(shape.count(",") + 1 for shape in shapes) == 6


def ranks(jaxpr):
    """Ranks of all arrays that a jaxpr makes, those of loops and calls within it included."""
    for eqn in jaxpr.eqns:
        yield from (len(out.aval.shape) for out in eqn.outvars)
        for inner in jax.tree.leaves(eqn.params, is_leaf=lambda leaf: hasattr(leaf, "eqns") or hasattr(leaf, "jaxpr")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from ranks(inner)


def traced_step(runs, batch, devices, formulation, group=2):
    """The jaxpr of a training step of a small V2."""
    cfg = config.default()
    tiny = {"blocks": ((1, 4, 1, 1), (6, 4, 2, 2)), "stem": (4, 2), "divisor": 1, "last": 8, "norm.group": group}
    config.override(cfg, {f"model.{name}": value for name, value in tiny.items()} | {"model.formulation": formulation})
    program = step.build(
        TASKS["classification"],
        cfg,
        runs,
        (0.5,) * 3,
        (0.25,) * 3,
        1,
        sharding.mesh(runs, batch, jax.devices()[:devices]),
    )
    seeds, numbers = (
        jnp.arange(runs),
        jax.tree.map(lambda value: jnp.full(runs, value, jnp.float32), config.traced_values(cfg)),
    )
    state = jax.eval_shape(program.init, seeds)
    dataset = jnp.zeros((8, 16, 16, 3), jnp.uint8), {"labels": jnp.zeros(8, jnp.int32)}
    batches = {"index": jnp.zeros((runs, 1, batch), jnp.int32)}
    return jax.make_jaxpr(program.train)(state, numbers, (), dataset, batches, jnp.int32(0), jnp.int32(1)).jaxpr


def test_ranks_stay_low_in_the_step_of_many_seeds(monkeypatch):
    monkeypatch.setattr("mnet_jax.ops.norm.LOOP_BYTES", 0)
    assert max(ranks(traced_step(3, 4, 1, "shift"))) == 6


@pytest.mark.parametrize("kernel", range(1, 7))
def test_pads(kernel):
    sides = ((kernel - 1) // 2,) * 2
    for height in range(1, 14):
        hw = height, 2 * height
        for stride in (1, 2, 3):
            same = pads(hw, kernel, stride, "same")
            tensorflow = lax.padtype_to_pads(hw, (kernel, kernel), (stride, stride), "SAME")
            assert list(same) == [tuple(sides) for sides in tensorflow]
            assert output_size(hw, (kernel, kernel), stride, same) == (-(-hw[0] // stride), -(-hw[1] // stride))
            assert pads(hw, kernel, stride, "symmetric") == (sides, sides)
    assert same_padding(224, 3, 2) == (0, 1)


def test_auto_follows_the_platform(monkeypatch):
    x = normal(0, 1, 4, 4, 2)

    def convolutions(way):
        layers = [
            lambda x: depthwise(x, normal(1, 3, 3, 2), 1, ONES, way),
            lambda x: pointwise(x, normal(1, 2, 3), way),
            lambda x: dense_conv(x, normal(1, 3, 3, 2, 3), 1, ONES, way),
        ]
        return [str(jax.make_jaxpr(layer)(x)).count("conv_general_dilated[") for layer in layers]

    assert convolutions("lax") == [1, 1, 1]
    assert convolutions("shift") == convolutions("auto") == [0, 0, 0]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert convolutions("shift") == [0, 0, 0]
    assert convolutions("auto") == [1, 0, 1]


def norm_layer(low, high, group):
    return lambda x, affine, way: batch_norm_act(x, affine[0], affine[1], low, high, 1e-3, group, way)[0]


@draws(15)
@given(
    size=sizes,
    bounds=st.sampled_from([(-INF, INF), (0.0, INF), (0.0, 6.0), (-0.5, 0.7)]),
    samples=st.integers(0, 4),
)
def test_fused_norm_equals_autodiff(size, bounds, samples):
    group = samples if samples and size[0] % samples == 0 else 0
    x, affine = normal(0, *size), (normal(1, size[-1]), normal(2, size[-1]))
    # Of very few positions the variance may vanish, and rounding is then magnified by eps ** -0.5.
    assert_equals_lax(norm_layer(bounds[0], bounds[1], group), x, affine, exact=1e-11, single=1e-4)


def loop_over_rows(monkeypatch, bytes_of_a_sum):
    monkeypatch.setattr("mnet_jax.ops.norm.LOOP_BYTES", 0)
    monkeypatch.setattr("mnet_jax.ops.norm.ACCUMULATOR_BYTES", bytes_of_a_sum)


@pytest.mark.parametrize(("group", "rows"), [(0, 4), (3, 4), (1, 2)])
def test_norm_in_a_loop_over_rows_equals_lax(monkeypatch, group, rows):
    x, affine = normal(0, 6, 4, 4, 5), (normal(1, 5), normal(2, 5))
    groups = 6 // group if group else 1
    loop_over_rows(monkeypatch, groups * 5 * rows * 8)
    layer = norm_layer(-0.5, 0.7, group)
    with jax.enable_x64(True):
        cast = jax.tree.map(lambda leaf: leaf.astype("float64"), (x, affine))
        loop = str(jax.make_jaxpr(lambda x, k: gradients(layer, x, k, "shift"))(*cast))
        assert f":f64[{groups},{rows},5]" in loop
        assert loop.count("scan[") == 2
        assert "scan[" not in str(jax.make_jaxpr(lambda x, k: gradients(layer, x, k, "lax"))(*cast))
    assert_equals_lax(layer, x, affine, single=1e-4)
    seeds = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), (x, affine))
    got = jax.jit(jax.vmap(lambda x, k: gradients(layer, x, k, "shift")))(*seeds)
    assert_close(got, jax.vmap(lambda x, k: gradients(layer, x, k, "lax"))(*seeds), 1e-5)


@pytest.mark.parametrize("loop", [False, True])
def test_norm_has_second_derivatives(monkeypatch, loop):
    """Through the statistics, too."""
    if loop:
        loop_over_rows(monkeypatch, 5 * 4 * 8)
    x, affine = normal(0, 6, 4, 4, 5), (normal(1, 5), normal(2, 5))

    def penalty(x, affine, way):
        loss = lambda x, k: jnp.sum(jnp.sin(norm_layer(-0.5, 0.7, 0)(x, k, way)))  # noqa: E731
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(jax.grad(loss, (0, 1))(x, affine)))

    with jax.enable_x64(True):
        cast = jax.tree.map(lambda leaf: leaf.astype("float64"), (x, affine))
        shift, exact = (
            jax.jit(jax.grad(lambda x, k, way=way: penalty(x, k, way), (0, 1)))(*cast) for way in ("shift", "lax")
        )
        assert_close(shift, exact, 1e-11)


@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize(("mean", "outlier", "tolerance"), [(1e2, 0, 1e-5), (-1e4, 0, 1e-5), (1e4, 30, 1e-4)])
def test_the_variance_survives_a_large_mean(monkeypatch, loop, mean, outlier, tolerance):
    """Variance 1 about a large mean; a first row 30 deviations off costs the one pass 900 roundings of 2**-24."""
    if loop:
        loop_over_rows(monkeypatch, 4 * 8 * 4)
    x = mean + normal(0, 16, 8, 8, 4)
    x = x.at[0, 0, 0].add(outlier)
    exact = np.asarray(x, "float64")
    _, got_mean, got_var = batch_norm_act(x, jnp.ones(4), jnp.zeros(4), -INF, INF, 1e-3, 0, "shift")
    np.testing.assert_allclose(got_mean, exact.mean((0, 1, 2)), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(got_var, exact.var((0, 1, 2)), rtol=tolerance)


@pytest.mark.parametrize("loop", [False, True])
def test_norm_in_bfloat16(monkeypatch, loop):
    """x is rounded to bfloat16, the parameters are not; the clip's mask is that of the rounded output."""
    if loop:
        loop_over_rows(monkeypatch, 2 * 7 * 2 * 4)
    x, affine = normal(0, 6, 5, 4, 7, dtype="bfloat16"), (normal(1, 7), normal(2, 7))
    layer = norm_layer(-0.5, 0.7, 3)
    fused, plain = (jax.jit(lambda x, k, way=way: gradients(layer, x, k, way))(x, affine) for way in ("auto", "lax"))
    assert [leaf.dtype for leaf in jax.tree.leaves(fused)] == [jnp.bfloat16] * 2 + [jnp.float32] * 2
    assert_close(fused, plain, 0.01)
    y, mean, var = batch_norm_act(100 + x, *affine, -INF, INF, 1e-3, 0, "auto")
    exact = np.asarray(100 + x, "float64")
    assert (y.dtype, mean.dtype, var.dtype) == (jnp.bfloat16, jnp.float32, jnp.float32)
    np.testing.assert_allclose(mean, exact.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(var, exact.var((0, 1, 2)), rtol=1e-5)


@pytest.mark.parametrize("way", ["auto", "lax"])
def test_norm_groups_equal_a_loop_over_groups(way):
    x, scale, bias = normal(0, 6, 3, 4, 5), normal(1, 5), normal(2, 5)
    whole = batch_norm_act(x, scale, bias, 0.0, 6.0, 1e-3, 2, way)
    groups = [batch_norm_act(x[i : i + 2], scale, bias, 0.0, 6.0, 1e-3, 0, way) for i in (0, 2, 4)]
    assert_close(whole[0], jnp.concatenate([y for y, _, _ in groups]), 1e-6)
    assert_close(whole[1], np.mean([mean for _, mean, _ in groups], 0), 1e-6)
    assert_close(whole[2], np.mean([var for _, _, var in groups], 0), 1e-6)
    assert_close(groups[0][1:], (np.mean(x[:2], (0, 1, 2)), np.var(x[:2], (0, 1, 2))), 1e-6)


@pytest.mark.parametrize("way", ["auto", "lax"])
def test_no_gradient_through_the_statistics(way):
    def loss(x):
        _, mean, var = batch_norm_act(x, jnp.ones(3), jnp.ones(3), 0.0, 6.0, 1e-3, 2, way)
        return jnp.sum(mean) + jnp.sum(var)

    assert not jax.grad(loss)(normal(0, 4, 2, 2, 3)).any()


@pytest.mark.parametrize("way", ["auto", "lax"])
@pytest.mark.parametrize(("bias", "passes"), [(-3.0, 0), (0.0, 0), (3.0, 1), (6.0, 0), (9.0, 0)])
def test_the_clip_passes_gradient_between_its_bounds_only(way, bias, passes):
    """scale 0 puts every y on the bias: 0 and 6 themselves are outside, as ReLU6's gradient has it."""
    x, scale, bias = normal(0, 2, 3, 3, 1), jnp.zeros(1), jnp.full(1, bias)
    y, vjp = jax.vjp(lambda bias: batch_norm_act(x, scale, bias, 0.0, 6.0, 1e-3, 0, way)[0], bias)
    assert (y == np.clip(bias.item(), 0, 6)).all()
    assert vjp(jnp.ones_like(y))[0] == y.size * passes


@pytest.mark.parametrize("way", ["auto", "lax"])
def test_traced_bounds_equal_static_ones(way):
    """Arms that differ in the activation share a program: bounds as arguments, and on vmap's axis."""
    x, affine = normal(0, 2, 4, 4, 3), (jnp.full(3, 2.0), jnp.full(3, 0.5))
    arms = [(-INF, INF), (0.0, INF), (0.0, 6.0), (0.0, 1.0)]
    traces = []

    @jax.jit
    def traced(low, high):
        traces.append(1)
        return gradients(norm_layer(low, high, 0), x, affine, way)

    low, high = (jnp.asarray(bounds) for bounds in zip(*arms, strict=True))
    single = [traced(*bounds) for bounds in zip(low, high, strict=True)]
    assert len(traces) == 1
    stacked = jax.vmap(traced)(low, high)
    for i, bounds in enumerate(arms):
        static = gradients(norm_layer(*bounds, group=0), x, affine, way)
        assert_close(single[i], static, 1e-6)
        assert_close(jax.tree.map(lambda leaf, i=i: leaf[i], stacked), static, 1e-6)
    assert not np.allclose(single[2][1], single[3][1])


@pytest.mark.parametrize("way", ["auto", "lax"])
def test_no_gradient_to_the_bounds(way):
    x, one = normal(0, 2, 4, 4, 3), jnp.ones(3)

    def loss(low, high):
        return jnp.sum(batch_norm_act(x, one, one, low, high, 1e-3, 0, way)[0])

    assert jax.grad(loss, (0, 1))(0.5, 1.0) == (0, 0)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("bfloat16", 0.01)])
def test_inference_with_the_batch_statistics_equals_training(dtype, tolerance):
    x, scale, bias = normal(0, 4, 3, 3, 5, dtype=dtype), normal(1, 5), normal(2, 5)
    y, mean, var = batch_norm_act(x, scale, bias, 0.0, 6.0, 1e-3, 0, "auto")
    inference = affine_act(x, *affine(scale, bias, mean, var, 1e-3), 0.0, 6.0)
    assert inference.dtype == x.dtype
    assert_close(inference, y, tolerance)


WAYS = ["auto", "lax", "shift"]  # the others are refused on a mesh
SINGLE = jnp.dtype("float32")


class Sharded:
    """Collectives of `function` compiled for a mesh of 'seed' x 'data', and what it returns there."""

    def __init__(self, mesh_shape, function, args, specs):
        mesh = jax.make_mesh(mesh_shape, ("seed", "data"), axis_types=(AxisType.Auto,) * 2)
        with jax.set_mesh(mesh):
            args = [jax.device_put(arg, NamedSharding(mesh, spec)) for arg, spec in zip(args, specs, strict=True)]
            compiled = jax.jit(function).lower(*args).compile()
            self.result = compiled(*args)
        hlo = compiled.as_text() or ""
        kinds = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter|collective-broadcast"
        calls = re.findall(rf"= (.+?) ({kinds})(?:-start)?\(.*", hlo)
        self.kinds = [kind for _, kind in calls]
        self.sizes = [
            np.prod([int(n) for n in shape.split(",") if n])
            for what, _ in calls
            for shape in re.findall(r"\[([\d,]*)\]", what)
        ]
        self.groups = set(re.findall(r"replica_groups=(\{\{.*?\}\}|\[[^ ,]*?\]<=\[\d+\])", hlo))


def every_op(way):
    """All operations of a formulation with all their gradients, as one function of x and their parameters."""
    layers = [
        lambda x, k: depthwise(x, k, 1, ONES, way),
        lambda x, k: depthwise(x, k, 2, ((0, 1), (1, 0)), way),
        lambda x, k: pointwise(x, k, way),
        lambda x, k: dense_conv(x, k, 2, ONES, way),
        *(
            lambda x, k, group=group: batch_norm_act(x, k[0], k[1], 0.0, 6.0, 1e-3, group, way)[0]
            for group in (0, 2, 8)
        ),
    ]
    kernels = [normal(1, 3, 3, 6), normal(2, 3, 3, 6), normal(3, 6, 5), normal(4, 3, 3, 6, 5)]
    kernels += [(normal(5, 6), normal(6, 6))] * 3

    def run(x, kernels):
        return [gradients(lambda x, k, _, f=f: f(x, k), x, k, way) for f, k in zip(layers, kernels, strict=True)]

    return run, kernels


@pytest.mark.parametrize("way", WAYS)
def test_a_sharded_batch_stays_where_it_is(monkeypatch, way):
    """Eight data shards exchange gradients and statistics, and nothing else."""
    monkeypatch.setattr("mnet_jax.ops.depthwise.ACCUMULATOR_BYTES", 0)  # one image at a time, were it not sharded
    run, kernels = every_op(way)
    x = normal(0, 16, 8, 9, 6)
    run_sharded, _ = every_op(resolve(way, SINGLE, data_shards=8))
    sharded = Sharded((1, 8), run_sharded, (x, kernels), (P("data"), P()))
    assert set(sharded.kinds) == {"all-reduce"}
    assert max(sharded.sizes) == 3 * 3 * 6 * 5 < x.size // 8
    assert_close(sharded.result, jax.jit(run)(x, kernels), 1e-5)


@pytest.mark.parametrize(("way", "platform"), [("shift", "cpu"), ("auto", "gpu")])
@pytest.mark.parametrize("mesh_shape", [(4, 2), (4, 1)])
def test_seeds_on_the_mesh_never_talk(monkeypatch, way, platform, mesh_shape):
    monkeypatch.setattr("mnet_jax.ops.depthwise.ACCUMULATOR_BYTES", 0)
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    run, kernels = every_op(way)
    x, kernels = normal(0, 4, 8, 8, 9, 6), jax.tree.map(lambda k: jnp.stack([k, -k, 2 * k, k + 1]), kernels)
    run_sharded, _ = every_op(resolve(way, SINGLE, data_shards=mesh_shape[1], seed_shards=mesh_shape[0]))
    sharded = Sharded(mesh_shape, jax.vmap(run_sharded), (x, kernels), (P("seed", "data"), P("seed")))
    assert_close(sharded.result, jax.jit(jax.vmap(run))(x, kernels), 1e-5)
    if mesh_shape[1] == 1:
        assert not sharded.kinds
    else:
        assert set(sharded.kinds) == {"all-reduce"}
        assert sharded.groups <= {"{{0,1},{2,3},{4,5},{6,7}}", "[4,2]<=[8]"}
        assert max(sharded.sizes) == 3 * 3 * 6 * 5 < x.size // 8


def test_lax_cannot_have_seeds_on_the_mesh():
    with pytest.raises(UserError, match="on 4 devices: allowed are auto, shift"):
        resolve("lax", SINGLE, seed_shards=4)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("group", [1, 2, 4])
def test_norm_groups_within_a_shard_need_no_statistics_of_others(way, group):
    """8 x 2 images, in 16 or 8 groups: nothing is exchanged for y and dx; in 4 groups, the statistics are."""
    x, affine = normal(0, 16, 3, 3, 4), (normal(1, 4), normal(2, 4))

    def run(x, affine, way):
        return gradients(norm_layer(0.0, 6.0, group), x, affine, way)[:2]

    word = resolve(way, SINGLE, data_shards=8)
    sharded = Sharded((1, 8), lambda x, affine: run(x, affine, word), (x, affine), (P("data"), P()))
    assert set(sharded.kinds) == ({"all-reduce"} if group == 4 else set())
    assert_close(sharded.result, jax.jit(run, static_argnums=2)(x, affine, way), 1e-5)


def test_norm_groups_and_shards_divide_one_another():
    assert number_of_groups(24, 8) == number_of_groups(24, 8, 3) == 3
    assert number_of_groups(24, 0, 8) == 1
    assert number_of_groups(24, 1, 8) == 24
    with pytest.raises(UserError, match="3 norm groups on 8 data shards"):
        number_of_groups(24, 8, 8)


@pytest.mark.parametrize(
    ("platform", "formulation", "data", "seeds", "word"),
    [
        ("cpu", "shift", 1, 1, "shift"),
        ("cpu", "shift", 1, 4, "shift"),
        ("cpu", "shift", 2, 1, "shift_parallel"),
        ("cpu", "auto", 1, 4, "shift"),
        ("cpu", "auto", 2, 4, "shift_parallel"),
        ("cpu", "lax", 2, 1, "lax"),
        ("gpu", "shift", 1, 1, "shift_parallel"),
        ("gpu", "auto", 1, 1, "gpu"),
        ("gpu", "auto", 8, 1, "lax_spatial"),
        ("gpu", "auto", 2, 4, "lax_depthwise"),
        ("tpu", "auto", 1, 1, "lax_spatial"),
        ("tpu", "auto", 1, 2, "lax_depthwise"),
        ("gpu", "lax", 8, 1, "lax"),
    ],
)
def test_the_word_follows_platform_and_mesh(monkeypatch, platform, formulation, data, seeds, word):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    assert resolve(formulation, SINGLE, data, seeds) == word
    assert resolve(word, SINGLE, 1, 1) == word


def test_every_word_has_kernels():
    inner = {"shift_parallel", "gpu", "lax_spatial", "lax_depthwise", "lax_folded"}
    assert set(KERNELS) == set(FORMULATIONS) - {"auto"} | inner


@pytest.mark.parametrize("devices", [1, 8])
def test_the_step_takes_the_formulation_of_its_mesh(devices):
    compiled = "mnet_jax_norm_depthwise_norm_gradient" in str(traced_step(1, 24, devices, "auto", group=3))
    assert compiled == (devices == 1 and not native.unavailable())


def test_the_step_checks_the_norm_groups_on_its_mesh():
    with pytest.raises(UserError, match="3 norm groups on 8 data shards"):
        traced_step(1, 24, 8, "auto", group=8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: depthwise(x, jnp.ones((3, 3, 4)), 1, ONES, "auto"), r"\(3, 3, 4\) differ in channels"),
        (lambda x: depthwise(x, jnp.ones((5, 5, 3)), 1, ((0, 0), (1, 1)), "lax"), r"kernel \(5, 5\) is larger"),
        (lambda x: depthwise(x, jnp.ones((3, 3, 3)), 1, ONES, "fast"), "'fast': allowed are auto, lax, shift"),
        (lambda x: pointwise(x, jnp.ones((3, 2)), "dot"), "'dot': allowed are"),
        (lambda x: dense_conv(x, jnp.ones((3, 3, 2, 2)), 1, ONES, "auto"), r"\(3, 3, 2, 2\) differ in channels"),
        (lambda x: dense_conv(x, jnp.ones((5, 5, 3, 2)), 1, ((1, 0), (1, 0)), "auto"), r"kernel \(5, 5\) is larger"),
        (lambda x: batch_norm_act(x, x[0, 0, 0], x[0, 0, 0], 0.0, 6.0, 1e-3, 4, "auto"), "group 4 .* batch of 6"),
        (lambda x: batch_norm_act(x, x[0, 0, 0], x[0, 0, 0], 0.0, 6.0, 1e-3, -1, "auto"), "group -1 .* batch of 6"),
        (lambda x: pads(x.shape[1:3], 3, 1, "valid"), "'valid': allowed are same, symmetric"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(jnp.ones((6, 3, 3, 3)))
