"""Minimum over axes."""

from __future__ import annotations

from typing import Any, ClassVar

from qcompile.ir.opdef import Quantization
from qcompile.ops.reduction import ReduceAttrs, SelectReduction, reduce_converter


class ReduceMin(SelectReduction):
    """y = min x over the axes.

    Source:
        ONNX ReduceMin.
    """

    name = "reduce_min"
    Attrs = ReduceAttrs
    integer = Quantization.SHARED
    combine = "min"
    onnx: ClassVar[dict[str, Any]] = {"ReduceMin": reduce_converter("reduce_min", axes_input_since=18)}
