"""Reductions over axes: shapes, ONNX's ways to name axes, and the loops."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qcompile.ir.graph import Node, Value
from qcompile.ir.opdef import Array, OpDef, qparams_of
from qcompile.ir.types import TensorType
from qcompile.ops.onnx_node import OnnxNode
from qcompile.quant import requantize as rq


@dataclass(frozen=True)
class ReduceAttrs:
    """Attributes of a reduction.

    Args:
        axes: axes to reduce, not negative, ascending.
        keepdims: whether they stay, with extent 1.
    """

    axes: tuple[int, ...] = ()
    keepdims: bool = True

    def __post_init__(self) -> None:
        if list(self.axes) != sorted(set(self.axes)) or any(a < 0 for a in self.axes):
            raise ValueError(f"axes {self.axes} are not ascending, distinct and from 0 on")


class Reduction(OpDef):
    """y = the reduction of x over some axes; a subclass says which axes and which reduction."""

    def reduced(self, attrs: Any, rank: int) -> tuple[tuple[int, ...], bool]:
        """Return the reduced axes and whether they stay."""
        return attrs.axes, attrs.keepdims

    def infer(self, attrs: Any, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the operand's type without the reduced axes, or with extent 1 there."""
        x = inputs[0]
        axes, keepdims = self.reduced(attrs, x.rank)
        if len(inputs) != 1 or any(a >= x.rank for a in axes):
            raise ValueError(f"{self.name} over axes {axes} of {', '.join(map(str, inputs))}")
        kept = [1 if a in axes else d for a, d in enumerate(x.shape) if keepdims or a not in axes]
        return (x.with_shape(tuple(kept)),)

    def input_index(self, node: Node, i: Sequence[Any], r: Sequence[Any]) -> tuple[Any, ...]:
        """Return the operand's index for an output index and a position in the reduced axes."""
        rank = len(node.inputs[0].shape)
        axes, keepdims = self.reduced(node.attrs, rank)
        inner, outer = iter(r), iter(i)
        index = []
        for axis in range(rank):
            if axis in axes:
                index.append(next(inner))
                if keepdims:
                    next(outer)
            else:
                index.append(next(outer))
        return tuple(index)

    def lower_reduction(
        self, node: Node, context: Any, combine: str, init: tuple[float, str], finish: Callable[..., Any]
    ) -> None:
        """Emit the loops.

        Args:
            node: real operands are loaded as they are, quantized ones centred.
            context: the lowering context.
            combine: "sum", "max" or "min".
            init: first value of the accumulator and its element type.
            finish: (e, acc, i) → the result.
        """
        shape = node.inputs[0].shape
        axes, _ = self.reduced(node.attrs, len(shape))

        def body(e: Any, i: Any, r: Any) -> Any:
            index = self.input_index(node, i, r)
            return e.centred(0, *index) if node.is_integer else e.cast(e.load(0, *index), init[1])

        context.reduce(node, tuple(shape[a] for a in axes), body, combine, init, finish)

    def extent(self, attrs: Any, shape: Sequence[int]) -> int:
        """Return how many elements become one."""
        axes, _ = self.reduced(attrs, len(shape))
        return math.prod(shape[a] for a in axes)


class SumReduction(Reduction):
    """y = Σ x / count(x): a mean, or with a count of one a sum.

    Integer form: acc = Σ (q − zp), requantized with m = s_x / (s_y · count).
    """

    def count(self, attrs: Any, shape: Sequence[int]) -> int:
        """Return what the sum is divided by."""
        return self.extent(attrs, shape)

    def evaluate(self, attrs: Any, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Compute in the precision of the operand."""
        x = inputs[0]
        axes, keepdims = self.reduced(attrs, x.ndim)
        total = np.asarray(x.sum(axis=axes, keepdims=keepdims, dtype=x.dtype))
        count = self.count(attrs, x.shape)
        if count == 1:
            return (total,)
        return (total / x.dtype.type(count) if x.dtype.kind == "f" else total // count,)

    def evaluate_integer(self, node: Node, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Sum centred integers, then requantize."""
        (x,), (y,) = qparams_of(node)
        axes, keepdims = self.reduced(node.attrs, inputs[0].ndim)
        centred = inputs[0].astype(np.int32) - np.int32(x.scalar_zero_point)
        total = np.asarray(centred.sum(axis=axes, keepdims=keepdims, dtype=np.int32))
        return (rq.requantize(total, self._multiplier(node), y),)

    def _multiplier(self, node: Node) -> Any:
        (x,), (y,) = qparams_of(node)
        count = self.count(node.attrs, node.inputs[0].shape)
        return rq.multiplier(x.scalar_scale, y.scalar_scale * np.float64(count))

    def check(self, node: Node) -> None:
        """Check that the integer sum cannot overflow."""
        extent = self.extent(node.attrs, node.inputs[0].shape)
        reach = 2**16 if node.inputs[0].dtype == "int16" else 255
        if node.is_integer and extent * reach > 2**31 - 1:
            raise ValueError(f"a sum of {extent} {node.inputs[0].dtype} elements could leave int32")

    def int16_obstacle(self, node: Node) -> str | None:
        """Refuse sums that could leave int32."""
        extent = self.extent(node.attrs, node.inputs[0].shape)
        return f"a sum of {extent} 16-bit elements could leave int32" if extent >= 2**15 else None

    def lower(self, node: Node, context: Any) -> None:
        """Emit a sum."""
        if node.is_integer:
            m = float(self._multiplier(node))
            self.lower_reduction(node, context, "sum", (0, "int32"), lambda e, acc, i: e.requantize(acc, m))
            return
        inverse = 1.0 / self.count(node.attrs, node.inputs[0].shape)
        init = (0.0, node.output.dtype)
        self.lower_reduction(node, context, "sum", init, lambda e, acc, i: acc * e.f32(inverse))


class SelectReduction(Reduction):
    """y = the largest or smallest element; quantized, it keeps the operand's QParams.

    Of no elements the largest is the least number of the type, and the smallest the greatest one.
    """

    combine: str

    def evaluate(self, attrs: Any, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Select over the reduced axes."""
        x = inputs[0]
        axes, keepdims = self.reduced(attrs, x.ndim)
        select = np.max if self.combine == "max" else np.min
        return (np.asarray(select(x, axis=axes, keepdims=keepdims, initial=self._neutral(x.dtype)), x.dtype),)

    def _neutral(self, dtype: np.dtype[Any]) -> Any:
        if dtype.kind == "f":
            return -math.inf if self.combine == "max" else math.inf
        ends = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        return ends[self.combine == "min"]

    def lower(self, node: Node, context: Any) -> None:
        """Emit a selection."""
        sign = -1 if self.combine == "max" else 1
        if node.is_integer:
            # Centred integers lie within ±2^16; any bound beyond loses to every element.
            init: tuple[float, str] = (sign * 2**20, "int32")
            self.lower_reduction(node, context, self.combine, init, lambda e, acc, i: e.clamp_store(acc))
        else:
            # Machines compare numbers: truth values as 0 and 1.
            dtype = "uint8" if node.output.dtype == "bool" else node.output.dtype
            real = dtype.startswith(("float", "bfloat"))
            init = (sign * math.inf if real else self._neutral(np.dtype(dtype)), dtype)
            self.lower_reduction(node, context, self.combine, init, lambda e, acc, i: e.cast(acc, node.output.dtype))


def reduce_converter(op: str, *, axes_input_since: int) -> Callable[[OnnxNode], Value]:
    """Return a converter for an ONNX reduction.

    Args:
        op: name of the IR operation.
        axes_input_since: the opset from which `axes` is an input, no longer an attribute.
    """

    def convert(node: OnnxNode) -> Value:
        x = node.value(0)
        rank = len(x.shape)
        if node.opset >= axes_input_since:
            given = node.array_or_none(1, "axes")
            axes = [] if given is None else [int(a) for a in given.reshape(-1)]
        else:
            axes = [int(a) for a in node.attr("axes", [])]
        if not axes:
            if node.attr("noop_with_empty_axes", 0):
                return x
            axes = list(range(rank))
        if any(not -rank <= a < rank for a in axes):
            node.fail(f"axes {axes} of {x.type}")
        normalized = tuple(sorted({a % rank for a in axes}))
        return node.add(op, [x], axes=normalized, keepdims=bool(node.attr("keepdims", 1)))

    return convert


@dataclass(frozen=True)
class GlobalPoolAttrs:
    """Attributes of a global pooling.

    Args:
        layout: "NCHW" or "NHWC".
    """

    layout: str = "NCHW"

    def __post_init__(self) -> None:
        if self.layout not in ("NCHW", "NHWC"):
            raise ValueError(f"layout '{self.layout}' is neither NCHW nor NHWC")


def global_axes(layout: str) -> tuple[int, ...]:
    """Return the axes that a global pooling reduces."""
    return (2, 3) if layout == "NCHW" else (1, 2)


def global_converter(op: str, reduction: str) -> Callable[[OnnxNode], Value]:
    """Return a converter for an ONNX global pooling.

    Args:
        op: name of the IR operation for two spatial axes.
        reduction: name of the IR operation for another number of them.
    """

    def convert(node: OnnxNode) -> Value:
        x = node.value(0)
        if len(x.shape) == 4:
            return node.add(op, [x])
        if len(x.shape) < 3:
            node.fail(f"{x.type} has no spatial axes")
        return node.add(reduction, [x], axes=tuple(range(2, len(x.shape))), keepdims=True)

    return convert
