"""The loop: rows, resume to the same bits, divergence, several runs a job."""

import shutil

import numpy as np
import pytest
import safetensors.numpy
from tiny import EXPERIMENT, finish, never, rows, write

from mnet_jax import experiment, results, sweep, train, trained, worker
from mnet_jax.data import builtin
from mnet_jax.data.dataset import split
from mnet_jax.errors import UserError
from mnet_jax.tasks import classification


def make(folder, text=EXPERIMENT, **overrides):
    overrides = {key.replace("__", "."): str(value) for key, value in overrides.items()}
    plan = sweep.plan(experiment.load(write(folder, text)), "digits", overrides, "train", "the command")
    results.write_sweep(folder, plan)
    return plan


pytestmark = pytest.mark.usefixtures("chunks_of_three")


def weights(folder, plan):
    return [safetensors.numpy.load_file(results.run_dir(folder, run.name) / "weights.safetensors") for run in plan.runs]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    plan = make(folder)
    worker.work_on(folder, plan, never)
    return folder, plan


def test_rows_hold_what_a_reader_asks(unbroken):
    folder, plan = unbroken
    row = results.read_rows(folder, plan)[1]
    assert (row["run"], row["arm"], row["seed"]) == ("relu6-s0", "relu6", 0)
    assert row["overrides"] == {"model.project_act": "relu6"}
    assert row["data"]["split"].startswith("64 training images drawn by the seed")
    assert 0 <= row["metrics"]["accuracy"] <= 1
    assert row["metrics"]["nll"] > 0
    assert set(row["timing"]) == {"start", "compile", "data", "steps", "evaluation", "writing", "finished"}
    assert row["diverged_at"] is None
    assert row["device"]["platform"] == "cpu"
    assert row["device"]["depthwise"] == "shift"  # eight devices share the batch


def test_what_a_run_answered_is_kept_and_drawn(unbroken):
    folder, plan = unbroken
    run = plan.runs[0]
    arrays = results.read_arrays(folder, run.name)
    label_N, predicted_N, confidence_N = (arrays[f"image/{name}"] for name in ("label", "predicted", "confidence"))
    assert (label_N == predicted_N).mean() == pytest.approx(results.read_rows(folder, plan)[0]["metrics"]["accuracy"])
    network = trained.load(results.run_dir(folder, run.name) / "weights.safetensors")
    digits = builtin.digits()
    images_NHWC = digits.in_memory()[split(digits, run.seed, 64).test[:32]]
    predicted = network.predict(images_NHWC)
    assert predicted["labels"].tolist() == predicted_N[:32].tolist()
    assert confidence_N[:32] == pytest.approx(predicted["probabilities"].max(-1), rel=1e-4)
    pictures = {title: figure for title, figure, _ in classification.TASK.pictures(folder, plan)}
    assert list(pictures) == ["Classes", "Confusions", "Most confident mistakes"]
    (axes,) = pictures["Confusions"].axes
    shares_KK = np.asarray(axes.images[0].get_array())
    assert shares_KK.sum(1) == pytest.approx(100)
    assert shares_KK[3, 3] == pytest.approx(100 * np.mean(_answers_to(folder, plan, 3) == 3))
    wrong = label_N != predicted_N
    surest = np.argmax(np.where(wrong, confidence_N, 0))
    words = f"{label_N[surest]} → {predicted_N[surest]}, {100 * confidence_N[surest]:.0f} %"
    first = pictures["Most confident mistakes"].axes[0]
    assert first.get_title() == words
    test = split(digits, run.seed, 64).test
    assert np.array_equal(np.asarray(first.images[0].get_array()), digits.image(int(test[surest])).squeeze())


def test_answers_of_other_classes_or_images_are_refused(unbroken, tmp_path):
    folder, plan = unbroken
    shutil.copytree(folder, tmp_path / "copy")
    arrays = results.read_arrays(folder, plan.runs[0].name)
    for name, broken in {
        "image/label": arrays["image/label"] + 1,
        "image/predicted": arrays["image/predicted"][1:],
        "image/confidence": np.zeros((2, 2)),
    }.items():
        results.write_arrays(tmp_path / "copy", plan.runs[0].name, {**arrays, name: broken})
        with pytest.raises(UserError, match=r"linear-s0/arrays\.npz: the answers are not 10 classes'"):
            list(classification.TASK.pictures(tmp_path / "copy", plan))


def _answers_to(folder, plan, digit):
    """What all runs of the first arm answered to images of a digit."""
    kept = [results.read_arrays(folder, run.name) for run in plan.runs if run.arm == plan.arms[0].name]
    return np.concatenate([arrays["image/predicted"][arrays["image/label"] == digit] for arrays in kept])


def test_metrics_have_a_line_an_epoch_and_evaluations_when_due(unbroken):
    folder, plan = unbroken
    lines = results.read_metrics(folder, "linear-s0")
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert ["accuracy" in line for line in lines] == [False, True, True]  # every second epoch, and the last
    assert lines[-1]["accuracy"] == results.read_rows(folder, plan)[0]["metrics"]["accuracy"]


def test_tensorboard_events_stand_beside_the_metrics(unbroken):
    folder, _ = unbroken
    assert list((results.run_dir(folder, "linear-s0") / "tensorboard").glob("events.out.tfevents.*"))


def test_nothing_of_a_finished_job_is_left_behind(unbroken):
    folder, _ = unbroken
    assert not list(results.job_dir(folder, "linear-s0").iterdir())


def test_saved_weights_score_what_the_row_says(unbroken):
    folder, plan = unbroken
    digits = builtin.digits()
    test = split(digits, 0, 64).test
    logits = trained.load(results.run_dir(folder, "relu6-s0") / "weights.safetensors")(digits.in_memory()[test])
    accuracy = float(np.mean(np.argmax(logits, -1) == digits.labels_N[test]))
    assert accuracy == pytest.approx(results.read_rows(folder, plan)[1]["metrics"]["accuracy"], abs=1e-3)


@pytest.mark.parametrize("moment", [1, 3, 5])
def test_stopped_and_resumed_is_bit_for_bit_unbroken(unbroken, tmp_path, moment):
    """Stops at every `moment`-th look at the signal until all is done."""
    plan = make(tmp_path)
    assert finish(tmp_path, plan, moment) >= 4
    folder, whole = unbroken
    assert rows(tmp_path, plan) == rows(folder, whole)
    for mine, theirs in zip(weights(tmp_path, plan), weights(folder, whole), strict=True):
        assert mine.keys() == theirs.keys()
        for name in mine:
            np.testing.assert_array_equal(mine[name], theirs[name])
    for run in plan.runs:
        assert results.read_metrics(tmp_path, run.name) == results.read_metrics(folder, run.name)


def test_an_unreadable_checkpoint_is_reported_and_the_run_starts_again(unbroken, tmp_path, caplog):
    plan = make(tmp_path)
    with pytest.raises(train.Preempted, match="job linear-s0 stopped at step 3 of 12"):
        worker.work_on(tmp_path, plan, lambda: True)
    checkpoints = results.job_dir(tmp_path, "linear-s0") / "checkpoints"
    for path in checkpoints.rglob("*"):
        if path.is_file():
            path.write_bytes(b"damaged")
    worker.work_on(tmp_path, plan, never)
    assert "cannot be read" in caplog.text
    assert rows(tmp_path, plan) == rows(*unbroken)


def test_divergence_is_named_and_the_sweep_goes_on(tmp_path, caplog):
    text = EXPERIMENT.replace('{"model.project_act": act}', '{"optim.lr": 1e30 if act == "relu6" else 0.1}')
    plan = make(tmp_path, text.replace('greater("linear", "relu6")', 'greater("lr=0.1", "lr=1e+30")'), seeds=1)
    worker.work_on(tmp_path, plan, never)
    found = {row["arm"]: row["diverged_at"] for row in results.read_rows(tmp_path, plan)}
    assert found["lr=0.1"] is None
    assert 0 < found["lr=1e+30"] < 4
    assert f"lr=1e+30-s0 diverged: its loss is not finite at step {found['lr=1e+30']}" in caplog.text


def test_several_runs_a_job_are_the_runs_one_by_one(unbroken, tmp_path):
    plan = make(tmp_path, runs_per_job=4)
    assert len(plan.jobs) == 1
    worker.work_on(tmp_path, plan, never)
    for mine, theirs in zip(rows(tmp_path, plan), rows(*unbroken), strict=True):
        assert mine["run"] == theirs["run"]
        assert mine["metrics"]["nll"] == pytest.approx(theirs["metrics"]["nll"], rel=0.05)


def test_jobs_of_one_program_share_it_and_few_programs_are_kept(tmp_path, monkeypatch):
    built = []
    monkeypatch.setattr(train, "compiled_programs", {})
    monkeypatch.setattr(train, "KEPT_PROGRAMS", 2)
    monkeypatch.setattr(train.step, "build", lambda *args, real=train.step.build: built.append(args) or real(*args))
    sizes = EXPERIMENT.replace('greater("linear", "relu6")', 'greater("kernel_size=1", "kernel_size=3")')
    sizes = sizes.replace('("linear", "relu6")', "(1, 3, 5)").replace("project_act", "kernel_size")
    plan = make(tmp_path, sizes)
    worker.work_on(tmp_path, plan, never)
    assert len(plan.jobs) == 6
    assert len(built) == 3
    assert len(train.compiled_programs) == 2
