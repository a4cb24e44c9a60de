"""Which memory an expression reads, and how tensors are stored there.

An int8 activation is the code q in the IR. An instruction set that multiplies unsigned by signed bytes stores
q + 128 in its place; the choice is made here and seen nowhere else. What the caller gives and gets is always q.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qcompile.ir.graph import Value
from qcompile.kernels import expression as ex
from qcompile.kernels.expression import Expr
from qcompile.kernels.isa import Isa
from qcompile.lower.offsets import as_index, dense_strides, flat_offset
from qcompile.lower.storage import Buffer, Weights


@dataclass(frozen=True)
class Pending:
    """An elementwise result that has no memory yet, because its only reader may compute it in place.

    Args:
        value: the result.
        element: its element, in indices 0 … rank − 1 of its axes.
        emit: gives it memory of its own.
    """

    value: Value
    element: Expr
    emit: Callable[[], None]


@dataclass(frozen=True)
class View:
    """Where a tensor lies that has no memory of its own.

    Args:
        root: the tensor whose memory it is.
        base: its first element there.
        strides: elements from one index of each axis to the next.
    """

    root: Value
    base: int
    strides: tuple[int, ...]


class Sources:
    """Numbers the tensors that expressions read, and knows how each is stored.

    Args:
        isa: decides how quantized activations are stored.
        weights: takes the constants.
    """

    def __init__(self, isa: Isa, weights: Weights) -> None:
        self.isa, self.weights = isa, weights
        self.buffers: dict[Value, Buffer] = {}
        self.pending: dict[Value, Pending] = {}
        self.inline: frozenset[Value] = frozenset()
        self.reads: list[tuple[Value, tuple[Expr, ...]]] = []
        self.views: dict[Value, View] = {}
        self._numbers: dict[Value, int] = {}
        self._values: list[Value] = []
        self._boundary: set[Value] = set()

    def at_boundary(self, value: Value) -> None:
        """Say that a tensor is the caller's, which always holds q."""
        self._boundary.add(value)

    def is_boundary(self, value: Value) -> bool:
        """Return whether a tensor is stored as the caller has it."""
        return value in self._boundary

    def differs(self, value: Value) -> bool:
        """Return whether a tensor is not stored as the instruction set wants it."""
        if value.qparams is None or value.dtype != "int8":
            return False
        return self.stored_dtype(value) != self.isa.activation_dtype

    def shifted(self, value: Value) -> bool:
        """Return whether a tensor is not stored as the caller wants it."""
        return self.stored_dtype(value) != value.dtype

    def stored_dtype(self, value: Value) -> str:
        """Return the element type that a tensor has in memory."""
        shifted = value.qparams is not None and value.dtype == "int8" and not value.is_constant
        return self.isa.activation_dtype if shifted and value not in self._boundary else value.dtype

    def number(self, value: Value) -> int:
        """Return the number that stands for a tensor in expressions."""
        if value not in self._numbers:
            self._numbers[value] = len(self._values)
            self._values.append(value)
        return self._numbers[value]

    def value(self, number: int) -> Value:
        """Return the tensor of a number."""
        return self._values[number]

    def read(self, value: Value, position: tuple[Expr, ...], inside: Expr | None, fill: Expr | None) -> Expr:
        """Return an element of a tensor, in the IR's terms.

        Args:
            value: the tensor.
            position: one index per axis.
            inside: condition under which it exists, or None for always.
            fill: what to take elsewhere.
        """
        self.reads.append((value, position))
        if value.data is not None and value.data.size == 1 and value.dtype != "bool":
            only = ex.constant(value.data.reshape(-1)[0].item(), value.dtype)
            return only if inside is None or fill is None else ex.select(inside, only, fill)
        if value in self.inline:
            return self._computed(self.pending[value].element, position, inside, fill)
        dtype, offset = self.stored_dtype(value), self.offset(value, position)
        flipped = dtype != value.dtype
        if inside is None or fill is None:
            loaded = ex.load(self.number(value), dtype, offset)
        else:
            loaded = ex.load_or(self.number(value), dtype, offset, inside, ex.flip(fill) if flipped else fill)
        return ex.flip(loaded) if flipped else loaded

    def view(self, value: Value) -> View:
        """Return where a tensor lies."""
        return self.views.get(value) or View(value, 0, dense_strides(value.shape))

    def offset(self, value: Value, position: Sequence[Expr]) -> Expr:
        """Return the offset of an element in the memory where a tensor lies, elements."""
        if value not in self.views:
            return flat_offset(value.shape, position)
        view = self.views[value]
        total = ex.constant(view.base, "int64")
        for at, stride in zip(position, view.strides, strict=True):
            total = total + as_index(at) * stride
        return total

    def pixels(self, value: Value) -> tuple[int, int] | None:
        """Return a tensor's first element and the elements between neighbours on all axes but the last.

        None: rows or images lie further apart than their pixels say, or channels are no neighbours.
        """
        view = self.view(value)
        step, seen = 0, 1
        for extent, stride in list(zip(value.shape, view.strides, strict=True))[-2::-1]:
            if extent > 1:
                step = step or stride // seen
                if stride != step * seen:
                    return None
            seen *= extent
        channels = value.shape[-1]
        neighbours = channels == 1 or view.strides[-1] == 1
        return (view.base, step or channels) if neighbours and (not step or step >= channels) else None

    def _computed(self, element: Expr, position: tuple[Expr, ...], inside: Expr | None, fill: Expr | None) -> Expr:
        there = ex.substitute(element, dict(enumerate(position)))
        if inside is None or fill is None:
            return there

        def guard(node: Expr, args: tuple[Expr, ...]) -> Expr | None:
            if node.op != "load":
                return None
            return ex.load_or(node.data, node.dtype, args[0], inside, ex.constant(0, node.dtype))

        return ex.select(inside, ex.rebuild(there, guard), fill)

    def buffer_of_constant(self, value: Value) -> Buffer:
        """Return the memory of a constant; truth values become bytes."""
        if value not in self.buffers:
            data = value.constant()
            self.buffers[value] = self.weights.add(data.astype(np.uint8) if data.dtype == np.bool_ else data)
        return self.buffers[value]

    def stored(self, value: Value, element: Expr) -> Expr:
        """Return an element of a tensor as it is written to memory."""
        element = ex.cast(element, value.dtype)
        return ex.flip(element) if self.stored_dtype(value) != value.dtype else element


def constant_value(name: str, array: npt.ArrayLike) -> Value:
    """Return a constant that belongs to no graph."""
    from qcompile.ir.types import TensorType

    data = np.ascontiguousarray(array)
    return Value(name, TensorType(data.dtype.name, data.shape), data)
