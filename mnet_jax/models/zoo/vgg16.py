"""VGG-16: Simonyan and Zisserman, Very Deep Convolutional Networks, 2015 (arXiv 1409.1556), Table 1, column D."""

import jax
from flax import nnx

from mnet_jax.models.init import INITS
from mnet_jax.models.layers import RELU, Conv, Dense, max_pool
from mnet_jax.models.specs import ZooNetwork

STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""(channels, convolutions); each stage ends in a 2x2 pooling."""


class VGG16(nnx.Module):
    """Thirteen 3x3 convolutions and three dense layers, the first on maps of `side` x `side` (7: images of 224)."""

    def __init__(self, net: ZooNetwork, side: int = 7):
        channels, std = net.in_channels, INITS[net.layer_config.init].std
        self.stages = nnx.List()
        for outputs, repeats in STAGES:
            self.stages.append(nnx.List())
            for _ in range(repeats):
                self.stages[-1].append(Conv(net.layer_config, "dense", channels, outputs, 3))
                channels = outputs
        self.fc1 = Dense(side * side * channels, 4096, std(side * side * channels))
        self.fc2 = Dense(4096, 4096, std(4096))
        self.dropout = nnx.Dropout(net.dropout)
        self.classifier = Dense(4096, net.num_classes)

    def __call__(self, images_BHWC, knobs=None, rngs=None) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns logits_BK and the endpoints "stage1".."stage5" (before pooling), "fc1", "fc2"."""
        x, endpoints = images_BHWC, {}
        for number, stage in enumerate(self.stages, 1):
            for conv in stage:
                x = conv(x, RELU)
            endpoints[f"stage{number}"] = x
            x = max_pool(x, 2, 2, "valid")
        x = endpoints["fc1"] = self.fc1(x.reshape(x.shape[0], -1), RELU)
        x = endpoints["fc2"] = self.fc2(self.dropout(x, rngs=rngs), RELU)
        return self.classifier(self.dropout(x, rngs=rngs)), endpoints
