"""Summary -> sentences: the claim, its verdicts, how the numbers came about. The same for all renderers."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from mnet_jax import formatting, stats, tuning
from mnet_jax.config.claims import Contrast
from mnet_jax.report.summary import Summary
from mnet_jax.tasks.base import Metric


class VerdictText(NamedTuple):
    """A verdict in words, and its `numbers`: the one measured, the paper's, that at the baseline's rate."""

    outcome: str
    sentence: str
    numbers: tuple[tuple[str, str], ...]


def verdict_texts(summary: Summary) -> list[VerdictText]:
    """One for each primary contrast."""
    metric, rate = summary.metric, summary.baseline.arm.lr
    trained = any(arm.arm.cost.get("images") for arm in summary.arms)
    texts = []
    for verdict, same_lr in zip(summary.verdicts, summary.same_lr, strict=True):
        numbers = [("measured here", formatting.amount(metric, verdict.difference, sign=True))]
        if verdict.contrast.published is not None:
            published = formatting.number(metric, verdict.contrast.published, sign=True)
            numbers.append(("the paper's", formatting.with_difference_unit(metric, published)))
        if same_lr is not None:
            numbers.append((f"here, all at learning rate {rate:g}", formatting.amount(metric, same_lr, sign=True)))
        resplit = summary.data.get("drawn_by_seed") == RESPLIT
        if resplit and verdict.difference.sd > 0 and verdict.difference.n >= stats.FEWEST:
            images = (summary.data["train_images"], summary.data["test_images"])
            wider = formatting.amount(metric, stats.for_new_images(verdict.difference, *images), sign=True)
            numbers.append(("here, for new images (Nadeau and Bengio 2003)", wider))
        at_edge = [arm for arm in verdict.contrast.arms if summary.sweep.arm(arm).lr_at_edge]
        sentence = verdict_sentence(verdict, metric, len(summary.verdicts), summary.baseline.pilot, trained)
        if at_edge:
            sentence += f" The learning rate of {', '.join(at_edge)} was at the edge of those that were tried."
        texts.append(VerdictText(verdict.outcome, sentence, tuple(numbers)))
    return texts


RESPLIT = "training and test images"
"""What seeds draw anew where there is no fixed test set (`mnet_jax.data.dataset.Split`)."""


def scope(summary: Summary) -> str:
    """What the intervals are over, and so what they say nothing about."""
    data = summary.data
    if "drawn_by_seed" not in data:
        return "over seeds"
    train, test = data["train_images"], data["test_images"]
    if data["drawn_by_seed"] == RESPLIT:
        images = f"over re-splits and initialisations of the same {train + test:,} images of {data['source']}"
        return f"{images}; what is said of new images has an interval of its own, the wider one"
    draws = "draws of the training images and " if data["drawn_by_seed"] == "training images" else ""
    return f"over {draws}initialisations; all seeds are tested on the same {test:,} images, and other images may differ"


def verdict_sentence(
    verdict: stats.Verdict, metric: Metric, tests: int = 1, pilot: int = 0, trained: bool = True
) -> str:
    """One sentence that begins with the outcome and says what was measured.

    Args:
      verdict: what the runs say about a contrast.
      metric: the one that decides.
      tests: how many contrasts Holm's correction runs over.
      pilot: how many first seeds the number of all followed from, 0 where it was fixed.
      trained: whether training runs decided, whose budget bounds what they say.
    """
    contrast, measured, outcome = verdict.contrast, verdict.difference, verdict.outcome
    if outcome == "not enough runs yet":
        return f"Not enough runs yet: seeds finished in each of {', '.join(contrast.arms)}: {measured.n} (2 needed)."
    p = "p < 0.0001" if verdict.adjusted < 1e-4 else f"p = {formatting.p_text(verdict.adjusted)}"
    sentence = f"{outcome.capitalize()}{' within this budget' if trained else ''}: {_fact(verdict, metric)}"
    sentence += f", {p}{' (Holm)' if tests > 1 else ''}"
    if outcome == "no evidence":
        sentence = f"No evidence: no arm is better than guessing in {metric.title}. {_fact(verdict, metric)}"
    if outcome.startswith("no ") and verdict.detectable > 0:
        level = f"at Holm's level of {tests} contrasts " if tests > 1 else ""
        size = formatting.with_difference_unit(metric, formatting.number(metric, verdict.detectable))
        what = f"{level}these {measured.n} seeds would find a true {_measure(contrast)} of {size}"
        if contrast.margin is not None:
            what = f"were there none, {level}these {measured.n} seeds would show it to lie inside ±{size}"
        sentence += f"; {what} with 80 % power"
    if pilot:
        sentence += f". The number of seeds, {measured.n}, followed from the width that the interval was to have and "
        sentence += f"the spread of the first {min(pilot, measured.n)}, not from p (Stein 1945)"
    return f"{sentence}. {ASKERS.get(contrast.asked_by, '')}".rstrip()


ASKERS = {
    "reader": "The paper does not say so: a reader of it does.",
    "ours": "The paper does not say so: the question is this experiment's own.",
}
"""Who else than the paper says what is tested, in a sentence."""


def _measure(contrast: Contrast) -> str:
    """What is measured, in a word."""
    kinds = {"trend": "slope", "interaction": "slope", "straight": "bend", "off_line": "distance"}
    return kinds.get(contrast.kind, "difference")


def _fact(verdict: stats.Verdict, metric: Metric) -> str:
    """What was measured, in words that fit the outcome."""
    contrast, measured = verdict.contrast, verdict.difference
    first, last, rises = contrast.arms[0], contrast.arms[-1], measured.mean > 0
    decided = not verdict.outcome.startswith("no ")
    amount = formatting.amount(metric, measured, sign=True)
    if contrast.margin is not None:
        margin = formatting.with_difference_unit(metric, f"{contrast.margin:g}")
        where = ("inside" if verdict.outcome == "supported" else "outside") if decided else "not shown to lie inside"
        what = f"{first} - {last} =" if contrast.kind == "equivalent" else f"the bend from {first} to {last} is"
        return f"{what} {amount}, {where} ±{margin}"
    if contrast.kind == "off_line":
        through = f"the line through {', '.join(contrast.arms[1:])}"
        if decided:
            return f"{first} lies {'above' if rises else 'below'} {through}, by {amount}"
        return f"{first} and {through}: distance {amount}"
    if contrast.kind == "trend":
        if decided:
            return f"{metric.title} {'rises' if rises else 'falls'} from {first} to {last}, slope {amount}"
        return f"{metric.title} from {first} to {last}: slope {amount}"
    if contrast.kind == "interaction":
        lead, towards = f"the lead of {first} over {contrast.arms[1]}", f"{contrast.arms[-2]} over {last}"
        if decided:
            return f"{lead} {'grows' if rises else 'shrinks'} towards {towards}, slope {amount}"
        return f"{lead}, towards {towards}, slope {amount}"
    if decided:
        winner, loser = (first, last) if rises else (last, first)
        gap = formatting.amount(metric, measured if rises else measured.reversed())
        return f"{winner} exceeds {loser} by {gap}" + ("" if metric.difference_unit else f" in {metric.title}")
    return f"{first} - {last} = {amount}"


def claim_text(summary: Summary) -> list[str]:
    """What the experiment claims, and what its paper printed."""
    if summary.tuning:
        return []
    claim = summary.sweep.claim
    whose = {"reader": "A reader's claim", "ours": "Our own claim"}
    lines = ((whose.get(claim.asked_by, "Claim"), claim.text), (claim.source or "The paper", claim.published))
    return [f"{label}: {words}" for label, words in lines if words]


def tuned_lines(summary: Summary) -> str:
    """What to paste into the experiment file, a comment while runs are missing."""
    if not summary.tuned:
        return "# the best learning rates, once all runs are done"
    lines = [
        f'    "{variant}": {_rate(choice)},  # {_noise(summary.metric, choice)}'
        for variant, choice in summary.tuned.items()
    ]
    return "\n".join(["TUNED_LR = {", *lines, "}"])


def _rate(choice: tuning.Choice) -> str:
    return f'({choice.rate:g}, "edge")' if choice.edge else f"{choice.rate:g}"


def _noise(metric: Metric, choice: tuning.Choice) -> str:
    """How sure a learning rate is, in few words."""
    if choice.edge:
        return f"the {choice.edge} that was tried"
    if math.isnan(choice.cost):
        return "the best of those that were tried"
    cost = formatting.with_difference_unit(metric, formatting.number(metric, choice.cost))
    return f"give or take a factor of {choice.factor:.2f}, which costs {cost}"


READ_ALOUD = 12
"""Arms, at most, whose numbers stand in the label of a figure."""


def findings(summary: Summary) -> dict[str, str]:
    """Title of a figure -> the numbers that it shows, for those who hear the page; {} of many arms."""
    metric = summary.metric
    if len(summary.arms) > READ_ALOUD:
        return {}
    values = [f"{arm.title} {formatting.interval(metric, arm.estimate(metric))}" for arm in summary.arms]
    reached = f"{formatting.value_label(metric)}: {'; '.join(values)}"
    differences = [
        f"{one.arm.title} {formatting.interval(metric, one.differences[metric.name], sign=True)}"
        for one in summary.comparisons
    ]
    label = formatting.difference_label(metric)
    return {
        f"Differences from {summary.baseline.title}": f"{label}: {'; '.join(differences)}",
        "Learning curves": f"At the end, {reached}",
        "What it costs": reached,
        "Every run": reached,
    }


def minutes(summary: Summary) -> str:
    """Of compute, summed over the finished runs."""
    return f"{sum(summary.timing.values()) / 60:.1f}"


def provenance(summary: Summary) -> dict[str, str]:
    """How the numbers came about: name -> words."""
    spent, diverged = sum(summary.timing.values()), len(summary.diverged)
    phases = [f"{phase} {s:.0f} s ({100 * s / spent:.0f} %)" for phase, s in summary.timing.items() if spent]
    (base, changes), config, pilot = summary.settings, summary.sweep.config, summary.baseline.pilot
    named = [arm for arm in summary.arms if not (arm.arm.same_lr_as or arm.arm.variant)]  # the others' names tell all
    facts = {
        "runs": f"{summary.done} of {summary.total}" + (f", {diverged} diverged" if diverged else ""),
        "seeds": f"{pilot}, then as many as their spread asked for to make each primary 95 % interval at most "
        f"{config['seeds_until']:g} wide, at most {config['seeds_max']} (Stein 1945)"
        if pilot
        else "",
        "settings": f"{base} but for {', '.join(_pairs(changes))}" if changes else base,
        "arms": "; ".join(f"{arm.title}: {_changes(arm.arm.overrides)}" for arm in named),
        "intervals": scope(summary),
        "data": ", ".join(_pairs({name: words for name, words in summary.data.items() if name not in COUNTED}))
        + (f", {reads} reads of images that cannot be decoded" if (reads := summary.data.get("corrupt", 0)) else ""),
        "device": summary.device,
        "versions": ", ".join(_pairs(summary.versions)),
        "time": f"{spent:.0f} s, summed over runs: {', '.join(phases)}" if spent else "",
        "command": summary.sweep.command,
    }
    return {name: words for name, words in facts.items() if words}


def _changes(overrides: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in overrides.items()) or "the base config"


COUNTED = ("drawn_by_seed", "train_images", "test_images", "corrupt")
"""Of the data, what is said in words."""


def _pairs(values: Mapping[str, Any]) -> list[str]:
    return [f"{name} {value}" for name, value in values.items()]
