"""Weights on disk: one safetensors file with the config inside."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx, traverse_util

from mnet_jax import config, models
from mnet_jax.results import write_atomic


def save(path: Path, params: Mapping[str, Any], batch_stats: Mapping[str, Any], cfg: Any) -> None:
    """Writes the weights and BatchNorm statistics of one run; names are module paths, "blocks.0.project.kernel"."""
    import safetensors.numpy

    tensors = {
        ".".join(map(str, name)): np.asarray(value, order="C")
        for tree in (params, batch_stats)
        for name, value in traverse_util.flatten_dict(dict(tree)).items()
    }
    metadata = {"config": json.dumps(config.flatten(cfg))}
    write_atomic(path, safetensors.numpy.save(tensors, metadata))


def load(path: str | Path) -> nnx.Module:
    """Builds the network that `save` wrote, in evaluation mode; ValueError where the file is not such a one."""
    import safetensors

    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, safetensors.SafetensorError) as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from None
    if "config" not in metadata:
        raise ValueError(f"{path} holds no mnet_jax config; allowed: files written at the end of a run")
    cfg = config.unflatten(json.loads(metadata["config"]))
    model = models.build(cfg.model, nnx.Rngs(0))
    graphdef, state = nnx.split(model)
    names = {".".join(map(str, name)): name for name in traverse_util.flatten_dict(nnx.to_pure_dict(state))}
    if missing := names.keys() ^ tensors.keys():
        raise ValueError(f"{path} does not fit {cfg.model.name}: {', '.join(sorted(missing)[:3])} .. on one side only")
    nnx.replace_by_pure_dict(
        state, traverse_util.unflatten_dict({names[name]: value for name, value in tensors.items()})
    )
    model = nnx.merge(graphdef, state)
    model.eval()
    return model
