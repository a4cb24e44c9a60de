"""Which tensors lie inside others: parts of a concat where the result has them, results of a split where they were.

A step then writes its result straight to its place in the joined tensor, or reads a part of a tensor where it is,
and the copies vanish. The larger tensor is in use for longer, so each placement is weighed by the memory that is in
use at each node: none may take the most of it above what copies need.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from qcompile.ir.graph import Graph, Node, Value
from qcompile.ir.opdef import Quantization
from qcompile.ops.concat import is_copy

_KINDS = ("int8", "float32")
_ELEMENTWISE = frozenset(
    {
        *("abs", "add", "avg_pool", "cast", "clip", "concat", "dequantize", "div", "exp", "global_avg_pool"),
        *("global_max_pool", "hard_sigmoid", "hard_swish", "leaky_relu", "log", "max_pool", "maximum", "minimum"),
        *("mul", "neg", "pad", "pow", "prelu", "quantize", "reduce_max", "reduce_mean", "reduce_min", "reduce_sum"),
        *("relu", "requantize", "resize", "sigmoid", "silu", "slice", "split", "sqrt", "sub", "tanh", "transpose"),
    }
)
"""Operations that are lowered to expressions, which read and write at any place."""

_LAYERS = frozenset({"conv2d", "dense"})
_ACTIVATIONS = (0, 3)
"""Operands of a layer that may lie among others: what it multiplies, and what it adds."""


@dataclass(frozen=True)
class Place:
    """Where a tensor lies in a larger one.

    Args:
        parent: the larger tensor, which may itself lie in another.
        axis: along which the tensor is a part of it.
        start: index of its first element there.
        flat: the part is contiguous, and the tensor a reshaped form of it.
    """

    parent: Value
    axis: int
    start: int
    flat: bool = False


@dataclass
class Placement:
    """Places of a graph's tensors.

    Args:
        joins: of parts, whose steps write them there.
        cuts: of results of split and slice, which are read there.
    """

    joins: dict[Value, Place] = field(default_factory=dict)
    cuts: dict[Value, Place] = field(default_factory=dict)


def plan_placement(graph: Graph) -> Placement:
    """Choose places for the tensors of a graph; none in one with open extents, whose steps know rows only.

    Args:
        graph: channels last; read only.
    """
    found = Placement()
    if graph.extents or graph.symbols:
        return found
    memory = _Memory(graph)
    for node in graph.nodes:
        for value, place in _cuts(node):
            if memory.is_own(place.parent) and not memory.kept(value) and memory.move([value], place.parent):
                found.cuts[value] = place
    for node in reversed(graph.nodes):
        joins = {v: p for v, p in _joins(node, memory) if v not in found.joins and v not in found.cuts}
        if joins and memory.move(list(joins), node.output):
            found.joins.update(joins)
            continue
        for value, place in joins.items():
            if memory.move([value], node.output):
                found.joins[value] = place
    return found


def _cuts(node: Node) -> Iterator[tuple[Value, Place]]:
    """Yield the results of a split or slice along one axis, if any layer reads them."""
    if node.op.name not in ("split", "slice") or node.inputs[0].dtype not in _KINDS:
        return
    x, attrs = node.inputs[0], node.attrs
    if node.op.name == "slice":
        cut = [a for a, size in enumerate(attrs.sizes) if size != x.shape[a]]
        if len(cut) != 1 or attrs.steps[cut[0]] != 1:
            return
        axis, starts = cut[0], [attrs.starts[cut[0]]]
    else:
        axis, starts = attrs.axis, list(np.cumsum([0, *attrs.sizes[:-1]]))
    for value, start in zip(node.outputs, starts, strict=True):
        if value.type.size and value.uses and _read_anywhere(value) and _feeds_layer(value):
            yield value, Place(x, axis, int(start))


def _feeds_layer(value: Value) -> bool:
    return any(reader.op.name in _LAYERS for reader in value.users())


def _read_anywhere(value: Value) -> bool:
    """Return whether every reader takes a tensor that lies among elements of others."""
    for reader, index in value.uses:
        if reader.op.name in _LAYERS and index in _ACTIVATIONS and _plain(reader):
            continue
        if not _is_elementwise(reader):
            return False
    return True


def _is_elementwise(node: Node) -> bool:
    """Return whether a node is lowered to an expression; codes that go through a table are not."""
    table = node.is_integer and node.op.integer is Quantization.TABLE
    return node.op.name in _ELEMENTWISE and not table


def _plain(layer: Node) -> bool:
    """Return whether a layer is of the kind whose kernels know of pitches, and reads pixels of one axis."""
    types = {layer.inputs[0].dtype, layer.output.dtype}
    return types <= {"int8", "float32", "int32"} and layer.inputs[1].is_constant


def _joins(node: Node, memory: _Memory) -> Iterator[tuple[Value, Place]]:
    """Yield the parts of a concat that can be written in place."""
    if node.op.name != "concat" or node.output.dtype not in _KINDS or memory.kept(node.output):
        return
    axis, start = node.attrs.axis, 0
    for part in node.inputs:
        once = node.inputs.count(part) == 1
        if once and part.type.size and memory.is_own(part) and not memory.kept(part) and _same_codes(part, node.output):
            yield from _place(part, Place(node.output, axis, start))
        start += part.shape[axis]


def _same_codes(part: Value, result: Value) -> bool:
    if part.qparams is None or result.qparams is None:
        return part.qparams is result.qparams
    return is_copy(part.qparams, result.qparams)


def _place(part: Value, place: Place) -> Iterator[tuple[Value, Place]]:
    """Yield a part if its step can write it anywhere; before a reshape, what it is made of."""
    maker = part.producer
    if maker is None or not _read_anywhere(part):
        return
    if maker.op.name == "reshape":
        source, outer = maker.inputs[0], place.parent.shape[: place.axis]
        if all(extent == 1 for extent in outer) and len(source.uses) == 1 and source.qparams == part.qparams:
            yield from _place_flat(source, Place(place.parent, place.axis, place.start, flat=True))
        return
    if _writes_anywhere(maker):
        yield part, place


def _place_flat(source: Value, place: Place) -> Iterator[tuple[Value, Place]]:
    if source.producer is not None and _writes_anywhere(source.producer):
        yield source, place


def _writes_anywhere(maker: Node) -> bool:
    if maker.op.name in _LAYERS:
        return _plain(maker)
    return _is_elementwise(maker) and maker.op.name not in ("split", "slice")


class _Memory:
    """Bytes in use at each node, were every tensor to have its own memory but those that were moved."""

    def __init__(self, graph: Graph) -> None:
        number = {node: n for n, node in enumerate(graph.nodes)}
        self._last, self._outputs = len(graph.nodes), set(graph.outputs)
        self._spans: dict[Value, tuple[int, int]] = {}
        self._owner: dict[Value, Value] = {}
        self._use = np.zeros(self._last + 1, np.int64)
        for node in graph.nodes:
            for value in node.outputs:
                last = max((number[reader] for reader in value.users() if reader in number), default=number[node])
                self._spans[value] = (number[node], self._last if value in self._outputs else last)
        for value, (first, last) in self._spans.items():
            self._use[first : last + 1] += value.type.nbytes
        self._most = int(self._use.max(initial=0))

    def is_own(self, value: Value) -> bool:
        """Return whether a tensor is made by a node."""
        return value in self._spans

    def kept(self, value: Value) -> bool:
        """Return whether a tensor is the caller's."""
        return value in self._outputs

    def _root(self, value: Value) -> Value:
        while value in self._owner:
            value = self._owner[value]
        return value

    def move(self, values: Sequence[Value], parent: Value) -> bool:
        """Let tensors lie in another one, unless that takes more memory than there was in use before."""
        root = self._root(parent)
        if root not in self._spans or root in self._outputs or any(v in self._owner or v is root for v in values):
            return False
        use, span = self._use.copy(), self._spans[root]
        use[span[0] : span[1] + 1] -= root.type.nbytes
        for value in values:
            first, last = self._spans[value]
            use[first : last + 1] -= value.type.nbytes
            span = min(first, span[0]), max(last, span[1])
        use[span[0] : span[1] + 1] += root.type.nbytes
        if int(use.max()) > self._most:
            return False
        self._use, self._spans[root] = use, span
        self._owner.update(dict.fromkeys(values, root))
        return True
