"""Pages of the documentation that are made from the code: MkDocs calls `on_files` when it builds the site."""

import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent

COMMANDS = ("main", "cost", "bench", "analysis", "data.prepare")
"""Modules of `python -m mnet_jax.NAME`."""

PUBLIC = (
    ("laboratory", ("plan", "train", "report")),
    ("results", ("load",)),
    ("models", ("build", "load")),
    ("trained", ("TrainedNetwork",)),
    ("cost", ("count",)),
    (
        "config",
        ("at_scale", "override", "greater", "equivalent", "trend", "interaction", "straight", "off_line", "tuned"),
    ),
    ("data.dataset", ("from_arrays",)),
    ("tasks.base", ("Task", "Metric")),
)
"""Modules, and what of them is public."""

GALLERY = "MNET_GALLERY"
"""The environment variable with the folder of the workdirs that the gallery shows."""


def fields() -> str:
    """Every field of the config, with its default, its allowed values and its meaning."""
    from mnet_jax import config

    lines = [
        "# Fields",
        "",
        "Each can be set by `--config.FIELD=VALUE`, in `get_config` and in the rows of `sweep`. Defaults",
    ]
    lines += ["are those of the papers; a scale sets others.", ""]
    section = None
    for name, field in config.FIELDS.items():
        head = name.rpartition(".")[0] or "The sweep"
        if head != section:
            section = head
            lines += ["", f"## {head}", "", "| field | default | allowed | meaning |", "|---|---|---|---|"]
        cells = (f"`{name}`", f"`{field.default!r}`", _allowed(field), field.meaning)
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def _allowed(field: Any) -> str:
    from mnet_jax.fields import LARGEST, Range

    if isinstance(field.allowed, Range):
        low, high = field.allowed
        return f"at least {low:g}" if high == LARGEST else f"{low:g} to {high:g}"
    if field.allowed:
        return ", ".join(f"`{value}`" for value in field.allowed)
    kinds = {int: "a whole number", float: "a number", bool: "`True`, `False`", str: "a word", tuple: "a tuple"}
    return kinds[type(field.default)]


def experiments() -> str:
    """The shipped experiment files by scale, and the docstring of each."""
    from mnet_jax import experiment, laboratory

    paths = sorted((ROOT / "experiments").glob("*.py"))
    listing = laboratory.listing([os.path.relpath(path) for path in paths])
    lines = [
        "# Experiments",
        "",
        "What `python -m mnet_jax.main --list` prints, here on the machine that built this page:",
    ]
    lines += ["", "```", *listing.split("\n"), "```"]
    for path in paths:
        loaded = experiment.load(path)
        lines += ["", f"## {path.stem}", "", "```", loaded.doc, "```"]
    return "\n".join(lines) + "\n"


def commands() -> str:
    """What each command line prints for --help."""
    lines = ["# Command lines", "", "`mnet-jax`, `python -m mnet_jax` and `python -m mnet_jax.main` are the same."]
    for name in COMMANDS:
        command = [sys.executable, "-m", f"mnet_jax.{name}", "--help"]
        environment = os.environ | {"COLUMNS": "100"}
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=environment)
        lines += ["", f"## mnet_jax.{name}", "", "```", *done.stdout.rstrip().split("\n"), "```"]
    return "\n".join(lines) + "\n"


def api() -> str:
    """Signatures and docstrings of what is public."""
    import importlib

    lines = ["# Python", "", "This is public and kept stable; everything else may move."]
    for module, names in PUBLIC:
        loaded = importlib.import_module(f"mnet_jax.{module}")
        lines += ["", f"## mnet_jax.{module}"]
        for name in names:
            thing = getattr(loaded, name)
            first, _, rest = inspect.cleandoc(thing.__doc__ or "").partition("\n\n")
            signature = re.sub(r"\b(?:\w+\.)+(?=\w)", "", str(inspect.signature(thing)))
            lines += ["", f"### {name}", "", "```python", f"{name}{signature}", "```", "", first]
            lines += ["", "```text", rest, "```"] if rest else []
    return "\n".join(lines) + "\n"


def gallery(folder: Path | None) -> str:
    """A line for each report of the workdirs in a folder, which `on_files` puts beside this page."""
    lines = ["# Gallery", "", "Reports as the laboratory writes them: each is one file that needs no network."]
    for report in _reports(folder):
        text = (report.parent / "report.md").read_text()
        verdict = re.search(r"- (\*\*.*)", text)
        title = text.split("\n\n")[1]
        lines += ["", f"- [{title}](gallery/{report.parent.name}.html)  "]
        lines += [f"  {verdict[1]}"] if verdict else []
    if len(lines) == 3:
        lines += ["", f"This site was built without any: set `{GALLERY}` to a folder of workdirs, and build it again."]
    return "\n".join(lines) + "\n"


def _reports(folder: Path | None) -> Iterator[Path]:
    yield from sorted(folder.glob("*/report.html")) if folder else ()


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages above, the reports of the gallery and the pictures of experiments/results."""
    from mkdocs.structure.files import File  # pyrefly: ignore

    folder = Path(os.environ[GALLERY]) if os.environ.get(GALLERY) else None
    made: dict[str, str] = {"gallery.md": gallery(folder)}
    made |= {f"gallery/{report.parent.name}.html": report.read_text() for report in _reports(folder)}
    made |= {f"reference/{page.__name__}.md": page() for page in (fields, experiments, commands, api)}
    made |= {f"results/{path.name}": path.read_text() for path in (ROOT / "experiments" / "results").glob("*.svg")}
    for name, content in made.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Pictures lie beside the pages in the site, and in experiments/results in the repository."""
    return markdown.replace("](../experiments/results/", "](results/")
