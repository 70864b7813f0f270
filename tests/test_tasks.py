"""A task is one file: a third one, whose metric needs every image's prediction, from experiment file to verdict."""

from pathlib import Path

import jax
import numpy as np
import pytest
from scipy.stats import spearmanr
from tiny import finish, never, rows

from mnet_jax import experiment, feed, laboratory, models, report, results, sharding, sweep, train, worker
from mnet_jax.data import load

FILE = Path(__file__).parent / "ranking.py"


def make(folder, **overrides):
    plan = sweep.plan(experiment.load(FILE), "digits", overrides, "train", "the command")
    results.write_sweep(folder, plan)
    return plan


pytestmark = pytest.mark.usefixtures("chunks_of_three")


@pytest.fixture(scope="module")
def ranked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranking")
    plan = make(folder)
    worker.work_on(folder, plan, never)
    return folder, plan


def test_a_third_task_is_one_short_file():
    assert len(FILE.read_text().splitlines()) <= 60


def test_from_file_to_verdict(ranked):
    folder, _ = ranked
    summary, drawn = report.write(folder)
    assert summary.verdicts[0].difference.n == 2
    assert "rank correlation" in report.to_text(summary)
    assert {figure.title for figure in drawn} >= {"Every run", "What it costs"}
    assert set(results.read_metrics(folder, "linear-s0")[-1]) >= {"train_loss", "train_error", "correlation"}


def test_the_score_is_that_of_every_held_out_image_in_order(ranked):
    """Recomputed from the saved weights, image by image."""
    folder, plan = ranked
    network = models.load(results.run_dir(folder, "relu6-s1") / "weights.safetensors", file=FILE)
    dataset = load.from_config(network.cfg.data)
    test = feed.split(dataset, 1, 64).test
    outputs = np.asarray(network(dataset.in_memory()[test]))[:, 0]
    row = next(row for row in results.read_rows(folder, plan) if row["run"] == "relu6-s1")
    expected = spearmanr(outputs, dataset.labels_N[test]).statistic
    assert row["metrics"]["correlation"] == pytest.approx(expected, abs=1e-4)


def test_stopped_and_resumed_gives_the_same_rows(ranked, tmp_path):
    plan = make(tmp_path)
    finish(tmp_path, plan, 3)
    folder, whole = ranked
    assert rows(tmp_path, plan) == rows(folder, whole)


def test_one_device_keeps_what_eight_keep(ranked, tmp_path, monkeypatch):
    """The module's other tests share each batch among eight devices."""
    one, real = jax.devices()[:1], sharding.mesh
    monkeypatch.setattr(sharding, "mesh", lambda runs, batch, devices=None, **kw: real(runs, batch, one, **kw))
    monkeypatch.setattr(train, "compiled_programs", {})
    plan = make(tmp_path, seeds="1")
    worker.work_on(tmp_path, plan, never)
    eight = {row["run"]: row["metrics"] for row in results.read_rows(*ranked)}
    for row in results.read_rows(tmp_path, plan):
        (one_line, *_), (eight_line, *_) = (results.read_metrics(at, row["run"]) for at in (tmp_path, ranked[0]))
        assert one_line["train_loss"] == pytest.approx(eight_line["train_loss"], rel=1e-4)
        assert row["metrics"]["correlation"] == pytest.approx(eight[row["run"]]["correlation"], abs=0.05)


def test_its_fields_are_the_configs():
    cfg = sweep.base_config(experiment.load(FILE), "digits")
    assert cfg.ranking.scale == 1.0
    with pytest.raises(ValueError, match=r"command line: ranking\.scale='-1'; allowed: at least"):
        laboratory.plan([FILE], overrides={"ranking.scale": "-1"})
