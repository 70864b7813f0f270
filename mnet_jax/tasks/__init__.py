"""What a run does: one file a task, each a `base.Task` record; an experiment file may bring its own."""

from mnet_jax.tasks import attributes, classification, detection, embedding, segmentation, spiral
from mnet_jax.tasks.base import Metric, Task

__all__ = ["TASKS", "Metric", "Task"]

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        classification.TASK,
        attributes.TASK,
        embedding.TASK,
        segmentation.TASK,
        detection.TASK,
        spiral.TASK,
    )
}
"""The word of the config field `task` -> the task; `mnet_jax.experiment` adds an experiment's own."""
