"""Workdirs on a bucket; a plain folder stands for it, in which no file may be locked."""

import json
import os
import signal
import sys
import time

import pytest
from test_processes import end, joined
from tiny import rows, write

from mnet_jax import bucket, laboratory, results, train
from mnet_jax.errors import UserError


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(bucket, "EVERY", 0.05)
    monkeypatch.setattr(bucket, "STALE", 0.3)
    monkeypatch.setattr(bucket, "SETTLE", 0.05)


@pytest.fixture
def folder(tmp_path):
    """A folder that is kept the same as tmp_path / "bucket"."""
    bucket.mark(tmp_path / "here", str(tmp_path / "bucket"))
    return tmp_path / "here"


def test_a_folder_below_has_its_place_below(folder, tmp_path):
    assert bucket.of(folder / "a" / "b").as_posix() == str(tmp_path / "bucket" / "a" / "b")
    assert bucket.of(tmp_path) is None
    with pytest.raises(UserError, match=r"here is kept the same as .*bucket, not .*other; choose another --out"):
        bucket.mark(folder, str(tmp_path / "other"))
    with pytest.raises(UserError, match="--bucket ftp://a; allowed: gs://, s3://"):
        bucket.mark(tmp_path / "there", "ftp://a")


def test_what_changes_is_copied_and_locks_are_not(folder, tmp_path):
    run = folder / "sweep" / "runs" / "a-s0"
    run.mkdir(parents=True)
    for name in ("result.json", "weights.safetensors", "lock", ".part"):
        (run / name).write_text(name)
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "1").write_text("")
    written = []
    keep = type(bucket.at("x")).write_bytes
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            type(bucket.at("x")), "write_bytes", lambda path, data: written.append(path.name) or keep(path, data)
        )
        bucket.push(folder)
        assert written == ["weights.safetensors", "result.json"], "a row never stands without its weights"
    there = tmp_path / "bucket" / "sweep" / "runs" / "a-s0"
    assert sorted(path.name for path in there.iterdir()) == ["result.json", "weights.safetensors"]

    bucket.mark(tmp_path / "elsewhere", str(tmp_path / "bucket"))
    bucket.pull(tmp_path / "elsewhere")
    copied = tmp_path / "elsewhere" / "sweep" / "runs" / "a-s0" / "result.json"
    assert copied.read_text() == "result.json"
    copied.write_text("RESULT.JSON")  # of the same length, in the same second
    bucket.push(tmp_path / "elsewhere")
    os.utime(there / "result.json", (time.time() + 5,) * 2)
    bucket.pull(folder)
    assert (run / "result.json").read_text() == "RESULT.JSON"


def test_one_command_at_a_time(folder, tmp_path, quick):
    with (
        bucket.Owner(folder),
        pytest.raises(UserError, match=r"bucket is owned by .*, which is at work; one command at a time"),
    ):
        bucket.Owner(folder).__enter__()
    assert not (tmp_path / "bucket" / bucket.LEASE).exists()


def test_a_dead_owner_is_followed_by_the_next(folder, tmp_path, quick):
    (tmp_path / "bucket").mkdir()
    lease = tmp_path / "bucket" / bucket.LEASE
    lease.write_text(json.dumps({"owner": "one that died", "renewed": 0}))
    with bucket.Owner(folder) as owner:
        assert json.loads(lease.read_text())["owner"] == owner.name


def test_a_failed_copy_is_tried_again(folder, tmp_path, quick, monkeypatch):
    """Whatever the bucket's library raises: the lease is renewed, and the next look copies."""
    real, calls = bucket.push, []

    def push(folder):
        calls.append(folder)
        if len(calls) == 1:
            raise RuntimeError("503")
        real(folder)

    monkeypatch.setattr(bucket, "push", push)
    with bucket.Owner(folder) as owner:
        (folder / "late").write_text("")
        deadline = time.monotonic() + 20
        while not (tmp_path / "bucket" / "late").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert json.loads((tmp_path / "bucket" / bucket.LEASE).read_text())["owner"] == owner.name


def test_an_owner_whose_lease_is_taken_stops_and_writes_no_more(folder, tmp_path, quick, monkeypatch):
    told = []
    monkeypatch.setattr(os, "kill", lambda process, what: told.append(what))
    owner = bucket.Owner(folder).__enter__()
    (tmp_path / "bucket" / bucket.LEASE).write_text(json.dumps({"owner": "another"}))
    while not told:
        time.sleep(0.01)
    (folder / "late").write_text("")
    with pytest.raises(UserError, match="taken over by another; once that one ended the same command goes on"):
        owner.__exit__()
    assert told == [signal.SIGTERM]
    assert not (tmp_path / "bucket" / "late").exists()


def test_another_machine_goes_on_from_the_bucket(tmp_path, quick, monkeypatch, chunks_of_three):
    """The first one is stopped in the middle of a run; the second has nothing but the bucket."""
    file, there = write(tmp_path), str(tmp_path / "bucket")

    def work(name, **more):
        plans = laboratory.plan([file], out=tmp_path / name, overrides={"seeds": 1})
        monkeypatch.setattr(laboratory, "worker_pins", lambda *_: [])  # all in this process
        return laboratory.train(plans, 1, tmp_path / name, **more), plans[0]

    status, plan = work("plain")
    assert status == 0
    expected = rows(plan.workdir, plan.sweep)
    looks = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.sharding, "any_process", lambda _: looks.append(0) or len(looks) == 3)
        assert work("first", bucket_url=there)[0] == 75
    assert list((tmp_path / "bucket").glob("*/jobs/*/checkpoints/*"))
    assert not list((tmp_path / "first").glob("*/jobs/*/checkpoints/*"))
    status, plan = work("second", bucket_url=there)
    assert status == 0
    assert rows(plan.workdir, plan.sweep) == expected
    assert rows(tmp_path / "bucket" / "tiny-digits", plan.sweep) == expected
    assert not [path for path in (tmp_path / "bucket").rglob("*") if path.name in ("lock", bucket.LEASE)]


def test_a_folder_of_a_bucket_is_trained_with_it_only(folder, tmp_path):
    """Its checkpoints would go to a bucket that this command does not own."""
    plans = laboratory.plan([write(tmp_path)], out=folder)
    with pytest.raises(UserError, match=r"tiny-digits is kept the same as .*: give --bucket, or choose another --out"):
        laboratory.train(plans, 1, folder)


def test_a_workdir_elsewhere_is_refused(tmp_path):
    plans = laboratory.plan([write(tmp_path)], [tmp_path / "work"])
    with pytest.raises(UserError, match=r"--bucket keeps .*runs, and .*work is not in it"):
        laboratory.train(plans, 1, tmp_path / "runs", str(tmp_path / "bucket"))


@pytest.mark.slow
def test_two_processes_without_a_shared_folder(tmp_path):
    """Each has its own; one is told to stop, both leave with 75, and two others that start with nothing finish."""
    file, flags = write(tmp_path), ["--config.seeds=1", "--config.train.epochs=12", "--config.train.eval_every=12"]

    def start(name):
        command = [sys.executable, "-m", "mnet_jax.main", "--config", str(file), *flags]
        command += ["--bucket", str(tmp_path / "bucket"), "--out"]
        return joined(command, 2, 2, lambda process: [str(tmp_path / f"{name}{process}"), "--distributed"])

    started = start("first")
    while not list((tmp_path / "bucket").glob("*/jobs/*/checkpoints/*")) and not list(
        (tmp_path / "first0").glob("*/jobs/*/progress.json")
    ):
        assert all(process.poll() is None for process in started), end(started)
        time.sleep(0.2)
    started[1].send_signal(signal.SIGTERM)
    codes, outputs = end(started)
    assert codes == [75, 75], outputs
    assert list((tmp_path / "bucket").glob("*/jobs/*/checkpoints/*")), outputs
    codes, outputs = end(start("second"))
    assert codes == [0, 0], outputs
    work = tmp_path / "bucket" / "tiny-digits"
    done = [(row["run"], row["device"]["count"]) for row in results.read_rows(work, results.read_sweep(work))]
    assert done == [("linear-s0", 4), ("relu6-s0", 4)]
