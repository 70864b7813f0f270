"""Rows -> sentences, tables and figures: for a terminal, a paper, a browser.

`summary` reads and decides; `sentences`, `tables` and `drawing` say it; `render` and `paper` print; `index` sets
several sweeps side by side.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from mnet_jax import locks, results
from mnet_jax.report import kept
from mnet_jax.report.drawing import draw
from mnet_jax.report.index import index_text, write_index, write_readme
from mnet_jax.report.paper import arms_csv, runs_csv, to_latex
from mnet_jax.report.render import Figure, to_html, to_markdown, to_text
from mnet_jax.report.summary import Summary, summarize
from mnet_jax.report.tables import main_tables, more_tables

__all__ = [
    "draw",
    "index_text",
    "summarize",
    "to_html",
    "to_latex",
    "to_markdown",
    "to_text",
    "write",
    "write_index",
    "write_readme",
]


def write(workdir: Path) -> tuple[Summary, Sequence[Figure]]:
    """Writes report.md, report.html, figures/ and tables/ from what is finished; raises as `summarize` does.

    Nothing is drawn or written where the report stands there already and nothing has changed since.
    """
    with locks.report_lock(workdir):
        source = kept.source(workdir)
        summary = summarize(workdir)
        if (there := kept.read(workdir, source)) is not None:
            return summary, there
        drawn = draw(workdir, summary)
        files: dict[str, str | bytes] = {"report.md": to_markdown(summary), "report.html": to_html(summary, drawn)}
        for figure in drawn:
            files |= {
                f"figures/{_name(figure.title)}.svg": figure.svg,
                f"figures/{_name(figure.title)}.pdf": figure.pdf,
            }
        for table in main_tables(summary) + more_tables(summary):
            files[f"tables/{_name(table.title)}.tex"] = to_latex(table)
        files |= {"tables/arms.csv": arms_csv(summary), "tables/runs.csv": runs_csv(summary)}
        for name, content in files.items():
            results.write_atomic(workdir / name, content)
        pictures = {f"figures/{_name(figure.title)}.svg": (figure.title, figure.caption) for figure in drawn}
        kept.write(workdir, source, list(files), pictures)
    return summary, drawn


def _name(title: str) -> str:
    """As the name of a file."""
    return re.sub(r"[^a-z0-9]+", "_", title.lower())
