"""The only way to change a graph that exists: every edit keeps producers, uses and order right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace as replace_fields
from typing import Any

from qcompile.errors import InternalError
from qcompile.ir.graph import Graph, Node, Value
from qcompile.ir.opdef import OpDef
from qcompile.ir.types import TensorType
from qcompile.quant.qparams import QParams


class Rewriter:
    """Edits one graph.

    Args:
        graph: changed in place.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def constant(self, name: str, data: Any) -> Value:
        """Make a constant value."""
        return self.graph.add_constant(name, data)

    def moved(self, name: str, source: Value, move: Callable[[Any], Any]) -> Value:
        """Make a constant of another one's elements in other places; each keeps its scale."""
        return self.graph.add_moved(name, source, move)

    def insert(
        self,
        before: Node | None,
        op: OpDef,
        inputs: Sequence[Value],
        attrs: Any = None,
        *,
        name: str | None = None,
        types: Sequence[TensorType] | None = None,
        loc: str = "",
    ) -> Node:
        """Insert a node and return it.

        Args:
            before: the node that follows it; None: it becomes the last.
            op: operation.
            inputs: operands.
            attrs: of the operation.
            name: of its only result; None makes one up.
            types: of the results, where they do not follow from the operands.
            loc: name of the ONNX node that it stands for.
        """
        return self.graph.add_node(
            op, inputs, attrs, names=None if name is None else [name], types=types, loc=loc, before=before
        )

    def replace_value(self, old: Value, new: Value, *, except_in: Node | None = None) -> None:
        """Make every reader of `old`, and the graph outputs, read `new` instead.

        Args:
            old: loses its uses.
            new: gains them.
            except_in: a node that goes on reading `old` (the one that computes `new` from it).
        """
        for node, index in list(old.uses):
            if node is not except_in:
                self.set_operand(node, index, new)
        self.graph.outputs = [new if v is old else v for v in self.graph.outputs]

    def replace_node(self, node: Node, results: Sequence[Value]) -> None:
        """Let `results` stand for the results of `node`, and erase it."""
        if len(results) != len(node.outputs):
            raise InternalError(f"{len(results)} replacements for the {len(node.outputs)} results of {node}")
        for old, new in zip(node.outputs, results, strict=True):
            self.replace_value(old, new)
        self.erase(node)

    def replace_op(
        self, node: Node, op: OpDef, inputs: Sequence[Value], attrs: Any = None, *, same_type: bool = False
    ) -> Node:
        """Compute the one result of `node` by another operation; the result keeps its name and notes.

        Args:
            node: erased; its location and precision pass on.
            op: the new operation.
            inputs: its operands.
            attrs: an instance of op.Attrs; None takes its defaults.
            same_type: the result has the old type, whatever the operation infers from its operands.

        Raises:
            InternalError: the new operation gives another type.
        """
        old = node.output
        types = [old.type] if same_type else None
        new = self.insert(node, op, inputs, attrs, name=old.name, types=types, loc=node.loc)
        if new.output.type != old.type:
            raise InternalError(f"{op.name} gives {new.output.type} in place of {old}")
        new.precision = node.precision
        self._take_over(new.output, old)
        self.erase(node)
        return new

    def merge(self, node: Node, last: Node, inputs: Sequence[Value], attrs: Any) -> None:
        """Let `node`, moved to where `last` is, compute the one result of `last`; nodes that nobody needs stay.

        Args:
            node: the operation, location and precision; its own result must have no other reader.
            last: erased; its result passes its type, quantization and the name that readers know on.
            inputs: operands of the merged node.
            attrs: its attributes.
        """
        name, types = f"{last.output.name}.fused", [last.output.type]
        merged = self.insert(last, node.op, inputs, attrs, name=name, types=types, loc=node.loc)
        merged.precision = node.precision
        merged.output.qparams = last.output.qparams
        self.replace_node(last, [merged.output])

    def absorb(self, producer: Node, node: Node) -> None:
        """Let the one result of `producer` stand for the one result of its reader, and erase the reader.

        Args:
            producer: already changed so that it computes what `node` did; its result takes the name.
            node: the only reader of that result.
        """
        stats = node.output.stats or producer.output.stats
        self._take_over(producer.output, node.output, except_in=node)
        producer.output.stats = stats
        self.erase(node)

    def _take_over(self, new: Value, old: Value, *, except_in: Node | None = None) -> None:
        """Let `new` replace `old` everywhere, in name and notes too."""
        self.replace_value(old, new, except_in=except_in)
        new.name, old.name = old.name, new.name
        new.qspec, new.qparams, new.stats = old.qspec, old.qparams, old.stats

    def set_operand(self, node: Node, index: int, value: Value) -> None:
        """Make operand `index` of `node` read `value`."""
        node.inputs[index].uses.remove((node, index))
        operands = list(node.inputs)
        operands[index] = value
        node.inputs = tuple(operands)
        value.uses.append((node, index))

    def set_attrs(self, node: Node, **fields: Any) -> None:
        """Change some attributes of `node`."""
        node.attrs = replace_fields(node.attrs, **fields)

    def set_type(self, value: Value, type: TensorType, qparams: QParams | None) -> None:
        """Change the type and quantization of a graph input."""
        value.type, value.qparams = type, qparams

    def erase(self, node: Node) -> None:
        """Remove a node whose results nobody reads."""
        for output in node.outputs:
            if output.uses or any(v is output for v in self.graph.outputs):
                raise InternalError(f"cannot erase {node}: {output.name} is still read")
        for index, value in enumerate(node.inputs):
            value.uses.remove((node, index))
        self.graph.nodes.remove(node)

    def eliminate_dead(self) -> int:
        """Erase every node that no output depends on; return how many there were."""
        kept = set(self.graph.outputs)
        erased = 0
        for node in reversed(list(self.graph.nodes)):
            if not any(o.uses or o in kept for o in node.outputs):
                self.erase(node)
                erased += 1
        return erased

    def sort(self) -> None:
        """Bring the nodes into topological order; ties keep the order they had."""
        import networkx as nx

        position = {node: index for index, node in enumerate(self.graph.nodes)}
        view = self.graph.to_networkx()
        try:
            self.graph.nodes = list(nx.lexicographical_topological_sort(view, key=position.__getitem__))
        except nx.NetworkXUnfeasible as error:
            raise InternalError(f"graph {self.graph.name} has a cycle") from error
