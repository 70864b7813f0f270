"""A trained network as a file of another format computes what it computes in JAX."""

import json
from collections import Counter
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mnet_jax import config, models
from mnet_jax.convert import pytorch
from mnet_jax.deploy import __main__ as deploy
from mnet_jax.deploy import imported, stablehlo, trace
from mnet_jax.errors import UserError
from mnet_jax.models import specs
from mnet_jax.models.layers import (
    LINEAR,
    RELU,
    ConvNorm,
    Dense,
    average_pool,
    gelu,
    global_mean,
    hard_swish,
    local_response_norm,
    max_pool,
)

TINY = {"stem": (4, 2), "blocks": ((1, 4, 1, 1), (2, 4, 2, 1)), "last": 8, "divisor": 1, "num_classes": 3}


def build(name: str, **fields: Any) -> nnx.Module:
    """A network in evaluation mode with statistics that norms have to use."""
    cfg = config.default()
    config.override(cfg, {"model.name": name, **{f"model.{key}": value for key, value in fields.items()}})
    network = models.structure(cfg.model)
    randomize(network)
    return network


def randomize(network: nnx.Module) -> None:
    """Draws all weights and statistics, such that no layer leaves its inputs as they were.

    The weights of gates are small: a gate whose input is large is a step, which turns a rounding into another output.
    """
    rng = np.random.default_rng(0)
    for path, node in nnx.iter_graph(network):
        if isinstance(node, nnx.Param | nnx.BatchStat):
            around, std = {"var": (1, 0.2), "scale": (1, 0.2)}.get(str(path[-1]), (0, 0.1))
            if path[-1] == "kernel":
                std = (2 / np.prod(node.shape[: 2 if node.ndim == 3 else -1])) ** 0.5
                std = 0.001 if path[-2] == "excite" else std
            node.set_value(jnp.asarray(rng.normal(around, std, node.shape), jnp.float32))
    network.eval()


def images(side: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(1, side, side, channels)).astype(np.float32)


def same(network: Any, file: bytes, run: Any, side: int, most: float = 1e-5) -> None:
    def first(images_BHWC: jax.Array) -> Any:
        outputs = network(images_BHWC)
        return outputs[0] if isinstance(outputs, tuple) else outputs

    expected = np.asarray(jax.jit(first)(images(side)))
    np.testing.assert_allclose(run(file)(images(side)), expected, rtol=0, atol=most * np.abs(expected).max())


@pytest.fixture(scope="module")
def tiny():
    return build("mobilenet_v2", **TINY)


@pytest.fixture(scope="module")
def traced(tiny):
    return trace.evaluation(tiny, (1, 8, 8, 3))


def test_the_trace_holds_each_layer_once_and_nothing_of_its_norm(traced):
    counted = Counter(equation.primitive.name for equation in traced.jaxpr.eqns)
    moves = {name: counted.pop(name) for name in ("broadcast_in_dim", "reduce_sum", "div") if name in counted}
    # Stem, 2 + 3 + 3 layers of the blocks, head; ReLU6 but after the projections, which have no clip; biases of all
    # these, of the classifier, and two shortcuts.
    assert counted == {"conv_general_dilated": 10, "max": 7, "min": 7, "add": 10 + 1 + 3, "dot_general": 1}
    assert moves["reduce_sum"] == moves["div"] == 1


def test_stablehlo_computes_what_the_network_does(tiny, traced):
    same(tiny, b"", lambda file: jax.jit(stablehlo.lowered(traced, "cpu").call), 8, 1e-6)


def test_a_stablehlo_file_is_read_back_as_the_same_function(tiny, traced):
    pytest.importorskip("flatbuffers")
    same(tiny, stablehlo.export(traced), stablehlo.runner, 8, 1e-6)


@pytest.fixture(scope="module")
def weights_file(tiny, tmp_path_factory):
    cfg = config.default()
    config.override(cfg, {"model.name": "mobilenet_v2", **{f"model.{key}": value for key, value in TINY.items()}})
    path = tmp_path_factory.mktemp("deploy") / "weights.safetensors"
    pytorch.Imported(tiny, cfg, (0.5,) * 3, (0.5,) * 3, tuple("abc"), (8, 8, 3)).save(path)
    return path


def test_the_command_writes_a_file_and_says_how_near_it_is(weights_file, tmp_path, capsys, monkeypatch):
    out, exported = tmp_path / "tiny.stablehlo", []
    plain = deploy.Format(
        ".stablehlo",
        "",
        (),
        lambda traced, network: exported.append(traced) or b"a file",
        lambda file: jax.jit(stablehlo.lowered(exported[-1], "cpu").call),
        lambda file: Counter(CONV_2D=10),
    )
    monkeypatch.setitem(deploy.FORMATS, "stablehlo", plain)
    command = [str(weights_file), "--to", "stablehlo", "-o", str(out), "--images", "3"]
    assert deploy.main(command) == 0
    said = capsys.readouterr().out
    assert out.read_bytes() == b"a file"
    assert f"{out}: mobilenet_v2, 6 bytes\n10 CONV_2D\n" in said
    assert "same class: 100.00% over 3 random images" in said
    monkeypatch.setattr(deploy, "DIFFERENCE", -1.0)
    assert deploy.main(command) == 1
    monkeypatch.setitem(deploy.FORMATS, "stablehlo", plain._replace(quantized=lambda file, images: file))
    with pytest.raises(UserError, match=r"needs the images that .* was trained on"):
        deploy.main(command)


def test_what_is_not_installed_is_named_with_its_extra():
    with pytest.raises(UserError, match=r"no_such_package cannot be imported.*pip install 'mnet_jax\[onnx\]'"):
        imported("no_such_package", "onnx")


def test_a_file_of_another_suffix_is_refused_before_the_weights_are_read(tmp_path):
    with pytest.raises(UserError, match=r"allowed: a file, \.stablehlo"):
        deploy.main(["missing.safetensors", "--to", "stablehlo", "-o", str(tmp_path / "a.onnx")])


class Everything(nnx.Module):
    """One of each kind of operation that networks have, and MobileNets lack."""

    def __init__(self):
        settings = specs.layer_config(config.default().model)
        self.conv = ConvNorm(settings, "dense", 3, 8, 3)
        self.wide = ConvNorm(settings, "depthwise", 8, 8, 3, dilation=2)
        self.dense = Dense(4 * 4 * 24 + 24, 5)

    def __call__(self, images_BHWC: jax.Array) -> jax.Array:
        x = self.conv(images_BHWC, gelu)
        x = jnp.concatenate([max_pool(x, 3, 2, "same"), average_pool(x, 3, 2, "symmetric"), x[:, ::2, 1::2]], -1)
        B, H, W, C = x.shape
        x = x.reshape(B, H, W, 3, C // 3).swapaxes(3, 4).reshape(B, H, W, C)
        y = hard_swish(x) * jax.nn.sigmoid(jnp.max(x, (1, 2)))[:, None, None] + jnp.tanh(x) / (1 + jnp.square(x))
        y = y + jnp.clip(x, -0.5, 0.75) * x.reshape(x.shape)
        y = jnp.einsum("bhwc,hv->bvwc", y, jnp.tril(jnp.ones((4, 4)))) + jnp.einsum("bhwc,bhwd->bhdc", x, y)[:, :, :4]
        y = local_response_norm(y)
        y = jnp.pad(y, ((0, 0), (1, 0), (0, 1), (0, 0)))[:, 1:, :-1] - self.narrow(x)
        return self.dense(jnp.concatenate([y.reshape(B, -1), global_mean(y)], -1), RELU)

    def narrow(self, x_BHWC: jax.Array) -> jax.Array:
        wide = [self.wide(x_BHWC[..., 8 * third : 8 * third + 8], LINEAR) for third in range(3)]
        return jnp.concatenate(wide, -1) ** 3


@pytest.fixture(scope="module")
def everything():
    network = Everything()
    randomize(network)
    return network


def several(number: int) -> list[np.ndarray]:
    rng = np.random.default_rng(2)
    return [rng.normal(size=(1, 8, 8, 3)).astype(np.float32) for _ in range(number)]


def near(network: Any, file: bytes, exporter: Any) -> None:
    """Integers are within a tenth of the largest logit, on images that set their ranges: the layers have 4 channels."""
    run = exporter.runner(file)
    for image in several(8):
        expected = np.asarray(network(image)[0])
        np.testing.assert_allclose(run(image), expected, rtol=0, atol=0.1 * np.abs(expected).max())


class TestONNX:
    @pytest.fixture(autouse=True)
    def installed(self):
        pytest.importorskip("onnx")
        pytest.importorskip("onnxruntime")

    def test_v2_is_one_node_a_layer(self, tiny, traced):
        from mnet_jax.deploy import onnx

        file = onnx.export(traced, {"mean": json.dumps([0.5])})
        same(tiny, file, onnx.runner, 8)
        counted = onnx.operations(file)
        assert counted == {"Transpose": 1, "Conv": 10, "Clip": 7, "Add": 3, "ReduceMean": 1, "Gemm": 1}

    def test_every_operation_is_translated(self, everything):
        from mnet_jax.deploy import onnx

        file = onnx.export(trace.evaluation(everything, (1, 8, 8, 3)), {})
        same(everything, file, onnx.runner, 8)

    def test_integers_see_the_same_class(self, tiny, traced):
        from mnet_jax.deploy import onnx

        near(tiny, onnx.quantized(onnx.export(traced, {}), several(8)), onnx)

    def test_others_are_refused_by_the_primitives_name(self):
        from mnet_jax.deploy import onnx

        for function, name in ((jnp.cos, "cos"), (lambda x: jnp.sort(x, -1), "sort")):
            with pytest.raises(UserError, match=f"the primitive {name} is not exported to ONNX; allowed: .*conv"):
                onnx.export(trace.evaluation(nnx.Sequential(function), (1, 8, 8, 3)), {})

    @pytest.mark.slow
    @pytest.mark.parametrize("name", [*specs.NETWORKS, *specs.ZOO])
    def test_every_network_computes_the_same(self, name):
        from mnet_jax.deploy import onnx

        network, side = build(name), {"inception_v3": 75, "alexnet": 227, "vgg16": 224}.get(name, 64)
        traced = trace.evaluation(network, (1, side, side, 3))
        file = onnx.export(traced, {})
        same(network, file, onnx.runner, side)
        if name == "mobilenet_v2":
            counted = onnx.operations(file)
            assert counted == {"Transpose": 1, "Conv": 52, "Clip": 35, "Add": 10, "ReduceMean": 1, "Gemm": 1}


class TestTFLite:
    @pytest.fixture(autouse=True)
    def installed(self):
        pytest.importorskip("litert_converter")
        pytest.importorskip("ai_edge_litert")

    def test_v2_is_one_operation_a_layer(self, tiny, traced):
        from mnet_jax.deploy import tflite

        file = tflite.export(traced)
        same(tiny, file, tflite.runner, 8)
        counted = tflite.operations(file)
        assert counted.pop("PAD", 0) == 0
        assert counted == {"CONV_2D": 7, "DEPTHWISE_CONV_2D": 3, "ADD": 3, "MEAN": 1, "FULLY_CONNECTED": 1}

    def test_integers_see_the_same_class(self, tiny, traced):
        pytest.importorskip("litert_quantizer")
        from mnet_jax.deploy import tflite

        file = tflite.quantized(tflite.export(traced), several(8))
        near(tiny, file, tflite)
        interpreter = tflite.imported("ai_edge_litert.interpreter", "tflite").Interpreter(model_content=file)
        (images,) = interpreter.get_input_details()
        reach = max(image.max() for image in several(8)) - min(image.min() for image in several(8))
        assert images["quantization"][0] == pytest.approx(reach / 255, rel=1e-6)
        assert not {"QUANTIZE", "DEQUANTIZE"} & tflite.operations(file).keys()

    @pytest.mark.slow
    @pytest.mark.parametrize("name", [*specs.NETWORKS, *specs.ZOO])
    def test_every_network_computes_the_same(self, name):
        from mnet_jax.deploy import tflite

        network, side = build(name), {"inception_v3": 75, "alexnet": 227, "vgg16": 224}.get(name, 64)
        same(network, tflite.export(trace.evaluation(network, (1, side, side, 3))), tflite.runner, side)
