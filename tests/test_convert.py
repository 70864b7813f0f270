"""Weights of other libraries give the same logits here."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from mnet_jax.convert.keras import from_keras

PREPROCESSED = {"include_preprocessing": False}
QUICK = {
    "MobileNet 0.25": ("MobileNet", 32, {"alpha": 0.25}),
    "MobileNetV2 0.35": ("MobileNetV2", 32, {"alpha": 0.35}),
    "MobileNetV3Small": ("MobileNetV3Small", 32, PREPROCESSED),
}
OTHERS = {
    "MobileNet": ("MobileNet", 32, {}),
    "MobileNetV2 0.5": ("MobileNetV2", 32, {"alpha": 0.5}),
    "MobileNetV2": ("MobileNetV2", 32, {}),
    "MobileNetV2 1.4": ("MobileNetV2", 32, {"alpha": 1.4}),
    "MobileNetV3Large": ("MobileNetV3Large", 32, PREPROCESSED),
    "MobileNetV3Large 0.75": ("MobileNetV3Large", 32, PREPROCESSED | {"alpha": 0.75}),
    "MobileNetV3Small minimalistic": ("MobileNetV3Small", 32, PREPROCESSED | {"minimalistic": True}),
    "VGG16": ("VGG16", 32, {}),
    "InceptionV3": ("InceptionV3", 75, {}),
    "ResNet50": ("ResNet50", 32, {}),
    "NASNetMobile": ("NASNetMobile", 32, {}),
}
"""Keras's name, the smallest input that it takes, arguments."""
CASES = QUICK | OTHERS


def randomize(model, rng):
    """Norms that do something, biases, and kernels that let the images through to the logits.

    Larger kernels let the images through as well, and every rounding with them: at 3 / fan_in a last bit of an image
    moves V3's logits by 7e-4 in Keras itself.
    """

    def normal(shape, fan_in):
        return rng.normal(0, (2 / fan_in) ** 0.5, shape)

    draws = {
        "kernel": lambda shape: normal(shape, np.prod(shape[:-1]) if shape[-1] > 1 else np.prod(shape[:2])),
        "depthwise_kernel": lambda shape: normal(shape, np.prod(shape[:2])),
        "pointwise_kernel": lambda shape: normal(shape, shape[2]),
        "gamma": lambda shape: rng.uniform(0.7, 1.3, shape),
        "beta": lambda shape: rng.normal(0, 0.2, shape),
        "bias": lambda shape: rng.normal(0, 0.2, shape),
        "moving_mean": lambda shape: rng.normal(0, 0.2, shape),
        "moving_variance": lambda shape: rng.uniform(0.5, 1.5, shape),
    }
    for layer in model.layers:
        for variable in layer.weights:
            if variable.name in draws:
                variable.assign(draws[variable.name](variable.shape).astype("float32"))


def main(out, *cases):
    """Runs in a process of its own: Keras's logits and ours, of two images."""
    import keras

    results: dict[str, Any] = {}
    for number, case in enumerate(cases):
        name, size, fields = CASES[case]
        keras.utils.set_random_seed(number)
        rng = np.random.default_rng(number)
        model = getattr(keras.applications, name)(
            weights=None, input_shape=(size, size, 3), classes=10, classifier_activation=None, **fields
        )
        randomize(model, rng)
        images_BHWC = rng.uniform(-1, 1, (2, size, size, 3)).astype("float32")
        network = from_keras(model)
        graphdef, state = nnx.split(network)
        logits = jax.jit(lambda state, images, graph=graphdef: nnx.merge(graph, state)(images)[0])(state, images_BHWC)
        variables = [[v.value for v in group] for group in (model.trainable_variables, model.non_trainable_variables)]
        results[f"{case}/keras"] = np.asarray(jax.jit(model.stateless_call)(*variables, images_BHWC)[0])
        results[f"{case}/ours"] = np.asarray(logits)
        results[f"{case}/params"] = np.asarray(
            [model.count_params(), sum(leaf.size for leaf in jax.tree.leaves(nnx.to_pure_dict(state)))]
        )
    np.savez(out, **results)


def run(folder, cases):
    out = folder / "logits.npz"
    environment = os.environ | {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "KERAS_HOME": str(folder)}
    environment |= {"PYTHONPATH": str(Path(__file__).parent.parent)}
    environment |= {"JAX_COMPILATION_CACHE_DIR": getattr(jax.config, "jax_compilation_cache_dir", None) or ""}
    subprocess.run([sys.executable, __file__, str(out), *cases], env=environment, check=True)
    return dict(np.load(out))


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    return run(tmp_path_factory.mktemp("keras"), QUICK)


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    return run(tmp_path_factory.mktemp("keras"), OTHERS)


def same_logits(results, case):
    ours, theirs = results[f"{case}/ours"], results[f"{case}/keras"]
    largest = np.abs(theirs).max()
    assert np.abs(theirs[0] - theirs[1]).max() > 1e-2 * largest  # the images matter, and so does all before the logits
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * largest)
    keras, mine = results[f"{case}/params"]
    if case != "ResNet50":  # whose convolutions have biases there
        assert mine == keras


@pytest.mark.parametrize("case", QUICK)
def test_keras_gives_the_same_logits(quick, case):
    same_logits(quick, case)


@pytest.mark.slow
@pytest.mark.parametrize("case", OTHERS)
def test_keras_gives_the_same_logits_of_large_networks_too(others, case):
    same_logits(others, case)


def keras_like(name, **kernels):
    layers = [
        SimpleNamespace(name=key, weights=[1], kernel=np.zeros(shape), use_bias=False) for key, shape in kernels.items()
    ]
    return SimpleNamespace(name=name, layers=layers)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            keras_like("xception", block1_conv1=(3, 3, 3, 32)),
            "'xception' cannot be imported: its layers are those of no",
        ),
        (keras_like("headless", block5_conv3=(3, 3, 512, 512)), "'headless' cannot be imported: it has no layer 'fc1'"),
    ],
)
def test_other_models_are_refused(model, message):
    with pytest.raises(ValueError, match=message):
        from_keras(model)


if __name__ == "__main__":
    main(*sys.argv[1:])
