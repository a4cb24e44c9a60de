"""Which nodes must compute in float so that the cause of a node's noise goes away."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence

from qcompile.ir.graph import Graph, Node, Value
from qcompile.ops.arithmetic import CONVERSIONS
from qcompile.passmgr.moved import makers, takers


class Exclusions:
    """Finds the nodes of the float graph behind a cause.

    A tensor stays real only where whatever makes it, whatever moves it and whatever reads it computes in float: a node
    in float between integers reads and writes the same codes as in integers.

    Args:
        reference: float graph.
        names: tensor of the integer graph to its counterpart's name there.
        real: names of nodes that compute in float already.
    """

    def __init__(self, reference: Graph, names: Mapping[Value, str], real: Collection[str]) -> None:
        self._names, self._real = names, real
        self._tensors = {v.name: v for v in (*reference.inputs, *(v for n in reference.nodes for v in n.outputs))}

    def of(self, node: Node, where: str, operand: Value | None) -> tuple[str, ...]:
        """Return the names of nodes whose going to float takes a cause away.

        Args:
            node: of the integer graph.
            where: the origin of its noise, as `qcompile.evaluate.cause.origin` returns it.
            operand: the operand whose rounding is the cause, where it is one.
        """
        result = self._counterpart(node.outputs[0])
        if result is None:
            return ()
        passive = node.op.only_moves(node) or node.op.name in CONVERSIONS  # what it reads is rounded as its result is
        nodes = makers(result) if passive else self._merged(node, result)
        tensor = self._counterpart(operand) if operand is not None else None
        if where == "operands" and tensor is not None:
            nodes = [*makers(tensor), *nodes]
        if where == "result" or passive:
            # All results of a split hold what is rounded before it.
            results = result.producer.outputs if passive and result.producer is not None else [result]
            nodes = [*nodes, *(taker for value in results for taker in takers(value))]
        return self.in_integers(dict.fromkeys(n.loc or n.outputs[0].name for n in nodes))

    def in_integers(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return the names of those nodes that do not compute in float already."""
        return tuple(name for name in names if name not in self._real)

    def _counterpart(self, value: Value) -> Value | None:
        return self._tensors.get(self._names.get(value, ""))

    def _merged(self, node: Node, result: Value) -> list[Node]:
        """Return the float nodes that an integer node does the work of: those between its operands and its result."""
        if any(v not in self._names and not v.is_constant for v in node.inputs):
            return [result.producer] if result.producer is not None else []
        ends = {self._names[v] for v in node.inputs if not v.is_constant}
        found: dict[Node, None] = {}
        waiting = [result]
        while waiting:
            value = waiting.pop()
            made = value.producer
            if made is None or value.name in ends or made in found:
                continue
            found[made] = None
            waiting += made.inputs
        return list(reversed(found))


def exclusion_text(names: Sequence[str]) -> str:
    """Return the options that keep nodes in float.

    Args:
        names: of the nodes.
    """
    return " ".join(f"--keep-float {shlex.quote(name)}" for name in names)
