"""What XLA says of the same evaluation, and why it is another number."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from mnet_jax import models
from mnet_jax.cost import conventions
from mnet_jax.cost.count import Cost


def lower(model: Any, resolution: int) -> Any:
    """The evaluation of `cfg.model` on one image, lowered; nothing is computed and no weight is made."""
    graphdef, state = nnx.split(nnx.eval_shape(lambda: models.structure(model)))

    def forward(state: Any, images_BHWC: jax.Array) -> jax.Array:
        network = nnx.merge(graphdef, state, copy=True)
        network.eval()
        return network(images_BHWC)[0]

    image = jax.ShapeDtypeStruct((1, resolution, resolution, model.in_channels), jnp.float32)
    return jax.jit(forward).lower(state, image)


def flops(model: Any, resolution: int, cost: Cost) -> list[tuple[str, int]]:
    """The way from `cost`, that of this model, to the "flops" of XLA's `cost_analysis`, as (what, how many).

    XLA counts a multiply-add twice, leaves out those on zero padding, and counts elementwise operations. What remains
    is the arithmetic on parameters (four operations for each channel of a norm), clips without bounds, and XLA's own
    rounding: it adds up in float32.
    """
    layers, plain = cost.layers, model.copy_and_resolve_references()
    plain.formulation = "lax"
    terms = [
        ("2 x MAdds", 2 * cost.madds),
        ("MAdds on zero padding, twice", -2 * sum(layer.padding_madds for layer in layers)),
        ("norms, 2 an element", 2 * conventions.elements(layers, "norm")),
        ("activations, 2 an element", 2 * conventions.elements(layers, "activation")),
        ("pooled elements", conventions.pooled_elements(layers)),
        ("additions", conventions.elements(layers, "add")),
        ("multiplications", conventions.elements(layers, "multiply")),
        ("biases", sum(layer.biases * layer.outputs // layer.output_shape[-1] for layer in layers if layer.biases)),
    ]
    total = int(lower(plain, resolution).cost_analysis()["flops"])
    rest = ("the rest", total - sum(number for _, number in terms))
    return [*(term for term in terms if term[1]), rest, ("XLA's cost_analysis", total)]


def temporary_bytes(model: Any, resolution: int) -> int:
    """Bytes of all buffers but parameters and image in the compiled evaluation, in float32, on this machine."""
    return lower(model, resolution).compile().memory_analysis().temp_size_in_bytes
