"""The config, and what experiment files are written with.

An experiment file defines `get_config(scale)`, usually `at_scale(scale)` with a few lines changed; `sweep(config)`, a
generator of overrides `{"model.project_act": "relu6"}` with the keys of the command line; and `claim`, what the paper
says, with the contrasts that decide. What else it may define is in `mnet_jax/experiment.py`.
"""

from mnet_jax.config.arms import at_highest, at_resolution, multipliers, rows, tuned
from mnet_jax.config.claims import Claim, Contrast, equivalent, greater, interaction, off_line, straight, trend
from mnet_jax.config.scales import OF_TASK, SCALES, at_scale
from mnet_jax.config.settings import (
    add_fields,
    check,
    default,
    field_error,
    fields_of,
    flatten,
    override,
    static_fields,
    traced_values,
    unflatten,
    without_traced,
)
from mnet_jax.config.table import EXECUTION, FIELDS, NOT_PROGRAM, PLANNING, TUNING_SEED
from mnet_jax.fields import COUNT, FRACTION, NONNEGATIVE, POSITIVE, Field, Range
from mnet_jax.tasks import Metric, Task

__all__ = [
    "COUNT",
    "EXECUTION",
    "FIELDS",
    "FRACTION",
    "NONNEGATIVE",
    "NOT_PROGRAM",
    "OF_TASK",
    "PLANNING",
    "POSITIVE",
    "SCALES",
    "TUNING_SEED",
    "Claim",
    "Contrast",
    "Field",
    "Metric",
    "Range",
    "Task",
    "add_fields",
    "at_highest",
    "at_resolution",
    "at_scale",
    "check",
    "default",
    "equivalent",
    "field_error",
    "fields_of",
    "flatten",
    "greater",
    "interaction",
    "multipliers",
    "off_line",
    "override",
    "rows",
    "static_fields",
    "straight",
    "traced_values",
    "trend",
    "tuned",
    "unflatten",
    "without_traced",
]
