"""The evaluation of a network as a flat list of operations on images: what every exporter reads."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from mnet_jax.models.specs import LayerConfig

CALLS = ("jit", "pjit", "closed_call", "core_call", "remat", "checkpoint", "custom_jvp_call", "custom_vjp_call")
"""Primitives that do no more than call the jaxpr in their parameters."""

COPIES = ("copy", "copy_p", "optimization_barrier", "sharding_constraint", "stop_gradient")


def evaluation(network: nnx.Module, shape: Sequence[int]) -> Any:
    """The closed jaxpr of an evaluation in float32, for images of `shape` (B, H, W, C).

    Convolutions are XLA's and norms are part of their kernels. Whatever depends on the weights alone is a constant;
    calls are written out; a clip at an infinite bound is left out. Of a tuple that the network returns, the first is
    the output.
    """
    exported: Any = nnx.merge(*nnx.split(network))
    exported.eval()
    layers: list[Any] = [node for _, node in nnx.iter_graph(exported) if hasattr(node, "config")]
    for layer in layers:
        if isinstance(layer.config, LayerConfig):
            layer.config = layer.config._replace(formulation="lax_folded", dtype="float32")

    def forward(images_BHWC: jax.Array) -> Any:
        result = exported(images_BHWC)
        return result[0] if isinstance(result, tuple) else result

    images = jax.ShapeDtypeStruct(tuple(shape), np.float32)
    traced: Any = jax.make_jaxpr(forward)(images)

    def folded(images_BHWC: jax.Array) -> list[Any]:
        return [_whole(value) for value in _fold(traced.jaxpr, traced.consts, [images_BHWC])]

    return jax.make_jaxpr(folded)(images)


def _fold(jaxpr: Any, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
    """Runs a jaxpr: what is known is computed at once, the rest is traced."""
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))

    def read(atom: Any) -> Any:
        return atom.val if hasattr(atom, "val") else values[atom]

    for equation in jaxpr.eqns:
        operands = [read(atom) for atom in equation.invars]
        values |= zip(equation.outvars, _results(equation, operands), strict=True)
    return [read(atom) for atom in jaxpr.outvars]


def _results(equation: Any, operands: list[Any]) -> list[Any]:
    primitive, params = equation.primitive, equation.params
    if primitive.name in CALLS:
        inner = next(params[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in params)
        return _fold(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), operands)
    if primitive.name in COPIES:
        return operands
    if primitive.name == "convert_element_type" and equation.invars[0].aval.dtype == params["new_dtype"]:
        return operands
    if primitive.name in ("max", "min"):
        no_bound = -np.inf if primitive.name == "max" else np.inf
        for one, other in (operands, operands[::-1]):
            number = one.array if isinstance(one, _Repeated) else one
            if _known(number) and np.ndim(number) == 0 and float(np.asarray(number)) == no_bound:
                return [other]
    if all(map(_known, operands)):
        if primitive.name == "broadcast_in_dim":
            return [_Repeated(operands[0], equation)]
        with jax.ensure_compile_time_eval():
            results = primitive.bind(*map(_whole, operands), **params)
    else:
        results = primitive.bind(*map(_whole, operands), **params)
    return list(results) if primitive.multiple_results else [results]


class _Repeated(NamedTuple):
    """A known array before it is repeated: one that meets an image stays small in the trace."""

    array: Any
    equation: Any


def _whole(value: Any) -> Any:
    if not isinstance(value, _Repeated):
        return value
    return value.equation.primitive.bind(_whole(value.array), **value.equation.params)


def _known(value: Any) -> bool:
    return not isinstance(value, jax.core.Tracer)
