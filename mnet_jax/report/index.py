"""Several sweeps at a glance: an index that links to their pages, and one page of all."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mnet_jax import formatting, results, stats
from mnet_jax.errors import UserError
from mnet_jax.report import render
from mnet_jax.report.drawing import RenderedFigure
from mnet_jax.report.sentences import minutes
from mnet_jax.report.summary import Summary
from mnet_jax.report.tables import ContrastLine, Table, contrast_lines


def write_index(out: Path, reports: Mapping[Path, tuple[Summary, Sequence[render.Figure]]]) -> None:
    """Writes OUT/index.html, whose lines lead to the reports of the workdirs, and OUT/report.html, which holds all."""
    summaries = [summary for summary, _ in reports.values()]
    sections = [render.section(summary, figures) for summary, figures in reports.values()]
    for number, section in enumerate(sections):
        section["anchor"] += f"-{number}"
    links = [_url(os.path.relpath(workdir / "report.html", out)) for workdir in reports]
    anchors = [f"#{section['anchor']}" for section in sections]
    drawn, corrected = draw_all(summaries), corrected_lines(summaries)
    for name, shown, targets in (("index", [], links), ("report", sections, anchors)):
        overview = [_line(*each) for each in zip(summaries, corrected, targets, strict=True)]
        page = render.page("Experiments", shown, overview, drawn, families(summaries))
        results.write_atomic(out / f"{name}.html", page)


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


def corrected_lines(summaries: Sequence[Summary]) -> list[list[tuple[ContrastLine, str]]]:
    """The lines of each summary, each with its p after Benjamini and Hochberg's correction over all summaries."""
    verdicts = [verdict for summary in summaries for verdict in summary.verdicts]
    corrected = map(formatting.p_text, stats.benjamini_hochberg([verdict.p for verdict in verdicts]))
    return [
        [(line, next(corrected) if summary.verdicts else "–") for line in contrast_lines(summary)]
        for summary in summaries
    ]


def families(summaries: Sequence[Summary]) -> str:
    """How many primary contrasts stand side by side, and how many would be decided if there were nothing to find."""
    contrasts = sum(len(summary.verdicts) for summary in summaries)
    experiments = sum(bool(summary.verdicts) for summary in summaries)
    if not contrasts:
        return ""
    return (
        f"Primary contrasts here: {contrasts}, in {experiments} experiments. If there were nothing to find in any, "
        f"uncorrected tests would still decide about {stats.ALPHA * contrasts:.1f} of them, falsely, and Holm's "
        f"correction, which runs within an experiment, about {stats.ALPHA * experiments:.1f}. BH is p corrected over "
        "all of them (Benjamini and Hochberg 1995): of those at or below .05 there, about 5 % are expected to be false."
    )


def _line(summary: Summary, contrasts: Sequence[tuple[ContrastLine, str]], link: str) -> dict[str, Any]:
    return {
        "link": link,
        "sweep": summary.sweep,
        "partial": summary.partial,
        "contrasts": contrasts,
        "minutes": minutes(summary),
    }


def index_text(summaries: Sequence[Summary]) -> str:
    """The overview, as wide as the terminal."""
    from rich.table import Table as Grid

    console = render.terminal()
    wide = console.width >= 90
    widths = (26, 4, 8, 8, 20) if wide else (13, 3, 7, 7, 13)
    first = console.width - sum(widths) - 6

    def show(*lines: Sequence[str]) -> None:
        grid = Grid.grid(padding=(0, 1))
        for column, width in enumerate((first, *widths)):
            grid.add_column(width=width, justify="right" if column in (1, 2, 3, 4) else "left", overflow="fold")
        for line in lines:
            grid.add_row(*map(render.plain, line))
        console.print(grid)

    show(("difference", "here [95 %]", "n", "p", "BH", "verdict"))
    for summary, lines in zip(summaries, corrected_lines(summaries), strict=True):
        sweep = summary.sweep
        facts = f"{formatting.difference_label(summary.metric)}; {summary.done} of {summary.total} runs"
        console.print()
        console.print(render.plain(f"{sweep.experiment}:{sweep.scale}  ({facts}, {minutes(summary)} min)"))
        for line, corrected in lines:
            show((f"  {line.contrast}", line.here, line.n, line.p, corrected, line.outcome))
    console.print()
    console.print(render.plain(families(summaries), "dim"))
    return render.written(console)


START, END = "<!-- results -->", "<!-- end of results -->"


def write_readme(path: Path, summaries: Sequence[Summary]) -> None:
    """Rewrites what stands between the two comments of a Markdown file; UserError where they are missing."""
    before, start, rest = path.read_text().partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise UserError(f"{path} has no lines {START!r} and {END!r}; put them where the results are to stand")
    rows = []
    for summary, lines in zip(summaries, corrected_lines(summaries), strict=True):
        sweep, runs = summary.sweep, "" if not summary.partial else f", {summary.done} of {summary.total} runs"
        claim = sweep.claim
        name = f"`{sweep.experiment}:{sweep.scale}`{runs}"
        text = (claim.text or sweep.title) + (f" ({claim.source})" if claim.source else "")
        for line, corrected in lines:
            here, p = f"{line.here} {line.unit}".strip(), f", p {line.p}" if line.p != "–" else ""
            rows.append((name, text, line.contrast, line.paper, here, line.n, f"{line.outcome}{p}", corrected))
            name = text = ""
    header = ("experiment", "claim", "difference", "the paper's", "here [95 %]", "seeds", "verdict", "BH")
    table = render.markdown_table(Table("", header, tuple(rows)), left=3)
    words = f"{table}\n\n{families(summaries)}".rstrip()
    results.write_atomic(path, f"{before}{START}\n{words}\n{END}{after}")
