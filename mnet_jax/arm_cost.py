"""What the network of an arm costs, counted before anything is trained, and whether it fits the data."""

import functools
import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mnet_jax import config
from mnet_jax.arms import arm_config
from mnet_jax.errors import UserError
from mnet_jax.experiment import Code, Experiment
from mnet_jax.fields import LARGEST
from mnet_jax.models import specs
from mnet_jax.results import Arm

if TYPE_CHECKING:
    from mnet_jax.cost.parts import Parts
    from mnet_jax.data.dataset import Dataset


def with_costs(arms: dict[str, Arm], base: Mapping[str, Any], experiment: Experiment, where: str) -> dict[str, Arm]:
    """Adds what an arm costs and the digest of its network, and checks the network against the data.

    A network is counted once for all arms that have it on images of one size, and a block of the MobileNets once for
    all networks.
    """
    from mnet_jax.cost.parts import Parts

    counted: dict[Any, tuple[str, dict[str, float]]] = {}
    parts = Parts()
    costed, shown = {}, time.monotonic()
    for number, (name, arm) in enumerate(arms.items()):
        cfg = arm_config(base, arm)
        try:
            key = _network_key(cfg, experiment)
            if key not in counted:
                counted[key] = _count(cfg, experiment.code, parts)
            network, cost = counted[key]
            costed[name] = replace(arm, network=network, cost={**cost, "images": _images(cfg, experiment.code)})
        except UserError as error:
            raise UserError(f"{where}, arm {name}: {error}") from error
        if time.monotonic() - shown > PROGRESS_SECONDS:
            shown = time.monotonic()
            logging.info("%s: %d of %d arms are counted, %d networks", where, number + 1, len(arms), len(counted))
    return costed


PROGRESS_SECONDS = 10.0
"""Between two lines that say how far a long plan is."""


def _network_key(cfg: Any, experiment: Experiment) -> Any:
    """Equal for configs whose networks have the same weights and cost."""
    data, flat = cfg.data, config.flatten(cfg)
    images = (data.source, data.dir, data.size, data.resolution, data.train_split, data.test_split)
    if experiment.code:
        return tuple(value for name, value in flat.items() if name not in config.NOT_PROGRAM)
    of_task = tuple(flat[name] for name in experiment.code.task_of(cfg).fields)
    return (specs.resolve(cfg.model), cfg.task, of_task, *images)


def _images(cfg: Any, code: Code) -> int:
    """How many images a run trains on; UserError where the images are too few, or the steps too many."""
    from mnet_jax.data import dataset

    data, batch_size = cfg.data, cfg.train.batch_size
    steps = _steps_per_epoch(planned_dataset(cfg, code), batch_size, *dataset.sizes(data))
    if cfg.train.epochs * steps > LARGEST:
        raise UserError(f"train.epochs={cfg.train.epochs} of {steps} steps each; allowed: {LARGEST:,} steps in all")
    return cfg.train.epochs * steps * batch_size


def _count(cfg: Any, code: Code, parts: "Parts") -> tuple[str, dict[str, float]]:
    """The digest of the network's weights, and what an image costs."""
    from flax import nnx

    from mnet_jax import cost
    from mnet_jax.cost.parts import count_of
    from mnet_jax.models import weights

    task, dataset = code.task_of(cfg), planned_dataset(cfg, code)
    *_, channels = dataset.shape
    if cfg.model.in_channels != channels:
        raise UserError(f"model.in_channels={cfg.model.in_channels}; {dataset.name} needs {channels}")
    task.check_data(cfg, dataset)
    shape = (*image_size(cfg, dataset), channels)
    cfg.model.formulation, cfg.model.dtype, cfg.model.act_bits = "lax", "float32", 0  # what the counter knows
    net = specs.resolve(cfg.model)
    total = None if code else parts.total(net, shape)
    if total is None:
        network = nnx.eval_shape(lambda: task.build(cfg, nnx.Rngs(0)))
        counted = cost.count(network, input_shape=shape)
        total = count_of(network, counted)
        parts.learn(net, shape, network, counted)
    of_image: dict[str, float] = {"resolution": shape[0], "madds": total.madds, "params": total.params}
    return weights.fingerprint_of_shapes(total.shapes), of_image


def fit_to_data(cfg: Any, code: Code) -> None:
    """Sets the numbers of classes and channels that the config leaves to the data, as 0."""
    model = cfg.model
    if not (model.num_classes and model.in_channels):
        dataset = planned_dataset(cfg, code)
        model.num_classes = model.num_classes or dataset.classes
        model.in_channels = model.in_channels or dataset.shape[-1]


def planned_dataset(cfg: Any, code: Code) -> "Dataset":
    """The data set of a config, of which a plan needs no image."""
    from mnet_jax.data import load

    return code.load_dataset(cfg.data) if code.dataset else load.metadata(cfg.data)


def image_size(cfg: Any, dataset: Any) -> tuple[int, int]:
    """Height and width of the images that the network sees."""
    side = cfg.data.size or cfg.data.resolution
    return (side, side) if side else dataset.shape[:2]


@functools.cache
def _steps_per_epoch(dataset: "Dataset", batch_size: int, *sizes: Any) -> int:
    from mnet_jax.data import dataset as sets

    split = sets.split(dataset, 0, *sizes)
    return len(sets.epoch_order(0, 0, split.train, batch_size))
