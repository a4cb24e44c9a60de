"""What rewrite rules ask about the nodes around them, and how rules run to a fixed point."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile import ops
from qcompile.errors import InternalError
from qcompile.ir.graph import Graph, Node, Value
from qcompile.ir.rewrite import Rewriter

Array = npt.NDArray[Any]

Rule = Callable[[Node, Rewriter], bool]
"""Rewrites at one node if it matches there, and says whether it did."""

RuleTable = Mapping[str, Iterable[Rule]]
"""Rules by the name of the operation at whose nodes they are tried."""


def apply_rules(rewriter: Rewriter, rules: RuleTable) -> None:
    """Apply rules in topological order, again and again, until none matches; then nothing is dead.

    Args:
        rewriter: of the graph.
        rules: each must bring the graph closer to an end (fewer nodes, or simpler ones).

    Raises:
        InternalError: the rules go on for ever.
    """
    graph = rewriter.graph
    rewriter.eliminate_dead()
    budget = 20 * (len(graph.nodes) + 10)
    changed = True
    while changed:
        changed = False
        for node in list(graph.nodes):
            for rule in rules.get(node.op.name, ()):
                # An earlier rewrite in this sweep may have erased the node.
                if node.is_integer or not is_present(node):
                    break
                sources = [value.producer for value in node.inputs]
                if rule(node, rewriter):
                    _erase_unread(rewriter, [node, *sources])
                    changed, budget = True, budget - 1
                    if budget < 0:
                        raise InternalError(f"rewrite rules do not come to an end; the last was at {node}")
                    break


def _erase_unread(rewriter: Rewriter, candidates: list[Node | None]) -> None:
    """Erase those of the candidates that nobody reads, and what only they read."""
    while candidates:
        node = candidates.pop()
        if node is None or not is_present(node):
            continue
        if not any(value.uses or is_output(rewriter.graph, value) for value in node.outputs):
            candidates += [value.producer for value in node.inputs]
            rewriter.erase(node)


def is_present(node: Node) -> bool:
    """Return whether a node has not been erased: an erased node is in no use list of its operands."""
    return bool(node.inputs) and all((node, index) in value.uses for index, value in enumerate(node.inputs))


def is_output(graph: Graph, value: Value) -> bool:
    """Return whether callers of the graph see a value."""
    return any(v is value for v in graph.outputs)


def only_reader(value: Value, graph: Graph) -> Node | None:
    """Return the one node that reads a value, or None where others or callers do as well."""
    return value.uses[0][0] if len(value.uses) == 1 and not is_output(graph, value) else None


def made_by(value: Value, *names: str) -> Node | None:
    """Return the node that computes a value if its operation is one of those named."""
    producer = value.producer
    return producer if producer is not None and producer.op.name in names else None


def scalar(value: Value) -> float | None:
    """Return the one number that all elements of a constant are, or None.

    It is the shortest decimal number that rounds to the stored one: 0.1 and not 0.10000000149.
    """
    if value.data is None or value.data.size == 0 or value.data.dtype.kind not in "fiu":
        return None
    first = value.data.flat[0]
    return float(str(first)) if value.data.size == 1 or bool((value.data == first).all()) else None


def is_close(value: float | None, wanted: float) -> bool:
    """Return whether a number from a model is meant to be the wanted one, allowing for float32."""
    return value is not None and abs(value - wanted) <= 1e-5 * max(1.0, abs(wanted))


def with_constant(node: Node) -> tuple[Value, Value] | None:
    """Return (variable, constant) of a binary node of which exactly one operand is constant."""
    if len(node.inputs) != 2:
        return None
    a, b = node.inputs
    if a.is_constant == b.is_constant:
        return None
    return (b, a) if a.is_constant else (a, b)


def with_scalar(node: Node) -> tuple[Value, float] | None:
    """Return (variable, number) of a binary node that does not stretch its variable operand."""
    pair = with_constant(node)
    number = None if pair is None else scalar(pair[1])
    if pair is None or number is None or pair[0].shape != node.output.shape:
        return None
    return pair[0], number


def per_channel(data: Array, rank: int, axis: int, channels: int) -> Array | None:
    """Return a constant operand as one number per channel, or None if it varies otherwise.

    Args:
        data: broadcasts against a tensor of the given rank.
        rank: of that tensor.
        axis: its channel axis.
        channels: its extent there.

    Returns:
        float64 [channels].
    """
    if data.ndim > rank:
        return None
    shape: list[int] = [1] * (rank - data.ndim) + list(data.shape)
    if any(extent != 1 for a, extent in enumerate(shape) if a != axis):
        return None
    return np.broadcast_to(data.reshape(-1), (channels,)).astype(np.float64)


def replace(rewriter: Rewriter, node: Node, op: str, inputs: Iterable[Value], **attrs: Any) -> bool:
    """Compute a node's result by another operation; returns True, for a rule to return."""
    definition = ops.get(op)
    rewriter.replace_op(node, definition, list(inputs), definition.Attrs(**attrs))
    return True


def emit(rewriter: Rewriter, before: Node, op: str, inputs: Iterable[Value], name: str, **attrs: Any) -> Value:
    """Insert a node with one result and return the result.

    Args:
        rewriter: of the graph.
        before: the node that follows it, whose location it gets.
        op: name of the operation.
        inputs: operands.
        name: of the result.
        **attrs: of the operation.
    """
    definition = ops.get(op)
    node = rewriter.insert(before, definition, list(inputs), definition.Attrs(**attrs), name=name, loc=before.loc)
    return node.output


def bypass(rewriter: Rewriter, node: Node, value: Value) -> bool:
    """Let an operand stand for a node's result; returns True, for a rule to return."""
    if is_output(rewriter.graph, node.output) and value.stats is None:
        value.stats = node.output.stats
    rewriter.replace_node(node, [value])
    return True
