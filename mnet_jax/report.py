"""Rows -> what was found: `summarize` reads and decides, the rest prints: to a terminal, a paper, a browser.

It reads through `results` alone, never checkpoints or logs, so a report can be made at any time and anywhere.
"""

import io
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mnet_jax import results, stats

CHANCE: Mapping[str, Callable[[int], float]] = {
    "accuracy": lambda classes: 1 / classes,
    "top5_accuracy": lambda classes: 5 / classes,
    "nll": math.log,
}
"""What a diverged run counts as, by the number of classes."""

PHASES = ("start", "compile", "steps", "evaluation", "writing")

SETTINGS = (
    "model.name",
    "model.width",
    "model.init",
    "data.source",
    "data.train_size",
    "data.holdout",
    "data.shift",
    "data.flip",
    "train.epochs",
    "train.batch_size",
    "train.label_smoothing",
    "train.ema",
    "optim.name",
    "optim.momentum",
    "optim.schedule",
    "optim.warmup",
    "optim.weight_decay",
)
"""What a reader asks first; sweep.json has the rest."""

Row = dict[str, Any]


@dataclass(frozen=True)
class ArmSummary:
    """The finished runs of an arm.

    `values`   metric -> seed -> value as printed: accuracies in percent.
    `seconds`  mean of the training steps of a run.
    """

    arm: results.Arm
    planned: int
    values: Mapping[str, Mapping[int, float]]
    seconds: float

    @property
    def name(self) -> str:
        return self.arm.name

    @property
    def n(self) -> int:
        return max((len(of_seed) for of_seed in self.values.values()), default=0)

    def estimate(self, metric: str) -> stats.Estimate:
        return stats.estimate(self.values.get(metric, {}).values())


@dataclass(frozen=True)
class Comparison:
    """An arm minus the baseline, by metric; `role` is "primary", "secondary" or "same lr"."""

    arm: results.Arm
    role: str
    differences: Mapping[str, stats.Difference]


@dataclass(frozen=True)
class Summary:
    """Everything that a report says.

    `metrics`   the claim's first.
    `verdicts`  one for each primary contrast; beside it in `same_lr` the difference with every arm at the
                baseline's learning rate, None where these are the same runs.
    `tuned`     variant -> best learning rate; empty unless this is a tuning, and complete.
    `timing`    phase -> seconds, summed over the finished runs.
    """

    sweep: results.Sweep
    metrics: tuple[str, ...]
    done: int
    total: int
    arms: tuple[ArmSummary, ...]
    comparisons: tuple[Comparison, ...]
    verdicts: tuple[stats.Verdict, ...]
    same_lr: tuple[stats.Difference | None, ...]
    tuned: Mapping[str, float]
    warnings: tuple[str, ...]
    diverged: tuple[str, ...]
    settings: Mapping[str, Any]
    data: Mapping[str, str]
    versions: Mapping[str, str]
    device: str
    timing: Mapping[str, float]

    @property
    def metric(self) -> str:
        return self.metrics[0]

    @property
    def baseline(self) -> ArmSummary:
        return self.arms[0]

    @property
    def partial(self) -> str:
        """A line that says so while runs are missing, else ""."""
        if self.done == self.total:
            return ""
        return f"PARTIAL: {self.done} of {self.total} runs; numbers will change"


class Table(NamedTuple):
    """A table in words: first column left, the others right; `marked` rows stand out."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    marked: tuple[int, ...] = ()


class Picture(NamedTuple):
    """A figure for the page."""

    title: str
    svg: str
    caption: str


# Rows -> Summary.


def summarize(workdir: Path) -> Summary:
    """Reads the plan and the finished rows of a workdir and decides its claim.

    Raises ValueError where rows were made from other data than each other, or with other settings than the
    plan's, showing the difference; and where a row lacks the claim's metric.
    """
    sweep = results.read_sweep(workdir)
    rows = results.read_rows(workdir, sweep.runs)
    _check(sweep, rows)
    tuning = sweep.mode == "tune"
    claim: dict[str, Any] = {"metric": "accuracy", "contrasts": [], **sweep.claim}
    metric: str = "accuracy" if tuning else claim["metric"]
    hidden = {"train_loss", "train_accuracy"} if metric == "accuracy" else set()
    keys = (key for row in rows for key in row["metrics"] if key not in hidden)
    metrics = tuple(dict.fromkeys([metric, *keys]))
    raw = {key: {arm.name: {} for arm in sweep.arms} for key in metrics}
    for row in rows:
        measured = _measured(row, metric)
        for key in metrics:
            raw[key][row["arm"]][row["seed"]] = measured.get(key, math.nan)
    arms = tuple(_arm(sweep, arm, rows, raw) for arm in sweep.arms)
    versions = _distinct(rows, "versions")
    best, edges = _best_rates(sweep, arms) if tuning else ({}, ())
    return Summary(
        sweep=sweep,
        metrics=metrics,
        done=len(rows),
        total=len(sweep.runs),
        arms=arms,
        comparisons=() if tuning else tuple(_comparison(sweep, arm, arms[0]) for arm in arms[1:]),
        verdicts=() if tuning else tuple(stats.verdicts(claim, raw[metric])),
        same_lr=() if tuning else _same_lr(sweep, claim, raw[metric]),
        tuned=best,
        warnings=(*_divergences(rows), *edges, *_disagreements(rows)),
        diverged=tuple(row["run"] for row in rows if row["diverged_at"] is not None),
        settings=_settings(sweep),
        data=rows[0]["data"] if rows else {},
        versions={name: " and ".join(found) for name, found in versions.items() if any(found)},
        device=" and ".join(dict.fromkeys(_device(row) for row in rows)),
        timing={phase: sum(row["timing"].get(phase, 0.0) for row in rows) for phase in PHASES},
    )


def _check(sweep: results.Sweep, rows: Sequence[Row]) -> None:
    """Refuses rows that must not stand in one comparison."""
    programs = {run.name: job.program for job in sweep.jobs for run in job.runs}
    for row in rows:
        arm = sweep.arm(row["arm"])
        plan = {"overrides": arm.overrides, "lr": arm.lr, "program": programs[row["run"]]}
        _refuse_unequal("settings", "the plan", plan, row["run"], {name: row[name] for name in plan})
        _refuse_unequal("data", rows[0]["run"], rows[0]["data"], row["run"], row["data"])


def _refuse_unequal(what: str, one: str, a: Mapping[str, Any], other: str, b: Mapping[str, Any]) -> None:
    if a == b:
        return
    unequal = [name for name in {**a, **b} if a.get(name) != b.get(name)]
    shown = "; ".join(f"{name}: {a.get(name)!r} and {b.get(name)!r}" for name in unequal)
    raise ValueError(f"{one} and {other} have other {what} and cannot be compared: {shown}")


def _measured(row: Row, metric: str) -> Row:
    """The metrics of a row, at chance level where it diverged."""
    measured = dict(row["metrics"])
    if row["diverged_at"] is not None:
        measured |= {name: chance(row["classes"]) for name, chance in CHANCE.items() if name in measured}
    if not math.isfinite(measured.get(metric, math.nan)):
        raise ValueError(f"{row['run']} has no {metric}, by which the claim is decided; it has {measured}")
    return measured


def _arm(sweep: results.Sweep, arm: results.Arm, rows: Sequence[Row], raw: Mapping[str, Any]) -> ArmSummary:
    seconds = [row["timing"].get("steps", 0.0) for row in rows if row["arm"] == arm.name]
    return ArmSummary(
        arm=arm,
        planned=sum(run.arm == arm.name for run in sweep.runs),
        values={
            metric: {seed: stats.scale(metric) * value for seed, value in sorted(of_arm[arm.name].items())}
            for metric, of_arm in raw.items()
        },
        seconds=sum(seconds) / len(seconds) if seconds else math.nan,
    )


def _comparison(sweep: results.Sweep, summary: ArmSummary, baseline: ArmSummary) -> Comparison:
    pair = {summary.name, baseline.name}
    primary = any(set(contrast["arms"]) == pair for contrast in sweep.claim.get("contrasts", ()))
    role = "same lr" if summary.arm.twin_of else "primary" if primary else "secondary"
    values = {metric: (of_seed, baseline.values[metric]) for metric, of_seed in summary.values.items()}
    return Comparison(summary.arm, role, {metric: stats.difference(*pair) for metric, pair in values.items()})


def _same_lr(
    sweep: results.Sweep, claim: Mapping[str, Any], values: Mapping[str, stats.Values]
) -> tuple[stats.Difference | None, ...]:
    twins = {arm.twin_of: arm.name for arm in sweep.arms if arm.twin_of}
    beside = stats.verdicts(claim, {arm: values[twins.get(arm, arm)] for arm in values})
    return tuple(verdict.difference if twins.keys() & set(verdict.arms) else None for verdict in beside)


def _best_rates(sweep: results.Sweep, arms: Sequence[ArmSummary]) -> tuple[dict[str, float], list[str]]:
    """Variant -> its rate of the highest mean accuracy (of equals the lower NLL), and warnings of edges."""
    variants: dict[str, list[ArmSummary]] = {}
    for arm in arms:
        variants.setdefault(sweep.claim["tune_arms"][arm.name], []).append(arm)
    if any(arm.n < arm.planned for arm in arms):
        return {}, []
    tuned, warnings = {}, []
    for variant, of_rate in variants.items():
        best = max(of_rate, key=lambda arm: (arm.estimate("accuracy").mean, -arm.estimate("nll").mean))
        tuned[variant] = rate = best.arm.lr
        rates = [arm.arm.lr for arm in of_rate]
        for edge, name, beyond in ((min(rates), "lowest", "lower"), (max(rates), "highest", "higher")):
            if rate == edge:
                warnings.append(f"{variant}: the best learning rate, {rate:g}, is the {name}; try {beyond} ones")
    return tuned, warnings


def _divergences(rows: Sequence[Row]) -> Iterable[str]:
    for row in rows:
        if row["diverged_at"] is not None:
            chance = stats.number("accuracy", 100 * CHANCE["accuracy"](row["classes"]))
            yield f"{row['run']} diverged at step {row['diverged_at']} and counts at chance level, {chance} %"


def _distinct(rows: Sequence[Row], field: str) -> dict[str, list[str]]:
    """Name -> the different values that the rows have there."""
    names = dict.fromkeys(name for row in rows for name in row[field])
    return {name: list(dict.fromkeys(str(row[field].get(name, "")) for row in rows)) for name in names}


def _disagreements(rows: Sequence[Row]) -> Iterable[str]:
    for field, prefix in (("versions", ""), ("device", "device ")):
        for name, found in _distinct(rows, field).items():
            if len(found) > 1:
                counts = [sum(str(row[field].get(name, "")) == value for row in rows) for value in found]
                shown = [f"{value or 'unknown'} ({n} runs)" for value, n in zip(found, counts, strict=True)]
                yield f"the runs differ in {prefix}{name}: {', '.join(shown)}"


def _device(row: Row) -> str:
    device = row["device"]
    return f"{device['count']} x {device['kind']}, {device['threads']} thread{'s' * (device['threads'] != 1)}"


def _settings(sweep: results.Sweep) -> dict[str, Any]:
    task = sweep.config.get("task", "classification")
    of_task = [name for name in sweep.config if name.startswith(f"{task}.")]
    varied = {name for arm in sweep.arms for name in arm.overrides}
    names = SETTINGS if task == "classification" else of_task
    return {name: sweep.config[name] for name in names if sweep.config.get(name) and name not in varied}


# Summary -> tables and sentences, the same for all renderers.


def tables(summary: Summary) -> list[Table]:
    """All tables of a report; a tuning has one, of the learning rates."""
    if summary.sweep.mode == "tune":
        return [_rates_table(summary)]
    return [_arms_table(summary), *([_differences_table(summary)] if summary.comparisons else [])]


def _arms_table(summary: Summary) -> Table:
    first, *others = summary.metrics
    header = ["arm", "n", f"{_name(first)} [95 %]", "sd", *map(_name, others)]
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
        note += ", of the final step on the whole held-out set. MAdds of one image; seconds of the training steps"
    return Table("Arms", tuple(header), tuple(map(tuple, rows)), f"{note}.")


def _differences_table(summary: Summary) -> Table:
    metric, others = summary.metric, [name for name in summary.metrics[1:] if name == "nll"]
    columns = {name: f"{_difference(name)} [95 %]" for name in (metric, *others)}
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
    claim = {"text": "", "source": "", "published": "", **summary.sweep.claim}
    if not summary.verdicts:
        return []
    lines = (("Claim", claim["text"]), (claim["source"] or "The paper", claim["published"]))
    return [f"{label}: {words}" for label, words in lines if words]


def facts(summary: Summary) -> dict[str, str]:
    """How the numbers were made: name -> words."""
    spent, diverged = sum(summary.timing.values()), len(summary.diverged)
    phases = [f"{phase} {s:.0f} s ({100 * s / spent:.0f} %)" for phase, s in summary.timing.items() if spent]
    made = {
        "runs": f"{summary.done} of {summary.total}" + (f", {diverged} diverged" if diverged else ""),
        "settings": ", ".join(f"{name} {value}" for name, value in summary.settings.items()),
        "data": ", ".join(f"{name} {value}" for name, value in summary.data.items()),
        "device": summary.device,
        "versions": ", ".join(f"{name} {value}" for name, value in summary.versions.items()),
        "time": f"{spent:.0f} s, summed over runs: {', '.join(phases)}" if spent else "",
        "command": summary.sweep.command,
    }
    return {name: words for name, words in made.items() if words}


def _name(metric: str, unit: bool = True) -> str:
    words = "NLL" if metric == "nll" else metric.replace("_", " ")
    return f"{words}, %" if unit and stats.unit(metric) else words


def _difference(metric: str) -> str:
    """The name of a difference, with its unit: "accuracy, points"."""
    return _name(metric, unit=False) + (f",{stats.unit(metric)}" if stats.unit(metric) else "")


def _count(arm: ArmSummary) -> str:
    return str(arm.n) if arm.n == arm.planned else f"{arm.n} of {arm.planned}"


# Words -> a terminal, Markdown, a page.

COLORS = {"supported": "bold green", "contradicted": "bold red"}


def to_text(summary: Summary, color: bool = False) -> str:
    """For a terminal of 100 columns; the verdict comes last, where the eye is. `color` adds ANSI codes."""
    from rich import box
    from rich.console import Console, Group
    from rich.panel import Panel
    from rich.table import Table as Grid
    from rich.text import Text

    file = io.StringIO()
    system = "standard" if color else None
    console = Console(file=file, width=100, color_system=system, force_terminal=color, force_jupyter=False)
    sweep = summary.sweep
    console.print(Text(f"{sweep.experiment}, {sweep.scale}: {sweep.title}", "bold"))
    for table in tables(summary):
        grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False)
        for index, (name, *cells) in enumerate(zip(table.header, *table.rows, strict=True)):
            whole = index > 0 and max(map(len, cells)) >= len(name)  # a long header may wrap, a number not
            justify = "right" if index else "left"
            grid.add_column(Text(name), justify=justify, overflow="fold", no_wrap=whole)
        for index, row in enumerate(table.rows):
            grid.add_row(*map(Text, row), style="bold" if index in table.marked else "")
        console.print(Text(f"\n{table.title}", "bold"), grid, Text(table.note, "dim"), sep="\n")
    console.print()
    for name, words in facts(summary).items():
        console.print(Text.assemble((f"{name}: ", "bold"), words))
    for warning in summary.warnings:
        console.print(Text(f"WARNING: {warning}", "yellow"))
    lines = [Text(line, "dim") for line in claim_text(summary)]
    for finding in findings(summary):
        outcome = (finding.outcome.upper(), COLORS.get(finding.outcome, "bold"))
        lines.append(Text.assemble("\n", outcome, finding.sentence[len(finding.outcome) :]))
        lines += [Text(f"  {label}: {words}") for label, words in finding.numbers[1:]]
    if sweep.mode == "tune":
        lines.append(Text(tuned_lines(summary), "bold green"))
    if lines:
        title = "PASTE INTO THE EXPERIMENT FILE" if sweep.mode == "tune" else "VERDICT"
        title += f" ({summary.partial})" if summary.partial else ""
        console.print()
        console.print(Panel(Group(*lines), title=Text(title, "bold"), box=box.SQUARE, padding=(1, 2)))
    return "\n".join(line.rstrip() for line in file.getvalue().split("\n"))


def to_markdown(summary: Summary) -> str:
    """For a paper, a README or a pull request; the verdict comes first."""
    sweep = summary.sweep
    parts = [f"# {sweep.experiment}, {sweep.scale}", sweep.title]
    parts += [f"**{summary.partial}**"] if summary.partial else []
    if found := findings(summary):
        parts += ["## Verdict", *claim_text(summary)]
    for finding in found:
        head = len(finding.outcome)
        lines = [f"- **{finding.sentence[:head]}**{finding.sentence[head:]}"]
        parts.append("\n".join(lines + [f"  - {label}: {words}" for label, words in finding.numbers[1:]]))
    if sweep.mode == "tune":
        parts += ["## Paste into the experiment file", f"```python\n{tuned_lines(summary)}\n```"]
    if summary.warnings:
        parts += ["## Warnings", "\n".join(f"- {warning}" for warning in summary.warnings)]
    for table in tables(summary):
        rule = ("---", *("---:" for _ in table.header[1:]))
        rows = [
            [f"**{cell}**" if cell and index in table.marked else cell.replace("|", "\\|") for cell in row]
            for index, row in enumerate(table.rows)
        ]
        lines = [f"| {' | '.join(cells)} |" for cells in (table.header, rule, *rows)]
        parts += [f"## {table.title}", "\n".join(lines), table.note]
    parts += ["## How", "\n".join(f"- {name}: {words}" for name, words in facts(summary).items())]
    return re.sub(r"<(?=[a-zA-Z/!?])", "&lt;", "\n\n".join(parts)) + "\n"


def to_html(summary: Summary, pictures: Sequence[Picture]) -> str:
    """One page that needs nothing else; the verdict comes first."""
    from jinja2 import Environment, StrictUndefined

    source = Path(__file__).with_name("report.html.j2").read_text()
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(source).render(
        sweep=summary.sweep,
        partial=summary.partial,
        claim=claim_text(summary),
        findings=findings(summary),
        tuned=tuned_lines(summary) if summary.sweep.mode == "tune" else "",
        warnings=summary.warnings,
        tables=tables(summary),
        pictures=pictures,
        facts=facts(summary),
    )


def write(workdir: Path) -> Summary:
    """Writes report.md, report.html and figures/ from what is finished; raises as `summarize` does."""
    summary = summarize(workdir)
    pictures = draw(workdir, summary)
    results.write_atomic(workdir / "report.md", to_markdown(summary))
    results.write_atomic(workdir / "report.html", to_html(summary, pictures))
    for picture in pictures:
        name = re.sub(r"[^a-z0-9]+", "_", picture.title.lower())
        results.write_atomic(workdir / "figures" / f"{name}.svg", picture.svg)
    return summary


# Pictures.


def draw(workdir: Path, summary: Summary) -> list[Picture]:
    """The pictures that the rows, curves and arrays of a workdir are enough for."""
    if summary.sweep.mode == "tune" or not summary.done:
        return []
    made = (
        _spiral(workdir, summary),
        _forest(summary),
        _curves(workdir, summary),
        _cost(summary),
        _seeds(summary),
    )
    return [picture for picture in made if picture]


def _forest(summary: Summary) -> Picture | None:
    from mnet_jax import figures

    metric, baseline = summary.metric, summary.baseline
    values = {arm.name: arm.values[metric] for arm in summary.arms}
    twins = {twin.arm.twin_of: twin for twin in summary.comparisons if twin.arm.twin_of}
    published = _published(summary)

    def by_seed(arm: str) -> list[float]:
        return list(stats.paired(values[arm], baseline.values[metric]).values())

    rows = []
    for comparison in summary.comparisons:
        name, own = comparison.arm.name, comparison.differences[metric]
        if own.n and not comparison.arm.twin_of:
            row = figures.Against(name, own, by_seed(name), published=published.get(name))
            if name in twins and twins[name].differences[metric].n:
                twin = twins[name]
                row = replace(row, same_lr=twin.differences[metric], same_lr_values=by_seed(twin.arm.name))
            rows.append(row)
    if not rows:
        return None
    figure = figures.forest(rows, f"minus {baseline.name}: {_difference(metric)}")
    caption = "Every dot is a seed; marks are means with 95 % t-intervals, uncorrected."
    caption += " The paper's value is of its own network, data and budget." if published else ""
    return Picture(f"Differences from {baseline.name}", figures.svg(figure), caption)


def _published(summary: Summary) -> dict[str, float]:
    """Arm -> the paper's difference to the baseline."""
    found, baseline = {}, summary.baseline.name
    for verdict in summary.verdicts:
        if verdict.published is not None and len(verdict.arms) == 2 and baseline in verdict.arms:
            sign = 1 if verdict.arms[1] == baseline else -1
            found[verdict.arms[0 if sign == 1 else 1]] = sign * verdict.published
    return found


def _curves(workdir: Path, summary: Summary) -> Picture | None:
    from mnet_jax import figures

    rows = results.read_rows(workdir, summary.sweep.runs)
    curves = {"accuracy": {}, "train_loss": {}}
    for arm in summary.arms:
        of_arm = [row for row in rows if row["arm"] == arm.name]
        for key, chance in (("accuracy", CHANCE["accuracy"]), ("train_loss", CHANCE["nll"])):
            x_T, y_ST = _curve(workdir, of_arm, key, chance)
            if len(x_T) and not arm.arm.twin_of:
                curves[key][arm.name] = x_T, stats.scale(key) * y_ST
    if not curves["accuracy"]:
        return None
    caption = "Means over seeds with 95 % t-intervals. The accuracy axis fits the second half of the training."
    return Picture("Learning curves", figures.svg(figures.learning_curves(**curves)), caption)


def _curve(
    workdir: Path, rows: Sequence[Row], key: str, chance: Callable[[int], float]
) -> tuple[np.ndarray, np.ndarray]:
    """Epochs x_T and values y_ST of the rows; chance level from the step at which a run diverged."""
    found = []
    for row in rows:
        last = math.inf if row["diverged_at"] is None else row["diverged_at"]
        lines = [line for line in results.read_metrics(workdir, row["run"]) if key in line]
        found.append({line["epoch"]: line[key] if line["step"] < last else math.nan for line in lines})
    epochs = sorted({epoch for values in found for epoch in values})
    y_ST = np.array([[values.get(epoch, math.nan) for epoch in epochs] for values in found])
    for row, y_T in zip(rows, y_ST, strict=True):
        if row["diverged_at"] is not None:
            y_T[np.isnan(y_T)] = chance(row["classes"])
    return np.array(epochs), y_ST


def _cost(summary: Summary) -> Picture | None:
    from mnet_jax import figures

    points = [
        figures.Cost(arm.name, arm.arm.cost["madds"], arm.arm.cost["params"], arm.estimate(summary.metric))
        for arm in summary.arms
        if arm.n and arm.arm.cost.get("madds") and not arm.arm.twin_of
    ]
    if not points:
        return None
    caption = "Counted from the traced network; arms of equal cost stand side by side."
    figure = figures.accuracy_vs_cost(points, _name(summary.metric))
    return Picture("What it costs", figures.svg(figure), caption)


def _seeds(summary: Summary) -> Picture:
    from mnet_jax import figures

    values = {arm.name: list(arm.values[summary.metric].values()) for arm in summary.arms if arm.n}
    caption = "The seeds of an arm from top to bottom, with mean and 95 % t-interval."
    return Picture("Every run", figures.svg(figures.seeds(values, _name(summary.metric))), caption)


def _spiral(workdir: Path, summary: Summary) -> Picture | None:
    panels = []
    for run in summary.sweep.runs:
        arrays = results.read_arrays(workdir, run.name) if run.seed == 0 else {}
        if "input" in arrays and "output" in arrays:
            panels += [] if panels else [("Input", arrays["input"])]
            panels.append((f"Output/{run.arm}", arrays["output"]))
    if not panels:
        return None
    from mnet_jax import figures

    caption = "The spiral, and what the activation left of it, projected back; seed 0 of every arm."
    return Picture("The spiral", figures.svg(figures.spiral(panels)), caption)
