"""Models that are quantized already: QuantizeLinear and DequantizeLinear, and operators on integers.

Every quantized operator becomes what it stands for: its float operation between roundings to the model's own scales
(`fake_quantize`). The pass `absorb-qdq` makes integers of it again, in this compiler's arithmetic. A pair of
quantization and dequantization is recognized through operators that only move elements. Where a scale is computed at
run time, or integers are seen outside (inputs, outputs, arithmetic on them), the conversions are computed as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeGuard

import numpy as np

from qcompile.ir.graph import Node, Value
from qcompile.ir.opdef import Quantization
from qcompile.ops.layout import axis_index
from qcompile.ops.onnx_node import OnnxNode
from qcompile.ops.round_float import SMALL, SMALL_TYPES
from qcompile.ops.round_float import rounded as rounded_float

INTEGERS = {2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32"}
"""Element types that ONNX's type numbers stand for in quantization."""

_BITS = {21: "UINT4", 22: "INT4", 25: "UINT2", 26: "INT2"}
_STORED = {"uint4": "uint8", "int4": "int8", "uint2": "uint8", "int2": "int8"}
_SHIFT = {"uint8": 128, "uint16": 32768}
MICROSOFT = "com.microsoft"


def _aligned(node: OnnxNode, value: Value, x: Value, name: str) -> Value:
    """Return a scale or zero point in a shape that broadcasts to x: per tensor, per axis or per block."""
    if value.type.size == 1:
        return reshaped(node, value, (), name)
    axis = axis_index(int(node.attr("axis", 1)), len(x.shape))
    block = int(node.attr("block_size", 0))
    if block:
        repeat = np.arange(x.shape[axis]) // block
        places = node.constant(f"{name}.blocks", repeat, "int64")
        return node.add("gather", [value, places], name=f"{node.outputs[0]}.{name}", axis=axis)
    if value.shape != (x.shape[axis],):
        node.fail(f"{name} {value.type} does not fit axis {axis} of {x.type}")
    return reshaped(node, value, (-1,) + (1,) * (len(x.shape) - 1 - axis), name)


def reshaped(node: OnnxNode, value: Value, shape: tuple[int, ...], name: str) -> Value:
    """Return a value in another shape; -1 stands for all of its elements."""
    shape = tuple(value.type.size if d == -1 else d for d in shape)
    if value.shape == shape:
        return value
    return node.add("reshape", [value], name=f"{node.outputs[0]}.{name}", shape=shape)


def quantized(node: OnnxNode, x: Value, scale: Value, zero_point: Value | None, dtype: str, name: str) -> Value:
    """Return the integers of x.

    Args:
        node: the ONNX node that asks for it; its `axis` and `block_size` apply.
        x: real values.
        scale: real units per LSB.
        zero_point: the integer that stands for 0; None for 0 itself.
        dtype: of the integers.
        name: of the result.
    """
    if dtype not in _LIMITS:
        node.fail(f"a quantization to {dtype}; int8, uint8, int16 and uint16 are supported")
    if zero_point is None:
        zero_point = node.constant("zero_point", np.zeros((), _STORED.get(dtype, dtype)))
    low, high = _LIMITS[dtype]
    dtype = _STORED.get(dtype, dtype)
    operands = [x, _aligned(node, scale, x, "scale"), _aligned(node, zero_point, x, "zero_point")]
    return node.add("quantize_linear", operands, name=name, dtype=dtype, qmin=low, qmax=high)


_LIMITS = {
    "uint4": (0, 15),
    "int4": (-8, 7),
    "uint2": (0, 3),
    "int2": (-2, 1),
    "uint8": (0, 255),
    "int8": (-128, 127),
    "uint16": (0, 65535),
    "int16": (-32768, 32767),
}


def dequantized(node: OnnxNode, q: Value, scale: Value, zero_point: Value | None, name: str) -> Value:
    """Return the real values of integers: the rounded operand itself where it was quantized in the same way.

    Args:
        node: the ONNX node that asks for it; its `axis` and `block_size` apply.
        q: integers.
        scale: real units per LSB.
        zero_point: the integer that stands for 0; None for 0 itself.
        name: of the result.
    """
    if q.dtype == "float32":
        if _matters(zero_point):
            q = node.add("sub", [q, _aligned(node, zero_point, q, "zero_point")], name=f"{name}.centred")
        return node.add("mul", [q, _aligned(node, scale, q, "scale")], name=name)
    if scale.data is not None and scale.data.size == 1 and (zero_point is None or zero_point.data is not None):
        zero = 0 if zero_point is None or zero_point.data is None else int(zero_point.data.reshape(-1)[0])
        rounded = _rounded(node, q, float(scale.data.reshape(-1)[0]), zero, name)
        if rounded is not None:
            return rounded
    centred = node.add("cast", [q], name=f"{name}.wide", dtype="int32") if q.dtype != "int32" else q
    if _matters(zero_point):
        offset = _aligned(node, zero_point, q, "zero_point")
        if offset.dtype != "int32":
            offset = node.add("cast", [offset], name=f"{name}.offset", dtype="int32")
        centred = node.add("sub", [centred, offset], name=f"{name}.centred")
    real = node.add("cast", [centred], name=f"{name}.steps", dtype="float32")
    factor = _aligned(node, scale, q, "scale")
    made = node.add("mul", [real, factor], name=name)
    if made.is_constant:
        made.steps = factor.constant()
    return made


def _rounded(node: OnnxNode, q: Value, scale: float, zero_point: int, name: str) -> Value | None:
    """Return the real tensor that q was made from, rounded; None where q is not made so, or with another scale."""
    producer = q.producer
    if producer is None:
        return None
    if producer.op.name == "quantize_linear":
        own, zero = producer.inputs[1].data, producer.inputs[2].data
        same = own is not None and zero is not None and own.size == zero.size == 1
        if not same or float(own.reshape(-1)[0]) != scale or int(zero.reshape(-1)[0]) != zero_point:  # type: ignore[union-attr]
            return None
        shift = _SHIFT.get(q.dtype, 0)
        low, high = producer.attrs.qmin, producer.attrs.qmax
        grid = {"zero_point": zero_point - shift, "qmin": low - shift, "qmax": high - shift}
        return node.add("fake_quantize", [producer.inputs[0]], name=name, scale=scale, **grid)
    if producer.op.name == "clip":
        return _clipped(node, producer, scale, zero_point, name)
    if producer.op.integer is not Quantization.SHARED or len(producer.outputs) != 1:
        return None
    return _moved(node, producer, scale, zero_point, name)


def _clipped(node: OnnxNode, clip: Node, scale: float, zero_point: int, name: str) -> Value | None:
    """Return the real form of integers that use fewer bits than their type has, as trained quantizers write them."""
    shift = _SHIFT.get(clip.output.dtype, 0)
    real = _rounded(node, clip.inputs[0], scale, zero_point, name)
    if real is None or real.producer is None or real.producer.op.name != "fake_quantize":
        return None
    attrs = real.producer.attrs
    low, high = max(attrs.qmin, clip.attrs.min - shift), min(attrs.qmax, clip.attrs.max - shift)
    if not low <= attrs.zero_point <= high:
        return None
    grid = {"scale": scale, "zero_point": attrs.zero_point, "qmin": int(low), "qmax": int(high)}
    return node.add("fake_quantize", [real.producer.inputs[0]], name=f"{name}.clipped", **grid)


def _moved(node: OnnxNode, mover: Node, scale: float, zero_point: int, name: str) -> Value | None:
    """Return the real form of a node that moves integers: dequantize(move(q)) = move(dequantize(q))."""
    indices = mover.op.operand_activations(mover)
    operands = list(mover.inputs)
    for index in indices:
        real = _rounded(node, mover.inputs[index], scale, zero_point, f"{name}.{index}")
        if real is None:
            return None
        operands[index] = real
    types = mover.op.infer(mover.attrs, [v.type for v in operands])
    made = node.graph.add_node(mover.op, operands, mover.attrs, names=[name], types=types, loc=mover.loc).output
    found: Value = node.counted.declare(made, node.counted.axes(mover.output))
    return found


def _quantize_linear(node: OnnxNode) -> Value:
    x, scale = node.value(0), node.value(1)
    zero_point = node.value(2) if node.has(2) else None
    small = node.narrow_type(2) or SMALL_TYPES.get(int(node.attr("output_dtype", 0)), "")
    if small in SMALL:
        return _small(node, x, scale, zero_point, small)
    if node.narrow_type(2) or int(node.attr("output_dtype", 0)) in _BITS:
        narrow = node.narrow_type(2) or _BITS[int(node.attr("output_dtype"))]
        return quantized(node, x, scale, zero_point, narrow.lower(), node.outputs[0])
    dtype = zero_point.dtype if zero_point is not None else INTEGERS.get(int(node.attr("output_dtype", 0) or 2))
    if dtype is None or x.dtype != "float32":
        node.fail(f"a quantization of {x.type} to ONNX element type {node.attr('output_dtype')}")
    return quantized(node, x, scale, zero_point, dtype, node.outputs[0])


def _small(node: OnnxNode, x: Value, scale: Value, zero_point: Value | None, kind: str) -> Value:
    """Return the numbers of a floating point type of a byte or less that stand for x."""
    steps = node.add("div", [x, _aligned(node, scale, x, "scale")], name=f"{node.outputs[0]}.steps")
    if _matters(zero_point):
        offset = _aligned(node, zero_point, x, "zero_point")
        steps = node.add("add", [steps, offset], name=f"{node.outputs[0]}.moved")
    return rounded_float(node, steps, kind)


def _matters(zero_point: Value | None) -> TypeGuard[Value]:
    """Return whether a zero point may be other than 0."""
    return zero_point is not None and not (zero_point.data is not None and not zero_point.data.any())


def _dequantize_linear(node: OnnxNode) -> Value:
    return dequantized(node, node.value(0), node.value(1), node.value(2) if node.has(2) else None, node.outputs[0])


# -- operators on integers -----------------------------------------------------------------------------------


def _real(node: OnnxNode, index: int, what: str, axis: int | None = None) -> Value:
    """Return the real values of a (tensor, scale, zero_point) triple of inputs."""
    return _real_of(node, node.value(index), index + 1, index + 2, what, axis)


def _real_of(node: OnnxNode, q: Value, scale: int, zero_point: int, what: str, axis: int | None = None) -> Value:
    name = f"{node.outputs[0]}.{what}"
    view = _view(node, "DequantizeLinear", [], {} if axis is None else {"axis": axis}, name)
    return dequantized(view, q, node.value(scale), node.value(zero_point) if node.has(zero_point) else None, name)


def _view(node: OnnxNode, op: str, inputs: Sequence[Value | None], attributes: dict[str, Any], name: str) -> OnnxNode:
    return replace(node, op_type=op, inputs=list(inputs), attributes=attributes, outputs=[name], narrow=())


def _finished(node: OnnxNode, y: Value, scale: int, zero_point: int, dtype: str) -> Value:
    """Return the integers of a result."""
    view = _view(node, "QuantizeLinear", [], {}, node.outputs[0])
    zero = node.value(zero_point) if node.has(zero_point) else None
    return quantized(view, y, node.value(scale), zero, zero.dtype if zero is not None else dtype, node.outputs[0])


def apply_operator(node: OnnxNode, op: str, inputs: Sequence[Value | None], **attributes: Any) -> Value:
    """Convert the float operator that an integer one stands for."""
    from qcompile.onnx_import.support import converters

    view = _view(node, op, inputs, {**node.attributes, **attributes}, f"{node.outputs[0]}.real")
    result: Value | tuple[Value, ...] = converters()[op](view)
    return result[0] if isinstance(result, tuple) else result


def _bias(node: OnnxNode, index: int, x_scale: int, w_scale: int) -> Value | None:
    """Return the real bias of int32 at scale s_x · s_w."""
    if not node.has(index):
        return None
    q = node.array(index, "its bias")
    scale = node.array(x_scale, "a scale").reshape(-1)[0] * node.array(w_scale, "a scale").reshape(-1)
    return node.constant("bias", (q.astype(np.float64) * scale.astype(np.float64)).astype(np.float32))


def _qlinear_conv(node: OnnxNode) -> Value:
    x, w = _real(node, 0, "x"), _real(node, 3, "w", axis=0)
    y = apply_operator(node, "Conv", [x, w, _bias(node, 8, 1, 4)])
    return _finished(node, y, 6, 7, node.type(0).dtype)


def _qlinear_matmul(node: OnnxNode) -> Value:
    a, b = _real(node, 0, "a", axis=-2), _real(node, 3, "b", axis=-1)
    return _finished(node, apply_operator(node, "MatMul", [a, b]), 6, 7, node.type(0).dtype)


def _qgemm(node: OnnxNode) -> Value:
    a, b = _real(node, 0, "a"), _real(node, 3, "b", axis=0 if node.attr("transB", 0) else 1)
    y = apply_operator(node, "Gemm", [a, b, _bias(node, 6, 1, 4)])
    return _finished(node, y, 7, 8, node.type(0).dtype) if node.has(7) else y


def _qlinear_binary(op: str) -> Callable[[OnnxNode], Value]:
    def convert(node: OnnxNode) -> Value:
        y = apply_operator(node, op, [_real(node, 0, "a"), _real(node, 3, "b")])
        return _finished(node, y, 6, 7, node.type(0).dtype)

    return convert


def _qlinear_unary(op: str) -> Callable[[OnnxNode], Value]:
    def convert(node: OnnxNode) -> Value:
        return _finished(node, apply_operator(node, op, [_real(node, 0, "x")]), 3, 4, node.type(0).dtype)

    return convert


def _qlinear_pool(op: str) -> Callable[[OnnxNode], Value]:
    def convert(node: OnnxNode) -> Value:
        if node.attr("channels_last", 0):
            node.fail("channels_last=1")
        return _finished(node, apply_operator(node, op, [_real(node, 0, "x")]), 3, 4, node.type(0).dtype)

    return convert


def _qlinear_concat(node: OnnxNode) -> Value:
    parts = [_real_of(node, node.value(k), k + 1, k + 2, f"part{k}") for k in range(2, len(node.inputs), 3)]
    view = _view(node, "Concat", parts, node.attributes, f"{node.outputs[0]}.real")
    y = view.add("concat", parts, axis=axis_index(int(node.attr("axis")), len(parts[0].shape)))
    return _finished(node, y, 0, 1, node.type(2).dtype)


CONVERTERS: dict[str, Callable[[OnnxNode], Any]] = {
    "DequantizeLinear": _dequantize_linear,
    "QLinearConv": _qlinear_conv,
    "QLinearMatMul": _qlinear_matmul,
    "QuantizeLinear": _quantize_linear,
    f"{MICROSOFT}.DequantizeLinear": _dequantize_linear,
    f"{MICROSOFT}.QGemm": _qgemm,
    f"{MICROSOFT}.QLinearAdd": _qlinear_binary("Add"),
    f"{MICROSOFT}.QLinearAveragePool": _qlinear_pool("AveragePool"),
    f"{MICROSOFT}.QLinearConcat": _qlinear_concat,
    f"{MICROSOFT}.QLinearGlobalAveragePool": _qlinear_pool("GlobalAveragePool"),
    f"{MICROSOFT}.QLinearLeakyRelu": _qlinear_unary("LeakyRelu"),
    f"{MICROSOFT}.QLinearMul": _qlinear_binary("Mul"),
    f"{MICROSOFT}.QLinearSigmoid": _qlinear_unary("Sigmoid"),
    f"{MICROSOFT}.QLinearSoftmax": _qlinear_unary("Softmax"),
    f"{MICROSOFT}.QuantizeLinear": _quantize_linear,
}
