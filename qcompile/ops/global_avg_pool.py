"""Average over all spatial positions."""

from __future__ import annotations

from typing import Any, ClassVar

from qcompile.ir.opdef import Quantization
from qcompile.ops.reduction import GlobalPoolAttrs, SumReduction, global_axes, global_converter


class GlobalAvgPool(SumReduction):
    """y[n,c] = Σ x[n,h,w,c] / (H · W), the spatial axes kept with extent 1.

    Integer form: acc = Σ (q − zp), requantized with m = s_x / (s_y · H · W).

    Source:
        ONNX GlobalAveragePool.
    """

    name = "global_avg_pool"
    Attrs = GlobalPoolAttrs
    integer = Quantization.ARITHMETIC
    takes_int16 = True
    onnx: ClassVar[dict[str, Any]] = {"GlobalAveragePool": global_converter("global_avg_pool", "reduce_mean")}

    def reduced(self, attrs: GlobalPoolAttrs, rank: int) -> tuple[tuple[int, ...], bool]:
        """Return the spatial axes; they stay, with extent 1."""
        if rank != 4:
            raise ValueError(f"global pooling needs a 4-D operand, got {rank} axes")
        return global_axes(attrs.layout), True
