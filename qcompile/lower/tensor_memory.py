"""Where the tensors of a program lie: memory of their own, the caller's, or a place within another tensor."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from qcompile.ir.graph import Graph, Node, Value
from qcompile.ir.opdef import NoAttrs
from qcompile.kernels import expression as ex
from qcompile.kernels.expression import Expr
from qcompile.lower.offsets import dense_strides
from qcompile.lower.placement import Place, plan_placement
from qcompile.lower.sources import Sources, View
from qcompile.lower.storage import Buffer, Weights


class TensorMemory(ABC):
    """Gives tensors memory.

    Args:
        graph: read only.
        sources: knows how tensors are stored.
        weights: takes the constants.
    """

    def __init__(self, graph: Graph, sources: Sources, weights: Weights) -> None:
        self.sources, self.weights = sources, weights
        self._copies: dict[Value, Buffer] = {}
        self._places = plan_placement(graph)

    @abstractmethod
    def emit_map(
        self,
        node: Node,
        element: Expr,
        buffer: Buffer,
        output: Value,
        extents: Sequence[int],
        store: Expr | None = None,
    ) -> None:
        """Append a step that stores an expression's elements; see `LoweringContext`."""

    def memory(self, value: Value) -> Buffer:
        """Return the memory in which a tensor lies, at `sources.offset`, stored as `sources.stored_dtype` says."""
        if value in self.sources.pending:
            self.sources.pending[value].emit()
        if value.is_constant:
            return self.sources.buffer_of_constant(value)
        return self.sources.buffers[self.sources.view(value).root]

    def read_buffer(self, value: Value) -> Buffer:
        """Return memory that holds a tensor alone; a copy where it lies within another."""
        buffer = self.memory(value)
        if value not in self.sources.views:
            return buffer
        if value not in self._copies:
            copy = copy_of(value)
            self._copies[value] = Buffer(value.type.nbytes)
            self.emit_map(copy, self.whole(value), self._copies[value], copy.output, value.shape)
        return self._copies[value]

    def pixels(self, value: Value) -> tuple[Buffer, int]:
        """Return memory that starts with a tensor's first pixel, and the elements from there to the next.

        As `padded_buffer`, but a tensor that lies among channels of others is not copied.
        """
        self.memory(value)
        found = self.sources.pixels(value) if value in self.sources.views else None
        if found is None:
            return self.padded_buffer(value), value.shape[-1]
        return self._part(value, found[0]), found[1]

    def result_pixels(self, value: Value) -> tuple[Buffer, int]:
        """Likewise for a layer to write to."""
        place = self._places.joins.get(value)
        found = None
        if place is not None:
            # Nothing has been written yet, so that the view may be given up.
            self.result_buffer(value)
            found = self.sources.pixels(value)
        if found is None:
            self.sources.views.pop(value, None)
            return self.new_buffer(value), value.shape[-1]
        return self._part(value, found[0]), found[1]

    def _part(self, value: Value, first: int) -> Buffer:
        size = np.dtype(value.dtype).itemsize
        return self.memory(value).part(first * size, value.type.nbytes)

    def result_buffer(self, value: Value) -> Buffer:
        """Give a result memory: its place in another tensor, where that is planned, or its own."""
        place = self._places.joins.get(value)
        if place is None:
            return self.new_buffer(value)
        if place.parent not in self.sources.views and place.parent not in self.sources.buffers:
            self.result_buffer(place.parent)
        self.sources.views[value] = self._view(value, place)
        return self.memory(value)

    def _view(self, value: Value, place: Place) -> View:
        outer = self.sources.view(place.parent)
        base = outer.base + place.start * outer.strides[place.axis]
        return View(outer.root, base, dense_strides(value.shape) if place.flat else outer.strides)

    def joined(self, value: Value) -> Buffer:
        """Return the memory of a concat's result, which the first of its parts that lies there has made."""
        made = value in self.sources.views or value in self.sources.buffers
        return self.memory(value) if made else self.result_buffer(value)

    def in_place(self, part: Value, node: Node, start: int) -> bool:
        """Return whether a part of a concat already lies where it belongs.

        Args:
            part: an operand.
            node: the concat.
            start: index of the part's first element along the axis.
        """
        if part not in self.sources.views:
            return False
        wanted = self._view(part, Place(node.output, node.attrs.axis, start))
        found = self.sources.views[part]
        same = all(
            extent == 1 or a == b for extent, a, b in zip(part.shape, found.strides, wanted.strides, strict=True)
        )
        return same and (found.root, found.base) == (wanted.root, wanted.base)

    def window(self, node: Node, out: int = 0) -> bool:
        """Let a result be read where it lies in operand 0, if that is planned; return whether it is.

        Args:
            node: a split, or a slice along one axis.
            out: which result.
        """
        output = node.outputs[out]
        place = self._places.cuts.get(output)
        if place is None:
            return False
        self.memory(place.parent)
        if self.sources.is_boundary(place.parent):
            return False
        self.sources.views[output] = self._view(output, place)
        return True

    def new_buffer(self, value: Value, nbytes: int | None = None) -> Buffer:
        """Give a result memory of its own."""
        buffer = Buffer(value.type.nbytes if nbytes is None else nbytes)
        self.sources.buffers[value] = buffer
        return buffer

    def padded_buffer(self, value: Value) -> Buffer:
        """Return memory of a tensor past whose end a kernel may read, stored as the instruction set wants it.

        The caller's own tensors are copied for that.
        """
        buffer = self.own_buffer(value, always=True)
        buffer.overread = True
        return buffer

    def own_buffer(self, value: Value, *, always: bool = False) -> Buffer:
        """Return memory of a tensor stored as the instruction set wants it; a copy where the caller's is not.

        Args:
            value: the tensor.
            always: copy the caller's tensors even where they are stored in the same way.
        """
        if value.is_constant and self.sources.differs(value):
            return self.weights.add(value.constant().view(np.uint8) ^ np.uint8(128))
        buffer = self.read_buffer(value)
        if not (always and buffer.space == "input") and not self.sources.differs(value):
            return buffer
        if value not in self._copies:
            # The copy is a value of its own: expressions that wait to be emitted still read the caller's memory.
            copy = copy_of(value)
            self._copies[value] = Buffer(value.type.nbytes)
            self.emit_map(copy, self.whole(value), self._copies[value], copy.output, value.shape)
        return self._copies[value]

    def whole(self, value: Value) -> Expr:
        """Return the element at the index of a loop over a tensor."""
        position = tuple(ex.index(n) for n in range(len(value.shape)))
        return self.sources.read(value, position, None, None)


def copy_of(value: Value) -> Node:
    """Return a node, of no graph, that copies a value; it names the step in reports."""
    from qcompile import ops

    result = Value(f"{value.name}.copy", value.type)
    result.qparams = value.qparams
    return Node(ops.get("identity"), [value], [result], NoAttrs(), value.name)
