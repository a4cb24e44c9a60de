"""Real values to integers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qcompile.ir.graph import Node
from qcompile.ir.opdef import Array, NoAttrs, OpDef, Quantization
from qcompile.ir.types import TensorType
from qcompile.quant import affine


class Quantize(OpDef):
    """q = int(rne(clamp(x / scale))) + zero_point, with the QParams of the result.

    Source:
        ONNX QuantizeLinear; see `qcompile.quant.affine.quantize` for the exact arithmetic.
    """

    name = "quantize"
    integer = Quantization.ARITHMETIC

    def infer(self, attrs: NoAttrs, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the operand's shape in int8; the QParams of the result may ask for another integer."""
        return (inputs[0].with_dtype("int8"),)

    def check(self, node: Node) -> None:
        """Check that the result, and not the operand, is quantized per tensor."""
        result = node.output.qparams
        if result is None or result.per_channel:
            raise ValueError(f"{node.output.name} needs per-tensor QParams")
        if node.inputs[0].qparams is not None:
            raise ValueError(f"{node.inputs[0].name} is quantized already")

    def evaluate_integer(self, node: Node, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Quantize."""
        self.check(node)
        assert node.output.qparams is not None
        return (affine.quantize(inputs[0], node.output.qparams),)

    def lower(self, node: Node, context: Any) -> None:
        """Emit an elementwise loop."""
        context.map(node, lambda e, i: e.quantize(e.load(0, *i)))
