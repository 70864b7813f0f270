"""What a step needs on many devices: read from the compiled program, and extrapolated beyond it."""

import jax
import pytest
from flax import nnx
from tiny import OVERRIDES, write

from mnet_jax import capacity, config, cost, experiment, models, sweep

CODE = experiment.Code()


def settings(**overrides):
    cfg = config.at_scale("digits")
    config.override(
        cfg, OVERRIDES | {"train.batch_size": 128} | {key.replace("__", "."): value for key, value in overrides.items()}
    )
    return cfg


@pytest.fixture(scope="module")
def needs():
    return {number: capacity.compiled(settings(), CODE, 1, jax.devices()[:number]) for number in (1, 2, 4, 8)}


@pytest.mark.parametrize("group", [0, 16])
def test_only_gradients_and_statistics_are_communicated(needs, group):
    """Every parameter's gradient, mean and variance of every norm, the loss and the correct answers: once."""
    network = nnx.eval_shape(lambda: models.build(settings().model, nnx.Rngs(0)))
    params = cost.count(network, input_shape=(16, 16, 1)).params_trainable
    normed = 4 + 4 + 4 + 8 + 8 + 4 + 8  # channels of stem, block 1 (depthwise, project), block 2 (three), last layer
    if group:
        needs = {8: capacity.compiled(settings(model__norm__group=group), CODE, 1, jax.devices()[:8])}
    for need in needs.values():
        payload = {"all-reduce": 4 * (params + 2 * normed + 2)} if need.devices > 1 else {}
        assert need.payload == payload


def test_seeds_on_the_mesh_need_only_their_sums():
    """Loss, correct answers and diverged_at of 8 runs, which come back whole."""
    assert capacity.compiled(settings(), CODE, 8, jax.devices()[:8]).payload == {"all-gather": 3 * 8 * 4}


def test_memory_shrinks_with_the_share_of_the_batch_as_extrapolated(needs):
    """One device takes the formulation of the others here; "auto" gives it compiled operations, which need less."""
    one = capacity.compiled(settings(model__formulation="shift"), CODE, 1, jax.devices()[:1])
    assert one.memory > needs[2].memory > needs[4].memory > needs[8].memory
    fitted = capacity.extrapolate([needs[2], needs[4]], 8)
    assert fitted.extrapolated
    assert fitted.memory == pytest.approx(needs[8].memory, rel=0.02)
    assert fitted.payload["all-reduce"] == pytest.approx(needs[8].payload["all-reduce"], rel=0.01)


def test_ring():
    need = capacity.StepNeeds(4, 0.0, {"all-reduce": 100.0, "all-gather": 7.0})
    assert capacity.ring_bytes(need) == 2 * 3 / 4 * 100 + 7


def test_collectives_are_read_from_the_text():
    hlo = """
  %all-reduce = (f32[3,4]{1,0}, f32[]) all-reduce(%a, %b), replica_groups={{0,1}}
  ROOT %g = bf16[8,2]{1,0} all-gather-start(f32[2] %c), dimensions={0}
  %other = f32[100] add(%all-reduce.1, %x)
"""
    assert capacity.collectives(hlo) == {"all-reduce": 4 * 12 + 4, "all-gather": 2 * 16}


def test_the_table_says_what_was_compiled():
    needs = [
        capacity.StepNeeds(2, 2e6, {"all-reduce": 1e6}),
        capacity.StepNeeds(64, 1e6, {"all-reduce": 1e6}, extrapolated=True),
    ]
    first, second = capacity.describe(needs, bandwidth=100).split("\n")[1:]
    assert first.split() == ["2", "2.0", "1.00", "1.00", "1e-05", "compiled:", "all-reduce"]
    assert second.split() == ["64", "1.0", "1.00", "1.97", "2e-05", "extrapolated"]


def test_the_table_says_by_how_much_the_extrapolation_errs():
    needs = [
        capacity.StepNeeds(32, 2e6, {"all-reduce": 1e6}),
        capacity.StepNeeds(32, 1.5e6, {"all-reduce": 1.01e6}, extrapolated=True),
        capacity.StepNeeds(64, 1e6, {"all-reduce": 1e6}, extrapolated=True),
    ]
    compiled, checked, beyond = capacity.describe(needs).split("\n")[1:]
    assert checked.endswith("extrapolated: -25.0 %, +1.0 %, +1.0 % of what was compiled")
    assert compiled.endswith("compiled: all-reduce")
    assert beyond.endswith("extrapolated")


def test_a_plan_on_more_devices_than_there_are_is_extrapolated_and_checked(tmp_path, monkeypatch):
    monkeypatch.setattr(capacity, "FITTED", (2, 4))
    overrides = {"train.batch_size": "128", "data.train_size": "512"}
    plan = sweep.plan(experiment.load(write(tmp_path)), "digits", overrides, "train", "the command")
    lines = capacity.table_for_sweep(plan, CODE, 64).split("\n")
    assert "linear, relu6: batch 128 of 16 x 16, 1 runs a job" in lines
    rows = [line.split() for line in lines if line.strip()[:1].isdigit()]
    assert [(row[0], row[-1] == "extrapolated", "extrapolated:" in row) for row in rows] == [
        ("2", False, False),
        ("4", False, False),
        ("8", False, False),
        ("8", False, True),
        ("64", True, False),
    ]


def test_as_many_runs_as_fit(monkeypatch):
    """On a device that says how much memory it has; a CPU does not, and takes one."""
    assert capacity.runs_that_fit(settings(), CODE) == 1
    one, two = (capacity.compiled(settings(), CODE, runs, jax.devices()[:1]).memory for runs in (1, 2))

    class Accelerator:
        platform = "tpu"

        def memory_stats(self):
            return {"bytes_limit": (one + 4.5 * (two - one)) / capacity.SHARE}

    real, here = capacity.compiled, jax.devices()[:1]

    monkeypatch.setattr(capacity, "compiled", lambda cfg, code, runs, _: real(cfg, code, runs, here))
    monkeypatch.setattr(capacity.jax, "local_devices", lambda: [Accelerator(), Accelerator()])
    assert capacity.runs_that_fit(settings(), CODE) == 2 * 5
