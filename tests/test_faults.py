"""What goes wrong on real machines: each fault ends in one clear message, and nothing that was done is lost."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import test_main
from test_train import make, unbroken  # noqa: F401 (a fixture)
from tiny import never, rows, write

from mnet_jax import experiment, jobs, laboratory, locks, report, results, train, worker, workers
from mnet_jax.checkpoint import Checkpoints
from mnet_jax.data import augment
from mnet_jax.errors import UserError

pytestmark = pytest.mark.usefixtures("chunks_of_three")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MB, and a function that fills it up; skipped where nothing can be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a tmpfs needs the right to mount")

    def fill():
        with open(disk / "ballast", "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                return

    yield disk, fill
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize("moment", ["checkpoint", "row"])
def test_a_full_disk_is_named_and_loses_nothing(unbroken, small_disk, moment):  # noqa: F811
    disk, fill = small_disk
    plan = make(disk)
    looks = 0

    def stop():
        nonlocal looks
        looks += 1
        if looks == 2:  # some steps of the first run are done
            fill()
        return looks == 2 and moment == "checkpoint"

    message = {"checkpoint": r"no checkpoint can be written to .*linear-s0/checkpoints", "row": "No space left"}
    with pytest.raises(OSError, match=message[moment]):
        worker.work_on(disk, plan, stop)
    (disk / "ballast").unlink()
    worker.work_on(disk, plan, never)
    assert rows(disk, plan) == rows(*unbroken)


def test_a_loss_that_is_not_a_number_ends_its_run_only(tmp_path, monkeypatch, caplog):
    """Planted into the images of seed 0 at step 7: its state from before stays, seed 1 goes on, the report says so."""
    plan = make(tmp_path, train__checkpoint_seconds=0)
    good = train.Training(tmp_path / "good", plan, plan.jobs[0], train.Clock())
    for _ in range(3):
        good.train_chunk()
    assert good.done == 7

    batch, (planted, _) = augment.batch, jax.random.split(jax.random.fold_in(good.state["key"][0], 7))

    def planting(key, *args):
        x_BHWC, targets = batch(key, *args)
        return jnp.where((jax.random.key_data(key) == jax.random.key_data(planted)).all(), jnp.nan, x_BHWC), targets

    monkeypatch.setattr(augment, "batch", planting)
    monkeypatch.setattr(train, "compiled_programs", {})
    worker.work_on(tmp_path, plan, never)
    found = {row["run"]: row["diverged_at"] for row in results.read_rows(tmp_path, plan)}
    assert found == {"linear-s0": 7, "relu6-s0": 7, "linear-s1": None, "relu6-s1": None}
    assert "linear-s0 diverged: its loss is not finite at step 7" in caplog.text
    kept = Checkpoints(results.job_dir(tmp_path, "linear-s0") / "checkpoints").restore(good.state)
    assert kept is not None
    for mine, theirs in zip(jax.tree.leaves(kept[0]["params"]), jax.tree.leaves(good.state["params"]), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert kept[1]["step"] == 7
    assert not (results.job_dir(tmp_path, "linear-s1") / "checkpoints").exists()
    weights = safetensors.numpy.load_file(results.run_dir(tmp_path, "linear-s0") / "weights.safetensors")
    assert all(np.isfinite(array).all() for array in weights.values())
    report.write(tmp_path)
    page = (tmp_path / "report.md").read_text()
    assert "linear-s0 diverged at step 7 and counts as 10.00 %, the level of guessing" in page
    assert "- runs: 4 of 4, 2 diverged" in page


def test_a_save_that_fails_is_one_line(tmp_path, monkeypatch):
    """Whatever Orbax raises, at once or from its threads."""
    kept, state = Checkpoints(tmp_path / "kept"), {"a": jnp.zeros(3)}
    kept.save(1, state, {})
    kept.wait()

    def fails(*_, **__):
        raise ValueError("RESOURCE_EXHAUSTED: no room\nand ten lines more")

    message = r"the checkpoint in .*kept cannot be written: RESOURCE_EXHAUSTED: no room$"
    with monkeypatch.context() as patch:
        patch.setattr(kept.manager, "save", fails)
        patch.setattr(kept.manager, "wait_until_finished", fails)
        with pytest.raises(OSError, match=message):
            kept.save(2, state, {})
        with pytest.raises(OSError, match=message):
            kept.wait()
    assert kept.restore(state) is not None
    kept.close(delete=True)


@pytest.mark.parametrize(("free", "written"), [(1.5, False), (2.0, True)])
def test_a_checkpoint_is_not_begun_where_it_would_fill_the_disk(tmp_path, monkeypatch, free, written):
    """Twice its size must be free: it is written while the one before it is still there."""
    state = {"a": jnp.zeros(250), "b": jnp.zeros((5, 50))}
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=int(free * 2000)))
    kept = Checkpoints(tmp_path)
    refused = pytest.raises(OSError, match=r"no checkpoint can be written to .*: 2,000 bytes, and 3,000 are free there")
    with contextlib.nullcontext() if written else refused:
        kept.save(1, state, {})
    kept.wait()
    assert (kept.restore(state) is not None) == written
    kept.close(delete=True)


def test_runs_that_another_command_works_on_are_work_left(tmp_path, capsys):
    """The exit status is that of unfinished work, whoever is at it, and the report says that it is partial."""
    plan = laboratory.Plan(experiment.load(write(tmp_path)), make(tmp_path), tmp_path)
    with locks.claim(tmp_path, plan.sweep.runs) as mine:
        assert mine
        assert laboratory.train([plan], 1) == 75
    assert not list(tmp_path.glob("runs/*/result.json"))
    assert "PARTIAL" in capsys.readouterr().out


def test_the_checkpoint_before_a_truncated_one_is_used(unbroken, tmp_path, caplog):  # noqa: F811
    plan = make(tmp_path)
    for done in (3, 4):  # stops after the first two looks
        with pytest.raises(train.Preempted, match=f"stopped at step {done}"):
            worker.work_on(tmp_path, plan, lambda: True)
    folder = results.job_dir(tmp_path, "linear-s0") / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["3", "4"]
    for path in (folder / "4").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with caplog.at_level("INFO"):
        worker.work_on(tmp_path, plan, never)
    assert "checkpoints/4 cannot be read" in caplog.text
    assert "goes on from step 3" in caplog.text
    assert rows(tmp_path, plan) == rows(*unbroken)


def test_an_unwritable_workdir_is_one_line(tmp_path):
    write(tmp_path)
    (tmp_path / "file").write_text("no folder")
    done = test_main.door(tmp_path, "--workdir", str(tmp_path / "file" / "work"))
    assert done.returncode == 1
    assert done.stderr.strip().split("\n")[-1] == f"error: [Errno 20] Not a directory: '{tmp_path}/file/work'"
    assert "Traceback" not in done.stderr


def test_a_read_only_workdir_is_named(small_disk):
    disk, _ = small_disk
    plan = make(disk)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(UserError, match=r"disk: no file can be locked there .*Read-only file system.*choose another"):
        jobs.write(disk, plan)


def test_a_batch_that_does_not_divide_is_one_line(tmp_path, monkeypatch):
    write(tmp_path)
    monkeypatch.setitem(test_main.ENVIRONMENT, "JAX_NUM_CPU_DEVICES", "3")
    done = test_main.door(tmp_path, "--workers", "1")
    assert done.returncode == 1
    line = "error: train.batch_size=16 does not divide by the 3 devices that share it (3 devices, 1 runs a job)"
    assert line in done.stderr
    assert "Traceback" not in done.stderr


def test_silence_is_counted_from_the_last_progress_while_this_process_runs(tmp_path, monkeypatch):
    """Neither a suspended machine nor a clock that is set makes a worker silent."""
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    heartbeat = workers._Heartbeat([tmp_path])
    assert heartbeat.seconds_silent(7) == 0
    now += 3
    assert heartbeat.seconds_silent(7) == 3
    now += 3600
    assert heartbeat.seconds_silent(7) == 3 + workers.MOST_GAP
    progress = {"process": 7, "time": time.time() + 9999, "host": socket.gethostname()}
    progress |= {"runs": ["a"], "step": 1, "steps": 2}
    results.write_atomic(tmp_path / "jobs" / "a" / "progress.json", results.to_json(progress))
    now += 2
    assert heartbeat.seconds_silent(7) == 0
    now += 4
    assert heartbeat.seconds_silent(7) == 4
    assert heartbeat.seconds_silent(8) == 0


@pytest.mark.slow
def test_a_worker_that_hangs_is_ended_and_the_other_takes_its_job(tmp_path):
    write(tmp_path)
    process = subprocess.Popen(
        test_main.command(tmp_path, "--workers", "2", "--config.train.hang_seconds=60", "--config.train.epochs=100"),
        env=test_main.ENVIRONMENT,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    workdir = tmp_path / "runs" / "tiny-digits"
    while not (lines := list(workdir.glob("jobs/*/progress.json"))):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    hung = results.read_json(lines[0])["process"]
    os.kill(hung, signal.SIGSTOP)
    _, err = process.communicate(timeout=400)
    assert process.returncode == 0, err
    assert "failed: no progress for 60 s (train.hang_seconds), so it was killed" in err
    assert not jobs.left(workdir, results.read_sweep(workdir))


@pytest.mark.parametrize(
    ("line", "refused"),
    [
        ("host:/x /data nfs4 rw,local_lock=none 0 0", False),
        ("host:/x /data nfs rw,nolock 0 0", True),
        ("host:/x /data nfs rw,local_lock=all 0 0", True),
        ("/dev/a /data ext4 rw,nolock 0 0", False),
        ("host:/x /database nfs rw,nolock 0 0", False),
    ],
)
def test_mounts_that_hide_locks_are_seen(tmp_path, line, refused):
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/root / ext4 rw 0 0\n{line}\n")
    options = locks._mount_options(Path("/data/runs"), mounts)
    assert bool(options & {"nolock", "local_lock=all"}) == refused


def test_a_file_system_without_locks_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("fcntl.flock", lambda *_: None)
    with pytest.raises(UserError, match="its file system grants one lock twice; runs are claimed by file locks"):
        locks.check(tmp_path)

    def unsupported(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", unsupported)
    with pytest.raises(UserError, match=r"no file can be locked there .*Operation not supported"):
        locks.check(tmp_path)
    assert not list(tmp_path.iterdir())
