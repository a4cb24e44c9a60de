"""Error function."""

from __future__ import annotations

from typing import Any, ClassVar

from qcompile.ir.opdef import Array, NoAttrs
from qcompile.ops.elementwise import Unary, erf, unary_converter


class Erf(Unary):
    """y = 2/√π · ∫₀ˣ e^{−t²} dt.

    Source:
        ONNX Erf.
    """

    name = "erf"
    onnx: ClassVar[dict[str, Any]] = {"Erf": unary_converter("erf")}

    def function(self, attrs: NoAttrs, x: Array) -> Array:
        """Return erf(x)."""
        return erf(x)

    def expression(self, e: Any, attrs: NoAttrs, x: Any) -> Any:
        """Return erf(x)."""
        return e.erf(x)

    def fixed_range(self, attrs: NoAttrs) -> tuple[float, float] | None:
        """Return the function's own bounds."""
        return (-1.0, 1.0)
