"""ShuffleNet v1: Zhang et al., ShuffleNet: An Extremely Efficient CNN for Mobile Devices, 2018 (arXiv 1707.01083)."""

import jax
import jax.numpy as jnp
from flax import nnx

from mnet_jax.errors import UserError
from mnet_jax.models.layers import LINEAR, RELU, ConvNorm, Dense, activate, average_pool, global_mean, max_pool
from mnet_jax.models.specs import LayerConfig, ZooNetwork

CHANNELS = {1: 144, 2: 200, 3: 240, 4: 272, 8: 384}
"""groups -> outputs of stage 2 at scale 1, which double in stages 3 and 4 (Table 1)."""

STEM = {0.25: 12, 0.5: 16, 1.0: 24, 1.5: 24, 2.0: 48}
"""scale -> channels of the first convolution.

Table 1 prints 24 for scale 1. The others are those whose multiply-adds are nearest to the printed ones (24 at 1.5 and
48 at 2, as in the released code, reproduce them; at 0.5 the code has 12 with 3 groups, 16 with 8).
"""


def stem_channels(width: float, groups: int) -> int:
    """Channels of the first convolution; a multiple of the groups, since a unit of stride 2 concatenates them."""
    if (width, groups) == (0.5, 3):
        return 12
    return max(1, int(STEM.get(width, 24 * width)) // groups) * groups


def shuffle(x_BHWC: jax.Array, groups: int) -> jax.Array:
    """Takes a channel of each group in turn, so that the next grouped convolution sees all groups (Figure 1c)."""
    B, H, W, C = x_BHWC.shape
    return x_BHWC.reshape(B, H, W, groups, C // groups).swapaxes(3, 4).reshape(B, H, W, C)


class Unit(nnx.Module):
    """Grouped 1x1, shuffle, depthwise 3x3, grouped 1x1 (section 3.2, Figure 2b).

    With stride 2 the input, averaged over 3x3, is concatenated in the place of the sum (Figure 2c). The bottleneck has
    a quarter of the outputs, down to a multiple of the groups. With `first` the first 1x1 is not grouped.
    """

    def __init__(self, config: LayerConfig, inputs: int, outputs: int, stride: int, groups: int, first: bool):
        bottleneck = outputs // 4 // groups * groups
        branch = outputs - inputs if stride == 2 else outputs
        if bottleneck < 1 or branch < 1 or branch % groups or (not first and inputs % groups):
            raise UserError(
                f"ShuffleNet: a unit from {inputs} to {outputs} channels with model.groups={groups}; allowed: "
                "groups that divide both, four times as many outputs at least, and more outputs than inputs at stride 2"
            )
        self.groups, self.stride = groups, stride
        self.reduce = ConvNorm(config, "dense", inputs, bottleneck, groups=1 if first else groups)
        self.depthwise = ConvNorm(config, "depthwise", bottleneck, bottleneck, 3, stride)
        self.expand = ConvNorm(config, "dense", bottleneck, branch, groups=groups)

    def __call__(self, x_BHWC: jax.Array) -> jax.Array:
        """Returns y_BHWC."""
        y_BHWC = self.depthwise(shuffle(self.reduce(x_BHWC, RELU), self.groups), LINEAR)
        y_BHWC = self.expand(y_BHWC, LINEAR)
        if self.stride == 1:
            return activate(x_BHWC + y_BHWC, RELU)
        shortcut_BHWC = average_pool(x_BHWC, 3, self.stride, self.expand.padding)
        return activate(jnp.concatenate([shortcut_BHWC, y_BHWC], -1), RELU)


class ShuffleNet(nnx.Module):
    """Stem, pooling, three stages of shuffle units, classifier (Table 1); `net.blocks` rows are stages (c, n, s)."""

    def __init__(self, net: ZooNetwork):
        width, groups, first = net.width, net.groups, CHANNELS[net.groups]
        rows = net.blocks or ((first, 4, 2), (2 * first, 8, 2), (4 * first, 4, 2))
        channels, stride = net.stem or (stem_channels(width, groups), 2)
        self.stem = ConvNorm(net.layer_config, "dense", net.in_channels, channels, 3, stride)
        self.stages = nnx.List()
        for outputs, repeats, stride in rows:
            outputs = int(outputs * width) // groups * groups if width != 1 else outputs
            self.stages.append(nnx.List())
            for repeat in range(repeats):
                step, whole = (stride, len(self.stages) == 1) if repeat == 0 else (1, False)
                self.stages[-1].append(Unit(net.layer_config, channels, outputs, step, groups, whole))
                channels = outputs
        self.dropout = nnx.Dropout(net.dropout)
        self.classifier = Dense(channels, net.num_classes)

    def __call__(self, images_BHWC, knobs=None, rngs=None) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns logits_BK and the endpoints "stem", "stage2".."stage4", "pooled"."""
        endpoints = {}
        x = endpoints["stem"] = self.stem(images_BHWC, RELU)
        x = max_pool(x, 3, 2, self.stem.padding)
        for number, stage in enumerate(self.stages, 2):
            for unit in stage:
                x = unit(x)
            endpoints[f"stage{number}"] = x
        x = endpoints["pooled"] = global_mean(x)
        return self.classifier(self.dropout(x, rngs=rngs)), endpoints
