"""The networks that the MobileNet papers compare with, each a file that cites its paper.

Each is built from a `specs.ZooNetwork` and is called as `models.build` says; depth, padding and activations are the
published ones, and the normalization, initialization and dropout are the config's.
"""

from collections.abc import Callable, Mapping

from flax import nnx

from mnet_jax.models.zoo.alexnet import AlexNet
from mnet_jax.models.zoo.googlenet import GoogLeNet
from mnet_jax.models.zoo.inception_v3 import InceptionV3
from mnet_jax.models.zoo.nasnet_a_mobile import NASNetAMobile
from mnet_jax.models.zoo.resnet import ResNet50, SEResNet50
from mnet_jax.models.zoo.shufflenet import ShuffleNet
from mnet_jax.models.zoo.squeezenet import SqueezeNet
from mnet_jax.models.zoo.vgg16 import VGG16

NETWORKS: Mapping[str, Callable[..., nnx.Module]] = {
    "alexnet": AlexNet,
    "googlenet": GoogLeNet,
    "inception_v3": InceptionV3,
    "nasnet_a_mobile": NASNetAMobile,
    "resnet50": ResNet50,
    "se_resnet50": SEResNet50,
    "shufflenet": ShuffleNet,
    "squeezenet": SqueezeNet,
    "vgg16": VGG16,
}
