"""Finds what a graph divides by a norm of its own: a vector by its length, features by their root mean square."""

from __future__ import annotations

from qcompile.ir.graph import Graph, Node, Value

_SUMS = ("reduce_sum", "reduce_mean", "reduce_max")
_INVERSE = ("reciprocal", "div", "pow")
"""Functions of which one must be behind a norm that something is multiplied with."""

_FUNCTIONS = ("sqrt", "clip", "add", "mul", "maximum", "expand", "reshape", "identity", *_INVERSE)
"""Operations that make a norm of a sum, and of norms."""


def norm_nodes(graph: Graph) -> set[Node]:
    """Return the nodes that compute norms, and those that divide by them or multiply with their inverse.

    Formula:
        y = x / f(Σ g(z)), g a square, a power or an absolute value, and max for Σ

    An input that is larger than those of all samples has a larger norm. In a range that the samples set the norm would
    stop there, and what is divided by it grow beyond all that the network knows: cosines above 1, for one.

    Args:
        graph: float graph.
    """
    norms = _norms(graph)
    found: set[Node] = set()
    for node in graph.nodes:
        if node.op.name not in ("div", "mul"):
            continue
        for value in node.inputs[1:] if node.op.name == "div" else node.inputs:
            made = norms.get(value, set())
            inverse = node.op.name == "div" or any(part.op.name in _INVERSE for part in made)
            if made and inverse:
                found |= {node, *made}
    return found


def _norms(graph: Graph) -> dict[Value, set[Node]]:
    """Return the tensors that are norms, each with the nodes that make it, from the terms that are summed on."""
    norms: dict[Value, set[Node]] = {}
    for node in graph.nodes:
        given = [value for value in node.inputs if not value.is_constant]
        if not given or node.outputs[0].dtype != "float32":
            continue
        terms = given[0].producer
        if node.op.name in _SUMS and terms is not None and _is_magnitude(terms):
            norms[node.output] = {node, terms, *norms.get(given[0], set())}
        elif node.op.name in _FUNCTIONS and all(value in norms for value in given):
            norms[node.output] = {node}.union(*(norms[value] for value in given))
    return norms


def _is_magnitude(node: Node) -> bool:
    """Return whether a node gives what the terms of a norm are: squares, powers, absolute values, norms again."""
    squares = node.op.name == "mul" and node.inputs[0] is node.inputs[1]
    return squares or node.op.name in ("pow", "abs", "exp", "sqrt")
