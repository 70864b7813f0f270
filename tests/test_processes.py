"""Several processes of one job: one sweep, one writer, a stop or an error of one is everyone's."""

import json
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

TESTS = Path(__file__).parent


def joined(command, processes, devices, own=lambda process: []):
    """`processes` times a command, `devices` each, with each one's own arguments and those that join the others."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    env = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "PYTHONPATH": f"{TESTS.parent}:{TESTS}",
    }
    return [
        subprocess.Popen(
            [*command, *own(process), address, str(processes), str(process)],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for process in range(processes)
    ]


def start(folder, *flags, processes=2, door=("-m", "mnet_jax.main")):
    """`processes` times the command on one workdir, two devices each."""
    command = [sys.executable, *door, "--config", str(write(folder)), "--workdir", str(folder / "work"), *flags]
    return joined([*command, "--distributed"], processes, 2)


def end(started):
    outputs = [process.communicate(timeout=900)[0] for process in started]
    return [process.returncode for process in started], outputs


def test_one_sweep_one_writer_and_a_stop_of_one_is_everyones(tmp_path):
    """The second process gets the signal; both leave with 75; the same command finishes, on two processes or on one."""
    work = tmp_path / "work"
    flags = [
        f"--config.{field}" for field in ("seeds=1", "train.epochs=12", "train.batch_size=64", "train.eval_every=12")
    ]
    started = start(tmp_path, *flags)
    while not list(work.glob("jobs/*/progress.json")):
        assert all(process.poll() is None for process in started), end(started)
        time.sleep(0.2)
    started[1].send_signal(signal.SIGTERM)
    codes, outputs = end(started)
    assert codes == [75, 75], outputs
    assert list(work.glob("jobs/*/checkpoints/*")), outputs

    codes, outputs = end(start(tmp_path, *flags))
    assert codes == [0, 0], outputs
    plan = results.read_sweep(work)
    rows = results.read_rows(work, plan)
    assert [row["run"] for row in rows] == ["linear-s0", "relu6-s0"]
    assert all(row["device"]["count"] == 4 for row in rows)
    for run in plan.runs:
        assert [line["epoch"] for line in results.read_metrics(work, run.name)] == list(range(1, 13))
    assert (work / "report.html").exists()


def test_an_error_of_one_process_ends_all(tmp_path):
    """The first one finds a workdir of another plan; the second must not wait for ever."""
    work = tmp_path / "work"
    work.mkdir()
    (work / "sweep.json").write_text("{")
    codes, outputs = end(start(tmp_path))
    assert all(codes), outputs
    assert "is not valid JSON" in outputs[0]
    assert "the first process failed; its message says why" in outputs[1]
    assert "Traceback" not in "".join(outputs)


SLOW = """
import sys, time
from mnet_jax import main, report, train

owner, name = {"report": (report, "write"), "compiler": (train.Training, "_compiled")}[sys.argv.pop(1)]
real = getattr(owner, name)
sys.argv[-1] == "0" and setattr(owner, name, lambda of: time.sleep(40) or real(of))
sys.exit(main.main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("what", ["report", "compiler"])
def test_processes_wait_for_a_slow_one(tmp_path, what):
    """On a busy machine, or with a slow disk: the first one takes 40 s longer for each program, or for the report."""
    codes, outputs = end(start(tmp_path, "--config.seeds=1", door=("-c", SLOW, what)))
    assert codes == [0, 0], outputs
    assert (tmp_path / "work" / "report.html").exists()


@pytest.mark.slow
def test_four_processes_evaluate_as_one(tmp_path):
    """Ten images in batches of 8: all count once; each process reads its rows of a batch, few of the last one."""
    pytest.importorskip("grain")
    from test_feed import pictures

    pictures(tmp_path)
    parts = {}
    for number in (1, 4):
        codes, outputs = end(joined([sys.executable, "-m", "tools.evaluation", str(tmp_path)], number, 4 // number))
        assert codes == [0] * number, outputs
        parts[number] = [json.loads(output.splitlines()[-1]) for output in outputs]
    (alone,), four = parts[1], parts[4]
    assert alone["sums"]["images"] == 10
    for part in four:
        assert part["sums"] == pytest.approx(alone["sums"], rel=1e-6)
        assert part["sums"]["images"] == 10
        assert part["sums"]["accuracy"] == alone["sums"]["accuracy"]
    for what, lengths in (("held_out", [4, 2, 2, 2]), ("trained", [2, 2, 2, 2])):
        assert [len(part[what]) for part in four] == lengths
        assert sorted(index for part in four for index in part[what]) == sorted(alone[what])
    assert len(set(alone["held_out"])) == 10


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
    assert sharding.launched_with_many(environ) == answer


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="HOST:PORT PROCESSES PROCESS"):
        sharding.init_distributed(["node1:1234", "4"])
