"""Maximum over axes."""

from __future__ import annotations

from typing import Any, ClassVar

from qcompile.ir.opdef import Quantization
from qcompile.ops.reduction import ReduceAttrs, SelectReduction, reduce_converter


class ReduceMax(SelectReduction):
    """y = max x over the axes.

    Source:
        ONNX ReduceMax.
    """

    name = "reduce_max"
    Attrs = ReduceAttrs
    integer = Quantization.SHARED
    combine = "max"
    onnx: ClassVar[dict[str, Any]] = {"ReduceMax": reduce_converter("reduce_max", axes_input_since=18)}
