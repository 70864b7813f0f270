"""The networks as frozen rows, and what a `cfg.model` makes of them.

Model, cost, report and tests all read these rows: there is no second description of a network.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

ACTIVATIONS: Mapping[str, tuple[float, float]] = {
    "linear": (-float("inf"), float("inf")),
    "relu": (0.0, float("inf")),
    "relu6": (0.0, 6.0),
}
"""name -> (low, high): every activation of the papers is a clip, so arms can share one compiled program."""


class Spec(NamedTuple):
    """A named network at width 1.

    `family`   "v1" (depthwise separable blocks) or "v2" (inverted residuals).
    `stem`     (channels, stride) of the first 3x3 convolution.
    `blocks`   rows (t, c, n, s) for V2, (c, n, s) for V1: expansion, output channels, repeats, stride of the first.
    `last`     channels of the last 1x1 convolution, 0 for none.
    `divisor`  channels are rounded to multiples of this.
    """

    family: str
    stem: tuple[int, int]
    blocks: tuple[tuple[int, ...], ...]
    last: int
    divisor: int


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
}


class Block(NamedTuple):
    """One block: `expanded` channels reach its depthwise convolution; `expand` tells whether a 1x1 makes them."""

    expand: bool
    expanded: int
    channels: int
    stride: int


class Style(NamedTuple):
    """What all layers of a network share: padding, initialization, normalization, and how convolutions are computed."""

    padding: str
    init: str
    norm_momentum: float
    norm_eps: float
    norm_group: int
    formulation: str


@dataclass(frozen=True)
class Network:
    """A network with every choice resolved: equal `Network`s are the same function of (weights, image)."""

    family: str
    stem: tuple[int, int]
    blocks: tuple[Block, ...]
    last: int
    in_channels: int
    num_classes: int
    kernel_size: int
    conv: str
    shortcut: str
    act: str
    project_act: str
    dropout: float
    split: int
    style: Style


def style(model: Any) -> Style:
    """The `Style` of `cfg.model`."""
    norm = model.norm
    return Style(model.padding, model.init, norm.momentum, norm.eps, norm.group, model.formulation)


def make_divisible(channels: float, divisor: int) -> int:
    """Rounds to a multiple of `divisor`, at least one, never below 0.9 of the value (released V2 code)."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def network(model: Any) -> Network:
    """Resolves `cfg.model`.

    Widths follow the released code: V1 takes `max(int(alpha c), 8)`, V2 `make_divisible(alpha c, 8)`, with the
    last 1x1 convolution scaled only above width 1. A knob that the family does not have is a ValueError.
    """
    spec = NETWORKS[model.name]
    divisor = model.divisor or spec.divisor
    stem_channels, stem_stride = tuple(model.stem) or spec.stem
    rows = tuple(tuple(row) for row in model.blocks) or spec.blocks
    columns = {"v1": ("c", "n", "s"), "v2": ("t", "c", "n", "s")}[spec.family]
    for row in rows:
        if len(row) != len(columns) or not all(isinstance(entry, int) and entry > 0 for entry in row):
            raise ValueError(
                f"model.blocks: {row!r} is not a row ({', '.join(columns)}) of positive integers, as {model.name} needs"
            )
    if model.depth == "shallow":
        if spec.family != "v1":
            raise ValueError(f"model.depth='shallow' (V1 Table 5) does not apply to {model.name}; allowed: 'full'")
        longest = max(range(len(rows)), key=lambda index: rows[index][1])
        rows = tuple((c, 1, s) if index == longest else (c, n, s) for index, (c, n, s) in enumerate(rows))

    def scaled(channels: int, width: float = model.width) -> int:
        if spec.family == "v1":
            return max(int(channels * width), min(divisor, channels))
        return make_divisible(channels * width, divisor)

    before = scaled(stem_channels)
    stem = (before, stem_stride)
    blocks = []
    for row in rows:
        t, c, n, s = (1, *row)[-4:]
        t = model.expansion if model.expansion and t != 1 else t
        for repeat in range(n):
            expanded = before if t == 1 else make_divisible(before * t, divisor)
            blocks.append(Block(t != 1, expanded, scaled(c), s if repeat == 0 else 1))
            before = scaled(c)
    if model.split > 1 and (spec.family != "v2" or model.shortcut == "expansion"):
        raise ValueError(
            f"model.split={model.split} needs V2's blocks without shortcuts between expansions; came {model.name} "
            f"with model.shortcut={model.shortcut!r}; allowed: 1"
        )
    last = spec.last if model.last < 0 else model.last
    v1 = spec.family == "v1"
    return Network(
        family=spec.family,
        stem=stem,
        blocks=tuple(blocks),
        last=last and scaled(last, max(1.0, model.width)),
        in_channels=model.in_channels,
        num_classes=model.num_classes,
        kernel_size=model.kernel_size,
        conv=model.conv,
        shortcut="none" if v1 else model.shortcut,
        act=model.act,
        project_act=model.act if v1 else model.project_act,
        dropout=model.dropout,
        split=model.split,
        style=style(model),
    )
