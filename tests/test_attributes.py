"""Attributes: targets, loss, average precision, wrong data, and whole runs with a teacher."""

import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from PIL import Image
from sklearn.metrics import average_precision_score

from mnet_jax import config, experiment, models, report, results, sweep, worker
from mnet_jax.data import load
from mnet_jax.data.dataset import from_arrays
from mnet_jax.errors import UserError
from mnet_jax.tasks import attributes as task

SETTINGS = tiny.OVERRIDES | {
    "task": "attributes",
    "seeds": 1,
    "data.resolution": 32,
    "optim.name": "sgd",
    "train.epochs": 1,
}
EXPERIMENT = f'''"""A tiny teacher of attributes and its student.

For tests.
"""
from mnet_jax import config

def get_config(scale):
    cfg = config.at_scale(scale, task="attributes")
    config.override(cfg, {SETTINGS!r})
    return cfg

def sweep(cfg):
    yield {{"name": "labels"}}
    yield {{"name": "taught", "train.teacher": "labels", "distill.weight": 1.0}}

claim = {{"contrasts": (config.greater("taught", "labels"),)}}
'''


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("attributes")
    plan = sweep.plan(experiment.load(tiny.write(folder, EXPERIMENT)), "scenes", {}, "train", "the command")
    results.write_sweep(folder, plan)
    worker.work_on(folder, plan, tiny.never)
    return folder, plan


def settings(**changes):
    cfg = config.at_scale("scenes", task="attributes")
    config.override(cfg, {name.replace("__", "."): value for name, value in changes.items()})
    return cfg


def test_a_scene_has_the_digits_whose_boxes_it_has():
    scenes = load.from_name("scenes")
    has_NK = task.targets(scenes, None)["attributes"]
    assert has_NK.shape == (3_500, 10)
    for index in (0, 1, 3_499):
        classes = set(scenes.targets["classes"][index].tolist()) - {0}
        assert {number + 1 for number in np.flatnonzero(has_NK[index])} == classes


@pytest.mark.parametrize("ties", [False, True])
def test_average_precision_is_that_of_scikit_learn(ties):
    rng = np.random.default_rng(0)
    for _ in range(20):
        has_N, scores_N = rng.integers(0, 2, 40), rng.normal(size=40)
        scores_N = np.round(scores_N) if ties else scores_N
        expected = average_precision_score(has_N, scores_N)
        assert task.average_precision(has_N, scores_N) == pytest.approx(expected, rel=1e-12)


def test_the_score_leaves_out_attributes_that_do_not_occur():
    kept = {"logits": np.array([[2.0, 0, 1], [-1, 0, 3]]), "attributes": np.array([[0, 0, 1], [1, 0, 1]], np.uint8)}
    scored = task.score({}, kept, None)
    assert {name: scored[name] for name in scored if "/" in name} == {"ap/0": 0.5, "ap/2": 1.0}
    assert scored["mean_ap"] == 0.75
    probability_NK = 1 / (1 + np.exp(-kept["logits"]))
    likelihood_NK = np.where(kept["attributes"], probability_NK, 1 - probability_NK)
    assert scored["cross_entropy"] == pytest.approx(-np.log(likelihood_NK).mean())


def test_the_loss_is_the_mean_sigmoid_cross_entropy_against_labels_and_teacher():
    rng = np.random.default_rng(0)
    logits_BK, teacher_BK = rng.normal(size=(2, 4, 3)).astype(np.float32)
    has_BK = rng.integers(0, 2, (4, 3)).astype(np.uint8)

    def expected(target_BK):
        probability_BK = 1 / (1 + np.exp(-logits_BK))
        return -(target_BK * np.log(probability_BK) + (1 - target_BK) * np.log(1 - probability_BK)).mean()

    targets, cfg = {"attributes": jnp.asarray(has_BK)}, settings(distill__weight=0.75)
    value, parts = task.loss(jnp.asarray(logits_BK), targets, cfg, None)
    assert float(value) == pytest.approx(expected(has_BK), rel=1e-6)
    assert float(parts["accuracy"]) == pytest.approx(((logits_BK > 0) == has_BK).mean(-1).sum())
    value, _ = task.loss(jnp.asarray(logits_BK), targets, cfg, jnp.asarray(teacher_BK))
    soft_BK = 1 / (1 + np.exp(-teacher_BK))
    assert float(value) == pytest.approx(0.75 * expected(soft_BK) + 0.25 * expected(has_BK), rel=1e-6)


def made(has_NK, names):
    images_NHWC = np.random.default_rng(0).integers(0, 255, (len(has_NK), 4, 4, 1), np.uint8)
    return from_arrays("faces", (images_NHWC, {"attributes": np.array(has_NK, np.uint8)}), class_names=names)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (lambda: made([[1, 0], [0, 0]], ("smiles", "bald")), "faces: all training images answer alike to 'bald'; "),
        (lambda: made([[1, 0, 0], [0, 1, 1]], "abc"), r"model\.num_classes=2; faces needs 3, its attributes"),
        (lambda: load.from_name("digits"), r"task='attributes': digits has neither attributes nor boxes, only labels"),
    ],
)
def test_data_that_cannot_be_learned_or_scored_are_refused(dataset, message):
    with pytest.raises(UserError, match=message):
        task.check_data(settings(model__num_classes=2), dataset())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data__mixup": 0.2}, r"data\.mixup=0\.2 with task='attributes'; allowed: 0\.0"),
        ({"distill__temperature": 4.0}, r"distill\.temperature=4\.0 with task='attributes'; allowed: 1\.0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        config.check(settings(**change))


TABLE = "file,split,smiles,bald\na.png,train,1,0\nb.png,train,0,1\nc.png,test,1,1\nd.png,test,0,0\n"


def write_photos(folder, table=TABLE, sizes=((6, 8), (6, 8), (6, 8), (6, 8))):
    (folder / "photos").mkdir()
    for name, (H, W) in zip("abcd", sizes, strict=True):
        image_HWC = np.random.default_rng(ord(name)).integers(0, 255, (H, W, 3), np.uint8)
        Image.fromarray(image_HWC).save(folder / "photos" / f"{name}.png")
    (folder / "photos" / "attributes.csv").write_text(table)


def test_a_table_of_photographs_is_a_data_set(tmp_path):
    write_photos(tmp_path)
    photos = load.from_name("photos", tmp_path)
    assert (photos.shape, photos.class_names, photos.has_fixed_test_set) == ((6, 8, 3), ("smiles", "bald"), True)
    np.testing.assert_array_equal(photos.targets["attributes"], [[1, 0], [0, 1], [1, 1], [0, 0]])
    first = np.asarray(Image.open(tmp_path / "photos" / "a.png"))
    np.testing.assert_array_equal(photos.in_memory()[0], first)
    task.check_data(settings(model__num_classes=2), photos)


def test_photographs_of_many_sizes_are_made_squares(tmp_path):
    write_photos(tmp_path, sizes=((6, 8), (9, 4), (5, 5), (6, 8)))
    with pytest.raises(UserError, match=r"b\.png is 9x4 and the image before 6x8: set data\.resolution"):
        load.from_name("photos", tmp_path)
    assert load.from_name("photos", tmp_path, resolution=4).shape == (4, 4, 3)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("file,split", "name,split", r"attributes\.csv begins with 'name,split,smiles,bald'; allowed: file,split, and"),
        ("smiles,bald", "bald,bald", r"allowed: file,split, and different attributes"),
        ("a.png,train,1,0", "a.png,train,1", r"attributes\.csv, line 2: 3 values; allowed: 4"),
        ("a.png,train,1,0", "a.png,train,1,yes", r"line 2: 'train,1,yes'; allowed: train or test, then a 0 or 1 each"),
        ("b.png,train", "b.png,val", r"line 3: 'val,0,1'; allowed: train or test"),
        ("b.png", "a.png", r"line 3: a\.png for the second time"),
        ("b.png", "x.png", r"x\.png cannot be read as an image"),
        (",test,", ",train,", r"no images to train on, or none to test on"),
    ],
)
def test_a_wrong_table_is_one_line(tmp_path, before, after, message):
    write_photos(tmp_path, TABLE.replace(before, after))
    with pytest.raises(UserError, match=message):
        load.from_name("photos", tmp_path)


@pytest.mark.slow
def test_from_file_to_verdict(swept):
    folder, plan = swept
    summary, drawn = report.write(folder)
    assert {"Attributes", "What it costs"} <= {figure.title for figure in drawn}
    assert "mean AP" in report.to_text(summary)
    for row in results.read_rows(folder, plan):
        network = models.load(results.run_dir(folder, row["run"]) / "weights.safetensors")
        scenes = load.from_config(network.cfg.data)
        probability_NK = network.predict(scenes.in_memory()[scenes.test_indices])["probabilities"]
        has_NK = task.targets(scenes, network.cfg)["attributes"][scenes.test_indices]
        assert row["metrics"]["mean_ap"] == pytest.approx(average_precision_score(has_NK, probability_NK), abs=1e-4)
