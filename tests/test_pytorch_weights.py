"""Weights of timm and torchvision come in and go out unchanged, and mean the same there and here."""

import json
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from mnet_jax import config, models
from mnet_jax.convert import pytorch
from mnet_jax.convert.__main__ import main
from mnet_jax.errors import UserError
from mnet_jax.models import specs, weights

FINGERPRINTS = {
    # library, name there -> name here, fields; tensors of the living module, their `weights.fingerprint_of_shapes`.
    ("timm", "mobilenetv1_100"): ("mobilenet_v1", {}, 164, "328d3a7c23db"),
    ("timm", "mobilenetv2_100"): ("mobilenet_v2", {}, 314, "11dab7ce8b76"),
    ("timm", "mobilenetv2_035"): ("mobilenet_v2", {"width": 0.35}, 314, "02735532fe24"),
    ("timm", "mobilenetv3_small_100"): ("mobilenet_v3_small", {}, 244, "220247b4c244"),
    ("timm_tf", "tf_mobilenetv3_small_minimal_100"): ("mobilenet_v3_small_minimalistic", {}, 208, "9d9d0ec77ba6"),
    ("torchvision", "mobilenet_v2"): ("mobilenet_v2", {}, 314, "eaba618cc619"),
    ("torchvision", "mobilenet_v3_small"): ("mobilenet_v3_small", {}, 244, "00a7357696a6"),
    ("timm", "mobilenetv4_conv_small"): ("mobilenet_v4_conv_small", {}, 278, "b250bb9c9c76"),
    ("timm", "mobilenetv4_conv_medium"): ("mobilenet_v4_conv_medium", {}, 464, "83b888dd6849"),
    ("timm", "mobilenetv4_conv_large"): ("mobilenet_v4_conv_large", {}, 614, "7236253744a1"),
    ("timm", "mobilenetv3_large_100"): ("mobilenet_v3_large", {}, 312, "268dbe66e0b3"),
    ("torchvision", "mobilenet_v3_large"): ("mobilenet_v3_large", {}, 312, "1a2b07ecc55e"),
}
LIVING = (
    *FINGERPRINTS,
    *(("timm", f"mobilenet{name}") for name in ("v1_125", "v2_140", "v2_110d", "v3_small_050", "v3_large_075")),
)
TINY = ((1, 8, 1, 1), (6, 8, 2, 2))
ROWS = {"stem": (8, 2), "blocks": TINY, "last": 16, "num_classes": 5, "padding": "symmetric"}


def model_config(name: str, **fields: Any) -> Any:
    cfg = config.default()
    config.override(cfg, {"model.name": name, **{f"model.{key}": value for key, value in fields.items()}})
    return cfg.model


@pytest.mark.parametrize("case", FINGERPRINTS)
def test_names_and_shapes_are_those_of_the_living_modules(case):
    name, fields, number, fingerprint = FINGERPRINTS[case]
    model = model_config(name, **fields)
    network = nnx.eval_shape(lambda: models.structure(model))
    shapes = {there: place.shape for there, place in pytorch.places(network, model, case[0]).items()}
    counters = [there.replace(pytorch.MEAN, pytorch.COUNTER) for there in shapes if there.endswith(pytorch.MEAN)]
    shapes |= dict.fromkeys(counters, ())
    assert len(shapes) == number
    assert weights.fingerprint_of_shapes(shapes) == fingerprint


def numbered(model: Any, library: str) -> dict[str, np.ndarray]:
    """A state dict as a library has it, in which no two numbers of a tensor are equal."""
    network = nnx.eval_shape(lambda: models.structure(model))
    rng = np.random.default_rng(0)
    return {
        name: rng.permutation(math.prod(place.shape)).astype(np.float32).reshape(place.shape)
        for name, place in pytorch.places(network, model, library).items()
    }


@pytest.fixture(scope="module")
def state_dict():
    return numbered(model_config("mobilenet_v2", **ROWS), "timm")


@pytest.fixture(scope="module")
def tiny(state_dict):
    return pytorch.from_state_dict(state_dict)


def test_every_weight_lies_where_it_belongs(tiny, state_dict):
    net: Any = tiny.network
    assert net.stem.kernel[1, 2, 0, 5] == state_dict["conv_stem.weight"][5, 0, 1, 2]
    assert net.blocks[2].depthwise.kernel[0, 2, 7] == state_dict["blocks.1.1.conv_dw.weight"][7, 0, 0, 2]
    assert net.blocks[1].expand.kernel[3, 4] == state_dict["blocks.1.0.conv_pw.weight"][4, 3, 0, 0]
    assert net.blocks[1].project.var[6] == state_dict["blocks.1.0.bn3.running_var"][6]
    assert net.classifier.kernel[2, 4] == state_dict["classifier.weight"][4, 2]


ALIKE = tuple((t, 8, n, s) for t, _, n, s in specs.NETWORKS["mobilenet_v2"].blocks)
"""V2 with as many blocks as torchvision's, and narrow."""


@pytest.mark.parametrize(("library", "rows"), [("timm", TINY), ("torchvision", ALIKE)])
def test_what_comes_in_goes_out_again_bit_for_bit(library, rows):
    model = model_config("mobilenet_v2", **{**ROWS, "blocks": rows})
    tensors = numbered(model, library)
    imported = pytorch.from_state_dict(tensors)
    out = pytorch.to_state_dict(imported.network, imported.cfg.model, library)
    assert {name for name in out if not name.endswith(pytorch.COUNTER)} == tensors.keys()
    for name, array in tensors.items():
        np.testing.assert_array_equal(out[name], array, strict=True)
    for field in ("name", "stem", "last", "num_classes", "padding"):
        assert getattr(imported.cfg.model, field) == getattr(model, field)
    assert specs.network(imported.cfg.model).blocks == specs.network(model).blocks
    assert imported.cfg.model.norm.eps == 1e-5


def test_a_file_comes_in_with_its_preprocessing_and_goes_out_the_same(tmp_path, state_dict, capsys):
    source, ours, target = (tmp_path / name for name in ("model.safetensors", "ours.safetensors", "out.safetensors"))
    safetensors.numpy.save_file(state_dict, source)
    said = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7], "input_size": [3, 96, 96], "crop_pct": 0.9}
    card = {"architecture": "tf_mobilenet", "pretrained_cfg": said, "label_names": list("abcde")}
    (tmp_path / "config.json").write_text(json.dumps(card))
    main([str(tmp_path), str(ours)])
    assert "model.padding" not in capsys.readouterr().out  # TensorFlow's is ours
    loaded = models.load(ours)
    assert (loaded.mean, loaded.std, loaded.class_names) == ((0.1, 0.2, 0.3), (0.5, 0.6, 0.7), tuple("abcde"))
    assert loaded.input_shape == (96, 96, 3)
    assert loaded.cfg.model.norm.eps == 1e-3
    assert loaded.cfg.data.eval_crop == 0.9
    main([str(ours), str(target), "--library", "timm_tf"])
    out = safetensors.numpy.load_file(target)
    assert {name for name in out if not name.endswith(pytorch.COUNTER)} == state_dict.keys()
    for name, array in state_dict.items():
        np.testing.assert_array_equal(out[name], array, strict=True)


def test_all_but_the_classifier_starts_a_run_of_other_classes(tiny, tmp_path):
    tiny.save(tmp_path / "w.safetensors")
    tensors, _ = weights.read(tmp_path / "w.safetensors")
    other = config.default()
    flat = {key: value for key, value in config.flatten(tiny.cfg).items() if key.startswith("model.")}
    config.override(other, flat | {"model.num_classes": 3})
    network = nnx.eval_shape(lambda: models.structure(other.model))
    wanted = weights.flatten(*weights.split(network)[1:])
    fitting = weights.fit("w", tensors, wanted, partly=True)
    assert set(wanted) - set(fitting) == {"classifier.kernel", "classifier.bias"}


def changed(state_dict, **tensors):
    merged = {**state_dict, **{name.replace("__", "."): array for name, array in tensors.items()}}
    return {name: array for name, array in merged.items() if array is not None}


BAD = {
    "missing": ({"bn1__bias": None}, r"the tensor bn1.bias is missing \(1 such, of \d+\)"),
    "missing kernel": ({"blocks__1__0__conv_dw__weight": None}, r"blocks.1.0.conv_dw.weight is missing"),
    "extra": ({"head__gate": np.zeros(3, np.float32)}, r"head.gate has no counterpart here \(1 such"),
    "misshapen": (
        {"bn1__weight": np.zeros(3, np.float32)},
        r"bn1.weight is float32\[3\]; allowed: float32 or float16 \[8\]",
    ),
    "no matrix": ({"classifier__weight": np.zeros(3, np.float32)}, r"classifier.weight is \[3\]; allowed"),
    "integers": ({"bn1__weight": np.zeros(8, np.int8)}, r"bn1.weight is int8\[8\]; allowed: float32 or float16"),
    "other": ({"conv_stem__weight": None}, "not the tensors of a MobileNet of timm or torchvision"),
}


@pytest.mark.parametrize("case", BAD)
def test_other_tensors_are_refused_by_name(state_dict, case):
    changes, message = BAD[case]
    with pytest.raises(UserError, match=message):
        pytorch.from_state_dict(changed(state_dict, **changes))


def test_files_that_would_be_executed_or_are_none_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"would be unpickled.*safetensors.torch.save_file"):
        pytorch.from_file("model.pth")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(safetensors.numpy.save({"conv_stem.weight": np.zeros(9)})[:40])
    with pytest.raises(UserError, match=r"cut\.safetensors is not a readable safetensors file"):
        pytorch.from_file(cut)
    (tmp_path / "config.json").write_text('{"pretrained_cfg": {"mean": "red"}}')
    cut.write_bytes(safetensors.numpy.save({"conv_stem.weight": np.zeros(9)}))
    with pytest.raises(UserError, match=r"config\.json is not timm's description"):
        pytorch.from_file(cut)


@pytest.mark.parametrize(
    ("fields", "library", "message"),
    [
        ({}, "timm", "model.padding='same' to timm; allowed: 'symmetric'"),
        ({"padding": "symmetric"}, "timm", "model.norm.eps=0.001 to timm; allowed: 1e-05"),
        ({"conv": "full"}, "timm_tf", "model.conv='full' to timm_tf; allowed: 'depthwise'"),
        ({"shortcut": "none"}, "timm_tf", "model.shortcut='none' to timm_tf"),
        ({}, "tensorflow", "library 'tensorflow'; allowed: timm, timm_tf, torchvision"),
    ],
)
def test_what_a_library_does_not_compute_is_not_written_for_it(fields, library, message):
    model = model_config("mobilenet_v2", **{**ROWS, "padding": "same", **fields})
    with pytest.raises(UserError, match=message):
        pytorch.to_state_dict(models.structure(model), model, library)
    model = model_config("mobilenet_v1", padding="symmetric")
    with pytest.raises(UserError, match=r"model\.name='mobilenet_v1' to torchvision; allowed: mobilenet_v2"):
        pytorch.to_state_dict(SimpleNamespace(), model, "torchvision")  # pyrefly: ignore


@pytest.mark.slow
@pytest.mark.parametrize("case", LIVING, ids="/".join)
def test_living_modules_give_the_same_logits(case):
    torch = pytest.importorskip("torch")
    library, name = case
    there = pytest.importorskip(library.removesuffix("_tf"))
    module = there.create_model(name) if library != "torchvision" else getattr(there.models, name)()
    torch.manual_seed(0)
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.5, 1.5)
            part.weight.data.uniform_(0.8, 1.2)
            part.bias.data.normal_(0, 0.1)
    module.eval()
    ours = pytorch.from_module(module)
    back = pytorch.to_state_dict(ours.network, ours.cfg.model, library)
    theirs = {key: tensor.numpy() for key, tensor in module.state_dict().items()}
    assert back.keys() == theirs.keys()
    for key, array in theirs.items():
        np.testing.assert_array_equal(back[key], array if not key.endswith(pytorch.COUNTER) else 0)
    images_BHWC = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32)
    with torch.no_grad():
        expected = module(torch.from_numpy(images_BHWC.transpose(0, 3, 1, 2).copy())).numpy()
    network: Any = ours.network
    np.testing.assert_allclose(network(images_BHWC)[0], expected, rtol=0, atol=2e-5 * np.abs(expected).max())
