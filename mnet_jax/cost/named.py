"""What the command line and the papers' tables name, ready to be counted: a network, or a head on one."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from flax import nnx

from mnet_jax import config
from mnet_jax.cost import conventions
from mnet_jax.models import specs
from mnet_jax.tasks import TASKS, detection


class Headed(NamedTuple):
    """A task's network: the fields that its name stands for, and the published height and width of its images."""

    task: str
    fields: Mapping[str, Any]
    side: int


_COCO = {"model.num_classes": 81}  # with the background
_VOC = {"model.num_classes": 21, "model.output_stride": 16}

HEADS = {
    **{head: Headed("detection", {"detection.head": head, **_COCO}, 320) for head in detection.HEADS},
    "deeplab": Headed("segmentation", {"segmentation.head": "reduced", **_VOC}, 513),
    "deeplab_aspp": Headed("segmentation", {"segmentation.head": "aspp", **_VOC}, 513),
}
"""As in Tables 5 to 7 of Sandler et al. 2018."""

HEADED = {
    f"{head}_{network}": Headed(headed.task, {**headed.fields, "model.name": network}, headed.side)
    for head, headed in HEADS.items()
    for network in specs.NETWORKS
}
"""Name, such as "ssdlite_mobilenet_v2" or "deeplab_mobilenet_v2" -> what it stands for."""

FIELDS = tuple(
    f"{section}.{name}"
    for section, names in (("detection", ("taps", "extras")), ("segmentation", ("rates", "scales", "mirror")))
    for name in names
)
"""Fields of the heads that may be given with a name."""


def side_of(name: str) -> int:
    """The published height and width of the images."""
    return HEADED[name].side if name in HEADED else conventions.RESOLUTIONS.get(name, 224)


def countable(name: str, fields: Mapping[str, Any], where: str = "cost") -> Any:
    """What `cost.count` takes: `cfg.model` of a network, or the module of a network with a head.

    `fields` are those of the config's section `model`, and with a head also of its task, by their last words, as
    strings or values; UserError for others.
    """
    cfg = config.default()
    headed = HEADED.get(name)
    settings = {"task": headed.task, **headed.fields} if headed else {"model.name": name}
    for field, value in fields.items():
        section = headed.task if headed and f"{headed.task}.{field}" in config.FIELDS else "model"
        settings[f"{section}.{field}"] = value
    config.override(cfg, settings, where)
    if not headed:
        return cfg.model
    cfg.model.formulation, cfg.model.norm.group, cfg.train.label_smoothing = "lax", 0, 0.0
    config.check(cfg, where)
    return nnx.eval_shape(lambda: TASKS[headed.task].build(cfg, nnx.Rngs(0)))
