"""Weights of timm and torchvision, read and written: a state dict {name: array} there is the same network here.

Each library is described once, by the names that it gives to the layers of a network of ours; reading and writing
follow that one description.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx

import mnet_jax
from mnet_jax import config, models
from mnet_jax.errors import UserError
from mnet_jax.models import specs, weights
from mnet_jax.models.layers import Conv, Dense
from mnet_jax.results import write_atomic

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the channels of ImageNet's training images in [0, 1], as PyTorch's examples have them."""

HALF = (0.5, 0.5, 0.5)

Tensors = Mapping[str, np.ndarray]


class Pair(NamedTuple):
    """One of our layers, and the names of the layers there that hold its kernel, with its bias, and its norm.

    A dense layer of ours may be a 1x1 `convolution` there.
    """

    layer: Any
    kernel: str
    norm: str = ""
    convolution: bool = False


class Library(NamedTuple):
    """How a library names the layers of its networks, and what its files do not say of them.

    `networks`  a tensor's name -> our network that has it; the first name that a state dict has decides.
    `pairs`     function from our network and its `cfg.model` to the pairs of layers with the same weights.
    `padding`   "same" or "symmetric".
    `eps`       of the norms, by our family of networks.
    `mean`, `std`  by which images in [0, 1] are normalized where nothing else is said.
    """

    networks: Mapping[str, str]
    pairs: Callable[[Any, Any], Iterator[Pair]]
    padding: str
    eps: Mapping[str, float]
    mean: tuple[float, ...]
    std: tuple[float, ...]


class Imported(NamedTuple):
    """A network in evaluation mode with what `mnet_jax.models.weights.Header` says of a file."""

    network: nnx.Module
    cfg: Any
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...]
    input_shape: tuple[int, int, int]

    def save(self, path: Path) -> None:
        """Writes a weights file, which `mnet_jax.models.load`, `train.init_from` and `train.teacher` take."""
        _, params, batch_stats = weights.split(self.network)
        kept = config.EXECUTION | config.PLANNING
        flat = {name: value for name, value in config.flatten(self.cfg).items() if name not in kept}
        header = {
            "version": mnet_jax.__version__,
            "config": flat,
            "task": self.cfg.task,
            "mean": self.mean,
            "std": self.std,
            "class_names": self.class_names,
            "input_shape": self.input_shape,
        }
        weights.save(path, params, batch_stats, header)


def from_module(module: Any) -> Imported:
    """Converts a living model of timm or torchvision: its norms and convolutions say what a file does not.

    Raises:
      UserError: as `from_state_dict`.
    """
    tensors = {name: tensor.detach().cpu().numpy() for name, tensor in module.state_dict().items()}
    kinds = {type(part).__name__ for part in module.modules()}
    library = "timm_tf" if "Conv2dSame" in kinds else recognize(tensors)
    said = dict(getattr(module, "pretrained_cfg", {}))
    eps = {part.eps for part in module.modules() if hasattr(part, "running_mean")}
    return from_state_dict(tensors, library, said, eps.pop() if len(eps) == 1 else None)


def from_file(path: str | Path, library: str = "") -> Imported:
    """Converts a safetensors file of timm or torchvision.

    timm's `config.json` in the same folder, where there is one, says the rest: preprocessing, class names, and whether
    the weights come from TensorFlow.

    Args:
      path: the file, or its folder with `model.safetensors`.
      library: a key of `LIBRARIES`; "" = by the names of the tensors and `config.json`.

    Raises:
      UserError: a file of PyTorch's own format, or as `from_state_dict`.
    """
    import safetensors
    import safetensors.numpy

    path = Path(path)
    path = path / "model.safetensors" if path.is_dir() else path
    if path.suffix in (".pth", ".pt", ".bin", ".ckpt", ".tar"):
        raise UserError(
            f"{path} would be unpickled, which runs what is in it; allowed: a safetensors file, as "
            "`safetensors.torch.save_file(model.state_dict(), FILE)` writes it"
        )
    try:
        tensors = safetensors.numpy.load_file(path)
    except (OSError, ValueError, TypeError, KeyError, safetensors.SafetensorError) as error:
        raise UserError(f"{path} is not a readable safetensors file: {error}") from None
    said = _card(path.parent / "config.json")
    if not library and said.get("architecture", "").startswith("tf_"):
        library = "timm_tf"
    try:
        return from_state_dict(tensors, library, said)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def from_state_dict(
    tensors: Tensors, library: str = "", said: Mapping[str, Any] | None = None, eps: float | None = None
) -> Imported:
    """Converts a state dict of a MobileNet of timm or torchvision.

    Args:
      tensors: {name: array}; "num_batches_tracked" of a norm is left out.
      library: a key of `LIBRARIES`; "" = "timm" or "torchvision", by the names.
      said: what timm's `pretrained_cfg` says: "mean", "std", "input_size", "crop_pct", "label_names".
      eps: of the norms, in place of the library's.

    Raises:
      UserError: another network, or tensors that are missing, left over, or of other shapes or types.
    """
    library = library or recognize(tensors)
    if library not in LIBRARIES:
        raise UserError(f"library {library!r}; allowed: {', '.join(LIBRARIES)}")
    source = LIBRARIES[library]
    wanted = {name: array for name, array in tensors.items() if not name.endswith(COUNTER)}
    name = next((ours for mark, ours in source.networks.items() if mark in wanted), "")
    if not name:
        raise UserError(f"these are not the tensors of a MobileNet of {library}: none is {next(iter(source.networks))}")
    cfg = config.at_scale("imagenet")
    config.override(cfg, {"scale": "", "model.name": name, **_fields(name, source, wanted)}, "convert")
    cfg.model.norm.eps = source.eps[specs.NETWORKS[cfg.model.name].family] if eps is None else eps
    cfg.model.padding = source.padding
    network = models.structure(cfg.model)
    network.eval()
    _fill(places(network, cfg.model, library), wanted)
    said, classes = said or {}, cfg.model.num_classes
    side = said.get("input_size", (0, 224, 0))[1]
    config.override(cfg, {"data.size": side, "data.eval_crop": said.get("crop_pct", 0.875)}, "convert")
    names = tuple(said.get("label_names") or map(str, range(classes)))
    if len(names) != classes:
        raise UserError(f"there are {len(names)} names for {classes} classes; allowed: as many")
    mean, std = (tuple(said.get(key) or default) for key, default in (("mean", source.mean), ("std", source.std)))
    return Imported(network, cfg, mean, std, names, (side, side, cfg.model.in_channels))


def to_state_dict(network: nnx.Module, model: Any, library: str) -> dict[str, np.ndarray]:
    """The state dict that the same network has in a library: float32, and a zero for each "num_batches_tracked".

    Args:
      network: ours, with the weights.
      model: its `cfg.model`.
      library: a key of `LIBRARIES`.

    Raises:
      UserError: the library has no such network, pads otherwise or has another epsilon in its norms.
    """
    if library not in LIBRARIES:
        raise UserError(f"library {library!r}; allowed: {', '.join(LIBRARIES)}")
    _check(model, library)
    tensors = {
        name: np.ascontiguousarray(place.write(np.asarray(place.variable[...], np.float32)))
        for name, place in places(network, model, library).items()
    }
    counters = [name.removesuffix(MEAN) + COUNTER for name in tensors if name.endswith(MEAN)]
    return tensors | dict.fromkeys(counters, np.zeros((), np.int64))


def write(path: Path, tensors: Tensors) -> None:
    """Writes a state dict as the safetensors file that PyTorch's libraries read."""
    import safetensors.numpy

    write_atomic(path, safetensors.numpy.save(dict(tensors), {"format": "pt"}))


def recognize(tensors: Tensors) -> str:
    """The library whose names these are; UserError where they are of none."""
    for library, mark in (("timm", "conv_stem.weight"), ("torchvision", "features.0.0.weight")):
        if mark in tensors:
            return library
    raise UserError(
        "these are not the tensors of a MobileNet of timm or torchvision: none is named conv_stem.weight or "
        "features.0.0.weight"
    )


COUNTER, MEAN = ".num_batches_tracked", ".running_mean"


class Place(NamedTuple):
    """One weight of ours, its shape in the other library, and both ways of copying."""

    variable: nnx.Variable
    shape: tuple[int, ...]
    read: Callable[[np.ndarray], np.ndarray]
    write: Callable[[np.ndarray], np.ndarray]


def places(network: Any, model: Any, library: str) -> dict[str, Place]:
    """Where every weight of our network lies in a library: {name there: place}."""
    return {
        name: place
        for pair in LIBRARIES[library].pairs(network, model)
        for name, place in [*_kernel(pair), *_rest(pair)]
    }


def _kernel(pair: Pair) -> Iterator[tuple[str, Place]]:
    """The kernel: O x I/G x R x S there, where ours is R x S x I/G x O, I x O or K x K x C; of dense layers O x I."""
    layer, variable = pair.layer, pair.layer.kernel
    if isinstance(layer, Conv) and layer.kind == "depthwise":
        ours = (*variable.shape[:2], 1, variable.shape[2])
    else:
        ours = (1,) * (4 - len(variable.shape)) + tuple(variable.shape)
    order = (3, 2, 0, 1)
    if isinstance(layer, Dense) and not pair.convolution:
        ours, order = variable.shape, (1, 0)
    back = tuple(np.argsort(order).tolist())
    yield (
        f"{pair.kernel}.weight",
        Place(
            variable,
            tuple(ours[axis] for axis in order),
            lambda array: array.transpose(back).reshape(variable.shape),
            lambda array: array.reshape(ours).transpose(order),
        ),
    )


def _rest(pair: Pair) -> Iterator[tuple[str, Place]]:
    """The weights that are one number a channel: a norm's four, or a bias."""
    names = {"bias": "bias"}
    if pair.norm:
        names = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
    for ours, theirs in names.items():
        variable = getattr(pair.layer, ours)
        yield f"{pair.norm or pair.kernel}.{theirs}", Place(variable, variable.shape, np.asarray, np.asarray)


def _fill(wanted: Mapping[str, Place], tensors: Tensors) -> None:
    """Copies a state dict into our network; UserError where a tensor is missing, left over, misshapen or no float."""
    if rest := sorted(set(wanted) ^ set(tensors)):
        what = "is missing" if rest[0] in wanted else "has no counterpart here"
        raise UserError(f"the tensor {rest[0]} {what} ({len(rest)} such, of {len(wanted)})")
    for name, place in wanted.items():
        array = tensors[name]
        if array.shape != place.shape or array.dtype not in (np.float32, np.float16):
            raise UserError(
                f"the tensor {name} is {array.dtype}{list(array.shape)}; "
                f"allowed: float32 or float16 {list(place.shape)}"
            )
        place.variable.set_value(jnp.asarray(np.ascontiguousarray(place.read(array.astype(np.float32)))))


def _fields(name: str, source: Library, tensors: Tensors) -> dict[str, Any]:
    """The fields of `cfg.model` besides the name, from the shapes of a state dict.

    The shapes tell every width; strides and activations are those of the network's rows.
    """
    spec = specs.NETWORKS[name]
    if spec.family == "v3" and not any(".se." in tensor or ".fc1." in tensor for tensor in tensors):
        name += "_minimalistic"
    model = config.default().model
    model.name = name
    depths = stages(model)
    if spec.family == "v2" and source is not LIBRARIES["torchvision"]:  # timm also has deeper ones
        depths = [_count(tensors, f"blocks.{number}.") for number in range(len(depths))]
        rows = [(t, c, depth, s) for (t, c, _, s), depth in zip(spec.blocks, depths, strict=True)]
        model.blocks = tuple(row for row in rows if row[2])
    network = nnx.eval_shape(lambda: models.structure(model))
    outputs, inputs = {}, {}
    for pair in source.pairs(network, model):
        shape = _tensor(tensors, f"{pair.kernel}.weight").shape
        if len(shape) != (2 if isinstance(pair.layer, Dense) and not pair.convolution else 4) or min(shape) < 1:
            raise UserError(f"the tensor {pair.kernel}.weight is {list(shape)}; allowed: that of a layer")
        outputs[id(pair.layer)], inputs[id(pair.layer)] = shape[0], shape[1]

    net: Any = network
    rows, before = [], outputs[id(net.stem)]
    for block, row in zip(net.blocks, specs.network(model).blocks, strict=True):
        widest, last = (getattr(block, part, None) for part in _WIDEST_AND_LAST[spec.family])
        channels = outputs[id(last or block.conv)]
        expanded = outputs[id(widest)] if widest else before
        expansion = expanded / before
        t = int(expansion) if expansion.is_integer() else expansion
        rows.append(
            {
                "v1": (channels, 1, row.stride),
                "v2": (t, channels, 1, row.stride),
                "v3": (row.kernel_size, expanded, channels, row.squeezed > 0, row.act, row.stride),
                "v4": (row.kind, row.start_size, row.kernel_size, t, channels, row.stride),
            }[spec.family]
        )
        before = channels
    fields = {
        "model.name": name,
        "model.stem": (outputs[id(net.stem)], net.stem.stride),
        "model.blocks": _merged(rows, depths) if spec.family in ("v1", "v2") else tuple(rows),
        "model.in_channels": inputs[id(net.stem)],
        "model.num_classes": outputs[id(net.classifier)],
    }
    last = getattr(net, "features", getattr(net, "head", None))
    return fields if last is None else {**fields, "model.last": outputs[id(last)]}


_WIDEST_AND_LAST = {
    "v1": ("depthwise", "pointwise"),
    "v2": ("depthwise", "project"),
    "v3": ("depthwise", "project"),
    "v4": ("expand", "project"),
}
"""Family -> the layers of a block that have its expanded and its output channels."""


def _merged(rows: Sequence[tuple[Any, ...]], depths: Sequence[int]) -> tuple[tuple[Any, ...], ...]:
    """Rows of single blocks of V1 and V2 as one row a stage, so that the names' stages can be told from them."""
    merged, start = [], 0
    for depth in depths:
        if depth:
            *most, _, stride = rows[start]
            merged.append((*most, depth, stride))
        start += depth
    return tuple(merged)


def _tensor(tensors: Tensors, name: str) -> np.ndarray:
    if name not in tensors:
        raise UserError(f"the tensor {name} is missing")
    return tensors[name]


def _count(tensors: Tensors, prefix: str) -> int:
    """How many numbers follow the prefix in the names."""
    return len({name[len(prefix) :].split(".")[0] for name in tensors if name.startswith(prefix)})


def stages(model: Any) -> list[int]:
    """How many blocks each stage of `cfg.model` has, as timm numbers them.

    A stage is a row of V1 and V2. Of V3 and V4 it begins where the stride of the published row is 2; in V3 also where
    its channels are others than before, in V4 where convolutions follow on blocks.
    """
    spec = specs.NETWORKS[model.name]
    if spec.family in ("v1", "v2"):
        return [row[-2] for row in (model.blocks or spec.blocks)]
    depths, before = [], None
    for row in spec.blocks:
        kind, stride = row[2 if spec.family == "v3" else 0], row[-1]
        if stride > 1 or (kind != before and (spec.family == "v3" or kind == "conv")):
            depths.append(0)
        depths[-1] += 1
        before = kind
    return depths


def _check(model: Any, library: str) -> None:
    """Raises UserError where a network computes what the library's does not."""
    source, default = LIBRARIES[library], config.default().model
    allowed = [name for name in source.networks.values() if name in specs.NETWORKS]
    allowed += [f"{name}_minimalistic" for name in allowed if f"{name}_minimalistic" in specs.NETWORKS]
    if model.name not in allowed:
        raise UserError(f"model.name={model.name!r} to {library}; allowed: {', '.join(sorted(set(allowed)))}")
    computed = {"padding": source.padding, **{name: getattr(default, name) for name in AS_PUBLISHED}}
    for field, value in computed.items():
        if getattr(model, field) != value:
            raise UserError(f"model.{field}={getattr(model, field)!r} to {library}; allowed: {value!r}, as it computes")
    eps = source.eps[specs.NETWORKS[model.name].family]
    if not math.isclose(model.norm.eps, eps):
        raise UserError(f"model.norm.eps={model.norm.eps:g} to {library}; allowed: {eps:g}, as it computes")


AS_PUBLISHED = (
    *("kernel_size", "conv", "output_stride", "depth", "expansion", "project_act", "shortcut", "act", "act_bits"),
    "block",
)
"""Fields of `cfg.model` that change what a network computes, and that the other libraries' networks do not have."""


def _card(path: Path) -> dict[str, Any]:
    """What timm's `config.json` says, its "pretrained_cfg" and what stands beside that; {} where there is no file."""
    if not path.exists():
        return {}
    try:
        card = json.loads(path.read_text())
        said = {**card.get("pretrained_cfg", {}), "architecture": card.get("architecture", "")}
        numbers = [*said.get("mean", ()), *said.get("std", ()), said.get("crop_pct", 1), *said.get("input_size", ())]
        sizes_fit = len(said.get("input_size", (3, 1, 1))) == 3 and len(said.get("mean", HALF)) == 3
        if not (all(isinstance(number, int | float) for number in numbers) and sizes_fit):
            raise ValueError("mean, std, crop_pct or input_size are not the numbers that timm writes")
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not timm's description of a network: {error}") from None
    if names := said.get("label_names") or card.get("label_names"):
        said["label_names"] = names
    return said


def _timm_pairs(network: Any, model: Any) -> Iterator[Pair]:
    family = specs.NETWORKS[model.name].family
    yield Pair(network.stem, "conv_stem", "bn1")
    places = [(stage, index) for stage, depth in enumerate(stages(model)) for index in range(depth)]
    if len(places) != len(network.blocks):
        raise UserError(f"a network of {len(network.blocks)} blocks; allowed: {len(places)}, as {model.name} has")
    for block, (stage, index) in zip(network.blocks, places, strict=True):
        prefix = f"blocks.{stage}.{index}."
        names = {"depthwise": "conv_dw", "pointwise": "conv_pw", "project": "conv_pw"}
        if family == "v4":
            yield from _v4_pairs(block, prefix)
            continue
        if hasattr(block, "expand"):
            names = {"expand": "conv_pw", "depthwise": "conv_dw", "project": "conv_pwl"}
        present = [(part, name) for part, name in names.items() if hasattr(block, part)]
        for number, (part, name) in enumerate(present, 1):
            yield Pair(getattr(block, part), prefix + name, f"{prefix}bn{number}")
        if hasattr(block, "excite"):
            yield Pair(block.excite.squeeze, f"{prefix}se.conv_reduce", convolution=True)
            yield Pair(block.excite.excite, f"{prefix}se.conv_expand", convolution=True)
    if family == "v2":
        yield Pair(network.head, "conv_head", "bn2")
    if family == "v3":
        last = f"blocks.{len(stages(model))}.0."
        yield Pair(network.head, f"{last}conv", f"{last}bn1")
        yield Pair(network.features, "conv_head", convolution=True)
    if family == "v4":
        yield Pair(network.features, "conv_head", "norm_head")
    yield Pair(network.classifier, "classifier")


def _v4_pairs(block: Any, prefix: str) -> Iterator[Pair]:
    if hasattr(block, "conv"):
        yield Pair(block.conv, f"{prefix}conv", f"{prefix}bn1")
    elif block.expand.kind == "dense":
        yield Pair(block.expand, f"{prefix}conv_exp", f"{prefix}bn1")
        yield Pair(block.project, f"{prefix}conv_pwl", f"{prefix}bn2")
    else:
        names = {"start": "dw_start", "expand": "pw_exp", "depthwise": "dw_mid", "project": "pw_proj"}
        for part, name in names.items():
            if hasattr(block, part):
                yield Pair(getattr(block, part), f"{prefix}{name}.conv", f"{prefix}{name}.bn")


def _torchvision_pairs(network: Any, model: Any) -> Iterator[Pair]:
    v3 = specs.NETWORKS[model.name].family == "v3"
    yield Pair(network.stem, "features.0.0", "features.0.1")
    for number, block in enumerate(network.blocks, 1):
        prefix, index = f"features.{number}.{'block' if v3 else 'conv'}", 0
        for part in ("expand", "depthwise"):
            if hasattr(block, part):
                yield Pair(getattr(block, part), f"{prefix}.{index}.0", f"{prefix}.{index}.1")
                index += 1
        if hasattr(block, "excite"):
            yield Pair(block.excite.squeeze, f"{prefix}.{index}.fc1", convolution=True)
            yield Pair(block.excite.excite, f"{prefix}.{index}.fc2", convolution=True)
            index += 1
        names = (f"{prefix}.{index}.0", f"{prefix}.{index}.1") if v3 else (f"{prefix}.{index}", f"{prefix}.{index + 1}")
        yield Pair(block.project, *names)
    head = f"features.{len(network.blocks) + 1}"
    yield Pair(network.head, f"{head}.0", f"{head}.1")
    if v3:
        yield Pair(network.features, "classifier.0")
    yield Pair(network.classifier, "classifier.3" if v3 else "classifier.1")


_TIMM_NETWORKS = {
    "blocks.2.10.pw_proj.conv.weight": "mobilenet_v4_conv_large",
    "blocks.1.0.pw_proj.conv.weight": "mobilenet_v4_conv_medium",
    "norm_head.weight": "mobilenet_v4_conv_small",
    "blocks.6.0.conv.weight": "mobilenet_v3_large",
    "blocks.5.0.conv.weight": "mobilenet_v3_small",
    "bn2.weight": "mobilenet_v2",
    "conv_stem.weight": "mobilenet_v1",
}

_FAMILIES = ("v1", "v2", "v3", "v4")

LIBRARIES: Mapping[str, Library] = {
    "timm": Library(
        _TIMM_NETWORKS,
        _timm_pairs,
        "symmetric",
        dict.fromkeys(_FAMILIES, 1e-5),
        IMAGENET_MEAN,
        IMAGENET_STD,
    ),
    # The networks of timm whose weights come from TensorFlow: their names there begin with "tf_".
    "timm_tf": Library(_TIMM_NETWORKS, _timm_pairs, "same", dict.fromkeys(_FAMILIES, 1e-3), HALF, HALF),
    "torchvision": Library(
        {
            "features.16.0.weight": "mobilenet_v3_large",
            "features.12.0.weight": "mobilenet_v3_small",
            "features.1.conv.0.0.weight": "mobilenet_v2",
        },
        _torchvision_pairs,
        "symmetric",
        {"v2": 1e-5, "v3": 1e-3},
        IMAGENET_MEAN,
        IMAGENET_STD,
    ),
}
"""Where weights come from and go to, by the word of the command line."""
