"""From numbers to a verdict: intervals, paired differences, correction for many comparisons, power.

Everything is a t-interval or a t-test over seeds. Where all n differences are the same there is no spread to
test by, and a t-test would call any difference certain; the sign-flip test takes its place: where there is
nothing to find, n times the same sign has the chance 2 / 2^n.

Where the number of seeds followed from the spread of the first ones, the `pilot`, intervals and tests are Stein's
(1945, Annals of Mathematical Statistics 16, 243-258): the mean is of all seeds, the sd and its degrees of freedom are
the pilot's. That is exact, since a mean is independent of the sd that chose its n; the sd of all seeds would be too
small now and then, and the intervals with it.
"""

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mnet_jax.config.claims import Contrast

ALPHA = 0.05
POWER = 0.8

BySeed = Mapping[int, float]
"""Seed -> value of one arm."""


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and its 95 % t-interval; of one value sd and interval are nan, of none all.

    `degrees` are those of freedom of the sd.
    """

    n: int
    mean: float
    sd: float
    low: float
    high: float
    degrees: int


@dataclass(frozen=True)
class Difference:
    """A mean of paired differences and its 95 % t-interval.

    `p`  two-sided, of "the true mean is 0"; the sign-flip test's where all differences are the same.
    `minimum_detectable_effect`  the smallest true mean that this many seeds find with 80 % power at two-sided .05,
                                 given this sd; nan where all differences are the same.

    With one pair only `n` and `mean` are numbers, with none only `n`.
    """

    n: int
    mean: float
    sd: float
    low: float
    high: float
    degrees: int
    p: float
    minimum_detectable_effect: float

    def reversed(self) -> "Difference":
        """The difference the other way round."""
        return replace(self, mean=-self.mean, low=-self.high, high=-self.low)


@dataclass(frozen=True)
class Verdict:
    """What the runs say about one primary contrast.

    `difference`  arms[0] - arms[1], or the slopes of a trend, in what is printed (points for accuracy).
    `p`           of the decision that the data favour, see `verdicts`.
    `adjusted`    p after Holm's correction; nan where there was no test.
    `outcome`     "supported", "contradicted", "no difference found" ("no equivalence shown" where that is
                  the claim) or "not enough runs yet".
    """

    contrast: Contrast
    difference: Difference
    p: float
    adjusted: float
    outcome: str


def estimate(values: Iterable[float], pilot: int = 0) -> Estimate:
    """Mean, sd (n - 1) and 95 % t-interval of the values; of more than `pilot` values the sd is that of the first.

    Where the first do not differ at all there is no such sd, and it is that of all.
    """
    array = np.asarray(list(values), np.float64)
    n = len(array)
    mean = float(array.mean()) if n else math.nan
    if n < 2:
        return Estimate(n, mean, math.nan, math.nan, math.nan, 0)
    first = array[:pilot] if 2 <= pilot < n and np.ptp(array[:pilot]) > 0 else array
    sd = float(first.std(ddof=1))
    if sd < 1e-9 * np.abs(array).max():  # equal but for rounding
        sd = 0.0
    half = _critical(len(first) - 1, ALPHA) * sd / math.sqrt(n)
    return Estimate(n, mean, sd, mean - half, mean + half, len(first) - 1)


def log_line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Least squares of y against log2 x: (value at x = 1, rise with every doubling of x)."""
    if len(set(x)) < 2:
        return float(np.mean(y)), 0.0
    slope, intercept = np.polyfit(np.log2(x), y, 1)
    return float(intercept), float(slope)


def paired(a: BySeed, b: BySeed) -> dict[int, float]:
    """The differences a - b for the seeds that both have; a difference that is only rounding is 0."""
    seeds = sorted(a.keys() & b.keys())
    equal = {seed: math.isclose(a[seed], b[seed], rel_tol=1e-12) for seed in seeds}
    return {seed: 0.0 if equal[seed] else a[seed] - b[seed] for seed in seeds}


def difference(a: BySeed, b: BySeed, pilot: int = 0) -> Difference:
    """The mean of a - b over the seeds that both have, its 95 % t-interval and paired t-test."""
    return _test(paired(a, b).values(), pilot)


def _test(differences: Iterable[float], pilot: int) -> Difference:
    e = estimate(differences, pilot)
    p = 2 * _below(e, -abs(e.mean)) if e.n > 1 else math.nan
    effect = _detectable_effect(e.n, e.degrees) * e.sd if e.n > 1 and e.sd else math.nan
    return Difference(e.n, e.mean, e.sd, e.low, e.high, e.degrees, p, effect)


def _below(value: Estimate | Difference, mean: float) -> float:
    """One-sided p of "the true mean is below 0", had the value this mean."""
    from scipy.special import stdtr

    n, sd = value.n, value.sd
    if sd == 0:
        return 0.5 if mean == 0 else 0.5**n if mean < 0 else 1 - 0.5**n
    return float(stdtr(value.degrees, mean / sd * math.sqrt(n)))


def seeds_for_width(
    contrasts: Sequence[Contrast], values: Mapping[str, BySeed], width: float, factor: float = 1.0
) -> int:
    """How many seeds make every primary 95 % interval at most this wide, given the values of the pilot (Stein 1945).

    `values` and `factor` are as for `verdicts`, of the pilot's seeds alone. The width, high minus low, is in what is
    printed; of a trend it is that of the rise over all of x.
    """
    pilot = min((len(by_seed) for by_seed in values.values()), default=0)
    seeds = pilot
    for verdict in verdicts(contrasts, values, factor):
        x = verdict.contrast.x
        sd = verdict.difference.sd * (max(x) - min(x) if x else 1)
        seeds = max(seeds, math.ceil((2 * _critical(pilot - 1, ALPHA) * sd / width) ** 2))
    return seeds


def _critical(degrees: int, alpha: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 1 - alpha / 2))


def power(effect: float, sd: float, n: int, alpha: float = ALPHA, degrees: int = 0) -> float:
    """The chance that a two-sided paired t-test of n seeds finds a true mean difference of `effect`.

    `sd` is that of the paired differences, of `degrees` of freedom (0 = n - 1). Noncentral t; ValueError for n < 2 or
    sd <= 0.
    """
    from scipy.special import nctdtr

    if n < 2 or not sd > 0:
        raise ValueError(f"power needs at least 2 seeds and a positive sd; got n={n}, sd={sd}")
    degrees = degrees or n - 1
    critical, shift = _critical(degrees, alpha), abs(effect) / sd * math.sqrt(n)
    wrong_side = np.nan_to_num(nctdtr(degrees, shift, -critical))  # nan now and then below 1e-16
    return float(1 - nctdtr(degrees, shift, critical) + wrong_side)


@functools.cache
def _detectable_effect(n: int, degrees: int) -> float:
    """The effect, in sd of the differences, that n seeds find with the power POWER."""
    from scipy.optimize import brentq

    def lacking(effect: float) -> float:
        return power(effect, 1.0, n, degrees=degrees) - POWER

    return float(brentq(lacking, 0.0, 30.0 / math.sqrt(n)))  # pyrefly: ignore


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) adjusted p-values, in the order given: monotone in p and at most 1."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def verdicts(
    contrasts: Sequence[Contrast], values: Mapping[str, BySeed], factor: float = 1.0, pilot: int = 0
) -> list[Verdict]:
    """One verdict for each primary contrast, in their order.

    Each contrast gives a p for the decision that the data favour:

    greater     the paired two-sided t-test; the sign of the mean is for or against the claim.
    trend       the same test of the slopes against x: least squares, one slope a seed that all arms have.
    interaction the same of the leads of the first arm of each pair over the second, instead of single arms.
    equivalent  two one-sided tests (TOST): "inside the margin" has the larger p of the two, "outside" the
                smaller p of the two opposite tests, which is 1 minus the former. The smaller one decides. For
                any true difference only one decision can be wrong, so each is made at the full level.

    Holm runs over the p of all contrasts with at least two seeds. An adjusted p below .05 is "supported" or
    "contradicted", by the side that the data favour; otherwise it is "no difference found" ("no equivalence
    shown").

    Args:
      contrasts: the primary questions.
      values: arm -> seed -> value as stored; an arm that is not among them has no runs yet.
      factor: what a stored value is multiplied with in print; differences and margins are in printed units.
      pilot: how many first seeds the number of all followed from, 0 where it was fixed.
    """
    printed = {arm: {seed: factor * value for seed, value in by_seed.items()} for arm, by_seed in values.items()}
    measured = [
        _TESTS[contrast.kind](contrast, [printed.get(arm, {}) for arm in contrast.arms], pilot)
        for contrast in contrasts
    ]
    tested = [index for index, (difference, _, _) in enumerate(measured) if difference.n >= 2]
    adjusted = dict(zip(tested, holm([measured[index][1] for index in tested]), strict=True))
    return [
        Verdict(contrast, difference, p, adjusted.get(index, math.nan), _outcome(contrast, adjusted.get(index), agrees))
        for index, (contrast, (difference, p, agrees)) in enumerate(zip(contrasts, measured, strict=True))
    ]


def _outcome(contrast: Contrast, adjusted: float | None, agrees: bool) -> str:
    if adjusted is None:
        return "not enough runs yet"
    if adjusted < ALPHA:
        return "supported" if agrees else "contradicted"
    return "no equivalence shown" if contrast.kind == "equivalent" else "no difference found"


_Test = tuple[Difference, float, bool]
"""What was measured, the p of the decision that it favours, and whether that decision is the claim's."""


def _greater(contrast: Contrast, arms: Sequence[BySeed], pilot: int) -> _Test:
    measured = difference(*arms, pilot=pilot)
    return measured, measured.p, measured.mean > 0


def _trend(contrast: Contrast, arms: Sequence[BySeed], pilot: int) -> _Test:
    return _slope(contrast, [paired(arm, arms[0]) for arm in arms], pilot)


def _interaction(contrast: Contrast, arms: Sequence[BySeed], pilot: int) -> _Test:
    leads = [paired(first, second) for first, second in zip(arms[::2], arms[1::2], strict=True)]
    return _slope(contrast, leads, pilot)


def _slope(contrast: Contrast, heights: Sequence[BySeed], pilot: int) -> _Test:
    """The test of the least-squares slopes of the heights against the contrast's x, one slope a seed."""
    x = np.asarray(contrast.x, np.float64)
    weights = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    seeds = sorted(set.intersection(*map(set, heights)))
    slopes = [float(weights @ np.array([height[seed] for height in heights])) for seed in seeds]
    measured = _test(slopes, pilot)
    return measured, measured.p, measured.mean * contrast.sign > 0


def _equivalent(contrast: Contrast, arms: Sequence[BySeed], pilot: int) -> _Test:
    measured, margin = difference(*arms, pilot=pilot), contrast.margin
    assert margin is not None
    if measured.n < 2:
        return measured, math.nan, False
    mean = measured.mean
    inside = max(_below(measured, mean - margin), _below(measured, -margin - mean))
    outside = min(_below(measured, margin - mean), _below(measured, mean + margin))
    return measured, min(inside, outside), inside < outside


_TESTS = {"greater": _greater, "trend": _trend, "interaction": _interaction, "equivalent": _equivalent}
