"""Remainder of a division."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qcompile.ir.graph import Value
from qcompile.ir.opdef import Array
from qcompile.ops.elementwise import Binary
from qcompile.ops.onnx_node import OnnxNode


@dataclass(frozen=True)
class ModAttrs:
    """Attributes of mod.

    Args:
        fmod: whether the result has the sign of the dividend (C's fmod), else that of the divisor (Python's %).
    """

    fmod: bool = False


def _from_onnx(node: OnnxNode) -> Value:
    return node.add("mod", [node.value(0), node.value(1)], fmod=bool(node.attr("fmod", 0)))


class Mod(Binary):
    """y = a − b · trunc(a / b) with `fmod`, else a − b · ⌊a / b⌋; 0 for an integer divided by 0.

    Source:
        ONNX Mod.
    """

    name = "mod"
    Attrs = ModAttrs
    onnx: ClassVar[dict[str, Any]] = {"Mod": _from_onnx}

    def combine(self, attrs: ModAttrs, a: Array, b: Array) -> Array:
        """Return the remainder."""
        return np.asarray(np.fmod(a, b) if attrs.fmod else np.mod(a, b))

    def expression(self, e: Any, attrs: ModAttrs, a: Any, b: Any) -> Any:
        """Return the remainder."""
        if str(a.dtype).startswith("float"):
            return self._real(e, attrs, a, b)
        zero, one = (e.cast(e.i32(n), a.dtype) for n in (0, 1))
        safe = e.select(e.equal(b, zero), one, b)
        if not str(a.dtype).startswith("uint"):
            # The smallest integer divided by −1 overflows; every remainder of −1 is 0.
            safe = e.select(e.equal(b, e.cast(e.i32(-1), a.dtype)), one, safe)
        rest = a % safe
        if attrs.fmod or str(a.dtype).startswith("uint"):
            return rest
        differ = e.or_(e.and_(rest < zero, zero < safe), e.and_(zero < rest, safe < zero))
        return e.select(differ, rest + safe, rest)

    def _real(self, e: Any, attrs: ModAttrs, a: Any, b: Any) -> Any:
        """Return the remainder of reals: of their sizes first, brought back where the quotient was rounded up."""
        zero = e.f32(0.0)
        size, by = e.abs(a), e.abs(b)
        rest = size - by * e.floor(size / by)
        rest = e.select(rest < zero, rest + by, rest)
        rest = e.select(rest >= by, rest - by, rest)
        rest = e.select(a < zero, zero - rest, rest)
        if attrs.fmod:
            return rest
        differ = e.or_(e.and_(rest < zero, zero < b), e.and_(zero < rest, b < zero))
        return e.select(differ, rest + b, rest)
