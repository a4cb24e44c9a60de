"""Say how each tensor should be quantized, once its statistics are known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qcompile.calibrate.observer import make_observer
from qcompile.ir.graph import Graph, Node, Value
from qcompile.ir.opdef import Quantization
from qcompile.passmgr import Exact, Pass, PassContext, Tolerance
from qcompile.quant.qparams import QSpec


@dataclass(frozen=True)
class InsertObservers(Pass):
    """Attach a QSpec, the request for a quantization, to every tensor that an integer operation reads or makes.

    Options:
        observer: turns the statistics of activations into ranges, e.g. "minmax" or "percentile{percentile=99.9}".
        weights: "max" or "mse", the choice of weight scales.
        per_channel: whether weights get one scale per output channel.

    Before:
        %y = conv2d(%x, @w, @b) : f32[1,4,4,8]
    After:
        %y = conv2d(%x, @w, @b) : f32[1,4,4,8] spec(observer="minmax")

    A tensor that an operation only moves or selects shares the QSpec of its source; one whose range the function
    itself sets (sigmoid) is fixed; a bias is derived from the scales of input and weight.
    """

    name: ClassVar[str] = "insert-observers"
    tolerance: ClassVar[Tolerance] = Exact()

    observer: str = "mse"
    weights: str = "mse"
    per_channel: bool = True

    def run(self, graph: Graph, context: PassContext) -> None:
        """Annotate the graph."""
        make_observer(self.observer)
        for node in graph.nodes:
            real = not node.is_integer and node.outputs[0].dtype == "float32"
            if node.op.integer is Quantization.FLOAT_ONLY or not real:
                continue
            for index in node.op.operand_activations(node):
                self._observe(node.inputs[index])
            if node.op.integer is Quantization.ACCUMULATE:
                self._weights(node)
            for output in node.outputs:
                output.qspec = self._result(node)

    def _observe(self, value: Value) -> None:
        if value.qspec is None and value.dtype == "float32":
            value.qspec = QSpec(observer=self.observer)

    def _weights(self, node: Node) -> None:
        weight, bias = node.inputs[1], node.inputs[2]
        weight.qspec = QSpec(observer=self.weights, symmetric=True, axis=0 if self.per_channel else None)
        bias.qspec = QSpec(observer=self.weights, dtype="int32", symmetric=True, kind="derived", source=weight.name)

    def _result(self, node: Node) -> QSpec:
        if node.op.shares_range(node):
            return QSpec(observer=self.observer, kind="shared", source=node.inputs[0].name)
        fixed = node.op.fixed_range(node.attrs)
        if fixed is not None:
            return QSpec(observer=self.observer, kind="fixed", range=fixed)
        return QSpec(observer=self.observer)
