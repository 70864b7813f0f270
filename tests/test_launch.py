"""Launchers: checked scripts without hyper-parameters, whose shell logic passes stops and exit statuses on."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny import write

from mnet_jax import results

LAUNCH = Path(__file__).parent.parent / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")])


@pytest.mark.parametrize("path", [*SCRIPTS, *LAUNCH.glob("*.yaml")], ids=lambda path: path.name)
def test_one_call_and_no_hyperparameters(path):
    commands = "\n".join(line for line in path.read_text().split("\n") if not line.lstrip().startswith("#"))
    assert commands.count("mnet_jax.main") == 1
    assert "--config." not in commands
    assert path.name in (LAUNCH / "README.md").read_text()


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck(path):
    if not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not installed")
    found = subprocess.run(["shellcheck", str(path)], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout
    assert os.access(path, os.X_OK) or path.suffix == ".sbatch"


def test_jobset_is_one_pod_a_host_that_starts_over_together():
    import yaml

    jobset = yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text())
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] > 0
    (slices,) = jobset["spec"]["replicatedJobs"]
    job = slices["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    hosts = job["parallelism"]
    chips = [int(side) for side in pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")]
    assert hosts == job["completions"]
    assert chips[0] * chips[1] == hosts * container["resources"]["limits"]["google.com/tpu"]
    assert job["backoffLimit"] == 0
    assert pod["restartPolicy"] == "Never"
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}


@pytest.fixture
def planted(tmp_path):
    """A PATH on which `python` sleeps until SIGTERM, then ends with 75; the others write what they are told."""
    folder = tmp_path / "bin"
    folder.mkdir()
    scripts = {
        "python": f'echo "python $*" >> {tmp_path}/calls\ntrap "sleep 0.3; exit 75" TERM\nwhile :; do sleep 0.1; done',
        "ssh": f'echo "ssh $*" >> {tmp_path}/calls\ntrap "exit 75" TERM\n[[ $2 == quick ]] && exit 0\n'
        "while :; do sleep 0.1; done",
        "scontrol": f'echo "scontrol $*" >> {tmp_path}/calls',
        "gcloud": f'echo "gcloud $*" >> {tmp_path}/calls',
    }
    for name, text in scripts.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (folder / name).chmod(0o755)
    return {"PATH": f"{folder}:/usr/bin:/bin"}, tmp_path / "calls"


def run(script, *arguments, env, calls, expected):
    """Starts a script, sends SIGTERM once it has made the expected number of calls; returns status and calls."""
    process = subprocess.Popen(["bash", str(LAUNCH / script), *arguments], env=env)
    deadline = time.time() + 30
    while not calls.exists() or len(calls.read_text().splitlines()) < expected:
        assert time.time() < deadline
        time.sleep(0.05)
    time.sleep(0.2)  # the handlers are set after the call is noted
    process.send_signal(signal.SIGTERM)
    return process.wait(timeout=30), calls.read_text().splitlines()


def test_local_processes_pass_the_stop_on_and_wait_for_the_checkpoint(planted):
    env, calls = planted
    status, lines = run("local_processes.sh", "2", "--config", "x.py", env=env, calls=calls, expected=2)
    assert status == 75
    assert sorted(lines) == [
        f"python -m mnet_jax.main --config x.py --distributed 127.0.0.1:41234 2 {process}" for process in (0, 1)
    ]


def test_an_array_task_is_put_in_line_again(planted):
    env, calls = planted
    env |= {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}
    status, lines = run("slurm_array.sbatch", "--config", "x.py", env=env, calls=calls, expected=1)
    assert status == 75
    assert lines == ["python -m mnet_jax.main --config x.py", "scontrol requeue 7_3"]


def test_ssh_gives_every_host_its_number(planted):
    env, calls = planted
    env |= {"HOSTS": "quick slow"}
    status, lines = run("ssh.sh", "--workdir", "a b", env=env, calls=calls, expected=2)
    assert status == 75
    for process, host in enumerate(("quick", "slow")):
        (line,) = (line for line in lines if f"-tt -- {host} " in line)
        assert line.endswith(rf"-m mnet_jax.main --workdir a\ b --distributed quick:41234 2 {process}")


def test_tpu_hosts_get_the_arguments_quoted(planted):
    env, calls = planted
    subprocess.run(["bash", str(LAUNCH / "tpu_vm.sh"), "pod", "zone", "--workdir", "a b"], env=env, check=True)
    assert r"ssh pod --zone zone --worker=all --command" in calls.read_text()
    assert re.search(r"mnet_jax.main --workdir a\\ b --distributed$", calls.read_text().strip())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "number", "devices"), [("virtual_devices.sh", 16, 16), ("local_processes.sh", 2, 2)]
)
def test_launchers_train_for_real(tmp_path, script, number, devices):
    experiment, work = write(tmp_path), tmp_path / "work"
    env = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(LAUNCH.parent),
        "JAX_PLATFORMS": "cpu",
        "MNET_JAX_PORT": "41235",
    }
    command = ["bash", str(LAUNCH / script), str(number), "--config", str(experiment), "--workdir", str(work)]
    subprocess.run(command, env=env, check=True, timeout=600)
    rows = results.read_rows(work, results.read_sweep(work))
    assert len(rows) == 4
    assert {row["device"]["count"] for row in rows} == {number}
