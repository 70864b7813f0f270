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
from typing import Any

import numpy as np

ALPHA = 0.05
POWER = 0.8

Values = Mapping[int, float]
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

    `p`         two-sided, of "the true mean is 0"; the sign-flip test's where all differences are the same.
    `findable`  the smallest true mean that this many seeds find with 80 % power at two-sided .05, given this
                sd; nan where all differences are the same.

    With one pair only `n` and `mean` are numbers, with none only `n`.
    """

    n: int
    mean: float
    sd: float
    low: float
    high: float
    degrees: int
    p: float
    findable: float


@dataclass(frozen=True)
class Verdict:
    """What the runs say about one primary contrast.

    `difference`  arms[0] - arms[1], or the slopes of a trend, in what is printed (points for accuracy).
    `p`           of the decision that the data favour, see `verdicts`; `adjusted` is after Holm's correction.
    `outcome`     "supported", "contradicted", "no difference found" ("no equivalence shown" where that is
                  the claim) or "not enough runs yet".
    `published`   the paper's figure in the same units, or None.
    """

    kind: str
    arms: tuple[str, ...]
    difference: Difference
    p: float
    adjusted: float
    outcome: str
    sentence: str
    published: float | None = None


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


def paired(a: Values, b: Values) -> dict[int, float]:
    """The differences a - b for the seeds that both have; a difference that is only rounding is 0."""
    seeds = sorted(a.keys() & b.keys())
    equal = {seed: math.isclose(a[seed], b[seed], rel_tol=1e-12) for seed in seeds}
    return {seed: 0.0 if equal[seed] else a[seed] - b[seed] for seed in seeds}


def difference(a: Values, b: Values, pilot: int = 0) -> Difference:
    """The mean of a - b over the seeds that both have, its 95 % t-interval and paired t-test."""
    return _test(paired(a, b).values(), pilot)


def _test(differences: Iterable[float], pilot: int) -> Difference:
    e = estimate(differences, pilot)
    p = 2 * _below(e, -abs(e.mean)) if e.n > 1 else math.nan
    findable = _findable(e.n, e.degrees) * e.sd if e.n > 1 and e.sd else math.nan
    return Difference(e.n, e.mean, e.sd, e.low, e.high, e.degrees, p, findable)


def _below(value: Estimate | Difference, mean: float) -> float:
    """One-sided p of "the true mean is below 0", had the value this mean."""
    from scipy.special import stdtr

    n, sd = value.n, value.sd
    if sd == 0:
        return 0.5 if mean == 0 else 0.5**n if mean < 0 else 1 - 0.5**n
    return float(stdtr(value.degrees, mean / sd * math.sqrt(n)))


def seeds_for_width(claim: Mapping[str, Any], values: Mapping[str, Values], width: float) -> int:
    """How many seeds make every primary 95 % interval at most this wide, given the values of the pilot (Stein 1945).

    `values` are as for `verdicts`, of the pilot's seeds alone. The width, high minus low, is in what is printed; of a
    trend it is that of the rise over all of x.
    """
    pilot = min((len(of_seed) for of_seed in values.values()), default=0)
    seeds = pilot
    for verdict, contrast in zip(verdicts({**claim, "pilot": 0}, values), claim["contrasts"], strict=True):
        sd = verdict.difference.sd * (max(contrast["x"]) - min(contrast["x"]) if "x" in contrast else 1)
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
def _findable(n: int, degrees: int) -> float:
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


SHARES = ("dead_", "little_used_", "active_", "above_")
"""How the names of `analysis.METRICS` begin."""


def is_percentage(metric: str) -> bool:
    """Whether a metric is a fraction on disk and a percentage in print: accuracies, shares of channels or pixels."""
    return metric.endswith("accuracy") or metric.startswith(SHARES)


def scale(metric: str) -> float:
    """What a metric is multiplied with in print."""
    return 100.0 if is_percentage(metric) else 1.0


def number(metric: str, value: float, sign: bool = False) -> str:
    """A value in print, with `sign` a difference: percentages to .01, NLL to .001, others to 3 digits."""
    if not math.isfinite(value):
        return "–"
    other = "#.3g" if value else ".0f"
    form = ".2f" if is_percentage(metric) else ".3f" if metric == "nll" else other
    return f"{value:{'+' if sign else ''}{form}}".rstrip(".")


def quantity(count: float) -> str:
    """A count to 3 digits, with k, M or G."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:#.3g}".rstrip(".") + f" {letter}"
    return f"{count:g}" if math.isfinite(count) else "–"


def unit(metric: str) -> str:
    """What follows a printed difference."""
    return " points" if is_percentage(metric) else ""


def interval(metric: str, value: Estimate | Difference, sign: bool = False) -> str:
    """`mean [low, high]`, the interval left out where there is none."""
    mean, low, high = (number(metric, x, sign) for x in (value.mean, value.low, value.high))
    return mean if math.isnan(value.low) else f"{mean} [{low}, {high}]"


def amount(metric: str, value: Difference, sign: bool = False) -> str:
    """`mean unit [low, high]`."""
    mean, space, bounds = interval(metric, value, sign).partition(" ")
    return f"{mean}{unit(metric)}{space}{bounds}"


def p_text(p: float) -> str:
    return "–" if math.isnan(p) else "<0.0001" if p < 1e-4 else f"{p:.2g}"


def verdicts(claim: Mapping[str, Any], values: Mapping[str, Values]) -> list[Verdict]:
    """One verdict for each primary contrast, in the claim's order.

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
      claim: its "metric" and "contrasts" are read, and "pilot": how many first seeds the number of all followed from,
        0 where it was fixed.
      values: arm -> seed -> value as in a row; scaled here to what is printed, in which margins are given.

    Raises ValueError for an unknown kind of contrast.
    """
    metric = claim["metric"]
    printed = {arm: {seed: scale(metric) * value for seed, value in of_seed.items()} for arm, of_seed in values.items()}
    for contrast in claim["contrasts"]:
        if contrast["kind"] not in KINDS:
            raise ValueError(f"no contrast of the kind {contrast['kind']!r}; allowed: {', '.join(KINDS)}")
    contrasts = [{**contrast, "pilot": claim.get("pilot", 0)} for contrast in claim["contrasts"]]
    found = [
        KINDS[contrast["kind"]](contrast, [printed.get(arm, {}) for arm in contrast["arms"]]) for contrast in contrasts
    ]
    tested = [index for index, (measured, _, _) in enumerate(found) if measured.n >= 2]
    adjusted = dict(zip(tested, holm([found[index][1] for index in tested]), strict=True))
    made = []
    for index, (contrast, (measured, p, agrees)) in enumerate(zip(contrasts, found, strict=True)):
        kind, holm_p = contrast["kind"], adjusted.get(index, math.nan)
        if index not in adjusted:
            outcome = "not enough runs yet"
        elif holm_p < ALPHA:
            outcome = "supported" if agrees else "contradicted"
        else:
            outcome = "no equivalence shown" if kind == "equivalent" else "no difference found"
        sentence = _sentence(metric, contrast, measured, outcome, holm_p, len(tested))
        arms, published = tuple(contrast["arms"]), contrast.get("published")
        made.append(Verdict(kind, arms, measured, p, holm_p, outcome, sentence, published))
    return made


def _greater(contrast: Mapping[str, Any], arms: Sequence[Values]) -> tuple[Difference, float, bool]:
    measured = difference(*arms, pilot=contrast["pilot"])
    return measured, measured.p, measured.mean > 0


def _trend(contrast: Mapping[str, Any], arms: Sequence[Values]) -> tuple[Difference, float, bool]:
    return _slope(contrast, [paired(arm, arms[0]) for arm in arms])


def _interaction(contrast: Mapping[str, Any], arms: Sequence[Values]) -> tuple[Difference, float, bool]:
    return _slope(contrast, [paired(first, second) for first, second in zip(arms[::2], arms[1::2], strict=True)])


def _slope(contrast: Mapping[str, Any], rises: Sequence[Values]) -> tuple[Difference, float, bool]:
    x = np.asarray(contrast["x"], np.float64)
    weights = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    seeds = sorted(set.intersection(*map(set, rises)))
    slopes = [float(weights @ np.array([rise[seed] for rise in rises])) for seed in seeds]
    measured = _test(slopes, contrast["pilot"])
    return measured, measured.p, measured.mean * contrast["sign"] > 0


def _equivalent(contrast: Mapping[str, Any], arms: Sequence[Values]) -> tuple[Difference, float, bool]:
    measured, margin = difference(*arms, pilot=contrast["pilot"]), contrast["margin"]
    if measured.n < 2:
        return measured, math.nan, False
    mean = measured.mean
    inside = max(_below(measured, mean - margin), _below(measured, -margin - mean))
    outside = min(_below(measured, margin - mean), _below(measured, mean + margin))
    return measured, min(inside, outside), inside < outside


KINDS = {"greater": _greater, "trend": _trend, "interaction": _interaction, "equivalent": _equivalent}
"""Kind of contrast -> its test: what was measured, p of the favoured decision, is that the claim's?"""


def _sentence(
    metric: str, contrast: Mapping[str, Any], measured: Difference, outcome: str, holm_p: float, tests: int
) -> str:
    kind, arms = contrast["kind"], contrast["arms"]
    first, last, up = arms[0], arms[-1], measured.mean > 0
    if outcome == "not enough runs yet":
        return f"Not enough runs yet: seeds finished in each of {', '.join(arms)}: {measured.n} (2 needed)."
    decided = outcome in ("supported", "contradicted")
    words = metric.replace("_", " ")
    if kind == "equivalent":
        margin = f"{contrast['margin']:g}{unit(metric)}"
        where = ("inside" if outcome == "supported" else "outside") if decided else "not shown to lie inside"
        fact = f"{first} - {last} = {amount(metric, measured, sign=True)}, {where} ±{margin}"
    elif kind == "trend":
        slope = amount(metric, measured, sign=True)
        moves = f"{words} {'rises' if up else 'falls'} from {first} to {last}, slope"
        fact = f"{moves} {slope}" if decided else f"{words} from {first} to {last}: slope {slope}"
    elif kind == "interaction":
        lead = f"lead of {first} over {arms[1]}"
        moves = f"the {lead} {'grows' if up else 'shrinks'} towards" if decided else f"the {lead}, towards"
        fact = f"{moves} {arms[-2]} over {last}, slope {amount(metric, measured, sign=True)}"
    elif decided:
        winner, loser, gap = (first, last, measured) if up else (last, first, _reverse(measured))
        fact = f"{winner} exceeds {loser} by {amount(metric, gap)}" + ("" if unit(metric) else f" in {words}")
    else:
        fact = f"{first} - {last} = {amount(metric, measured, sign=True)}"
    p = "p < 0.0001" if holm_p < 1e-4 else f"p = {p_text(holm_p)}"
    budget = " within this budget" if metric.endswith("accuracy") or metric == "nll" else ""
    sentence = f"{outcome.capitalize()}{budget}: {fact}, {p}{' (Holm)' if tests > 1 else ''}"
    if outcome == "no difference found" and measured.findable > 0:
        what = "slope" if kind in ("trend", "interaction") else "difference"
        findable = f"a true {what} of {number(metric, measured.findable)}{unit(metric)}"
        sentence += f"; these {measured.n} seeds would find {findable} with 80 % power"
    if pilot := contrast["pilot"]:
        sentence += f". The number of seeds, {measured.n}, followed from the width that the interval was to have and "
        sentence += f"the spread of the first {min(pilot, measured.n)}, not from p (Stein 1945)"
    return sentence + "."


def _reverse(value: Difference) -> Difference:
    return replace(value, mean=-value.mean, low=-value.high, high=-value.low)
