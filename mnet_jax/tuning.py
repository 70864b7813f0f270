"""From the runs of a tuning to learning rates: where the fitted response is highest, and what its error costs.

Near its top the score is about a parabola in the logarithm of the rate, so that a fit through the rates around the best
one says more than the best one alone: all of their runs tell where the top is. The error of that place is the
jackknife's over the tuning seeds (Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 11).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mnet_jax import results, stats
from mnet_jax.results import Sweep
from mnet_jax.tasks.base import Metric

REACH = 4.0
"""The fit is through the rates that are at most so many times the best one, or its so-manieth part."""

MOST_EXTENSIONS = 3
"""How many rates are added to an arm's grid while its best one is the lowest or the highest."""

SHARE = 0.1
"""Of the half-width of the verdict's interval: what a rate's error may cost."""


@dataclass(frozen=True)
class Choice:
    """The learning rate of an arm; the last four are nan where there is no fit, such as at an edge of the grid.

    `rate`        where the fit is highest, to 2 digits; at an edge of the grid the rate there.
    `edge`        "lowest" or "highest" where the best rate is that of the grid, else "".
    `factor`      the standard error of the rate: times or divided by this.
    `cost`        what that error costs on average, as printed (in points for accuracy).
    `half_width`  about that of the 95 % interval of the difference of two arms in the experiment, as printed.
    `seeds`       so many tuning seeds make the cost SHARE of the half-width.
    """

    rate: float
    edge: str
    factor: float
    cost: float
    half_width: float
    seeds: float


def choices(sweep: Sweep, rows: Sequence[dict[str, Any]]) -> dict[str, Choice]:
    """Arm -> its choice, by the first metric of the sweep, of equal rates by the second; from the rows of all runs."""
    first, second = (sweep.metrics[0], sweep.metrics[min(1, len(sweep.metrics) - 1)])
    scores: dict[str, dict[float, dict[int, tuple[float, float]]]] = {}
    for row in rows:
        arm = sweep.arm(row["arm"])
        if arm.variant:
            values = results.scored_metrics(row, (first, second))
            score = (_score(values, first), _score(values, second))
            scores.setdefault(arm.variant, {}).setdefault(arm.lr, {})[row["seed"]] = score
    return {variant: choice(of_rates, sweep.config["seeds"]) for variant, of_rates in scores.items()}


def _score(values: dict[str, float], metric: Metric) -> float:
    """More is better; a run without a score is worse than any."""
    value = values.get(metric.name, math.nan)
    return (1 if metric.higher_is_better else -1) * metric.print_factor * value if math.isfinite(value) else -math.inf


def choice(scores: Mapping[float, Mapping[int, tuple[float, float]]], seeds: int) -> Choice:
    """The choice among rates: {rate: {tuning seed: (score, another score that decides between equal means)}}.

    More is better in both, and -inf a run without a score. `seeds` is how many the experiment reports.
    """
    rates = sorted(scores)
    tuning_seeds = sorted(set.intersection(*map(set, scores.values())))
    both_RS2 = np.array([[scores[rate][seed] for seed in tuning_seeds] for rate in rates])
    x_R, y_RS, others_RS = np.log(rates), both_RS2[..., 0], both_RS2[..., 1]
    best = int(np.lexsort((others_RS.mean(1), y_RS.mean(1)))[-1])
    top, curvature = peak(x_R, y_RS.mean(1), best)
    edge = "lowest" if best == 0 else "highest" if best == len(rates) - 1 else ""
    count = len(tuning_seeds)
    if math.isnan(curvature) or count < 2:
        return Choice(_rounded(math.exp(top)), edge, *[math.nan] * 4)
    left_out = [peak(x_R, np.delete(y_RS, seed, 1).mean(1), best)[0] for seed in range(count)]
    error = math.sqrt(count - 1) * float(np.std(left_out))
    cost, sd = -curvature * error**2, float(y_RS[np.abs(x_R - top).argmin()].std(ddof=1))
    half_width = stats.critical(max(seeds - 1, 1)) * math.sqrt(2 / seeds) * sd
    enough = math.ceil(count * cost / (SHARE * half_width)) if half_width else math.nan
    return Choice(_rounded(math.exp(top)), edge, math.exp(error), cost, half_width, enough)


def peak(x_R: np.ndarray, y_R: np.ndarray, best: int) -> tuple[float, float]:
    """Where the fitted response is highest, and its second-order term there, which is negative.

    The fit is the least-squares parabola through the rates within REACH of the best one; where its top is not among
    them, that through the best rate and its two neighbours. Where that cannot be either, as at an edge of the grid and
    beside rates without a score, the best rate itself, and nan.

    Args:
      x_R: logarithms of the rates, ascending.
      y_R: mean scores; -inf where there is none.
      best: the index of the best rate.
    """
    neighbours = np.arange(len(x_R))[max(best - 1, 0) : best + 2]
    if len(neighbours) == 3 and np.isfinite(y_R[neighbours]).all():
        near = np.flatnonzero((np.abs(x_R - x_R[best]) <= math.log(REACH) * (1 + 1e-9)) & np.isfinite(y_R))
        for fitted in (np.union1d(near, neighbours), neighbours):
            second, first, _ = np.polyfit(x_R[fitted] - x_R[best], y_R[fitted], 2)
            top = x_R[best] - first / (2 * second) if second < -1e-9 * np.ptp(y_R[fitted]) else math.nan
            if x_R[fitted[0]] <= top <= x_R[fitted[-1]]:
                return float(top), float(second)
    return float(x_R[best]), math.nan


def next_rate(rates: Sequence[float], choice: Choice) -> float:
    """The rate to add at the edge where the choice is: the last step of the grid once more."""
    *_, before, last = sorted(rates, reverse=choice.edge == "lowest")
    return _rounded(last * last / before)


def _rounded(rate: float) -> float:
    return float(f"{rate:.2g}")
