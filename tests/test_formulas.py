"""The formulas of training, each against a few lines of NumPy that share no code with it."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx
from test_step import Bench, digits, settings  # noqa: F401 (a fixture)
from test_train import make
from tiny import EXPERIMENT, never

from mnet_jax import results, trained, worker
from mnet_jax.arms import arm_config
from mnet_jax.data import augment
from mnet_jax.data.dataset import epoch_order, split
from mnet_jax.tasks import classification


def log_softmax(x_BK):
    shifted_BK = x_BK - x_BK.max(-1, keepdims=True)
    return shifted_BK - np.log(np.exp(shifted_BK).sum(-1, keepdims=True))


@pytest.fixture
def logits():
    """Student and teacher, float32 [5, 10], and labels."""
    rng = np.random.default_rng(0)
    return *rng.normal(scale=3, size=(2, 5, 10)).astype(np.float32), np.array([3, 1, 4, 1, 5], np.int32)


def loss(student_BK, labels_B, teacher_BK=None, **overrides):
    targets = {"labels": jnp.asarray(labels_B)}
    teacher = None if teacher_BK is None else jnp.asarray(teacher_BK)
    return classification.loss(jnp.asarray(student_BK), targets, settings(**overrides), teacher)


def test_label_smoothing(logits):
    """A smoothed target has 1 - s, and s / K of every one of K classes (Szegedy et al. 2016, section 7)."""
    student_BK, _, labels_B = logits
    target_BK = 0.7 * np.eye(10)[labels_B] + 0.3 / 10
    value, parts = loss(student_BK, labels_B, train__label_smoothing=0.3)
    assert float(value) == pytest.approx(-(target_BK * log_softmax(student_BK)).sum(-1).mean(), rel=1e-6)
    assert float(parts["accuracy"]) == (student_BK.argmax(-1) == labels_B).sum()


def test_distillation(logits):
    """T^2 times the cross-entropy of softened outputs, and the labels' (Hinton et al. 2015, section 2)."""
    student_BK, teacher_BK, labels_B = logits
    soft_BK = np.exp(log_softmax(teacher_BK / 4))
    soft = -(soft_BK * log_softmax(student_BK / 4)).sum(-1).mean()
    hard = -log_softmax(student_BK)[np.arange(5), labels_B].mean()
    value, _ = loss(student_BK, labels_B, teacher_BK, distill__temperature=4.0, distill__weight=0.8)
    assert float(value) == pytest.approx(0.8 * 16 * soft + 0.2 * hard, rel=1e-6)


def test_what_is_learned_are_the_given_labels_and_what_is_scored_the_right_ones(logits):
    student_BK, _, labels_B = logits
    given_B = student_BK.argmax(-1).astype(np.int32)
    targets = {"labels": jnp.asarray(labels_B), "given": jnp.asarray(given_B)}
    value, parts = classification.loss(jnp.asarray(student_BK), targets, settings(), None)
    assert float(value) == pytest.approx(float(loss(student_BK, given_B)[0]))
    assert float(parts["accuracy"]) == 5
    sums = classification.sums(jnp.asarray(student_BK), targets, jnp.ones(5), None)
    assert float(sums["accuracy"]) == (given_B == labels_B).sum() < 5


def test_mixing_mixes_the_given_labels(monkeypatch):
    monkeypatch.setattr(augment, "mix", lambda key, x_BHWC, labels_B, *_: (x_BHWC, jax.nn.one_hot(labels_B, 10)))
    images_BHWC, labels_B = jnp.zeros((4, 8, 8, 1), jnp.uint8), jnp.arange(4)
    targets = {"labels": labels_B, "given": labels_B + 4}
    _, mixed = classification.augment(
        jax.random.key(0), images_BHWC, targets, settings(data__mixup=0.2), (0.0,), (1.0,)
    )
    np.testing.assert_array_equal(mixed["shares"].argmax(-1), labels_B + 4)


def test_averaged_weights_after_five_updates(digits):  # noqa: F811
    """Of the norms' statistics, too. The decay is the config's, or (1 + n) / (10 + n) after n updates, if smaller."""
    bench = Bench(settings(train__ema=0.25), digits, (0,))
    state = bench.state
    averaged = {part: numbers(state[part]) for part in ("params", "batch_stats")}
    for decay in (1 / 10, 2 / 11, 0.25, 0.25, 0.25):
        state, _ = bench.train(state, int(state["step"][0]) % bench.steps, 1)
        for part in averaged:
            averaged[part] = decay * averaged[part] + (1 - decay) * numbers(state[part])
            np.testing.assert_allclose(numbers(state["ema"][part]), averaged[part], rtol=1e-5, atol=1e-6)


def numbers(tree):
    """All of a tree in one array, float64."""
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)])


def test_dropout_draws_by_the_step(digits):  # noqa: F811
    """The same batch again loses the same units at the same step, and others at another step or of another seed."""
    bench = Bench(settings(model__dropout=0.5, data__shift=0), digits, (0,))

    def loss_of_first_batch(state):
        return float(bench.train(state, 0, 1)[1]["loss"][0])

    first = loss_of_first_batch(bench.state)
    assert loss_of_first_batch(bench.state) == first
    assert loss_of_first_batch(bench.state | {"step": bench.state["step"] + 1}) != first
    other_key = jax.vmap(jax.random.key)(jnp.arange(7, 8))
    assert loss_of_first_batch(bench.state | {"key": other_key}) != first


STILL = EXPERIMENT.replace(
    '    for act in ("linear", "relu6"):\n        yield {"model.project_act": act}\n',
    '    yield {"name": "moving"}\n    yield {"name": "still", "model.project_act": "relu6", "optim.lr": 0.0}\n',
).replace('greater("linear", "relu6")', 'greater("moving", "still")')


@pytest.fixture(scope="module")
def averaged(tmp_path_factory):
    """Six runs in one job with averaged weights, of two seeds; the arm "still" keeps its first weights."""
    folder = tmp_path_factory.mktemp("averaged")
    plan = make(folder, STILL, train__ema=0.9, train__epochs=2, runs_per_job=6, data__shift=0)
    assert len(plan.jobs) == 1
    worker.work_on(folder, plan, never)
    return folder, plan


def test_every_run_saves_the_weights_that_were_evaluated(averaged, digits):  # noqa: F811
    """The averaged ones, and its own: the score of the file is the score of the row."""
    folder, plan = averaged
    for row in results.read_rows(folder, plan):
        test = split(digits, row["seed"], 64).test
        network = trained.load(results.run_dir(folder, row["run"]) / "weights.safetensors")
        log_NK = log_softmax(np.asarray(network(digits.in_memory()[test]), np.float64))
        nll = -log_NK[np.arange(len(test)), digits.labels_N[test]].mean()
        assert row["metrics"]["nll"] == pytest.approx(nll, rel=1e-5), row["run"]
    files = [results.run_dir(folder, run.name) / "weights.safetensors" for run in plan.runs]
    kernels = {safetensors.numpy.load_file(path)["classifier.kernel"].tobytes() for path in files}
    assert len(kernels) == len(files) == 6


def test_a_line_of_the_curve_by_hand(averaged, digits):  # noqa: F811
    """Of weights that do not move: the mean loss and the share answered correctly over the batches of the epoch."""
    folder, plan = averaged
    images_NHWC = digits.in_memory()
    for seed in (0, 1):
        cfg = arm_config(plan.config, plan.arm("still"))
        key = jax.random.fold_in(jax.random.key(seed), 0)
        network = classification.TASK.build(cfg, nnx.Rngs(params=key))
        network.train()
        losses, correct = [], 0
        for index_B in epoch_order(seed, 1, split(digits, seed, 64).train, 16):
            x_BHWC = ((images_NHWC[index_B] / np.float32(255) - digits.mean) / digits.std).astype(np.float32)
            logits_BK = np.asarray(network(jnp.asarray(x_BHWC))[0], np.float64)
            losses.append(-log_softmax(logits_BK)[np.arange(16), digits.labels_N[index_B]].mean())
            correct += (logits_BK.argmax(-1) == digits.labels_N[index_B]).sum()
        line = results.read_metrics(folder, f"still-s{seed}")[1]
        assert (line["epoch"], line["step"], line["lr"]) == (2, 8, 0)
        assert line["train_loss"] == pytest.approx(np.mean(losses), rel=1e-5)
        assert line["train_accuracy"] == correct / 64


def test_the_learning_rate_of_a_line_is_that_of_the_epochs_last_update(averaged):
    """A tenth of 8 steps of warm-up, 1, then a cosine over the other 7: update 3 is its third, update 7 its last."""
    folder, _ = averaged
    rates = [line["lr"] for line in results.read_metrics(folder, "moving-s1")]
    assert rates == pytest.approx([0.1 * (1 + math.cos(math.pi * n / 7)) / 2 for n in (2, 6)], rel=1e-5)
