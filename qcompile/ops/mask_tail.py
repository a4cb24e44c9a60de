"""Other values past the actual end of an open axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qcompile.ir.graph import Node
from qcompile.ir.opdef import Array, OpDef, Quantization
from qcompile.ir.types import TensorType
from qcompile.quant.affine import quantize
from qcompile.quant.qparams import QParams


@dataclass(frozen=True)
class MaskTailAttrs:
    """Attributes of mask_tail.

    Args:
        axis: the open axis, counted from the front.
        entry: which number of operand 1 is its actual extent.
        fill: real value from there on; None repeats the last element before it.
    """

    axis: int = 0
    entry: int = 0
    fill: float | None = 0.0


class MaskTail(OpDef):
    """y = x where the index on the axis is below extents[entry], else the fill value.

    Operands: x, and the actual extents (int32). Integer form: the same on q, the fill value quantized with the QParams
    of x; infinities become the ends of its range.
    """

    name = "mask_tail"
    Attrs = MaskTailAttrs
    activations = (0,)
    integer = Quantization.SHARED

    def infer(self, attrs: MaskTailAttrs, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the operand's type."""
        x, extents = inputs
        if not 0 <= attrs.axis < x.rank or extents.dtype != "int32" or not 0 <= attrs.entry < extents.size:
            raise ValueError(f"axis {attrs.axis} of {x} by entry {attrs.entry} of {extents}")
        return (x,)

    def evaluate(self, attrs: MaskTailAttrs, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Replace the elements past the end."""
        return (_masked(attrs, inputs[0], inputs[1], real_fill(attrs, inputs[0].dtype)),)

    def evaluate_integer(self, node: Node, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Replace the codes past the end."""
        return (_masked(node.attrs, inputs[0], inputs[1], fill_code(node)),)

    def lower(self, node: Node, context: Any) -> None:
        """Emit a copy that looks at the index."""
        attrs, x = node.attrs, node.inputs[0]
        fill = fill_code(node) if node.is_integer else real_fill(attrs, np.dtype(x.dtype))

        def element(e: Any, i: Any) -> Any:
            end = e.cast(e.load(1, attrs.entry), "int64")
            if attrs.fill is None:
                return e.load(0, *i[: attrs.axis], e.min(i[attrs.axis], end - 1), *i[attrs.axis + 1 :])
            return e.select(i[attrs.axis] < end, e.load(0, *i), fill)

        context.map(node, element)


def _masked(attrs: MaskTailAttrs, x: Array, extents: Array, fill: Any) -> Array:
    end = int(extents.reshape(-1)[attrs.entry])
    result: Array = x.copy()
    tail = (slice(None),) * attrs.axis
    if end < x.shape[attrs.axis]:
        last = (*tail, slice(end - 1, end))
        rest = (*tail, slice(end, None))
        result[rest] = x[last] if attrs.fill is None else fill
    return result


def real_fill(attrs: MaskTailAttrs, dtype: np.dtype[Any]) -> Any:
    """Return the fill value of a real tensor; integers have no infinities, but a largest and a smallest number."""
    fill = attrs.fill or 0.0
    if dtype.kind in "iu" and math.isinf(fill):
        info = np.iinfo(dtype)
        return int(info.max if fill > 0 else info.min)
    return int(fill) if dtype.kind in "iub" else fill


def fill_code(node: Node) -> int:
    """Return the fill value of a quantized tensor, in LSB."""
    params: QParams | None = node.inputs[0].qparams
    fill = node.attrs.fill or 0.0
    if params is None:
        raise ValueError(f"{node.inputs[0].name} is not quantized")
    if math.isinf(fill):
        return params.qmax if fill > 0 else params.qmin
    return params.scalar_zero_point if fill == 0 else int(quantize(np.array([fill], np.float32), params)[0])
