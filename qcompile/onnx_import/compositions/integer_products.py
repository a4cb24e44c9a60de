"""MatMulInteger and ConvInteger: with constant weights products of integers by the kernels of int8 layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.ir.graph import Value
from qcompile.onnx_import.compositions.quantized import apply_operator, reshaped
from qcompile.ops.onnx_node import OnnxNode
from qcompile.ops.spatial import window_attribute, window_pads

_MOST_TERMS = (2**31 - 1) // (255 * 127)

Array = npt.NDArray[Any]


def matmul_integer(node: OnnxNode) -> Value | None:
    """Return the int32 product of MatMulInteger; None where B is not a constant matrix, or too long for int32."""
    a = node.value(0)
    matrix = _weights(node, channel_axis=-1)
    if matrix is None or matrix.ndim != 2 or not a.shape or matrix.shape[0] > _MOST_TERMS:
        return None
    zero_point = _rows_zero_point(node, a)
    if zero_point is None:
        return None
    parts = [node.constant(f"weight{n}", part) for n, part in enumerate(_parts(np.ascontiguousarray(matrix.T)))]
    names = _names(node, len(parts))
    sums = [
        node.add("dense_integer", [a, part, zero_point], name=name) for part, name in zip(parts, names, strict=True)
    ]
    return _total(node, sums)


def conv_integer(node: OnnxNode) -> Value | None:
    """Return the int32 result of a 2-D ConvInteger; None where the weights are not constant, or other axes reduced."""
    x = node.value(0)
    weight = _weights(node, channel_axis=0)
    if weight is None or weight.ndim != 4 or int(np.prod(weight.shape[1:])) > _MOST_TERMS:
        return None
    zero_point = _one_zero_point(node)
    if zero_point is None:
        return None
    kernel = tuple(weight.shape[2:])
    strides, dilations = window_attribute(node, "strides", 2), window_attribute(node, "dilations", 2)
    attrs = {
        "strides": strides,
        "dilations": dilations,
        "pads": window_pads(node, kernel, strides, dilations, x.shape[2:]),
        "groups": int(node.attr("group", 1)),
        "layout": "NHWC",
    }
    name = node.outputs[0]
    last = node.add("transpose", [x], name=f"{name}.x", perm=(0, 2, 3, 1))
    ordered = np.ascontiguousarray(weight.transpose(0, 2, 3, 1))
    parts = [node.constant(f"weight{n}", part) for n, part in enumerate(_parts(ordered))]
    sums = [
        node.add("conv2d_integer", [last, part, zero_point], name=f"{name}.sums{n}", **attrs)
        for n, part in enumerate(parts)
    ]
    total = sums[0]
    for number, other in enumerate(sums[1:]):
        total = node.add("add", [total, other], name=f"{name}.total{number}")
    return node.add("transpose", [total], name=name, perm=(0, 3, 1, 2))


def _weights(node: OnnxNode, channel_axis: int) -> Array | None:
    """Return the constant weights relative to their zero point, None where either is computed at run time."""
    data = node.value(1).data
    zero = node.value(3) if node.has(3) else None
    if data is None or (zero is not None and zero.data is None):
        return None
    centred = data.astype(np.int32)
    if zero is None or zero.data is None:
        return centred
    offset = zero.data.astype(np.int32)
    if offset.size > 1:
        if offset.ndim != 1 or offset.size != data.shape[channel_axis]:
            return None
        shape = [1] * data.ndim
        shape[channel_axis] = offset.size
        return np.asarray(centred - offset.reshape(shape))
    return np.asarray(centred - offset.reshape(()))


def _parts(weights: Array) -> list[Array]:
    """Return int8 weights within ±127 that add up to the given ones: one part, as a rule."""
    parts = [np.clip(weights, -127, 127)]
    left = weights - parts[0]
    while left.any():
        parts.append(np.clip(left, -127, 127))
        left = left - parts[-1]
    return [part.astype(np.int8) for part in parts]


def _one_zero_point(node: OnnxNode) -> Value | None:
    """Return the zero point of the first operand as an int32 scalar, None where there are several."""
    if not node.has(2):
        return node.constant("zero_point", np.zeros((), np.int32))
    zero = node.value(2)
    return _shaped(node, zero, ()) if zero.type.size == 1 else None


def _rows_zero_point(node: OnnxNode, a: Value) -> Value | None:
    """Return the zero point of the first operand, one or one per row, None for anything else."""
    if not node.has(2) or node.value(2).type.size == 1:
        return _one_zero_point(node)
    zero = node.value(2)
    if len(a.shape) >= 2 and zero.shape == a.shape[-2:-1]:
        return _shaped(node, zero, (zero.shape[0], 1))
    return _shaped(node, zero, zero.shape) if zero.shape == (*a.shape[:-1], 1) else None


def _shaped(node: OnnxNode, zero: Value, shape: tuple[int, ...]) -> Value:
    name = f"{node.outputs[0]}.zero_point"
    if zero.shape != shape:
        zero = node.add("reshape", [zero], name=f"{name}.shaped", shape=shape)
    return zero if zero.dtype == "int32" else node.add("cast", [zero], name=name, dtype="int32")


def _names(node: OnnxNode, count: int) -> Sequence[str]:
    return [node.outputs[0]] if count == 1 else [f"{node.outputs[0]}.sums{n}" for n in range(count)]


def _total(node: OnnxNode, sums: Sequence[Value]) -> Value:
    total = sums[0]
    for number, other in enumerate(sums[1:], 1):
        last = number == len(sums) - 1
        total = node.add("add", [total, other], name=node.outputs[0] if last else f"{node.outputs[0]}.total{number}")
    return total


def _centred(node: OnnxNode, index: int, zero_point: int, what: str, rows: bool = False) -> Value:
    """Return q − zero_point as real numbers, which are exact."""
    name = f"{node.outputs[0]}.{what}"
    q, zero = node.value(index), node.value(zero_point) if node.has(zero_point) else None
    real = node.add("cast", [q], name=name, dtype="float32")
    if zero is None or (zero.data is not None and not zero.data.any()):
        return real
    offset = node.add("cast", [zero], name=f"{name}.zero", dtype="float32")
    if offset.type.size > 1 and rows:
        offset = reshaped(node, offset, (-1,) + (1,) * (len(q.shape) - 1), f"{what}.column")
    elif offset.type.size == 1:
        offset = reshaped(node, offset, (), f"{what}.offset")
    return node.add("sub", [real, offset], name=f"{name}.centred")


def _integer_product(op: str) -> Callable[[OnnxNode], Value]:
    """Return a converter of ConvInteger or MatMulInteger.

    With constant weights they are integer layers. Else they are products of whole numbers, summed as reals: exact
    below 2^24; beyond that they are as near as a float32 can be.
    """
    exact = matmul_integer if op == "MatMul" else conv_integer

    def convert(node: OnnxNode) -> Value:
        result = exact(node)
        if result is not None:
            return result
        a = _centred(node, 0, 2, "a", rows=op == "MatMul")
        b = _centred(node, 1, 3, "b", rows=op == "Conv")
        return node.add("cast", [apply_operator(node, op, [a, b])], dtype="int32")

    return convert


CONVERTERS: dict[str, Callable[[OnnxNode], Any]] = {
    "ConvInteger": _integer_product("Conv"),
    "MatMulInteger": _integer_product("MatMul"),
}
