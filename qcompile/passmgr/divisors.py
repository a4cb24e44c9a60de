"""Finds what makes the divisors of a graph: to round a small one changes what it divides by as much as it is small."""

from __future__ import annotations

from qcompile.ir.graph import Graph, Node, Value
from qcompile.ir.opdef import Quantization

_DIVIDES = {"div": 1, "reciprocal": 0}
"""Operand that an operation divides by."""

_PASSES_ON = ("add", "clip", "expand", "identity", "maximum", "mul", "reshape", "slice", "transpose")
"""Operations that may only move a divisor, or keep it away from zero."""


def divisor_nodes(graph: Graph) -> set[Node]:
    """Return the nodes that make what others divide by, from the last one on that computes with several tensors.

    Formula:
        y = a / (d + δ) = a / d · (1 − δ / d + …): an error δ of half a step is all of a divisor of half a step

    The sums that attention without a softmax divides by reach from almost nothing to thousands. A layer with constant
    weights stays in integers: what float nodes read of it is not rounded.

    Args:
        graph: float graph.
    """
    found: set[Node] = set()
    for node in graph.nodes:
        if node.op.name in _DIVIDES and node.output.dtype == "float32":
            found |= _makers(node.inputs[_DIVIDES[node.op.name]])
    return found


def _makers(value: Value) -> set[Node]:
    """Return the nodes that compute a tensor in float, so that it is not rounded."""
    made: set[Node] = set()
    while (node := value.producer) is not None:
        if node.op.integer in (Quantization.FLOAT_ONLY, Quantization.ACCUMULATE):
            break
        made.add(node)
        varying = [operand for operand in node.inputs if not operand.is_constant]
        if node.op.name not in _PASSES_ON or len(varying) != 1:
            break
        value = varying[0]
    return made
