"""Depthwise convolutions and a first training step against float64 on the CPU."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from accelerator.relative_error import relative_error
from flax import nnx
from test_bench import REGIMES

from mnet_jax import models, sharding
from mnet_jax.bench import depthwise
from mnet_jax.bench.contenders import ours
from mnet_jax.bench.depthwise import PASSES, Shape
from mnet_jax.bench.regime import SMALL_IMAGES, V2, Regime
from mnet_jax.ops import depthwise as ops


class Arithmetic(NamedTuple):
    """The type of the images and kernels, and what XLA may do with products of float32."""

    dtype: str
    precision: str


EXACT, TF32, BFLOAT16 = (
    Arithmetic("float32", "highest"),
    Arithmetic("float32", "default"),
    Arithmetic("bfloat16", "default"),
)
"""On NVIDIA's cards from Ampere on the default precision of float32 products is TF32."""

LIMITS = {EXACT: 1e-5, TF32: 2e-3, BFLOAT16: 1e-2}
"""Of the relative error of a depthwise convolution and its gradients."""

STEP_LIMIT = 1e-4
"""Of the relative error of a first training step in float32 without TF32."""

LR = 2.0**20
"""A learning rate so large that the weights after the step are the gradients, and the division by it is exact."""


def cpu():
    return jax.devices("cpu")[0]


def layer_errors(shape, batch, device):
    """{(formulation, arithmetic): {pass: error}} of random numbers in bfloat16, which all types can hold."""

    def passes(way, x, k, dy):
        y, vjp = jax.vjp(lambda x, k: ops.depthwise(x, k, shape.stride, ((1, 1), (1, 1)), way), x, k)
        return (y, *vjp(dy))

    def compute(way, dtype, device):
        put = [jax.device_put(array.astype(dtype), device) for array in arrays]
        return jax.jit(lambda x, k, dy: passes(way, x, k, dy))(*put)

    random, out = np.random.default_rng(0), -(-shape.size // shape.stride)
    sizes = (batch, shape.size, shape.size, shape.channels), (3, 3, shape.channels), (batch, out, out, shape.channels)
    arrays = [random.normal(size=size).astype(jnp.bfloat16) for size in sizes]
    with jax.enable_x64(True):
        exact = compute("lax", "float64", cpu())
    errors = {}
    for how in LIMITS:
        for way in depthwise.formulations(how.dtype):
            with jax.default_matmul_precision(how.precision):
                got = compute(way, how.dtype, device)
            errors[way, how] = dict(zip(PASSES, map(relative_error, got, exact), strict=True))
    return errors


def first_step(regime, device, way, dtype, initial):
    """{"loss", "statistics", "gradients"} of the project's own program from the state `initial`; see `LR`.

    The statistics are the batch's, since their average has no momentum. "float64" needs x64.
    """
    compute = "bfloat16" if dtype == "bfloat16" else "float32"
    numbers = "float64" if dtype == "float64" else "float32"
    regime = regime._replace(model={**regime.model, "formulation": way, "dtype": compute, "norm.momentum": 0.0})
    program, mesh, _, (knobs_S, *data) = ours.prepare(regime, steps=1, device=device, dtype=numbers)

    def put(leaf):
        leaf = np.asarray(leaf, numbers) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf
        return jax.device_put(leaf, jax.NamedSharding(mesh, sharding.RUNS), may_alias=False)  # the step donates it

    knobs_S = knobs_S._replace(lr=put(np.full(1, LR)))
    state, sums = program.train(jax.tree.map(put, initial), knobs_S, *data, np.int32(0), np.int32(1))
    before, after = jax.device_get((initial["params"], state["params"]))
    gradients = jax.tree.map(lambda a, b: (np.asarray(a, numbers) - b) / LR, before, after)
    return jax.device_get({"loss": sums["loss"], "statistics": state["batch_stats"]}) | {"gradients": gradients}


def step_errors(regime, device, arithmetic):
    """{(formulation, arithmetic): {"loss", "statistics", "gradients"}} of the first step, from weights of the CPU."""
    prepared = ours.prepare(regime, steps=1, device=cpu())
    initial = prepared.program.init(prepared.seeds_S)
    with jax.default_device(cpu()):
        model = models.build(regime.config().model, nnx.Rngs(0))
    for name, kind in (("params", nnx.Param), ("batch_stats", nnx.BatchStat)):
        initial[name] = jax.tree.map(lambda leaf: leaf[None], nnx.to_pure_dict(nnx.state(model, kind)))
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        exact = first_step(regime, cpu(), "lax", "float64", initial)
    errors = {}
    for how in arithmetic:
        for way in depthwise.formulations(how.dtype):
            with jax.default_matmul_precision(how.precision):
                got = first_step(regime, device, way, how.dtype, initial)
            errors[way, how] = {part: relative_error(got[part], exact[part]) for part in exact}
    return errors


def check_layer(shape, batch):
    errors = layer_errors(shape, batch, jax.devices()[0])
    pallas = {"pallas"} if jax.default_backend() == "gpu" else set()
    assert {way for way, _ in errors} >= {"lax", "shift"} | pallas
    for (way, how), found in errors.items():
        assert max(found.values()) < LIMITS[how], (shape, way, how, found)


@pytest.mark.accelerator
@pytest.mark.parametrize("shape", [Shape(28, 144, 1), Shape(57, 96, 2), Shape(14, 64, 2), Shape(7, 33, 1)], ids=str)
def test_every_formulation_at_the_edges(shape):
    """Channels that fill blocks and that do not, both strides, odd sizes, and images that fill no tile."""
    check_layer(shape, 3)


@pytest.mark.accelerator
def test_every_formulation_at_the_layers_of_the_papers():
    for shape in depthwise.shapes(depthwise.NETWORKS):
        check_layer(shape, 4)


@pytest.mark.accelerator
@pytest.mark.parametrize(
    "regime",
    [Regime(V2 | SMALL_IMAGES | {"width": 0.35}, 32, 32), Regime(V2 | SMALL_IMAGES, 32, 64), Regime(V2, 224, 8)],
    ids=["V2 0.35 at 32", "V2 at 32", "V2 at 224"],
)
def test_a_first_step(regime):
    for case, errors in step_errors(regime, jax.devices()[0], [EXACT]).items():
        assert max(errors.values()) < STEP_LIMIT, (case, errors)


def test_a_layer_at_toy_size():
    """The errors are of the arithmetic's size, so the programs compute the same."""
    errors = layer_errors(Shape(5, 3, 2), 2, cpu())
    for way in ("lax", "shift"):
        assert 0 < max(errors[way, EXACT].values()) < 1e-6
        assert 1e-4 < max(errors[way, BFLOAT16].values()) < 1e-2


def test_a_first_step_at_toy_size():
    """The errors are of the arithmetic's size, so the programs had the same weights and images."""
    errors = step_errors(REGIMES["tiny"], cpu(), [EXACT, BFLOAT16])
    for way in ("lax", "shift"):
        assert 0 < max(errors[way, EXACT].values()) < 1e-5
        assert 1e-3 < errors[way, BFLOAT16]["statistics"] < 1e-1


def test_relative_errors():
    one, two = {"a": np.float32(3.0), "b": np.ones(4)}, {"a": np.float32(3.0), "b": np.zeros(4)}
    assert relative_error(two, one) == pytest.approx(2 / 13**0.5)
    assert np.isnan(relative_error({"a": np.nan, "b": np.ones(4)}, one))
