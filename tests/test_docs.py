"""README and docs/: what they link to is there, their Python is Python, their figures are those of the whole table."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("launch/*.md")])


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    links = [link for link in re.findall(r"\]\(([^)#]+)", page.read_text()) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_is_python(page):
    for block in blocks(page, "python"):
        ast.parse(block)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_name_modules_and_experiments_that_are_there(page):
    text = page.read_text()
    for module in re.findall(r"python -m (mnet_jax[\w.]*)", text):
        path = ROOT / module.rstrip(".").replace(".", "/")
        door = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
        assert "main(" in door.read_text(), module
    for experiment in re.findall(r"experiments/(\w+)\.py", text):
        assert (ROOT / "experiments" / f"{experiment}.py").exists(), experiment


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_the_readmes_figures_are_those_of_the_whole_table():
    """Differences with their intervals, which stand once for each primary contrast in the table of all sweeps."""
    figures = re.findall(r"[+-][\d.]+ \[[^]]+\] points", (ROOT / "README.md").read_text())
    assert len(figures) >= 5
    measured = (ROOT / "docs" / "measured.md").read_text()
    assert [figure for figure in figures if figure not in measured] == []
