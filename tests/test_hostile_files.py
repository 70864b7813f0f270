"""The files of a workdir are read by one gate each: what is damaged, another's or another version's is named."""

import json
import os
import shutil
import socket
import time
from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict

import pytest
from test_fuzz import folder, nothing_is_measured, workdir  # noqa: F401 (fixtures)
from tiny import write

from mnet_jax import arm_cost, experiment, main, report, results, runtime, schema, sharding, status, sweep, workers
from mnet_jax.errors import UserError


@dataclass(frozen=True)
class Leaf:
    number: float
    words: tuple[str, ...] = ()


class Branch(TypedDict):
    leaves: tuple[Leaf, ...]
    pair: NotRequired[tuple[int, int]]
    by_name: NotRequired[dict[str, float | str | None]]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], r"^FILE is \[\]; allowed: a dict$"),
        ({}, "^FILE lacks leaves$"),
        ({"leaves": [{"number": True}]}, r"^FILE: leaves\[0\].number is True; allowed: a number$"),
        (
            {"leaves": [{"number": 1, "numbr": 2}]},
            r"leaves\[0\] has no key 'numbr'; did you mean 'number'\?; allowed: number, words",
        ),
        ({"leaves": [{"number": 1, "words": ["a", 1]}]}, r"leaves\[0\].words\[1\] is 1; allowed: a string"),
        ({"leaves": [], "pair": [1]}, "pair has 1 entries; allowed: 2"),
        ({"leaves": [], "by_name": {"a": []}}, r"by_name.a is \[\]; allowed: a number or a string or null"),
    ],
)
def test_a_value_of_another_type_is_named_with_its_place(value: Any, message: str):
    with pytest.raises(UserError, match=message):
        schema.parse(value, Branch, "FILE")


def test_records_and_tuples_are_made_and_further_keys_of_a_dict_are_kept():
    value = {"leaves": [{"number": 1, "words": ["a"]}], "by_name": {"a": 1, "b": "x", "c": None}, "new": [1]}
    assert schema.parse(value, Branch, "FILE") == {**value, "leaves": (Leaf(1, ("a",)),)}


@pytest.fixture
def copy(workdir, tmp_path):  # noqa: F811
    place = tmp_path / "copy"
    shutil.copytree(workdir[0], place)
    return place


def make(place, mode="train", **overrides):
    return sweep.plan(experiment.load(write(place)), "digits", overrides, mode, "the command")


def change(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "is the row of another run: its seed is 1, this folder's is 0"),
        ({"experiment": "other"}, "is the row of another run: its experiment is 'other'"),
        ({"metrics": {"accuracy": 2.5}}, "metrics.accuracy is 2.5; allowed: a number from 0 to 1"),
        ({"metrics": {"accuracy": "0.5"}}, "metrics.accuracy is '0.5'; allowed: a number"),
        ({"versions": {"jax": 1}}, "versions.jax is 1; allowed: a string"),
        ({"device": {}}, "device lacks platform, kind, count, threads"),
        ({"timing": {"steps": -1}}, "timing.steps is -1; allowed: seconds"),
        ({"diverged_at": "x"}, "diverged_at is 'x'; allowed: a whole number or null"),
        ({"cost": {"madds": "x"}}, "cost.madds is 'x'; allowed: a number"),
    ],
)
def test_a_row_that_cannot_be_the_runs_is_refused(copy, changes, message):
    change(copy / "runs/linear-s0/result.json", **changes)
    with pytest.raises(UserError, match=message):
        report.summarize(copy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "is of another version of mnet_jax; allowed: format 1"),
        ({"newfield": 2}, "has no key 'newfield'"),
        ({"arms": []}, "has no arms, no jobs or no metrics"),
        ({"mode": "x"}, "mode is 'x'; allowed: train, tune"),
        (
            {"jobs": [{"name": "../x", "program": "", "runs": [{"name": "linear-s0", "arm": "linear", "seed": 0}]}]},
            "the job '../x'",
        ),
        (
            {"jobs": [{"name": "x", "program": "", "runs": [{"name": "../a", "arm": "linear", "seed": 0}]}]},
            "run '../a' is not one",
        ),
        ({"config": {"task": "classification", "seeds": "x"}}, "config: seeds='x' is not a whole number"),
    ],
)
def test_a_plan_that_does_not_hold_together_is_refused(copy, changes, message):
    change(copy / "sweep.json", **changes)
    with pytest.raises(UserError, match=message):
        results.read_sweep(copy)


def test_lines_of_a_curve_are_numbers_whose_steps_ascend(copy):
    path = copy / "runs/linear-s0/metrics.jsonl"
    path.write_text('{"epoch": 1, "step": 4}\n{"epoch": 1, "step": 4}\n')
    with pytest.raises(UserError, match=r"metrics.jsonl, line 2: step 4 comes after step 4; remove the folder"):
        results.read_metrics(copy, "linear-s0")
    path.write_text('{"epoch": 1, "step": 4, "loss": "x"}\n')
    with pytest.raises(UserError, match=r"line 1: loss is 'x'; allowed: a number"):
        results.read_metrics(copy, "linear-s0")


def test_status_says_what_is_done_and_who_works(copy, capsys):
    (copy / "runs/relu6-s1/result.json").unlink()
    assert main.main(["--mode", "status", "--workdir", str(copy)]) == 0
    out = capsys.readouterr().out
    assert "3 of 4 runs are finished; 1 of 4 jobs are left" in out
    assert f"relu6-s1: step 3 of 12, process {os.getpid()} at {socket.gethostname()}" in out
    change(copy / "jobs/relu6-s1/progress.json", time=0.0)
    assert "(stopped, or stuck)" in status.describe(copy)
    (copy / "jobs/relu6-s1/progress.json").write_text("[]")
    assert "step" not in status.describe(copy)


def test_a_worker_of_another_host_is_not_taken_for_one_of_ours(copy, monkeypatch):
    heartbeat = workers._Heartbeat([copy])
    monkeypatch.setattr(workers.socket, "gethostname", lambda: "elsewhere")
    heartbeat.seconds_silent(1)
    heartbeat.read_at = -10.0
    heartbeat.seconds_silent(1)
    assert os.getpid() not in heartbeat.last_line


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*row.json'"):
        results.write_atomic(tmp_path / "row.json", "{}")
    assert not list(tmp_path.iterdir())


def test_too_little_memory_is_one_line():
    with pytest.raises(SystemExit, match="error: out of memory"), runtime.exit_status():
        raise MemoryError


def test_a_process_that_waits_for_others_says_so(monkeypatch, caplog):
    monkeypatch.setattr(sharding, "QUIET_SECONDS", 0.05)

    def never(**_):
        time.sleep(0.5)
        raise RuntimeError("nobody came")

    monkeypatch.setattr(sharding.jax.distributed, "initialize", never)
    with caplog.at_level("INFO"), pytest.raises(UserError, match="nobody came"):
        sharding.init_distributed(["node1:1234", "4", "0"], {})
    assert "waiting for 4 processes at node1:1234" in caplog.text


def test_networks_are_counted_once(monkeypatch, tmp_path):
    counted = []
    monkeypatch.setattr(arm_cost, "_count", lambda cfg, code: counted.append(1) or ("0", {"madds": 1.0, "params": 1}))
    plan = make(tmp_path, mode="tune")
    assert len(plan.arms) == 8
    assert len(counted) == 2
    assert {arm.cost["images"] for arm in plan.arms} == {3 * 64}


def test_weights_that_all_arms_start_from_are_those_of_the_base_config(tmp_path):
    with pytest.raises(UserError, match="allowed: a weights file, or one of"):
        make(tmp_path, **{"train.init_from": "/nothing"})
    (tmp_path / "text").write_text("no weights")
    with pytest.raises(UserError, match="text is not a readable safetensors file"):
        make(tmp_path, **{"train.teacher": str(tmp_path / "text")})


@pytest.mark.parametrize("words", [["--rounds", "1001"], ["--batch", "0"], ["mobilenet_v2", "--batch", "9999999"]])
def test_a_benchmark_that_would_take_for_ever_is_refused(words):
    from mnet_jax.bench import __main__ as bench

    with pytest.raises(UserError, match=f"{words[-1]}; allowed: 1 to"):
        bench.main(words)
