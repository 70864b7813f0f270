"""The walker: goes through a jaxpr, with abstract values only, and lists the layers that its equations amount to."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from flax import nnx

CONVOLUTIONS = ("conv", "depthwise conv", "grouped conv", "transposed conv")
WEIGHTED = (*CONVOLUTIONS, "dense")
IN_PLACE = ("norm", "activation", "add", "multiply", "elementwise")
"""Types of layers that may write over an input that nothing else needs."""


@dataclass(frozen=True)
class Layer:
    """One row of the table. Shapes are (H, W, C), without the batch; costs are those of one image.

    `name`     path of the module ("blocks.3.depthwise"), then any `jax.named_scope` inside of it.
    `type`     of `CONVOLUTIONS`, "dense", "matmul" (of two activations), "resize" (a product with constants: no
               multiply-adds, like a pooling), "norm", "activation", "pool", "reduce" (sums and maxima that are not
               pooling), "add", "multiply", "elementwise", "concat", "buffer" (what a loop starts from) or "unused"
               (parameters that this evaluation does not touch).
    `inputs`   which layers it takes, -1 being the images.
    `madds`    multiply-adds; `padding_madds` of them meet a zero of the padding.
    `flops`    of convolutions and dense layers as practitioners count them: (2 K K M - 1) H' W' N and
               (2 Ci - 1) Co, with M the input channels of a group; 0 for other types, whose elements tell.
    `dilation` of convolutions: how many pixels apart the elements of the kernel meet the input.
    `params`   trainable ones, `biases` of them biases; `statistics` the others, such as a norm's moving averages.
    `activation_bytes`  of the output; `memory_access_bytes`  of inputs, output and parameters.
    """

    name: str
    type: str
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    groups: int
    inputs: tuple[int, ...]
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    madds: int = 0
    padding_madds: int = 0
    flops: int = 0
    params: int = 0
    biases: int = 0
    statistics: int = 0
    activation_bytes: int = 0
    memory_access_bytes: int = 0
    dilation: tuple[int, ...] = ()

    @property
    def outputs(self) -> int:
        """Elements of the output."""
        return math.prod(self.output_shape) if self.output_shape else 0

    @property
    def window(self) -> int:
        """Elements of the kernel, or those that an element of the output pools."""
        return math.prod(self.kernel)


IMAGES = Layer("images", "images", (), (), 1, (), (), ())


class Parameter(NamedTuple):
    path: str
    size: int
    trainable: bool


class Value(NamedTuple):
    """What is known of a traced value.

    `tensor`    the layer that made it, -1 for the images, None where it does not depend on them.
    `leaves`    the parameters that it was made of where it does not.
    `constant`  its value where that is a known scalar.
    """

    tensor: int | None
    leaves: frozenset[int] = frozenset()
    constant: float | None = None


MOVES = frozenset(
    """reshape transpose broadcast_in_dim convert_element_type slice dynamic_slice pad squeeze expand_dims rev copy
    copy_p gather split stop_gradient reduce_precision optimization_barrier device_put sharding_constraint
    bitcast_convert_type real name""".split()  # noqa: SIM905
)
ELEMENTWISE = frozenset(
    """add add_any sub mul div max min clamp select_n exp exp2 expm1 log log1p tanh logistic erf erfc erf_inv neg abs
    sign integer_pow pow square sqrt rsqrt cbrt floor ceil round rem sin cos tan atan2 nextafter eq ne lt le gt ge
    and or xor not is_finite lgamma digamma""".split()  # noqa: SIM905
)
POOLS = ("reduce_window_sum", "reduce_window_max", "reduce_window_min", "reduce_window")
REDUCTIONS = ("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or", "argmax", "argmin")
ARITHMETIC = ("add", "sub", "mul", "div", "pow", "integer_pow", "square", "sqrt", "rsqrt")
"""What a norm is made of."""
FLAX_NORMS = (nnx.BatchNorm, nnx.LayerNorm, nnx.GroupNorm, nnx.RMSNorm, nnx.InstanceNorm)


class Walk:
    """Goes through the equations in order, and writes the layers that they amount to."""

    def __init__(self, scopes: Mapping[str, nnx.Module], leaves: Sequence[Parameter], bytes_per_element: int):
        self.scopes, self.leaves, self.bytes_per_element = scopes, leaves, bytes_per_element
        self.layers: list[Layer] = []
        self.last_use: dict[int, int] = {}
        self.unused = set(range(len(leaves)))
        self.unknown: Counter[str] = Counter()

    def run(self, jaxpr: Any, consts: Sequence[Value], args: Sequence[Value], outer: str, times: int) -> list[Value]:
        """Walks a jaxpr that runs `times` times inside the scope `outer`; returns what it returns."""
        known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))

        def read(atom: Any) -> Value:
            return Value(None, constant=_scalar(atom.val)) if hasattr(atom, "val") else known[atom]

        for equation in jaxpr.eqns:
            scope = f"{outer}/{equation.source_info.name_stack}"
            results = self.step(equation, [read(atom) for atom in equation.invars], scope, times)
            known |= zip(equation.outvars, results, strict=True)
        return [read(atom) for atom in jaxpr.outvars]

    def step(self, equation: Any, args: list[Value], scope: str, times: int) -> list[Value]:
        """Walks one equation."""
        primitive, params = equation.primitive.name, equation.params
        tensors = tuple(dict.fromkeys(arg.tensor for arg in args if arg.tensor is not None))
        inner = next((params[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in params), None)
        if inner is not None and (primitive == "scan" or len(getattr(inner, "jaxpr", inner).invars) == len(args)):
            if primitive == "scan":
                return self.scan(equation, inner, args, scope, times)
            consts = [Value(None)] * len(getattr(inner, "consts", ()))
            return self.run(getattr(inner, "jaxpr", inner), consts, args, scope, times)
        if not tensors:
            leaves = frozenset().union(*(arg.leaves for arg in args))
            constant = args[0].constant if primitive in MOVES and len(args) == 1 else None
            return [Value(None, leaves, constant)] * len(equation.outvars)
        if primitive in MOVES:
            made = tensors[0]
        elif primitive == "conv_general_dilated":
            made = self.convolution(equation, args, scope, times)
        elif primitive == "dot_general":
            made = self.dot(equation, args, scope, times)
        elif primitive in POOLS:
            made = self.pool(equation, args, scope)
        elif primitive in REDUCTIONS:
            made = self.reduction(equation, args, scope)
        elif primitive == "concatenate":
            made = self.add("concat", equation, args, scope)
        elif primitive in ELEMENTWISE:
            made = self.elementwise(equation, args, tensors, scope)
        else:
            self.unknown[primitive] += times
            made = self.add("elementwise", equation, args, scope)
        return [Value(made)] * len(equation.outvars)

    def scan(self, equation: Any, inner: Any, args: list[Value], scope: str, times: int) -> list[Value]:
        """A loop of known length: its body counts that often, and what enters it lives to its end."""
        start, length = equation.params["num_consts"], equation.params["length"]
        for index in range(start, start + equation.params["num_carry"]):
            aval = equation.invars[index].aval
            if args[index].tensor is None and not args[index].leaves and aval.ndim > 1:
                self.layers.append(Layer(self.name(scope) or "loop", "buffer", (), (), 1, (), (), aval.shape[1:]))
                self.layers[-1] = self.with_bytes(self.layers[-1], 0)
                args[index] = Value(len(self.layers) - 1)
        consts = [Value(None)] * len(inner.consts)
        results = self.run(inner.jaxpr, consts, args, scope, times * length)
        for arg in args:
            if arg.tensor is not None:
                self.last_use[arg.tensor] = len(self.layers) - 1
        return results

    def name(self, scope: str) -> str:
        """The innermost module's path, and the scopes inside it."""
        parts = [part for part in scope.split("/") if part and "(" not in part]
        inside = max((index for index, part in enumerate(parts) if part in self.scopes), default=0)
        return "/".join(parts[inside:])

    def add(self, type: str, equation: Any, args: Sequence[Value], scope: str, **window_and_cost: Any) -> int:
        """Appends a layer; returns its number."""
        taken = {arg.tensor: var.aval for arg, var in zip(args, equation.invars, strict=True) if arg.tensor is not None}
        shape, out = next(iter(taken.values())).shape[1:], equation.outvars[0].aval.shape[1:]
        number = len(self.layers)
        self.last_use |= dict.fromkeys(taken, number)
        params, statistics = self.claim(frozenset().union(*(arg.leaves for arg in args)))
        fields: dict[str, Any] = {"kernel": (), "stride": (), "groups": 1} | window_and_cost
        layer = Layer(
            self.name(scope) or type,
            type,
            inputs=tuple(taken),
            input_shape=shape,
            output_shape=out,
            params=params,
            statistics=statistics,
            **fields,
        )
        self.layers.append(self.with_bytes(layer, sum(aval.size for aval in taken.values())))
        return number

    def with_bytes(self, layer: Layer, inputs: int) -> Layer:
        """The layer with the bytes of `inputs` elements, its output and its parameters."""
        out = math.prod(layer.output_shape)
        return replace(
            layer,
            activation_bytes=out * self.bytes_per_element,
            memory_access_bytes=(inputs + out + layer.params + layer.statistics) * self.bytes_per_element,
        )

    def claim(self, leaves: frozenset[int]) -> tuple[int, int]:
        """(trainable, other) parameters among them that no layer had before."""
        fresh = [self.leaves[leaf] for leaf in leaves & self.unused]
        self.unused -= leaves
        trainable = sum(leaf.size for leaf in fresh if leaf.trainable)
        return trainable, sum(leaf.size for leaf in fresh) - trainable

    def merge(self, number: int, args: Sequence[Value], *, biases: bool = False) -> int:
        """Makes an operation part of a layer that is there."""
        layer = self.layers[number]
        params, statistics = self.claim(frozenset().union(*(arg.leaves for arg in args)))
        self.layers[number] = replace(
            layer,
            params=layer.params + params,
            statistics=layer.statistics + statistics,
            biases=layer.biases + params * biases,
            memory_access_bytes=layer.memory_access_bytes + (params + statistics) * self.bytes_per_element,
        )
        return number

    def convolution(self, equation: Any, args: Sequence[Value], scope: str, times: int) -> int:
        x, kernel = (var.aval.shape for var in equation.invars)
        out, params = equation.outvars[0].aval.shape, equation.params
        numbers, groups = params["dimension_numbers"], params["feature_group_count"]
        size = tuple(kernel[axis] for axis in numbers.rhs_spec[2:])
        inputs, outputs = x[numbers.lhs_spec[1]], kernel[numbers.rhs_spec[0]]
        madds, inside = math.prod(out) * math.prod(kernel) // outputs, math.prod(kernel) // math.prod(size)
        for axis, k, stride, (low, _), dilation in zip(
            range(len(size)), size, params["window_strides"], params["padding"], params["rhs_dilation"], strict=True
        ):
            length, positions = x[numbers.lhs_spec[2 + axis]], range(out[numbers.out_spec[2 + axis]])
            inside *= sum(0 <= o * stride - low + i * dilation < length for o in positions for i in range(k))
        kind = "conv" if groups == 1 else "depthwise conv" if groups == inputs else "grouped conv"
        flops = (2 * math.prod(kernel) // outputs - 1) * math.prod(out)
        if max(params["lhs_dilation"]) > 1:  # each input pixel meets the kernel once
            madds = inside = math.prod(x) * math.prod(kernel) // inputs
            kind, flops = "transposed conv", 2 * madds - math.prod(out)
        return self.add(
            kind,
            equation,
            args,
            scope,
            kernel=size,
            stride=params["window_strides"],
            groups=groups,
            dilation=params["rhs_dilation"],
            madds=times * madds,
            padding_madds=times * (madds - inside),
            flops=times * flops,
        )

    def dot(self, equation: Any, args: Sequence[Value], scope: str, times: int) -> int:
        (contracted, _), _ = equation.params["dimension_numbers"]
        length = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
        if any(arg.tensor is None and not arg.leaves for arg in args):  # weights that nobody learns
            return self.add("resize", equation, args, scope)
        size = equation.outvars[0].aval.size
        kind = "matmul" if all(arg.tensor is not None for arg in args) else "dense"
        return self.add(kind, equation, args, scope, madds=times * size * length, flops=times * size * (2 * length - 1))

    def pool(self, equation: Any, args: Sequence[Value], scope: str) -> int:
        window, stride = equation.params["window_dimensions"][1:], equation.params["window_strides"][1:]
        made = next(arg.tensor for arg in args if arg.tensor is not None)
        if window[-1] > 1 and self.is_part(made, ("activation",), scope):  # of squares: local response norm
            self.layers[made] = replace(self.layers[made], name=self.name(scope) or "norm", type="norm")
            return made
        return self.add("pool", equation, args, scope, kernel=window[:-1], stride=stride[:-1])

    def reduction(self, equation: Any, args: Sequence[Value], scope: str) -> int:
        shape, axes = equation.invars[0].aval.shape, equation.params["axes"]
        spatial = tuple(range(1, len(shape) - 1))
        if len(shape) > 2 and tuple(axes) == spatial and not self.is_norm(scope):
            return self.add("pool", equation, args, scope, kernel=tuple(shape[axis] for axis in spatial))
        if self.is_norm(scope):
            return self.in_norm(equation, args, scope)
        return self.add("reduce", equation, args, scope)

    def elementwise(self, equation: Any, args: list[Value], tensors: tuple[int, ...], scope: str) -> int:
        operation, out = equation.primitive.name, equation.outvars[0].aval
        if self.is_norm(scope):
            return self.in_norm(equation, args, scope)
        no_bound = {"max": -math.inf, "min": math.inf}.get(operation)
        if no_bound is not None and any(arg.constant == no_bound for arg in args):
            return tensors[0]
        leaves = frozenset().union(*(arg.leaves for arg in args))
        newest = max(tensors)
        before = self.layers[newest] if newest >= 0 else IMAGES
        connected = set(tensors) <= {newest, *before.inputs} and before.outputs == out.size
        if leaves:
            sizes = sum(self.leaves[leaf].size for leaf in leaves if self.leaves[leaf].trainable)
            if operation == "add" and connected and before.type in WEIGHTED and sizes == out.shape[-1]:
                return self.merge(newest, args, biases=True)
            if connected and self.is_part(newest, ("norm",), scope):
                return self.merge(newest, args)
            return self.add("norm", equation, args, scope)
        if connected and before.type == "pool" and operation in ("div", "mul"):  # a mean
            return newest
        if connected and self.is_part(newest, ("activation",), scope):
            return newest
        if connected and operation in ARITHMETIC and self.is_part(newest, ("norm",), scope):
            return newest
        if len(tensors) == 1:
            return self.add("activation", equation, args, scope)
        kinds = {"add": "add", "add_any": "add", "sub": "add", "mul": "multiply", "div": "multiply"}
        return self.add(kinds.get(operation, "elementwise"), equation, args, scope)

    def is_part(self, number: int, types: tuple[str, ...], scope: str) -> bool:
        layer = self.layers[number] if number >= 0 else IMAGES
        return layer.type in types and layer.name == (self.name(scope) or layer.type)

    def is_norm(self, scope: str) -> bool:
        return isinstance(self.scopes.get(self.name(scope)), FLAX_NORMS)

    def in_norm(self, equation: Any, args: Sequence[Value], scope: str) -> int:
        """All that one of Flax's norms does is one layer, the size of its input."""
        newest = len(self.layers) - 1
        if self.is_part(newest, ("norm",), scope):
            return self.merge(newest, args)
        number = self.add("norm", equation, args, scope)
        layer = self.layers[number]
        size = math.prod(layer.input_shape)
        self.layers[number] = self.with_bytes(replace(layer, output_shape=layer.input_shape), size)
        return number

    def finish(self, outputs: Sequence[Value]) -> None:
        """Keeps the outputs alive to the end, and lists the parameters that nothing used."""
        self.last_use |= {value.tensor: len(self.layers) for value in outputs if value.tensor is not None}
        for leaf in sorted(self.unused):
            params, statistics = self.claim(frozenset({leaf}))
            path = self.leaves[leaf].path
            self.layers.append(Layer(path, "unused", (), (), 1, (), (), (), params=params, statistics=statistics))

    def peak(self, image: int) -> int:
        """Most bytes alive at once, where the images have `image` of them."""
        alive, most = {-1: image}, image
        for number, layer in enumerate(self.layers):
            if layer.type == "unused":
                continue
            dying = [tensor for tensor in alive if self.last_use.get(tensor, -2) <= number]
            size = layer.activation_bytes
            reused = layer.type in IN_PLACE and any(alive[tensor] == size for tensor in dying if tensor in layer.inputs)
            most = max(most, sum(alive.values()) + (0 if reused else size))
            alive[number] = size
            for tensor in dying:
                del alive[tensor]
        return most


def _scalar(value: Any) -> float | None:
    array = np.asarray(value)
    return float(array) if array.ndim == 0 and array.dtype.kind in "biuf" else None
