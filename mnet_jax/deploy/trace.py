"""The evaluation of a network as a flat list of operations on images: what every exporter reads."""

from collections.abc import Sequence
from typing import Any

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
    return jax.make_jaxpr(lambda images_BHWC: _fold(traced.jaxpr, traced.consts, [images_BHWC]))(images)


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
    if primitive.name == "convert_element_type" and operands[0].dtype == equation.outvars[0].aval.dtype:
        return operands
    if primitive.name in ("max", "min"):
        no_bound = -np.inf if primitive.name == "max" else np.inf
        for one, other in (operands, operands[::-1]):
            if _known(one) and np.ndim(one) == 0 and float(np.asarray(one)) == no_bound:
                return [other]
    sizes = [np.size(operand) if _known(operand) else 0 for operand in operands]
    # A constant that is repeated stays small: whoever reads the trace repeats it.
    if all(map(_known, operands)) and all(var.aval.size <= max(sizes, default=0) for var in equation.outvars):
        with jax.ensure_compile_time_eval():
            results = primitive.bind(*operands, **params)
    else:
        results = primitive.bind(*operands, **params)
    return list(results) if primitive.multiple_results else [results]


def _known(value: Any) -> bool:
    return not isinstance(value, jax.core.Tracer)
