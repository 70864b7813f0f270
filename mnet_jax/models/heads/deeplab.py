"""Segmentation heads: Mobile DeepLabv3's, with and without ASPP, and LR-ASPP.

A head takes the feature map of a network that has no classifier, and its logits are enlarged to the image's size.
Shape letters: B images, H W height and width of the image, h w those of the feature map, C channels, K classes.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mnet_jax.models.init import kernel
from mnet_jax.models.layers import LINEAR, RELU, Conv, ConvNorm, global_mean
from mnet_jax.models.specs import LayerConfig

CLASSIFIER_STD = 0.01
"""Standard deviation of the classifier's initial kernel (the released DeepLab code)."""


class DeepLab(nnx.Module):
    """DeepLabv3's head without a decoder (Chen et al. 2017, section 3.3; Sandler et al. 2018, section 6.3).

    Branches of `channels` channels each, all with norm and ReLU: a 1x1 convolution of the pooled map, brought back to
    the map's size; a 1x1 convolution of the map; and for ASPP, a 3x3 convolution for each of `rates`, dilated by it.
    They are joined by a 1x1 convolution, behind which are dropout and the classifier. Without `rates` this is V2's
    reduced head.
    """

    def __init__(
        self, config: LayerConfig, inputs: int, classes: int, channels: int, rates: Sequence[int], dropout: float
    ):
        self.pooled = ConvNorm(config, "pointwise", inputs, channels)
        self.pointwise = ConvNorm(config, "pointwise", inputs, channels)
        self.atrous = nnx.List([ConvNorm(config, "dense", inputs, channels, 3, dilation=rate) for rate in rates])
        self.project = ConvNorm(config, "pointwise", (2 + len(rates)) * channels, channels)
        self.dropout = nnx.Dropout(dropout)
        self.classifier = _classifier(config, channels, classes)

    def __call__(self, x_BhwC: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Returns logits_BhwK."""
        pooled_B11C = global_mean(x_BhwC)[:, None, None].astype(x_BhwC.dtype)
        pooled_B11C = self.pooled(pooled_B11C, RELU)
        pooled_BhwC = jnp.broadcast_to(pooled_B11C, (*x_BhwC.shape[:3], pooled_B11C.shape[-1]))
        branches = [pooled_BhwC, *(layer(x_BhwC, RELU) for layer in (self.pointwise, *self.atrous))]
        joined_BhwC = self.project(jnp.concatenate(branches, -1), RELU)
        return self.classifier(self.dropout(joined_BhwC, rngs=rngs), LINEAR)


class LrAspp(nnx.Module):
    """V3's light head (Howard et al. 2019, section 6.4, Figure 10), gated by the mean of the whole map.

    A 1x1 convolution with norm and ReLU of the last map, times a sigmoid of a 1x1 convolution of the pooled map, is
    brought to the size of an earlier map; the class scores of both are added. The figure pools large windows, which
    small images do not have.
    """

    def __init__(self, config: LayerConfig, inputs: int, earlier: int, classes: int, channels: int):
        self.pointwise = ConvNorm(config, "pointwise", inputs, channels)
        self.gate = Conv(config, "pointwise", inputs, channels, bias=False)
        self.classifier = _classifier(config, channels, classes)
        self.earlier_classifier = _classifier(config, earlier, classes)

    def __call__(self, x_BhwC: jax.Array, earlier_BhwC: jax.Array) -> jax.Array:
        """Returns logits_BhwK of the size of the earlier map."""
        pooled_B11C = global_mean(x_BhwC)[:, None, None].astype(x_BhwC.dtype)
        gated_BhwC = self.pointwise(x_BhwC, RELU) * self.gate(pooled_B11C, jax.nn.sigmoid)
        large_BhwC = resize(gated_BhwC, earlier_BhwC.shape[1:3])
        return self.classifier(large_BhwC, LINEAR) + self.earlier_classifier(earlier_BhwC, LINEAR)


def _classifier(config: LayerConfig, inputs: int, classes: int) -> Conv:
    classifier = Conv(config, "pointwise", inputs, classes)
    classifier.kernel = kernel((inputs, classes), CLASSIFIER_STD)
    return classifier


class Segmenter(nnx.Module):
    """A backbone without classifier, a head on its last map, and logits of the image's size.

    `earlier` names the endpoint that `LrAspp` also takes, "" for `DeepLab`. An evaluation runs the network on the image
    in each of `scales`, with `mirror` also on its mirror image, and averages the probabilities of all passes.
    """

    def __init__(
        self,
        backbone: nnx.Module,
        head: DeepLab | LrAspp,
        earlier: str = "",
        scales: Sequence[float] = (1.0,),
        mirror: bool = False,
    ):
        self.backbone, self.head, self.earlier = backbone, head, earlier
        self.scales, self.mirror = tuple(scales), mirror
        self.deterministic = False

    def __call__(
        self, images_BHWC: jax.Array, knobs: object = None, rngs: nnx.Rngs | None = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns logits_BHWK, or of several passes the logarithms of mean probabilities; and the endpoints."""
        if not self.deterministic or (self.scales == (1.0,) and not self.mirror):
            return self.one_pass(images_BHWC, images_BHWC.shape[1:3], knobs, rngs)
        size, total_BHWK, endpoints = images_BHWC.shape[1:3], None, {}
        for scale in self.scales:
            # An image of n pixels has n - 1 steps between its corners (the released DeepLab code).
            scaled_BHWC = resize(images_BHWC, tuple(int((length - 1) * scale + 1) for length in size))
            for mirrored in (False, True) if self.mirror else (False,):
                logits_BHWK, endpoints = self.one_pass(scaled_BHWC[:, :, :: -1 if mirrored else 1], size, knobs, rngs)
                share_BHWK = jax.nn.softmax(logits_BHWK[:, :, :: -1 if mirrored else 1])
                total_BHWK = share_BHWK if total_BHWK is None else total_BHWK + share_BHWK
        assert total_BHWK is not None
        passes = len(self.scales) * (1 + self.mirror)
        return jnp.log(total_BHWK * (1 / passes) + jnp.finfo(total_BHWK.dtype).tiny), endpoints

    def one_pass(
        self, images_BHWC: jax.Array, size: tuple[int, ...], knobs: object, rngs: nnx.Rngs | None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Logits of images, [B, *size, K] in float32, and the endpoints."""
        x_BhwC, endpoints = self.backbone(images_BHWC, knobs=knobs, rngs=rngs)  # pyrefly: ignore
        second = endpoints[self.earlier] if self.earlier else rngs
        logits_BhwK = self.head(x_BhwC, second)  # pyrefly: ignore
        return resize(logits_BhwK.astype(jnp.promote_types(logits_BhwK.dtype, jnp.float32)), size), endpoints


def resize(x_BhwC: jax.Array, size: Sequence[int]) -> jax.Array:
    """Bilinear, corner pixels on corner pixels (as the released DeepLab code resizes): [B, *size, C]."""
    if x_BhwC.shape[1:3] == tuple(size):
        return x_BhwC
    rows, columns = (
        jnp.asarray(_weights(before, after), x_BhwC.dtype)
        for before, after in zip(x_BhwC.shape[1:3], size, strict=True)
    )
    return jnp.einsum("yh,xw,bhwc->byxc", rows, columns, x_BhwC)


@functools.cache
def _weights(before: int, after: int) -> np.ndarray:
    """Float64 [after, before]: the weight of each old pixel in a new one."""
    places = np.linspace(0, before - 1, after) if after > 1 else np.full(1, (before - 1) / 2)
    return np.maximum(0, 1 - np.abs(places[:, None] - np.arange(before)))
