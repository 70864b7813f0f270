"""The report does not see what is not there: the real verdict code on real runs of one arm against itself."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from mnet_jax import results, stats
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
    "interaction": interaction(["ab", "cd"], (0, 1)),
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
        contrast = replace(contrast, margin=stats.detectable_margin(n, n - 1, level) * sd)
    noise = np.random.default_rng(0).normal(0, 1, (4000, 8, n))
    contrasts = [contrast, *NULL][:family]
    found = [judged(contrasts, table)[0].outcome == "supported" for table in noise + lift[:, None]]
    print(f"{kind}, {n} seeds, family of {family}: found {np.mean(found):.1%}")
    assert np.mean(found) == pytest.approx(stats.POWER, abs=0.02)
