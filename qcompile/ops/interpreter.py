"""Runs a graph in NumPy: the reference that every kernel must match bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, partial

from qcompile.ir.graph import Graph, Node
from qcompile.ops.evaluation import Apply, Array, FixedRun, OnValue, evaluate_node, prepared
from qcompile.ops.sized_run import SizedRun


class Interpreter:
    """Evaluates a graph; one with open extents at the sizes that the inputs have.

    Args:
        graph: float or integer form, or a mixture.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def run(self, inputs: Mapping[str, Array], on_value: OnValue | None = None) -> dict[str, Array]:
        """Evaluate the graph once.

        Args:
            inputs: one array per graph input, by name, of its exact shape and dtype; open axes have their actual
                extents.
            on_value: called with every input and every result as soon as it is known.

        Returns:
            One array per graph output, by output name; quantized outputs as integers in LSB.

        Raises:
            UsageError: an input is missing or unknown, or has another shape or dtype.
        """
        return self._run.run(inputs, on_value, self._prepared)

    def _prepared(self, node: Node) -> Apply:
        if type(self).evaluate is Interpreter.evaluate:
            return prepared(node, over=True)
        return partial(self.evaluate, node)

    @cached_property
    def _run(self) -> FixedRun | SizedRun:
        return SizedRun(self.graph) if self.graph.symbols else FixedRun(self.graph)

    def evaluate(self, node: Node, inputs: list[Array]) -> tuple[Array, ...]:
        """Evaluate one node of the graph; a subclass may do it in another way."""
        return evaluate_node(node, inputs)
