"""Mean over axes."""

from __future__ import annotations

from typing import Any, ClassVar

from qcompile.ir.opdef import Quantization
from qcompile.ops.reduction import ReduceAttrs, SumReduction, reduce_converter


class ReduceMean(SumReduction):
    """y = Σ x / count over the axes.

    Integer form: acc = Σ (q − zp), requantized with m = s_x / (s_y · count).

    Source:
        ONNX ReduceMean.
    """

    name = "reduce_mean"
    Attrs = ReduceAttrs
    integer = Quantization.ARITHMETIC
    takes_int16 = True
    onnx: ClassVar[dict[str, Any]] = {"ReduceMean": reduce_converter("reduce_mean", axes_input_since=18)}
