"""Weights that a run needs from others: those that it starts from, and its teacher's."""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mnet_jax import config, jobs, results, sharding, step
from mnet_jax.arms import arm_config
from mnet_jax.errors import UserError
from mnet_jax.experiment import Code
from mnet_jax.models import weights
from mnet_jax.results import Run, Sweep
from mnet_jax.tasks import TASKS


class Source(NamedTuple):
    """One weights file that a run needs: its tensors and header, where it comes from, and what `start_from` takes.

    `record` is what the row says of it: {"role", "run" or "file", "sha256"}.
    """

    tensors: dict[str, np.ndarray]
    header: weights.Header
    record: dict[str, str]
    partly: bool


def load(workdir: Path, plan: Sweep, run: Run) -> dict[str, Source]:
    """Role -> the weights that this run needs; UserError where a file is not there or not the planned one."""
    arm = plan.arm(run.arm)
    cfg = arm_config(plan.config, arm)
    runs = {need.role: needed for need, needed in jobs.needed_runs(plan, run)}
    sources = {}
    for need in arm.needs:
        path, record = Path(need.file), {"role": need.role, "file": need.file}
        if need.arm:
            needed = runs[need.role].name
            path, record = results.run_dir(workdir, needed) / "weights.safetensors", {"role": need.role, "run": needed}
        try:
            record["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise UserError(f"{run.name} needs {path} as {need.role}: {error}") from error
        if need.sha256 and record["sha256"] != need.sha256:
            raise UserError(f"{path} is not the file that was planned with: its SHA-256 is {record['sha256']}")
        partly = need.role == "init_from" and cfg.train.init_match == "fitting"
        sources[need.role] = Source(*weights.read(path), record, partly)
    return sources


def start_from(state: step.State, sources: Sequence[dict[str, Source]], mesh: Mesh) -> step.State:
    """The state with the weights of every run's "init_from"; says what was left out where only what fits is taken."""
    if not any("init_from" in of_run for of_run in sources):
        return state
    trees = {part: sharding.fetch(state[part]) for part in ("params", "batch_stats")}
    arrays = {name: np.array(array_S) for name, array_S in weights.flatten(*trees.values()).items()}
    for number, of_run in enumerate(sources):
        if source := of_run.get("init_from"):
            wanted = {name: array_S[number] for name, array_S in arrays.items()}
            path = source.record.get("file") or source.record["run"]
            fitting = weights.fit(path, source.tensors, wanted, source.partly)
            if rest := sorted(set(wanted) - set(fitting)):
                layers = ", ".join(dict.fromkeys(name.rpartition(".")[0] for name in rest))
                logging.info("%s: %d of %d weights fit; drawn are those of %s", path, len(fitting), len(wanted), layers)
            for name in fitting:
                arrays[name][number] = source.tensors[name]
    put = {
        part: jax.tree.map(lambda array: sharding.put(mesh, sharding.RUNS, array), weights.unflatten(arrays, tree))
        for part, tree in trees.items()
    }
    return {**state, **put, "ema": jax.tree.map(jnp.copy, put) if state["ema"] else {}}


def teacher_network(plan: Sweep, run: Run, sources: dict[str, Source], code: Code) -> step.Network | None:
    """Task and config of a run's teacher; None without one."""
    if "teacher" not in sources:
        return None
    need = next(need for need in plan.arm(run.arm).needs if need.role == "teacher")
    if need.arm:
        cfg = arm_config(plan.config, plan.arm(need.arm))
        return step.Network(code.task_of(cfg), cfg)
    cfg = weights.config_of(need.file, sources["teacher"].header)
    return step.Network(TASKS[cfg.task], cfg)


def teachers(sources: Sequence[dict[str, Source]], network: step.Network | None) -> list[dict[str, Any]]:
    """The weights and traced values of every run's teacher, as the step takes them."""
    if network is None:
        return []
    _, params, batch_stats = weights.split(weights.abstract(*network))
    traced = config.traced_values(network.cfg)
    found = []
    for of_run in sources:
        source = of_run["teacher"]
        weights.fit(
            source.record.get("file") or source.record["run"], source.tensors, weights.flatten(params, batch_stats)
        )
        trees = {"params": params, "batch_stats": batch_stats}
        arrays = {part: weights.unflatten(source.tensors, tree) for part, tree in trees.items()}
        found.append({**arrays, "traced": traced})
    return found
