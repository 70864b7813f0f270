"""Numbers in print: values, differences and intervals in the unit and with the decimals of their metric."""

import math

from mnet_jax.stats import FEWEST, Difference, Estimate
from mnet_jax.tasks.base import Metric


def number(metric: Metric, value: float, sign: bool = False) -> str:
    """A printed value without its unit; with `sign` a difference. "–" where it is not finite."""
    if not math.isfinite(value):
        return "–"
    form = f".{metric.decimals}f" if metric.decimals is not None else "#.3g" if value else ".0f"
    return f"{value:{'+' if sign else ''}{form}}".rstrip(".")


def quantity(count: float) -> str:
    """A count to 3 digits, with k, M or G."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:#.3g}".rstrip(".") + f" {letter}"
    return f"{count:g}" if math.isfinite(count) else "–"


def interval(metric: Metric, value: Estimate | Difference, sign: bool = False) -> str:
    """`mean [low, high]`, without the interval where there is none and of fewer than `stats.FEWEST` values."""
    mean, low, high = (number(metric, x, sign) for x in (value.mean, value.low, value.high))
    return mean if math.isnan(value.low) or value.n < FEWEST else f"{mean} [{low}, {high}]"


def with_difference_unit(metric: Metric, difference: str) -> str:
    """A printed difference with its unit behind the mean: `+1.50 points [+0.68, +2.33]`."""
    mean, space, bounds = difference.partition(" ")
    return f"{mean} {metric.difference_unit}".rstrip() + f"{space}{bounds}"


def amount(metric: Metric, value: Difference, sign: bool = False) -> str:
    """A difference as `mean unit [low, high]`."""
    return with_difference_unit(metric, interval(metric, value, sign))


def p_text(p: float) -> str:
    """A p-value to 2 digits, without "p"."""
    return "–" if math.isnan(p) else "<0.0001" if p < 1e-4 else f"{p:.2g}"


def value_label(metric: Metric) -> str:
    """The name of a metric with its unit, for a column or an axis: "accuracy, %"."""
    return f"{metric.title}, {metric.unit}" if metric.unit else metric.title


def difference_label(metric: Metric) -> str:
    """The name of a difference with its unit: "accuracy, points"."""
    return f"{metric.title}, {metric.difference_unit}" if metric.difference_unit else metric.title
