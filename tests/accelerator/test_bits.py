"""The same runs give the same bits: again, resumed, and each on its own instead of together."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import safetensors.numpy
from accelerator.relative_error import relative_error
from tiny import write

from mnet_jax import results
from mnet_jax.bench.harness import ROOT

FLAGS = "--xla_gpu_deterministic_ops=true"


def train(command, workdir, cache, stops=False):
    """{run: weights}. With `stops` the process gets SIGTERM in the middle of the first job, and the command again."""
    process = [sys.executable, "-m", "mnet_jax.main", *command, "--workdir", str(workdir)]
    environment = os.environ | {
        "XDG_CACHE_HOME": str(cache),
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}".strip(),
    }
    statuses = []
    while not statuses or (statuses[-1] == 75 and len(statuses) < 3):
        with subprocess.Popen(process, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL) as running:
            while stops and not statuses and running.poll() is None:
                if any(map(is_half, workdir.glob("jobs/*/progress.json"))):
                    running.send_signal(signal.SIGTERM)
                    break
                time.sleep(0.02)
        statuses.append(running.returncode)
    assert statuses == ([75, 0] if stops else [0])
    runs = [run.name for run in results.read_sweep(workdir).runs]
    return {run: safetensors.numpy.load_file(results.run_dir(workdir, run) / "weights.safetensors") for run in runs}


def is_half(progress):
    try:
        line = json.loads(progress.read_text())
    except (OSError, ValueError):
        return False
    return 2 * line["step"] > line["steps"]


def bits(arrays):
    return {name: array.tobytes() for name, array in arrays.items()}


def check(command, runs, long, limit, folder):
    """Trains `runs` runs in one program for `long` epochs; alone, after one epoch, they differ by rounding."""

    def weights(name, epochs=long, together=runs, cache="one", stops=False):
        settings = [f"--config.runs_per_job={together}", f"--config.train.epochs={epochs}"]
        return train([*command, *settings], folder / name, folder / cache, stops)

    first, again = weights("first"), weights("again", cache="two")
    resumed = weights("resumed", stops=True)
    assert len(first) == runs
    for run, expected in first.items():
        assert bits(again[run]) == bits(expected), run
        assert bits(resumed[run]) == bits(expected), run
    few, single = weights("few", epochs=1), weights("single", epochs=1, together=1)
    for run, expected in few.items():
        assert relative_error(single[run], expected) < limit, run


@pytest.mark.accelerator
def test_the_same_bits_again(tmp_path):
    """Of the README's first experiment, all in one program; `again` is compiled anew."""
    command = ("--config", "experiments/v2_linear_bottleneck.py", "--config.seeds=2", "--workers", "1")
    check(command, 6, 60, 1e-2, tmp_path)


@pytest.mark.slow
def test_the_same_bits_again_at_toy_size(tmp_path):
    check(("--config", str(write(tmp_path)), "--workers", "1"), 4, 200, 1e-4, tmp_path)
