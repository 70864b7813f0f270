"""Optimizers against independent traces; schedules and weight-decay masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnet_jax import config, optim
from mnet_jax.models import weights
from mnet_jax.tasks import classification


def settings(**fields):
    """The papers' config with other fields of its section `optim`."""
    cfg = config.default()
    config.override(cfg, {f"optim.{name}": value for name, value in fields.items()})
    return cfg


def trace(cfg, gradients, lr, decay=0.0):
    """Weights after each of the gradients, through `optim.rule`, in float64."""
    with jax.enable_x64(True):
        params = {"classifier": {"kernel": jnp.ones((3, 2), jnp.float64)}}
        mask = optim.decay_mask(params, cfg.optim)
        state = optim.rule(cfg)(0.0, 0.0, mask).init(params)
        seen = []
        for gradient in gradients:
            update = optim.rule(cfg)(lr, decay, mask).update
            updates, state = update({"classifier": {"kernel": jnp.asarray(gradient)}}, state, params)
            params = jax.tree.map(jnp.add, params, updates)
            seen.append(np.asarray(params["classifier"]["kernel"]))
    return np.stack(seen)


@pytest.fixture
def gradients():
    return np.random.default_rng(0).normal(size=(100, 3, 2))


@pytest.mark.parametrize("eps", [1.0, 1e-3])
def test_rmsprop_is_tensorflows(gradients, eps):
    """ms starts at 1, eps inside the root, momentum accumulates the scaled steps."""
    ours = trace(settings(eps=eps), gradients, 0.045, 4e-5)
    w, ms, mom = np.ones((3, 2)), np.ones((3, 2)), np.zeros((3, 2))
    for step, gradient in enumerate(gradients):
        g = gradient + 4e-5 * w
        ms = 0.9 * ms + 0.1 * g * g
        mom = 0.9 * mom + 0.045 * g / np.sqrt(ms + eps)
        w = w - mom
        np.testing.assert_allclose(ours[step], w, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd(gradients, nesterov):
    ours = trace(settings(name="sgd", nesterov=nesterov), gradients, 0.1, 1e-2)
    w, velocity = np.ones((3, 2)), np.zeros((3, 2))
    for step, gradient in enumerate(gradients):
        g = gradient + 1e-2 * w
        velocity = 0.9 * velocity + g
        w = w - 0.1 * (g + 0.9 * velocity if nesterov else velocity)
        np.testing.assert_allclose(ours[step], w, rtol=1e-12, atol=1e-12)


def test_adamw_decays_apart_from_the_gradient(gradients):
    with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an int32 count
        ours = trace(settings(name="adamw", decay=0.99, eps=1e-8), gradients, 0.01, 0.1)
    w, m, v = np.ones((3, 2)), np.zeros((3, 2)), np.zeros((3, 2))
    for step, g in enumerate(gradients):
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
        m_hat, v_hat = m / (1 - 0.9 ** (step + 1)), v / (1 - 0.99 ** (step + 1))
        w = w - 0.01 * (m_hat / (np.sqrt(v_hat) + 1e-8) + 0.1 * w)
        np.testing.assert_allclose(ours[step], w, rtol=1e-7)


def test_exponential_schedule_falls_once_an_epoch():
    factor = optim.schedule(settings().optim, steps_per_epoch=10, steps=100)
    factors = [float(factor(jnp.int32(step))) for step in (0, 9, 10, 19, 99)]
    np.testing.assert_allclose(factors, [1, 1, 0.98, 0.98, 0.98**9], rtol=1e-5)


def test_exponential_schedule_of_the_released_v1_script_falls_every_two_and_a_half_epochs():
    factor = optim.schedule(settings(decay_rate=0.94, decay_epochs=2.5).optim, steps_per_epoch=10, steps=100)
    factors = [float(factor(jnp.int32(step))) for step in (24, 25, 50)]
    np.testing.assert_allclose(factors, [1, 0.94, 0.94**2], rtol=1e-5)


def test_cosine_with_warm_up():
    factor = optim.schedule(settings(schedule="cosine", warmup=0.1).optim, steps_per_epoch=10, steps=100)
    factors = [float(factor(jnp.int32(step))) for step in (0, 9, 10, 55, 100)]
    np.testing.assert_allclose(factors, [0.1, 1, 1, 0.5, 0], atol=1e-6)


def test_weight_decay_touches_what_the_config_says():
    params = {
        "stem": {"kernel": jnp.ones((3, 3, 3, 4)), "scale": jnp.ones(4), "bias": jnp.ones(4)},
        "blocks": {"0": {"depthwise": {"kernel": jnp.ones((3, 3, 4))}, "project": {"kernel": jnp.ones((4, 2))}}},
        "classifier": {"kernel": jnp.ones((2, 5)), "bias": jnp.ones(5)},
        "temperature": jnp.ones(()),
    }
    mask = optim.decay_mask(params, settings().optim)
    decayed = {jax.tree_util.keystr(path) for path, on in jax.tree_util.tree_leaves_with_path(mask) if on}
    dense = {"['stem']['kernel']", "['blocks']['0']['project']['kernel']", "['classifier']['kernel']"}
    assert decayed == dense
    mask = optim.decay_mask(params, settings(decay_depthwise=True).optim)
    decayed = {jax.tree_util.keystr(path) for path, on in jax.tree_util.tree_leaves_with_path(mask) if on}
    assert decayed == dense | {"['blocks']['0']['depthwise']['kernel']"}


@pytest.mark.parametrize(
    ("model", "decay_depthwise"),
    [
        ({"name": "mobilenet_v2"}, False),
        ({"name": "mobilenet_v2"}, True),
        ({"name": "mobilenet_v2", "conv": "full"}, False),
        ({"name": "mobilenet_v3_small"}, False),
        ({"name": "squeezenet"}, False),
        ({"name": "inception_v3"}, False),
    ],
)
def test_dense_kernels_decay_whatever_their_layer_is_called_and_biases_of_no_layer(model, decay_depthwise):
    """V2 with full convolutions in the place of the depthwise ones has dense kernels in layers of that name."""
    cfg = settings(decay_depthwise=decay_depthwise)
    config.override(cfg, {f"model.{name}": value for name, value in model.items()})
    _, params, _ = weights.split(weights.abstract(classification.TASK, cfg))
    mask = weights.flatten(optim.decay_mask(params, cfg.optim))
    depthwise = {
        name for name in mask if name.endswith("depthwise.kernel") and not decay_depthwise and "conv" not in model
    }
    assert {name for name, on in mask.items() if on} == {name for name in mask if name.endswith("kernel")} - depthwise
    assert bool(depthwise) == (model["name"].startswith("mobilenet") and not decay_depthwise and "conv" not in model)
