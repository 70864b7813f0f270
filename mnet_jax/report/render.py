"""Words -> a terminal, Markdown, a page."""

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mnet_jax.report.pictures import Picture
from mnet_jax.report.summary import Summary
from mnet_jax.report.words import Table, claim_text, facts, findings, more_tables, tables, tuned_lines

COLORS = {"supported": "bold green", "contradicted": "bold red"}


def to_text(summary: Summary, color: bool = False) -> str:
    """For a terminal of 100 columns; the verdict comes last, where the eye is. `color` adds ANSI codes."""
    from rich import box
    from rich.console import Console, Group
    from rich.panel import Panel
    from rich.table import Table as Grid
    from rich.text import Text

    file = io.StringIO()
    system = "standard" if color else None
    console = Console(file=file, width=100, color_system=system, force_terminal=color, force_jupyter=False)
    sweep = summary.sweep
    console.print(Text(f"{sweep.experiment}, {sweep.scale}: {sweep.title}", "bold"))
    for table in tables(summary):
        grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False)
        for index, (name, *cells) in enumerate(zip(table.header, *table.rows, strict=True)):
            whole = index > 0 and max(map(len, cells)) >= len(name)  # a long header may wrap, a number not
            justify = "right" if index else "left"
            grid.add_column(Text(name), justify=justify, overflow="fold", no_wrap=whole)
        for index, row in enumerate(table.rows):
            grid.add_row(*map(Text, row), style="bold" if index in table.marked else "")
        console.print(Text(f"\n{table.title}", "bold"), grid, Text(table.note, "dim"), sep="\n")
    if more := more_tables(summary):
        names = ", ".join(column for table in more for column in table.header[1:])
        console.print(Text(f"\nAlso measured, on the page: {names.replace(' [95 %]', '')}", "dim"))
    console.print()
    for name, words in facts(summary).items():
        console.print(Text.assemble((f"{name}: ", "bold"), words))
    for warning in summary.warnings:
        console.print(Text(f"WARNING: {warning}", "yellow"))
    lines = [Text(line, "dim") for line in claim_text(summary)]
    for finding in findings(summary):
        outcome = (finding.outcome.upper(), COLORS.get(finding.outcome, "bold"))
        lines.append(Text.assemble("\n", outcome, finding.sentence[len(finding.outcome) :]))
        lines += [Text(f"  {label}: {words}") for label, words in finding.numbers[1:]]
    if sweep.mode == "tune":
        lines.append(Text(tuned_lines(summary), "bold green"))
    if lines:
        title = "PASTE INTO THE EXPERIMENT FILE" if sweep.mode == "tune" else "VERDICT"
        title += f" ({summary.partial})" if summary.partial else ""
        console.print()
        console.print(Panel(Group(*lines), title=Text(title, "bold"), box=box.SQUARE, padding=(1, 2)))
    return "\n".join(line.rstrip() for line in file.getvalue().split("\n"))


def to_markdown(summary: Summary) -> str:
    """For a paper, a README or a pull request; the verdict comes first."""
    sweep = summary.sweep
    parts = [f"# {sweep.experiment}, {sweep.scale}", sweep.title]
    parts += [f"**{summary.partial}**"] if summary.partial else []
    if found := findings(summary):
        parts += ["## Verdict", *claim_text(summary)]
    for finding in found:
        head = len(finding.outcome)
        lines = [f"- **{finding.sentence[:head]}**{finding.sentence[head:]}"]
        parts.append("\n".join(lines + [f"  - {label}: {words}" for label, words in finding.numbers[1:]]))
    if sweep.mode == "tune":
        parts += ["## Paste into the experiment file", f"```python\n{tuned_lines(summary)}\n```"]
    if summary.warnings:
        parts += ["## Warnings", "\n".join(f"- {warning}" for warning in summary.warnings)]
    for table in tables(summary) + more_tables(summary):
        parts += [f"## {table.title}", markdown_table(table), *([table.note] if table.note else [])]
    parts += ["## How", "\n".join(f"- {name}: {words}" for name, words in facts(summary).items())]
    return _no_tags("\n\n".join(parts)) + "\n"


def markdown_table(table: Table) -> str:
    rule = ("---", *("---:" for _ in table.header[1:]))
    rows = [
        [f"**{cell}**" if cell and index in table.marked else cell.replace("|", "\\|") for cell in row]
        for index, row in enumerate(table.rows)
    ]
    return _no_tags("\n".join(f"| {' | '.join(cells)} |" for cells in (table.header, rule, *rows)))


def _no_tags(markdown: str) -> str:
    return re.sub(r"<(?=[a-zA-Z/!?])", "&lt;", markdown)


def to_html(summary: Summary, pictures: Sequence[Picture]) -> str:
    """One page that needs nothing else; the verdict comes first."""
    return page(f"{summary.sweep.experiment}, {summary.sweep.scale}", [section(summary, pictures)])


def section(summary: Summary, pictures: Sequence[Picture]) -> dict[str, Any]:
    """What the page's template shows of one sweep; `anchor` is its name in the page."""
    sweep = summary.sweep
    return {
        "anchor": f"{sweep.experiment}-{sweep.scale}-{sweep.mode}",
        "sweep": sweep,
        "partial": summary.partial,
        "claim": claim_text(summary),
        "findings": findings(summary),
        "tuned": tuned_lines(summary) if sweep.mode == "tune" else "",
        "warnings": summary.warnings,
        "tables": tables(summary) + more_tables(summary),
        "pictures": pictures,
        "facts": facts(summary),
    }


def page(
    title: str,
    sections: Sequence[dict[str, Any]],
    overview: Sequence[dict[str, Any]] = (),
    pictures: Sequence[Picture] = (),
) -> str:
    """A page of sections; above several of them an overview, and pictures of all."""
    from jinja2 import Environment, StrictUndefined

    source = Path(__file__).with_name("page.html.j2").read_text()
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["themed"] = _themed
    template = environment.from_string(source)
    return template.render(title=title, sections=sections, overview=overview, pictures=pictures)


def _themed(svg: str) -> str:
    """A figure in the colors of its page, which are others in the dark: ink, paper and grid."""
    from mnet_jax import figures

    for color, name in ((figures.INK, "ink"), (figures.GRID, "grid"), ("#ffffff", "paper")):
        svg = svg.replace(color.lower(), f"var(--{name})")
    return svg
