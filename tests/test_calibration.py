"""The report does not see what is not there: the real verdict code on real runs of one arm against itself."""

import subprocess
import sys

import numpy as np
import pytest

from mnet_jax import results, stats
from mnet_jax.config.claims import greater

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
