"""Numbers do not depend on the number of devices or processes, and a step communicates no images."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tools import trajectory

from mnet_jax import sharding
from mnet_jax.checkpoint import Checkpoints
from mnet_jax.data import augment

GROUPS = {"global": {}, "groups of 2": {"model__norm__group": 2}}


@pytest.fixture(scope="module", autouse=True)
def double_precision():
    """With the standard promotion, as optax multiplies float32 schedules into what is float64 here."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        yield


@pytest.mark.parametrize(
    ("runs", "devices", "axes"), [(1, 8, (1, 8)), (4, 8, (4, 2)), (3, 8, (1, 8)), (12, 8, (4, 2)), (16, 8, (8, 1))]
)
def test_runs_are_spread_first_and_batches_share_the_rest(runs, devices, axes):
    mesh = sharding.mesh(runs, 16, jax.devices()[:devices])
    assert tuple(mesh.shape.values()) == axes


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match=r"batch_size=12 does not divide by the 8 devices.*a multiple of 8"):
        sharding.mesh(1, 12, jax.devices()[:8])


def test_arrays_come_back_whole():
    mesh = sharding.mesh(2, 4, jax.devices()[:8])
    array = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    there = sharding.put(mesh, sharding.BATCHES, array)
    assert there.sharding.shard_shape(there.shape) == (1, 3, 1)
    np.testing.assert_array_equal(sharding.fetch({"a": there})["a"], array)


@pytest.fixture(scope="module")
def alone():
    return {name: trajectory.train(jax.devices()[:1], **group) for name, group in GROUPS.items()}


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("devices", [2, 8])
def test_thirty_steps_are_the_same_on_many_devices(alone, group, devices):
    losses, _ = trajectory.train(jax.devices()[:devices], **GROUPS[group])
    np.testing.assert_allclose(losses, alone[group][0], rtol=1e-9)
    assert np.ptp(losses) > 0.01


def test_groups_differ_from_the_whole_batch(alone):
    assert np.all(alone["global"][0] != alone["groups of 2"][0])


def test_seeds_of_one_program_equal_single_runs():
    together, _ = trajectory.train(jax.devices()[:4], seeds=(0, 1))
    for number in (0, 1):
        single, _ = trajectory.train(jax.devices()[:1], seeds=(number,))
        np.testing.assert_allclose(together[:, number], single[:, 0], rtol=1e-9)


@pytest.mark.parametrize("group", GROUPS)
def test_the_first_step_in_single_precision(group):
    """One step's momentum is its gradient; BatchNorm's statistics move with the batch's."""
    losses, one = trajectory.train(jax.devices()[:1], 1, dtype=np.float32, **GROUPS[group])
    sharded, many = trajectory.train(jax.devices()[:8], 1, dtype=np.float32, **GROUPS[group])
    np.testing.assert_allclose(losses, sharded, rtol=1e-5)
    for part in one:
        largest = max(np.abs(leaf).max(initial=0) for leaf in jax.tree.leaves(one[part]))
        for a, b in zip(jax.tree.leaves(one[part]), jax.tree.leaves(many[part]), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * largest)


def test_a_checkpoint_goes_on_on_another_number_of_devices(tmp_path):
    state, advance = trajectory.begin(jax.devices()[:4], dtype=np.float32)
    for number in range(3):
        state, _ = advance(state, number)
    kept = Checkpoints(tmp_path)
    kept.save(3, state, {"step": 3})
    kept.wait()
    saved = sharding.fetch(state["params"])
    _, expected = advance(state, 3)

    fresh, advance = trajectory.begin(jax.devices()[:2], dtype=np.float32)
    found = kept.restore(fresh)
    assert found is not None
    restored, meta = found
    assert meta == {"step": 3}
    assert all(len(leaf.sharding.device_set) == 2 for leaf in jax.tree.leaves(restored))
    for a, b in zip(jax.tree.leaves(saved), jax.tree.leaves(sharding.fetch(restored["params"])), strict=True):
        np.testing.assert_array_equal(a, b)
    _, sums = advance(restored, 3)
    np.testing.assert_allclose(sums["loss"], expected["loss"], rtol=1e-5)
    kept.close(delete=True)


def test_rounding_grows_no_faster_on_many_devices_than_from_one_ulp(monkeypatch):
    """Training is chaotic; another order of summation is one more perturbation of that size."""
    one, _ = trajectory.train(jax.devices()[:1], dtype=np.float32)
    many, _ = trajectory.train(jax.devices()[:8], dtype=np.float32)
    normalize = augment.normalize

    def nudged(*args):
        x = normalize(*args)
        return jnp.nextafter(x, jnp.full_like(x, jnp.inf))

    monkeypatch.setattr(augment, "normalize", nudged)
    ulp, _ = trajectory.train(jax.devices()[:1], dtype=np.float32)
    assert np.abs(many - one).max() <= 10 * np.abs(ulp - one).max()
    assert np.abs(ulp - one).max() > 0


def processes(number, per_process, **overrides):
    """The losses that each of `number` processes prints."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    tests = Path(__file__).parent
    env = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": f"{tests.parent}:{tests}"}
    command = [sys.executable, "-m", "tools.trajectory", address, str(number)]
    started = [
        subprocess.Popen(
            [*command, str(process), str(per_process), json.dumps(overrides)],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in range(number)
    ]
    outputs = [process.communicate(timeout=300) for process in started]
    assert [process.returncode for process in started] == [0] * number, outputs
    lines = [json.loads(out.splitlines()[-1]) for out, _ in outputs]
    assert [line["process"] for line in lines] == list(range(number))
    return [np.asarray(line["losses"]) for line in lines]


def test_two_processes_train_as_one(alone):
    for losses in processes(2, 2):
        np.testing.assert_allclose(losses, alone["global"][0], rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_sixteen_devices_and_two_processes_with_groups(alone, group):
    for number, per_process in ((1, 16), (2, 2)):
        for losses in processes(number, per_process, **GROUPS[group]):
            np.testing.assert_allclose(losses, alone[group][0], rtol=1e-9)
