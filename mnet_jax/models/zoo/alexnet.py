"""AlexNet: Krizhevsky et al., ImageNet Classification with Deep Convolutional Neural Networks, 2012, Figure 2."""

import jax
from flax import nnx

from mnet_jax.models.init import INITS
from mnet_jax.models.layers import RELU, Conv, Dense, local_response_norm, max_pool
from mnet_jax.models.specs import ZooNetwork


class AlexNet(nnx.Module):
    """Two towers (the paper's two GPUs) that meet at the third convolution, for images of 227 pixels.

    The paper prints 224, with which its first layer has no 55 x 55 outputs.
    """

    def __init__(self, net: ZooNetwork):
        config, std = net.layer_config, INITS[net.layer_config.init].std
        self.conv1 = Conv(config, "dense", net.in_channels, 96, 11, 4, padding="valid")
        self.conv2 = Conv(config, "dense", 96, 256, 5, groups=2)
        self.conv3 = Conv(config, "dense", 256, 384, 3)
        self.conv4 = Conv(config, "dense", 384, 384, 3, groups=2)
        self.conv5 = Conv(config, "dense", 384, 256, 3, groups=2)
        self.fc6 = Dense(6 * 6 * 256, 4096, std(6 * 6 * 256))
        self.fc7 = Dense(4096, 4096, std(4096))
        self.dropout = nnx.Dropout(net.dropout)
        self.classifier = Dense(4096, net.num_classes)

    def __call__(self, images_BHWC, knobs=None, rngs=None) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns logits_BK and the endpoints "conv1".."conv5" (before norm and pooling), "fc6", "fc7"."""
        endpoints = {}
        x = endpoints["conv1"] = self.conv1(images_BHWC, RELU)
        x = max_pool(local_response_norm(x), 3, 2, "valid")
        x = endpoints["conv2"] = self.conv2(x, RELU)
        x = max_pool(local_response_norm(x), 3, 2, "valid")
        x = endpoints["conv3"] = self.conv3(x, RELU)
        x = endpoints["conv4"] = self.conv4(x, RELU)
        x = endpoints["conv5"] = self.conv5(x, RELU)
        x = max_pool(x, 3, 2, "valid").reshape(x.shape[0], -1)
        x = endpoints["fc6"] = self.fc6(self.dropout(x, rngs=rngs), RELU)
        x = endpoints["fc7"] = self.fc7(self.dropout(x, rngs=rngs), RELU)
        return self.classifier(x), endpoints
