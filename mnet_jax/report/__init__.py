"""Rows -> what was found, in words and pictures: for a terminal, a paper, a browser.

`summary` reads and decides, `words` and `pictures` say it, `render` prints, `index` sets several sweeps side by side.
"""

import re
from pathlib import Path

from mnet_jax import results
from mnet_jax.report.index import index_text, write_index, write_readme
from mnet_jax.report.pictures import Picture, draw
from mnet_jax.report.render import to_html, to_markdown, to_text
from mnet_jax.report.summary import Summary, summarize

__all__ = [
    "draw",
    "index_text",
    "summarize",
    "to_html",
    "to_markdown",
    "to_text",
    "write",
    "write_index",
    "write_readme",
]


def write(workdir: Path) -> tuple[Summary, list[Picture]]:
    """Writes report.md, report.html and figures/ from what is finished; raises as `summarize` does."""
    summary = summarize(workdir)
    pictures = draw(workdir, summary)
    results.write_atomic(workdir / "report.md", to_markdown(summary))
    results.write_atomic(workdir / "report.html", to_html(summary, pictures))
    for picture in pictures:
        name = re.sub(r"[^a-z0-9]+", "_", picture.title.lower())
        results.write_atomic(workdir / "figures" / f"{name}.svg", picture.svg)
    return summary, pictures
