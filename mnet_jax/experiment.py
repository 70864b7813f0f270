"""An experiment file, loaded: its settings, arms and claim, and the code that it may bring.

Beside `get_config(scale)`, `sweep(config)` and `claim`, a file may define

    network(cfg, rngs)   the network of every arm: a Flax NNX module, called as `mnet_jax.tasks.base.Task` says
    blocks               {"name": class}: blocks for `model.block`, built and called as those in models/blocks.py
    optimizer(cfg)       a function (learning rate, weight decay, mask) -> optax transformation (`mnet_jax.optim`)
    metrics              {config.Metric(...): function(outputs, targets) -> values [B]}: means over the test images
    dataset(data)        from the config's section `data` to a `data.dataset.Dataset`, in place of `data.source`
    task                 a `config.Task` of its own, for `config.task = task.name`
    fields               {"section.name": config.Field(...)}: fields of its own, for its arms to differ in

Workers import the file again, so it must be importable by its path alone, and is compared with what was planned.
"""

import ast
import difflib
import functools
import hashlib
import importlib.util
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mnet_jax import config, results
from mnet_jax.errors import UserError
from mnet_jax.fields import nearest
from mnet_jax.results import Sweep
from mnet_jax.tasks import TASKS, Metric, Task

BUILT_IN = frozenset(TASKS)
"""Names of tasks that an experiment cannot take."""

COPY = "experiment.py"
"""Name of the copy in the workdir."""


@dataclass(frozen=True)
class Code:
    """What of a run is code of the experiment file; None and {} stand for the package's own."""

    network: Callable[..., Any] | None = None
    blocks: Mapping[str, Any] | None = None
    optimizer: Callable[[Any], Any] | None = None
    metrics: Mapping[Metric, Callable[..., Any]] | None = None
    dataset: Callable[[Any], Any] | None = None
    task: Task | None = None
    fields: Mapping[str, config.Field] | None = None

    def __bool__(self) -> bool:
        return any(vars(self).values())

    def task_of(self, cfg: Any) -> Task:
        """The task of a config, with the file's network and metrics in it."""
        task = TASKS[cfg.task]
        if not task.trains:
            return task
        if self.network:
            task = replace(task, build=functools.partial(_build_network, self.network))
        elif self.blocks:
            task = replace(task, build=functools.partial(_build_with_blocks, self.blocks))
        return _with_metrics(task, self.metrics) if self.metrics else task

    def load_dataset(self, data: Any) -> Any:
        """The data set of the config's section `data`."""
        from mnet_jax.data import load
        from mnet_jax.data.dataset import Dataset

        if not self.dataset:
            return load.from_config(data)
        dataset = self.dataset(data)
        if not isinstance(dataset, Dataset):
            raise UserError(
                f"dataset(data) returned {type(dataset).__name__}; allowed: a mnet_jax.data.dataset.Dataset"
            )
        return dataset.resized(data.resolution) if data.resolution else dataset


@dataclass(frozen=True)
class Experiment:
    """An experiment file: its name and docstring, what it defines, and the digest of what its training depends on."""

    name: str
    doc: str
    get_config: Callable[[str], Any]
    sweep: Callable[[Any], Iterator[dict[str, Any]]]
    claim: Any
    path: Path
    source: str
    code: Code

    @property
    def fingerprint(self) -> dict[str, str]:
        """What sweep.json says of the file: {} where it brings no code."""
        return {"file": str(self.path.resolve()), "sha256": digest(self.source)} if self.code else {}


def load(path: Path) -> Experiment:
    """Imports an experiment file, again if it has changed; UserError where it is missing, broken or no experiment."""
    if not path.is_file():
        names = sorted(other.name for other in path.parent.glob("*.py")) if path.parent.is_dir() else []
        near = nearest(path.name, names)
        raise UserError(f"no experiment file {path}{near}; in {path.parent}: {', '.join(names) or 'none'}")
    try:
        return _load(path, path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


@functools.lru_cache(maxsize=64)
def _load(path: Path, source: str) -> Experiment:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None:
        raise UserError(f"{path} is no Python file; allowed: a name that ends in .py")
    module = importlib.util.module_from_spec(spec)
    try:
        exec(compile(source, path, "exec"), module.__dict__)  # what was read, not a byte code file beside it
    except (Exception, SystemExit) as error:
        raise UserError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    code = Code(**{name: _checked(path, name, getattr(module, name, None)) for name in Code.__dataclass_fields__})
    for name in ("get_config", "sweep"):
        if not callable(getattr(module, name, None)) and (name == "get_config" or hasattr(module, name)):
            raise UserError(f"{path} defines no function {name}; see any file in experiments/")
    if code.task:
        if code.task.name in BUILT_IN and TASKS[code.task.name] is not code.task:
            raise UserError(f"{path}: the task {code.task.name!r} exists already; choose another name")
        TASKS[code.task.name] = code.task
        config.add_fields(code.task.fields, str(path))
    config.add_fields(code.fields or {}, str(path))
    return Experiment(
        name=path.stem,
        doc=str(module.__doc__ or path.stem).strip(),
        get_config=module.get_config,
        sweep=getattr(module, "sweep", lambda _: iter([{}])),
        claim=getattr(module, "claim", {}),
        path=path,
        source=source,
        code=code,
    )


def _checked(path: Path, name: str, value: Any) -> Any:
    """What a file defines under a name of `Code`; UserError where it is of another kind."""
    kinds = {
        "task": (Task, "a config.Task"),
        "blocks": (Mapping, "a dict from names to classes"),
        "metrics": (Mapping, "a dict from config.Metric to functions"),
        "fields": (Mapping, "a dict from names to config.Field"),
    }
    words = ARGUMENTS.get(name, ())
    kind, allowed = kinds.get(name, (Callable, f"a function of ({', '.join(words)})"))
    fits = value is None or isinstance(value, kind)
    if fits and callable(value):
        fits = _takes(value, words)
    if fits and name == "blocks" and isinstance(value, Mapping):
        fits = all(isinstance(block, type) for block in value.values())
    if fits and name == "metrics" and isinstance(value, Mapping):
        fits = all(isinstance(metric, Metric) and callable(function) for metric, function in value.items())
    if not fits:
        raise UserError(f"{path}: {name} is {value!r}; allowed: {allowed}")
    return value


ARGUMENTS = {"network": ("cfg", "rngs"), "optimizer": ("cfg",), "dataset": ("data",)}
"""Name of `Code` -> what that function is called with."""


def _takes(function: Callable[..., Any], arguments: tuple[str, ...]) -> bool:
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError:
        return False
    except ValueError:  # of some functions in C nothing is known
        return True
    return True


def digest(source: str) -> str:
    """SHA-256 of what a file computes: of its syntax, without comments, its docstring and its claim."""
    tree = ast.parse(source)
    if ast.get_docstring(tree) is not None:
        del tree.body[0]
    tree.body = [node for node in tree.body if "claim" not in _defined(node)]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def _defined(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def code_of(workdir: Path, sweep: Sweep) -> Code:
    """The code that the runs of a plan need; UserError with the difference where the file is no longer the planned."""
    if not sweep.code:
        return Code()
    experiment = load(Path(sweep.code["file"]))
    if experiment.fingerprint != sweep.code:
        raise UserError(changed(workdir, experiment))
    return experiment.code


def changed(workdir: Path, experiment: Experiment) -> str:
    """Says how the file differs from the copy in the workdir."""
    copy = workdir / COPY
    before = copy.read_text(encoding="utf-8") if copy.exists() else ""
    lines = difflib.unified_diff(before.split("\n"), experiment.source.split("\n"), "planned", "now", lineterm="", n=0)
    difference = "\n".join(list(lines)[:20])
    return f"{experiment.path} is not the file that {workdir} was planned with; choose another --workdir\n{difference}"


def write_copy(workdir: Path, experiment: Experiment) -> None:
    """Keeps the file beside the plan, where it brings code."""
    if experiment.code:
        results.write_atomic(workdir / COPY, experiment.source)


def _build_network(network: Callable[..., Any], cfg: Any, rngs: Any) -> Any:
    """The file's network; kernels of this package's layers in it are drawn by `model.init`."""
    from flax import nnx

    from mnet_jax.models import init

    module = network(cfg, rngs)
    if not isinstance(module, nnx.Module):
        raise UserError(f"network(cfg, rngs) returned {type(module).__name__}; allowed: a flax.nnx.Module")
    init.initialize(module, rngs.params(), cfg.model.init)
    return module


def _build_with_blocks(blocks: Mapping[str, Any], cfg: Any, rngs: Any) -> Any:
    from mnet_jax import models

    return models.build(cfg.model, rngs, blocks)


def _with_metrics(task: Task, metrics: Mapping[Metric, Callable[..., Any]]) -> Task:
    """The task with more means over the test images."""
    by_name = {metric.name: of for metric, of in metrics.items()}

    def sums(outputs: Any, targets: Any, mask_B: Any, cfg: Any) -> dict[str, Any]:
        import jax.numpy as jnp

        added = {name: jnp.sum(jnp.where(mask_B > 0, of(outputs, targets), 0)) for name, of in by_name.items()}
        return {**task.sums(outputs, targets, mask_B, cfg), **added}

    def score(sums: Mapping[str, Any], kept: Mapping[str, Any], cfg: Any) -> dict[str, float]:
        assert task.score
        scored = task.score({name: value for name, value in sums.items() if name not in by_name}, kept, cfg)
        return {**scored, **{name: float(sums[name] / sums["images"]) for name in by_name}}

    return replace(task, metrics=lambda cfg: (*task.metrics(cfg), *metrics), sums=sums, score=score)
