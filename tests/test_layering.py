"""Imports go down only: words, parts, sums, the loop, doors."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "mnet_jax"

WORDS = (
    ("errors",),
    ("fields", "flags", "models.specs", "runtime", "table"),
    ("schema", "tasks.base"),
    ("tasks",),
    ("config",),
    ("results", "stats"),
    ("bucket", "formatting", "tuning"),
)
PARTS = (
    (
        *("checkpoint", "detection", "locks", "metrics_log", "ops", "optim", "progress", "provenance"),
        *("sharding", "workers"),
    ),
    ("figures", "models"),
    ("convert", "data"),
)
SUMS = (
    ("analysis", "cost", "deploy", "experiment", "feed", "step"),
    ("arms", "jobs", "trained"),
    ("arm_cost",),
    ("sweep",),
)
LOOP = (
    ("capacity", "needs", "report", "status"),
    ("train",),
    ("estimate",),
    ("worker",),
)
DOORS = (
    ("analysis.__main__", "convert.__main__", "deploy.__main__", "laboratory"),
    ("bench", "main"),
    ("__main__",),
)
FLOORS = (*WORDS, *PARTS, *SUMS, *LOOP, *DOORS)
"""From the bottom to the top. A room imports rooms of lower floors; those of one floor do not know one another."""

ORDERED = {
    "config": ("claims", "table", "settings", "arms", "scales"),
    "detection": ("boxes", "anchors", "matching", "suppression", "average_precision"),
    "data": (
        "transforms",
        "augment",
        "disk",
        "dataset",
        "builtin",
        "masks",
        "boxes",
        "scenes",
        "tables",
        "load",
        "pipeline",
        "prepare",
    ),
    "report": ("kept", "summary", "tables", "sentences", "drawing", "paper", "render", "index"),
}
"""Rooms whose files import only those before them."""

UPWARD = {
    ("models", "trained"),
    ("tasks.base", "data"),
    ("tasks.base", "models"),
    *(("tasks.classification", room) for room in ("arms", "data", "experiment", "figures", "results", "stats")),
    ("tasks.attributes", "figures"),
    *(("tasks.detection", room) for room in ("data", "detection", "figures", "models")),
    *(("tasks.segmentation", room) for room in ("data", "figures", "models")),
    *(("tasks.shown", room) for room in ("arms", "data", "experiment", "results", "stats", "trained")),
    ("tasks.spiral", "figures"),
    ("tasks.spiral", "results"),
}
"""What a task's functions import when they are called: the words know the record, not what it is computed with. The
pictures of masks and boxes load trained networks, and `models.load` is where users look for them.
"""


def name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name(path): path for path in sorted(ROOT.rglob("*.py"))}


def imports(tree, package):
    """The modules of the project that a syntax tree of a file in this package imports, anywhere in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = f"mnet_jax.{package}".rstrip(".").split(".")
            base = above[: len(above) + 1 - node.level] if node.level else []
            names = [".".join([*base, *filter(None, [node.module]), alias.name]) for alias in node.names]
        else:
            continue
        for full in names:
            root, *parts = full.split(".")
            while ".".join(parts) not in MODULES:
                parts.pop()
            if root == "mnet_jax" and parts:
                yield ".".join(parts)


def imported(module):
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    return set(imports(ast.parse(path.read_text()), package))


def room(module):
    rooms = {entry for floor in FLOORS for entry in floor}
    return next(entry for entry in (module, module.split(".")[0]) if entry in rooms)


def floor(module):
    return next(number for number, rooms in enumerate(FLOORS) if room(module) in rooms)


@pytest.mark.parametrize(
    ("package", "line", "expected"),
    [
        ("", "from mnet_jax import train, config", {"train", "config"}),
        ("report", "import mnet_jax.train", {"train"}),
        ("report", "from mnet_jax.config.claims import Claim", {"config.claims"}),
        ("report", "from .. import train", {"train"}),
        ("report", "from ..data.dataset import split", {"data.dataset"}),
        ("models.zoo", "from ..layers import Dense", {"models.layers"}),
        ("report", "from .summary import Summary", {"report.summary"}),
        ("report", "def f():\n    from mnet_jax import train", {"train"}),
        ("", "from mnet_jax import __version__\nimport jax.numpy", set()),
    ],
)
def test_every_kind_of_import_is_seen(package, line, expected):
    assert set(imports(ast.parse(line), package)) == expected


def test_every_module_has_a_floor_and_every_room_a_module():
    rooms = [entry for floor in FLOORS for entry in floor]
    assert len(rooms) == len(set(rooms))
    assert {room(module) for module in MODULES if module} == set(rooms)


def test_imports_go_down_only():
    upward = {
        (module, room(other))
        for module in filter(None, MODULES)
        for other in imported(module)
        if room(other) != room(module) and floor(other) >= floor(module)
    }
    assert upward == UPWARD


@pytest.mark.parametrize(("folder", "files"), ORDERED.items())
def test_files_of_a_room_import_those_before_them(folder, files):
    assert {path.stem for path in (ROOT / folder).glob("*.py")} == {"__init__", *files}
    for index, file in enumerate(files):
        inside = {module for module in imported(f"{folder}.{file}") if room(module) == folder}
        assert inside <= {f"{folder}.{earlier}" for earlier in files[:index]}, file


def imported_at_once(tree):
    """The packages whose import is executed when the file is imported, or that it does not name."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").split(".")[0]


@pytest.mark.parametrize("module", [module for module in MODULES if module and floor(module) < len(WORDS)])
def test_words_know_no_jax(module):
    assert not {"jax", "flax", "optax"} & set(imported_at_once(ast.parse(MODULES[module].read_text())))


def test_experiments_import_only_config_and_what_blocks_are_built_from(experiments):
    for path in experiments.glob("*.py"):
        allowed = {"config", "models.blocks", "models.layers"} if path.stem == "v2_squeeze_excite" else {"config"}
        assert set(imports(ast.parse(path.read_text()), "")) <= allowed, path.name


def test_only_figures_plots():
    plotting = {
        module
        for module, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Import) and any(alias.name.split(".")[0] == "matplotlib" for alias in node.names))
        or (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "matplotlib")
    }
    assert plotting
    assert {room(module) for module in plotting} == {"figures"}
