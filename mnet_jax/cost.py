"""What a network costs, counted from the traced network itself: there is no second formula that could drift."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from mnet_jax import models


class Cost(NamedTuple):
    """Per image of the inference graph.

    `madds`             multiply-adds of convolutions and dense layers, zero padding included, as the papers count.
    `params_trainable`  weights, classifier bias, BatchNorm scale and bias.
    """

    madds: int
    params_trainable: int


def count(model: Any, resolution: int) -> Cost:
    """Counts the network of `cfg.model` on `resolution` x `resolution` images, from abstract values only."""
    model = model.copy_and_resolve_references()
    model.formulation = "lax"
    abstract = nnx.eval_shape(lambda: models.build(model, nnx.Rngs(0)))
    graphdef, params, rest = nnx.split(abstract, nnx.Param, ...)

    def forward(params: Any, rest: Any, images_BHWC: jax.Array) -> jax.Array:
        network = nnx.merge(graphdef, params, rest, copy=True)
        network.eval()
        return network(images_BHWC)[0]

    image = jax.ShapeDtypeStruct((1, resolution, resolution, model.in_channels), jnp.float32)
    jaxpr = jax.make_jaxpr(forward)(params, rest, image)
    return Cost(
        madds=_madds(jaxpr.jaxpr),
        params_trainable=sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)),
    )


def _madds(jaxpr: Any) -> int:
    total = 0
    for equation in jaxpr.eqns:
        out = equation.outvars[0].aval
        if equation.primitive.name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            channels = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
            total += math.prod(out.shape) * math.prod(kernel) // channels
        elif equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            total += math.prod(out.shape) * math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda value: hasattr(value, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                total += _madds(inner)
    return total
