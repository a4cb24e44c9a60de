"""Keep tensors between runs in integers where both their maker and their readers are integer operations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qcompile import ops
from qcompile.ir.graph import Graph, Node, Value
from qcompile.ir.initial import state_input
from qcompile.ir.rewrite import Rewriter
from qcompile.ir.state import State
from qcompile.ir.types import TensorType
from qcompile.passmgr import MinSqnrDb, Pass, PassContext, Tolerance
from qcompile.quant.qparams import QParams


@dataclass(frozen=True)
class QuantizeStates(Pass):
    """Let a kept tensor that is dequantized at the end and quantized again at the next start stay in int8.

    Before:
        input %h : f32[1,8]
        %hq = quantize(%h) : i8[1,8] q(scale=0.1, zp=3)
        %next = dequantize(%q) : f32[1,8]                  of %q : i8[1,8] q(scale=0.2, zp=0)
        output "h_next" = %next
        state {input="h", output="h_next"}
    After:
        input %h : i8[1,8] q(scale=0.1, zp=3)
        %next = requantize(%q) : i8[1,8] q(scale=0.1, zp=3)
        output "h_next" = %next

    The codes are the reader's own. Where the maker has the same, the requantize is left out as well.

    Preconditions: integer operations are in their final form (quantize). Refusals: an input that is read in
    float or by quantize nodes of different QParams; an output that is computed in float.
    """

    name: ClassVar[str] = "quantize-states"
    tolerance: ClassVar[Tolerance] = MinSqnrDb(20.0)

    def run(self, graph: Graph, context: PassContext) -> None:
        """Rewrite each kept tensor that can be."""
        rewriter = context.rewriter(graph)
        for state in graph.states:
            value = state_input(graph, state)
            made = graph.outputs[graph.output_names.index(state.output)]
            if value.dtype != "float32":
                continue
            readers = value.users()
            params = _common(readers)
            if params is None or any(v is value for v in graph.outputs):
                _skip(context, readers, f"kept tensor '{state.input}' is read in float, or under different QParams")
            elif not _integer_source(made):
                _skip(context, [made.producer], f"kept tensor '{state.input}' is computed in float")
            else:
                _rewrite(rewriter, state, value, made, params)
        rewriter.eliminate_dead()


def _skip(context: PassContext, nodes: list[Node] | list[Node | None], reason: str) -> None:
    for node in nodes[:1]:
        if node is not None:
            context.skip(node, reason)


def _common(readers: list[Node]) -> QParams | None:
    """Return the QParams that all readers quantize to, or None."""
    params = {node.output.qparams if node.op.name == "quantize" else None for node in readers}
    return params.pop() if len(params) == 1 else None


def _integer_source(made: Value) -> bool:
    node = made.producer
    if node is None or node.op.name != "dequantize":
        return False
    source = node.inputs[0]
    return source.dtype == "int8" and source.qparams is not None


def _rewrite(rewriter: Rewriter, state: State, value: Value, made: Value, params: QParams) -> None:
    graph = rewriter.graph
    assert made.producer is not None
    source = made.producer.inputs[0]
    if source.qparams != params:
        kind = TensorType(params.dtype, source.shape)
        loc = made.producer.loc
        name = f"{made.name}.kept"
        node = rewriter.insert(None, ops.get("requantize"), [source], name=name, types=[kind], loc=loc)
        node.output.qparams = params
        node.precision = "int8"
        source = node.output
    graph.outputs[graph.output_names.index(state.output)] = source
    readers = value.users()
    rewriter.set_type(value, TensorType(params.dtype, value.shape), params)
    for node in readers:
        rewriter.replace_node(node, [value])
