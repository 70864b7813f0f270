"""Through the door, as a user comes in: processes, exit codes, messages."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny import EXPERIMENT, write

import mnet_jax
from mnet_jax import config, main, progress, results, runtime
from mnet_jax.config import claims

ENVIRONMENT = dict(os.environ)


def command(folder, *more):
    return [sys.executable, "-m", "mnet_jax.main", "--config", str(folder / "tiny.py"), *more]


def door(folder, *more):
    return subprocess.run(
        command(folder, *more), capture_output=True, text=True, env=ENVIRONMENT, cwd=folder, check=False
    )


def comparable_rows(workdir):
    return [results.comparable(row) for row in results.read_rows(workdir, results.read_sweep(workdir))]


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A folder with the tiny experiment, swept by two workers, and what that printed."""
    folder = tmp_path_factory.mktemp("swept")
    write(folder)
    return folder, door(folder, "--workers", "2")


def test_one_command_goes_from_a_file_to_a_verdict(swept):
    folder, done = swept
    assert done.returncode == 0, done.stderr
    workdir = folder / "runs" / "tiny-digits"
    assert len(results.read_rows(workdir, results.read_sweep(workdir))) == 4
    assert "linear is better" in done.stdout
    assert (workdir / "report.html").exists()
    assert (workdir / "report.md").exists()
    assert not next(workdir.glob("logs/worker-*-1.log")).read_text().count("Traceback")


WITHOUT = """
import importlib.abc, runpy, sys

class Without(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("array_record", "grain", "tensorboardX", "tensorflow", "tensorflow_datasets"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Without())
runpy.run_module("mnet_jax.main", run_name="__main__", alter_sys=True)
"""


def test_images_in_memory_need_no_data_packages_and_seeds_and_arms_share_a_program(swept, tmp_path):
    """All runs in one job, without what streams images or draws curves: the rows are those of single runs."""
    folder, _ = swept
    more = ["--config", str(folder / "tiny.py"), "--workers", "1", "--config.runs_per_job=4"]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, *more], capture_output=True, text=True, env=ENVIRONMENT, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    workdirs = [path / "runs" / "tiny-digits" for path in (tmp_path, folder)]
    assert [len(results.read_sweep(workdir).jobs) for workdir in workdirs] == [1, 4]
    assert not list(workdirs[0].rglob("tensorboard"))
    together, alone = (
        [row["metrics"] for row in results.read_rows(workdir, results.read_sweep(folder / "runs/tiny-digits"))]
        for workdir in workdirs
    )
    for one, other in zip(together, alone, strict=True):
        assert one == pytest.approx(other, rel=1e-3)


def test_the_same_command_again_trains_nothing(swept):
    folder, _ = swept
    workdir = folder / "runs" / "tiny-digits"
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("result.json")}
    again = door(folder)
    assert again.returncode == 0
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("result.json")} == before


def test_report_needs_only_the_workdir(swept):
    folder, done = swept
    again = door(folder, "--mode", "report", "--workdir", "runs/tiny-*")
    without_config = [argument for argument in again.args if argument not in ("--config", str(folder / "tiny.py"))]
    again = subprocess.run(without_config, capture_output=True, text=True, env=ENVIRONMENT, cwd=folder, check=False)
    assert again.returncode == 0, again.stderr
    assert again.stdout.split("command:")[0] == done.stdout.split("command:")[0]


def test_several_files_are_trained_and_one_index_leads_to_all(tmp_path):
    """tiny and twin are trained, big does not take the scale; afterwards twin's report is refused, tiny's is not."""
    write(tmp_path)
    (tmp_path / "twin.py").write_text(EXPERIMENT.replace("Tiny", "Another tiny"))
    (tmp_path / "big.py").write_text('def get_config(scale):\n    raise ValueError(f"no {scale}; allowed: imagenet")')
    every = [sys.executable, "-m", "mnet_jax.main", "--config", "t*.py", "big.py:digits", "--config.seeds=1"]
    options = {"capture_output": True, "text": True, "env": ENVIRONMENT, "cwd": tmp_path, "check": False}
    done = subprocess.run([*every, "--workers", "2"], **options)
    assert done.returncode == 0, done.stderr
    assert "skipped big:digits: no digits; allowed: imagenet" in done.stderr
    runs = tmp_path / "runs"
    for name in ("tiny", "twin"):
        assert len(list((runs / f"{name}-digits" / "runs").glob("*/result.json"))) == 2
        assert f'href="./{name}-digits/report.html"' in (runs / "index.html").read_text()
    page = (runs / "report.html").read_text()
    assert page.count("<article") == 2
    assert set(re.findall(r'href="#([^"]+)-digits-train-\d', page)) == {"tiny", "twin"}
    assert done.stdout.count("NOT ENOUGH RUNS YET") == 2
    ours = ("skipped", "[", "    ", "training on ", "all of it took ")
    assert all(line.startswith(ours) for line in done.stderr.splitlines()), "no library chats"

    row = runs / "twin-digits" / "runs" / "relu6-s0" / "result.json"
    row.write_text(row.read_text().replace('"fingerprint": "', '"fingerprint": "other'))
    again = subprocess.run(
        [sys.executable, "-m", "mnet_jax.main", "--mode", "report", "--workdir", *map(str, runs.iterdir())], **options
    )
    assert again.returncode == 1
    assert "twin-digits: linear-s0 and relu6-s0 have other data and cannot be compared: fingerprint" in again.stderr
    assert "tiny-digits" in (runs / "index.html").read_text()
    assert "twin-digits" not in (runs / "index.html").read_text()


def test_seeds_are_added_until_the_interval_is_narrow(tmp_path):
    """Two of each arm leave it wide, seeds_max is 3; the same command again trains nothing."""
    write(tmp_path, EXPERIMENT.replace('"metric": "accuracy"', '"metric": "nll"'))
    more = ("--workers", "1", "--config.seeds_until=0.000001", "--config.seeds_max=3")
    done = door(tmp_path, *more)
    assert done.returncode == 0, done.stderr
    workdir = tmp_path / "runs" / "tiny-digits"
    rows = comparable_rows(workdir)
    assert [row["seed"] for row in rows if row["arm"] == "relu6"] == [0, 1, 2]
    page = " ".join((workdir / "report.md").read_text().split())
    assert "The number of seeds, 3, followed from the width" in page
    assert "the spread of the first 2, not from p" in page
    assert "seeds: 2, then as many as their spread asked for" in page
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("result.json")}
    assert door(tmp_path, *more).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("result.json")} == before


def test_plan_writes_nothing(swept, tmp_path):
    write(tmp_path)
    done = door(tmp_path, "--mode", "plan", "--config.seeds=5", "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert "10 runs in 10 jobs of 1 programs" in done.stdout
    assert re.search(r"tiny:digits  about \d+ \w+, 1 at a time \(every program timed\)", done.stdout)
    assert not (tmp_path / "runs").exists()


def test_one_process_equals_two_workers(swept, tmp_path):
    folder, _ = swept
    write(tmp_path)
    done = door(tmp_path, "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert comparable_rows(tmp_path / "runs" / "tiny-digits") == comparable_rows(folder / "runs" / "tiny-digits")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--config.model.widht=1"],
            "error: command line: no such field 'model.widht'; did you mean 'model.width'?",
        ),
        (["--config.model.project_act=relu"], "is what tiny:digits sweeps over"),
        (["--config.data.source=cifar10", "--config.data.dir=nowhere"], "nowhere"),
        (["--workers", "0"], "error: --workers 0; allowed: 1 or more"),
        (
            ["--config.seeds=3", "--workdir", "a", "--workdir", "b"],
            "error: one workdir for each experiment file: got 2 and 1",
        ),
    ],
)
def test_a_users_mistake_is_one_clear_line(tmp_path, arguments, message):
    write(tmp_path)
    done = door(tmp_path, *arguments)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_help_is_quick_to_import_and_names_every_field(capsys):
    with pytest.raises(SystemExit, match="0"):
        main.parse(["--help"])
    text = capsys.readouterr().out
    assert "--config.KEY" in text
    assert "model.project_act" in text
    code = "import sys, mnet_jax.main; print({'jax', 'scipy', 'matplotlib'} & set(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout == "set()\n"


WITHOUT_JAX = """
import sys
sys.modules["jax"] = None
from mnet_jax import main
from mnet_jax.errors import UserError
try:
    print(main.main(sys.argv[1:]))
except UserError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "tiny.py", "--config.model.widht=1"], "no such field 'model.widht'"),
        (["--config", "tiny.py:digit"], "no scale 'digit'; did you mean 'digits'?"),
        (["--config", "tyni.py"], "no experiment file tyni.py; did you mean 'tiny.py'?"),
        (["--list", "--config", "tiny.py"], "    digits             4 runs, about "),
        (["--version"], f"mnet_jax {mnet_jax.__version__}"),
    ],
)
def test_words_are_checked_before_jax_is_imported(tmp_path, arguments, message):
    write(tmp_path)
    command = [sys.executable, "-c", WITHOUT_JAX, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, cwd=tmp_path, check=True)
    assert message in done.stdout


def test_a_hint_names_the_extra_of_an_accelerator_that_jax_cannot_use(tmp_path, monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS")
    monkeypatch.setattr(runtime, "ACCELERATORS", {"cuda": str(tmp_path / "gpu")})
    monkeypatch.setattr(runtime, "on_cpu", lambda: True)
    assert runtime.accelerator_hint() == ""
    (tmp_path / "gpu").touch()
    assert runtime.accelerator_hint().endswith("pip install 'mnet_jax[cuda]')")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert runtime.accelerator_hint() == "", "the user has chosen the CPU"


def test_progress_says_that_programs_are_compiled_until_the_first_steps_are_done(tmp_path):
    run = results.Run("a-s0", "a", 0)
    arm = results.Arm("a", {}, 0.1, cost={"madds": 1e6, "params": 10.0, "images": 100.0})
    job = results.Job.of("1234", (run,))
    metrics = (config.Metric("accuracy", "accuracy", "%"),)
    plan = results.Sweep("e", "digits", "train", "", "", {}, claims.Claim(), metrics, (arm,), (job,))
    state = progress.Reader({tmp_path: plan})
    assert state.read()[2] == "0 of 1 runs, starting and compiling for 0:00"
    results.write_progress(tmp_path, job, 5, 10)
    facts = state.read()[2]
    assert "compiling" not in facts
    assert facts.endswith(" left")
    assert [progress.clock(seconds) for seconds in (7.9, 754, 12345)] == ["0:07", "12:34", "3:25:45"]


def test_overrides_are_split_from_flags():
    flags, overrides = main.parse(
        ["--config", "a.py", "--config.seeds=3", "--config.model.width", "0.5", "--workers", "2"]
    )
    assert overrides == {"seeds": "3", "model.width": "0.5"}
    assert (flags.config, flags.workers) == (["a.py"], 2)


def test_ctrl_c_stops_all_and_the_same_command_goes_on(tmp_path):
    """The signal comes when a run has its first line; what was done stays, no worker outlives the command."""
    write(tmp_path, EXPERIMENT.replace("'train.epochs': 3", "'train.epochs': 200"))
    workdir = tmp_path / "runs" / "tiny-digits"
    process = subprocess.Popen(
        command(tmp_path, "--workers", "2"),
        env=ENVIRONMENT,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not list(workdir.glob("jobs/*/progress.json")) and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 75, err
    assert "the same command goes on" in err
    assert "PARTIAL" in out
    assert list(workdir.glob("jobs/*/checkpoints/*"))
    logs = "".join(path.read_text() for path in workdir.glob("logs/*.log"))
    assert "stopped at step" in logs
    done = door(tmp_path, "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert "goes on from step" in "".join(path.read_text() for path in workdir.glob("logs/*.log"))
    for row in results.read_rows(workdir, results.read_sweep(workdir)):
        assert json.loads((workdir / "runs" / row["run"] / "metrics.jsonl").read_text().split("\n")[-2])["epoch"] == 200


def family(pid):
    """A process and the workers it started."""
    return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]


@pytest.mark.slow
def test_killed_at_random_moments_gives_the_same_rows(swept, tmp_path):
    """kill -9 of the command and its workers, five times, at moments spread over the sweep."""
    import random

    folder, _ = swept
    write(tmp_path)
    moments = random.Random(0)
    for _ in range(5):
        process = subprocess.Popen(
            command(tmp_path, "--workers", "2"),
            env=ENVIRONMENT,
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(moments.uniform(3, 12))
        for pid in family(process.pid):
            os.kill(pid, signal.SIGKILL)
        process.wait()
    assert door(tmp_path, "--workers", "2").returncode == 0
    assert comparable_rows(Path(tmp_path) / "runs" / "tiny-digits") == comparable_rows(folder / "runs" / "tiny-digits")


def test_a_stop_while_workers_are_still_starting_is_a_stop(tmp_path):
    write(tmp_path)
    workdir = tmp_path / "runs" / "tiny-digits"
    process = subprocess.Popen(
        command(tmp_path, "--workers", "2"), env=ENVIRONMENT, cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    while not list(workdir.glob("logs/worker-*-1.log")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    assert "the same command goes on" in err
