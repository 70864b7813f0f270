"""Summary -> tables and sentences, the same for all renderers."""

import math
from typing import NamedTuple

from mnet_jax import stats
from mnet_jax.report.summary import ArmSummary, Summary


class Table(NamedTuple):
    """A table in words: first column left, the others right; `marked` rows stand out."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    marked: tuple[int, ...] = ()


BESIDE = 3
"""Metrics beside the claim's that the table of arms has room for."""


def _beside(summary: Summary) -> list[str]:
    """The metrics in the table of arms, the claim's first; what `analysis` measured has tables of its own."""
    first, *others = summary.metrics
    return [first, *[metric for metric in others if not metric.startswith(stats.SHARES)][:BESIDE]]


def tables(summary: Summary) -> list[Table]:
    """The tables of a report; a tuning has one, of the learning rates."""
    if summary.sweep.mode == "tune":
        return [_rates_table(summary)]
    return [_arms_table(summary), *([_differences_table(summary)] if summary.comparisons else [])]


def more_tables(summary: Summary) -> list[Table]:
    """The metrics that the table of arms has no room for, with their intervals, a few to a table."""
    if summary.sweep.mode == "tune":
        return []
    rest = [metric for metric in summary.metrics if metric not in _beside(summary)]
    made = []
    for first in range(0, len(rest), BESIDE):
        metrics = rest[first : first + BESIDE]
        header = ("arm", *(f"{metric_name(metric)} [95 %]" for metric in metrics))
        rows = tuple(
            (arm.name, *(stats.interval(metric, arm.estimate(metric)) for metric in metrics)) for arm in summary.arms
        )
        made.append(Table(f"Also measured{f', {first // BESIDE + 1}' if len(rest) > BESIDE else ''}", header, rows))
    return made


def _arms_table(summary: Summary) -> Table:
    first, *others = _beside(summary)
    header = ["arm", "n", f"{metric_name(first)} [95 %]", "sd", *map(metric_name, others)]
    rows = []
    for arm in summary.arms:
        found = arm.estimate(first)
        rows.append([arm.name, _count(arm), stats.interval(first, found), stats.number(first, found.sd)])
        rows[-1] += [stats.number(metric, arm.estimate(metric).mean) for metric in others]
    note = "Means over seeds with 95 % t-interval"
    if any(arm.arm.cost for arm in summary.arms):
        header += ["MAdds", "params", "lr", "s / run"]
        for arm, row in zip(summary.arms, rows, strict=True):
            row += [
                stats.quantity(arm.arm.cost.get("madds", math.nan)),
                stats.quantity(arm.arm.cost.get("params", math.nan)),
            ]
            row += [f"{arm.arm.lr:g}", "–" if math.isnan(arm.seconds) else f"{arm.seconds:.1f}"]
        if measured := [arm for arm in summary.arms if arm.latency_ms > 0]:
            header.append(f"ms / {measured[0].name}'s")
            for arm, row in zip(summary.arms, rows, strict=True):
                row.append("–" if math.isnan(arm.latency_ms) else f"{arm.latency_ms / measured[0].latency_ms:.2f}")
        note += ", of the final step on the whole held-out set. MAdds of one image; seconds of the training steps"
    return Table("Arms", tuple(header), tuple(map(tuple, rows)), f"{note}.")


def _differences_table(summary: Summary) -> Table:
    metric, others = summary.metric, [name for name in summary.metrics[1:] if name == "nll"]
    columns = {name: f"{difference_name(name)} [95 %]" for name in (metric, *others)}
    header = ("arm", columns[metric], "p", *(columns[name] for name in others), "pairs", "role")
    rows = []
    for comparison in summary.comparisons:
        arm, of_metric = comparison.arm, comparison.differences
        decides, shown = (
            of_metric[metric],
            {name: stats.interval(name, of_metric[name], sign=True) for name in columns},
        )
        name = f"{arm.twin_of} at lr {arm.lr:g}" if arm.twin_of else arm.name
        beside = [shown[other] for other in others]
        rows.append((name, shown[metric], stats.p_text(decides.p), *beside, str(decides.n), comparison.role))
    note = "Paired by seed. Holm's correction is in the verdict, for the primary contrasts; nothing here is "
    note += "corrected for being one of many: secondary differences suggest, they do not conclude."
    return Table(f"Differences from {summary.baseline.name}, uncorrected", header, tuple(rows), note)


def _rates_table(summary: Summary) -> Table:
    rows, marked = [], []
    for index, arm in enumerate(summary.arms):
        variant, accuracy = summary.sweep.claim["tune_arms"][arm.name], arm.estimate("accuracy")
        best = summary.tuned.get(variant) == arm.arm.lr
        marked += [index] if best else []
        row = [variant, f"{arm.arm.lr:g}", _count(arm), stats.interval("accuracy", accuracy)]
        row += [stats.number("accuracy", accuracy.sd), stats.number("nll", arm.estimate("nll").mean)]
        rows.append((*row, "best" if best else ""))
    header = ("arm", "lr", "n", "accuracy, % [95 %]", "sd", "NLL", "")
    note = "Means over tuning seeds, disjoint from the reported ones, on images held out from the training set."
    return Table("Learning rates", header, tuple(rows), note, tuple(marked))


def tuned_lines(summary: Summary) -> str:
    """What to paste into the experiment file, a comment while runs are missing."""
    if not summary.tuned:
        return "# the best learning rates, once all runs are done"
    pairs = [f'"{variant}": {lr}' for variant, lr in summary.tuned.items()]
    line = f"TUNED_LR = {{{', '.join(pairs)}}}"
    return line if len(line) <= 100 else "\n".join(["TUNED_LR = {", *(f"    {pair}," for pair in pairs), "}"])


class Finding(NamedTuple):
    """A verdict in words, and its `numbers`: the one measured, the paper's, that at the baseline's rate."""

    outcome: str
    sentence: str
    numbers: tuple[tuple[str, str], ...]


def findings(summary: Summary) -> list[Finding]:
    metric, rate = summary.metric, summary.baseline.arm.lr
    made = []
    for verdict, same_lr in zip(summary.verdicts, summary.same_lr, strict=True):
        numbers = [("measured here", stats.amount(metric, verdict.difference, sign=True))]
        if verdict.published is not None:
            published = stats.number(metric, verdict.published, sign=True)
            numbers.append(("the paper's", f"{published}{stats.unit(metric)}"))
        if same_lr is not None:
            numbers.append((f"here, all at learning rate {rate:g}", stats.amount(metric, same_lr, sign=True)))
        made.append(Finding(verdict.outcome, verdict.sentence, tuple(numbers)))
    return made


def claim_text(summary: Summary) -> list[str]:
    """What the experiment claims, and what its paper printed."""
    if summary.sweep.mode == "tune":
        return []
    claim = {"text": "", "source": "", "published": "", **summary.sweep.claim}
    lines = (("Claim", claim["text"]), (claim["source"] or "The paper", claim["published"]))
    return [f"{label}: {words}" for label, words in lines if words]


class Glance(NamedTuple):
    """A verdict as one line of an overview; all in words, "–" where there is nothing to say."""

    contrast: str
    paper: str
    here: str
    unit: str
    n: str
    p: str
    outcome: str


def glances(summary: Summary) -> list[Glance]:
    """One for each primary contrast; of an experiment without any, one that names the baseline's value."""
    metric, made = summary.metric, []
    for verdict in summary.verdicts:
        arms, paper = verdict.arms, verdict.published
        contrast = (
            f"slope, {arms[0]} to {arms[-1]}" if verdict.kind in ("trend", "interaction") else f"{arms[0]} − {arms[1]}"
        )
        here = stats.interval(metric, verdict.difference, sign=True)
        there = "–" if paper is None else stats.number(metric, paper, sign=True)
        n, p = str(verdict.difference.n), stats.p_text(verdict.adjusted)
        made.append(Glance(contrast, there, here, stats.unit(metric).strip(), n, p, verdict.outcome))
    if not made:
        arm = summary.baseline
        value = stats.interval(metric, arm.estimate(metric))
        made.append(Glance(f"{arm.name}: {metric_name(metric)}", "–", value, "", str(arm.n), "–", "–"))
    return made


def minutes(summary: Summary) -> str:
    """Of compute, summed over the finished runs."""
    return f"{sum(summary.timing.values()) / 60:.1f}"


def facts(summary: Summary) -> dict[str, str]:
    """How the numbers were made: name -> words."""
    spent, diverged = sum(summary.timing.values()), len(summary.diverged)
    phases = [f"{phase} {s:.0f} s ({100 * s / spent:.0f} %)" for phase, s in summary.timing.items() if spent]
    config, pilot = summary.sweep.config, summary.baseline.pilot
    made = {
        "runs": f"{summary.done} of {summary.total}" + (f", {diverged} diverged" if diverged else ""),
        "seeds": f"{pilot}, then as many as their spread asked for to make each primary 95 % interval at most "
        f"{config['seeds_until']:g} wide, at most {config['seeds_max']} (Stein 1945)"
        if pilot
        else "",
        "settings": ", ".join(f"{name} {value}" for name, value in summary.settings.items()),
        "data": ", ".join(f"{name} {value}" for name, value in summary.data.items()),
        "device": summary.device,
        "versions": ", ".join(f"{name} {value}" for name, value in summary.versions.items()),
        "time": f"{spent:.0f} s, summed over runs: {', '.join(phases)}" if spent else "",
        "command": summary.sweep.command,
    }
    return {name: words for name, words in made.items() if words}


def metric_name(metric: str, unit: bool = True) -> str:
    words = "NLL" if metric == "nll" else metric.replace("_", " ")
    return f"{words}, %" if unit and stats.unit(metric) else words


def difference_name(metric: str) -> str:
    """The name of a difference, with its unit: "accuracy, points"."""
    return metric_name(metric, unit=False) + (f",{stats.unit(metric)}" if stats.unit(metric) else "")


def _count(arm: ArmSummary) -> str:
    return str(arm.n) if arm.n == arm.planned else f"{arm.n} of {arm.planned}"
