"""How each operation of ours is written in ONNX, on real numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np

from qcompile.errors import UsageError
from qcompile.ir.graph import Graph, Node, Value
from qcompile.onnx_export.model_writer import TO_FIRST, TO_LAST, ModelWriter, attributes_of, base_name, onnx_type
from qcompile.ops.arithmetic import activation_op, channel_factors, plain_activation

OPSET = 20
"""Of the models written: the first that has gelu."""

_UNARY = {
    "abs": "Abs", "acos": "Acos", "asin": "Asin", "atan": "Atan", "ceil": "Ceil", "cos": "Cos", "cosh": "Cosh",
    "erf": "Erf", "exp": "Exp", "floor": "Floor", "hard_swish": "HardSwish", "identity": "Identity", "log": "Log",
    "mish": "Mish", "neg": "Neg", "reciprocal": "Reciprocal", "relu": "Relu", "round": "Round", "sigmoid": "Sigmoid",
    "sign": "Sign", "sin": "Sin", "sinh": "Sinh", "softplus": "Softplus", "softsign": "Softsign", "sqrt": "Sqrt",
    "tan": "Tan", "tanh": "Tanh", "acosh": "Acosh", "asinh": "Asinh", "atanh": "Atanh", "logical_not": "Not",
    "is_nan": "IsNaN", "bitwise_not": "BitwiseNot",
}  # fmt: skip
_BINARY = {
    "add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "pow": "Pow", "maximum": "Max", "minimum": "Min",
    "equal": "Equal", "greater": "Greater", "greater_or_equal": "GreaterOrEqual", "less": "Less",
    "less_or_equal": "LessOrEqual", "where": "Where", "logical_and": "And", "logical_or": "Or", "logical_xor": "Xor",
    "bitwise_and": "BitwiseAnd", "bitwise_or": "BitwiseOr", "bitwise_xor": "BitwiseXor",
}  # fmt: skip
_WITH_ALPHA = {"leaky_relu": "LeakyRelu", "elu": "Elu", "celu": "Celu"}
_GLOBAL = {"global_avg_pool": "GlobalAveragePool", "global_max_pool": "GlobalMaxPool"}
_POOLS = {"max_pool": "MaxPool", "avg_pool": "AveragePool"}
_REDUCTIONS = {"reduce_mean": "ReduceMean", "reduce_sum": "ReduceSum", "reduce_max": "ReduceMax",
               "reduce_min": "ReduceMin", "reduce_prod": "ReduceProd"}  # fmt: skip
_AXIS_FIRST = (0, 2, 3, 1)
"""Where axis k of a tensor with channels last is once they are on axis 1."""

Operands = Sequence[str]


def write_operation(writer: ModelWriter, node: Node, weights: Operands | None = None) -> None:
    """Write one node on real numbers and set the names of its results.

    Args:
        writer: takes the nodes.
        node: float, or in integer form, whose quantization is written elsewhere.
        weights: names of weight and bias of a layer; None for those of the node.

    Raises:
        UsageError: ONNX has no such operation, or we do not write it.
    """
    name = node.op.name
    if _is_elementwise(name):
        _elementwise(writer, node)
    elif name in _WRITERS:
        _WRITERS[name](writer, node, weights or ())
    else:
        _refuse(node)


def check_operations(graph: Graph) -> None:
    """Refuse a simplified float graph that could not be written once it is quantized, which takes long.

    Args:
        graph: float, or of a quantized model.

    Raises:
        UsageError: ONNX has no such operation, or we do not write it.
    """
    for node in graph.nodes:
        if not (_is_elementwise(node.op.name) or node.op.name in (*_WRITERS, "fake_quantize")):
            _refuse(node)


def _refuse(node: Node) -> NoReturn:
    where = node.loc or node.outputs[0].name
    raise UsageError(
        f"{node.op.name} at '{where}' is not written to ONNX yet",
        hint="export-qdq is for convolutional networks and MLPs",
    )


def _is_elementwise(name: str) -> bool:
    return name in _UNARY or name in _BINARY or name in _WITH_ALPHA or name in _SIMPLE


def write_activation(writer: ModelWriter, name: str, node: Node) -> str:
    """Write the activation fused into a node, and what divides its results; return the name of the result."""
    attrs, wish = node.attrs, f"{base_name(node.output)}.act"
    activation = plain_activation(getattr(attrs, "activation", "none"))
    if activation == "none":
        return name
    if activation == "prelu":
        slopes = writer.constant(_along_channels(node, np.asarray(attrs.slopes, np.float32)), f"{wish}.slopes")
        return writer.emit("PRelu", [name, slopes], wish)
    if activation == "clip":
        name = clip(writer, name, attrs.alpha, attrs.beta, wish)
    else:
        op, options = activation_op(activation, attrs.alpha, attrs.beta)
        name = _unary(writer, op.name, options, name, wish)
    if not getattr(attrs, "divisors", ()):
        return name
    factors = writer.constant(_along_channels(node, channel_factors(attrs)), f"{wish}.factors")
    return writer.emit("Mul", [name, factors], f"{wish}.divided")


def _along_channels(node: Node, numbers: Any) -> Any:
    """Return one number for each channel in a shape that broadcasts over a layer's result in ONNX."""
    spatial = (1,) * (len(node.output.shape) - 2) if node.op.name == "conv2d" else ()
    return numbers.reshape(-1, *spatial)


def clip(writer: ModelWriter, name: str, low: float, high: float, wish: str) -> str:
    """Write a clamp; a bound that is infinite is left out."""
    if low == 0.0 and math.isinf(high):
        return writer.emit("Relu", [name], wish)
    bounds = [
        "" if math.isinf(bound) else writer.constant(np.float32(bound).reshape(()), f"{wish}.{what}")
        for what, bound in (("min", low), ("max", high))
    ]
    return writer.emit("Clip", [name, *bounds], wish)


def _unary(writer: ModelWriter, op: str, attrs: Any, x: str, wish: str) -> str:
    if op in _WITH_ALPHA:
        return writer.emit(_WITH_ALPHA[op], [x], wish, alpha=float(attrs.alpha))
    if op == "hard_sigmoid":
        return writer.emit("HardSigmoid", [x], wish, alpha=float(attrs.alpha), beta=float(attrs.beta))
    if op == "gelu":
        return writer.emit("Gelu", [x], wish, approximate=attrs.approximate)
    if op == "clip":
        return clip(writer, x, attrs.min, attrs.max, wish)
    if op == "cast":
        return writer.emit("Cast", [x], wish, to=onnx_type(attrs.dtype))
    if op == "silu":
        return writer.emit("Mul", [x, writer.emit("Sigmoid", [x], f"{wish}.sigmoid")], wish)
    return writer.emit(_UNARY[op], [x], wish)


_SIMPLE = ("hard_sigmoid", "gelu", "clip", "cast", "silu")


def _elementwise(writer: ModelWriter, node: Node) -> None:
    """Write an operation that works in any layout, in the one its operands have."""
    result = node.output
    alike = all(v.shape == result.shape or v.type.size == 1 for v in node.inputs)
    first = alike and len(result.shape) == 4 and any(writer.has_first(v) for v in node.inputs)
    names = [writer.first(v) if first and v.shape == result.shape else writer.plain(v) for v in node.inputs]
    if node.op.name in _BINARY:
        name = writer.emit(_BINARY[node.op.name], names, base_name(result))
    else:
        name = _unary(writer, node.op.name, node.attrs, names[0], base_name(result))
    name = write_activation(writer, name, node)
    writer.set(result, name, first=first)


def _get(writer: ModelWriter, node: Node, value: Value) -> str:
    """Return an operand of a spatial operation with channels on axis 1."""
    return writer.first(value) if node.attrs.layout == "NHWC" else writer.plain(value)


def _put(writer: ModelWriter, node: Node, name: str) -> None:
    writer.set(node.output, name, first=node.attrs.layout == "NHWC")


def _layer(writer: ModelWriter, node: Node, weights: Operands) -> None:
    attrs, wish = node.attrs, base_name(node.output)
    weight, bias = weights or (layer_weight(writer, node), writer.plain(node.inputs[2]))
    names = {"strides": "strides", "pads": "pads", "dilations": "dilations", "groups": "group"}
    options = attributes_of(attrs, names)
    op = "Conv"
    if node.op.name == "conv_transpose2d":
        op, options["output_padding"] = "ConvTranspose", list(attrs.output_padding)
    name = writer.emit(op, [_get(writer, node, node.inputs[0]), weight, bias], wish, **options)
    _finish_layer(writer, node, name, lambda value: _get(writer, node, value))


def _dense(writer: ModelWriter, node: Node, weights: Operands) -> None:
    wish, x = base_name(node.output), node.inputs[0]
    weight, bias = weights or (writer.plain(node.inputs[1]), writer.plain(node.inputs[2]))
    if len(x.shape) == 2:
        name = writer.emit("Gemm", [writer.plain(x), weight, bias], wish, transB=1)
    else:
        turned = writer.emit("Transpose", [weight], f"{wish}.weight", perm=[1, 0])
        product = writer.emit("MatMul", [writer.plain(x), turned], f"{wish}.product")
        name = writer.emit("Add", [product, bias], wish)
    _finish_layer(writer, node, name, writer.plain)


def _finish_layer(writer: ModelWriter, node: Node, name: str, get: Callable[[Value], str]) -> None:
    if node.attrs.residual:
        name = writer.emit("Add", [name, get(node.inputs[3])], f"{base_name(node.output)}.sum")
    name = write_activation(writer, name, node) if getattr(node.attrs, "pre_activation", None) is None else name
    writer.set(node.output, name, first=getattr(node.attrs, "layout", "") == "NHWC")


def layer_weight(writer: ModelWriter, node: Node) -> str:
    """Return the name of a layer's weight as ONNX wants it."""
    return writer.constant(weight_array(node), base_name(node.inputs[1]))


def weight_array(node: Node) -> Any:
    """Return the weight of conv2d or conv_transpose2d in the order of ONNX, of dense as it is."""
    weight = node.inputs[1].constant()
    if node.op.name == "dense":
        return weight
    if node.attrs.layout == "NHWC":
        weight = weight.transpose(0, 3, 1, 2)
    if node.op.name == "conv2d":
        return weight
    groups = node.attrs.groups
    o, i, kh, kw = weight.shape
    return weight.reshape(groups, o // groups, i, kh, kw).transpose(0, 2, 1, 3, 4).reshape(groups * i, -1, kh, kw)


def _pool(writer: ModelWriter, node: Node, _: Operands) -> None:
    names = {"kernel": "kernel_shape", "strides": "strides", "pads": "pads", "dilations": "dilations",
             "ceil_mode": "ceil_mode"}  # fmt: skip
    if node.op.name == "avg_pool":
        names["count_include_pad"] = "count_include_pad"
    x, options = _get(writer, node, node.inputs[0]), attributes_of(node.attrs, names)
    _put(writer, node, writer.emit(_POOLS[node.op.name], [x], base_name(node.output), **options))


def _global_pool(writer: ModelWriter, node: Node, _: Operands) -> None:
    x = _get(writer, node, node.inputs[0])
    _put(writer, node, writer.emit(_GLOBAL[node.op.name], [x], base_name(node.output)))


def _prelu(writer: ModelWriter, node: Node, _: Operands) -> None:
    slope = node.inputs[1].constant()
    rank = len(node.output.shape)
    if rank == 4:
        name = writer.constant(slope.reshape(-1, 1, 1), base_name(node.inputs[1]))
        _put(writer, node, writer.emit("PRelu", [_get(writer, node, node.inputs[0]), name], base_name(node.output)))
        return
    shape = [-1] + [1] * (rank - 2) if node.attrs.layout == "NCHW" else [-1]
    name = writer.constant(slope.reshape(shape), base_name(node.inputs[1]))
    writer.set(node.output, writer.emit("PRelu", [writer.plain(node.inputs[0]), name], base_name(node.output)))


def _resize(writer: ModelWriter, node: Node, _: Operands) -> None:
    attrs, wish = node.attrs, base_name(node.output)
    shape = node.inputs[0].shape
    n, c = (shape[0], shape[3]) if attrs.layout == "NHWC" else shape[:2]
    exact = [round(e * s) for e, s in zip(_extents(node), attrs.scales, strict=True)] == list(attrs.size)
    if exact:
        tail = ["", writer.constant(np.array([1, 1, *attrs.scales], np.float32), f"{wish}.scales")]
    else:
        tail = ["", "", writer.constant(np.array([n, c, *attrs.size], np.int64), f"{wish}.sizes")]
    options = {"mode": attrs.mode, "coordinate_transformation_mode": attrs.coordinates}
    if attrs.mode == "nearest":
        options["nearest_mode"] = attrs.rounding
    _put(writer, node, writer.emit("Resize", [_get(writer, node, node.inputs[0]), *tail], wish, **options))


def _extents(node: Node) -> tuple[int, int]:
    shape = node.inputs[0].shape
    return (shape[1], shape[2]) if node.attrs.layout == "NHWC" else (shape[2], shape[3])


def _concat(writer: ModelWriter, node: Node, _: Operands) -> None:
    first = len(node.output.shape) == 4 and any(writer.has_first(v) for v in node.inputs)
    names = [writer.first(v) if first else writer.plain(v) for v in node.inputs]
    axis = _AXIS_FIRST[node.attrs.axis] if first else node.attrs.axis
    writer.set(node.output, writer.emit("Concat", names, base_name(node.output), axis=axis), first=first)


def _split(writer: ModelWriter, node: Node, _: Operands) -> None:
    x = node.inputs[0]
    first = len(x.shape) == 4 and writer.has_first(x)
    axis = _AXIS_FIRST[node.attrs.axis] if first else node.attrs.axis
    sizes = writer.constant(np.array(node.attrs.sizes, np.int64), f"{base_name(node.outputs[0])}.sizes")
    wishes = [base_name(v) for v in node.outputs]
    names = writer.emit_all("Split", [writer.first(x) if first else writer.plain(x), sizes], wishes, axis=axis)
    for value, name in zip(node.outputs, names, strict=True):
        writer.set(value, name, first=first)


def _slice(writer: ModelWriter, node: Node, _: Operands) -> None:
    attrs, wish = node.attrs, base_name(node.output)
    ends = [start + step * size for start, step, size in zip(attrs.starts, attrs.steps, attrs.sizes, strict=True)]
    ends = [end if end >= 0 else -(2**31) for end in ends]
    told = {"starts": attrs.starts, "ends": ends, "axes": range(len(ends)), "steps": attrs.steps}
    parts = [writer.constant(np.array(numbers, np.int64), f"{wish}.{what}") for what, numbers in told.items()]
    writer.set(node.output, writer.emit("Slice", [writer.plain(node.inputs[0]), *parts], wish))


def _pad(writer: ModelWriter, node: Node, _: Operands) -> None:
    attrs, wish, x = node.attrs, base_name(node.output), node.inputs[0]
    first = len(x.shape) == 4 and writer.has_first(x)
    pads = list(attrs.pads)
    if first:
        pads = [pads[side * 4 + axis] for side in (0, 1) for axis in TO_FIRST]
    tail = [writer.constant(np.array(pads, np.int64), f"{wish}.pads")]
    if attrs.mode == "constant":
        tail.append(writer.constant(np.float32(attrs.value).reshape(()), f"{wish}.value"))
    name = writer.emit("Pad", [writer.first(x) if first else writer.plain(x), *tail], wish, mode=attrs.mode)
    writer.set(node.output, name, first=first)


def _reshape(writer: ModelWriter, node: Node, _: Operands) -> None:
    x, wish = node.inputs[0], base_name(node.output)
    if _is_layout_change(x.shape, tuple(node.attrs.shape)):
        writer.set(node.output, writer.plain(x), first=True)
        return
    # One pixel has no layout.
    pixel = len(x.shape) == 4 and x.shape[1:3] == (1, 1) and writer.has_first(x)
    shape = writer.constant(np.array(node.attrs.shape, np.int64), f"{wish}.shape")
    writer.set(node.output, writer.emit("Reshape", [writer.first(x) if pixel else writer.plain(x), shape], wish))


def _is_layout_change(shape: tuple[int, ...], result: tuple[int, ...]) -> bool:
    """Return whether a reshape of a 4-D tensor does what a transposition to channels last would."""
    moved = len(shape) == 4 and result == tuple(shape[a] for a in TO_LAST)
    return moved and (shape[1] == 1 or shape[2:] == (1, 1))


def _transpose(writer: ModelWriter, node: Node, _: Operands) -> None:
    x, perm = node.inputs[0], tuple(node.attrs.perm)
    if perm == TO_LAST:
        writer.set(node.output, writer.plain(x), first=True)
    elif perm == TO_FIRST:
        writer.set(node.output, writer.first(x))
    else:
        writer.set(node.output, writer.emit("Transpose", [writer.plain(x)], base_name(node.output), perm=list(perm)))


def _reduce(writer: ModelWriter, node: Node, _: Operands) -> None:
    wish = base_name(node.output)
    axes = writer.constant(np.array(node.attrs.axes, np.int64), f"{wish}.axes")
    operands = [writer.plain(node.inputs[0]), axes]
    writer.set(node.output, writer.emit(_REDUCTIONS[node.op.name], operands, wish, keepdims=int(node.attrs.keepdims)))


def _axis(op: str, *names: str) -> Callable[[ModelWriter, Node, Operands], None]:
    """Return the writer of an operation whose attributes are the same numbers in ONNX."""

    def write(writer: ModelWriter, node: Node, _: Operands) -> None:
        options = {name: getattr(node.attrs, name) for name in names}
        inputs = [writer.plain(value) for value in node.inputs]
        writer.set(node.output, writer.emit(op, inputs, base_name(node.output), **options))

    return write


def _expand(writer: ModelWriter, node: Node, _: Operands) -> None:
    shape = writer.constant(np.array(node.attrs.shape, np.int64), f"{base_name(node.output)}.shape")
    writer.set(node.output, writer.emit("Expand", [writer.plain(node.inputs[0]), shape], base_name(node.output)))


_WRITERS: dict[str, Callable[[ModelWriter, Node, Operands], None]] = {
    "conv2d": _layer, "conv_transpose2d": _layer, "dense": _dense, "prelu": _prelu, "resize": _resize,
    "concat": _concat, "split": _split, "slice": _slice, "pad": _pad, "reshape": _reshape, "transpose": _transpose,
    "expand": _expand, "matmul": _axis("MatMul"), "softmax": _axis("Softmax", "axis"),
    "log_softmax": _axis("LogSoftmax", "axis"), "layer_norm": _axis("LayerNormalization", "axis", "epsilon"),
    "gather": _axis("Gather", "axis"),
    **dict.fromkeys(_POOLS, _pool), **dict.fromkeys(_GLOBAL, _global_pool), **dict.fromkeys(_REDUCTIONS, _reduce),
}  # fmt: skip
