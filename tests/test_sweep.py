"""Experiment files become runs; the locks of runs are exclusive and die with the process that has them."""

import contextlib
import math
import subprocess
import sys

import pytest
from tiny import EXPERIMENT, write

from mnet_jax import config, cost, experiment, jobs, locks, results, sweep
from mnet_jax.cost.parts import Parts
from mnet_jax.errors import UserError


def make(folder, text=EXPERIMENT, overrides=None, mode="train"):
    return sweep.plan(experiment.load(write(folder, text)), "digits", overrides or {}, mode, "the command")


def with_rows(rows, better="linear", worse="relu6"):
    """The tiny experiment with other arms, and the contrast of two of them."""
    text = EXPERIMENT.replace('("linear", "relu6"):', f"{rows!r}:").replace('{"model.project_act": act}', "act")
    return text.replace('greater("linear", "relu6")', f"greater({better!r}, {worse!r})")


def test_plan_names_costs_and_orders_runs(tmp_path):
    plan = make(tmp_path)
    assert [arm.name for arm in plan.arms] == ["linear", "relu6"]
    assert [run.name for run in plan.runs] == ["linear-s0", "relu6-s0", "linear-s1", "relu6-s1"]
    assert {job.program for job in plan.jobs} == {plan.jobs[0].program}  # arms that differ in numbers share a program
    assert plan.arms[0].cost["images"] == 3 * 64
    assert plan.title == "Tiny ablation of the bottleneck's activation."
    assert plan.claim.contrasts[0].arms == ("linear", "relu6")


def test_a_block_is_counted_once_for_all_networks_that_have_it(tmp_path, monkeypatch):
    """Three blocks here and three there: nine networks, of which five bring a block that no other had before."""
    calls, count = [], cost.count
    monkeypatch.setattr(cost, "count", lambda *args, **more: calls.append(1) or count(*args, **more))
    rows = [
        {"name": f"{first}{second}", "model.blocks": ((1, 4, 1, 1), (first, 4, 1, 1), (second, 4, 1, 2))}
        for first in (2, 3, 4)
        for second in (2, 3, 4)
    ]
    plan = make(tmp_path, with_rows(rows, better="22", worse="33"))
    assert len({arm.network for arm in plan.arms}) == len(plan.arms) == 9
    assert len(calls) == 5
    monkeypatch.setattr(Parts, "total", lambda *_: None)
    assert make(tmp_path, with_rows(rows, better="22", worse="33")).arms == plan.arms


def test_plan_survives_the_disk(tmp_path):
    plan = make(tmp_path)
    results.write_sweep(tmp_path, plan)
    assert results.read_sweep(tmp_path) == plan


def test_runs_of_one_program_are_put_into_jobs(tmp_path):
    plan = make(tmp_path, overrides={"runs_per_job": "3"})
    assert [[run.name for run in job.runs] for job in plan.jobs] == [
        ["linear-s0", "relu6-s0", "linear-s1"],
        ["relu6-s1"],
    ]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"model.widht": 1.0}], "no such field 'model.widht'; did you mean 'model.width'"),
        ([{"model.width": "wide"}], "model.width='wide' is not a number"),
        (
            [{"model.act": "relu"}, {"model.act": "relu", "name": "again"}],
            "are the same network and settings",
        ),
        ([{}, {"model.depth": "full", "name": "full"}], "are the same network and settings"),
        (
            [{"model.expansion": 6}, {"model.blocks": ((1, 4, 1, 1), (6, 4, 1, 1))}],
            "are the same network and settings",
        ),
        ([{"model.act": "relu", "name": "a/b"}], "arm name 'a/b'; allowed"),
        ([{"name": "linear", "model.num_classes": 7}, {"name": "relu6"}], "model.num_classes=7; digits needs 10"),
        ([{"name": "linear", "data.train_size": 5000}, {"name": "relu6"}], "5000"),
        ([], "yields no row"),
    ],
)
def test_bad_rows(tmp_path, rows, message):
    with pytest.raises(UserError, match="digits") as caught:
        make(tmp_path, with_rows(rows))
    assert message in str(caught.value)


def test_overriding_what_the_sweep_varies_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"model\.project_act is what tiny:digits sweeps over"):
        make(tmp_path, overrides={"model.project_act": "relu"})


def test_claim_about_an_unknown_arm(tmp_path):
    with pytest.raises(UserError, match="the claim's contrast names arm 'relu7'; did you mean 'relu6'"):
        make(tmp_path, EXPERIMENT.replace('greater("linear", "relu6")', 'greater("linear", "relu7")'))


def test_copies_run_at_the_baselines_rate(tmp_path):
    rows = [{"model.act": "relu6", "optim.lr": 0.6}, {"model.act": "relu", "optim.lr": 0.3}]
    plan = make(tmp_path, with_rows(rows, "relu6", "relu"))
    assert [(arm.name, arm.lr, arm.same_lr_as) for arm in plan.arms] == [
        ("relu6", 0.6, ""),
        ("relu", 0.3, ""),
        ("relu@lr0.6", 0.6, "relu"),
    ]


def test_tuning_seeds_are_never_reported_ones(tmp_path):
    plan = make(tmp_path, mode="tune", overrides={"tune.lrs": "(0.1, 0.3)", "tune.seeds": "2"})
    assert {run.seed for run in plan.runs} == {config.TUNING_SEED, config.TUNING_SEED + 1}
    assert not {run.seed for run in plan.runs} & {run.seed for run in make(tmp_path).runs}
    assert [arm.lr for arm in plan.arms] == [0.1, 0.3, 0.1, 0.3]
    assert plan.arm("relu6@lr0.3").variant == "relu6"
    assert plan.config["data.holdout"] > 0


def test_missing_and_broken_files(tmp_path):
    write(tmp_path)
    with pytest.raises(UserError, match=r"no experiment file .*other\.py; did you mean 'tiny\.py'\?; in .*: tiny\.py$"):
        experiment.load(tmp_path / "other.py")
    with pytest.raises(UserError, match="cannot be imported: ZeroDivisionError"):
        experiment.load(write(tmp_path, "1/0"))
    with pytest.raises(UserError, match="defines no function get_config; see any file in experiments/"):
        experiment.load(write(tmp_path, ""))


def test_workdir_of_another_plan_is_refused_with_the_difference(tmp_path):
    jobs.write(tmp_path, make(tmp_path))
    jobs.write(tmp_path, make(tmp_path))
    with pytest.raises(UserError, match=r"holds another plan \(train.epochs: 3 there, 4 now\)"):
        jobs.write(tmp_path, make(tmp_path, overrides={"train.epochs": "4"}))


def test_seeds_can_be_added_and_not_taken_away(tmp_path):
    jobs.write(tmp_path, make(tmp_path))
    more = make(tmp_path, overrides={"seeds": "5"})
    jobs.write(tmp_path, more)
    assert results.read_sweep(tmp_path) == more
    with pytest.raises(UserError, match=r"runs: linear-s2, relu6-s2, linear-s3 \.\. there, not now"):
        jobs.write(tmp_path, make(tmp_path))


def test_one_process_has_the_locks_of_a_job_and_its_death_frees_them(tmp_path):
    plan = make(tmp_path)
    results.write_sweep(tmp_path, plan)
    script = (
        "import sys, pathlib, time\n"
        "from mnet_jax import locks, results\n"
        "workdir = pathlib.Path(sys.argv[1]); plan = results.read_sweep(workdir)\n"
        "with locks.claim(workdir, plan.jobs[0].runs) as mine:\n    print(mine, flush=True)\n    time.sleep(60)\n"
    )
    other = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    with other, other.stdout:
        assert other.stdout.readline() == "True\n"
        with locks.claim(tmp_path, plan.jobs[0].runs) as mine:
            assert not mine
        with contextlib.ExitStack() as stack:
            assert jobs.next_job(tmp_path, plan, set(), stack) == plan.jobs[1]
        other.kill()
        other.wait()
    with locks.claim(tmp_path, plan.jobs[0].runs) as mine:
        assert mine


def test_a_compiled_program_is_preferred(tmp_path):
    rows = [{"model.kernel_size": 3}, {"model.kernel_size": 5}]
    plan = make(tmp_path, with_rows(rows, "kernel_size=3", "kernel_size=5"))
    first, second = plan.jobs[0].program, plan.jobs[1].program
    assert first != second
    with contextlib.ExitStack() as stack:
        job = jobs.next_job(tmp_path, plan, {second}, stack)
        assert job is not None
        assert job.program == second


def test_finished_jobs_are_not_left(tmp_path):
    plan = make(tmp_path)
    results.write_row(tmp_path, {"run": "linear-s0"})
    assert [job.name for job in jobs.left(tmp_path, plan)] == ["relu6-s0", "linear-s1", "relu6-s1"]
    with contextlib.ExitStack() as stack:
        assert jobs.next_job(tmp_path, plan, set(), stack) == plan.jobs[1]


UNTIL = {"seeds_until": "40.0", "seeds_max": "9"}


def write_rows(workdir, plan, accuracy):
    device = {"platform": "cpu", "kind": "cpu", "count": 1, "threads": 1}
    programs = {run: job.program for job in plan.jobs for run in job.runs}
    for run, program in programs.items():
        arm = plan.arm(run.arm)
        row = {"experiment": plan.experiment, "scale": plan.scale, "run": run.name, "arm": run.arm, "seed": run.seed}
        row |= {"lr": arm.lr, "overrides": arm.overrides, "program": program, "device": device}
        row |= {"cost": {}, "versions": {}, "data": {}, "timing": {}, "diverged_at": None}
        results.write_row(workdir, row | {"metrics": {"accuracy": accuracy(run)}})


def test_seeds_follow_from_the_width_once_the_first_are_done(tmp_path):
    """Differences of 0 and 4 points: sd 2.83, t 12.7, so 3.2 seeds make 40 points; the same rows, the same plan."""
    plan = make(tmp_path, overrides=UNTIL)
    jobs.write(tmp_path, plan)
    assert sweep.with_more_seeds(tmp_path, plan) == plan
    write_rows(tmp_path, plan, lambda run: 0.9 + 0.04 * (run.arm == "linear") * run.seed)
    wider = sweep.with_more_seeds(tmp_path, plan)
    assert [run.seed for run in wider.runs if run.arm == "relu6"] == [0, 1, 2, 3]
    assert wider.jobs[: len(plan.jobs)] == plan.jobs
    assert {job.program for job in wider.jobs} == {plan.jobs[0].program}
    jobs.write(tmp_path, wider)
    write_rows(tmp_path, wider, lambda run: 0.9 + 0.04 * (run.arm == "linear") * (run.seed % 2) + run.seed // 2)
    assert sweep.with_more_seeds(tmp_path, wider) == sweep.with_more_seeds(tmp_path, plan) == wider
    narrow = make(tmp_path, overrides=UNTIL | {"seeds_until": "0.1"})
    assert max(run.seed for run in sweep.with_more_seeds(tmp_path, narrow).runs) == 8, "seeds_max"


@pytest.mark.parametrize(("changed", "message"), [({"seeds": "3"}, "seeds: 2 there, 3 now"), ({}, "seeds_until: 40.0")])
def test_what_the_width_followed_from_cannot_change(tmp_path, changed, message):
    """That would be to look at the result and go on."""
    jobs.write(tmp_path, make(tmp_path, overrides=UNTIL))
    jobs.write(tmp_path, make(tmp_path, overrides=UNTIL | {"seeds_max": "20"}))
    other = make(tmp_path, overrides=UNTIL | changed if changed else {})
    with pytest.raises(UserError, match=message):
        jobs.write(tmp_path, other)


def top_at(rate):
    """Accuracies of a tuning whose fitted response is highest at this rate."""
    return lambda run: 0.9 - 0.01 * math.log(float(run.arm.split("@lr")[1]) / rate) ** 2 + 0.001 * (run.seed % 3)


TUNE = {"tune.lrs": "(0.1, 0.2, 0.4)", "tune.seeds": "2"}


def test_a_tuning_gets_one_rate_more_at_each_edge_until_it_has_three(tmp_path):
    plan = make(tmp_path, mode="tune", overrides=TUNE)
    assert sweep.widened(tmp_path, plan) == plan
    for most in (0.8, 1.6, 3.2, 3.2):
        jobs.write(tmp_path, plan)
        assert sweep.widened(tmp_path, make(tmp_path, mode="tune", overrides=TUNE)).arms == plan.arms, "as it was left"
        write_rows(tmp_path, plan, top_at(50))
        plan = sweep.widened(tmp_path, plan)
        assert max(arm.lr for arm in plan.arms) == most
    assert [arm.name for arm in plan.arms if arm.variant == "relu6"][2:] == [
        f"relu6@lr{lr}" for lr in (0.4, 0.8, 1.6, 3.2)
    ]
    assert {job.program for job in plan.jobs} == {plan.jobs[0].program}
    more = sweep.widened(tmp_path, make(tmp_path, mode="tune", overrides=TUNE | {"tune.seeds": "3"}))
    jobs.write(tmp_path, more)
    assert len(more.runs) == 2 * 6 * 3, "new seeds are of all rates"


def test_a_tuning_with_its_top_inside_gets_no_rate(tmp_path):
    plan = make(tmp_path, mode="tune", overrides=TUNE)
    jobs.write(tmp_path, plan)
    write_rows(tmp_path, plan, top_at(0.2))
    assert sweep.widened(tmp_path, plan) == plan


def test_a_rate_that_was_an_edge_is_one_of_the_arm(tmp_path):
    text = EXPERIMENT.replace(
        'for act in ("linear", "relu6"):\n        yield {"model.project_act": act}',
        'arms = {act: {"model.project_act": act} for act in ("linear", "relu6")}\n'
        '    yield from config.tuned(arms, {"digits": {"linear": 0.3, "relu6": (0.9, "edge")}}, cfg)',
    )
    plan = make(tmp_path, text)
    assert [(arm.name, arm.lr, arm.lr_at_edge) for arm in plan.arms] == [
        ("linear", 0.3, False),
        ("relu6", 0.9, True),
        ("relu6@lr0.3", 0.3, False),
    ]
    with pytest.raises(UserError, match=r"of arm 'relu6' is \(0.9, 'egde'\); allowed: a number, or"):
        make(tmp_path, text.replace('"edge"', '"egde"'))


def test_one_seed_gives_no_spread(tmp_path):
    with pytest.raises(UserError, match=r"seeds=1 and seeds_max=9; with seeds_until allowed: at least 2"):
        make(tmp_path, overrides=UNTIL | {"seeds": "1"})
