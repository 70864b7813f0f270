"""MobileNetV1 to V4 (Howard et al. 2017; Sandler et al. 2018; Howard et al. 2019; Qin et al. 2024) from a `Network`."""

from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx

from mnet_jax.errors import UserError
from mnet_jax.models import specs
from mnet_jax.models.blocks import BlockClass, block_named
from mnet_jax.models.init import INITS
from mnet_jax.models.layers import ACTIVATIONS, ConvNorm, Dense, global_mean


class MobileNet(nnx.Module):
    """Stem, blocks, the last 1x1 convolution where the network has one, global pooling, classifier.

    V3 has a layer between pooling and classifier (Howard et al. 2019, section 5.1, Figure 5), which in V4 has a norm in
    the place of its bias (Qin et al. 2024, the released code). `blocks` are
    the classes that `net.block` may name; what a block has to offer is said in `models.blocks`. With `until`, the name
    of a block's output or "head", nothing behind it is built, and that feature map is the output.
    """

    def __init__(self, net: specs.Network, blocks: Mapping[str, BlockClass] | None = None, until: str = ""):
        outputs = (*(f"block{number}" for number in range(1, len(net.blocks) + 1)), *(("head",) if net.last else ()))
        if until and until not in outputs:
            raise UserError(f"a network until {until!r}; allowed: {', '.join(outputs)}")
        block_class = block_named(net, blocks or {})
        self.act = ACTIVATIONS[net.act]
        self.project_bounds = None if net.project_act is None else specs.ACTIVATIONS[net.project_act]
        channels, stride = net.stem
        self.stem = ConvNorm(net.layer_config, "dense", net.in_channels, channels, 3, stride)
        self.blocks = nnx.List()
        for block in net.blocks[: outputs.index(until) + 1 if until else None]:
            self.blocks.append(block_class(net, block, channels))
            channels = block.channels
        if net.last and until in ("", "head"):
            self.head = ConvNorm(net.layer_config, "pointwise", channels, net.last)
            channels = net.last
        self.channels = channels
        if until:
            return
        if net.features:
            std = INITS[net.layer_config.init].std(channels)
            if net.family == "v4":
                self.features = ConvNorm(net.layer_config, "pointwise", channels, net.features)
            else:
                self.features = Dense(channels, net.features, std)
            channels = net.features
        self.dropout = nnx.Dropout(net.dropout)
        self.classifier = Dense(channels, net.num_classes)

    def __call__(
        self, images_BHWC: jax.Array, knobs: Any = None, rngs: nnx.Rngs | None = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Runs the network.

        Args:
          images_BHWC: normalized images, float.
          knobs: an object with the attribute `project_act`, (low, high) of the clip behind V2's and V3's projection
            as numbers or traced scalars. It replaces the config's, so that one compiled program serves all its values.
          rngs: needed in training mode where the config has dropout.

        Returns:
          logits_BK, or the feature map `until`, and the feature maps that heads tap: "stem", "block1".. (outputs),
          "block1/expansion", "block1/depthwise".., "head", "pooled", and V3's and V4's "features".

        Raises:
          UserError: no `knobs`, and the config that the network was built from had no `project_act` either.
        """
        project_bounds = self.project_bounds if knobs is None else knobs.project_act
        if project_bounds is None:
            raise UserError(
                "this network was built without model.project_act, and was called without knobs; allowed: a call with "
                "knobs whose project_act is (low, high), or a config that has the field"
            )
        x = self.stem(images_BHWC, self.act)
        endpoints = {"stem": x}
        inner: dict[str, jax.Array] = {}
        for number, block in enumerate(self.blocks, 1):
            x, inner = block(x, project_bounds, inner.get("depthwise"))
            endpoints |= {f"block{number}/{name}": value for name, value in inner.items()}
            endpoints[f"block{number}"] = x
        if hasattr(self, "head"):
            x = endpoints["head"] = self.head(x, self.act)
        if not hasattr(self, "classifier"):
            return x, endpoints
        x = endpoints["pooled"] = global_mean(x)
        if hasattr(self, "features"):
            x = endpoints["features"] = self._features(x)
        return self.classifier(self.dropout(x, rngs=rngs)), endpoints

    def _features(self, x_BC: jax.Array) -> jax.Array:
        if isinstance(self.features, Dense):
            return self.features(x_BC, self.act)
        return self.features(x_BC[:, None, None], self.act)[:, 0, 0]
