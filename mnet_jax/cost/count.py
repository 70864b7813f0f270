"""`count`: what a network costs, from the jaxpr of an evaluation on one image."""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen, nnx

from mnet_jax import config, models
from mnet_jax.cost.trace import name_scopes
from mnet_jax.cost.walk import WEIGHTED, Layer, Parameter, Value, Walk
from mnet_jax.errors import UserError


@dataclass(frozen=True)
class Cost:
    """What one image costs in an evaluation.

    `madds`             multiply-adds of convolutions and dense layers, zero padding included, as the papers count.
    `params_weights`    kernels of convolutions and dense layers, as the papers count.
    `params_trainable`  also biases, and scale and bias of norms, as PyTorch counts.
    `params_all`        also the norms' moving averages, as Keras counts.
    `max_activation_bytes`  of the largest tensor that a layer makes.
    `peak_bytes`        most bytes alive at once in the order of the layers, a layer's inputs and output together;
                        elementwise layers work in place where they may. Parameters are not in it.
    `unknown`           operations on activations that the counter has no rule for, with how often they occur: their
                        cost is not in the table.
    """

    madds: int
    params_weights: int
    params_trainable: int
    params_all: int
    max_activation_bytes: int
    peak_bytes: int
    layers: tuple[Layer, ...]
    unknown: Mapping[str, int]


def count(
    model: Any,
    resolution: int | None = None,
    *,
    input_shape: Sequence[int] | None = None,
    bytes_per_element: int = 2,
) -> Cost:
    """Counts a network in evaluation mode.

    Args:
      model: `cfg.model`, or any Flax module, NNX or Linen, that can be called with images alone. Of a tuple that it
        returns, the first is the output. Layers of this package count as `lax` convolutions, however they compute.
      resolution: height and width of the images, whose channels are `cfg.model.in_channels`, for a module 3.
      input_shape: in its place (H, W, C), or with a leading batch dimension, which counts as 1.
      bytes_per_element: of activations and parameters; 2 for 16-bit floats, as the V2 paper's memory table has it.

    Raises:
      UserError: the config is not possible, the image is too small for the strides, or does not fit the network.
    """
    if isinstance(model, nnx.Module | linen.Module):
        name, channels, module = type(model).__name__, 3, model
    else:
        cfg = _checked(model)
        name, channels = cfg.name, cfg.in_channels
        module = nnx.eval_shape(lambda: models.structure(cfg))
    if resolution is not None and input_shape is None:
        shape = (resolution, resolution, channels)
    elif input_shape is not None and resolution is None:
        shape = tuple(input_shape)
    else:
        raise UserError(f"resolution={resolution} and input_shape={input_shape}; allowed: one of the two")
    if len(shape) in (2, 4):
        shape = shape[1:]
    if min(shape) < 1:
        raise UserError(f"{name} on an input of {_by(shape)}; allowed: sizes of at least 1")
    if isinstance(module, linen.Module):
        module = nnx.eval_shape(lambda: _bridged(model, jnp.zeros((1, *shape), jnp.float32)))
    graphdef, rngs, params, rest = nnx.split(module, nnx.RngState, nnx.Param, ...)
    scopes: dict[str, nnx.Module] = {}

    def forward(rngs: Any, params: Any, rest: Any, images: jax.Array) -> Any:
        network: Any = nnx.merge(graphdef, rngs, params, rest, copy=True)
        network.eval()
        scopes.update(name_scopes(network))
        result = network(images)
        return result[0] if isinstance(result, tuple) else result

    try:
        traced = jax.make_jaxpr(forward)(rngs, params, rest, jax.ShapeDtypeStruct((1, *shape), jnp.float32))
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise UserError(f"{name} does not take an input of {_by(shape)}: {error}") from error
    leaves = [
        Parameter(".".join(map(str, path)), math.prod(leaf.shape), trainable)
        for state, trainable in ((params, True), (rest, False))
        for path, leaf in zip((path for path, _ in nnx.to_flat_state(state)), jax.tree.leaves(state), strict=True)
    ]
    walk = Walk(scopes, leaves, bytes_per_element)
    made = [Value(None)] * len(jax.tree.leaves(rngs)) + [Value(None, frozenset({i})) for i in range(len(leaves))]
    outputs = walk.run(traced.jaxpr, [Value(None)] * len(traced.consts), [*made, Value(-1)], "", 1)
    walk.finish(outputs)
    for layer in walk.layers:
        for size, stride in zip(layer.input_shape, layer.stride, strict=False):
            if size < stride or 0 in layer.output_shape:
                raise UserError(
                    f"an input of {_by(shape)} is too small for the strides of {name}: "
                    f"{layer.name} (stride {stride}) gets {_by(layer.input_shape)}"
                )
    layers = tuple(walk.layers)
    return Cost(
        madds=sum(layer.madds for layer in layers),
        params_weights=sum(layer.params - layer.biases for layer in layers if layer.type in WEIGHTED),
        params_trainable=sum(layer.params for layer in layers),
        params_all=sum(layer.params + layer.statistics for layer in layers),
        max_activation_bytes=max((layer.activation_bytes for layer in layers), default=0),
        peak_bytes=walk.peak(math.prod(shape) * bytes_per_element),
        layers=layers,
        unknown=dict(walk.unknown),
    )


def _bridged(module: linen.Module, images: jax.Array) -> Any:
    bridge: Any = nnx.bridge.ToNNX(module, rngs=nnx.Rngs(0))
    return nnx.bridge.lazy_init(bridge, images)


def _checked(model: Any) -> Any:
    """A copy of `cfg.model`, every field checked, with plain convolutions in one type."""
    cfg = config.default()
    names = [name.removeprefix("model.") for name in config.FIELDS if name.startswith("model.")]
    config.override(cfg, {f"model.{name}": functools.reduce(getattr, name.split("."), model) for name in names}, "cost")
    cfg.model.formulation, cfg.model.norm.group = "lax", 0
    cfg.model.dtype, cfg.model.act_bits = "float32", 0
    config.check(cfg, "cost")
    return cfg.model


def _by(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
