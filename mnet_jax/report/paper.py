"""Tables for a paper: LaTeX of the words, CSV of the numbers."""

import csv
import io
import math
import re
from collections.abc import Sequence
from typing import Any

from mnet_jax.report.summary import Summary
from mnet_jax.report.tables import Table


def to_latex(table: Table) -> str:
    r"""A table as wide as the line at most, for a paper that loads booktabs and graphicx."""
    columns = "l" + "r" * (len(table.header) - 1)
    lines = [" & ".join(map(_latex, row)) + r" \\" for row in (table.header, *table.rows)]
    begin = [f"% {table.title}. {table.note}", rf"{FIT}\begin{{tabular}}{{{columns}}}"]
    begin += [r"\toprule", lines[0], r"\midrule"]
    return "\n".join([*begin, *lines[1:], r"\bottomrule", r"\end{tabular}}", ""])


FIT = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{"
"""Scales a table down that is wider than the line, and leaves others as they are."""

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
    differences = {comparison.arm.name: comparison.differences for comparison in summary.comparisons}
    lines = []
    for arm in summary.arms:
        for metric in summary.metrics:
            one, other = arm.estimate(metric), differences.get(arm.name, {}).get(metric.name)
            numbers = [one.n, one.mean, one.sd, one.low, one.high]
            numbers += [other.n, other.mean, other.low, other.high, other.p] if other else [math.nan] * 5
            lines.append([arm.title, metric.name, *numbers])
    return _csv([header.split(","), *lines])


def runs_csv(summary: Summary) -> str:
    """A line for each finished run: arm, seed and every metric as it counts, in printed units."""
    lines = [
        [arm.title, seed, *(arm.values[metric.name].get(seed, math.nan) for metric in summary.metrics)]
        for arm in summary.arms
        for seed in arm.values[summary.metric.name]
    ]
    return _csv([["arm", "seed", *(metric.name for metric in summary.metrics)], *lines])


def _csv(lines: Sequence[Sequence[Any]]) -> str:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([_cell(cell) for cell in line] for line in lines)
    return file.getvalue()


def _cell(cell: Any) -> Any:
    """A number to 6 digits, nan as nothing; a text that a spreadsheet would take for a formula is quoted."""
    if isinstance(cell, str):
        return f"'{cell}" if cell[:1] in ("=", "+", "-", "@", "\t", "\r") else cell
    return cell if not isinstance(cell, float) else "" if math.isnan(cell) else f"{cell:.6g}"
