"""Tables for a paper: LaTeX of the words, CSV of the numbers."""

import csv
import io
import math
import re
from collections.abc import Sequence
from typing import Any

from mnet_jax.report.summary import Summary
from mnet_jax.report.words import Table


def to_latex(table: Table) -> str:
    """A tabular for a paper that uses booktabs."""
    columns = "l" + "r" * (len(table.header) - 1)
    lines = [" & ".join(map(_latex, row)) + r" \\" for row in (table.header, *table.rows)]
    begin = [f"% {table.title}. {table.note}", rf"\begin{{tabular}}{{{columns}}}", r"\toprule", lines[0], r"\midrule"]
    return "\n".join([*begin, *lines[1:], r"\bottomrule", r"\end{tabular}", ""])


LATEX = {special: f"\\{special}" for special in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "±": r"$\pm$",
    "−": "$-$",
    "–": "--",
}


def _latex(cell: str) -> str:
    escaped = "".join(LATEX.get(letter, letter) for letter in cell)
    return re.sub(r"(?<![\w.])-(?=\d)", "$-$", escaped)


def arms_csv(summary: Summary) -> str:
    """A line for each arm and metric: n, mean, sd and interval, of the arm and of its difference from the baseline."""
    header = "arm,metric,n,mean,sd,low,high,pairs,difference,difference_low,difference_high,p"
    against = {comparison.arm.name: comparison.differences for comparison in summary.comparisons}
    lines = []
    for arm in summary.arms:
        for metric in summary.metrics:
            found, other = arm.estimate(metric), against.get(arm.name, {}).get(metric)
            numbers = [found.n, found.mean, found.sd, found.low, found.high]
            numbers += [other.n, other.mean, other.low, other.high, other.p] if other else [math.nan] * 5
            lines.append([arm.name, metric, *numbers])
    return _csv([header.split(","), *lines])


def runs_csv(summary: Summary) -> str:
    """A line for each finished run: arm, seed and every metric, a diverged one at chance level."""
    lines = [
        [arm.name, seed, *(arm.values[metric].get(seed, math.nan) for metric in summary.metrics)]
        for arm in summary.arms
        for seed in arm.values[summary.metric]
    ]
    return _csv([["arm", "seed", *summary.metrics], *lines])


def _csv(lines: Sequence[Sequence[Any]]) -> str:
    file = io.StringIO()
    shown = [
        ["" if cell != cell else f"{cell:.6g}" if isinstance(cell, float) else cell for cell in line] for line in lines
    ]
    csv.writer(file, lineterminator="\n").writerows(shown)
    return file.getvalue()


def _cell(cell: Any) -> Any:
    """A number to 6 digits, nan as nothing."""
    return cell if not isinstance(cell, float) else "" if math.isnan(cell) else f"{cell:.6g}"
