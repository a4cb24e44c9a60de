"""Rows of several open axes: a model that joins batch and sequence computes with both apart instead.

Exporters write a product over the last axis as Reshape [N, S, K] to [N·S, K], Gemm, Reshape back. With both open the
joined rows would lie at other places for each size; kept apart they need not move.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from qcompile import ops
from qcompile.errors import UnsupportedOpError
from qcompile.ir.graph import Graph, Node, Value
from qcompile.ir.rewrite import Rewriter
from qcompile.shapes.analysis import advance, input_axes
from qcompile.shapes.regroup import groups
from qcompile.shapes.step import Analysis

_ROW_BY_ROW = frozenset({
    "abs", "add", "cast", "celu", "clip", "cos", "dense", "div", "elu", "equal", "erf", "exp", "fake_quantize", "floor",
    "gelu", "greater", "greater_or_equal", "hard_sigmoid", "hard_swish", "leaky_relu", "less", "less_or_equal", "log",
    "logical_and", "logical_not", "logical_or", "maximum", "minimum", "mish", "mul", "neg", "pow", "reciprocal", "relu",
    "round", "selu", "sigmoid", "sign", "silu", "sin", "softplus", "softsign", "sqrt", "sub", "tanh", "where",
})  # fmt: skip
_ALONG_AN_AXIS = frozenset({"softmax", "log_softmax", "layer_norm", "split", "concat"})


def separate_rows(graph: Graph) -> None:
    """Keep open axes of different symbols apart where a model joins them, as far as what follows goes row by row.

    Args:
        graph: with symbols, at the largest sizes; changed.
    """
    separation = _Separation(graph)
    for node in list(graph.nodes):
        separation.visit(node)
    separation.rewriter.eliminate_dead()


class _Separation:
    """Rewrites a graph node by node, in order.

    Args:
        graph: changed.
    """

    def __init__(self, graph: Graph) -> None:
        self.rewriter = Rewriter(graph)
        self._analysis = Analysis(input_axes(graph))
        self._apart: dict[Value, tuple[Value, tuple[int, ...]]] = {}

    def visit(self, node: Node) -> None:
        """Rewrite one node where its operands are apart, or where it joins."""
        joined = [value for value in node.inputs if value in self._apart]
        if joined:
            self._follow(node, joined)
            return
        extents = self._joins(node)
        if extents is not None:
            x, size = node.inputs[0], len(extents)
            shape = (*extents, *node.output.shape[1:])
            twin = x if shape == x.shape else self._reshaped(node, x, shape)
            self._apart[node.output] = (twin, shape[:size])
            return
        self._advance(node)

    def _advance(self, node: Node) -> None:
        try:
            advance(self._analysis, node)
        except UnsupportedOpError:
            # Found again, and said, when the whole graph is analysed.
            return

    def _joins(self, node: Node) -> tuple[int, ...] | None:
        """Return the extents that a reshape joins to its first axis, None where it joins no two symbols."""
        if node.op.name != "reshape":
            return None
        x, y = node.inputs[0].shape, node.output.shape
        left, right = groups(x, y)[0] if x and y else (range(0), range(0))
        axes = self._analysis.of(node.inputs[0])
        symbols = {extent.symbol for a in left if (extent := axes[a]) is not None}
        if len(symbols) < 2 or list(right)[:1] != [0] or any(y[a] != 1 for a in list(right)[1:]):
            return None
        return tuple(x[a] for a in left)

    def _follow(self, node: Node, joined: list[Value]) -> None:
        extents = self._apart[joined[0]][1]
        if any(self._apart[value][1] != extents for value in joined):
            self._materialize(node, joined)
        elif node.op.name == "reshape":
            self._split(node, extents)
        elif (attrs := self._attrs(node, extents)) is not None:
            inputs = [self._apart[value][0] if value in self._apart else value for value in node.inputs]
            names = [f"{value.name}.rows" for value in node.outputs]
            twin = self.rewriter.graph.add_node(node.op, inputs, attrs, names=names, loc=node.loc, before=node)
            self._advance(twin)
            for old, new in zip(node.outputs, twin.outputs, strict=True):
                self._apart[old] = (new, extents)
        else:
            self._materialize(node, joined)

    def _split(self, node: Node, extents: tuple[int, ...]) -> None:
        """Rewrite a reshape of joined rows: they come apart again, or stay as they are."""
        x, y = node.inputs[0].shape, node.output.shape
        left, right = groups(x, y)[0]
        twin = self._apart[node.inputs[0]][0]
        inner = [y[a] for a in right if y[a] != 1]
        if [x[a] for a in left if x[a] != 1] != [math.prod(extents)]:
            self._materialize(node, [node.inputs[0]])
        elif inner == [d for d in extents if d != 1]:
            self.rewriter.replace_value(node.output, twin if twin.shape == y else self._reshaped(node, twin, y))
        elif inner == [math.prod(extents)] and y[0] == inner[0]:
            self._apart[node.output] = (self._reshaped(node, twin, (*extents, *y[1:])), extents)
        else:
            self._materialize(node, [node.inputs[0]])

    def _attrs(self, node: Node, extents: tuple[int, ...]) -> Any:
        """Return the attributes for operands whose rows are apart, None where the node mixes rows."""
        rows, more, attrs = math.prod(extents), len(extents) - 1, node.attrs
        for value in node.inputs:
            rank = len(value.shape)
            if value not in self._apart and rank == len(node.outputs[0].shape) and rank and value.shape[0] == rows:
                return None
        if node.op.name == "dense" and node.inputs[0] not in self._apart:
            return None
        looked_up = node.op.name == "gather" and node.inputs[0] not in self._apart and attrs.axis == 0
        if node.op.name in _ROW_BY_ROW or looked_up:
            return attrs
        if node.op.name in _ALONG_AN_AXIS and attrs.axis % len(node.inputs[0].shape) > 0:
            return attrs if attrs.axis < 0 else replace(attrs, axis=attrs.axis + more)
        if node.op.name == "slice" and attrs.sizes[0] == rows and attrs.steps[0] == 1:
            wide = {"starts": (0,) * more, "steps": (1,) * more}
            fields = {name: (*front, *getattr(attrs, name)) for name, front in wide.items()}
            return replace(attrs, **fields, sizes=(*extents, *attrs.sizes[1:]))
        return None

    def _reshaped(self, node: Node, value: Value, shape: tuple[int, ...]) -> Value:
        op, name = ops.get("reshape"), f"{node.output.name}.apart"
        made = self.rewriter.insert(node, op, [value], op.Attrs(shape=shape), name=name, loc=node.loc)
        self._advance(made)
        return made.output

    def _materialize(self, node: Node, joined: list[Value]) -> None:
        """Join rows after all, for a node that mixes them: the analysis of the graph will say so."""
        for index, value in enumerate(node.inputs):
            if value in joined:
                twin = self._apart[value][0]
                self.rewriter.set_operand(node, index, self._reshaped(node, twin, value.shape))
        self._advance(node)
