"""Embeddings: the triplet loss, true accept rates, classes that are never trained on, and whole runs with a teacher."""

import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from mnet_jax import config, experiment, models, report, results, sweep, worker
from mnet_jax.data import load
from mnet_jax.data.dataset import from_arrays, split, with_unseen_classes
from mnet_jax.errors import UserError
from mnet_jax.tasks import embedding as task

SETTINGS = tiny.OVERRIDES | {
    "task": "embedding",
    "seeds": 1,
    "model.num_classes": 4,
    "data.unseen_classes": 3,
    "distill.weight": 1.0,
    "train.epochs": 1,
}
EXPERIMENT = f'''"""A tiny teacher of an embedding and its student.

For tests.
"""
from mnet_jax import config

def get_config(scale):
    cfg = config.at_scale(scale)
    config.override(cfg, {SETTINGS!r})
    return cfg

def sweep(cfg):
    yield {{"name": "own"}}
    yield {{"name": "taught", "train.teacher": "own"}}

claim = {{"contrasts": (config.greater("taught", "own"),)}}
'''


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("embedding")
    plan = sweep.plan(experiment.load(tiny.write(folder, EXPERIMENT)), "digits", {}, "train", "the command")
    results.write_sweep(folder, plan)
    worker.work_on(folder, plan, tiny.never)
    return folder, plan


def settings(**changes):
    cfg = config.at_scale("digits")
    config.override(cfg, SETTINGS | {name.replace("__", "."): value for name, value in changes.items()})
    return cfg


def sphere(rng, count, dimensions=4):
    points_BD = rng.normal(size=(count, dimensions)).astype(np.float32)
    return points_BD / np.linalg.norm(points_BD, axis=-1, keepdims=True)


def slow_triplet_loss(points_BD, labels_B, margin):
    losses = []
    for a, label in enumerate(labels_B):
        distance_B = ((points_BD - points_BD[a]) ** 2).sum(-1)
        others_B = distance_B[labels_B != label]
        for p in np.flatnonzero(labels_B == label):
            if p != a:
                farther = others_B[others_B > distance_B[p]]
                losses.append(max(0, distance_B[p] - (farther.min() if farther.size else others_B.max()) + margin))
    return np.mean(losses)


def test_the_triplet_loss_takes_semi_hard_negatives():
    rng = np.random.default_rng(0)
    points_BD, labels_B = sphere(rng, 12), rng.integers(0, 3, 12)
    expected = slow_triplet_loss(points_BD, labels_B, 0.2)
    assert float(task.triplet_loss(jnp.asarray(points_BD), jnp.asarray(labels_B), 0.2)) == pytest.approx(
        expected, rel=1e-5
    )
    assert float(task.triplet_loss(jnp.asarray(points_BD), jnp.arange(12), 0.2)) == 0


def test_a_students_loss_is_the_squared_distance_to_its_teachers_point():
    rng = np.random.default_rng(0)
    own_BD, teachers_BD, labels_B = sphere(rng, 8), sphere(rng, 8), np.arange(8) % 2
    value, _ = task.loss(
        jnp.asarray(3 * own_BD),
        {"labels": jnp.asarray(labels_B)},
        settings(distill__weight=0.75),
        jnp.asarray(5 * teachers_BD),
    )
    expected = 0.75 * ((own_BD - teachers_BD) ** 2).sum(-1).mean() + 0.25 * slow_triplet_loss(own_BD, labels_B, 0.2)
    assert float(value) == pytest.approx(expected, rel=1e-5)


def test_the_true_accept_rate_is_at_the_threshold_of_the_false_one():
    rng = np.random.default_rng(0)
    labels_N = np.arange(40) % 4
    points_ND = sphere(rng, 40) + 0.5 * np.eye(4, dtype=np.float32)[labels_N]
    pairs = [(points_ND[i] @ points_ND[j], labels_N[i] == labels_N[j]) for i in range(40) for j in range(i)]
    for far in (0.01, 0.1, 0.3):
        impostors = sum(not same for _, same in pairs)
        thresholds = sorted({near for near, _ in pairs})
        allowed = [t for t in thresholds if sum(near >= t and not same for near, same in pairs) <= far * impostors]
        expected = np.mean([near >= allowed[0] for near, same in pairs if same])
        assert task.true_accept_rate(points_ND, labels_N, far) == pytest.approx(expected)
    assert task.true_accept_rate(np.ones_like(points_ND), labels_N, 0.01) == 0


def test_unseen_classes_are_never_trained_on_and_alone_tested_on():
    digits = with_unseen_classes(load.from_name("digits"), 3)
    train, test, *_ = split(digits, 5, 600)
    assert set(digits.labels_N[train]) == set(range(7))
    np.testing.assert_array_equal(test, np.flatnonzero(digits.labels_N >= 7))
    with pytest.raises(UserError, match=r"data\.unseen_classes=10: allowed are 0 to 9, digits has 10 classes"):
        with_unseen_classes(load.from_name("digits"), 10)


def test_people_are_told_apart_only_where_there_are_two():
    images_NHWC = np.random.default_rng(0).integers(0, 255, (6, 4, 4, 1), np.uint8)
    faces = from_arrays("faces", (images_NHWC, {"labels": np.arange(6) % 3}), class_names=("Ann", "Bob", "Cy"))
    task.check_data(settings(), faces)
    with pytest.raises(UserError, match=r"the held-out images of faces are all of 'Cy'; allowed: two or more classes"):
        task.check_data(settings(), with_unseen_classes(faces, 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train__label_smoothing": 0.1}, r"train\.label_smoothing=0\.1 with task='embedding'; allowed: 0\.0"),
        ({"distill__temperature": 4.0}, r"distill\.temperature=4\.0 with task='embedding'; allowed: 1\.0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        config.check(settings(**change))


@pytest.mark.slow
def test_from_file_to_verdict(swept):
    folder, plan = swept
    summary, _ = report.write(folder)
    assert "true accept rate at 0.01" in report.to_text(summary)
    for row in results.read_rows(folder, plan):
        network = models.load(results.run_dir(folder, row["run"]) / "weights.safetensors")
        digits = load.from_config(network.cfg.data)
        points_ND = network.predict(digits.in_memory()[digits.test_indices])["points"]
        np.testing.assert_allclose(np.linalg.norm(points_ND, axis=-1), 1, rtol=1e-5)
        rate = task.true_accept_rate(points_ND, digits.labels_N[digits.test_indices], 0.01)
        assert row["metrics"]["true_accept_rate"] == pytest.approx(rate, abs=1e-3)
