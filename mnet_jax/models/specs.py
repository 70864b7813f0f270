"""The networks as frozen rows, and what a `cfg.model` makes of them.

Model, cost, report and tests all read these rows: there is no second description of a network.
"""

import itertools
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from mnet_jax.errors import UserError

ACTIVATIONS: Mapping[str, tuple[float, float]] = {
    "linear": (-float("inf"), float("inf")),
    "relu": (0.0, float("inf")),
    "relu6": (0.0, 6.0),
}
"""name -> (low, high) of the activations that are clips: arms that differ in their bounds share a compiled program."""

ACTIVATION_NAMES = (*ACTIVATIONS, "hard_swish", "silu", "gelu")
"""All activations: the clips, and those that `models.layers` has as functions."""


class Spec(NamedTuple):
    """A named network at width 1.

    `family`   "v1" (depthwise separable blocks), "v2" (inverted residuals), "v3" (with squeeze-and-excite) or "v4"
               (universal inverted bottlenecks).
    `stem`     (channels, stride) of the first 3x3 convolution.
    `blocks`   rows (t, c, n, s) for V2, (c, n, s) for V1: expansion (below 1 it reduces, as a classic bottleneck
               does), output channels, repeats, stride of the first; for V3 one row a block: kernel size, expanded
               channels, output channels, squeeze-and-excite, activation, stride; for V4 too: kind (of `V4_KINDS`),
               kernel size of the depthwise convolution before the expansion and of the one behind it (0: none; of the
               other kinds the second is the dense convolution's), t, c, s.
    `last`     channels of the last 1x1 convolution (V3 and V4: of the one behind the pooling), 0 for none.
    `divisor`  channels are rounded to multiples of this.
    `act`      activation of V3's stem and head, and of all of V4.
    """

    family: str
    stem: tuple[int, int]
    blocks: tuple[tuple[Any, ...], ...]
    last: int
    divisor: int
    act: str = ""


def _minimalistic(spec: Spec) -> Spec:
    """The released code's V3 without 5x5 kernels, squeeze-and-excite and hard-swish."""
    return spec._replace(blocks=tuple((3, e, c, False, "relu", s) for _, e, c, _, _, s in spec.blocks), act="relu")


_V3_LARGE = Spec(  # Howard et al. 2019, Table 1.
    "v3",
    (16, 2),
    (
        (3, 16, 16, False, "relu", 1),
        (3, 64, 24, False, "relu", 2),
        (3, 72, 24, False, "relu", 1),
        (5, 72, 40, True, "relu", 2),
        (5, 120, 40, True, "relu", 1),
        (5, 120, 40, True, "relu", 1),
        (3, 240, 80, False, "hard_swish", 2),
        (3, 200, 80, False, "hard_swish", 1),
        (3, 184, 80, False, "hard_swish", 1),
        (3, 184, 80, False, "hard_swish", 1),
        (3, 480, 112, True, "hard_swish", 1),
        (3, 672, 112, True, "hard_swish", 1),
        (5, 672, 160, True, "hard_swish", 2),
        (5, 960, 160, True, "hard_swish", 1),
        (5, 960, 160, True, "hard_swish", 1),
    ),
    1280,
    8,
    "hard_swish",
)

_V3_SMALL = Spec(  # Table 2; its last layer of 1280 channels has 1024 in the released code and checkpoints.
    "v3",
    (16, 2),
    (
        (3, 16, 16, True, "relu", 2),
        (3, 72, 24, False, "relu", 2),
        (3, 88, 24, False, "relu", 1),
        (5, 96, 40, True, "hard_swish", 2),
        (5, 240, 40, True, "hard_swish", 1),
        (5, 240, 40, True, "hard_swish", 1),
        (5, 120, 48, True, "hard_swish", 1),
        (5, 144, 48, True, "hard_swish", 1),
        (5, 288, 96, True, "hard_swish", 2),
        (5, 576, 96, True, "hard_swish", 1),
        (5, 576, 96, True, "hard_swish", 1),
    ),
    1024,
    8,
    "hard_swish",
)


V4_KINDS = ("uib", "fused", "conv")
"""Universal inverted bottleneck; the same with one dense convolution as its expansion; one dense convolution."""


def _uib(start: int, middle: int, t: float, c: int, s: int = 1) -> tuple[str, int, int, float, int, int]:
    return "uib", start, middle, t, c, s


# Qin et al. 2024 (arXiv 2404.10518), as in the released code; the last row is what stands before the pooling.
_V4_SMALL = Spec(
    "v4",
    (32, 2),
    (
        ("conv", 0, 3, 1, 32, 2),
        ("conv", 0, 1, 1, 32, 1),
        ("conv", 0, 3, 1, 96, 2),
        ("conv", 0, 1, 1, 64, 1),
        _uib(5, 5, 3, 96, 2),
        *([_uib(0, 3, 2, 96)] * 4),
        _uib(3, 0, 4, 96),
        _uib(3, 3, 6, 128, 2),
        _uib(5, 5, 4, 128),
        _uib(0, 5, 4, 128),
        _uib(0, 5, 3, 128),
        *([_uib(0, 3, 4, 128)] * 2),
        ("conv", 0, 1, 1, 960, 1),
    ),
    1280,
    8,
    "relu",
)
_V4_MEDIUM = _V4_SMALL._replace(
    blocks=(
        ("fused", 0, 3, 4, 48, 2),
        _uib(3, 5, 4, 80, 2),
        _uib(3, 3, 2, 80),
        _uib(3, 5, 6, 160, 2),
        *([_uib(3, 3, 4, 160)] * 2),
        _uib(3, 5, 4, 160),
        _uib(3, 3, 4, 160),
        _uib(3, 0, 4, 160),
        _uib(0, 0, 2, 160),
        _uib(3, 0, 4, 160),
        _uib(5, 5, 6, 256, 2),
        _uib(5, 5, 4, 256),
        *([_uib(3, 5, 4, 256)] * 2),
        _uib(0, 0, 4, 256),
        _uib(3, 0, 4, 256),
        _uib(3, 5, 2, 256),
        _uib(5, 5, 4, 256),
        *([_uib(0, 0, 4, 256)] * 2),
        _uib(5, 0, 2, 256),
        ("conv", 0, 1, 1, 960, 1),
    )
)
_V4_LARGE = _V4_SMALL._replace(
    stem=(24, 2),
    blocks=(
        ("fused", 0, 3, 4, 48, 2),
        _uib(3, 5, 4, 96, 2),
        _uib(3, 3, 4, 96),
        _uib(3, 5, 4, 192, 2),
        *([_uib(3, 3, 4, 192)] * 3),
        _uib(3, 5, 4, 192),
        *([_uib(5, 3, 4, 192)] * 5),
        _uib(3, 0, 4, 192),
        _uib(5, 5, 4, 512, 2),
        *([_uib(5, 5, 4, 512)] * 3),
        _uib(5, 0, 4, 512),
        _uib(5, 3, 4, 512),
        *([_uib(5, 0, 4, 512)] * 2),
        _uib(5, 3, 4, 512),
        _uib(5, 5, 4, 512),
        *([_uib(5, 0, 4, 512)] * 3),
        ("conv", 0, 1, 1, 960, 1),
    ),
)


NETWORKS: Mapping[str, Spec] = {
    # Howard et al. 2017, Table 1 (which prints stride 2 for the last depthwise convolution: it is 1).
    "mobilenet_v1": Spec("v1", (32, 2), ((64, 1, 1), (128, 2, 2), (256, 2, 2), (512, 6, 2), (1024, 2, 2)), 0, 8),
    # Sandler et al. 2018, Table 2.
    "mobilenet_v2": Spec(
        "v2",
        (32, 2),
        (
            (1, 16, 1, 1),
            (6, 24, 2, 2),
            (6, 32, 3, 2),
            (6, 64, 4, 2),
            (6, 96, 3, 1),
            (6, 160, 3, 2),
            (6, 320, 1, 1),
        ),
        1280,
        8,
    ),
    "mobilenet_v3_large": _V3_LARGE,
    "mobilenet_v3_small": _V3_SMALL,
    "mobilenet_v3_large_minimalistic": _minimalistic(_V3_LARGE),
    "mobilenet_v3_small_minimalistic": _minimalistic(_V3_SMALL),
    "mobilenet_v4_conv_small": _V4_SMALL,
    "mobilenet_v4_conv_medium": _V4_MEDIUM,
    "mobilenet_v4_conv_large": _V4_LARGE,
    # Thin V2s for small images (d, s: digits; c: 28 to 32 pixels) of 17, 8, 8 and 15 blocks.
    "d17": Spec(
        "v2",
        (8, 1),
        (
            (1, 8, 1, 1),
            (6, 8, 2, 2),
            (6, 8, 3, 2),
            (6, 12, 4, 1),
            (6, 12, 3, 1),
            (6, 16, 3, 1),
            (6, 16, 1, 1),
        ),
        64,
        1,
    ),
    "s8": Spec("v2", (8, 1), ((1, 8, 1, 1), (6, 8, 2, 2), (6, 12, 3, 2), (6, 16, 2, 1)), 64, 1),
    "c8": Spec("v2", (16, 2), ((1, 8, 1, 2), (6, 12, 2, 1), (6, 16, 3, 1), (6, 24, 2, 2)), 128, 1),
    "c17": Spec(
        "v2",
        (16, 2),
        ((1, 8, 1, 1), (6, 12, 2, 1), (6, 16, 3, 2), (6, 32, 4, 2), (6, 48, 3, 1), (6, 56, 2, 1)),
        256,
        1,
    ),
    # Thin V1s of 13 blocks for the same images: V1's repeats, its strides from 16 pixels down to 4.
    "d13": Spec("v1", (8, 1), ((16, 1, 1), (16, 2, 2), (24, 2, 2), (32, 6, 1), (48, 2, 1)), 0, 1),
    "c13": Spec("v1", (16, 2), ((16, 1, 1), (24, 2, 2), (32, 2, 2), (48, 6, 1), (64, 2, 1)), 0, 1),
}

ZOO = (
    "alexnet",
    "googlenet",
    "inception_v3",
    "nasnet_a_mobile",
    "resnet50",
    "se_resnet50",
    "shufflenet",
    "squeezenet",
    "vgg16",
)
"""The networks that the papers compare with: files of `models/zoo`."""


class Block(NamedTuple):
    """One block: `expanded` channels reach its depthwise convolution; `expand` tells whether a 1x1 makes them.

    V3's blocks each have their kernel size, activation and channels between the layers of squeeze-and-excite (0: none).
    The elements of the depthwise kernel meet pixels `dilation` apart. V4's have a `kind` of `V4_KINDS`, and the kernel
    sizes of the depthwise convolutions before and behind the expansion, `start_size` and `kernel_size` (0: none).
    """

    expand: bool
    expanded: int
    channels: int
    stride: int
    kernel_size: int = 0
    act: str = ""
    squeezed: int = 0
    dilation: int = 1
    kind: str = ""
    start_size: int = 0


class LayerConfig(NamedTuple):
    """The settings that all layers of a network share: padding, initialization, norm, how convolutions are computed.

    `dtype` is that of convolutions and feature maps; parameters, statistics and the dense layers stay in float32.
    """

    padding: str
    init: str
    norm_momentum: float
    norm_eps: float
    norm_group: int
    formulation: str
    dtype: str = "float32"
    act_bits: int = 0


@dataclass(frozen=True)
class Network:
    """A network with every choice resolved: equal `Network`s are the same function of (weights, image).

    `last` and `features` are the output channels of the last 1x1 convolution before the pooling and of V3's and V4's
    layer behind it, 0 if the network has no such layer. `project_act` is None where it is only known in a call. `block`
    is "" for the family's stock block, or the name of another class for all rows.
    """

    family: str
    stem: tuple[int, int]
    blocks: tuple[Block, ...]
    last: int
    features: int
    in_channels: int
    num_classes: int
    kernel_size: int
    conv: str
    shortcut: str
    act: str
    project_act: str | None
    block: str
    dropout: float
    split: int
    layer_config: LayerConfig


@dataclass(frozen=True)
class ZooNetwork:
    """A network of the zoo with every choice resolved.

    `width`, `groups`, `stem` and `blocks` are ShuffleNet's, as in the config; the others are as published.
    """

    name: str
    in_channels: int
    num_classes: int
    dropout: float
    layer_config: LayerConfig
    width: float
    groups: int
    stem: tuple[int, int] | tuple[()]
    blocks: tuple[tuple[int, int, int], ...]


RECIPE_FIELDS = (
    *("name", "in_channels", "num_classes", "dropout", "padding", "init", "formulation", "dtype"),
    *("norm.momentum", "norm.eps", "norm.group"),
)
"""Fields of `cfg.model` that a recipe sets for all networks alike, even for one that has no such layer."""

_OF_ROWS = ("width", "stem", "blocks", "last", "divisor", "act_bits", "output_stride", "atrous")

FIELDS: Mapping[str, tuple[str, ...]] = {
    "v1": (*_OF_ROWS, "kernel_size", "conv", "act", "block", "depth"),
    "v2": (*_OF_ROWS, "kernel_size", "conv", "act", "block", "expansion", "project_act", "shortcut", "split"),
    "v3": (*_OF_ROWS, "project_act", "shortcut"),
    "v4": (*_OF_ROWS, "project_act", "shortcut"),
    "shufflenet": ("width", "stem", "blocks", "groups"),
}
"""Family, or network of the zoo, -> the fields of `cfg.model` that it reads besides those of a recipe."""


def fields(name: str) -> tuple[str, ...]:
    """The fields of `cfg.model` that this network reads; it ignores the others, which must have their defaults."""
    return RECIPE_FIELDS + FIELDS.get(name if name in ZOO else NETWORKS[name].family, ())


def layer_config(model: Any) -> LayerConfig:
    """The `LayerConfig` of `cfg.model`."""
    norm = model.norm
    statistics = (norm.momentum, norm.eps, norm.group)
    return LayerConfig(model.padding, model.init, *statistics, model.formulation, model.dtype, model.act_bits)


def make_divisible(channels: float, divisor: int) -> int:
    """Rounds to a multiple of `divisor`, at least one, never below 0.9 of the value (released V2 code)."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def resolve(model: Any) -> Network | ZooNetwork:
    """Resolves `cfg.model` by its name; a ValueError where its fields do not go together."""
    return zoo_network(model) if model.name in ZOO else network(model)


def zoo_network(model: Any) -> ZooNetwork:
    """Resolves a `cfg.model` of the zoo; rows that are not ShuffleNet's are a ValueError."""
    _check_rows(model.name, model.blocks, {"c": int, "n": int, "s": int})
    return ZooNetwork(
        name=model.name,
        in_channels=model.in_channels,
        num_classes=model.num_classes,
        dropout=model.dropout,
        layer_config=layer_config(model),
        width=model.width,
        groups=model.groups,
        stem=tuple(model.stem),
        blocks=tuple(model.blocks),
    )


def network(model: Any) -> Network:
    """Resolves a `cfg.model` of the V1, V2 and V3 families.

    Widths follow the released code: V1 takes `max(int(alpha c), 8)`, V2 and V3 `make_divisible(alpha c, 8)`, with the
    last 1x1 convolution scaled only above width 1. Rows that are not the family's are a ValueError.
    """
    spec = NETWORKS[model.name]
    divisor = model.divisor or spec.divisor
    stem_channels, stem_stride = tuple(model.stem) or spec.stem
    rows: tuple[tuple[Any, ...], ...] = tuple(tuple(row) for row in model.blocks) or spec.blocks
    _check_rows(model.name, rows, COLUMNS[spec.family])
    if model.split > 1 and model.shortcut == "expansion":
        raise UserError(f"model.split={model.split} with model.shortcut='expansion'; allowed: one of the two")
    if model.split > 1 and model.act_bits:
        raise UserError(f"model.split={model.split} with model.act_bits={model.act_bits}; allowed: one of the two")
    if spec.family in ("v3", "v4") and model.shortcut == "expansion":
        raise UserError(f"model.shortcut='expansion' on {model.name}; allowed: 'bottleneck', 'none'")
    if model.depth == "shallow":
        longest = max(range(len(rows)), key=lambda index: rows[index][1])
        rows = tuple((c, 1, s) if index == longest else (c, n, s) for index, (c, n, s) in enumerate(rows))

    def scaled(channels: int, width: float = model.width) -> int:
        if spec.family == "v1":
            return max(int(channels * width), min(divisor, channels))
        return make_divisible(channels * width, divisor)

    before = scaled(stem_channels)
    stem = (before, stem_stride)
    blocks = []
    if spec.family == "v3":
        unscaled = stem_channels
        for kernel_size, e, c, squeeze, act, s in rows:
            expanded = make_divisible(before * e / unscaled, divisor)
            squeezed = make_divisible(expanded / 4, divisor) if squeeze else 0
            blocks.append(Block(e != unscaled, expanded, scaled(c), s, kernel_size, act, squeezed))
            before, unscaled = scaled(c), c
    elif spec.family == "v4":
        for kind, start_size, size, t, c, s in rows:
            expands = kind != "conv"
            expanded = make_divisible(before * t, divisor) if expands else scaled(c)
            blocks.append(Block(expands, expanded, scaled(c), s, size, kind=kind, start_size=start_size))
            before = scaled(c)
    else:
        for row in rows:
            t, c, n, s = (1, *row)[-4:]
            t = model.expansion if model.expansion and t != 1 else t
            for repeat in range(n):
                expanded = before if t == 1 else make_divisible(before * t, divisor)
                blocks.append(Block(t != 1, expanded, scaled(c), s if repeat == 0 else 1))
                before = scaled(c)
    last = spec.last if model.last < 0 else model.last
    last = last and scaled(last, max(1.0, model.width))
    behind_pooling = spec.family in ("v3", "v4")
    before_pooling = {"v3": make_divisible(6 * before, divisor), "v4": 0}.get(spec.family, last)
    return Network(
        family=spec.family,
        stem=stem,
        blocks=_at_output_stride(model, stem_stride, blocks),
        last=before_pooling,
        features=last if behind_pooling else 0,
        in_channels=model.in_channels,
        num_classes=model.num_classes,
        kernel_size=model.kernel_size,
        conv=model.conv,
        shortcut=model.shortcut,
        act=spec.act or model.act,
        project_act=getattr(model, "project_act", None),
        block=model.block,
        dropout=model.dropout,
        split=model.split,
        layer_config=layer_config(model),
    )


def feature_maps(net: Network) -> dict[str, tuple[int, int]]:
    """The feature maps of a network by name -> (channels, pixels of the image a side for each of theirs)."""
    stride = net.stem[1]
    known = {"stem": (net.stem[0], stride)}
    for number, block in enumerate(net.blocks, 1):
        inner = {"expansion": (block.expanded, stride), "depthwise": (block.expanded, stride * block.stride)}
        if net.family == "v1":
            inner = {} if net.conv == "full" else {"depthwise": inner["depthwise"]}
        stride *= block.stride
        known |= {f"block{number}/{name}": size for name, size in inner.items()}
        known[f"block{number}"] = block.channels, stride
    if net.last:
        known["head"] = net.last, stride
    return known


def _at_output_stride(model: Any, stem_stride: int, blocks: list[Block]) -> tuple[Block, ...]:
    """The blocks with the strides beyond `model.output_stride` dropped.

    With `model.atrous`, each block behind a dropped stride is dilated by the product of those dropped before it, so
    that its kernel meets the same pixels as before; the block whose stride is dropped has the dilation of the one
    before it (the rule of the released code, TF-slim's `mobilenet_base`).
    """
    if not model.output_stride:
        return tuple(blocks)
    stride, dilation, kept = stem_stride, 1, []
    for block in blocks:
        if block.stride > 1 and stride * block.stride > model.output_stride:
            kept.append(block._replace(stride=1, dilation=dilation))
            dilation *= block.stride if model.atrous else 1
        else:
            kept.append(block._replace(dilation=dilation))
            stride *= block.stride
    if stride != model.output_stride:
        strides = [stem_stride, *(block.stride for block in blocks)]
        reached = dict.fromkeys(itertools.accumulate(strides, operator.mul))
        raise UserError(
            f"model.output_stride={model.output_stride} on {model.name}; allowed: {', '.join(map(str, reached))}, or 0"
        )
    return tuple(kept)


COLUMNS: Mapping[str, Mapping[str, Any]] = {
    "v1": {"c": int, "n": int, "s": int},
    "v2": {"t": int | float, "c": int, "n": int, "s": int},
    "v3": {"kernel": int, "expanded": int, "channels": int, "squeeze": bool, "act": str, "stride": int},
    "v4": {"kind": str, "start": int, "middle": int, "t": int | float, "c": int, "s": int},
}

_ALSO = {
    "t": ", t also a fraction",
    "squeeze": f", squeeze True or False, act of {', '.join(ACTIVATION_NAMES)}",
    "kind": f", kind of {', '.join(V4_KINDS)}, start and middle also 0",
}

_NAMES: Mapping[str, Sequence[str]] = {"act": ACTIVATION_NAMES, "kind": V4_KINDS}
"""Column of names -> those that it may hold."""


MOST_BLOCKS = 1000
"""Rows of a network, each counted with its repeats."""

MOST_CHANNELS = 2**20
"""Of a tensor."""


def _fits(entry: Any, column: str, kind: Any) -> bool:
    """Whether a row's entry is one of this column, whose type is `kind`."""
    if not isinstance(entry, kind) or isinstance(entry, bool):
        return isinstance(entry, kind)
    if isinstance(entry, str):
        return entry in _NAMES[column]
    return 0 < entry <= MOST_CHANNELS or (entry == 0 and column in ("start", "middle"))


def _has_its_kernels(kind: str, start: int, middle: int, t: float, c: int, s: int) -> bool:
    """Whether a row of V4 has a convolution that its stride can be of, and of the dense kinds no other."""
    return start + middle > 0 or s == 1 if kind == "uib" else middle > 0 and start == 0


def _check_rows(name: str, rows: tuple[Any, ...], columns: Mapping[str, Any]) -> None:
    for row in rows:
        if len(row) != len(columns) or not all(map(_fits, row, columns, columns.values())):
            others = "".join(text for column, text in _ALSO.items() if column in columns)
            raise UserError(
                f"model.blocks: {row!r} is not a row ({', '.join(columns)}) of positive integers{others}, "
                f"as {name} needs"
            )
        if "kind" in columns and not _has_its_kernels(*row):
            raise UserError(
                f"model.blocks: {row!r} has no convolution for its kernel size or stride; allowed: 'uib' with a "
                "depthwise one where the stride is above 1, the other kinds with start 0 and a kernel size in middle"
            )
    blocks = sum(row[list(columns).index("n")] if "n" in columns else 1 for row in rows)
    if blocks > MOST_BLOCKS:
        raise UserError(f"model.blocks has {blocks:,} blocks; allowed: at most {MOST_BLOCKS:,}")
