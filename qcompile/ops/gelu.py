"""Gaussian error linear unit, exact or with its tanh approximation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qcompile.ir.graph import Value
from qcompile.ir.opdef import Array
from qcompile.ops.elementwise import Unary, erf
from qcompile.ops.onnx_node import OnnxNode

_CUBIC = 0.044715


@dataclass(frozen=True)
class GeluAttrs:
    """Attributes of gelu.

    Args:
        approximate: "none" for the exact function, "tanh" for its usual approximation.
    """

    approximate: str = "none"

    def __post_init__(self) -> None:
        if self.approximate not in ("none", "tanh"):
            raise ValueError(f"approximate '{self.approximate}' is neither none nor tanh")


def _from_onnx(node: OnnxNode) -> Value:
    return node.add("gelu", [node.value(0)], approximate=str(node.attr("approximate", "none")))


class Gelu(Unary):
    """y = x/2 · (1 + erf(x/√2)), or x/2 · (1 + tanh(√(2/π)·(x + 0.044715·x³))).

    Source:
        ONNX Gelu; Hendrycks and Gimpel 2016.
    """

    name = "gelu"
    Attrs = GeluAttrs
    onnx: ClassVar[dict[str, Any]] = {"Gelu": _from_onnx}

    def function(self, attrs: GeluAttrs, x: Array) -> Array:
        """Return x · Φ(x)."""
        kind = x.dtype.type
        if attrs.approximate == "tanh":
            inner = np.tanh(kind(math.sqrt(2 / math.pi)) * (x + kind(_CUBIC) * x * x * x))
        else:
            inner = erf(x * kind(math.sqrt(0.5)))
        return np.asarray(kind(0.5) * x * (kind(1) + inner))

    def expression(self, e: Any, attrs: GeluAttrs, x: Any) -> Any:
        """Return x · Φ(x)."""
        if attrs.approximate == "tanh":
            inner = e.tanh((x + x * x * x * e.f32(_CUBIC)) * e.f32(math.sqrt(2 / math.pi)))
        else:
            inner = e.erf(x * e.f32(math.sqrt(0.5)))
        return x * e.f32(0.5) * (e.f32(1.0) + inner)
