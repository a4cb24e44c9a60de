"""Rectifier with a learned slope per channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qcompile.ir.graph import Node, Value
from qcompile.ir.opdef import Array, OpDef, Quantization
from qcompile.ir.types import TensorType
from qcompile.ops.onnx_node import OnnxNode
from qcompile.quant import requantize as rq
from qcompile.quant.qparams import QParams


@dataclass(frozen=True)
class PreluAttrs:
    """Attributes of prelu.

    Args:
        layout: "NCHW" (channels on axis 1) or "NHWC" (channels last).
    """

    layout: str = "NCHW"

    def __post_init__(self) -> None:
        if self.layout not in ("NCHW", "NHWC"):
            raise ValueError(f"layout '{self.layout}' is neither NCHW nor NHWC")


def _from_onnx(node: OnnxNode) -> Value:
    x, slope = node.value(0), node.value(1)
    rank = len(x.shape)
    full = (1,) * (rank - len(slope.shape)) + slope.shape
    if slope.data is not None and slope.data.size == 1:
        return node.add("leaky_relu", [x], alpha=float(slope.data.reshape(())))
    if slope.data is not None and rank > 1 and full == (1, x.shape[1], *(1,) * (rank - 2)):
        channels = slope if slope.shape == full[1:2] else node.constant("slope", slope.data.reshape(-1))
        return node.add("prelu", [x, channels])
    # Any other slope: max(x, 0) + slope · min(x, 0), broadcast.
    name = node.outputs[0]
    zero = node.constant("zero", 0, x.dtype)
    positive = node.add("relu", [x], name=f"{name}.positive")
    negative = node.add("minimum", [x, zero], name=f"{name}.negative")
    scaled = node.add("mul", [negative, slope], name=f"{name}.scaled")
    return node.add("add", [positive, scaled])


class Prelu(OpDef):
    """y = x for x ≥ 0, slope[c] · x below.

    Operands: x and slope [C], a real-valued constant. Integer form: `qcompile.quant.requantize.prelu`.

    Source:
        ONNX PRelu; He et al. 2015.
    """

    name = "prelu"
    Attrs = PreluAttrs
    activations = (0,)
    integer = Quantization.ARITHMETIC
    takes_int16 = True
    onnx: ClassVar[dict[str, Any]] = {"PRelu": _from_onnx}

    def infer(self, attrs: PreluAttrs, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the type of x."""
        x, slope = inputs
        if x.rank < 2 or slope.shape != (x.shape[_axis(attrs, x.rank)],):
            raise ValueError(f"slope {slope} does not fit {x}")
        return (x,)

    def evaluate(self, attrs: PreluAttrs, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Compute in the precision of x."""
        x = inputs[0]
        return (np.asarray(np.where(x >= 0, x, _along(inputs[1], attrs, x.ndim) * x)),)

    def evaluate_integer(self, node: Node, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Requantize with one factor for positive and one per channel for negative values."""
        x, y = _qparams(node)
        return (rq.prelu(inputs[0], _along(inputs[1], node.attrs, inputs[0].ndim), x, y),)

    def integer_obstacle(self, node: Node) -> str | None:
        """Refuse a slope that is computed at run time."""
        return None if node.inputs[1].is_constant else "its slope is computed at run time"

    def lower(self, node: Node, context: Any) -> None:
        """Emit an elementwise loop."""
        axis = _axis(node.attrs, len(node.output.shape))
        if not node.is_integer:

            def real(e: Any, i: Any) -> Any:
                x = e.load(0, *i)
                return e.select(x >= e.f32(0.0), x, x * e.load(1, i[axis]))

            context.map(node, real)
            return
        positive, negative = rq.prelu_multipliers(node.inputs[1].constant(), *_qparams(node))
        factors = context.constant(negative)

        def integer(e: Any, i: Any) -> Any:
            centred = e.centred(0, *i)
            m = e.select(centred >= e.i32(0), e.f32(float(positive)), e.at(factors, i[axis]))
            return e.requantize(centred, m)

        context.map(node, integer)


def _qparams(node: Node) -> tuple[QParams, QParams]:
    x, y = node.inputs[0].qparams, node.output.qparams
    if x is None or y is None:
        raise ValueError(f"{node}: operand 0 and the result must both be quantized")
    return x, y


def _axis(attrs: PreluAttrs, rank: int) -> int:
    return 1 if attrs.layout == "NCHW" else rank - 1


def _along(slope: Array, attrs: PreluAttrs, rank: int) -> Array:
    """Return the slope in a shape that broadcasts along the channels."""
    shape = [1] * rank
    shape[_axis(attrs, rank)] = -1
    return slope.reshape(shape)
