"""The smallest experiment that is still whole: real digits, a two-block V2, seconds to train."""

import contextlib
import itertools
from pathlib import Path

from mnet_jax import jobs, results, train, worker

OVERRIDES = {
    "model.name": "mobilenet_v2",
    "model.divisor": 1,
    "model.stem": (4, 2),
    "model.blocks": ((1, 4, 1, 1), (2, 4, 1, 1)),
    "model.last": 8,
    "data.train_size": 64,
    "train.epochs": 3,
    "train.batch_size": 16,
    "train.eval_every": 2,
    "optim.lr": 0.1,
    "seeds": 2,
}

EXPERIMENT = f'''"""Tiny ablation of the bottleneck's activation.

For tests.
"""
from mnet_jax import config

def get_config(scale):
    cfg = config.at_scale(scale)
    config.override(cfg, {OVERRIDES!r})
    return cfg

def sweep(cfg):
    for act in ("linear", "relu6"):
        yield {{"model.project_act": act}}

claim = {{
    "text": "linear is better", "source": "a test", "published": "nothing", "metric": "accuracy",
    "contrasts": (config.greater("linear", "relu6"),),
}}
'''


def write(folder: Path, text: str = EXPERIMENT) -> Path:
    """Writes the experiment file."""
    path = folder / "tiny.py"
    path.write_text(text)
    return path


def never() -> bool:
    """A stop signal that does not come."""
    return False


def rows(folder: Path, plan) -> list:
    """The rows of a workdir without the clock, to compare with another's."""
    return [results.comparable(row) for row in results.read_rows(folder, plan)]


def finish(folder: Path, plan, moment: int) -> int:
    """Works on a plan, is stopped at every `moment`-th look at the signal, goes on; returns how many stops there were.

    Each of many starts must bring it forward: resuming from an old checkpoint for ever is a failure.
    """
    for stops in range(200):
        looks = itertools.count(1)
        with contextlib.suppress(train.Preempted):
            worker.work_on(folder, plan, lambda looks=looks: next(looks) >= moment)
        if not jobs.left(folder, plan):
            return stops
    raise AssertionError(f"{len(jobs.left(folder, plan))} jobs are left after 200 starts")
