"""What the command line and the papers' tables name, ready to be counted: a network, or a detector on one."""

from collections.abc import Mapping
from typing import Any

from flax import nnx

from mnet_jax import config
from mnet_jax.cost import conventions
from mnet_jax.models import specs
from mnet_jax.tasks import TASKS
from mnet_jax.tasks.detection import HEADS

DETECTORS = {f"{head}_{network}": (head, network) for head in HEADS for network in specs.NETWORKS}
"""Name, such as "ssdlite_mobilenet_v2" -> (`detection.head`, `model.name`)."""

CLASSES = 81
"""Of a detector where none are given: COCO's and the background."""

SIDE = 320
"""Height and width of a detector's images where none are given (Sandler et al. 2018, Table 6)."""


def side_of(name: str) -> int:
    """The published height and width of the images."""
    return SIDE if name in DETECTORS else conventions.RESOLUTIONS.get(name, 224)


def countable(name: str, fields: Mapping[str, Any], where: str = "cost") -> Any:
    """What `cost.count` takes: `cfg.model` of a network, or the module of a detector.

    `fields` are those of the config's section `model`, and of a detector also of `detection`, by their last words, as
    strings or values; UserError for others.
    """
    cfg = config.default()
    head, network = DETECTORS.get(name, ("", name))
    settings = {"model.name": network}
    if head:
        settings |= {"task": "detection", "detection.head": head, "model.num_classes": CLASSES}
    for field, value in fields.items():
        section = "detection" if head and f"detection.{field}" in config.FIELDS else "model"
        settings[f"{section}.{field}"] = value
    config.override(cfg, settings, where)
    if not head:
        return cfg.model
    cfg.model.formulation, cfg.model.norm.group, cfg.train.label_smoothing = "lax", 0, 0.0
    config.check(cfg, where)
    return nnx.eval_shape(lambda: TASKS["detection"].build(cfg, nnx.Rngs(0)))
