"""Several processes of one job: one sweep, one writer, a stop or an error of one is everyone's."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny import write

from mnet_jax import results, sharding


def start(folder, *flags, processes=2):
    """`processes` times the command on one workdir, two devices each, joined over loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    env = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "2",
        "PYTHONPATH": str(Path(__file__).parent.parent),
    }
    command = [sys.executable, "-m", "mnet_jax.main", "--config", str(write(folder)), "--workdir", str(folder / "work")]
    return [
        subprocess.Popen(
            [*command, *flags, "--distributed", address, str(processes), str(process)],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for process in range(processes)
    ]


def end(started):
    outputs = [process.communicate(timeout=300)[0] for process in started]
    return [process.returncode for process in started], outputs


def test_one_sweep_one_writer_and_a_stop_of_one_is_everyones(tmp_path):
    """The second process gets the signal; both leave with 75; the same command finishes, on two processes or on one."""
    work = tmp_path / "work"
    started = start(tmp_path, "--config.train.epochs=40", "--config.seeds=1")
    while not list(work.glob("jobs/*/progress.json")):
        assert all(process.poll() is None for process in started), end(started)
        time.sleep(0.2)
    started[1].send_signal(signal.SIGTERM)
    codes, outputs = end(started)
    assert codes == [75, 75], outputs
    assert list(work.glob("jobs/*/checkpoints/*")), outputs

    codes, outputs = end(start(tmp_path, "--config.train.epochs=40", "--config.seeds=1"))
    assert codes == [0, 0], outputs
    plan = results.read_sweep(work)
    rows = results.read_rows(work, plan.runs)
    assert [row["run"] for row in rows] == ["linear-s0", "relu6-s0"]
    assert all(row["device"]["count"] == 4 for row in rows)
    for run in plan.runs:
        assert [line["epoch"] for line in results.read_metrics(work, run.name)] == list(range(1, 41))
    assert (work / "report.html").exists()


def test_an_error_of_one_process_ends_all(tmp_path):
    """The first one finds a workdir of another plan; the second must not wait for ever."""
    work = tmp_path / "work"
    work.mkdir()
    (work / "sweep.json").write_text("{")
    codes, outputs = end(start(tmp_path))
    assert all(codes), outputs
    assert "is not valid JSON" in outputs[0]


@pytest.mark.parametrize(
    ("environ", "answer"),
    [
        ({}, False),
        ({"SLURM_STEP_NUM_TASKS": "1"}, False),
        ({"SLURM_STEP_NUM_TASKS": "16"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"TPU_WORKER_HOSTNAMES": "a"}, False),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
        ({"JOB_COMPLETION_INDEX": "0"}, False),
        ({"JOB_COMPLETION_INDEX": "0", "KUBERNETES_SERVICE_HOST": "h"}, True),
    ],
)
def test_launchers_are_recognized(environ, answer):
    assert sharding.several(environ) == answer


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="HOST:PORT PROCESSES PROCESS"):
        sharding.start(["node1:1234", "4"])
