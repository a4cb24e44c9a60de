"""Multiply the rows of a table once, at compile time, instead of each row that is picked from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompile.ir.graph import Graph, Node
from qcompile.ir.rewrite import Rewriter
from qcompile.passmgr import AllClose, Pass, PassContext, Tolerance
from qcompile.passmgr.facts import FLOAT, Fact
from qcompile.passmgr.patterns import is_output


@dataclass(frozen=True)
class TabulateDense(Pass):
    """Replace the dense layers that read rows of a constant table by tables of their results.

    Formula:
        f(W·T[i] + b) = T'[i], T'[v] = f(W·T[v] + b) for every row v

    The first layer of a network over letters or other small alphabets so costs nothing at run time, and in integers it
    rounds neither its operand nor its weights.

    Before:
        %r = gather(@t, %i) : f32[1,256]
        %y = dense(%r, @w, @b) : f32[1,768]
    After:
        %y = gather(@y.table, %i) : f32[1,768]

    Preconditions: none. Refusals: the new tables would have more elements than what they replace, the weights and,
    where nothing else reads it, the table; weights that are computed; a layer that adds a residual.
    """

    name: ClassVar[str] = "tabulate-dense"
    requires: ClassVar[tuple[Fact, ...]] = (FLOAT,)
    tolerance: ClassVar[Tolerance] = AllClose(1e-5, 1e-6)

    def run(self, graph: Graph, context: PassContext) -> None:
        """Tabulate the readers of every table, or none of them."""
        rewriter = context.rewriter(graph)
        for gather in list(graph.nodes):
            if gather.op.name != "gather" or not _picks_rows(gather):
                continue
            layers = [node for node in gather.output.users() if _is_plain(node, gather)]
            reason = _obstacle(graph, gather, layers)
            if reason is None:
                for layer in layers:
                    _tabulate(rewriter, gather, layer)
            elif layers:
                context.skip(layers[0], reason)
        rewriter.eliminate_dead()


def _picks_rows(gather: Node) -> bool:
    table = gather.inputs[0]
    return table.is_constant and table.dtype == "float32" and len(table.shape) == 2 and gather.attrs.axis == 0


def _is_plain(node: Node, gather: Node) -> bool:
    """Return whether a node is a dense layer whose results depend on nothing but the row."""
    if node.op.name != "dense" or node.inputs[0] is not gather.output or node.output.dtype != "float32":
        return False
    return not node.attrs.residual and all(value.is_constant for value in node.inputs[1:])


def _obstacle(graph: Graph, gather: Node, layers: list[Node]) -> str | None:
    table = gather.inputs[0]
    made = sum(table.shape[0] * layer.output.shape[-1] for layer in layers)
    replaced = sum(layer.inputs[1].type.size for layer in layers if layer.inputs[1].users() == [layer])
    alone = len(gather.output.uses) == len(layers) and not is_output(graph, gather.output)
    if alone and table.users() == [gather]:
        replaced += table.type.size
    if made > replaced:
        return f"tables of its results would have {made} elements, what they replace has {replaced}"
    return None


def _tabulate(rewriter: Rewriter, gather: Node, layer: Node) -> None:
    operands = [value.constant().astype(np.float64) for value in (gather.inputs[0], *layer.inputs[1:])]
    (results,) = layer.op.evaluate(layer.attrs, operands)
    table = rewriter.constant(f"{layer.output.name}.table", np.asarray(results, np.float32))
    rewriter.replace_op(layer, gather.op, [table, gather.inputs[1]], gather.attrs, same_type=True)
