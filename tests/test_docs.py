"""README and docs/: links lead somewhere, code is code, experiments and commands run up to the plan, figures agree."""

import ast
import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from mnet_jax import config, experiment, laboratory, main, sweep

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("launch/*.md")])
MADE = ("fields.md", "experiments.md", "commands.md", "api.md", "gallery.md")
"""Pages that docs/generate.py makes."""


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    links = [link for link in re.findall(r"\]\(([^)#]+)", page.read_text()) if "://" not in link]
    links = [link for link in links if Path(link).name not in MADE]
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_is_python(page):
    for block in blocks(page, "python"):
        ast.parse(block)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_name_modules_and_experiments_that_are_there(page):
    text = page.read_text()
    for module in re.findall(r"python -m (mnet_jax\.[\w.]*)", text):
        path = ROOT / module.rstrip(".").replace(".", "/")
        door = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
        assert "main(" in door.read_text(), module
    for name in re.findall(r"experiments/(\w+)\.py", text):
        assert (ROOT / "experiments" / f"{name}.py").exists(), name


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_the_readmes_figures_are_those_of_the_whole_table():
    """Differences with their intervals, which stand once for each primary contrast in the table of all sweeps."""
    figures = re.findall(r"[+-][\d.]+ \[[^]]+\] points", (ROOT / "README.md").read_text())
    assert len(figures) >= 5
    measured = (ROOT / "docs" / "measured.md").read_text()
    assert [figure for figure in figures if figure not in measured] == []


EXPERIMENTS = [
    (page, block)
    for page in PAGES
    for block in blocks(page, "python")
    if "def get_config" in block and "claim =" in block
]
TUTORIALS = {"my_block.md": "digits", "photographs.md": "photos", "paper_claim.md": "digits"}
"""Page -> the scale of its experiment."""


@pytest.mark.parametrize(("page", "block"), EXPERIMENTS, ids=[page.name for page, _ in EXPERIMENTS])
def test_experiments_of_the_docs_are_whole(page, block, tmp_path, monkeypatch):
    """All of the plan but costs, which need the data."""
    monkeypatch.setattr(sweep, "with_costs", lambda arms, *_: arms)
    monkeypatch.setattr(sweep, "fit_to_data", lambda cfg, code: cfg.model.update(num_classes=10, in_channels=1))
    path = tmp_path / "mine.py"
    path.write_text(block)
    plan = sweep.plan(experiment.load(path), TUTORIALS.get(page.name, "digits"), {}, "train", "")
    assert len(plan.arms) > 1
    assert plan.claim.contrasts


@pytest.mark.parametrize(
    "page", [page for page in PAGES if "mnet_jax.main" in page.read_text()], ids=lambda page: page.name
)
def test_commands_are_taken_by_the_command_line(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    lines = [line.split("#")[0] for block in blocks(page, "sh") for line in block.splitlines()]
    for line in (line for line in lines if "python -m mnet_jax.main" in line):
        flags, overrides = main.parse(shlex.split(line.partition("mnet_jax.main")[2]))
        assert overrides.keys() <= config.FIELDS.keys()
        laboratory.check([file for file in flags.config if file.startswith("experiments/")], overrides)


def test_pages_are_made_of_every_field_experiment_and_command():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    fields, api = generate.fields(), generate.api()
    assert [name for name in config.FIELDS if f"| `{name}` |" not in fields] == []
    assert "| `seeds` | `12` | 1 to 9999 | seeds 0..n-1 of every arm |" in fields
    assert all(f"### {name}" in api for _, names in generate.PUBLIC for name in names)
    assert "<class" not in api
