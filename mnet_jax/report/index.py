"""Several sweeps at a glance: an index that links to their pages, and one page of all."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mnet_jax import formatting, results
from mnet_jax.errors import UserError
from mnet_jax.report import render
from mnet_jax.report.drawing import RenderedFigure
from mnet_jax.report.sentences import minutes
from mnet_jax.report.summary import Summary
from mnet_jax.report.tables import Table, contrast_lines


def write_index(out: Path, reports: Mapping[Path, tuple[Summary, Sequence[render.Figure]]]) -> None:
    """Writes OUT/index.html, whose lines lead to the reports of the workdirs, and OUT/report.html, which holds all."""
    summaries = [summary for summary, _ in reports.values()]
    sections = [render.section(summary, figures) for summary, figures in reports.values()]
    for number, section in enumerate(sections):
        section["anchor"] += f"-{number}"
    links = [_url(os.path.relpath(workdir / "report.html", out)) for workdir in reports]
    anchors = [f"#{section['anchor']}" for section in sections]
    drawn = draw_all(summaries)
    for name, shown, targets in (("index", [], links), ("report", sections, anchors)):
        overview = [_line(summary, link) for summary, link in zip(summaries, targets, strict=True)]
        results.write_atomic(out / f"{name}.html", render.page("Experiments", shown, overview, drawn))


def _url(path: str) -> str:
    """A relative path as a link: no letter of it starts a scheme, a query or a fragment."""
    return "./" + quote(path)


def draw_all(summaries: Sequence[Summary]) -> list[RenderedFigure]:
    """Every primary difference between two arms: those in points on one axis, each other metric apart."""
    from mnet_jax import figures

    rows: dict[str, list[tuple[str, figures.DifferenceRow]]] = {}
    for summary in summaries:
        points = summary.metric.difference_unit == "points"
        title = "points" if points else formatting.difference_label(summary.metric)
        for verdict, line in zip(summary.verdicts, contrast_lines(summary), strict=False):
            if verdict.contrast.kind in ("greater", "equivalent") and verdict.difference.n > 1:
                label = f"{summary.sweep.experiment}:{summary.sweep.scale}\n{line.contrast}"
                row = figures.DifferenceRow(label, verdict.difference)
                rows.setdefault(title, []).append((summary.metric.title, row))
    drawn = []
    for title, named in rows.items():
        metrics = list(dict.fromkeys(metric for metric, _ in named))
        several = len(metrics) > 1
        shown = [replace(row, label=f"{row.label}, {metric}") if several else row for metric, row in named]
        axis = title if several or title != "points" else f"{metrics[0]}, points"
        caption = "Means with 95 % t-intervals, uncorrected."
        drawn.append(RenderedFigure(f"All differences in {title}", figures.forest(shown, axis), caption))
    return drawn


def _line(summary: Summary, link: str) -> dict[str, Any]:
    return {
        "link": link,
        "sweep": summary.sweep,
        "partial": summary.partial,
        "contrasts": contrast_lines(summary),
        "minutes": minutes(summary),
    }


def index_text(summaries: Sequence[Summary]) -> str:
    """The overview, as wide as the terminal."""
    from rich.table import Table as Grid

    console = render.terminal()
    wide = console.width >= 90
    widths = (26, 4, 8, 20) if wide else (13, 3, 7, 13)
    first = console.width - sum(widths) - 5

    def show(*lines: Sequence[str]) -> None:
        grid = Grid.grid(padding=(0, 1))
        for column, width in enumerate((first, *widths)):
            grid.add_column(width=width, justify="right" if column in (1, 2, 3) else "left", overflow="fold")
        for line in lines:
            grid.add_row(*map(render.plain, line))
        console.print(grid)

    show(("difference", "here [95 %]", "n", "p", "verdict"))
    for summary in summaries:
        sweep = summary.sweep
        facts = f"{formatting.difference_label(summary.metric)}; {summary.done} of {summary.total} runs"
        console.print()
        console.print(render.plain(f"{sweep.experiment}:{sweep.scale}  ({facts}, {minutes(summary)} min)"))
        for line in contrast_lines(summary):
            show((f"  {line.contrast}", line.here, line.n, line.p, line.outcome))
    return render.written(console)


START, END = "<!-- results -->", "<!-- end of results -->"


def write_readme(path: Path, summaries: Sequence[Summary]) -> None:
    """Rewrites what stands between the two comments of a Markdown file; UserError where they are missing."""
    before, start, rest = path.read_text().partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise UserError(f"{path} has no lines {START!r} and {END!r}; put them where the results are to stand")
    lines = []
    for summary in summaries:
        sweep, runs = summary.sweep, "" if not summary.partial else f", {summary.done} of {summary.total} runs"
        claim = sweep.claim
        name = f"`{sweep.experiment}:{sweep.scale}`{runs}"
        text = (claim.text or sweep.title) + (f" ({claim.source})" if claim.source else "")
        for line in contrast_lines(summary):
            here, p = f"{line.here} {line.unit}".strip(), f", p {line.p}" if line.p != "–" else ""
            lines.append((name, text, line.contrast, line.paper, here, line.n, f"{line.outcome}{p}"))
            name = text = ""
    header = ("experiment", "claim", "difference", "the paper's", "here [95 %]", "seeds", "verdict")
    table = render.markdown_table(Table("", header, tuple(lines)), left=3)
    results.write_atomic(path, f"{before}{START}\n{table}\n{END}{after}")
