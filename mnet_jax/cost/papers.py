"""The papers' figures beside the counter's: each with its convention, and a verdict.

`published.csv` holds a figure a line, as printed: where, for which network or detector and settings (fields as
`named.countable` takes them, and the resolution) and layers (names, or the kind of V1's Table 2, or the pixels of V2's
Table 3), what and by which convention. `independent` is the exact count of another program (pure Python, checked
against Keras), where there is one. `kind` and `reason` tell why a figure is not this network's: a misprint, another
graph, another rule, not reproducible by any convention tried, or no graph at all.
"""

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_FLOOR, ROUND_HALF_EVEN, ROUND_HALF_UP, Decimal
from fractions import Fraction
from importlib import resources

from mnet_jax.cost import conventions, named
from mnet_jax.cost.count import Cost, count
from mnet_jax.cost.walk import Layer

UNITS = {"B": 10**9, "M": 10**6, "KB": 10**3, "%": 1, "": 1}

Counted = int | Fraction | str | None


@dataclass(frozen=True)
class Published:
    """A line of `published.csv`."""

    source: str
    table: str
    row: str
    network: str
    settings: str
    layers: str
    quantity: str
    printed: str
    unit: str
    convention: str
    independent: str
    kind: str
    reason: str


@dataclass(frozen=True)
class Comparison:
    """A published figure, what was counted, how the first follows from the second ("" = not), and the verdict."""

    published: Published
    counted: Counted
    follows: str
    verdict: str


def published() -> list[Published]:
    """Every figure, in the order of the file."""
    text = (resources.files("mnet_jax.cost") / "published.csv").read_text(encoding="utf-8")
    return [Published(**row) for row in csv.DictReader(text.splitlines())]


def compare(figures: Iterable[Published]) -> list[Comparison]:
    """Counts what each figure is about; a network and its settings only once."""
    counted: dict[tuple[str, str], Cost] = {}
    comparisons = []
    for figure in figures:
        key = (figure.network, figure.settings)
        if figure.network and key not in counted:
            counted[key] = count_settings(*key)
        found = QUANTITIES[figure.quantity](counted[key], figure) if figure.network else None
        follows = agreement(figure, found)
        verdict = ", ".join(part for part in (figure.kind, follows) if part) or "DOES NOT FOLLOW"
        comparisons.append(Comparison(figure, found, follows, verdict))
    return comparisons


def count_settings(network: str, settings: str) -> Cost:
    """Counts a network with "width=0.75 resolution=192" and the like."""
    fields = dict(setting.split("=") for setting in settings.split())
    resolution = int(fields.pop("resolution"))
    return count(named.countable(network, fields), resolution)


def agreement(figure: Published, counted: Counted) -> str:
    """How the printed figure follows from the counted: "exact", "rounds to", "floors to" .., or "" for not at all."""
    if counted is None:
        return ""
    if not figure.printed:
        return "exact" if str(counted) == figure.independent else ""
    if isinstance(counted, str):
        return "exact" if counted == figure.printed else ""
    printed, value = Decimal(figure.printed), Decimal(counted.numerator) / counted.denominator / UNITS[figure.unit]
    last = Decimal(1).scaleb(int(printed.as_tuple().exponent))
    if value == printed:
        return "exact"
    if printed in {value.quantize(last, rounding) for rounding in (ROUND_HALF_UP, ROUND_HALF_EVEN)}:
        return "rounds to"
    if value.quantize(last, ROUND_FLOOR) == printed:
        return "floors to"
    digits = len(figure.printed.replace(".", ""))
    for fewer in range(digits - 1, 1, -1):
        if value.quantize(last.scaleb(digits - fewer), ROUND_HALF_UP) == printed:
            return f"rounds to {fewer} digits"
    return ""


def difference(comparison: Comparison) -> str:
    """Counted minus printed, in percent of the printed; "" where the two are not numbers."""
    figure, counted = comparison.published, comparison.counted
    if not figure.printed or counted is None or isinstance(counted, str):
        return ""
    printed = Decimal(figure.printed) * UNITS[figure.unit]
    return f"{100 * (Decimal(counted.numerator) / counted.denominator / printed - 1):+.2f} %"


def _layers(cost: Cost, names: str) -> list[Layer]:
    """The layers of these modules, or of this kind; all for ""."""
    kinds = [layer for layer in cost.layers if conventions.kind(layer) == names]
    inside = tuple(f"{name}." for name in names.split())
    return kinds or [
        layer for layer in cost.layers if not names or layer.name in names.split() or layer.name.startswith(inside)
    ]


def _sum(cost: Cost, figure: Published) -> int:
    return conventions.CONVENTIONS[figure.convention](_layers(cost, figure.layers))


def _share(cost: Cost, figure: Published) -> Fraction:
    measure = conventions.CONVENTIONS[figure.convention]
    return Fraction(100 * measure(_layers(cost, figure.layers)), measure(cost.layers))


def _tensor(cost: Cost, figure: Published) -> int:
    layers = TENSORS[figure.convention](cost.layers)
    if figure.layers == "max":
        return max(layer.activation_bytes for layer in layers)
    return conventions.largest_tensor(layers, int(figure.layers)).activation_bytes


def _channels(cost: Cost, figure: Published) -> str:
    """Output channels of these modules, in order."""
    last = {}
    for name in figure.layers.split():
        last[name] = _layers(cost, name)[-1].output_shape[-1]
    return " ".join(map(str, last.values()))


def _shape(cost: Cost, figure: Published) -> str:
    """The cells of V1's Table 1 and V2's Table 2 for these layers."""
    blocks = [
        [layer for layer in _layers(cost, name) if layer.kernel or layer.type == "dense"]
        for name in figure.layers.split()
    ]
    first, last = blocks[0][0], blocks[-1][-1]
    size = "x".join(map(str, first.input_shape))
    if "Table 1" in figure.table:
        if first.type == "dense":
            return f"{first.input_shape[0]} x {first.output_shape[0]}"
        rows, columns = first.kernel
        inputs = first.input_shape[-1] if first.groups == 1 else "dw"
        return f"{size}, {rows}x{columns}x{inputs}x{first.output_shape[-1]} / s{first.stride[0]}"
    if first.type == "dense":
        return f"1x1x{size}, c {last.output_shape[-1]}"
    stride = max(layer.stride[0] for layer in blocks[0] if layer.stride)
    if len(blocks[0]) == 1:
        return f"{size}, c {last.output_shape[-1]}, s {stride}"
    depthwise = next(layer for layer in blocks[0] if layer.type == "depthwise conv")
    expansion = depthwise.input_shape[-1] // first.input_shape[-1]
    return f"{size}, t {expansion}, c {last.output_shape[-1]}, n {len(blocks)}, s {stride}"


TENSORS: Mapping[str, Callable[[Sequence[Layer]], Sequence[Layer]]] = {
    "largest tensor": lambda layers: [layer for layer in layers if layer.type != "unused"],
    "largest tensor between blocks": conventions.between_blocks,
}

QUANTITIES: Mapping[str, Callable[[Cost, Published], Counted]] = {
    "madds": _sum,
    "params": _sum,
    "madds share": _share,
    "params share": _share,
    "bytes": _tensor,
    "channels": _channels,
    "shape": _shape,
}
