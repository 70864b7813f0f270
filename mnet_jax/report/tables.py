"""Summary -> tables of words, the same for all renderers."""

import math
from collections.abc import Iterator
from typing import NamedTuple

from mnet_jax import formatting, tuning
from mnet_jax.formatting import difference_label, value_label
from mnet_jax.report.summary import ArmSummary, Summary
from mnet_jax.tasks.base import Metric


class Table(NamedTuple):
    """A table in words: first column left, the others right; `marked` rows stand out."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    marked: tuple[int, ...] = ()


SIDE_METRICS = 3
"""How many metrics beside the deciding one the table of arms has room for."""


def main_tables(summary: Summary) -> list[Table]:
    """The tables of a report; a tuning has those of the learning rates that were tried and that are chosen."""
    if summary.tuning:
        return [_rates_table(summary), *([_choices_table(summary)] if summary.tuned else [])]
    differences = _differences_table(summary) if summary.comparisons else None
    return [_arms_table(summary), *filter(None, (differences, _budgets_table(summary)))]


def more_tables(summary: Summary) -> list[Table]:
    """The metrics that the table of arms has no room for, with their intervals, a few to a table."""
    if summary.tuning:
        return []
    side = _side_metrics(summary)
    rest = [metric for metric in summary.metrics[1:] if metric not in side]
    return [
        *_metric_tables(summary, "Also measured", [metric for metric in rest if metric.group != "inside"]),
        *_metric_tables(summary, "Inside the networks", [metric for metric in rest if metric.group == "inside"]),
    ]


def _side_metrics(summary: Summary) -> list[Metric]:
    return [metric for metric in summary.metrics[1:] if metric.group != "inside"][:SIDE_METRICS]


def _metric_tables(summary: Summary, title: str, metrics: list[Metric]) -> Iterator[Table]:
    for first in range(0, len(metrics), SIDE_METRICS):
        shown = metrics[first : first + SIDE_METRICS]
        header = ("arm", *(f"{value_label(metric)} [95 %]" for metric in shown))
        rows = tuple(
            (arm.title, *(formatting.interval(metric, arm.estimate(metric)) for metric in shown))
            for arm in summary.arms
        )
        number = f", {first // SIDE_METRICS + 1}" if len(metrics) > SIDE_METRICS else ""
        yield Table(f"{title}{number}", header, rows)


def _arms_table(summary: Summary) -> Table:
    metric, side = summary.metric, _side_metrics(summary)
    header = ["arm", "n", f"{value_label(metric)} [95 %]", "sd", *map(value_label, side)]
    rows = []
    for arm in summary.arms:
        mean = arm.estimate(metric)
        rows.append(
            [arm.title, _count(arm, mean.n), formatting.interval(metric, mean), formatting.number(metric, mean.sd)]
        )
        rows[-1] += [formatting.number(other, arm.estimate(other).mean) for other in side]
    note = "Means over seeds with 95 % t-interval"
    if metric.unit == "%":
        note += ", cut at 0 and 100 %"
    if any(arm.arm.cost for arm in summary.arms):
        header += ["MAdds", "params", "lr", "s / run"]
        for arm, row in zip(summary.arms, rows, strict=True):
            row += [formatting.quantity(arm.arm.cost.get(name, math.nan)) for name in ("madds", "params")]
            row += [f"{arm.arm.lr:g}", "–" if math.isnan(arm.seconds) else f"{arm.seconds:.1f}"]
        if any(arm.latency_ms > 0 for arm in summary.arms):
            header.append("ms / image")
            for arm, row in zip(summary.arms, rows, strict=True):
                row.append("–" if math.isnan(arm.latency_ms) else _ms(arm))
        note += ", of the final step on the whole held-out set. MAdds of one image; seconds of the training steps"
    return Table("Arms", tuple(header), tuple(map(tuple, rows)), f"{note}.")


def _differences_table(summary: Summary) -> Table:
    """The deciding metric, and the one that follows it where that is measured on the same images."""
    metric = summary.metric
    shown = [metric, *[other for other in summary.metrics[1:2] if other.group == metric.group]]
    first, *others = (f"{difference_label(one)} [95 %]" for one in shown)
    rows = []
    for comparison in summary.comparisons:
        cell, *beside = (formatting.interval(one, comparison.differences[one.name], sign=True) for one in shown)
        decides = comparison.differences[metric.name]
        p = formatting.p_text(decides.p)
        rows.append((comparison.arm.title, cell, p, *beside, str(decides.n), comparison.role))
    note = "Paired by seed. Holm's correction is in the verdict, for the primary contrasts; nothing here is "
    note += "corrected for being one of many: secondary differences suggest, they do not conclude."
    header = ("arm", first, "p", *others, "pairs", "role")
    return Table(f"Differences from {summary.baseline.title}, uncorrected", header, tuple(rows), note)


def _ms(arm: ArmSummary) -> str:
    """Milliseconds an image, to 3 digits."""
    return f"{arm.latency_ms:#.3g}".rstrip(".")


def _budgets_table(summary: Summary) -> Table | None:
    """The best arm for every budget of milliseconds: each line is an arm that no arm as fast or faster exceeds."""
    metric = summary.metric
    sign = 1 if metric.higher_is_better else -1
    known = [arm for arm in summary.arms if arm.latency_ms > 0 and arm.values[metric.name]]
    best: list[ArmSummary] = []
    for arm in sorted(known, key=lambda arm: (arm.latency_ms, -sign * arm.estimate(metric).mean)):
        if not best or sign * arm.estimate(metric).mean > sign * best[-1].estimate(metric).mean:
            best.append(arm)
    if len(known) < 2:
        return None
    ends = [f"to {_ms(arm)}" for arm in best[1:]] + ["on"]
    rows = tuple(
        (f"{_ms(arm)} {end}", arm.title, formatting.interval(metric, arm.estimate(metric)))
        for arm, end in zip(best, ends, strict=True)
    )
    header = ("budget, ms / image", "best arm", f"{value_label(metric)} [95 %]")
    note = "By the means over seeds; arms whose intervals overlap may be in another order. Milliseconds are those of "
    note += "the machine that measured them."
    return Table("Best arm within a latency budget", header, rows, note)


def _rates_table(summary: Summary) -> Table:
    metric, others = summary.metric, summary.metrics[1:2]
    rows = []
    for arm in summary.arms:
        mean = arm.estimate(metric)
        row = [arm.arm.variant, f"{arm.arm.lr:g}", _count(arm, mean.n), formatting.interval(metric, mean)]
        row += [formatting.number(metric, mean.sd)]
        row += [formatting.number(other, arm.estimate(other).mean) for other in others]
        rows.append(tuple(row))
    header = ("arm", "lr", "n", f"{value_label(metric)} [95 %]", "sd", *map(value_label, others))
    note = "Means over tuning seeds, disjoint from the reported ones, on images that no reported run is tested on."
    return Table("Learning rates", header, tuple(rows), note)


def _choices_table(summary: Summary) -> Table:
    metric, rows = summary.metric, []
    seeds = max(arm.planned for arm in summary.arms)
    for variant, choice in summary.tuned.items():
        sizes = (formatting.number(metric, size) for size in (choice.cost, choice.half_width))
        more = "–" if math.isnan(choice.seeds) else str(max(0, int(choice.seeds) - seeds))
        error = "–" if math.isnan(choice.factor) else f"{choice.factor:.2f}"
        rows.append((variant, f"{choice.rate:g}", error, *sizes, more, choice.edge))
    unit = f", {metric.difference_unit}" if metric.difference_unit else ""
    header = ("arm", "lr", "error, factor", f"costs{unit}", f"half-width{unit}", "more seeds", "edge")
    note = "Where the parabola through the scores around the best rate is highest, its standard error by the jackknife "
    note += (
        "over tuning seeds, and what that error costs on average, beside about half the 95 % interval that a verdict "
    )
    note += f"on two arms will have. So many more tuning seeds make the cost {tuning.SHARE:.0%} of that."
    return Table("Chosen rates", header, tuple(rows), note)


class ContrastLine(NamedTuple):
    """A verdict as one line of an overview; all in words, "–" where there is nothing to say."""

    contrast: str
    paper: str
    here: str
    unit: str
    n: str
    p: str
    outcome: str


def contrast_lines(summary: Summary) -> list[ContrastLine]:
    """One for each primary contrast; of an experiment without any, one that names the baseline's value.

    A tuning has none.
    """
    if summary.tuning:
        return []
    metric, lines = summary.metric, []
    for verdict in summary.verdicts:
        contrast = verdict.contrast
        first, last = contrast.arms[0], contrast.arms[-1]
        name = f"slope, {first} to {last}" if contrast.is_slope else f"{first} − {last}"
        if contrast.kind in ("straight", "off_line"):
            name = f"bend, {first} to {last}" if contrast.kind == "straight" else f"{first} off the line to {last}"
        name += "" if contrast.is_papers else f" ({contrast.asked_by})"
        paper = "–" if contrast.published is None else formatting.number(metric, contrast.published, sign=True)
        here = formatting.interval(metric, verdict.difference, sign=True)
        n, p = str(verdict.difference.n), formatting.p_text(verdict.adjusted)
        lines.append(ContrastLine(name, paper, here, metric.difference_unit, n, p, verdict.outcome))
    if not lines:
        arm = summary.baseline
        value = formatting.interval(metric, arm.estimate(metric))
        lines.append(
            ContrastLine(f"{arm.title}: {value_label(metric)}", "–", value, "", str(arm.estimate(metric).n), "–", "–")
        )
    return lines


def _count(arm: ArmSummary, n: int) -> str:
    return str(n) if n == arm.planned else f"{n} of {arm.planned}"
