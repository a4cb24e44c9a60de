"""Turns scalar expressions into vector code along one axis of a kernel's iteration space.

What does not change along that axis is computed once, as a scalar, and repeated only where a vector needs it. A
load whose position moves by one element per lane is one vector load; by another stride, or by an index that is
itself computed, it is gathered lane by lane.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from tvm import tirx

from qcompile.errors import InternalError
from qcompile.kernels import expression as ex
from qcompile.kernels import halves, math
from qcompile.kernels.builder import (
    Builder,
    Expr,
    Memory,
    bitcast,
    call_pure,
    cast,
    const,
    index,
    shuffle,
    splat,
    vector_type,
)
from qcompile.kernels.isa import Isa
from qcompile.kernels.narrowing import codes_of, narrowed

_CONVEX = ("and", "lt", "le")


def memory_dtype(dtype: str) -> str:
    """Return the element type that a tensor is read and written as; truth values are bytes, bfloat16 its bits."""
    return {"bool": "uint8", "bfloat16": "uint16"}.get(dtype, dtype)


class Emitter:
    """Emits expressions at one place of the iteration space.

    Args:
        b: builder.
        isa: instruction set.
        memories: the kernel's buffers by number.
        place: index of each axis; of the vector axis, that of lane 0.
        axis: the vector axis, or None where all is scalar.
        lanes: elements of a vector.
        accumulator: value of the "accumulator" leaf, already a vector of `lanes`.
    """

    def __init__(
        self,
        b: Builder,
        isa: Isa,
        memories: Mapping[int, Memory],
        place: Mapping[int, Expr],
        axis: int | None,
        lanes: int,
        accumulator: Expr | None = None,
    ) -> None:
        self.b, self.isa, self.memories = b, isa, memories
        self.place, self.axis, self.lanes = dict(place), axis, lanes if axis is not None else 1
        self._accumulator = accumulator
        self._scalars: dict[ex.Expr, Expr] = {}
        self._vectors: dict[ex.Expr, Expr] = {}
        self._varying: dict[ex.Expr, bool] = {}

    def value(self, node: ex.Expr) -> Expr:
        """Return the vector of a node's values (a scalar where lanes is 1)."""
        if not self.varies(node):
            return splat(self.scalar(node), self.lanes)
        if node not in self._vectors:
            value = self._emit(node, self.value, self.lanes)
            # TVM cannot name a vector of truth values; LLVM finds the repetition itself.
            named = math.base(value) != "bool" or self.lanes == 1
            self._vectors[node] = math.let(self.b, value) if named else value
        return self._vectors[node]

    def scalar(self, node: ex.Expr) -> Expr:
        """Return the value of a node that is the same in all lanes."""
        if node not in self._scalars:
            self._scalars[node] = math.let(self.b, self._emit(node, self.scalar, 1))
        return self._scalars[node]

    def varies(self, node: ex.Expr) -> bool:
        """Return whether a node differs from lane to lane."""
        if node not in self._varying:
            own = node.op == "accumulator" or (node.op == "index" and node.data == self.axis)
            alone = self.lanes > 1 and own
            self._varying[node] = alone or any(self.varies(part) for part in node.args)
        return self._varying[node]

    def _emit(self, node: ex.Expr, of: Callable[[ex.Expr], Expr], lanes: int) -> Expr:
        # bfloat16 numbers are their bits.
        dtype = vector_type("uint16" if node.dtype == "bfloat16" else node.dtype, lanes)
        if node.op == "const":
            return const(_bits(node.data[0]) if node.dtype == "bfloat16" else node.data[0], dtype)
        if node.op == "index":
            start = index(self.place[node.data])
            return tirx.Ramp(start, index(1), lanes) if lanes > 1 else start
        if node.op == "accumulator":
            if self._accumulator is None:
                raise InternalError("an accumulator is read outside of a reduction's end")
            return self._accumulator
        if node.op == "load":
            return self._truth(node, self._load(node, lanes), lanes)
        if node.op == "load_or":
            return self._truth(node, self._load_or(node, lanes), lanes)
        if node.op == "cast" and lanes > self.isa.int8.lanes and self.isa.map_lanes:
            codes = codes_of(node)
            if codes is not None:
                return narrowed(self.b, self.isa, codes, of(codes.value), lanes)
        if node.op == "round_clamp":
            return self._round_clamp([of(part) for part in node.args], lanes)
        if node.op == "cast" and "bfloat16" in (node.dtype, node.args[0].dtype):
            return self._through_float32(node, of)
        emit = _EMIT.get(node.op)
        if emit is None:
            raise InternalError(f"no code for the expression {node.op}")
        return emit(self.b, dtype, *[of(part) for part in node.args])

    def _truth(self, node: ex.Expr, value: Expr, lanes: int) -> Expr:
        return tirx.NE(value, const(0, vector_type("uint8", lanes))) if node.dtype == "bool" else value

    def _through_float32(self, node: ex.Expr, of: Callable[[ex.Expr], Expr]) -> Expr:
        """Emit a conversion from or to bfloat16."""
        (part,) = node.args
        if part.dtype == "bool":
            part = ex.cast(part, "float32")
        return halves.converted(self.b, of(part), part.dtype, node.dtype)

    # -- memory -------------------------------------------------------------------------------------------

    def offset(self, position: ex.Expr) -> Expr:
        """Return the element offset of lane 0, as an int64 scalar."""
        form = ex.affine(position)
        total = index(form.constant)
        for part, coefficient in form.terms:
            where = self.place[part.data] if part.op == "index" else cast("int64", self.scalar(part))
            total = total + index(where) * index(coefficient)
        return total

    def _load(self, node: ex.Expr, lanes: int) -> Expr:
        memory, position = self.memories[node.data], node.args[0]
        stride = self.stride(position) if lanes > 1 else 0
        if stride is None:
            return self._gather(memory, self.value(position), lanes)
        start = self.offset(position)
        if stride == 1:
            return memory.load(start, lanes)
        if lanes == 1:
            return memory.load(start)
        return memory.gather(tirx.Ramp(start, index(stride), lanes))

    def stride(self, position: ex.Expr) -> int | None:
        """Return by how many elements a position moves per lane, None where that is no constant."""
        form = ex.affine(position)
        if any(self.varies(part) for part in form.opaque):
            return None
        return form.coefficient(self.axis) if self.axis is not None else 0

    def _gather(self, memory: Memory, positions: Expr, lanes: int) -> Expr:
        return memory.gather(cast(f"int64x{lanes}", positions))

    def _load_or(self, node: ex.Expr, lanes: int) -> Expr:
        position, inside, fill = node.args
        memory = self.memories[node.data]
        loaded = ex.load(node.data, node.dtype, position)
        other = self._stored(fill, node.dtype, lanes)
        if lanes == 1 or not self.varies(inside):
            condition = self.scalar(inside)
            return _choose(condition, self._load(loaded, lanes), other)
        safe = ex.select(inside, ex.cast(position, "int64"), ex.constant(0, "int64"))
        slow = tirx.Select(self.value(inside), self._gather(memory, self.value(safe), lanes), other)
        if self.stride(position) is None or not _convex(inside):
            return slow
        return _choose(self._ends_inside(inside), self._load(loaded, lanes), slow)

    def _stored(self, fill: ex.Expr, dtype: str, lanes: int) -> Expr:
        value = self.value(fill) if lanes > 1 else self.scalar(fill)
        if dtype != "bool":
            return value
        return tirx.Select(value, *(const(v, vector_type("uint8", lanes)) for v in (1, 0)))

    def _ends_inside(self, inside: ex.Expr) -> Expr:
        """Whether a convex condition holds in the first and the last lane, and so in all."""
        assert self.axis is not None
        first = Emitter(self.b, self.isa, self.memories, self.place, None, 1)
        last_place = {**self.place, self.axis: index(self.place[self.axis]) + index(self.lanes - 1)}
        last = Emitter(self.b, self.isa, self.memories, last_place, None, 1)
        return self.b.let(tirx.And(first.scalar(inside), last.scalar(inside)))

    def _round_clamp(self, parts: Sequence[Expr], lanes: int) -> Expr:
        value, lo, hi = parts
        own = self.isa.float32.lanes
        if lanes == own:
            return self.isa.round_clamp(value, lo, hi)
        if lanes > own and lanes % own == 0:
            return self._round_clamp_in_parts(parts, lanes)
        clamped = tirx.Min(tirx.Max(value, lo), hi)
        # The operand is no product, so the addition cannot be contracted; it rounds to nearest, ties to even.
        shifted = clamped + const(math.ROUND, vector_type("float32", lanes))
        return bitcast(vector_type("int32", lanes), shifted) - const(math.ROUND_BITS, vector_type("int32", lanes))

    def _round_clamp_in_parts(self, parts: Sequence[Expr], lanes: int) -> Expr:
        """Round the vectors of which a wide one consists, one after another."""
        own = self.isa.float32.lanes
        value, lo, hi = (self.b.let(part) for part in parts)
        rounded = []
        for first in range(0, lanes, own):
            places = range(first, first + own)
            cut = [shuffle([part], places) for part in (value, lo, hi)]
            rounded.append(self.b.let(self.isa.round_clamp(*cut)))
        return shuffle(rounded, range(lanes))


def _bits(number: float) -> int:
    return int(np.asarray(number, "bfloat16").view(np.uint16))


def _convex(condition: ex.Expr) -> bool:
    """Return whether a condition that holds in two lanes holds in all between: inequalities of affine forms."""
    if condition.op == "and":
        return all(_convex(part) for part in condition.args)
    if condition.op not in ("lt", "le"):
        return False
    return not any(ex.affine(part).opaque for part in condition.args)


def _choose(condition: Expr, yes: Expr, no: Expr) -> Expr:
    return tirx.if_then_else(condition, yes, no)


def store_value(value: Expr, dtype: str, lanes: int) -> Expr:
    """Return a value as it is written to memory."""
    if dtype == "bool":
        return tirx.Select(value, const(1, vector_type("uint8", lanes)), const(0, vector_type("uint8", lanes)))
    return value


def _cast(b: Builder, dtype: str, x: Expr) -> Expr:
    if math.base(x) == "bool":
        return tirx.Select(x, const(1, dtype), const(0, dtype))
    if dtype.startswith("bool"):
        return tirx.NE(x, const(0, math.dtype_of(x)))
    return cast(dtype, x)


def _equal(b: Builder, dtype: str, x: Expr, y: Expr) -> Expr:
    """Compare; LLVM has no comparison for TVM's truth values, which agree where both hold or neither."""
    if math.base(x) == "bool":
        return tirx.Or(tirx.And(x, y), tirx.And(tirx.Not(x), tirx.Not(y)))
    return tirx.EQ(x, y)


def _flip(b: Builder, dtype: str, x: Expr) -> Expr:
    unsigned = like_unsigned(dtype)
    raw = x if math.base(x) == "uint8" else bitcast(unsigned, x)
    flipped = tirx.bitwise_xor(raw, const(128, unsigned))
    return bitcast(dtype, flipped) if dtype.startswith("int8") else flipped


def _binade(b: Builder, dtype: str, x: Expr) -> Expr:
    bits = dtype.replace("float32", "int32")
    return bitcast(dtype, bitcast(bits, x) & const(0x7F800000, bits))


def like_unsigned(dtype: str) -> str:
    """Return "uint8" with the lanes of an 8-bit type."""
    return "uint8" + dtype.removeprefix("uint8").removeprefix("int8")


def _quotient(b: Builder, dtype: str, x: Expr, y: Expr) -> Expr:
    return tirx.truncdiv(x, y)


def _remainder(b: Builder, dtype: str, x: Expr, y: Expr) -> Expr:
    return tirx.truncmod(x, y)


_EMIT: dict[str, Callable[..., Expr]] = {
    "add": lambda b, t, x, y: x + y,
    "sub": lambda b, t, x, y: x - y,
    "mul": lambda b, t, x, y: x * y,
    "div": lambda b, t, x, y: x / y,
    "quotient": _quotient,
    "remainder": _remainder,
    "shr": lambda b, t, x, y: x >> y,
    "shl": lambda b, t, x, y: x << y,
    "bit_and": lambda b, t, x, y: tirx.bitwise_and(x, y),
    "bit_or": lambda b, t, x, y: tirx.bitwise_or(x, y),
    "bit_xor": lambda b, t, x, y: tirx.bitwise_xor(x, y),
    "max": lambda b, t, x, y: tirx.Max(x, y),
    "min": lambda b, t, x, y: tirx.Min(x, y),
    "lt": lambda b, t, x, y: tirx.LT(x, y),
    "le": lambda b, t, x, y: tirx.LE(x, y),
    "eq": _equal,
    "and": lambda b, t, x, y: tirx.And(x, y),
    "or": lambda b, t, x, y: tirx.Or(x, y),
    "not": lambda b, t, x: tirx.Not(x),
    "select": lambda b, t, c, x, y: tirx.Select(c, x, y),
    "cast": _cast,
    "flip": _flip,
    "exp": lambda b, t, x: math.exp(b, x),
    "log": lambda b, t, x: math.log(b, x),
    "tanh": lambda b, t, x: math.tanh(b, x),
    "erf": lambda b, t, x: math.erf(b, x),
    "sin": lambda b, t, x: math.sine(b, x, 0),
    "cos": lambda b, t, x: math.sine(b, x, 1),
    "atan": lambda b, t, x: math.arctangent(b, x),
    "sigmoid": lambda b, t, x: math.sigmoid(b, x),
    "pow": lambda b, t, x, y: math.power(b, x, y),
    "sqrt": lambda b, t, x: call_pure(t, "llvm.sqrt", x),
    "floor": lambda b, t, x: call_pure(t, "llvm.floor", x),
    "abs": lambda b, t, x: math.absolute(x),
    "binade": _binade,
    "float16": lambda b, t, x: halves.from_float16(b, x),
    "bfloat16": lambda b, t, x: halves.from_bfloat16(x),
}
