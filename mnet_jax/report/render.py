"""Sentences, tables and figures -> a terminal, Markdown, a page."""

import io
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnet_jax.report.drawing import RenderedFigure
from mnet_jax.report.kept import KeptFigure
from mnet_jax.report.sentences import claim_text, findings, provenance, tuned_lines, verdict_texts
from mnet_jax.report.summary import Summary
from mnet_jax.report.tables import Table, main_tables, more_tables

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

Figure = RenderedFigure | KeptFigure

COLORS = {"supported": "bold green", "contradicted": "bold red", "the opposite found": "bold red"}


def terminal(color: bool = False) -> "Console":
    """A console that `written` reads, as wide as the terminal, but 60 to 160 columns; 100 where there is none."""
    from rich.console import Console

    width = min(max(shutil.get_terminal_size((100, 24)).columns, 60), 160)
    system = "standard" if color else None
    return Console(file=io.StringIO(), width=width, color_system=system, force_terminal=color, force_jupyter=False)


def written(console: "Console") -> str:
    """What was printed, without blanks at the ends of lines."""
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().split("\n"))


def plain(words: str, style: str = "") -> "Text":
    """Words from an experiment file for a terminal: none of them is a command to it."""
    from rich.text import Text

    return Text(re.sub(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", " ", words), style)


NAME_WIDTH = 16
"""Longer names of arms are broken in a terminal before a column is left out."""


def _columns_that_fit(table: Table, width: int) -> int:
    """How many columns, from the left, so many letters have room for."""
    columns = list(zip(table.header, *table.rows, strict=True))
    widths = [max(map(len, [*name.split(), *cells, ""])) + 3 for name, *cells in columns]
    widths[0] = min(widths[0], NAME_WIDTH + 3)
    return sum(sum(widths[: number + 1]) <= width + 1 for number in range(len(widths)))


def to_text(summary: Summary, color: bool = False) -> str:
    """For a terminal; the verdict comes last, where the eye is. `color` adds ANSI codes."""
    from rich import box
    from rich.console import Group
    from rich.panel import Panel
    from rich.table import Table as Grid
    from rich.text import Text

    console, sweep = terminal(color), summary.sweep
    console.print(plain(f"{sweep.experiment}, {sweep.scale}: {sweep.title}", "bold"))
    for table in main_tables(summary):
        grid, shown = Grid(box=box.SIMPLE_HEAD, pad_edge=False), _columns_that_fit(table, console.width)
        columns = list(zip(table.header, *table.rows, strict=True))
        for index, (name, *cells) in enumerate(columns[:shown]):
            whole = index > 0 and max(map(len, cells)) >= len(name)  # a long header may wrap, a number not
            justify = "right" if index else "left"
            least = None if index else min(max(map(len, cells)), NAME_WIDTH)
            grid.add_column(plain(name), justify=justify, overflow="fold", no_wrap=whole, min_width=least)
        for index, row in enumerate(table.rows):
            grid.add_row(*map(plain, row[:shown]), style="bold" if index in table.marked else "")
        console.print()
        console.print(plain(table.title, "bold"), grid, plain(table.note, "dim"), sep="\n")
        if names := ", ".join(table.header[shown:]):
            console.print(plain(f"For lack of room on the page only: {names.replace(' [95 %]', '')}.", "dim"))
    if more := more_tables(summary):
        names = ", ".join(column for table in more for column in table.header[1:])
        console.print()
        console.print(plain(f"Also measured, on the page: {names.replace(' [95 %]', '')}", "dim"))
    console.print()
    for name, words in provenance(summary).items():
        console.print(Text.assemble((f"{name}: ", "bold"), plain(words)))
    for warning in summary.warnings:
        console.print(plain(f"WARNING: {warning}", "yellow"))
    lines = [plain(line, "dim") for line in claim_text(summary)]
    for text in verdict_texts(summary):
        outcome = (text.outcome.upper(), COLORS.get(text.outcome, "bold"))
        lines.append(Text.assemble("\n", outcome, plain(text.sentence[len(text.outcome) :])))
        lines += [plain(f"  {label}: {words}") for label, words in text.numbers[1:]]
    if summary.tuning:
        lines.append(plain(tuned_lines(summary), "bold green"))
    if lines:
        title = "PASTE INTO THE EXPERIMENT FILE" if summary.tuning else "VERDICT"
        title += f" ({summary.partial})" if summary.partial else ""
        console.print()
        console.print(Panel(Group(*lines), title=Text(title, "bold"), box=box.SQUARE, padding=(1, 2)))
    return written(console)


def to_markdown(summary: Summary) -> str:
    """For a paper, a README or a pull request; the verdict comes first."""
    sweep = summary.sweep
    parts = [f"# {sweep.experiment}, {sweep.scale}", sweep.title]
    parts += [f"**{summary.partial}**"] if summary.partial else []
    if texts := verdict_texts(summary):
        parts += ["## Verdict", *claim_text(summary)]
    for text in texts:
        head = len(text.outcome)
        lines = [f"- **{text.sentence[:head]}**{text.sentence[head:]}"]
        parts.append("\n".join(lines + [f"  - {label}: {words}" for label, words in text.numbers[1:]]))
    if summary.tuning:
        parts += ["## Paste into the experiment file", f"```python\n{tuned_lines(summary)}\n```"]
    if summary.warnings:
        parts += ["## Warnings", "\n".join(f"- {warning}" for warning in summary.warnings)]
    for table in main_tables(summary) + more_tables(summary):
        parts += [f"## {table.title}", markdown_table(table), *([table.note] if table.note else [])]
    parts += ["## How", "\n".join(f"- {name}: {words}" for name, words in provenance(summary).items())]
    return _no_tags("\n\n".join(parts)) + "\n"


def markdown_table(table: Table, left: int = 1) -> str:
    """The first `left` columns are words, the others numbers."""
    rule = ["---"] * left + ["---:"] * (len(table.header) - left)
    rows = [
        [f"**{cell}**" if cell and index in table.marked else cell.replace("|", "\\|") for cell in row]
        for index, row in enumerate(table.rows)
    ]
    return _no_tags("\n".join(f"| {' | '.join(cells)} |" for cells in (table.header, rule, *rows)))


def _no_tags(markdown: str) -> str:
    return re.sub(r"<(?=[a-zA-Z/!?])", "&lt;", markdown)


def to_html(summary: Summary, figures: Sequence[Figure]) -> str:
    """One page that needs nothing else; the verdict comes first."""
    return page(f"{summary.sweep.experiment}, {summary.sweep.scale}", [section(summary, figures)])


def section(summary: Summary, figures: Sequence[Figure]) -> dict[str, Any]:
    """What the page's template shows of one sweep; `anchor` is its name in the page."""
    sweep = summary.sweep
    return {
        "anchor": f"{sweep.experiment}-{sweep.scale}-{sweep.mode}",
        "sweep": sweep,
        "partial": summary.partial,
        "claim": claim_text(summary),
        "verdicts": verdict_texts(summary),
        "tuned": tuned_lines(summary) if summary.tuning else "",
        "warnings": summary.warnings,
        "tables": main_tables(summary) + more_tables(summary),
        "figures": figures,
        "findings": findings(summary),
        "provenance": provenance(summary),
    }


def page(
    title: str,
    sections: Sequence[dict[str, Any]],
    overview: Sequence[dict[str, Any]] = (),
    figures: Sequence[Figure] = (),
    note: str = "",
) -> str:
    """A page of sections; above several of them an overview with a note, and figures of all."""
    from jinja2 import Environment, StrictUndefined

    source = Path(__file__).with_name("page.html.j2").read_text()
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["themed"] = _themed
    template = environment.from_string(source)
    return template.render(title=title, sections=sections, overview=overview, figures=figures, note=note)


def _themed(svg: str) -> str:
    """A figure in the colors of its page, which are others in the dark: ink, paper, grid and series."""
    from mnet_jax.figures import style

    series = [(color, f"series-{number}") for number, color in enumerate(style.PALETTE)]
    for color, name in ((style.INK, "ink"), (style.GRID, "grid"), ("#ffffff", "paper"), *series):
        svg = svg.replace(color.lower(), f"var(--{name})")
    return svg
