"""Einsum as transpositions, sums and matrix products, two operands at a time from the left."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qcompile.ir.graph import Value
from qcompile.ops.onnx_node import OnnxNode
from qcompile.ops.reshape import reshaped


@dataclass
class _Term:
    """An operand and the label of each of its axes."""

    value: Value
    labels: str

    def extent(self, label: str) -> int:
        """Return the extent of a label's axis."""
        return self.value.shape[self.labels.index(label)]


class _Contraction:
    """Builds the nodes of one Einsum.

    Args:
        node: the ONNX node.
    """

    def __init__(self, node: OnnxNode) -> None:
        self.node, self.count = node, 0

    def name(self) -> str:
        """Return a name for the next intermediate tensor."""
        self.count += 1
        return f"{self.node.outputs[0]}.{self.count}"

    def diagonal(self, term: _Term) -> _Term:
        """Return the operand with each label once: equal ones walk together."""
        while len(set(term.labels)) < len(term.labels):
            label = next(c for c in term.labels if term.labels.count(c) > 1)
            axes = [a for a, c in enumerate(term.labels) if c == label]
            front = self.ordered(term, [a for a in range(len(term.labels)) if a not in axes[:2]] + axes[:2])
            extent = front.value.shape[-1]
            if front.value.shape[-2] != extent:
                self.node.fail(f"label '{label}' has extents {front.value.shape[-2]} and {extent}")
            rest = front.value.shape[:-2]
            flat = reshaped(self.node, front.value, (*rest, extent * extent), self.name())
            places = self.node.constant(f"diagonal{self.count}", np.arange(extent) * (extent + 1), "int64")
            picked = self.node.add("gather", [flat, places], name=self.name(), axis=len(rest))
            term = _Term(picked, front.labels[:-1])
        return term

    def ordered(self, term: _Term, axes: Sequence[int]) -> _Term:
        """Return the operand with its axes in another order."""
        if list(axes) == list(range(len(axes))):
            return term
        turned = self.node.add("transpose", [term.value], name=self.name(), perm=tuple(axes))
        return _Term(turned, "".join(term.labels[a] for a in axes))

    def to(self, term: _Term, labels: str) -> _Term:
        """Return the operand with its axes in the order of labels, which are its own."""
        return self.ordered(term, [term.labels.index(c) for c in labels])

    def summed(self, term: _Term, kept: set[str]) -> _Term:
        """Return the operand summed over the labels that nobody else has."""
        axes = tuple(a for a, c in enumerate(term.labels) if c not in kept)
        if not axes:
            return term
        value = self.node.add("reduce_sum", [term.value], name=self.name(), axes=axes, keepdims=False)
        return _Term(value, "".join(c for c in term.labels if c in kept))

    def product(self, a: _Term, b: _Term, kept: set[str]) -> _Term:
        """Return Σ a·b over the labels both have and nobody else."""
        a, b = self.summed(a, kept | set(b.labels)), self.summed(b, kept | set(a.labels))
        shared = [c for c in a.labels if c in b.labels]
        inner = "".join(c for c in shared if c not in kept)
        batch = "".join(c for c in shared if c in kept)
        left = "".join(c for c in a.labels if c not in shared)
        right = "".join(c for c in b.labels if c not in shared)
        extents = {c: max(t.extent(c) for t in (a, b) if c in t.labels) for c in batch + left + right + inner}
        a, b = self.to(a, batch + left + inner), self.to(b, batch + inner + right)
        lead = [extents[c] for c in batch]
        rows, depth, columns = (math.prod(extents[c] for c in group) for group in (left, inner, right))
        x = reshaped(self.node, self._stretched(a, extents), [*lead, rows, depth], self.name())
        y = reshaped(self.node, self._stretched(b, extents), [*lead, depth, columns], self.name())
        z = self._matmul(x, y) if inner else self.node.add("mul", [x, y], name=self.name())
        shape = [extents[c] for c in batch + left + right]
        return _Term(reshaped(self.node, z, shape, self.name()), batch + left + right)

    def _matmul(self, x: Value, y: Value) -> Value:
        if y.data is not None and len(y.shape) == 2:
            weight = self.node.constant(f"weight{self.count}", np.ascontiguousarray(y.data.T))
            bias = self.node.constant(f"bias{self.count}", np.zeros(y.shape[1], y.data.dtype))
            return self.node.add("dense", [x, weight, bias], name=self.name())
        return self.node.add("matmul", [x, y], name=self.name())

    def _stretched(self, term: _Term, extents: dict[str, int]) -> Value:
        """Return the operand with axes of extent 1 repeated to the common extent."""
        shape = tuple(extents[c] for c in term.labels)
        if shape == term.value.shape:
            return term.value
        return self.node.add("expand", [term.value], name=self.name(), shape=shape)


def _parsed(node: OnnxNode) -> tuple[list[str], str]:
    """Return the labels of each operand and of the result; axes of an ellipsis become digits."""
    equation = str(node.attr("equation")).replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if len(terms) != len(node.inputs):
        node.fail(f"the equation '{equation}' has {len(terms)} operands, the node {len(node.inputs)}")
    longest, found = 0, []
    for index, term in enumerate(terms):
        rank, named = len(node.type(index).shape), term.replace("...", "")
        free = rank - len(named)
        if free < 0 or (free and "..." not in term) or (named and not named.isalpha()):
            node.fail(f"'{term}' of the equation '{equation}' does not fit {node.type(index)}")
        longest = max(longest, free)
        found.append(term.replace("...", "".join(str(9 - d) for d in reversed(range(free)))))
    # Trailing axes of the ellipses belong together, so they are counted from the end: 9 is the last.
    ellipsis = "".join(str(9 - d) for d in reversed(range(longest)))
    if arrow:
        return found, right.replace("...", ellipsis)
    letters = "".join(t.replace("...", "") for t in terms)
    return found, ellipsis + "".join(sorted(c for c in set(letters) if letters.count(c) == 1))


def _einsum(node: OnnxNode) -> Value:
    labels, result = _parsed(node)
    builder = _Contraction(node)
    terms = [builder.diagonal(_Term(node.value(k), text)) for k, text in enumerate(labels)]
    known = set("".join(t.labels for t in terms))
    if len(set(result)) < len(result) or not set(result) <= known:
        node.fail(f"the result '{result}' of the equation does not follow from its operands")
    total = terms[0]
    for index, term in enumerate(terms[1:], 1):
        later = set("".join(t.labels for t in terms[index + 1 :]))
        total = builder.product(total, term, set(result) | later)
    return builder.to(builder.summed(total, set(result)), result).value


CONVERTERS = {"Einsum": _einsum}
