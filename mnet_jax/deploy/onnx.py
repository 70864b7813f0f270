"""A traced network as an ONNX file: one walk over its operations.

The trace's arrays [B, H, W, C] are ONNX's [B, C, H, W], so that one transposition, of the images, is enough.
"""

import math
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mnet_jax.deploy import imported
from mnet_jax.errors import UserError

OPSET = 18
IR_VERSION = 10

UNARY = {
    "logistic": "Sigmoid",
    "tanh": "Tanh",
    "exp": "Exp",
    "log": "Log",
    "sqrt": "Sqrt",
    "neg": "Neg",
    "abs": "Abs",
    "erf": "Erf",
    "floor": "Floor",
    "ceil": "Ceil",
    "sign": "Sign",
}
BINARY = {"add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "max": "Max", "min": "Min", "pow": "Pow"}

NCHW, NHWC = (0, 3, 1, 2), (0, 2, 3, 1)
"""Orders of axes: those of a [B, H, W, C] as ONNX has them, and back."""


@dataclass
class _Tensor:
    """A tensor of the graph, made by `node`.

    `shape` is that of the trace, with 1 along the axes that whoever reads the tensor repeats. `terms` is how many
    elements each of a sum's is the sum of.
    """

    name: str
    shape: tuple[int, ...]
    node: Any
    terms: int = 0


def export(traced: Any, metadata: Mapping[str, str]) -> bytes:
    """The ONNX file of a traced evaluation, with the input "images" [B, H, W, C] and the output "outputs".

    Args:
      traced: what `mnet_jax.deploy.trace.evaluation` returns.
      metadata: properties of the model, kept in the file.

    Raises:
      UserError: an operation that is not translated, by the name of its primitive; or onnx is not installed.
    """
    onnx = imported("onnx", "onnx")
    graph = _Graph(onnx, traced.jaxpr)
    (images,) = traced.jaxpr.invars
    first = graph.emit("Transpose", ["images"], images.aval.shape, perm=list(NCHW))
    output = graph.natural(graph.run(traced.jaxpr, traced.consts, first))
    if graph.uses[traced.jaxpr.outvars[0]] > 1:
        output = graph.emit("Identity", [output.name], output.shape)
    output.node.output[0] = "outputs"
    info = onnx.helper.make_tensor_value_info
    inputs, outputs = (
        [info(name, onnx.TensorProto.FLOAT, list(shape))]
        for name, shape in (("images", images.aval.shape), ("outputs", output.shape))
    )
    made = onnx.helper.make_graph(graph.nodes, "mnet_jax", inputs, outputs, graph.used())
    opset = onnx.helper.make_opsetid("", OPSET)
    model = onnx.helper.make_model(made, opset_imports=[opset], producer_name="mnet_jax", ir_version=IR_VERSION)
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def operations(file: bytes) -> Counter[str]:
    """How many nodes of each type an ONNX file has."""
    onnx = imported("onnx", "onnx")
    return Counter(node.op_type for node in onnx.load_from_string(file).graph.node)


def runner(file: bytes) -> Callable[[np.ndarray], np.ndarray]:
    """A function from images to outputs that runs the file in onnxruntime, on one thread."""
    onnxruntime = imported("onnxruntime", "onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda images_BHWC: session.run(None, {"images": images_BHWC})[0]


def quantized(file: bytes, images: Sequence[np.ndarray]) -> bytes:
    """The ONNX file in 8-bit integers: weights by channel, feature maps by their extremes over these images.

    A node between a QuantizeLinear and a DequantizeLinear is what runtimes compute in integers (Jacob et al. 2018).
    """
    quantization = imported("onnxruntime.quantization", "onnx")
    left = iter(images)

    class Reader(quantization.CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(left, None)
            return None if image is None else {"images": image}

    with tempfile.TemporaryDirectory() as folder:
        source, target = (Path(folder) / name for name in ("float.onnx", "int8.onnx"))
        source.write_bytes(file)
        quantization.quantize_static(
            source,
            target,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=quantization.CalibrationMethod.MinMax,
        )
        return target.read_bytes()


class _Graph:
    """The nodes and constants of the graph so far."""

    def __init__(self, onnx: Any, jaxpr: Any):
        self.onnx, self.nodes, self.constants = onnx, [], {}
        atoms = [*(atom for equation in jaxpr.eqns for atom in equation.invars), *jaxpr.outvars]
        self.uses = Counter(atom for atom in atoms if not hasattr(atom, "val"))

    def emit(self, kind: str, inputs: Sequence[str], shape: Sequence[int], **attributes: Any) -> _Tensor:
        """Appends a node; `shape` is its output's in the trace."""
        node = self.onnx.helper.make_node(kind, list(inputs), [f"t{len(self.nodes)}"], **attributes)
        self.nodes.append(node)
        return _Tensor(node.output[0], tuple(shape), node)

    def constant(self, array: Any) -> str:
        """The name of a constant tensor with exactly this value."""
        name = f"c{len(self.constants)}"
        self.constants[name] = self.onnx.numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name

    def used(self) -> list[Any]:
        """The constants that a node takes."""
        names = {name for node in self.nodes for name in node.input}
        return [constant for name, constant in self.constants.items() if name in names]

    def run(self, jaxpr: Any, consts: Sequence[Any], images: _Tensor) -> _Tensor:
        """Translates every equation; returns the output."""
        values: dict[Any, Any] = dict(zip(jaxpr.constvars, map(np.asarray, consts), strict=True))
        values[jaxpr.invars[0]] = images
        for equation in jaxpr.eqns:
            operands = [
                np.asarray(atom.val, atom.aval.dtype) if hasattr(atom, "val") else values[atom]
                for atom in equation.invars
            ]
            (result,) = equation.outvars
            made = values[result] = self.step(equation, operands, result.aval.shape)
            for atom, operand in zip(equation.invars, operands, strict=True):
                if made is operand:  # two names of one tensor
                    self.uses[result] += self.uses[atom] - 1
        return values[jaxpr.outvars[0]]

    def step(self, equation: Any, operands: list[Any], shape: tuple[int, ...]) -> Any:
        """Translates one equation: a tensor, or an array where all of it is known and is only repeated."""
        name, params = equation.primitive.name, equation.params
        if name == "broadcast_in_dim":
            return self.broadcast(operands[0], params["broadcast_dimensions"], len(shape))
        if name in BINARY:
            return self.binary(name, equation, operands)
        if name in UNARY:
            return self.emit(UNARY[name], [self.operand(operands[0])], operands[0].shape)
        if name in COMPOSED:
            return COMPOSED[name](self, operands[0], params)
        if name not in RULES:
            raise UserError(
                f"the primitive {name} is not exported to ONNX; allowed: "
                f"{', '.join(sorted([*RULES, *COMPOSED, *UNARY, *BINARY, 'broadcast_in_dim']))}"
            )
        # These take their operands as large as the trace says; the others repeat them as they need.
        taken = [
            self.repeated(operand, atom.aval.shape) for operand, atom in zip(operands, equation.invars, strict=True)
        ]
        return RULES[name](self, taken, params, shape)

    def broadcast(self, operand: Any, dimensions: Sequence[int], rank: int) -> Any:
        """The operand with axes of length 1 where it is repeated: ONNX repeats them by itself."""
        shape = [1] * rank
        for axis, length in zip(dimensions, operand.shape, strict=True):
            shape[axis] = length
        return operand.reshape(shape) if _known(operand) else self.reshaped(operand, shape)

    def repeated(self, operand: Any, shape: tuple[int, ...]) -> Any:
        """The operand with all its repetitions."""
        if _known(operand):
            return np.broadcast_to(operand, shape)
        if operand.shape == shape:
            return operand
        sizes = self.constant(np.asarray(_order(shape), np.int64))
        return self.emit("Expand", [operand.name, sizes], shape)

    def operand(self, value: Any) -> str:
        """The name of an operand of an elementwise operation."""
        if not _known(value):
            return value.name
        if value.size == 1:
            return self.constant(value.reshape(()))
        return self.constant(value.transpose(NCHW) if value.ndim == 4 else value)

    def binary(self, name: str, equation: Any, operands: list[Any]) -> _Tensor:
        """An elementwise operation; with a constant it may become part of the node before it."""
        shape = np.broadcast_shapes(*(value.shape for value in operands))
        for x, value, atom in zip(operands, operands[::-1], equation.invars, strict=True):
            if _known(value) and not _known(x):
                merged = self.merged(name, x, value, x is operands[0], self.uses[atom] == 1, shape)
                if merged:
                    return merged
        return self.emit(BINARY[name], [self.operand(value) for value in operands], shape)

    def merged(
        self, name: str, x: _Tensor, value: np.ndarray, x_is_first: bool, alone: bool, shape: tuple[int, ...]
    ) -> _Tensor | None:
        """x with a bias, a bound or a division that its own node can take; `alone`: nothing else reads it."""
        node, number = x.node, float(value.reshape(-1)[0]) if value.size == 1 else None
        if name == "max" and number is not None:
            return (
                self.emit("Max", [x.name, self.operand(value)], shape) if number else self.emit("Relu", [x.name], shape)
            )
        if not alone or x.shape != shape:
            return None
        if name == "add" and node.op_type in ("Conv", "Gemm") and len(node.input) == 2:
            if value.size in (1, value.shape[-1] if value.ndim else 1):
                node.input.append(self.constant(np.broadcast_to(value.reshape(-1), shape[-1:])))
                return x
        elif name == "min" and number is not None and node.op_type in ("Relu", "Max"):
            low = node.input[1] if node.op_type == "Max" else self.constant(np.zeros((), value.dtype))
            images = node.input[0]
            del node.input[:]
            node.op_type = "Clip"
            node.input.extend([images, low, self.constant(value.reshape(()))])
            return x
        elif name == "div" and x_is_first and node.op_type == "ReduceSum" and number == x.terms:
            node.op_type = "ReduceMean"
            return x
        return None

    def natural(self, x: _Tensor) -> _Tensor:
        """x with its axes in the order of the trace."""
        return self.emit("Transpose", [x.name], x.shape, perm=list(NHWC)) if len(x.shape) == 4 else x

    def reshaped(self, x: _Tensor, shape: Sequence[int]) -> _Tensor:
        """x with the same elements in another shape of the trace."""
        shape = tuple(shape)
        if x.shape == shape:
            return x
        name = x.name if _one_pixel(x.shape) else self.natural(x).name
        if len(shape) != 4 or _one_pixel(shape):
            return self.emit("Reshape", [name, self.constant(np.asarray(_order(shape), np.int64))], shape)
        between = self.emit("Reshape", [name, self.constant(np.asarray(shape, np.int64))], shape)
        return self.emit("Transpose", [between.name], shape, perm=list(NCHW))


def _known(value: Any) -> bool:
    return not isinstance(value, _Tensor)


def _one_pixel(shape: Sequence[int]) -> bool:
    """Whether the elements lie in the same order in ONNX."""
    return len(shape) == 4 and tuple(shape[1:3]) == (1, 1)


def _order(values: Sequence[Any]) -> list[Any]:
    """One value an axis of the trace, in ONNX's order of axes."""
    return [values[axis] for axis in NCHW] if len(values) == 4 else list(values)


def _refuse(what: str, allowed: str) -> UserError:
    return UserError(f"{what} is not exported to ONNX; allowed: {allowed}")


def _convolution(graph: _Graph, operands: list[Any], params: Mapping[str, Any], shape: tuple[int, ...]) -> _Tensor:
    x, kernel = operands
    numbers = params["dimension_numbers"]
    layout = (numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec)
    if layout != (NCHW, (3, 2, 0, 1), NCHW) or max(params["lhs_dilation"]) > 1 or params["batch_group_count"] > 1:
        raise _refuse(f"conv_general_dilated with {numbers} and lhs_dilation {params['lhs_dilation']}", "NHWC, HWIO")
    if not _known(kernel):
        raise _refuse("conv_general_dilated with a kernel that depends on the image", "one of weights")
    return graph.emit(
        "Conv",
        [x.name, graph.constant(kernel.transpose(3, 2, 0, 1))],
        shape,
        strides=list(params["window_strides"]),
        pads=_pads(params["padding"]),
        dilations=list(params["rhs_dilation"]),
        group=params["feature_group_count"],
        kernel_shape=list(kernel.shape[:2]),
    )


def _pads(padding: Sequence[tuple[int, int]]) -> list[int]:
    """All that comes before, then all that comes after."""
    return [*(before for before, _ in padding), *(after for _, after in padding)]


def _dot(graph: _Graph, operands: list[Any], params: Mapping[str, Any], shape: tuple[int, ...]) -> _Tensor:
    x, y = operands
    if params["dimension_numbers"] == (((1,), (0,)), ((), ())) and not _known(x) and _known(y):
        return graph.emit("Gemm", [x.name, graph.constant(y)], shape)
    contracted, batch = params["dimension_numbers"]
    first, second = ([chr(start + axis) for axis in range(len(value.shape))] for value, start in ((x, 97), (y, 65)))
    for pairs in (contracted, batch):
        for axis, other in zip(*pairs, strict=True):
            second[other] = first[axis]
    left = [axis for axis in range(len(first)) if axis not in (*contracted[0], *batch[0])]
    right = [axis for axis in range(len(second)) if axis not in (*contracted[1], *batch[1])]
    result = [first[axis] for axis in (*batch[0], *left)] + [second[axis] for axis in right]
    names = [graph.constant(value) if _known(value) else graph.natural(value).name for value in operands]
    equation = f"{''.join(first)},{''.join(second)}->{''.join(result)}"
    product = graph.emit("Einsum", names, shape, equation=equation)
    return graph.emit("Transpose", [product.name], shape, perm=list(NCHW)) if len(shape) == 4 else product


def _reduction(kind: str) -> Callable[..., _Tensor]:
    def translate(graph: _Graph, operands: list[Any], params: Mapping[str, Any], shape: tuple[int, ...]) -> _Tensor:
        (x,), axes = operands, tuple(params["axes"])
        terms = math.prod(x.shape[axis] for axis in axes)
        if len(x.shape) == 4 and axes == (1, 2):
            axes = (2, 3)
        else:
            x = graph.natural(x)
        sums = graph.emit(kind, [x.name, graph.constant(np.asarray(axes, np.int64))], shape, keepdims=0)
        sums.terms = terms
        return sums

    return translate


def _pool(graph: _Graph, operands: list[Any], params: Mapping[str, Any], shape: tuple[int, ...], kind: str) -> _Tensor:
    (x,) = operands
    windows, strides, padding = (params[key] for key in ("window_dimensions", "window_strides", "padding"))
    inner = len(windows) == 4 and windows[0] == windows[3] == 1 and max(*padding[0], *padding[3]) == 0
    if not inner or {*params["base_dilation"], *params["window_dilation"]} != {1}:
        primitive = {"MaxPool": "reduce_window_max", "AveragePool": "reduce_window_sum"}[kind]
        raise _refuse(f"{primitive} over windows {tuple(windows)}", "windows of height and width")
    attributes: dict[str, Any] = {"kernel_shape": list(windows[1:3]), "strides": list(strides[1:3])}
    attributes["pads"] = _pads(padding[1:3])
    if kind == "AveragePool":
        attributes["count_include_pad"] = 1
    return graph.emit(kind, [x.name], shape, **attributes)


def _max_pool(graph: _Graph, operands: list[Any], params: Mapping[str, Any], shape: tuple[int, ...]) -> _Tensor:
    return _pool(graph, operands, params, shape, "MaxPool")


def _sum_pool(graph: _Graph, operands: list[Any], params: Mapping[str, Any], shape: tuple[int, ...]) -> _Tensor:
    windows = tuple(params["window_dimensions"])
    if windows[:3] == (1, 1, 1) and max(params["window_strides"]) == 1:
        return _channel_sums(graph, operands[0], params, shape)
    mean = _pool(graph, operands, params, shape, "AveragePool")
    return graph.emit("Mul", [mean.name, graph.constant(np.float32(math.prod(windows)))], shape)


def _channel_sums(graph: _Graph, x: _Tensor, params: Mapping[str, Any], shape: tuple[int, ...]) -> _Tensor:
    """Sums over neighboring channels, which ONNX lacks: a 1x1 convolution by a band of ones."""
    offset_OI = np.arange(x.shape[3])[None] - np.arange(shape[3])[:, None] + params["padding"][3][0]
    band_OI = (offset_OI >= 0) & (offset_OI < params["window_dimensions"][3])
    return graph.emit("Conv", [x.name, graph.constant(band_OI.astype(np.float32)[..., None, None])], shape)


def _reshape(graph: _Graph, operands: list[Any], params: Mapping[str, Any], shape: tuple[int, ...]) -> _Tensor:
    return graph.reshaped(operands[0], shape)


def _transpose(graph: _Graph, operands: list[Any], params: Mapping[str, Any], shape: tuple[int, ...]) -> _Tensor:
    moved = graph.emit("Transpose", [graph.natural(operands[0]).name], shape, perm=list(params["permutation"]))
    return graph.emit("Transpose", [moved.name], shape, perm=list(NCHW)) if len(shape) == 4 else moved


def _concatenate(graph: _Graph, operands: list[Any], params: Mapping[str, Any], shape: tuple[int, ...]) -> _Tensor:
    axis = NCHW.index(params["dimension"]) if len(shape) == 4 else params["dimension"]
    return graph.emit("Concat", [graph.operand(operand) for operand in operands], shape, axis=axis)


def _slice(graph: _Graph, operands: list[Any], params: Mapping[str, Any], shape: tuple[int, ...]) -> _Tensor:
    bounds = params["start_indices"], params["limit_indices"], range(len(shape)), params["strides"] or (1,) * len(shape)
    starts, ends, _, steps = (_order(tuple(values)) for values in bounds)
    inputs = [graph.constant(np.asarray(values, np.int64)) for values in (starts, ends, range(len(shape)), steps)]
    return graph.emit("Slice", [operands[0].name, *inputs], shape)


def _pad(graph: _Graph, operands: list[Any], params: Mapping[str, Any], shape: tuple[int, ...]) -> _Tensor:
    x, value = operands
    widths = params["padding_config"]
    if min(low for low, _, _ in widths) < 0 or min(high for _, high, _ in widths) < 0 or max(w[2] for w in widths) > 0:
        raise _refuse(f"pad by {widths}", "zeros or more around an array")
    pads = np.asarray(_pads([(low, high) for low, high, _ in _order(widths)]), np.int64)
    return graph.emit("Pad", [x.name, graph.constant(pads), graph.operand(value)], shape)


def _clamp(graph: _Graph, operands: list[Any], params: Mapping[str, Any], shape: tuple[int, ...]) -> _Tensor:
    low, x, high = operands
    if _known(x) or not _known(low) or not _known(high) or np.ptp(low) or np.ptp(high):
        raise _refuse("clamp with bounds that differ", "two numbers")
    bounds = [graph.constant(bound.reshape(-1)[0].reshape(())) for bound in (low, high)]
    return graph.emit("Clip", [x.name, *bounds], shape)


RULES: Mapping[str, Callable[..., _Tensor]] = {
    "clamp": _clamp,
    "concatenate": _concatenate,
    "conv_general_dilated": _convolution,
    "dot_general": _dot,
    "pad": _pad,
    "reduce_max": _reduction("ReduceMax"),
    "reduce_sum": _reduction("ReduceSum"),
    "reduce_window_max": _max_pool,
    "reduce_window_sum": _sum_pool,
    "reshape": _reshape,
    "slice": _slice,
    "squeeze": _reshape,
    "transpose": _transpose,
}
"""primitive -> function of (graph, operands, its parameters, shape of the result)."""


def _complement_of_erf(graph: _Graph, x: _Tensor, params: Mapping[str, Any]) -> _Tensor:
    erf = graph.emit("Erf", [x.name], x.shape)
    return graph.emit("Sub", [graph.constant(np.float32(1)), erf.name], x.shape)


def _power(graph: _Graph, x: _Tensor, params: Mapping[str, Any]) -> _Tensor:
    return graph.emit("Pow", [x.name, graph.constant(np.float32(params["y"]))], x.shape)


def _reciprocal_root(graph: _Graph, x: _Tensor, params: Mapping[str, Any]) -> _Tensor:
    root = graph.emit("Sqrt", [x.name], x.shape)
    return graph.emit("Reciprocal", [root.name], x.shape)


COMPOSED: Mapping[str, Callable[..., _Tensor]] = {
    "erfc": _complement_of_erf,
    "integer_pow": _power,
    "rsqrt": _reciprocal_root,
    "square": lambda graph, x, params: graph.emit("Mul", [x.name, x.name], x.shape),
}
"""primitive of one operand -> function of (graph, operand, its parameters)."""
