"""Imports go down only. The layers: words, parts, sums, loop, words out, door."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "mnet_jax"

WORDS = {"config", "models.specs", "results", "stats"}
PARTS = {
    "ops": set(),
    "models": {"ops"},
    "data": {"figures"},
    "optim": set(),
    "sharding": set(),
    "tasks": set(),
    "figures": set(),
    "errors": set(),
    "flags": {"errors"},
    "table": set(),
}
ALLOWED = {
    "cost": {"models", "figures", "errors", "flags", "table"},
    "step": {"models", "tasks", "optim", "data", "sharding"},
    "sweep": {"cost", "data"},
    "checkpoint": set(),
    "analysis": {"step", "sweep", "data", "models", "figures", "sharding"},
    "inputs": {"data", "sharding"},
    "scaling": {"step", "sweep", "data", "sharding"},
    "train": {
        "analysis",
        "inputs",
        "step",
        "sweep",
        "checkpoint",
        "optim",
        "data",
        "models",
        "ops",
        "tasks",
        "sharding",
    },
    "budget": {"sweep", "train"},
    "runtime": set(),
    "workers": set(),
    "report": {"figures", "analysis"},
    "bench": {"runtime", "workers", "sweep", "step", "data", "models", "ops", "sharding", "cost", "figures"}
    | {"errors", "flags", "table"},
    "main": {"budget", "runtime", "sweep", "workers", "train", "report", "scaling", "sharding"},
}
INSIDE = {"report": ("summary", "words", "pictures", "paper", "render", "index")}
"""Rooms whose files import only those before them."""

WORDS_KNOW = {"config": {"models.specs"}, "models.specs": set(), "results": set(), "stats": set()}


def modules():
    return sorted(path for path in ROOT.rglob("*.py") if path.name != "__init__.py")


def name(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def imports(path):
    """The project's modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "mnet_jax":
            base = node.module.removeprefix("mnet_jax").lstrip(".")
            for alias in node.names:
                full = f"{base}.{alias.name}".lstrip(".")
                yield full if (ROOT / (full.replace(".", "/") + ".py")).exists() or not base else base


def room(module):
    return module if module in WORDS else module.split(".")[0]


@pytest.mark.parametrize("path", modules(), ids=name)
def test_imports_go_down_only(path):
    mine = name(path)
    allowed = WORDS_KNOW[mine] if mine in WORDS else WORDS | (PARTS | ALLOWED)[room(mine)] | {room(mine)}
    for module in imports(path):
        assert room(module) in allowed, f"{mine} imports {module}"


@pytest.mark.parametrize(("folder", "files"), INSIDE.items())
def test_files_of_a_room_import_those_before_them(folder, files):
    assert {path.stem for path in (ROOT / folder).glob("*.py")} == {"__init__", *files}
    for index, file in enumerate(files):
        inside = [module for module in imports(ROOT / folder / f"{file}.py") if room(module) == folder]
        assert set(inside) <= {f"{folder}.{earlier}" for earlier in files[:index]}, file


def test_every_room_has_a_layer():
    assert {room(name(path)) for path in modules()} == WORDS | PARTS.keys() | ALLOWED.keys()


@pytest.mark.parametrize("module", sorted(WORDS))
def test_words_know_no_jax(module):
    path = ROOT / (module.replace(".", "/") + ".py")
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not any(imported.split(".")[0] in ("jax", "flax", "optax") for imported in names)


def test_experiments_import_only_config(experiments):
    for path in experiments.glob("*.py"):
        assert set(imports(path)) <= {"config"}, path.name


def test_only_report_makes_pictures():
    for path in modules():
        if name(path) != "figures":
            assert "matplotlib" not in path.read_text(), name(path)
