"""Weights on disk: one safetensors file, with what is needed to use the network in its header."""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
from flax import nnx, traverse_util

from mnet_jax import config, schema
from mnet_jax.errors import UserError
from mnet_jax.results import write_atomic
from mnet_jax.tasks import TASKS

HEADER = "mnet_jax"
"""Key of the header in the file's metadata."""

FORMAT = 1
"""Of the header; to be raised when a change of it would be read wrongly."""


class Header(TypedDict):
    """What a weights file says of itself; `mnet_jax.trained.TrainedNetwork` says what each means."""

    config: dict[str, Any]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...]
    input_shape: tuple[int, int, int]
    experiment: NotRequired[dict[str, str | int]]
    version: NotRequired[str]
    task: NotRequired[str]


Tree = Mapping[str, Any]
"""A pure dict of arrays, {"classifier": {"kernel": ...}, ...}."""


def abstract(task: Any, cfg: Any) -> nnx.Module:
    """The network of a config with shapes in the place of arrays: nothing is computed, and no traced field read."""
    static = config.without_traced(cfg)
    return nnx.eval_shape(lambda: task.build(static, nnx.Rngs(0)))


def split(network: nnx.Module) -> tuple[Any, Tree, Tree]:
    """The structure, the parameters and BatchNorm's statistics of a network."""
    graphdef, params, batch_stats = nnx.split(network, nnx.Param, nnx.BatchStat)
    return graphdef, nnx.to_pure_dict(params), nnx.to_pure_dict(batch_stats)


def flatten(*trees: Tree) -> dict[str, Any]:
    """{"blocks.0.project.kernel": array, ...} of several trees."""
    return {
        ".".join(map(str, path)): value
        for tree in trees
        for path, value in traverse_util.flatten_dict(dict(tree)).items()
    }


def unflatten(tensors: Mapping[str, Any], like: Tree) -> Tree:
    """The inverse of `flatten` for one tree with these paths."""
    paths = traverse_util.flatten_dict(dict(like))
    return traverse_util.unflatten_dict({path: tensors[".".join(map(str, path))] for path in paths})


def fingerprint(*trees: Tree) -> str:
    """12 hex digits of the names and shapes of all weights: networks with equal ones can exchange them."""
    return fingerprint_of_shapes({name: value.shape for name, value in flatten(*trees).items()})


def fingerprint_of_shapes(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """The `fingerprint` of weights with these names and shapes."""
    listed = sorted((name, list(shape)) for name, shape in shapes.items())
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:12]


def save(path: Path, params: Tree, batch_stats: Tree, header: Mapping[str, Any]) -> None:
    """Writes the weights and BatchNorm's statistics of one run, and a `Header` of JSON values."""
    import safetensors.numpy

    tensors = {name: np.asarray(value, order="C") for name, value in flatten(params, batch_stats).items()}
    # One key: of several, safetensors writes another order in every process.
    metadata = {HEADER: json.dumps({"format": FORMAT, **header})}
    write_atomic(path, safetensors.numpy.save(tensors, metadata))


def read(path: str | Path) -> tuple[dict[str, np.ndarray], Header]:
    """The tensors and the header of a file that `save` wrote; UserError where the file is not such a one."""
    import safetensors

    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        header = json.loads(metadata.get(HEADER, "{}"))
    except (OSError, ValueError, RecursionError, safetensors.SafetensorError) as error:
        raise UserError(f"{path} is not a readable safetensors file: {error}") from None
    if not header:
        raise UserError(f"{path} holds no mnet_jax config; allowed: files written at the end of a run")
    where = f"{path}: its header"
    parsed = schema.parse(schema.without_format(header, FORMAT, where), Header, where)
    mean, std, shape = parsed["mean"], parsed["std"], parsed["input_shape"]
    if not (all(map(math.isfinite, (*mean, *std))) and min((*std, *shape), default=1) > 0):
        raise UserError(f"{where}: mean {mean}, std {std}, input_shape {shape}; allowed: finite, the last two positive")
    return tensors, parsed


def config_of(path: str | Path, header: Header) -> Any:
    """The config that the network of a file was trained with; UserError where this version has no such config."""
    try:
        cfg = config.unflatten(header["config"])
    except UserError as error:
        raise UserError(f"{path} is of another version of mnet_jax: {error}") from error
    if cfg.task not in TASKS:
        raise UserError(f"{path} is of the task {cfg.task!r}; allowed: {', '.join(TASKS)}")
    return cfg


def fit(path: str | Path, tensors: Mapping[str, Any], wanted: Mapping[str, Any], partly: bool = False) -> list[str]:
    """Which of the wanted tensors the file has, by name and shape; UserError where some are missing, unless `partly`.

    `wanted` are arrays, or shapes of them, by name.
    """
    fitting = [name for name, value in wanted.items() if name in tensors and tensors[name].shape == tuple(value.shape)]
    rest = sorted(set(wanted) - set(fitting) | set(tensors) - set(wanted))
    if rest and not partly:

        def shape(among: Mapping[str, Any]) -> str:
            return str(list(among[rest[0]].shape)) if rest[0] in among else "missing"

        raise UserError(
            f"{path} does not fit: {rest[0]} is {shape(tensors)} there and {shape(wanted)} in the network "
            f"({len(rest)} of {len(wanted)} differ)"
        )
    if not fitting:
        raise UserError(f"{path}: none of its {len(tensors)} tensors fits the network by name and shape")
    return fitting
