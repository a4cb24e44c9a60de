"""Operations that work element by element: unary functions, broadcast binary ones, and their numerics."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from qcompile.errors import InternalError
from qcompile.ir.graph import Node, Value
from qcompile.ir.opdef import Array, OpDef, Quantization, qparams_of
from qcompile.ir.range_source import range_source
from qcompile.ir.types import TensorType
from qcompile.ops.onnx_node import OnnxNode
from qcompile.quant import int16
from qcompile.quant import requantize as rq
from qcompile.quant.qparams import QParams

_MOST_BEND = 1 / (255 * math.sqrt(12))
"""Of a function between the entries of its 16-bit table, as a part of its reach: the noise of 8 bits."""


class Unary(OpDef):
    """y = f(x) for each element; a subclass gives `function` and `expression`.

    On quantized tensors it is a table of 256 entries, unless the subclass says otherwise.
    """

    activations = (0,)
    integer = Quantization.TABLE

    def infer(self, attrs: Any, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the operand's type."""
        if len(inputs) != 1:
            raise ValueError(f"{self.name} takes one operand, got {len(inputs)}")
        return (inputs[0],)

    def evaluate(self, attrs: Any, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Apply the function in the precision of the operand."""
        with np.errstate(all="ignore"):
            y = np.asarray(self.function(attrs, inputs[0]))
        return (y.astype(inputs[0].dtype, copy=False),)

    def expression(self, e: Any, attrs: Any, x: Any) -> Any:
        """Return f(x) as an expression of the lowering's builder.

        Args:
            e: the expression builder.
            attrs: the node's attributes.
            x: a real-valued expression.
        """
        raise InternalError(f"op '{self.name}' does not define this")

    def int16_obstacle(self, node: Node) -> str | None:
        """Refuse functions that turn so often in their range that the entries of a table do not tell their course."""
        spec = range_source(node.inputs[0]).qspec
        known = spec.range if spec is not None and self.integer is Quantization.TABLE else None
        if known is None or int16.bend(lambda x: self.function(node.attrs, x), *known) <= _MOST_BEND:
            return super().int16_obstacle(node)
        low, high = known
        return f"{self.name} bends too much between {low:.3g} and {high:.3g} for a table"

    def lower(self, node: Node, context: Any) -> None:
        """Emit a table look-up in integer form, else an elementwise loop."""
        if node.is_integer and node.inputs[0].dtype == int16.INT16:
            lower_interpolated(node, context)
        elif node.is_integer:
            context.table(node)
        else:
            context.map(node, lambda e, i: self.expression(e, node.attrs, e.load(0, *i)))


def unary_converter(op: str, **attributes: tuple[str, float]) -> Callable[[OnnxNode], Value]:
    """Return a converter for an ONNX operator with one input and float attributes.

    Args:
        op: name of the IR operation.
        attributes: field of its Attrs → (ONNX attribute, default).
    """

    def convert(node: OnnxNode) -> Value:
        given = {field: float(node.attr(onnx, default)) for field, (onnx, default) in attributes.items()}
        return node.add(op, [node.value(0)], None, **given)

    return convert


def broadcast_shape(shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """Return the shape that all operands stretch to.

    Raises:
        ValueError: two extents differ and neither is 1.

    Source:
        ONNX multidirectional broadcasting (NumPy's rule).
    """
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        raise ValueError(f"shapes {' and '.join(str(list(s)) for s in shapes)} do not broadcast") from None


class Binary(OpDef):
    """y = f(a, b) with broadcasting; a subclass gives `combine` and `expression`."""

    result_dtype: ClassVar[str | None] = None

    def infer(self, attrs: Any, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the broadcast type."""
        if len(inputs) != 2:
            raise ValueError(f"{self.name} takes two operands, got {len(inputs)}")
        a, b = inputs
        if a.dtype != b.dtype:
            raise ValueError(f"{self.name} of {a} and {b}: the element types differ")
        return (TensorType(self.result_dtype or a.dtype, broadcast_shape([a.shape, b.shape])),)

    def combine(self, attrs: Any, a: Array, b: Array) -> Array:
        """Return f(a, b) in the precision of the operands."""
        raise InternalError(f"op '{self.name}' does not define this")

    def expression(self, e: Any, attrs: Any, a: Any, b: Any) -> Any:
        """Return f(a, b) as an expression of the lowering's builder."""
        raise InternalError(f"op '{self.name}' does not define this")

    def evaluate(self, attrs: Any, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Apply the function with NumPy's broadcasting."""
        with np.errstate(all="ignore"):
            y = np.asarray(self.combine(attrs, inputs[0], inputs[1]))
        return (y.astype(self.result_dtype or inputs[0].dtype, copy=False),)

    def lower(self, node: Node, context: Any) -> None:
        """Emit an elementwise loop over real values."""

        def real(e: Any, i: Any) -> Any:
            return self.expression(e, node.attrs, e.load(0, *e.broadcast(0, i)), e.load(1, *e.broadcast(1, i)))

        context.map(node, real)


def binary_converter(op: str) -> Callable[[OnnxNode], Value]:
    """Return a converter for an ONNX operator with two broadcast inputs."""
    return lambda node: node.add(op, [node.value(0), node.value(1)])


def variadic_converter(op: str) -> Callable[[OnnxNode], Value]:
    """Return a converter that folds any number of inputs with a binary operation (Sum, Min, Max)."""

    def convert(node: OnnxNode) -> Value:
        total = node.value(0)
        last = len(node.inputs) - 1
        for index in range(1, last + 1):
            name = node.outputs[0] if index == last else f"{node.outputs[0]}.{index}"
            total = node.add(op, [total, node.value(index)], name=name)
        return total

    return convert


def quantized_everywhere(node: Node) -> bool:
    """Return whether all operands and results have QParams already."""
    return all(v.qparams is not None for v in (*node.inputs, *node.outputs))


def per_tensor_obstacle(node: Node) -> str | None:
    """Return why an elementwise integer rule cannot take these QParams, or None."""
    if not quantized_everywhere(node):
        return None
    inputs, outputs = qparams_of(node)
    return "an operand is quantized per channel" if any(q.per_channel for q in (*inputs, *outputs)) else None


def sigmoid(x: Array) -> Array:
    """Return 1 / (1 + e^−x) without overflow, in the precision of x.

    Formula:
        1 / (1 + e^−|x|) for x ≥ 0, e^−|x| / (1 + e^−|x|) below
    """
    small = np.exp(-np.abs(x))
    return np.asarray(np.where(x >= 0, x.dtype.type(1), small) / (x.dtype.type(1) + small))


def softplus(x: Array) -> Array:
    """Return ln(1 + e^x) without overflow, in the precision of x."""
    return np.asarray(np.maximum(x, x.dtype.type(0)) + np.log1p(np.exp(-np.abs(x))))


_ERF_STEP = 1 / 64
_ERF_REACH = 6.0
_ERF_ORDER = 8
_ERF_SHORT = 4  # of float32: what is left out is below 1e-10
_ERF_BLOCK = 8192  # elements at a time, whose intermediate arrays stay in the cache


@cache
def _erf_coefficients() -> npt.NDArray[np.float64]:
    """Return Taylor coefficients of erf around every node k/64 of [0, 6], one row per power.

    Formula:
        g(t) = e^{−t²} has g' = −2·t·g, so its coefficients at t₀ obey
        (n + 1)·c[n+1] = −2·(t₀·c[n] + c[n−1]); erf's are b[n+1] = 2/√π · c[n] / (n + 1)
    """
    nodes = np.arange(0.0, _ERF_REACH + 2 * _ERF_STEP, _ERF_STEP)
    density = [np.exp(-nodes * nodes)]
    density.append(-2.0 * nodes * density[0])
    for n in range(1, _ERF_ORDER - 1):
        density.append(-2.0 * (nodes * density[n] + density[n - 1]) / (n + 1))
    rows = [np.array([math.erf(t) for t in nodes])]
    rows += [2.0 / math.sqrt(math.pi) * c / (n + 1) for n, c in enumerate(density)]
    return np.stack(rows)


def erf(x: Array) -> Array:
    """Return the error function, computed in float64, in the precision of x.

    Formula:
        erf(|x|) = Σ b[n, k]·(|x| − k/64)^n with k the nearest node; 1 beyond 6

    Args:
        x: float32 or float64, any shape; within 2 units in the last place of float64, 0.51 of float32.
    """
    flat = np.ascontiguousarray(x).reshape(-1)
    parts = [_erf(flat[start : start + _ERF_BLOCK]) for start in range(0, flat.size, _ERF_BLOCK)]
    return np.concatenate(parts or [flat]).reshape(x.shape)


def _erf(x: Array) -> Array:
    coefficients = _erf_coefficients()
    magnitude = np.minimum(np.abs(x).astype(np.float64), _ERF_REACH)
    known = np.nan_to_num(magnitude) if np.isnan(magnitude).any() else magnitude
    nearest = np.rint(known / _ERF_STEP)
    nodes, offset = nearest.astype(np.intp), magnitude - nearest * _ERF_STEP
    order = _ERF_ORDER if x.dtype == np.float64 else _ERF_SHORT
    y, part = coefficients[order].take(nodes), np.empty(nodes.shape)
    for row in coefficients[order - 1 :: -1]:
        y *= offset
        y += row.take(nodes, out=part, mode="clip")  # all are within: with an array to write to, no mode is faster
    return np.asarray(np.copysign(y, x).astype(x.dtype))


def has_int16(*params: QParams) -> bool:
    """Return whether any of these tensors has 16 bits."""
    return any(q.dtype == int16.INT16 for q in params)


def integer_sum(
    qa: Array, qb: Array, a: QParams, b: QParams, result: QParams, signs: tuple[int, int] = (1, 1)
) -> Array:
    """Add integers by the rule for their widths; arguments as for `qcompile.quant.requantize.add`."""
    rule = int16.add if has_int16(a, b, result) else rq.add
    return rule(qa, qb, a, b, result, signs)


def sum_obstacle(node: Node, signs: tuple[int, int], before: QParams | None = None) -> str | None:
    """Return why an integer sum cannot take its QParams, or None (also where they are not known yet).

    Args:
        node: has two operands.
        signs: +1 or −1 for each operand.
        before: QParams of the sum where a table follows it; else those of the result.
    """
    obstacle = per_tensor_obstacle(node)
    if obstacle or not quantized_everywhere(node):
        return obstacle
    (a, b), (y,) = qparams_of(node)
    try:
        if has_int16(a, b, before or y):
            int16.sum_constants(a, b, before or y, signs)
        else:
            rq.add_constants(a, b, before or y, signs)
    except ValueError as error:
        return str(error)
    return None


def lower_sum(
    node: Node,
    context: Any,
    signs: tuple[int, int],
    before: QParams | None = None,
    table: npt.NDArray[np.int8] | None = None,
) -> None:
    """Emit `qcompile.quant.requantize.add` as one elementwise loop.

    Args:
        node: in integer form, with two operands.
        context: the lowering context.
        signs: +1 or −1 for each operand.
        before: QParams of the sum where a table follows it.
        table: maps the sum, q + 128, to the result's q.
    """
    (a, b), (y,) = qparams_of(node)
    if has_int16(a, b, y):
        _lower_int16_sum(node, context, int16.sum_constants(a, b, y, signs))
        return
    constants = rq.add_constants(a, b, before or y, signs)

    def emit(e: Any, i: Any) -> Any:
        terms = [e.centred(k, *e.broadcast(k, i)) * e.i32(constants.multipliers[k]) for k in (0, 1)]
        return e.clamp_store((terms[0] + terms[1] + e.i32(1 << (constants.shift - 1))) >> e.i32(constants.shift))

    if table is None or before is None:
        context.map(node, emit)
    else:
        context.map_table(node, emit, before, table)


def _lower_int16_sum(node: Node, context: Any, constants: int16.SumConstants) -> None:
    """Emit `qcompile.quant.int16.add` as one elementwise loop."""
    shift = constants.shift

    def emit(e: Any, i: Any) -> Any:
        limit = e.f32(rq.WIDE_LIMIT)
        terms = []
        for k, m in enumerate(constants.multipliers):
            scaled = e.cast(e.centred(k, *e.broadcast(k, i)), "float32") * e.f32(m)
            terms.append(e.round_clamp(scaled, e.f32(-rq.WIDE_LIMIT), limit))
        total = terms[0] + terms[1]
        if shift > 0:
            return e.clamp_store((total + e.i32(1 << (shift - 1))) >> e.i32(shift))
        bounded = e.min(e.max(total, e.i32(-constants.limit)), e.i32(constants.limit))
        return e.clamp_store(e.shift_left(bounded, e.i32(-shift)))

    context.map(node, emit)


def lower_interpolated(node: Node, context: Any) -> None:
    """Emit `qcompile.quant.int16.look_up` of a unary function as one elementwise loop."""
    (x,), (y,) = qparams_of(node)
    entries = context.constant(int16.table(lambda real: node.op.function(node.attrs, real), x, y))
    bits = int16.SEGMENT_BITS
    shift = bits + int16.fraction_bits(y.dtype)

    def emit(e: Any, i: Any) -> Any:
        place = e.cast(e.load(0, *i), "int32") + e.i32(32768)
        pair = e.at(entries, place >> e.i32(bits))
        first = e.shift_left(pair, e.i32(16)) >> e.i32(16)
        rise = (pair >> e.i32(16)) - first
        part = e.bit_and(place, e.i32(2**bits - 1))
        total = e.shift_left(first, e.i32(bits)) + rise * part
        return e.cast((total + e.i32(2 ** (shift - 1))) >> e.i32(shift), y.dtype)

    context.map(node, emit)
