"""Plain Flax NNX: `nnx.Conv` and `nnx.BatchNorm`, as a Flax user writes the network."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from mnet_jax.bench.contenders.architecture import Layer, blocks
from mnet_jax.bench.contenders.ours import repeat_forward, repeat_step
from mnet_jax.bench.harness import Run
from mnet_jax.bench.regime import Regime
from mnet_jax.models import specs


class ConvNorm(nnx.Module):
    def __init__(self, layer: Layer, rngs: nnx.Rngs):
        size, pad, self.act = layer.size, layer.size // 2, layer.act
        self.conv = nnx.Conv(
            layer.inputs,
            layer.outputs,
            (size, size),
            strides=layer.stride,
            padding=((pad, pad), (pad, pad)),
            feature_group_count=layer.groups,
            use_bias=False,
            rngs=rngs,
        )
        self.norm = nnx.BatchNorm(layer.outputs, rngs=rngs)

    def __call__(self, x_BHWC: Any) -> Any:
        y_BHWC = self.norm(self.conv(x_BHWC))
        return nnx.relu6(y_BHWC) if self.act else y_BHWC


class Network(nnx.Module):
    """A resolved V2, a `specs.Network`."""

    def __init__(self, net: Any):
        rngs = nnx.Rngs(0)
        self.blocks, self.residual = nnx.List(), []
        for layers, residual in blocks(net):
            self.blocks.append(nnx.List([ConvNorm(layer, rngs) for layer in layers]))
            self.residual.append(residual)
        self.classifier = nnx.Linear(net.last, net.num_classes, rngs=rngs)

    def __call__(self, x_BHWC: Any) -> Any:
        for layers, residual in zip(self.blocks, self.residual, strict=True):
            y_BHWC = x_BHWC
            for layer in layers:
                y_BHWC = layer(y_BHWC)
            x_BHWC = x_BHWC + y_BHWC if residual else y_BHWC
        return self.classifier(jnp.mean(x_BHWC, (1, 2)))


def build(regime: Regime) -> Network:
    return Network(specs.network(regime.config().model))


def train(regime: Regime) -> dict[str, Run]:
    graphdef, params, statistics = nnx.split(build(regime), nnx.Param, ...)
    rule = optax.sgd(0.01, momentum=0.9)
    data = jax.device_put(regime.images())

    def step(state: Any, x_BHWC: Any, labels_B: Any) -> Any:
        params, statistics, momentum = state

        def loss(params: Any) -> Any:
            model = nnx.merge(graphdef, params, statistics, copy=True)
            losses_B = optax.softmax_cross_entropy_with_integer_labels(model(x_BHWC), labels_B)
            return losses_B.mean(), nnx.split(model, nnx.Param, ...)[2]

        grads, statistics = jax.grad(loss, has_aux=True)(params)
        updates, momentum = rule.update(grads, momentum, params)
        return optax.apply_updates(params, updates), statistics, momentum

    return {"train": repeat_step(step, (params, statistics, rule.init(params)), *data)}


def infer(regime: Regime) -> dict[str, Run]:
    model = build(regime)
    model.eval()
    graphdef, state = nnx.split(model)
    return {"infer": repeat_forward(lambda state, x_BHWC: nnx.merge(graphdef, state)(x_BHWC), state, regime)}
