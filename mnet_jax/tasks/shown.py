"""What the report's pictures of a task are drawn from: the first arm's finished runs, and its trained network."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from mnet_jax.data.dataset import Dataset
    from mnet_jax.stats import Estimate
    from mnet_jax.trained import TrainedNetwork

LOOKED_AT = 256
"""Held-out images that the best and worst ones are chosen from."""

DRAWN = 4
"""Best and worst images, each."""


class FirstArm(NamedTuple):
    """The first arm of a sweep, as far as it is trained.

    `lines`    the last line of the curve of every finished run.
    `network`  of the first run; None where an experiment file defines it.
    `test`     the first held-out images of that run, `LOOKED_AT` indices at most.
    """

    name: str
    seed: int
    cfg: Any
    dataset: "Dataset"
    lines: list[dict[str, Any]]
    network: "TrainedNetwork | None"
    test: np.ndarray

    def by_number(self, prefix: str, names: Iterable[str]) -> "dict[str, tuple[Estimate, list[float]]]":
        """Name -> mean and interval, in percent, of what the runs logged as prefix/NUMBER, and each run's value.

        `names` are those of the numbers 0, 1, ..; one that no run logged is left out.
        """
        from mnet_jax import stats

        return {
            name: (stats.within(stats.estimate(values), 0, 100), values)
            for number, name in enumerate(names)
            if (values := [100 * line[f"{prefix}/{number}"] for line in self.lines if f"{prefix}/{number}" in line])
        }

    def sentence(self, chosen_by: str) -> str:
        """Which images `best_and_worst` has chosen."""
        return (
            f"The {DRAWN} images with the highest and the {DRAWN} with the lowest {chosen_by} of the first "
            f"{len(self.test)} held-out ones; {self.name}, seed {self.seed}."
        )


def first_arm(workdir: Path, sweep: Any) -> FirstArm | None:
    """The first arm of a workdir's sweep; None where its first run has not finished."""
    from mnet_jax import experiment, results, trained
    from mnet_jax.arms import arm_config
    from mnet_jax.data import dataset as datasets

    arm = sweep.arms[0]
    runs = [run for run in sweep.runs if run.arm == arm.name and results.is_done(workdir, run.name)]
    lines = [lines[-1] for run in runs if (lines := results.read_metrics(workdir, run.name))]
    if not lines:
        return None
    weights = results.run_dir(workdir, runs[0].name) / "weights.safetensors"
    if not weights.exists():
        return None
    code = experiment.code_of(workdir, sweep)
    cfg = arm_config(sweep.config, arm)
    dataset = code.load_dataset(cfg.data)
    test = datasets.split(dataset, runs[0].seed, *datasets.sizes(cfg.data)).test[:LOOKED_AT]
    network = None if code else trained.load(weights)
    return FirstArm(arm.name, runs[0].seed, cfg, dataset, lines, network, test)


def best_and_worst(values_N: Any) -> np.ndarray:
    """The numbers of the `DRAWN` highest values, then of the `DRAWN` lowest."""
    order = np.argsort(-np.asarray(values_N), kind="stable")
    return np.concatenate([order[:DRAWN], order[-DRAWN:]])
