"""Clamping between two bounds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qcompile.ir.graph import Value
from qcompile.ir.opdef import Array
from qcompile.ops.elementwise import Unary
from qcompile.ops.onnx_node import OnnxNode

_FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class ClipAttrs:
    """Attributes of clip.

    Args:
        min: lower bound, real units; −inf where there is none.
        max: upper bound, real units; +inf where there is none.
    """

    min: float = -math.inf
    max: float = math.inf


def _from_onnx(node: OnnxNode) -> Value:
    x = node.value(0)
    if node.opset < 11:
        return _constant_bounds(node, float(node.attr("min", -math.inf)), float(node.attr("max", math.inf)))
    bounds = [node.value(k) if node.has(k) else None for k in (1, 2)]
    if all(b is None or b.is_constant for b in bounds):
        low, high = (None if b is None else float(b.constant().reshape(())) for b in bounds)
        return _constant_bounds(node, -math.inf if low is None else low, math.inf if high is None else high)
    # A bound known only at run time: the same clamp as two broadcast operations.
    low_value, high_value = bounds
    if low_value is not None:
        last = high_value is None
        x = node.add("maximum", [x, low_value], name=node.outputs[0] if last else f"{node.outputs[0]}.low")
    return x if high_value is None else node.add("minimum", [x, high_value])


def _constant_bounds(node: OnnxNode, low: float, high: float) -> Value:
    # Exporters write "no bound" as the largest float.
    low = -math.inf if low <= -_FLOAT32_MAX else low
    high = math.inf if high >= _FLOAT32_MAX else high
    return node.add("clip", [node.value(0)], min=low, max=high)


class Clip(Unary):
    """y = min(max(x, min), max).

    Source:
        ONNX Clip; where min exceeds max, every element becomes max.
    """

    name = "clip"
    Attrs = ClipAttrs
    onnx: ClassVar[dict[str, Any]] = {"Clip": _from_onnx}

    def function(self, attrs: ClipAttrs, x: Array) -> Array:
        """Return x between the bounds."""
        if attrs.min > -math.inf:
            x = np.maximum(x, x.dtype.type(attrs.min))
        if attrs.max < math.inf:
            x = np.minimum(x, x.dtype.type(attrs.max))
        return x

    def expression(self, e: Any, attrs: ClipAttrs, x: Any) -> Any:
        """Return x between the bounds."""
        if attrs.min > -math.inf:
            x = e.max(x, e.f32(attrs.min))
        if attrs.max < math.inf:
            x = e.min(x, e.f32(attrs.max))
        return x
