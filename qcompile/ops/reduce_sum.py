"""Sum over axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from qcompile.ir.opdef import Quantization
from qcompile.ops.reduction import ReduceAttrs, SumReduction, reduce_converter


class ReduceSum(SumReduction):
    """y = Σ x over the axes.

    Integer form: acc = Σ (q − zp), requantized with m = s_x / s_y.

    Source:
        ONNX ReduceSum.
    """

    name = "reduce_sum"
    Attrs = ReduceAttrs
    integer = Quantization.ARITHMETIC
    takes_int16 = True
    onnx: ClassVar[dict[str, Any]] = {"ReduceSum": reduce_converter("reduce_sum", axes_input_since=13)}

    def count(self, attrs: ReduceAttrs, shape: Sequence[int]) -> int:
        """Return 1: a sum is not divided."""
        return 1
