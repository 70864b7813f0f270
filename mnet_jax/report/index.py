"""Several sweeps at a glance: an index that links to their pages, and one page of all."""

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mnet_jax import results
from mnet_jax.report import render, words
from mnet_jax.report.pictures import Picture
from mnet_jax.report.summary import Summary


def write_index(out: Path, reports: Mapping[Path, tuple[Summary, Sequence[Picture]]]) -> None:
    """Writes OUT/index.html, whose lines lead to the reports of the workdirs, and OUT/report.html, which holds all."""
    summaries = [summary for summary, _ in reports.values()]
    sections = [render.section(summary, pictures) for summary, pictures in reports.values()]
    for number, section in enumerate(sections):
        section["anchor"] += f"-{number}"
    links = [os.path.relpath(workdir / "report.html", out) for workdir in reports]
    anchors = [f"#{section['anchor']}" for section in sections]
    drawn = draw_all(summaries)
    for name, shown, targets in (("index", [], links), ("report", sections, anchors)):
        overview = [_line(summary, link) for summary, link in zip(summaries, targets, strict=True)]
        results.write_atomic(out / f"{name}.html", render.page("Experiments", shown, overview, drawn))


def draw_all(summaries: Sequence[Summary]) -> list[Picture]:
    """Every primary difference in accuracy between two arms, on one axis."""
    from mnet_jax import figures

    rows = [
        figures.Against(f"{summary.sweep.experiment}:{summary.sweep.scale}\n{glance.contrast}", verdict.difference, ())
        for summary in summaries
        if summary.metric == "accuracy"
        for verdict, glance in zip(summary.verdicts, words.glances(summary), strict=False)
        if verdict.kind in ("greater", "equivalent") and verdict.difference.n > 1
    ]
    if not rows:
        return []
    figure = figures.forest(rows, words.difference_name("accuracy"))
    return [Picture("All differences in accuracy", figure, "Means with 95 % t-intervals, uncorrected.")]


def _line(summary: Summary, link: str) -> dict[str, Any]:
    return {
        "link": link,
        "sweep": summary.sweep,
        "claim": {"text": "", "source": "", "published": "", **summary.sweep.claim},
        "partial": summary.partial,
        "glances": () if summary.sweep.mode == "tune" else words.glances(summary),
        "minutes": words.minutes(summary),
    }


def index_text(summaries: Sequence[Summary]) -> str:
    """The overview for a terminal of 100 columns."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    file = io.StringIO()
    console = Console(file=file, width=100, color_system=None, force_terminal=False, force_jupyter=False)

    def show(*lines: Sequence[str]) -> None:
        grid = Table.grid(padding=(0, 1))
        for width, justify in ((37, "left"), (26, "right"), (4, "right"), (8, "right"), (20, "left")):
            grid.add_column(width=width, justify=justify, overflow="fold")
        for line in lines:
            grid.add_row(*map(Text, line))
        console.print(grid)

    show(("difference", "here [95 %]", "n", "p", "verdict"))
    for summary in summaries:
        sweep = summary.sweep
        made = f"{words.difference_name(summary.metric)}; {summary.done} of {summary.total} runs"
        console.print(Text(f"\n{sweep.experiment}:{sweep.scale}  ({made}, {words.minutes(summary)} min)"))
        for glance in () if sweep.mode == "tune" else words.glances(summary):
            show((f"  {glance.contrast}", glance.here, glance.n, glance.p, glance.outcome))
    return "\n".join(line.rstrip() for line in file.getvalue().split("\n"))


START, END = "<!-- results -->", "<!-- end of results -->"


def write_readme(path: Path, summaries: Sequence[Summary]) -> None:
    """Rewrites what stands between the two comments of a Markdown file; ValueError where they are missing."""
    before, start, rest = path.read_text().partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise ValueError(f"{path} has no lines {START!r} and {END!r}; put them where the results are to stand")
    lines = []
    for summary in summaries:
        sweep, runs = summary.sweep, "" if not summary.partial else f", {summary.done} of {summary.total} runs"
        claim = {"text": sweep.title, "source": "", **sweep.claim}
        name = f"`{sweep.experiment}:{sweep.scale}`{runs}"
        said = claim["text"] + (f" ({claim['source']})" if claim["source"] else "")
        for glance in () if sweep.mode == "tune" else words.glances(summary):
            here, p = f"{glance.here} {glance.unit}".strip(), f", p {glance.p}" if glance.p != "–" else ""
            lines.append((name, said, glance.contrast, glance.paper, here, glance.n, f"{glance.outcome}{p}"))
            name = said = ""
    header = ("experiment", "claim", "difference", "the paper's", "here [95 %]", "seeds", "verdict")
    table = render.markdown_table(words.Table("", header, tuple(lines)), left=3)
    results.write_atomic(path, f"{before}{START}\n{table}\n{END}{after}")
