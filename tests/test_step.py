"""The pure step: one program for many runs, the same bits however it is cut, NaN frozen where it appears."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import OVERRIDES

from mnet_jax import config, sharding, step
from mnet_jax.data import augment, builtin
from mnet_jax.data.dataset import epoch_order, split
from mnet_jax.tasks import classification

SEEDS = (0, 1)


@pytest.fixture(scope="module")
def digits():
    return builtin.digits()


def settings(**overrides):
    cfg = config.at_scale("digits")
    config.override(cfg, OVERRIDES | {key.replace("__", "."): value for key, value in overrides.items()})
    return cfg


class Bench:
    """A program with its data: `train` and `evaluate` for the given seeds."""

    def __init__(self, cfg, digits, seeds=SEEDS, devices=None, teacher=None):
        self.cfg = cfg
        self.splits = [split(digits, seed, cfg.data.train_size) for seed in seeds]
        orders = [
            epoch_order(seed, 0, split.train, cfg.train.batch_size)
            for seed, split in zip(seeds, self.splits, strict=True)
        ]
        self.batches = {"index": jnp.asarray(np.stack(orders))}
        self.steps = len(orders[0])
        self.dataset = jax.tree.map(jnp.asarray, (digits.in_memory(), dict(digits.targets)))
        mesh = sharding.mesh(len(seeds), cfg.train.batch_size, devices or jax.devices()[:1])
        task = classification.TASK
        self.program = step.build(task, cfg, len(seeds), digits.mean, digits.std, self.steps, mesh, teacher=teacher)
        self.state = self.program.init(jnp.asarray(seeds, jnp.int32))
        self.traced = jax.tree.map(lambda value: jnp.full(len(seeds), value, jnp.float32), config.traced_values(cfg))

    def train(self, state, first=0, count=None, traced=None, teacher=()):
        count = self.steps if count is None else count
        state = jax.tree.map(jnp.copy, state)  # the step donates its argument
        return self.program.train(
            state, traced or self.traced, teacher, self.dataset, self.batches, jnp.int32(first), jnp.int32(count)
        )

    def evaluate(self, state, index, mask):
        sums, _ = self.program.evaluate(state, self.traced, self.dataset, {"index": index, "mask": mask})
        return sums


@pytest.fixture(scope="module")
def bench(digits):
    return Bench(settings(), digits)


def same_bits(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(_numbers(x), _numbers(y)), a, b)


def _numbers(x):
    return np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x)


def test_golden_training(bench):
    """Change these numbers only with a change that is meant to alter training; then re-run the experiments as well."""
    state, sums = bench.train(bench.state)
    np.testing.assert_allclose(sums["loss"] / 4, GOLDEN_LOSS, rtol=1e-4)
    norm = [np.sqrt(sum(float(jnp.sum(leaf[run] ** 2)) for leaf in jax.tree.leaves(state["params"]))) for run in SEEDS]
    np.testing.assert_allclose(norm, GOLDEN_NORM, rtol=1e-4)
    np.testing.assert_array_equal(state["step"], [4, 4])


GOLDEN_LOSS = [2.3012943, 2.3021081]
GOLDEN_NORM = [10.211395, 10.857048]


def test_cutting_an_epoch_changes_no_bit(bench):
    whole, sums = bench.train(bench.state)
    state, first = bench.train(bench.state, 0, 1)
    state, rest = bench.train(state, 1, 3)
    same_bits(whole, state)
    np.testing.assert_allclose(sums["loss"], first["loss"] + rest["loss"], rtol=1e-6)


def test_runs_of_one_program_equal_runs_alone(bench, digits):
    together, sums = bench.train(bench.state, 0, 1)
    for number, seed in enumerate(SEEDS):
        alone = Bench(bench.cfg, digits, (seed,))
        state, mine = alone.train(alone.state, 0, 1)
        np.testing.assert_allclose(mine["loss"][0], sums["loss"][number], rtol=1e-5)
        for a, b in zip(jax.tree.leaves(state["params"]), jax.tree.leaves(together["params"]), strict=True):
            np.testing.assert_allclose(a[0], b[number], rtol=1e-4, atol=1e-5)


def test_seeds_differ_and_a_seed_repeats(bench, digits):
    again = Bench(bench.cfg, digits)
    same_bits(bench.state, again.state)
    kernel = bench.state["params"]["classifier"]["kernel"]
    assert jnp.any(kernel[0] != kernel[1])


def test_a_run_that_diverges_is_frozen_and_the_others_go_on(bench):
    good, _ = bench.train(bench.state)
    traced = bench.traced._replace(lr=jnp.asarray([0.1, 1e30], jnp.float32))
    state, _ = bench.train(bench.state, traced=traced)
    assert state["diverged_at"][0] == -1
    assert state["diverged_at"][1] in (1, 2, 3)
    assert state["step"][1] == state["diverged_at"][1]
    same_bits(jax.tree.map(lambda x: x[0], good), jax.tree.map(lambda x: x[0], state))
    later, _ = bench.train(state, traced=traced)
    same_bits(jax.tree.map(lambda x: x[1], later), jax.tree.map(lambda x: x[1], state))


def test_every_image_is_counted_once(bench, digits):
    test = bench.splits[0].test
    index, mask = np.zeros((2, 2, 1000), np.int32), np.zeros((2, 2, 1000), np.float32)
    index.reshape(2, -1)[:, : len(test)] = test
    mask.reshape(2, -1)[:, : len(test)] = 1
    sums = bench.evaluate(bench.state, index, mask)
    small = bench.evaluate(bench.state, index.reshape(2, 20, 100), mask.reshape(2, 20, 100))
    assert sums["images"].tolist() == [len(test)] * 2
    np.testing.assert_array_equal(sums["accuracy"], small["accuracy"])
    np.testing.assert_allclose(sums["nll"], small["nll"], rtol=1e-5)
    none = bench.evaluate(bench.state, index, 0 * mask)
    assert none["accuracy"].tolist() == none["nll"].tolist() == none["images"].tolist() == [0, 0]


def test_top_5_is_summed_where_there_are_more_than_ten_classes():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(50, 12)), jnp.float32)
    labels, mask = jnp.arange(50, dtype=jnp.int32) % 12, jnp.ones(50).at[40:].set(0.0)
    sums = classification.sums(logits, {"labels": labels}, mask, None)
    best = np.argsort(-np.asarray(logits), -1)[:40, :5]
    assert float(sums["top5_accuracy"]) == (best == np.asarray(labels)[:40, None]).any(-1).sum()
    for classes in (10, 12):
        sums = classification.sums(logits[:, :classes], {"labels": labels % classes}, mask, None)
        metrics = classification.metrics(settings(model__num_classes=classes))
        assert sums.keys() == {metric.name for metric in metrics if metric.group == "test"}


def test_averaged_weights_are_what_is_evaluated(digits):
    bench = Bench(settings(train__ema=0.999), digits, (0,))
    state, _ = bench.train(bench.state)
    average = state["ema"]
    assert jnp.any(state["params"]["classifier"]["kernel"] != average["params"]["classifier"]["kernel"])
    index, mask = jnp.arange(100)[None, None], jnp.ones((1, 1, 100))
    scores = bench.evaluate(state, index, mask)
    assert scores["nll"] == bench.evaluate(state | average, index, mask)["nll"]
    for part in ("params", "batch_stats"):
        plain = bench.evaluate(state | {"ema": average | {part: state[part]}}, index, mask)
        assert scores["nll"] != plain["nll"], part


def test_label_smoothing_and_dropout_change_the_loss(bench, digits):
    _, plain = bench.train(bench.state)
    for change in ({"train__label_smoothing": 0.2}, {"model__dropout": 0.5}):
        _, other = (changed := Bench(settings(**change), digits)).train(changed.state)
        assert np.all(np.asarray(other["loss"]) != np.asarray(plain["loss"]))


def test_shift_and_flip_move_pixels_and_nothing_else():
    image = jnp.asarray(np.random.default_rng(0).integers(1, 255, (1, 6, 5, 2)), jnp.uint8)
    seen = set()
    for number in range(200):
        out = np.asarray(augment.shift_flip(jax.random.key(number), image, 1, True))[0]
        padded = np.pad(np.asarray(image)[0], ((1, 1), (1, 1), (0, 0)))
        matches = [
            (dy, dx, flip)
            for dy in range(3)
            for dx in range(3)
            for flip in (False, True)
            if np.array_equal(out, padded[dy : dy + 6, dx : dx + 5][:, :: -1 if flip else 1])
        ]
        assert len(matches) == 1
        seen.add(matches[0])
    assert len(seen) == 18  # every shift, mirrored and not


def test_normalized_images_have_mean_zero_and_deviation_one(digits):
    x = augment.normalize(jnp.asarray(digits.images), digits.mean, digits.std)
    assert abs(float(x.mean())) < 1e-3
    assert abs(float(x.std()) - 1) < 1e-3


def test_mixed_labels_train_in_the_same_program(digits):
    bench = Bench(settings(data__mixup=0.2, data__cutmix=1.0, data__erase=0.5, data__jitter=0.4), digits)
    _, sums = bench.train(bench.state)
    assert np.isfinite(sums["loss"]).all()
    assert np.all(np.asarray(sums["loss"]) / 4 != GOLDEN_LOSS)
