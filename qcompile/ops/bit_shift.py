"""Bits moved to the left or to the right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qcompile.ir.graph import Value
from qcompile.ir.opdef import Array
from qcompile.ops.elementwise import Binary
from qcompile.ops.onnx_node import OnnxNode


@dataclass(frozen=True)
class BitShiftAttrs:
    """Attributes of bit_shift.

    Args:
        left: whether bits move towards the most significant one.
    """

    left: bool = False


def _from_onnx(node: OnnxNode) -> Value:
    return node.add("bit_shift", [node.value(0), node.value(1)], left=node.attr("direction") == "LEFT")


class BitShift(Binary):
    """y = a · 2^b or ⌊a / 2^b⌋, modulo the width.

    Where b is negative, or the width or more, it is 0; to the right −1 for a negative a.

    Source:
        ONNX BitShift.
    """

    name = "bit_shift"
    Attrs = BitShiftAttrs
    onnx: ClassVar[dict[str, Any]] = {"BitShift": _from_onnx}

    def combine(self, attrs: BitShiftAttrs, a: Array, b: Array) -> Array:
        """Return a shifted by b bits."""
        width = 8 * a.dtype.itemsize
        within, by = (b >= 0) & (b < width), np.clip(b, 0, width - 1)
        if attrs.left:
            return np.asarray(np.where(within, np.left_shift(a, by), a.dtype.type(0)))
        beyond = np.where(a < 0, ~a.dtype.type(0), a.dtype.type(0))
        return np.asarray(np.where(within, np.right_shift(a, by), beyond))

    def expression(self, e: Any, attrs: BitShiftAttrs, a: Any, b: Any) -> Any:
        """Return a shifted by b bits; the machine's shift is defined below the width only."""
        width = 8 * np.dtype(a.dtype).itemsize
        zero = e.cast(e.i32(0), a.dtype)
        by, beyond = e.min(b, e.cast(e.i32(width - 1), b.dtype)), zero
        if not b.dtype.startswith("uint"):  # an unsigned number is never negative, which TVM cannot always prove
            by = e.max(by, zero)
            beyond = zero if attrs.left else e.select(a < zero, e.cast(e.i32(-1), a.dtype), zero)
        moved = e.shift_left(a, by) if attrs.left else a >> by
        return e.select(e.equal(by, b), moved, beyond)
