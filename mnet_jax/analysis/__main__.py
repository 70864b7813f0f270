"""`python -m mnet_jax.analysis WORKDIR [RUN...]`: measures finished runs from their weights, and pools them by arm."""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mnet_jax import analysis, formatting, results, runtime, stats
from mnet_jax.arms import arm_config
from mnet_jax.errors import UserError
from mnet_jax.tasks.base import Metric

Arrays = Mapping[str, np.ndarray]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures the runs, adds what is found to their rows and arrays, prints the table."""
    args = _parser().parse_args(arguments)
    plan = results.read_sweep(args.workdir)
    rows = _chosen(args.workdir, plan, args.runs)
    for number, row in enumerate(rows, 1):
        print(f"{number} of {len(rows)}: {row['run']}", file=sys.stderr)
        metrics, arrays = measure(args.workdir, plan, row)
        results.write_arrays(args.workdir, row["run"], {**results.read_arrays(args.workdir, row["run"]), **arrays})
        results.write_row(args.workdir, {**row, "metrics": row["metrics"] | metrics})
    by_arm: dict[str, dict[int, Arrays]] = {}
    for row in results.read_rows(args.workdir, plan):
        if "curve/threshold" in (arrays := results.read_arrays(args.workdir, row["run"])):
            by_arm.setdefault(row["arm"], {})[row["seed"]] = arrays
    print(table(by_arm))
    print(f"pictures: python -m mnet_jax.main --mode report --workdir {args.workdir}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m mnet_jax.analysis", description=__doc__)
    parser.add_argument("workdir", type=Path, metavar="WORKDIR")
    parser.add_argument("runs", nargs="*", metavar="RUN", help="names, such as linear-s0 (default: all that are done)")
    return parser


def _chosen(workdir: Path, plan: results.Sweep, names: Sequence[str]) -> list[dict[str, Any]]:
    """The rows to measure; UserError where one is not done, diverged, or has lost its weights."""
    rows = {row["run"]: row for row in results.read_rows(workdir, plan)}
    if missing := [name for name in names if name not in rows]:
        raise UserError(f"{workdir} has no finished run {missing[0]!r}; allowed: {', '.join(rows) or 'none yet'}")
    chosen = [row for name, row in rows.items() if name in names or not names]
    if diverged := [row["run"] for row in chosen if row["diverged_at"] is not None]:
        if names:
            raise UserError(f"{diverged[0]} diverged: there is nothing to measure in its weights")
        print(f"left out, as they diverged: {', '.join(diverged)}", file=sys.stderr)
        chosen = [row for row in chosen if row["diverged_at"] is None]
    if not chosen:
        raise UserError(f"{workdir} has no finished run to measure")
    for row in chosen:
        if not (path := _weights(workdir, row["run"])).exists():
            raise UserError(f"{path} is missing: {row['run']} cannot be measured without its weights")
    return chosen


def _weights(workdir: Path, run: str) -> Path:
    return results.run_dir(workdir, run) / "weights.safetensors"


def measure(workdir: Path, plan: results.Sweep, row: Mapping[str, Any]) -> tuple[dict[str, float], Arrays]:
    """What `analysis.measure` finds in a finished run: its saved weights, on the images that it held out."""
    from mnet_jax.data import dataset as sets
    from mnet_jax.data import load
    from mnet_jax.models import weights

    cfg = arm_config(plan.config, plan.arm(row["arm"]))
    dataset = load.from_config(cfg.data)
    if dataset.fingerprint != row["data"]["fingerprint"]:
        raise UserError(
            f"{row['run']} was trained on {dataset.name} with fingerprint {row['data']['fingerprint']}; "
            f"the one that is here now has {dataset.fingerprint}"
        )
    test = sets.split(dataset, row["seed"], *sets.sizes(cfg.data)).test
    initial = _initial(cfg, row["seed"])
    path = _weights(workdir, row["run"])
    tensors, _ = weights.read(path)
    weights.fit(path, tensors, weights.flatten(*initial))
    params, batch_stats = (weights.unflatten(tensors, tree) for tree in initial)
    return analysis.measure(
        cfg,
        dataset.mean,
        dataset.std,
        trained=(params, batch_stats),
        initial=initial,
        batches=analysis.batches(dataset.in_memory(), test, cfg.train.batch_size),
    )


def _initial(cfg: Any, seed: int) -> Any:
    """The weights at step 0, which follow from the seed."""
    import jax

    from mnet_jax import config, sharding, step
    from mnet_jax.tasks import TASKS

    key = json.dumps(config.static_fields(cfg), sort_keys=True)
    if key not in _inits:
        mesh = sharding.mesh(1, cfg.train.batch_size, jax.devices()[:1])
        _inits[key] = step.build(TASKS[cfg.task], cfg, 1, (0.0,), (1.0,), 1, mesh).init
    state = _inits[key](np.array([seed], np.int32))
    return tuple(jax.tree.map(lambda leaf_S: np.asarray(leaf_S)[0], state[part]) for part in ("params", "batch_stats"))


_inits: dict[str, Any] = {}
"""Static fields of a config -> the compiled function that draws its weights."""


def _pooled(name: str) -> Callable[[Arrays], float]:
    """The share of all channels of the network."""
    return lambda arrays: float(np.average(arrays[f"{name}/share"], weights=arrays[f"{name}/channels"]))


def _of_width(name: str, channels: str) -> Callable[[Arrays], float]:
    """The mean over layers, as a share of their channels."""
    return lambda arrays: float(np.mean(arrays[name] / arrays[channels]))


MEASURES: Mapping[str, Callable[[Arrays], float]] = {
    "dead bottleneck channels": _pooled("dead_bottleneck"),
    "dead depthwise filters": _pooled("dead_depthwise"),
    "little-used depthwise filters": _pooled("little_used_depthwise"),
    "depthwise filters of small norm, batch norm folded in": _pooled("small_folded"),
    "depthwise filters of small norm": _pooled("small_raw"),
    "positive expansion channels of a pixel": _of_width("active/mean", "active/channels"),
    "positive expansion channels of a pixel, before training": _of_width("initial/mean", "initial/channels"),
    "sd over pixels of positive expansion channels": _of_width("active/std", "active/channels"),
    "sd over pixels of positive expansion channels, before training": _of_width("initial/std", "initial/channels"),
    "pixels whose expansion can be inverted": lambda arrays: float(np.mean(arrays["active/above"])),
    "participation rank of bottlenecks, of their channels": _of_width("rank/participation", "rank/channels"),
    "entropy rank of bottlenecks, of their channels": _of_width("rank/entropy", "rank/channels"),
}
"""Rows of the table, all shares in percent."""

PERCENT = Metric("share", "share", "%", 2)


def table(by_arm: Mapping[str, Mapping[int, Arrays]]) -> str:
    """Every measure of every arm, in percent with 95 % t-intervals over seeds, and its paired differences."""
    lines = [("in %, 95 % t-intervals, uncorrected", "arm", "n", "mean", f"minus {next(iter(by_arm))}", "p")]
    for label, of in MEASURES.items():
        values = {arm: _values(of, runs) for arm, runs in by_arm.items()}
        baseline, *_ = values.values()
        for arm, of_seed in values.items():
            if not of_seed:
                continue
            found = stats.estimate(of_seed.values())
            minus, p = "", ""
            if of_seed is not baseline:
                difference = stats.difference(of_seed, baseline)
                minus, p = formatting.interval(PERCENT, difference, sign=True), formatting.p_text(difference.p)
            lines.append((label, arm, str(found.n), formatting.interval(PERCENT, found), minus, p))
            label = ""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(f"{cell:<{w}}" for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def _values(of: Callable[[Arrays], float], runs: Mapping[int, Arrays]) -> dict[int, float]:
    """Percent by seed; nothing where the arm's network has no such layers."""
    try:
        return {seed: 100 * of(arrays) for seed, arrays in runs.items()}
    except KeyError:
        return {}


if __name__ == "__main__":
    with runtime.exit_status():
        main()
