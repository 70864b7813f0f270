"""From numbers to a verdict: intervals, paired differences, correction for many comparisons, power.

Everything is a t-interval or a t-test over seeds. Where all n differences are the same there is no spread to
test by, and a t-test would call any difference certain; the sign-flip test takes its place: where there is
nothing to find, n times the same sign has the chance 2 / 2^n. There is no interval then.

Where the number of seeds followed from the spread of the first ones, the `pilot`, intervals and tests are Stein's
(1945, Annals of Mathematical Statistics 16, 243-258): the mean is of all seeds, the sd and its degrees of freedom are
the pilot's. That is exact, since a mean is independent of the sd that chose its n; the sd of all seeds would be too
small now and then, and the intervals with it.
"""

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mnet_jax.config.claims import Contrast

ALPHA = 0.05
POWER = 0.8

FEWEST = 3
"""Values of which an interval is shown: two are both seen, and their interval is some 13 times their distance wide."""

BySeed = Mapping[int, float]
"""Seed -> value of one arm."""


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and its 95 % t-interval.

    `degrees` are those of freedom of the sd. Of one value sd and interval are nan, of none all; of values that do not
    differ the interval is nan.
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

    `p` is two-sided, of "the true mean is 0"; where all differences are the same it is the sign-flip test's, and there
    is no interval. With one pair only `n` and `mean` are numbers, with none only `n`.
    """

    n: int
    mean: float
    sd: float
    low: float
    high: float
    degrees: int
    p: float

    def reversed(self) -> "Difference":
        """The difference the other way round."""
        return replace(self, mean=-self.mean, low=-self.high, high=-self.low)


@dataclass(frozen=True)
class Verdict:
    """What the runs say about one primary contrast.

    `difference`  arms[0] - arms[1], or what another kind of contrast measures, as printed (in points for accuracy).
    `p`           of the decision that the data favour, see `verdicts`.
    `adjusted`    p after Holm's correction; nan where there was no test.
    `outcome`     "supported"; "contradicted", where the claim is the paper's, else "the opposite found"; "no difference
                  found" ("no equivalence shown" where that is the claim), "not enough runs yet" or, where no arm is
                  better than guessing, "no evidence".
    `detectable`  the true value that this many seeds of this spread find with 80 % power, at the level that Holm's
                  correction leaves to each contrast of the family. Where equivalence is the claim: the margin that they
                  would show with that power, were there no difference. nan without a spread.
    """

    contrast: Contrast
    difference: Difference
    p: float
    adjusted: float
    outcome: str
    detectable: float


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
        return Estimate(n, mean, 0.0, math.nan, math.nan, len(first) - 1)
    half = critical(len(first) - 1) * sd / math.sqrt(n)
    return Estimate(n, mean, sd, mean - half, mean + half, len(first) - 1)


def within(value: Estimate, low: float, high: float) -> Estimate:
    """The estimate with its interval cut to where its mean can lie; what is cut off has no part in the coverage."""
    return replace(value, low=max(value.low, low), high=min(value.high, high))


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
    return Difference(e.n, e.mean, e.sd, e.low, e.high, e.degrees, p)


def for_new_images(measured: Difference, train: int, test: int) -> Difference:
    """The difference with the 95 % interval for other images, where every seed splits the same images anew.

    The test sets of such seeds overlap, and so do their training sets, so that the spread over seeds is too small for
    what new images would give: the variance of the mean is sd^2 (1/n + test / train), not sd^2 / n (Nadeau and Bengio
    2003, Machine Learning 52, 239-281). `train` and `test` are numbers of images of a split.
    """
    if not measured.sd > 0:
        return measured
    half = critical(measured.degrees) * measured.sd * math.sqrt(1 / measured.n + test / train)
    return replace(measured, low=measured.mean - half, high=measured.mean + half)


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
        sd = verdict.difference.sd * (max(x) - min(x) if verdict.contrast.is_slope else 1)
        seeds = max(seeds, math.ceil((2 * critical(pilot - 1) * sd / width) ** 2))
    return seeds


def critical(degrees: int, alpha: float = ALPHA) -> float:
    """Of how many standard errors a two-sided t-test at `alpha` takes notice."""
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
    t, shift = critical(degrees, alpha), abs(effect) / sd * math.sqrt(n)
    missed, wrong_side = np.nan_to_num(nctdtr(degrees, shift, (t, -t)))  # nan now and then below 1e-16
    return float(1 - missed + wrong_side)


@functools.cache
def detectable_effect(n: int, degrees: int, alpha: float) -> float:
    """The true mean, in sd of the differences, that a two-sided test of n seeds at `alpha` finds with the power POWER.

    `degrees` are those of freedom of the sd.
    """
    return _root(lambda effect: power(effect, 1.0, n, alpha, degrees), n, degrees, alpha)


@functools.cache
def detectable_margin(n: int, degrees: int, alpha: float) -> float:
    """The margin, in sd of the differences, that two one-sided tests show with the power POWER where arms are equal.

    Each of the two is made at `alpha`. Given the ratio u of measured and true sd, the mean z of n differences in
    standard errors is shown to be inside where |z| < margin sqrt(n) - t u; u is integrated over its chi distribution
    (Schuirmann 1987, Journal of Pharmacokinetics and Biopharmaceutics 15, 657-680).
    """
    from scipy.special import chdtri, ndtr, stdtrit

    ranks = (np.arange(2000) + 0.5) / 2000
    ratios, t = np.sqrt(chdtri(degrees, ranks) / degrees), stdtrit(degrees, 1 - alpha)

    def shown(margin: float) -> float:
        room = np.maximum(margin * math.sqrt(n) - t * ratios, 0.0)
        return float(np.mean(2 * ndtr(room) - 1))

    return _root(shown, n, degrees, alpha)


def _root(found: Callable[[float], float], n: int, degrees: int, alpha: float) -> float:
    """Where the chance that is `found` of a size, which grows with it, is POWER."""
    from scipy.optimize import brentq

    most = (critical(degrees, alpha / 2) + 2) * 8 / math.sqrt(n)
    return float(brentq(lambda size: found(size) - POWER, 0.0, most))  # pyrefly: ignore


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) adjusted p-values, in the order given: monotone in p and at most 1."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values (Benjamini and Hochberg 1995, Journal of the Royal Statistical Society B 57, 289-300).

    Of all that are at most q, a share of at most q is expected to be false. nan where there was no test, which does not
    count.
    """
    tested = sorted((p, index) for index, p in enumerate(p_values) if not math.isnan(p))
    adjusted, least = [math.nan] * len(p_values), 1.0
    for rank, (p, index) in reversed(list(enumerate(tested, 1))):
        least = min(least, len(tested) / rank * p)
        adjusted[index] = least
    return adjusted


def verdicts(
    contrasts: Sequence[Contrast], values: Mapping[str, BySeed], factor: float = 1.0, pilot: int = 0
) -> list[Verdict]:
    """One verdict for each primary contrast, in their order.

    Each contrast gives a p for the decision that the data favour:

    greater     the paired two-sided t-test; the sign of the mean is for or against the claim.
    trend       the same test of the slopes against x: least squares, one slope a seed that all arms have.
    interaction the same of the leads of the first arm of each pair over the second, instead of single arms.
    off_line    the same of the distances of the first arm from the least-squares line through the others against x.
    equivalent  two one-sided tests (TOST): "inside the margin" has the larger p of the two, "outside" the
                smaller p of the two opposite tests, which is 1 minus the former. The smaller one decides. For
                any true difference only one decision can be wrong, so each is made at the full level.
    straight    the same of the sagittas, in place of differences: how far the least-squares parabola against x is above
                its chord half way between the first and the last x, the quadratic term times (half the range)^2.

    Holm runs over all contrasts, those without two seeds included, so that an early verdict is not the more lenient
    one. An adjusted p below .05 is "supported" or "contradicted" ("the opposite found" where the question is not the
    paper's), by the side that the data favour; otherwise it is "no difference found" ("no equivalence shown").

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
    family = len(contrasts)
    adjusted = holm([p if tested.n >= 2 else 1.0 for tested, p, _ in measured])
    return [
        Verdict(
            contrast,
            tested,
            p,
            holms if tested.n >= 2 else math.nan,
            _outcome(contrast, holms, agrees) if tested.n >= 2 else "not enough runs yet",
            _detectable(contrast, tested, ALPHA / family),
        )
        for contrast, (tested, p, agrees), holms in zip(contrasts, measured, adjusted, strict=True)
    ]


def _outcome(contrast: Contrast, adjusted: float, agrees: bool) -> str:
    if adjusted < ALPHA:
        against = "contradicted" if contrast.is_papers else "the opposite found"
        return "supported" if agrees else against
    return "no equivalence shown" if contrast.margin is not None else "no difference found"


def _detectable(contrast: Contrast, measured: Difference, alpha: float) -> float:
    if not measured.sd > 0:
        return math.nan
    size = detectable_effect if contrast.margin is None else detectable_margin
    return size(measured.n, measured.degrees, alpha) * measured.sd


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
    x = np.asarray(contrast.x)
    return _signed(contrast, _combined((x - x.mean()) / ((x - x.mean()) ** 2).sum(), heights), pilot)


def _off_line(contrast: Contrast, arms: Sequence[BySeed], pilot: int) -> _Test:
    at, *others = contrast.x
    x = np.asarray(others)
    line = 1 / len(x) + (at - x.mean()) * (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    return _signed(contrast, _combined([1.0, *-line], [paired(arm, arms[0]) for arm in arms]), pilot)


def _combined(weights: Sequence[float] | np.ndarray, heights: Sequence[BySeed]) -> list[float]:
    """The weighted sum of the heights, of every seed that all have."""
    seeds = sorted(set.intersection(*map(set, heights)))
    return [float(np.dot(weights, [height[seed] for height in heights])) for seed in seeds]


def _signed(contrast: Contrast, values: Sequence[float], pilot: int) -> _Test:
    measured = _test(values, pilot)
    return measured, measured.p, measured.mean * contrast.sign > 0


def _equivalent(contrast: Contrast, arms: Sequence[BySeed], pilot: int) -> _Test:
    return _inside(contrast, difference(*arms, pilot=pilot))


def _straight(contrast: Contrast, arms: Sequence[BySeed], pilot: int) -> _Test:
    x = np.asarray(contrast.x)
    half = (x.max() - x.min()) / 2
    quadratic = np.linalg.pinv(np.vander((x - x.min()) / half - 1, 3))[0]  # of x scaled to go from -1 to 1
    return _inside(contrast, _test(_combined(-quadratic, [paired(arm, arms[0]) for arm in arms]), pilot))


def _inside(contrast: Contrast, measured: Difference) -> _Test:
    """Two one-sided tests of whether what was measured is inside the margin."""
    mean, margin = measured.mean, contrast.margin
    assert margin is not None
    if measured.n < 2:
        return measured, math.nan, False
    inside = max(_below(measured, mean - margin), _below(measured, -margin - mean))
    outside = min(_below(measured, margin - mean), _below(measured, mean + margin))
    return measured, min(inside, outside), inside < outside


_TESTS = {
    "greater": _greater,
    "trend": _trend,
    "interaction": _interaction,
    "off_line": _off_line,
    "equivalent": _equivalent,
    "straight": _straight,
}
