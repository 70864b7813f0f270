"""MobileNetV2 as rows, for those who build it from the layers of their library."""

from collections.abc import Iterator
from typing import Any, NamedTuple


class Layer(NamedTuple):
    """Convolution, batch norm, and ReLU6 where `act`."""

    inputs: int
    outputs: int
    size: int = 1
    stride: int = 1
    groups: int = 1
    act: bool = True


def blocks(net: Any) -> Iterator[tuple[list[Layer], bool]]:
    """(layers, whether their input is added to their output) of a `specs.Network`: stem, blocks, head."""
    channels, stride = net.stem
    yield [Layer(net.in_channels, channels, 3, stride)], False
    for block in net.blocks:
        wide = block.expanded
        expand = [Layer(channels, wide)] if block.expand else []
        depthwise = Layer(wide, wide, net.kernel_size, block.stride, wide)
        residual = block.stride == 1 and channels == block.channels
        yield [*expand, depthwise, Layer(wide, block.channels, act=False)], residual
        channels = block.channels
    yield [Layer(channels, net.last)], False
