"""Every formulation equals lax, in values and gradients, wherever it is called; norms and clips by definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jax import lax

from mnet_jax import ops
from mnet_jax.ops.depthwise import depthwise, output_size, pads, same_padding
from mnet_jax.ops.norm import batch_norm_act, norm_act_inference
from mnet_jax.ops.pointwise import dense_conv, pointwise

INF = float("inf")
DTYPES = [("float64", 1e-12), ("float32", 1e-5), ("bfloat16", 1e-2)]  # and the error allowed, relative to the norm
draws = settings(max_examples=25, derandomize=True, deadline=None)

convolutions = {
    "size": st.tuples(st.integers(1, 4), st.integers(1, 13), st.integers(1, 13), st.integers(1, 9)),
    "kernel": st.integers(1, 5),
    "stride": st.integers(1, 3),
    "style": st.sampled_from(["same", "symmetric"]),
}


def normal(seed, *shape, dtype="float64"):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype("float32"), jnp.dtype(dtype))


def with_gradients(layer):
    """The layer's value and its gradients to both arguments, under a loss whose gradient is never constant."""

    def run(x, k):
        def loss(x, k):
            y = layer(x, k)
            return jnp.sum(jnp.sin(y.astype(ops.accumulator(y.dtype)))), y

        (_, y), (dx, dk) = jax.value_and_grad(loss, (0, 1), has_aux=True)(x, k)
        return y, dx, dk

    return jax.jit(run)


def assert_close(got, expected, tolerance):
    """The error's norm is within `tolerance` of the expected norm (of 1, where that is less)."""
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        a, b = np.asarray(a, "float64"), np.asarray(b, "float64")
        assert np.linalg.norm(a - b) <= tolerance * max(np.linalg.norm(b), 1)


def valid_pads(size, kernel, stride, style):
    padding = pads(size[1:3], kernel, stride, style)
    assume(min(n + sum(p) - kernel for n, p in zip(size[1:3], padding, strict=True)) >= 0)
    return padding


def primitives(function, *arguments):
    """Names of the primitives in the traced function, those of inner jaxprs too, and the highest rank."""
    names, ranks = [], [0]

    def walk(jaxpr):
        for equation in jaxpr.eqns:
            names.append(equation.primitive.name)
            ranks.extend(len(v.aval.shape) for v in equation.outvars if hasattr(v.aval, "shape"))
            for inner in jax.core.jaxprs_in_params(equation.params):
                walk(inner)

    walk(jax.make_jaxpr(function)(*arguments).jaxpr)
    return names, max(ranks)


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@draws
@given(**convolutions)
def test_depthwise_shift_equals_lax(dtype, tolerance, size, kernel, stride, style):
    padding = valid_pads(size, kernel, stride, style)
    with jax.enable_x64(dtype == "float64"):
        x, k = normal(0, *size, dtype=dtype), normal(1, kernel, kernel, size[-1], dtype=dtype)
        shift, reference = (
            with_gradients(lambda x, k, way=way: depthwise(x, k, stride, padding, way)) for way in ("shift", "lax")
        )
        assert_close(shift(x, k), reference(x, k), tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@draws
@given(**convolutions, outputs=st.integers(1, 5))
def test_dense_conv_shift_equals_lax(dtype, tolerance, size, kernel, stride, style, outputs):
    padding = valid_pads(size, kernel, stride, style)
    with jax.enable_x64(dtype == "float64"):
        x, k = normal(0, *size, dtype=dtype), normal(1, kernel, kernel, size[-1], outputs, dtype=dtype)
        shift, reference = (
            with_gradients(lambda x, k, way=way: dense_conv(x, k, stride, padding, way)) for way in ("shift", "lax")
        )
        assert_close(shift(x, k), reference(x, k), tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
def test_pointwise_is_a_convolution(dtype, tolerance):
    with jax.enable_x64(dtype == "float64"):
        x, k = normal(0, 3, 5, 4, 7, dtype=dtype), normal(1, 7, 6, dtype=dtype)
        dot, reference = (with_gradients(lambda x, k, way=way: pointwise(x, k, way)) for way in ("shift", "lax"))
        assert_close(dot(x, k), reference(x, k), tolerance)


def test_depthwise_takes_unequal_sides_and_any_padding():
    """A 2x5 kernel, more padding than the kernel reaches, input rows that no output meets."""
    with jax.enable_x64(True):
        x, k = normal(0, 2, 6, 9, 3), normal(1, 2, 5, 3)
        for stride, padding in ((1, ((4, 0), (0, 6))), (2, ((0, 3), (5, 0))), (4, ((0, 0), (1, 0)))):
            shift, reference = (
                with_gradients(lambda x, k, way=way, s=stride, p=padding: depthwise(x, k, s, p, way))
                for way in ("shift", "lax")
            )
            assert_close(shift(x, k), reference(x, k), 1e-12)


def test_kernel_gradient_in_blocks_of_several_images_and_of_one(monkeypatch):
    with jax.enable_x64(True):
        x, k = normal(0, 6, 4, 5, 8), normal(1, 3, 3, 8)
        results = []
        for limit in (1, 3 * 5 * 8 * 8 * 3, 1 << 20):  # one image, three, all six
            monkeypatch.setattr("mnet_jax.ops.depthwise.ACCUMULATOR_BYTES", limit)
            results.append(with_gradients(lambda x, k: depthwise(x, k, 1, ((1, 1), (1, 1)), "shift"))(x, k))
        for result in results[1:]:
            assert_close(result, results[0], 1e-12)
        assert any((a[2] != results[0][2]).any() for a in results[1:])  # other blocks, another order of sums


@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_trains_in_a_loop_under_vmap(stride):
    """Three steps of gradient descent, seeds on a leading axis, equal lax step by step and seed by seed."""
    padding = pads((7, 6), 3, stride, "same")

    def step(way, x, k):
        _, dx, dk = with_gradients(lambda x, k: depthwise(x, k, stride, padding, way))(x, k)
        return x - 0.1 * dx, k - 0.1 * dk

    with jax.enable_x64(True):
        x, k = normal(0, 4, 3, 7, 6, 5), normal(1, 4, 3, 3, 5)
        train = jax.vmap(lambda x, k: lax.fori_loop(0, 3, lambda _, xk: step("shift", *xk), (x, k)))
        got = jax.jit(train)(x, k)
        for seed in range(4):
            expected = x[seed], k[seed]
            for _ in range(3):
                expected = step("lax", *expected)
            assert_close((got[0][seed], got[1][seed]), expected, 1e-12)


def test_ranks_stay_low_with_seeds():
    """XLA:CPU crashed on rank 7: at most 5, and 6 with the axis of vmap."""
    x, k = normal(0, 2, 3, 6, 6, 4, dtype="float32"), normal(1, 2, 3, 3, 4, dtype="float32")
    gradients = jax.vmap(with_gradients(lambda x, k: depthwise(x, k, 2, ((0, 1), (0, 1)), "shift")))
    names, rank = primitives(gradients, x, k)
    assert "while" in names
    assert rank == 6


@pytest.mark.parametrize("style", ["same", "symmetric"])
def test_pads(style):
    for h in range(1, 14):
        for kernel in range(1, 7):
            for stride in (1, 2, 3):
                got = pads((h, 2 * h), kernel, stride, style)
                if style == "same":
                    hw = (h, 2 * h)
                    expected = lax.padtype_to_pads(hw, (kernel, kernel), (stride, stride), "SAME")
                    assert list(got) == [tuple(p) for p in expected]
                    assert output_size(hw, (kernel, kernel), stride, got) == (-(-h // stride), -(-2 * h // stride))
                else:
                    assert got == (((kernel - 1) // 2,) * 2,) * 2
    assert same_padding(224, 3, 2) == (0, 1)


def test_auto_follows_the_platform(monkeypatch):
    x, depth, point, dense = normal(0, 1, 4, 4, 2), normal(1, 3, 3, 2), normal(2, 2, 3), normal(3, 3, 3, 2, 3)
    calls = [
        lambda way: depthwise(x, depth, 1, ((1, 1), (1, 1)), way),
        lambda way: pointwise(x, point, way),
        lambda way: dense_conv(x, dense, 1, ((1, 1), (1, 1)), way),
    ]

    def convolutions(way):
        return [primitives(lambda call=call: call(way))[0].count("conv_general_dilated") for call in calls]

    assert convolutions("lax") == [1, 1, 1]
    assert convolutions("shift") == convolutions("auto") == [0, 0, 0]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert convolutions("shift") == [0, 0, 0]
    assert convolutions("auto") == [1, 0, 1]


def norm_gradients(low, high, group, way):
    def run(x, parameters):
        return batch_norm_act(x, *parameters, low, high, 1e-3, group, way)[0]

    return with_gradients(run)


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@draws
@given(
    size=convolutions["size"],
    bounds=st.sampled_from([(-INF, INF), (0.0, INF), (0.0, 6.0), (-0.5, 0.7)]),
    samples=st.integers(0, 4),
)
def test_fused_norm_equals_autodiff(dtype, tolerance, size, bounds, samples):
    group = samples if samples and size[0] % samples == 0 else 0
    # Statistics of a few numbers magnify rounding: one position over sqrt(eps) is worth 30 units.
    tolerance *= 30 if size[0] * size[1] * size[2] < 8 else 1
    with jax.enable_x64(dtype == "float64"):
        wide = str(ops.accumulator(jnp.dtype(dtype)))
        x = normal(0, *size, dtype=dtype)
        parameters = normal(1, size[-1], dtype=wide), normal(2, size[-1], dtype=wide)
        fused, reference = (norm_gradients(*bounds, group, way) for way in ("auto", "lax"))
        assert_close(fused(x, parameters), reference(x, parameters), tolerance)


def test_norm_groups_equal_a_loop_over_groups():
    with jax.enable_x64(True):
        x, scale, bias = normal(0, 6, 3, 4, 5), normal(1, 5), normal(2, 5)
        y, mean, var = batch_norm_act(x, scale, bias, 0.0, 6.0, 1e-3, 2, "auto")
        each = [batch_norm_act(x[i : i + 2], scale, bias, 0.0, 6.0, 1e-3, 0, "lax") for i in (0, 2, 4)]
        assert_close(y, jnp.concatenate([e[0] for e in each]), 1e-12)
        assert_close(mean, sum(e[1] for e in each) / 3, 1e-12)
        assert_close(var, sum(e[2] for e in each) / 3, 1e-12)
        assert_close(each[0][2], jnp.asarray(np.var(np.asarray(x[:2]), (0, 1, 2))), 1e-12)


@pytest.mark.parametrize("way", ["auto", "lax"])
def test_no_gradient_through_the_statistics(way):
    x, one = normal(0, 4, 2, 2, 3, dtype="float32"), jnp.ones(3)

    def loss(x):
        _, mean, var = batch_norm_act(x, one, one, 0.0, 6.0, 1e-3, 2, way)
        return jnp.sum(mean) + jnp.sum(var)

    assert not jax.grad(loss)(x).any()


@pytest.mark.parametrize("way", ["auto", "lax"])
@pytest.mark.parametrize(("bias", "passes"), [(-3.0, False), (0.0, False), (3.0, True), (6.0, False), (9.0, False)])
def test_the_clip_passes_gradient_between_its_bounds_only(way, bias, passes):
    """scale 0 puts every y on the bias: 0 and 6 themselves are outside, as ReLU6's gradient has it."""
    x = normal(0, 2, 3, 3, 1, dtype="float32")
    y, vjp = jax.vjp(
        lambda scale, bias: batch_norm_act(x, scale, bias, 0.0, 6.0, 1e-3, 0, way)[0],
        jnp.zeros(1),
        jnp.full(1, bias),
    )
    assert (y == np.clip(bias, 0, 6)).all()
    assert vjp(jnp.ones_like(y))[1] == (18 if passes else 0)


@pytest.mark.parametrize("way", ["auto", "lax"])
def test_traced_bounds_equal_static_ones(way):
    """Arms that differ in the activation share a program: bounds as arguments, and on vmap's axis."""
    x, parameters = normal(0, 2, 4, 4, 3, dtype="float32"), (jnp.full(3, 2.0), jnp.full(3, 0.5))
    arms = [(-INF, INF), (0.0, INF), (0.0, 6.0), (0.0, 1.0)]
    traced = jax.jit(lambda x, p, low, high: norm_gradients(low, high, 0, way)(x, p))
    low, high = (jnp.asarray(bounds, "float32") for bounds in zip(*arms, strict=True))
    stacked = jax.vmap(traced, (None, None, 0, 0))(x, parameters, low, high)
    for i, bounds in enumerate(arms):
        static = norm_gradients(*bounds, 0, way)(x, parameters)
        assert_close(traced(x, parameters, low[i], high[i]), static, 1e-6)
        assert_close(jax.tree.map(lambda leaf, i=i: leaf[i], stacked), static, 1e-6)
    assert traced._cache_size() == 1
    assert not np.allclose(stacked[0][2], stacked[0][3])


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
def test_inference_with_the_batch_statistics_equals_training(dtype, tolerance):
    with jax.enable_x64(dtype == "float64"):
        wide = str(ops.accumulator(jnp.dtype(dtype)))
        x, scale, bias = normal(0, 4, 3, 3, 5, dtype=dtype), normal(1, 5, dtype=wide), normal(2, 5, dtype=wide)
        y, mean, var = batch_norm_act(x, scale, bias, 0.0, 6.0, 1e-3, 0, "auto")
        assert_close(norm_act_inference(x, scale, bias, mean, var, 0.0, 6.0, 1e-3), y, tolerance)


def test_norm_statistics_are_wider_than_bfloat16():
    """Values at 100 with a spread of 1: bfloat16 sums would lose the variance."""
    x = (100 + normal(0, 8, 16, 16, 2, dtype="float32")).astype(jnp.bfloat16)
    y, mean, var = batch_norm_act(x, jnp.ones(2), jnp.zeros(2), -INF, INF, 1e-3, 0, "auto")
    exact = np.asarray(x, "float64")
    assert (y.dtype, mean.dtype, var.dtype) == (jnp.bfloat16, jnp.float32, jnp.float32)
    np.testing.assert_allclose(mean, exact.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(var, exact.var((0, 1, 2)), rtol=1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: depthwise(x, jnp.ones((3, 3, 4)), 1, ((1, 1), (1, 1)), "auto"), r"\(3, 3, 4\).*channels"),
        (lambda x: depthwise(x, jnp.ones((5, 5, 3)), 1, ((0, 0), (1, 1)), "lax"), r"kernel \(5, 5\) is larger"),
        (lambda x: depthwise(x, jnp.ones((3, 3, 3)), 1, ((1, 1), (1, 1)), "fast"), "'fast': allowed are auto, lax"),
        (lambda x: pointwise(x, jnp.ones((3, 2)), "dot"), "'dot': allowed are"),
        (lambda x: dense_conv(x, jnp.ones((3, 3, 2, 2)), 1, ((1, 1), (1, 1)), "auto"), "channels"),
        (lambda x: dense_conv(x, jnp.ones((5, 5, 3, 2)), 1, ((1, 0), (1, 0)), "auto"), "is larger"),
        (lambda x: batch_norm_act(x, jnp.ones(3), jnp.ones(3), 0.0, 6.0, 1e-3, 4, "auto"), "group 4 .* batch of 6"),
        (lambda x: batch_norm_act(x, jnp.ones(3), jnp.ones(3), 0.0, 6.0, 1e-3, -1, "auto"), "group -1"),
        (lambda x: pads(x.shape[1:3], 3, 1, "valid"), "'valid': allowed are same, symmetric"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(jnp.ones((6, 3, 3, 3)))
