"""Maximum over all spatial positions."""

from __future__ import annotations

from typing import Any, ClassVar

from qcompile.ir.opdef import Quantization
from qcompile.ops.reduction import GlobalPoolAttrs, SelectReduction, global_axes, global_converter


class GlobalMaxPool(SelectReduction):
    """y[n,c] = max x[n,h,w,c], the spatial axes kept with extent 1.

    Source:
        ONNX GlobalMaxPool.
    """

    name = "global_max_pool"
    Attrs = GlobalPoolAttrs
    integer = Quantization.SHARED
    combine = "max"
    onnx: ClassVar[dict[str, Any]] = {"GlobalMaxPool": global_converter("global_max_pool", "reduce_max")}

    def reduced(self, attrs: GlobalPoolAttrs, rank: int) -> tuple[tuple[int, ...], bool]:
        """Return the spatial axes; they stay, with extent 1."""
        if rank != 4:
            raise ValueError(f"global pooling needs a 4-D operand, got {rank} axes")
        return global_axes(attrs.layout), True
