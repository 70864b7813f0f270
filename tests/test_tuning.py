"""Learning rates from the scores of a tuning: against numpy, and at the ends of what a grid can show."""

import math

import numpy as np
import pytest

from mnet_jax import tuning


def chosen(response, rates=(0.1, 0.2, 0.4, 0.8), seeds=6, sd=0.0, reported=12):
    """Of the mean response to the logarithm of a rate, with noise of this spread."""
    rng = np.random.default_rng(3)
    scores = {
        rate: {seed: (response(math.log(rate)) + rng.normal(0, sd), 0.0) for seed in range(seeds)} for rate in rates
    }
    return tuning.choice(scores, reported), scores


def parabola(top, second=-0.5):
    return lambda x: 97 + second * (x - math.log(top)) ** 2


def test_the_top_of_a_parabola_is_found_exactly():
    found, _ = chosen(parabola(0.27))
    assert (found.rate, found.edge) == (0.27, "")
    assert (found.factor, found.cost) == pytest.approx((1, 0))


def test_the_error_is_the_jackknifes_and_its_cost_that_of_the_parabola():
    """All four rates are within a factor of 4 of the best, 0.2."""
    found, scores = chosen(parabola(0.25), sd=0.1)
    x, y = np.log(list(scores)), np.array([[score for score, _ in of.values()] for of in scores.values()])
    fits = [np.polyfit(x, np.delete(y, seed, 1).mean(1), 2) for seed in range(6)]
    tops = np.array([-first / (2 * second) for second, first, _ in fits])
    error = math.sqrt(5 / 6 * np.sum((tops - tops.mean()) ** 2))
    second, first, _ = np.polyfit(x, y.mean(1), 2)
    assert found.rate == float(f"{math.exp(-first / (2 * second)):.2g}")
    assert found.factor == pytest.approx(math.exp(error))
    assert found.cost == pytest.approx(-second * error**2)
    assert found.seeds == math.ceil(6 * found.cost / (0.1 * found.half_width))


def test_the_jackknifes_error_is_that_of_many_tunings():
    rng, tops, errors = np.random.default_rng(0), [], []
    rates = (0.1, 0.2, 0.4, 0.8, 1.6)
    for _ in range(300):
        noise = rng.normal(0, 0.3, (5, 8))
        scores = {
            rate: {seed: (parabola(0.4)(math.log(rate)) + noise[index, seed], 0.0) for seed in range(8)}
            for index, rate in enumerate(rates)
        }
        found = tuning.choice(scores, 12)
        tops.append(math.log(found.rate))
        errors.append(math.log(found.factor))
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(tops), rel=0.25)


def test_far_rates_do_not_bend_the_fit():
    """A training that falls apart at four times the best rate and more leaves the top where the others have it."""
    cliff = lambda x: parabola(0.2)(x) - 80 * (x > math.log(1.0))  # noqa: E731
    assert chosen(cliff, (0.05, 0.1, 0.2, 0.4, 0.8, 1.6))[0].rate == 0.2


@pytest.mark.parametrize(("top", "edge", "rate", "beyond"), [(0.01, "lowest", 0.1, 0.05), (5.0, "highest", 0.8, 1.6)])
def test_an_edge_has_no_fit_and_asks_for_a_rate_beyond(top, edge, rate, beyond):
    found, scores = chosen(parabola(top), sd=0.01)
    assert (found.edge, found.rate) == (edge, rate)
    assert math.isnan(found.cost)
    assert tuning.next_rate(list(scores), found) == beyond


def test_equal_scores_have_no_top():
    found, _ = chosen(lambda x: 100.0, (0.1, 0.2, 0.4))
    assert math.isnan(found.factor)


def test_a_rate_without_scores_is_neither_chosen_nor_fitted():
    found, _ = chosen(lambda x: -math.inf if x > math.log(0.5) else parabola(0.7)(x))
    assert (found.rate, found.edge) == (0.4, "")
    assert math.isnan(found.cost)
