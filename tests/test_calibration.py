"""The report does not see what is not there: the real verdict code on real runs of one arm against itself."""

import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from mnet_jax import config, results, stats, tuning
from mnet_jax.config.claims import equivalent, greater, interaction, off_line, straight, trend

CONTRASTS = [greater("a", "b")]
DRAWS, ARM = 2000, 12
SHIFT = 0.008


@pytest.fixture(scope="module")
def accuracies(tmp_path_factory, experiments):
    """Held-out accuracies of the linear arm of the shipped experiment at digits scale, 48 seeds."""
    folder = tmp_path_factory.mktemp("calibration")
    text = (experiments / "v2_linear_bottleneck.py").read_text()
    (folder / "only_linear.py").write_text(
        text.split("def sweep")[0] + 'def sweep(cfg):\n    yield {"optim.lr": TUNED_LR["digits"]["linear"]}\n'
    )
    door = [sys.executable, "-m", "mnet_jax.main", "--config", "only_linear.py", "--config.seeds=48"]
    subprocess.run(door, cwd=folder, check=True, capture_output=True)
    workdir = folder / "runs" / "only_linear-digits"
    rows = results.read_rows(workdir, results.read_sweep(workdir))
    assert len(rows) == 48
    return np.array([row["metrics"]["accuracy"] for row in rows])


def outcomes(accuracies, shift):
    """Verdicts of `a > b` over random disjoint groups of 12 rows, `a` shifted up."""
    draw = np.random.default_rng(0)
    found = []
    for _ in range(DRAWS):
        a, b = draw.permutation(len(accuracies))[: 2 * ARM].reshape(2, ARM)
        values = {name: dict(enumerate(accuracies[rows] + up)) for name, rows, up in (("a", a, shift), ("b", b, 0.0))}
        found.append(stats.verdicts(CONTRASTS, values)[0].outcome)
    return found


@pytest.mark.slow
def test_an_arm_against_itself_is_found_different_in_five_of_a_hundred(accuracies):
    found = outcomes(accuracies, 0.0)
    wrong = sum(outcome != "no difference found" for outcome in found) / DRAWS
    print(f"false verdicts: {wrong:.1%} of {DRAWS}; mean {accuracies.mean():.4f}, sd {accuracies.std(ddof=1):.4f}")
    assert 0.03 <= wrong <= 0.07


@pytest.mark.slow
def test_a_planted_shift_is_found_with_the_stated_power(accuracies):
    found = outcomes(accuracies, SHIFT)
    share = found.count("supported") / DRAWS
    stated = stats.power(SHIFT, np.sqrt(2) * accuracies.std(ddof=1), ARM)
    print(f"found {share:.1%}, stated power {stated:.1%}")
    assert share == pytest.approx(stated, abs=0.05)


# The true value that a sentence says the seeds would find.

KINDS = {
    "greater": greater("a", "b"),
    "trend": trend("abcd", (1, 2, 4, 6)),
    "interaction": interaction([("a", "b"), ("c", "d")], (0, 1)),
    "off_line": off_line("abcd", (1, 2, 4, 6)),
    "equivalent": equivalent("a", "b", margin=1.0),
    "straight": straight("abcd", (1, 2, 4, 6), margin=1.0),
}
NULL = (greater("e", "f"), greater("g", "h"))


def judged(contrasts, table):
    """The verdicts on values [arms, seeds] of arms a, b, c .."""
    return stats.verdicts(contrasts, {arm: dict(enumerate(row)) for arm, row in zip("abcdefgh", table, strict=True)})


@pytest.mark.slow
@pytest.mark.parametrize("family", [1, 3])
@pytest.mark.parametrize("n", [5, 12])
@pytest.mark.parametrize("kind", KINDS)
def test_what_the_seeds_would_find_is_found_80_times_in_100(kind, n, family):
    """The first contrast has the true value that is printed at the true spread; the others have nothing to find."""
    contrast, level = KINDS[kind], stats.ALPHA / family
    one_higher = np.repeat(np.eye(8)[..., None], 2, axis=2)
    weights = np.array([judged([contrast], table)[0].difference.mean for table in one_higher])
    sd, lift = np.linalg.norm(weights), np.zeros(8)
    if contrast.margin is None:
        lift = weights * stats.detectable_effect(n, n - 1, level) / sd
    else:
        contrast = replace(contrast, margin=stats.detectable_margin(n, n - 1, level) * float(sd))
    noise = np.random.default_rng(0).normal(0, 1, (4000, 8, n))
    contrasts = [contrast, *NULL][:family]
    found = [judged(contrasts, table)[0].outcome == "supported" for table in noise + lift[:, None]]
    print(f"{kind}, {n} seeds, family of {family}: found {np.mean(found):.1%}")
    assert np.mean(found) == pytest.approx(stats.POWER, abs=0.02)


# Learning rates are tuned, arm by arm, before a verdict is made at them.

RESPONSES = {
    "flat: .1 below, .2 above": lambda x: -np.where(x < 0, 0.1, 0.2) * x**2,
    "as measured: .3 below, .5 above": lambda x: -np.where(x < 0, 0.3, 0.5) * x**2,
    "steep: 1 below, 2 above": lambda x: -np.where(x < 0, 1.0, 2.0) * x**2,
    "falls apart at four times the best": lambda x: -0.3 * x**2 - 40 * np.maximum(0, x - 1.26),
}
"""Points lost by the logarithm of a rate to the base 3, from the best one: in the name at a third and three times."""

SPREAD = 0.6
"""Of a run's accuracy over seeds, in points, as measured on digits."""


def points_lost(rng, response, best):
    """By an arm whose rate is tuned on the default grid, and on what is added at its edges."""
    fields = config.default().tune
    scores = {}
    rates = list(fields.lrs)
    while True:
        for rate in rates[len(scores) :]:
            mean = response(math.log(rate / best, 3))
            scores[rate] = {seed: (mean + noise, 0.0) for seed, noise in enumerate(rng.normal(0, SPREAD, fields.seeds))}
        choice = tuning.choice(scores, 12)
        if not choice.edge or len(rates) == len(fields.lrs) + tuning.MOST_EXTENSIONS:
            return float(response(math.log(choice.rate / best, 3)))
        rates.append(tuning.next_rate(rates, choice))


@pytest.mark.slow
@pytest.mark.parametrize("name", RESPONSES)
def test_two_identical_arms_at_tuned_rates_are_found_different_in_six_of_a_hundred_at_most(name):
    """Given what the two rates lose, the chance of a verdict is that of a t-test of so large a difference."""
    rng = np.random.default_rng(0)
    bests = 0.3 * 3 ** rng.uniform(-1, 1, 1000)
    lost = np.array([[points_lost(rng, RESPONSES[name], best) for _ in range(2)] for best in bests])
    for seeds in (5, 12):
        false = [stats.power(gap, math.sqrt(2) * SPREAD, seeds) for gap in lost[:, 0] - lost[:, 1]]
        print(f"{name}: {-lost.mean():.3f} points lost; {seeds} seeds: {np.mean(false):.1%} false verdicts")
        assert np.mean(false) <= 0.06
