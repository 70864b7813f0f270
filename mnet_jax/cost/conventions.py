"""What others mean by a network's cost: each published convention as a function of the layers.

3.4 or 3.47 M (its 3,469,760 weights, cut or rounded), 3.5 M and 3.54 M parameters are one MobileNetV2 by three
conventions, and so are 300, 301 and 319 M multiply-adds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from mnet_jax.cost.walk import CONVOLUTIONS, WEIGHTED, Layer

Layers = Sequence[Layer]

RESOLUTIONS = {
    "alexnet": 227,
    "inception_v3": 299,
    "mobilenet_v4_conv_medium": 256,
    "mobilenet_v4_conv_large": 384,
}
"""Networks whose published one is not 224."""


def kind(layer: Layer) -> str:
    """The words of V1's Table 2: "conv 1x1", "depthwise conv 3x3", "dense"; of other layers, their type."""
    return f"{layer.type} {'x'.join(map(str, layer.kernel))}" if layer.type in CONVOLUTIONS else layer.type


def madds(layers: Layers) -> int:
    """Multiply-adds of convolutions and dense layers, zero padding included: the papers'."""
    return sum(layer.madds for layer in layers)


def madds_on_padded_grids(layers: Layers) -> int:
    """Multiply-adds where a dilated convolution is computed by space-to-batch, as the papers' TensorFlow does.

    Height and width of its output are then filled up to multiples of the dilation.
    """
    total = 0
    for layer in layers:
        padded, exact = 1, 1
        for length, rate in zip(layer.output_shape, layer.dilation, strict=False):
            padded, exact = padded * -(-length // rate) * rate, exact * length
        total += layer.madds * padded // exact
    return total


def weights(layers: Layers) -> int:
    """Kernels of convolutions and dense layers: the papers' parameters."""
    return sum(layer.params - layer.biases for layer in layers if layer.type in WEIGHTED)


def weights_and_biases(layers: Layers) -> int:
    """Kernels and biases, without the norms."""
    return sum(layer.params for layer in layers if layer.type in WEIGHTED)


def trainable(layers: Layers) -> int:
    """Also scale and bias of the norms: PyTorch's parameters."""
    return sum(layer.params for layer in layers)


def variables(layers: Layers) -> int:
    """Also the norms' moving mean and variance: Keras' parameters."""
    return sum(layer.params + layer.statistics for layer in layers)


def three_per_norm_channel(layers: Layers) -> int:
    """Kernels, biases and three values for each channel of a norm: the V1 README's; which three is not stated."""
    return trainable(layers) + sum(layer.statistics for layer in layers) // 2


def background_class(layers: Layers) -> list[Layer]:
    """The layers with one more class, as the released checkpoints have it (1001)."""
    last = max(number for number, layer in enumerate(layers) if layer.type == "dense")
    dense = layers[last]
    outputs = dense.outputs
    more = replace(
        dense,
        output_shape=(outputs + 1,),
        madds=dense.madds // outputs * (outputs + 1),
        params=dense.params // outputs * (outputs + 1),
        biases=dense.biases // outputs * (outputs + 1),
    )
    return [*layers[:last], more, *layers[last + 1 :]]


def without_classifier(layers: Layers) -> list[Layer]:
    """The layers without the last dense one."""
    last = max(number for number, layer in enumerate(layers) if layer.type == "dense")
    return [*layers[:last], *layers[last + 1 :]]


def convolutions(layers: Layers) -> list[Layer]:
    """The convolutions alone."""
    return [layer for layer in layers if layer.type in CONVOLUTIONS]


def pooled_elements(layers: Layers) -> int:
    """Elements that pooling reads."""
    return sum(layer.outputs * layer.window for layer in layers if layer.type == "pool")


def elements(layers: Layers, type: str) -> int:
    """Elements that layers of a type write."""
    return sum(layer.outputs for layer in layers if layer.type == type)


CONVENTIONS: Mapping[str, Callable[[Layers], int]] = {
    "MAdds": madds,
    "MAdds on padded grids": madds_on_padded_grids,
    "MAdds without the classifier": lambda layers: madds(without_classifier(layers)),
    "MAdds of convolutions": lambda layers: madds(convolutions(layers)),
    # Figure 5 of the V2 paper, and the table of the V1 README.
    "MAdds and pooled elements, 1001 classes": lambda layers: madds(background_class(layers)) + pooled_elements(layers),
    "MAdds and bias additions": lambda layers: madds(layers) + sum(layer.biases for layer in layers),
    # mmpretrain's "FLOPs".
    "MAdds, 2 a norm element, 1 a ReLU6 and a pooled one, no classifier": lambda layers: (
        madds(without_classifier(layers))
        + 2 * elements(layers, "norm")
        + elements(layers, "activation")
        + pooled_elements(layers)
    ),
    "2 x MAdds": lambda layers: 2 * madds(layers),
    "weights": weights,
    "weights without the classifier": lambda layers: weights(without_classifier(layers)),
    "weights, 1001 classes": lambda layers: weights(background_class(layers)),
    "weights and biases": weights_and_biases,
    "weights, biases, norm scale and bias": trainable,
    "all variables": variables,
    "weights, biases, 3 a norm channel, 1001 classes": lambda layers: three_per_norm_channel(background_class(layers)),
}
"""Every convention that `published.csv` names."""


def shares(layers: Layers) -> dict[str, tuple[int, int]]:
    """Kind of layer -> (multiply-adds, weights), the largest first; without those that have neither (V1 Table 2)."""
    kinds = dict.fromkeys(kind(layer) for layer in layers if layer.type in WEIGHTED or layer.madds)
    of = {name: [layer for layer in layers if kind(layer) == name] for name in kinds}
    totals = {name: (madds(rows), weights(rows)) for name, rows in of.items()}
    return dict(sorted(totals.items(), key=lambda item: item[1], reverse=True))


def largest_tensor(layers: Layers, size: int) -> Layer:
    """The largest tensor of `size` x `size` pixels that a layer makes (V2 Table 3); size 1 is a vector."""
    made = [layer for layer in layers if resolution(layer) == size and layer.type != "unused"]
    return max(made, key=lambda layer: layer.activation_bytes)


def resolution(layer: Layer) -> int:
    """Height of the output, 1 for a vector."""
    return layer.output_shape[0] if len(layer.output_shape) == 3 else 1


def between_blocks(layers: Layers) -> list[Layer]:
    """The layers without those inside of a block, whose output can be computed in parts (V2 section 5.1)."""
    inside = (".expand", ".depthwise", ".reduce")
    return [layer for layer in layers if not layer.name.endswith(inside)]
