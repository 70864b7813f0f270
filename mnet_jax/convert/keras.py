"""Keras applications, converted: `keras.applications.MobileNetV2(..)` -> the same network here, with its weights."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx

from mnet_jax import config, models
from mnet_jax.errors import UserError
from mnet_jax.models import specs
from mnet_jax.models.layers import Conv

Pairs = Iterator[tuple[Any, ...]]
"""Tuples (our layer, name of the Keras layer with its kernel, name of the Keras layer with its norm if it has one)."""


class Application(NamedTuple):
    """How one of `keras.applications` becomes one of our networks.

    `mark`    name of a layer that no other application has.
    `fields`  function from the Keras layers by name to the fields that differ from `config.default().model`.
    `pairs`   function from our network and the Keras layers by name to the pairs of layers with the same weights.
    """

    mark: str
    fields: Callable[[Mapping[str, Any]], dict[str, Any]]
    pairs: Callable[[Any, Mapping[str, Any]], Pairs]


def from_keras(model: Any) -> nnx.Module:
    """Converts a model of `keras.applications` with `include_top=True`; the network is in evaluation mode.

    The network takes the images that the Keras model takes after its preprocessing (MobileNetV3: after its `Rescaling`
    layer), and returns logits. A convolution's bias before a norm, which our layers do not have, is subtracted from
    the norm's mean.

    Args:
      model: MobileNet, MobileNetV2, MobileNetV3Large or MobileNetV3Small (also minimalistic), VGG16, InceptionV3,
        ResNet50 or NASNetMobile, of any width, input size and number of classes; recognized by its layers.

    Raises:
      UserError: another model, or layers of other sizes.
    """
    layers = {layer.name: layer for layer in model.layers if layer.weights}
    by_mark = {application.mark: application for application in APPLICATIONS}
    recognized = [by_mark[layer.name] for layer in model.layers if layer.name in by_mark]
    try:
        if len(recognized) != 1:
            raise UserError("its layers are those of no such model")
        application = recognized[0]
        fields = application.fields(layers)
        sizes = {"side": fields.pop("side")} if "side" in fields else {}
        cfg = config.default()
        epsilons = {layer.epsilon for layer in layers.values() if hasattr(layer, "epsilon")}
        config.override(cfg, {f"model.{key}": value for key, value in fields.items()})
        if epsilons:
            (cfg.model.norm.eps,) = epsilons
        network = models.structure(cfg.model, **sizes)
        used = set()
        for layer, kernels, *norm in application.pairs(network, layers):
            names = (kernels,) if isinstance(kernels, str) else kernels
            _copy(layer, [layers[name] for name in names], *(layers[name] for name in norm))
            used |= {*names, *norm}
        if used != layers.keys():
            raise UserError(f"the layer {min(layers.keys() - used)!r} has no counterpart")
    except (KeyError, ValueError) as error:
        reason = f"it has no layer {error}" if isinstance(error, KeyError) else error
        raise UserError(
            f"the Keras model {model.name!r} cannot be imported: {reason}; allowed: MobileNet, MobileNetV2, "
            "MobileNetV3Large, MobileNetV3Small, VGG16, InceptionV3, ResNet50, NASNetMobile with include_top=True"
        ) from None
    network.eval()
    return network


def _copy(layer: Any, sources: list[Any], norm: Any = None) -> None:
    """Fills one of our layers from `sources`, the Keras layers that each compute a part of its outputs, in order."""

    def fill(param: nnx.Variable, value: Any) -> None:
        value = np.asarray(value, np.float32)
        if value.size != param.size:
            raise UserError(f"{sources[0].name} has {value.shape}, the network {param.shape}")
        param.set_value(jnp.asarray(value.reshape(param.shape)))

    def kernel(source: Any) -> Any:
        if hasattr(source, "depthwise_kernel"):
            return source.depthwise_kernel if layer.kind == "depthwise" else source.pointwise_kernel
        return source.kernel

    fill(layer.kernel, np.concatenate([kernel(source) for source in sources], -1))
    biases = [np.asarray(source.bias) for source in sources if source.use_bias]
    bias = np.concatenate(biases) if biases else 0.0
    if norm is not None:
        fill(layer.bias, norm.beta)
        fill(layer.mean, np.asarray(norm.moving_mean) - bias)
        fill(layer.var, norm.moving_variance)
        if hasattr(layer, "scale"):
            fill(layer.scale, norm.gamma)
    elif biases:
        fill(layer.bias, bias)


def _ends(layers: Mapping[str, Any], first: str, last: str) -> dict[str, int]:
    return {"in_channels": layers[first].kernel.shape[-2], "num_classes": layers[last].kernel.shape[-1]}


def _outputs(layers: Mapping[str, Any], name: str) -> int:
    return layers[name].kernel.shape[-1]


def _numbered(layers: Mapping[str, Any], pattern: str) -> list[Any]:
    """The layers whose name matches, ordered by the number in it; a name without a number comes first."""
    matches = [(int(match[1] or 0), name) for name in layers if (match := re.fullmatch(pattern, name))]
    return [layers[name] for _, name in sorted(matches)]


def _v1_fields(layers: Mapping[str, Any]) -> dict[str, Any]:
    pairs = zip(_numbered(layers, r"conv_dw_(\d+)"), _numbered(layers, r"conv_pw_(\d+)"), strict=True)
    rows = tuple((pointwise.filters, 1, depthwise.strides[0]) for depthwise, pointwise in pairs)
    stem = (_outputs(layers, "conv1"), 2)
    return {"name": "mobilenet_v1", "stem": stem, "blocks": rows, **_ends(layers, "conv1", "conv_preds")}


def _v1_pairs(network: Any, layers: Mapping[str, Any]) -> Pairs:
    yield network.stem, "conv1", "conv1_bn"
    for number, block in enumerate(network.blocks, 1):
        yield block.depthwise, f"conv_dw_{number}", f"conv_dw_{number}_bn"
        yield block.pointwise, f"conv_pw_{number}", f"conv_pw_{number}_bn"
    yield network.classifier, "conv_preds"


def _prefixes(layers: Mapping[str, Any], prefix: str) -> list[str]:
    """The prefixes that the names of an inverted residual's layers share; the first has no number."""
    return ["expanded_conv_", *(f"{prefix}{n}_" for n in range(1, len(layers)) if f"{prefix}{n}_project" in layers)]


def _residual_pairs(block: Any, prefix: str, norm: str) -> Pairs:
    for part in ("expand", "depthwise", "project"):
        if hasattr(block, part):
            yield getattr(block, part), prefix + part, prefix + part + norm


def _v2_fields(layers: Mapping[str, Any]) -> dict[str, Any]:
    rows, inputs = [], _outputs(layers, "Conv1")
    stem = (inputs, 2)
    for prefix in _prefixes(layers, "block_"):
        depthwise, project = layers[prefix + "depthwise"], layers[prefix + "project"]
        rows.append((depthwise.kernel.shape[2] // inputs, project.filters, 1, depthwise.strides[0]))
        inputs = project.filters
    fields = {"name": "mobilenet_v2", "stem": stem, "blocks": tuple(rows), "last": _outputs(layers, "Conv_1")}
    return fields | _ends(layers, "Conv1", "predictions")


def _v2_pairs(network: Any, layers: Mapping[str, Any]) -> Pairs:
    yield network.stem, "Conv1", "bn_Conv1"
    for block, prefix in zip(network.blocks, _prefixes(layers, "block_"), strict=True):
        yield from _residual_pairs(block, prefix, "_BN")
    yield network.head, "Conv_1", "Conv_1_bn"
    yield network.classifier, "predictions"


def _v3_fields(layers: Mapping[str, Any]) -> dict[str, Any]:
    prefixes = _prefixes(layers, "expanded_conv_")
    name = "mobilenet_v3_large" if len(prefixes) == 15 else "mobilenet_v3_small"
    if not any("squeeze_excite" in layer for layer in layers):
        name += "_minimalistic"
    rows = []
    for prefix, (_, _, _, _, act, _) in zip(prefixes, specs.NETWORKS[name].blocks, strict=True):
        depthwise, squeeze = layers[prefix + "depthwise"], prefix + "squeeze_excite_conv" in layers
        size, _, expanded, _ = depthwise.kernel.shape
        rows.append((size, expanded, layers[prefix + "project"].filters, squeeze, act, depthwise.strides[0]))
    stem, last = (_outputs(layers, "conv"), 2), _outputs(layers, "conv_2")
    return {"name": name, "stem": stem, "blocks": tuple(rows), "last": last, **_ends(layers, "conv", "logits")}


def _v3_pairs(network: Any, layers: Mapping[str, Any]) -> Pairs:
    yield network.stem, "conv", "conv_bn"
    for block, prefix in zip(network.blocks, _prefixes(layers, "expanded_conv_"), strict=True):
        yield from _residual_pairs(block, prefix, "_bn")
        if hasattr(block, "excite"):
            yield block.excite.squeeze, prefix + "squeeze_excite_conv"
            yield block.excite.excite, prefix + "squeeze_excite_conv_1"
    yield network.head, "conv_1", "conv_1_bn"
    yield network.features, "conv_2"
    yield network.classifier, "logits"


def _vgg16_fields(layers: Mapping[str, Any]) -> dict[str, Any]:
    side = round((layers["fc1"].kernel.shape[0] / 512) ** 0.5)
    return {"name": "vgg16", "side": side, **_ends(layers, "block1_conv1", "predictions")}


def _vgg16_pairs(network: Any, layers: Mapping[str, Any]) -> Pairs:
    for number, stage in enumerate(network.stages, 1):
        for index, conv in enumerate(stage, 1):
            yield conv, f"block{number}_conv{index}"
    yield network.fc1, "fc1"
    yield network.fc2, "fc2"
    yield network.classifier, "predictions"


def _resnet50_fields(layers: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": "resnet50", **_ends(layers, "conv1_conv", "predictions")}


def _resnet50_pairs(network: Any, layers: Mapping[str, Any]) -> Pairs:
    yield network.conv1, "conv1_conv", "conv1_bn"
    for number, stage in enumerate(network.stages, 2):
        for index, block in enumerate(stage, 1):
            for part, name in enumerate(("shortcut", "reduce", "conv", "expand")):
                if hasattr(block, name):
                    prefix = f"conv{number}_block{index}_{part}"
                    yield getattr(block, name), f"{prefix}_conv", f"{prefix}_bn"
    yield network.classifier, "predictions"


def _inception_v3_fields(layers: Mapping[str, Any]) -> dict[str, Any]:
    first = _numbered(layers, r"conv2d(?:_(\d+))?")[0].name
    return {"name": "inception_v3", **_ends(layers, first, "predictions")}


def _inception_v3_pairs(network: Any, layers: Mapping[str, Any]) -> Pairs:
    """Keras numbers these layers in the order of their construction, which is also that of our layers."""
    convs = _numbered(layers, r"conv2d(?:_(\d+))?")
    norms = _numbered(layers, r"batch_normalization(?:_(\d+))?")
    for layer, conv, norm in zip(_in_order(network), convs, norms, strict=True):
        yield layer, conv.name, norm.name
    yield network.classifier, "predictions"


def _in_order(node: Any) -> Iterator[Conv]:
    """The convolutions of a module in the order of their construction."""
    if isinstance(node, Conv):
        yield node
    elif isinstance(node, nnx.List):
        for item in node:
            yield from _in_order(item)
    elif isinstance(node, nnx.Module):
        for item in vars(node).values():
            yield from _in_order(item)


def _nasnet_fields(layers: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": "nasnet_a_mobile", **_ends(layers, "stem_conv1", "predictions")}


def _nasnet_pairs(network: Any, layers: Mapping[str, Any]) -> Pairs:
    yield network.stem, "stem_conv1", "stem_bn1"
    normal = [[str(first + index) for index in range(4)] for first in (0, 5, 9)]
    names = ["stem_1", "stem_2", *normal[0], "reduce_4", *normal[1], "reduce_8", *normal[2]]
    for cell, name in zip(network.cells, names, strict=True):
        kind = "normal" if name.isdigit() else "reduction"
        if hasattr(cell, "adjust"):
            halves = (f"adjust_conv_1_{name}", f"adjust_conv_2_{name}")
            convs = halves if halves[0] in layers else f"adjust_conv_projection_{name}"
            yield cell.adjust.conv, convs, f"adjust_bn_{name}"
        yield cell.project.conv, f"{kind}_conv_1_{name}", f"{kind}_bn_1_{name}"
        for branch in ("left1", "right1", "left2", "right2", "right3", "left5"):
            if hasattr(cell, branch):
                place = "left4" if (kind, branch) == ("reduction", "left5") else branch  # Keras has this name twice
                twice = getattr(cell, branch)
                for number, separable in enumerate((twice.first, twice.second), 1):
                    conv, end = f"separable_conv_{number}", f"{kind}_{place}_{name}"
                    yield separable.depthwise, f"{conv}_{end}"
                    yield separable.pointwise, f"{conv}_{end}", f"{conv}_bn_{end}"
    yield network.classifier, "predictions"


APPLICATIONS = (
    Application("conv_dw_1", _v1_fields, _v1_pairs),
    Application("block_1_expand", _v2_fields, _v2_pairs),
    Application("expanded_conv_1_expand", _v3_fields, _v3_pairs),
    Application("block5_conv3", _vgg16_fields, _vgg16_pairs),
    Application("conv4_block6_1_conv", _resnet50_fields, _resnet50_pairs),
    Application("mixed10", _inception_v3_fields, _inception_v3_pairs),
    Application("normal_conv_1_0", _nasnet_fields, _nasnet_pairs),
)
