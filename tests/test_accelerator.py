"""The device part of the suite, skipped on a CPU: `JAX_PLATFORMS=cuda,cpu pytest -n 0 -m accelerator`."""

import jax
import pytest
from test_bench import QUICK, REGIMES

from mnet_jax.bench import correct, depthwise, determinism, ops, seeds, step
from mnet_jax.bench.step import Regime

pytestmark = pytest.mark.accelerator


@pytest.fixture(autouse=True)
def accelerator():
    if jax.default_backend() == "cpu":
        pytest.skip("needs an accelerator")


def test_every_formulation_equals_float64_on_the_cpu():
    """Channels that fill blocks and that do not, both strides, odd sizes, and images that fill no tile."""
    shapes = [ops.Shape(28, 144, 1), ops.Shape(57, 96, 2), ops.Shape(14, 64, 2), ops.Shape(7, 33, 1)]
    found = correct._layers(shapes, 3, jax.devices()[0])
    assert {way for way, _ in found} >= {"lax", "shift"} | ({"pallas"} if jax.default_backend() == "gpu" else set())
    for (way, how), errors in found.items():
        limit = 1e-2 if how.dtype == "bfloat16" else 1e-5 if how.precision == "highest" else 2e-3
        assert max(errors.values()) < limit, (way, how, errors)


def test_a_first_step_equals_float64_on_the_cpu():
    regime = Regime(step.V2 | step.SMALL_IMAGES | {"width": 0.35}, 32, 32)
    for case, errors in correct._steps(regime, jax.devices()[0]).items():
        if case[2] == correct.ARITHMETIC[0]:
            assert max(errors.values()) < correct.LIMIT, (case, errors)


def test_the_same_bits_again():
    """Of two whole trainings, and of one that was stopped."""
    again, resumed, single = determinism.measure(QUICK).tables[0].rows
    assert again[2] == resumed[2] == f"{determinism.RUNS} of {determinism.RUNS}"
    assert float(single[3]) < 1e-2


@pytest.mark.parametrize("way", ["auto", *step.GPU_WAYS])
def test_many_seeds_fit_one_program(way):
    if way not in ("auto", *depthwise.ways("float32")):
        pytest.skip(f"no {way} here")
    regimes = {name: regime._replace(model={**regime.model, "formulation": way}) for name, regime in REGIMES.items()}
    rows = seeds.measure(QUICK, regimes, (1, 4)).tables[0].rows
    assert all(float(row[4]) > 0 for row in rows)
