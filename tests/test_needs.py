"""Arms that need arms: weights to start from, teachers, frozen layers; resume and failures."""

import subprocess
import time
from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy
from flax import nnx
from test_killed import Sweep
from tiny import OVERRIDES, finish, never, rows, write

from mnet_jax import config, experiment, jobs, models, results, step, sweep, worker
from mnet_jax.errors import UserError
from mnet_jax.models import weights
from mnet_jax.tasks import TASKS

SETTINGS = OVERRIDES | {"seeds": 1}
EXPERIMENT = f'''"""A tiny teacher and its students."""
from mnet_jax import config

def get_config(scale):
    cfg = config.at_scale(scale)
    config.override(cfg, {SETTINGS!r})
    return cfg

def sweep(cfg):
    yield {{"name": "labels"}}
    yield {{"name": "taught", "train.teacher": "teacher"}}
    yield {{"name": "teacher", "model.width": 2.0}}
    yield {{"name": "probe", "train.init_from": "labels", "optim.trainable": ("classifier.*",)}}
    yield {{"name": "wider", "train.init_from": "teacher", "train.init_match": "fitting"}}

claim = {{"contrasts": (config.greater("taught", "labels"),)}}
'''


pytestmark = pytest.mark.usefixtures("chunks_of_three")


def make(folder, text=EXPERIMENT, **overrides):
    overrides = {key.replace("__", "."): str(value) for key, value in overrides.items()}
    planned = experiment.load(write(folder, text))
    plan = sweep.plan(planned, "digits", overrides, "train", "the command")
    return jobs.write(folder, plan, planned)


def tensors(folder, run):
    return safetensors.numpy.load_file(results.run_dir(folder, run) / "weights.safetensors")


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("needs")
    plan = make(folder)
    worker.work_on(folder, plan, never)
    return folder, plan


def test_the_plan_shows_and_orders_what_is_needed(swept):
    _, plan = swept
    order = [job.runs[0].arm for job in plan.jobs]
    assert order.index("teacher") < order.index("taught")
    assert order.index("labels") < order.index("probe")
    assert "model.width=2.0)" in sweep.describe(plan)
    assert "(train.teacher=teacher), after teacher" in sweep.describe(plan)


def test_rows_name_the_weights_that_they_came_from(swept):
    folder, plan = swept
    by_run = {row["run"]: row["needs"] for row in results.read_rows(folder, plan)}
    assert by_run["labels-s0"] == by_run["teacher-s0"] == []
    (record,) = by_run["taught-s0"]
    assert (record["role"], record["run"]) == ("teacher", "teacher-s0")
    path = results.run_dir(folder, "teacher-s0") / "weights.safetensors"
    assert record["sha256"] == subprocess.run(["sha256sum", path], capture_output=True, text=True).stdout.split()[0]


def test_a_probe_trains_the_classifier_and_nothing_else(swept):
    """Frozen layers keep their kernels and, since their norms are in evaluation mode, their statistics."""
    folder, _ = swept
    before, after = tensors(folder, "labels-s0"), tensors(folder, "probe-s0")
    for name in before:
        assert np.array_equal(before[name], after[name]) == (not name.startswith("classifier."))


def test_each_run_of_a_job_starts_from_its_own_seeds_weights(tmp_path):
    alone = "\n".join(line for line in EXPERIMENT.splitlines() if "teacher" not in line or line.startswith('"""'))
    plan = make(tmp_path, alone.replace('"taught", "labels"', '"probe", "labels"'), seeds=2, runs_per_job=2)
    assert [len(job.runs) for job in plan.jobs] == [2, 2]
    worker.work_on(tmp_path, plan, never)
    for seed in range(2):
        before, after = (tensors(tmp_path, f"{arm}-s{seed}") for arm in ("labels", "probe"))
        np.testing.assert_array_equal(before["stem.kernel"], after["stem.kernel"])


def test_what_fits_is_taken_and_the_rest_is_said(tmp_path, caplog):
    caplog.set_level("INFO")
    plan = make(tmp_path)
    worker.work_on(tmp_path, plan, never)
    assert "teacher-s0: 1 of 37 weights fit; drawn are those of blocks.0.depthwise, " in caplog.text


def test_all_weights_must_fit_unless_told(tmp_path):
    plan = make(tmp_path, EXPERIMENT.replace(', "train.init_match": "fitting"', ""))
    with pytest.raises(UserError, match=r"^teacher-s0 does not fit: .* is \[.*\] there and \[.*\] in the network"):
        worker.work_on(tmp_path, plan, never)


def test_a_teacher_changes_what_its_student_learns(swept):
    folder, _ = swept
    labels, taught = tensors(folder, "labels-s0"), tensors(folder, "taught-s0")
    assert labels.keys() == taught.keys()
    assert all(not np.array_equal(labels[name], taught[name]) for name in labels if name.endswith("kernel"))


def test_stopped_and_resumed_is_bit_for_bit_unbroken(swept, tmp_path):
    plan = make(tmp_path)
    finish(tmp_path, plan, 3)
    folder, whole = swept
    assert rows(tmp_path, plan) == rows(folder, whole)
    for run in plan.runs:
        for name, tensor in tensors(tmp_path, run.name).items():
            np.testing.assert_array_equal(tensor, tensors(folder, run.name)[name])


def test_a_diverged_teacher_stops_its_students_with_one_line(tmp_path):
    plan = make(tmp_path, EXPERIMENT.replace('"model.width": 2.0', '"model.width": 2.0, "optim.lr": 1e30'))
    worker.work_on(tmp_path, plan, never)
    assert {run.arm for job in jobs.left(tmp_path, plan) for run in job.runs} == {"taught", "wider"}
    lines = jobs.stopped(tmp_path, plan)
    assert len(lines) == 2
    assert lines[0].startswith("taught-s0 cannot be trained: its teacher, teacher-s0, diverged at step ")


def test_who_needs_a_run_waits_for_it(tmp_path):
    """Another process trains the teacher: the student's job is not there to claim, and the worker does not leave."""
    from contextlib import ExitStack

    from mnet_jax import locks

    plan = make(tmp_path)
    only = replace(plan, jobs=tuple(job for job in plan.jobs if job.runs[0].arm in ("teacher", "taught")))
    with locks.claim(tmp_path, only.jobs[0].runs) as mine, ExitStack() as stack:
        assert mine
        with pytest.raises(jobs.Waiting):
            jobs.next_job(tmp_path, only, set(), stack)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"train.teacher": "techer"}, r"train\.teacher='techer'; did you mean 'teacher'\?; allowed: a weights file"),
        ({"train.init_from": "none.safetensors"}, r"train\.init_from='none\.safetensors'; allowed: a weights file, or"),
        ({"train.init_match": "some"}, r"train\.init_match='some'; allowed: 'all', 'fitting'"),
        (
            {"train.teacher": "labels", "model.num_classes": 11},
            r"teacher labels has model\.num_classes=10; allowed: 11",
        ),
        ({"train.teacher": "taught2"}, r"arms that need one another: taught2 -> taught2"),
    ],
)
def test_a_wrong_need_is_refused_by_the_plan(tmp_path, row, message):
    row = {"name": "taught2", **row}
    with pytest.raises(UserError, match=message):
        make(tmp_path, EXPERIMENT.replace('yield {"name": "labels"}', f'yield {{"name": "labels"}}\n    yield {row!r}'))


def test_a_weights_file_is_used_only_as_it_was_planned(swept, tmp_path):
    folder, _ = swept
    path = tmp_path / "start.safetensors"
    path.write_bytes((results.run_dir(folder, "labels-s0") / "weights.safetensors").read_bytes())
    text = EXPERIMENT.replace('"train.init_from": "labels"', f'"train.init_from": {str(path)!r}')
    (tmp_path / "work").mkdir()
    plan = make(tmp_path / "work", text)
    path.write_bytes((results.run_dir(folder, "taught-s0") / "weights.safetensors").read_bytes())
    with pytest.raises(UserError, match="is not the file that was planned with"):
        worker.work_on(tmp_path / "work", plan, never)


def test_a_norm_is_frozen_only_where_nothing_of_its_layer_is_trained():
    cfg = config.default()
    config.override(cfg, {key: value for key, value in OVERRIDES.items() if key.startswith("model.")})
    network = models.build(cfg.model, nnx.Rngs(0))
    network.train()
    _, params, _ = weights.split(network)
    step._freeze_norms(network, step.trained_mask(params, ("stem.kernel", "blocks.1.expand.bias")))
    assert not network.stem.use_running_average
    assert not network.blocks[1].expand.use_running_average
    assert network.blocks[1].project.use_running_average
    assert network.blocks[0].depthwise.use_running_average


def test_a_pattern_that_matches_nothing_is_refused():
    cfg = config.at_scale("digits")
    params = weights.split(weights.abstract(TASKS["classification"], cfg))[1]
    with pytest.raises(UserError, match=r"optim\.trainable: 'clasifier\.\*' matches no weight; they are "):
        step.trained_mask(params, ("clasifier.*",))


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["teacher", "taught"])
def test_kill_9_during_a_teachers_and_a_students_run(tmp_path, victim):
    """The same command goes on after it, to the rows of an unbroken sweep, bit for bit."""
    text = EXPERIMENT.replace("'train.epochs': 3", "'train.epochs': 30")
    assert "'train.epochs': 30" in text
    flags = ("--config.train.checkpoint_seconds=0",)
    whole, broken = (Sweep(tmp_path / name, *flags, text=text) for name in ("whole", "broken"))
    assert whole.start().wait() == 0
    progress = results.job_dir(broken.workdir, f"{victim}-s0") / "progress.json"
    process = broken.start()
    while not progress.exists() or results.read_json(progress)["step"] < 40:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not results.is_done(broken.workdir, f"{victim}-s0")
    assert broken.start().wait() == 0
    assert broken.left() == whole.left()
