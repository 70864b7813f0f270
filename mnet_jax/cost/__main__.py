"""`python -m mnet_jax.cost`: tables of what networks cost, and of what the papers print."""

import argparse
import csv
import io
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mnet_jax import config, cost, flags
from mnet_jax.cost import conventions, named
from mnet_jax.errors import UserError
from mnet_jax.models import specs
from mnet_jax.table import Row, Table

SPLITS = (1, 2, 3, 6)
NOT_COST = ("name", "init", "dropout", "formulation", "block")
PICTURES = (".pdf", ".png", ".svg")


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints what is asked for."""
    args = _parser().parse_args(arguments)
    _check(args)
    if args.paper:
        tables = paper_tables(args.names, flat=args.format == "csv")
    else:
        tables = [table for name in args.names for table in network_tables(name, args)]
    print("\n".join(FORMATS[args.format](table) for table in tables), end="")
    if args.picture:
        _picture(args)


def _check(args: argparse.Namespace) -> None:
    """Raises UserError before anything is counted or printed."""
    networks = ", ".join(config.FIELDS["model.name"].allowed or ())
    if not args.names and not args.paper:
        with_heads = ", ".join(f"{head}_mobilenet_v2" for head in named.HEADS)
        raise UserError(f"no network; allowed: --paper, any of {networks}, and with a head such as {with_heads}")
    if args.resolution is not None and args.resolution > 0:  # `cost.count` refuses the others
        flags.check_number("--resolution", args.resolution, 1, flags.MAX_RESOLUTION)
    flags.check_number("--bytes", args.bytes, 1)
    for name in args.names:
        if name in named.HEADED and args.xla:
            raise UserError(f"--xla of {name}; allowed: any of {networks}")
    if args.picture:
        if not args.names:
            raise UserError(f"--picture {args.picture} shows networks, and none is named; allowed: any of {networks}")
        flags.check_file("--picture", args.picture, PICTURES)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m mnet_jax.cost", description=__doc__)
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="networks, also with a head, such as ssdlite_mobilenet_v2 or deeplab_mobilenet_v2; with --paper, only "
        "their figures",
    )
    parser.add_argument("--resolution", type=int, help="height and width of the image (default: the published one)")
    parser.add_argument("--bytes", type=int, default=2, help="of an element of a tensor (default: 2)")
    parser.add_argument("--summary", action="store_true", help="shares by type of layer (V1 Table 2)")
    parser.add_argument("--memory", action="store_true", help="largest tensors (V2 Table 3); V2's split, compiled")
    parser.add_argument("--xla", action="store_true", help="why XLA's cost_analysis is another number")
    parser.add_argument("--paper", action="store_true", help="every published figure, and whether it is right")
    parser.add_argument("--picture", type=Path, help="file for channels and memory by depth; with --summary, shares")
    parser.add_argument("--format", choices=tuple(FORMATS), default="text")
    group = parser.add_argument_group("the network, as in the config")
    for name, knob in config.FIELDS.items():
        field = name.removeprefix("model.")
        if name.startswith("model.") and "." not in field and field not in NOT_COST:
            group.add_argument(f"--{field}", help=knob.meaning.replace("%", "%%"))
    group = parser.add_argument_group("the head")
    for name in named.FIELDS:
        group.add_argument(f"--{name.partition('.')[2]}", help=config.FIELDS[name].meaning)
    return parser


def network_tables(name: str, args: argparse.Namespace) -> list[Table]:
    """What is asked about one network."""
    model, resolution, counted = _count(name, args)
    title = f"{name} on {resolution} x {resolution}"
    tables: list[Table] = []
    if args.summary:
        tables.append(_shares(f"{title}: shares", counted))
    if args.memory:
        tables.append(_tensors(f"{title}: largest tensors, {args.bytes} bytes an element", counted))
        if name in specs.NETWORKS and specs.NETWORKS[name].family == "v2":
            tables.append(_splits(f"{title}: expansions in parts (model.split)", name, args))
    if args.xla:
        from mnet_jax.cost import xla

        rows = [(what, f"{number:,}") for what, number in xla.flops(model, resolution, counted)]
        tables.append(Table(f"{title}: from multiply-adds to XLA's flops", ("", "operations"), rows))
    if not tables:
        tables = [_layers(title, counted), _totals(counted)]
    return tables


def paper_tables(names: Sequence[str], flat: bool = False) -> list[Table]:
    """Published and counted figures, of these networks if any are named; and how many have which verdict.

    A table a source, or `flat`: all in one.
    """
    from mnet_jax.cost import papers

    figures = [figure for figure in papers.published() if not names or figure.network in names]
    if not figures:
        raise ValueError(f"no published figure of {', '.join(names)}; allowed: networks of mnet_jax/cost/published.csv")
    header = ("table", "row", "", "published", "counted", "difference", "verdict", "convention", "reason")
    tables: dict[str, list[Row]] = {}
    comparisons = papers.compare(figures)
    for comparison in comparisons:
        figure, counted = comparison.published, comparison.counted
        if isinstance(counted, int):
            text = f"{counted:,}"
        else:
            text = counted if isinstance(counted, str) else "" if counted is None else f"{float(counted):.3f}"
        published = f"{figure.printed} {figure.unit}".strip() or "(not printed)"
        of = (
            f"{figure.quantity} {figure.layers}".strip()
            if figure.quantity in ("bytes", "madds share")
            else figure.quantity
        )
        row = (figure.table, figure.row, of, published, text, papers.difference(comparison), comparison.verdict)
        tables.setdefault(figure.source, []).append((*row, figure.convention, figure.reason))
    exact = sum(str(c.counted) == c.published.independent for c in comparisons if c.published.independent)
    verdicts = Counter(comparison.published.kind or comparison.follows for comparison in comparisons)
    summary = [(verdict, str(number)) for verdict, number in verdicts.most_common()]
    summary.append(("equal to an independent program's count", str(exact)))
    if flat:
        rows = [(source, *row) for source, rows in tables.items() for row in rows]
        return [Table("Published and counted", ("source", *header), rows, left=len(header) + 1)]
    by_source = [Table(source, header, rows, left=len(header)) for source, rows in tables.items()]
    return [*by_source, Table("In all", ("verdict", "figures"), summary)]


def _count(name: str, args: argparse.Namespace, **fields: Any) -> tuple[Any, int, cost.Cost]:
    overrides = {field: value for field, value in vars(args).items() if value is not None} | fields
    sections = ("model", named.HEADED[name].task) if name in named.HEADED else ("model",)
    known = {
        field: value
        for field, value in overrides.items()
        if any(f"{section}.{field}" in config.FIELDS for section in sections)
    }
    model = named.countable(name, known)
    resolution = named.side_of(name) if args.resolution is None else args.resolution
    return model, resolution, cost.count(model, resolution, bytes_per_element=args.bytes)


def _by(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _layers(title: str, counted: cost.Cost) -> Table:
    header = ("layer", "type", "kernel", "stride", "input", "output", "MAdds", "FLOPs", "params", "biases")
    rows = [
        (
            layer.name,
            layer.type,
            _by(layer.kernel),
            _by(layer.stride),
            _by(layer.input_shape),
            _by(layer.output_shape),
            *(
                f"{number:,}"
                for number in (
                    layer.madds,
                    layer.flops,
                    layer.params,
                    layer.biases,
                    layer.activation_bytes,
                    layer.memory_access_bytes,
                )
            ),
        )
        for layer in counted.layers
    ]
    return Table(title, (*header, "activation bytes", "memory access bytes"), rows, left=6)


def _totals(counted: cost.Cost) -> Table:
    rows = [
        ("MAdds", counted.madds),
        ("FLOPs", sum(layer.flops for layer in counted.layers)),
        ("weights", counted.params_weights),
        ("trainable parameters", counted.params_trainable),
        ("all variables", counted.params_all),
        ("bytes of the largest activation", counted.max_activation_bytes),
        ("bytes at the peak of an evaluation", counted.peak_bytes),
        *((f"not counted: operation {name}, times", number) for name, number in counted.unknown.items()),
    ]
    return Table("Totals", ("", ""), [(name, f"{number:,}") for name, number in rows])


def _shares(title: str, counted: cost.Cost) -> Table:
    rows = [
        (kind, f"{madds:,}", f"{madds / counted.madds:.2%}", f"{weights:,}", f"{weights / counted.params_weights:.2%}")
        for kind, (madds, weights) in conventions.shares(counted.layers).items()
    ]
    return Table(title, ("type", "MAdds", "share", "weights", "share"), rows)


def _tensors(title: str, counted: cost.Cost) -> Table:
    between = conventions.between_blocks(counted.layers)
    sizes = dict.fromkeys(conventions.resolution(layer) for layer in between if layer.type != "unused")
    rows = []
    for size in sizes:
        row = [f"{size}x{size}"]
        for layers in (counted.layers, between):
            layer = conventions.largest_tensor(layers, size)
            row += [layer.name, str(layer.output_shape[-1]), f"{layer.activation_bytes:,}"]
        rows.append(row)
    return Table(title, ("pixels", "largest", "channels", "bytes", "between blocks", "channels", "bytes"), rows)


def _splits(title: str, name: str, args: argparse.Namespace) -> Table:
    from mnet_jax.cost import xla

    rows = []
    for split in SPLITS:
        model, resolution, counted = _count(name, args, split=split)
        numbers = (counted.max_activation_bytes, counted.peak_bytes, xla.temporary_bytes(model, resolution))
        rows.append((str(split), *(f"{number:,}" for number in numbers)))
    return Table(title, ("split", "largest tensor", "peak", "compiled, float32: temporaries"), rows)


def _picture(args: argparse.Namespace) -> None:
    from mnet_jax import figures

    costs = {name: _count(name, args)[2] for name in args.names}
    if args.summary:
        figure = figures.cost_shares({name: conventions.shares(counted.layers) for name, counted in costs.items()})
    else:
        figure = figures.cost_by_depth(
            {
                name: [(layer.output_shape[-1], layer.activation_bytes) for layer in counted.layers if layer.madds]
                for name, counted in costs.items()
            }
        )
    figure.savefig(args.picture, dpi=150)


def _text(table: Table) -> str:
    columns = list(zip(table.header, *table.rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    numeric = [all(cell[:1] in "+-0123456789" for cell in column[1:]) for column in columns]
    lines = [
        "  ".join(
            f"{cell:>{w}}" if right else f"{cell:<{w}}" for cell, w, right in zip(row, widths, numeric, strict=True)
        )
        for row in (table.header, *table.rows)
    ]
    return "\n".join([table.title, *(line.rstrip() for line in lines if line.strip())]) + "\n"


def _csv(table: Table) -> str:
    file = io.StringIO()
    plain = [
        [re.sub(r"(?<=\d),(?=\d{3})", "", cell) if cell[:1] in "-0123456789" else cell for cell in row]
        for row in table.rows
    ]
    csv.writer(file, lineterminator="\n").writerows([table.header, *plain])
    return file.getvalue()


FORMATS = {"text": _text, "markdown": Table.section, "csv": _csv}


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"error: {error}")
