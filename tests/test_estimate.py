"""How long a plan takes: costs of jobs in, words out; and that the costs come from programs that ran."""

import pytest
from tiny import EXPERIMENT, write

from mnet_jax import estimate, experiment, results, sweep

TWO = EXPERIMENT.replace('greater("linear", "relu6")', 'greater("kernel_size=5", "kernel_size=3")')
TWO = TWO.replace('("linear", "relu6")', "(3, 5)").replace("model.project_act", "model.kernel_size")


def make(folder, text=TWO, **overrides):
    return sweep.plan(experiment.load(write(folder, text)), "digits", overrides, "train", "the command")


def test_a_sample_has_each_program_once_and_one_that_runs_anywhere(tmp_path):
    plan = make(tmp_path, seeds="5")
    own, anywhere = estimate.one_job_per_program([plan])
    assert len(plan.jobs) == 10
    assert [job.name for job in own.jobs] == ["kernel_size=3-s0", "kernel_size=5-s0"]
    assert (anywhere.experiment, len(anywhere.jobs)) == ("digits", 1)


def test_costs_become_minutes(tmp_path):
    """Two programs of 10 jobs: 2 x 40 s to compile by each of two workers, and 5 x (30 + 50) s, half of it by each."""
    plan = make(tmp_path, seeds="5")
    three, five = (job.program for job in plan.jobs[:2])
    known = {three: estimate.JobCost(40.0, 30.0), five: estimate.JobCost(40.0, 50.0)}
    said = estimate.describe([plan], estimate.one_job_per_program([plan]), known, 2)
    assert said == "tiny:digits  about 5 minutes, 2 at a time (every program timed)"
    assert estimate.describe([plan], estimate.one_job_per_program([plan]), known, 1).startswith(
        "tiny:digits  about 8 minutes"
    )

    work = {arm.name: arm.cost["madds"] for arm in plan.arms}
    share = work["kernel_size=5"] / work["kernel_size=3"]
    half = estimate.describe([plan], estimate.one_job_per_program([plan]), {three: estimate.JobCost(0.0, 60.0)}, 1)
    assert half.startswith(f"tiny:digits  about {5 * (1 + share):.0f} minutes, 1 at a time")
    assert half.endswith("(1 of 2 programs timed, others by multiply-adds)")
    assert estimate.describe([plan], estimate.one_job_per_program([plan]), {}, 1) == "no program could be timed here"


def test_programs_are_timed_where_they_can_run_and_digits_where_none_can(tmp_path, monkeypatch):
    plan = make(tmp_path)
    sampled = estimate.one_job_per_program([plan])
    workdirs = [tmp_path / "own", tmp_path / "anywhere"]
    for workdir, sample in zip(workdirs, sampled, strict=True):
        results.write_sweep(workdir, sample)
    estimate.time_jobs(workdirs)
    costs = estimate.read(workdirs)
    assert set(costs) == {job.program for job in plan.jobs}
    assert all(cost.train > 0 for cost in costs.values())
    assert not list(tmp_path.rglob("result.json"))

    for path in tmp_path.rglob("job_cost.json"):
        path.unlink()
    monkeypatch.setattr(estimate, "_too_heavy", lambda plan, job: plan.experiment == "tiny")
    monkeypatch.setattr(estimate, "measure", lambda workdir, plan, job: estimate.JobCost(0.0, 60.0))
    estimate.time_jobs(workdirs)
    assert list(estimate.read(workdirs)) == [sampled[1].jobs[0].program]
    assert "rough: by multiply-adds from other networks" in estimate.describe(
        [plan], sampled, estimate.read(workdirs), 1
    )


@pytest.mark.parametrize(
    ("seconds", "words"), [(99, "99 seconds"), (100, "2 minutes"), (7200, "2 hours"), (1e6, "12 days")]
)
def test_durations(seconds, words):
    assert estimate._duration(seconds) == words
