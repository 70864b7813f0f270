"""What MobileNets cost that share blocks: each block is counted once, in the first network that has it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from flax import nnx

from mnet_jax.cost.count import Cost
from mnet_jax.models import specs, weights
from mnet_jax.models.mobilenet import MobileNet


@dataclass
class Count:
    """What a plan keeps of a network, or of a part of it.

    `shapes`  of all weights by name, in a part by the name inside of it.
    `madds`   multiply-adds of an image in an evaluation.
    `params`  trainable parameters.
    """

    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    madds: int = 0
    params: int = 0


def count_of(network: nnx.Module, cost: Cost) -> Count:
    """What a network as it was counted costs."""
    shapes = {name: tuple(value.shape) for name, value in weights.flatten(*weights.split(network)[1:]).items()}
    return Count(shapes, cost.madds, cost.params_trainable)


class Parts:
    """The parts of the MobileNets that were counted: stem, blocks, and what follows them."""

    def __init__(self) -> None:
        self.known: dict[Any, Count] = {}

    def learn(self, net: specs.Network | specs.ZooNetwork, shape: tuple[int, ...], network: Any, cost: Cost) -> None:
        """Keeps what the parts of a network cost, which was built from `net` and counted on images of this shape."""
        if type(network) is not MobileNet or not isinstance(net, specs.Network):
            return
        counts = {part: Count() for part in _parts(net, shape)}
        for layer in cost.layers:
            counts[_place(layer.name)[0]].madds += layer.madds
        trainable, statistics = map(weights.flatten, weights.split(network)[1:])
        for name, value in {**trainable, **statistics}.items():
            part, inside = _place(name)
            counts[part].shapes[inside] = tuple(value.shape)
            counts[part].params += math.prod(value.shape) if name in trainable else 0
        self.known |= {key: counts[part] for part, key in _parts(net, shape).items()}

    def total(self, net: specs.Network | specs.ZooNetwork, shape: tuple[int, ...]) -> Count | None:
        """What the network of `net` costs; None where a part of it was in no network that was learned."""
        if not isinstance(net, specs.Network):
            return None
        total = Count()
        for part, key in _parts(net, shape).items():
            if key not in self.known:
                return None
            of_part = self.known[key]
            total.shapes |= {part + name: size for name, size in of_part.shapes.items()}
            total.madds += of_part.madds
            total.params += of_part.params
        return total


def _parts(net: specs.Network, shape: tuple[int, ...]) -> Mapping[str, Any]:
    """The prefix of a part's names -> all that its weights and cost depend on: equal keys, equal counts.

    The size of a block's input follows from that of the images and from the windows of all that stands before it.
    """
    common = replace(net, stem=(0, 0), blocks=(), last=0, features=0, num_classes=0), shape
    channels, stride = net.stem
    parts: dict[str, Any] = {"stem": (common, net.stem)}
    before: tuple[Any, ...] = (stride,)
    for number, block in enumerate(net.blocks):
        parts[f"blocks.{number}"] = common, before, channels, block
        before = (*before, (block.stride, block.kernel_size, block.dilation))
        channels = block.channels
    return {**parts, "": (common, before, channels, net.last, net.features, net.num_classes)}


def _place(name: str) -> tuple[str, str]:
    """The part that a layer's or a weight's name belongs to, and the rest of the name."""
    words = name.split("/")[0].split(".")
    length = {"stem": 1, "blocks": 2}.get(words[0], 0)
    part = ".".join(words[:length])
    return part, name.removeprefix(part)
