"""SSD's head (Liu et al. 2016), and SSDLite's, whose convolutions are depthwise separable (Sandler et al. 2018, 6.2).

Shape letters: B images, h w height and width of a feature map, C channels, a anchors of a pixel, K classes with the
background.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from mnet_jax.models import specs
from mnet_jax.models.init import kernel
from mnet_jax.models.layers import LINEAR, Conv, ConvNorm
from mnet_jax.models.specs import LayerConfig

PREDICTOR_STD = 0.03
"""Standard deviation of the predictors' initial kernels (the released detectors')."""

RELU6 = specs.ACTIVATIONS["relu6"]

Predictions = list[tuple[jax.Array, jax.Array]]
"""Of each map, the finest first: logits [B, h, w, a, K], and offsets from the anchors [B, h, w, a, 4]."""


class Predictor(nnx.Module):
    """Outputs of each anchor from a feature map: a convolution with a bias and without norm."""

    def __init__(self, config: LayerConfig, head: str, inputs: int, anchors: int, outputs: int):
        if head == "ssdlite":
            self.depthwise = ConvNorm(config, "depthwise", inputs, inputs, 3)
        size = 3 if head == "ssd" else 1
        kind, shape = ("dense", (3, 3)) if head == "ssd" else ("pointwise", ())
        self.anchors = anchors
        self.predict = Conv(config, kind, inputs, anchors * outputs, size)
        self.predict.kernel = kernel((*shape, inputs, anchors * outputs), PREDICTOR_STD)

    def __call__(self, x_BhwC: jax.Array) -> jax.Array:
        """Returns y_BhwaO in float32, or in the map's type where that is wider."""
        if hasattr(self, "depthwise"):
            x_BhwC = self.depthwise(x_BhwC, RELU6)
        y_BhwC = self.predict(x_BhwC, LINEAR)
        y_BhwC = y_BhwC.astype(jnp.promote_types(y_BhwC.dtype, jnp.float32))
        return y_BhwC.reshape(*y_BhwC.shape[:3], self.anchors, -1)


class Extra(nnx.Module):
    """A further feature map of half the size: a 1x1 convolution to half the channels, and a 3x3 one with stride 2."""

    def __init__(self, config: LayerConfig, head: str, inputs: int, channels: int):
        half = channels // 2
        self.reduce = ConvNorm(config, "pointwise", inputs, half)
        if head == "ssdlite":
            self.depthwise = ConvNorm(config, "depthwise", half, half, 3, 2)
            self.pointwise = ConvNorm(config, "pointwise", half, channels)
        else:
            self.dense = ConvNorm(config, "dense", half, channels, 3, 2)

    def __call__(self, x_BhwC: jax.Array) -> jax.Array:
        """Returns y_BhwC of half the height and width, rounded up."""
        x_BhwC = self.reduce(x_BhwC, RELU6)
        if hasattr(self, "dense"):
            return self.dense(x_BhwC, RELU6)
        return self.pointwise(self.depthwise(x_BhwC, RELU6), RELU6)


class Ssd(nnx.Module):
    """Predictors of classes and offsets on some of a backbone's feature maps and on further ones behind them.

    Args:
      config: of the layers.
      head: its convolutions: "ssdlite" (separable 3x3), "ssd" (3x3), or "ssd_1x1" (3x3 between the maps and 1x1 in the
        predictors, as in the released detectors on V1).
      channels: of the backbone's maps that the head is on, the finest first.
      extras: channels of the further maps.
      anchors: around a pixel of each map, one for each map.
      classes: with the background.
    """

    def __init__(
        self,
        config: LayerConfig,
        head: str,
        channels: Sequence[int],
        extras: Sequence[int],
        anchors: Sequence[int],
        classes: int,
    ):
        befores = (channels[-1], *extras)
        pairs = zip(befores, extras, strict=False)
        self.extras = nnx.List([Extra(config, head, before, after) for before, after in pairs])
        inputs = list(zip((*channels, *extras), anchors, strict=True))
        self.classes = nnx.List([Predictor(config, head, inner, count, classes) for inner, count in inputs])
        self.boxes = nnx.List([Predictor(config, head, inner, count, 4) for inner, count in inputs])

    def __call__(self, features: Sequence[jax.Array]) -> Predictions:
        """Takes the backbone's maps, [B, h, w, C] each."""
        features = list(features)
        for extra in self.extras:
            features.append(extra(features[-1]))
        predictors = zip(features, self.classes, self.boxes, strict=True)
        return [(classes(x_BhwC), boxes(x_BhwC)) for x_BhwC, classes, boxes in predictors]


class Detector(nnx.Module):
    """A backbone without classifier, and a head on the feature maps that `taps` name."""

    def __init__(self, backbone: nnx.Module, head: Ssd, taps: Sequence[str]):
        self.backbone, self.head, self.taps = backbone, head, tuple(taps)

    def __call__(
        self, images_BHWC: jax.Array, knobs: Any = None, rngs: nnx.Rngs | None = None
    ) -> tuple[Predictions, dict[str, jax.Array]]:
        """Returns the predictions of each map and the backbone's feature maps by name."""
        _, endpoints = self.backbone(images_BHWC, knobs=knobs, rngs=rngs)  # pyrefly: ignore
        return self.head([endpoints[tap] for tap in self.taps]), endpoints
