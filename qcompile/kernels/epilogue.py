"""What happens to finished sums before the only store: scale, residual, clamp or table, narrow.

Bit for bit (see quant): ``int(rne(clamp(f(float32(acc) * m))))``, then integers only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from tvm import tirx

from qcompile.ir.types import NARROW
from qcompile.kernels import parameters as at
from qcompile.kernels.activation import ACTIVATIONS
from qcompile.kernels.activation import SCALED as SCALED_ACTIVATIONS
from qcompile.kernels.builder import (
    Builder,
    Expr,
    Index,
    Memory,
    bitcast,
    cast,
    const,
    index,
    lanes_of,
    quotient,
    shuffle,
    splat,
)
from qcompile.kernels.conv_workload import ConvWorkload
from qcompile.kernels.halves import converted
from qcompile.kernels.isa import Isa
from qcompile.quant.int16 import LOW_BITS
from qcompile.quant.requantize import WIDE_SHIFT
from qcompile.quant.scaled import PER_CHANNEL

_BOUNDS: dict[str, tuple[Expr | int | None, int | None]] = {
    "none": (None, None),
    "relu": (const(0.0, "float32"), None),
    "clip": (at.ALPHA, at.BETA),
}
"""Activations that only bound: least and largest value, or their places among the parameters."""


Scale = tuple[Expr, ...]
"""Multipliers of a vector of channels, and their activation's parameters where they have some of their own."""


def storage_dtype(isa: Isa, dtype: str) -> str:
    """How a tensor of ``dtype`` lies in memory on an instruction set."""
    return isa.activation_dtype if dtype == "int8" else dtype


class Epilogue:
    """Emits the end of one layer's tiles.

    Args:
        b: builder.
        work: gives precision, output, residual, table and activation.
        isa: instruction set.
        lanes: channels in one result vector.
    """

    def __init__(self, b: Builder, work: ConvWorkload, isa: Isa, lanes: int) -> None:
        self._b, self._work, self._isa, self._lanes = b, work, isa, lanes
        self._bias = b.argument(2, "float32" if work.real else "int32")
        self._multipliers = b.argument(3, "float32")
        stored = storage_dtype(isa, work.output)
        self._residual = b.argument(4, "int32" if work.low else work.precision if work.real else stored)
        self._table = b.argument(5, "uint8")
        self._per_channel = b.argument(5, "float32") if work.activation in PER_CHANNEL else None
        self._output = b.argument(6, stored)
        self._codes = b.argument(6, "uint8")
        self._floats = b.argument(7, "float32")
        self._integers = b.argument(7, "int32")
        self._narrowing: tuple[Expr | None, Expr | None, Expr | None] | None = None
        if work.output == "int8" and isa.narrow is not None:
            zero = b.let(self._integers.load(at.OUT_ZERO))
            bounds: list[Expr | None] = [None, None]
            if not work.full_range:
                bounds = [b.let(cast(stored, self._integers.load(i) + zero)) for i in (at.INT_LO, at.INT_HI)]
            offset = None if work.from_zero and isa.eases else b.let(cast("int16", zero))
            self._narrowing = (offset, bounds[0], bounds[1])
        self._addition: tuple[Expr, Expr] | None = None
        if work.residual and work.bounded_residual and self._narrowing and isa.add_residual is not None:
            zero, factor = (self._integers.load(i) for i in (at.RESIDUAL_ZERO, at.RESIDUAL_FACTOR))
            self._addition = (b.let(cast(stored, zero)), b.let(cast("int16", factor)))

    @property
    def bias_memory(self) -> Memory:
        """The bias by padded channel."""
        return self._bias

    def bias(self, channel: Index, nv: int) -> list[Expr]:
        """First values of the accumulators of ``nv`` vectors, from a padded channel number.

        Sums of float32 start at zero: with a large bias in them, each product would be rounded to its last bit.
        """
        if self._work.precision == "float32":
            return [const(0.0, f"float32x{self._lanes}")] * nv
        return [self._b.let(part) for part in self._neighbours(self._bias, channel, nv)]

    def scale(self, channel: Index, nv: int) -> list[Scale]:
        """Multipliers of ``nv`` vectors, or the bias of sums of float32, to be handed to ``store``.

        With them come parameters of the activation where channels have their own.
        """
        if self._work.precision == "float32":
            return [(self._b.let(part),) for part in self._neighbours(self._bias, channel, nv)]
        if self._work.real or self._work.output == "int32":
            return []
        factors = self._neighbours(self._multipliers, channel, nv)
        if self._per_channel is None:
            return [(factor,) for factor in factors]
        return list(zip(factors, self._neighbours(self._per_channel, channel, nv), strict=True))

    def _neighbours(self, memory: Memory, first: Index, nv: int) -> list[Expr]:
        """Load ``nv`` vectors; where registers can be loaded in pairs, all at once, so that LLVM pairs them."""
        lanes = self._lanes
        if not self._isa.loads_pairs:
            return [memory.load(first + j * lanes, lanes) for j in range(nv)]
        whole = self._b.let(memory.load(first, nv * lanes))
        return [shuffle([whole], range(j * lanes, (j + 1) * lanes)) for j in range(nv)] if nv > 1 else [whole]

    def store(self, sums: Sequence[Expr], scale: Sequence[Scale], to: Index, valid: int) -> None:
        """Finish one pixel.

        Args:
            sums: accumulator vectors of neighbouring channels.
            scale: what ``scale`` returned for these channels.
            to: element index in the output of the first channel.
            valid: number of channels that exist; lanes past them are dropped.
        """
        for first, values in self._vectors(sums, scale, to):
            self._store_lanes(to + first, values, valid - first)
        if self._late_table:
            with self._b.loop(valid, stem="c") as c:
                code = cast("int64", self._codes.load(to + c))
                self._codes.store(to + c, self._table.load(code))

    def pixels_together(self, nv: int) -> int:
        """Return how many pixels of ``nv`` vectors fill whole vectors of codes, for ``store_pixels``."""
        if self._narrowing is None or not self._isa.narrows_pixels or self._late_table:
            return 1
        return self._fit // math.gcd(self._fit, nv)

    def store_pixels(self, pixels: Sequence[tuple[Sequence[Expr], Index]], scale: Sequence[Scale], valid: int) -> None:
        """Finish some pixels, each with its sums and its place; what narrows does so for several at once.

        Args:
            pixels: sums and output element, as for ``store``.
            scale: as for ``store``.
            valid: as for ``store``.
        """
        if len(pixels) == 1 or self.pixels_together(len(scale)) == 1:
            for sums, to in pixels:
                self.store(sums, scale, to, valid)
            return
        lanes = self._lanes
        flat = [(sums[j], scale[j], to, j * lanes) for sums, to in pixels for j in range(len(sums))]
        while flat:
            count = self._together(len(flat))
            found = [self._finish_integer(total, factor, to + first) for total, factor, to, first in flat[:count]]
            places = [(to, first) for _, _, to, first in flat[:count]]
            codes = self._codes_of(found, places)
            self._store_runs(self._b.let(codes) if count > 1 else codes, places, valid)
            flat = flat[count:]

    def store_packed(self, sums: Sequence[Expr], scale: Sequence[Scale], to: Index, valid: int) -> None:
        """Finish one pixel whose vectors hold their channels in the order that packing undoes.

        Args:
            sums: accumulator vectors that together fill a vector of codes.
            scale: as for ``store``, in the same order.
            to: as for ``store``.
            valid: as for ``store``.
        """
        found = [self._finish_integer(total, factor, to) for total, factor in zip(sums, scale, strict=True)]
        self._store_lanes(to, self._codes_of(found, [(to, 0)], in_order=False), valid)

    def _store_runs(self, codes: Expr, places: Sequence[tuple[Index, int]], valid: int) -> None:
        """Store vectors that were narrowed together, each run of neighbours at once."""
        lanes, start = self._lanes, 0
        while start < len(places):
            to, first = places[start]
            run = 1
            while start + run < len(places) and places[start + run][0] is to:
                run += 1
            run = 1 << (run.bit_length() - 1)
            part = shuffle([codes], range(start * lanes, (start + run) * lanes)) if run < len(places) else codes
            self._store_lanes(to + first, part, valid - first)
            start += run

    def _vectors(self, sums: Sequence[Expr], scale: Sequence[Scale], to: Index) -> Iterator[tuple[int, Expr]]:
        """Finished vectors in the type of the output, each with the number of its first channel."""
        if self._work.precision == "float32":
            sums, scale = [total + bias for total, (bias,) in zip(sums, scale, strict=True)], []
        scales: list[Scale | None] = [*scale] or [None] * len(sums)
        if self._work.output == "float16" and self._work.activation in _BOUNDS:
            yield from self._half_vectors(sums, to)
            return
        if self._work.output in ("float32", *NARROW):
            for j, (total, factor) in enumerate(zip(sums, scales, strict=True)):
                real = self._finish_float(total, factor, to + j * self._lanes)
                yield j * self._lanes, converted(self._b, real, "float32", self._work.output)
            return
        j = 0
        while j < len(sums):
            count = self._together(len(sums) - j)
            parts = range(j, j + count)
            found = [self._finish_integer(sums[i], scales[i], to + i * self._lanes) for i in parts]
            places = [(to, i * self._lanes) for i in parts]
            yield j * self._lanes, found[0] if self._work.output == "int32" else self._codes_of(found, places)
            j += count

    def _half_vectors(self, sums: Sequence[Expr], to: Index) -> Iterator[tuple[int, Expr]]:
        """Round two vectors into one of float16, then bound it: rounding keeps the order, so it is the same."""
        lanes = self._lanes
        for j in range(0, len(sums), 2):
            parts = []
            for i, total in enumerate(sums[j : j + 2], j):
                real = self._plus_residual(total, to + i * lanes)
                parts.append(cast(f"float16x{lanes}", self._b.let(real)))
            joined = self._b.let(shuffle(parts, range(2 * lanes)) if len(parts) == 2 else parts[0])
            yield j * lanes, self._bounded(joined)

    def _bounded(self, value: Expr) -> Expr:
        """Apply an activation that only bounds to float16 numbers."""
        low, high = _BOUNDS[self._work.activation]
        lanes, bounds = lanes_of(value), []
        for place in (low, high):
            bound = self._floats.load(place) if isinstance(place, int) else place
            bounds.append(None if bound is None else splat(cast("float16", bound), lanes))
        return self._isa.bound_half(value, *bounds)

    def _plus_residual(self, value: Expr, to: Index) -> Expr:
        """Add the residual to float32 sums, where there is one."""
        if not self._work.residual:
            return value
        residual = self._residual.load(self._beside(to), self._lanes)
        return value + converted(self._b, residual, self._residual.dtype, "float32")

    def _beside(self, to: Index) -> Index:
        """Where the element is that joins an element of the output."""
        work = self._work
        apart = work.residual_step - work.output_step if work.residual else 0
        return to + quotient(to, work.output_step) * index(apart) if apart else to

    def _together(self, left: int) -> int:
        """How many vectors of sums to narrow into one vector of codes."""
        if self._narrowing is None:
            return 1
        return 1 << (min(left, self._fit).bit_length() - 1)

    @property
    def _fit(self) -> int:
        """Vectors of sums whose codes fill a vector."""
        return max(1, self._isa.vector_bytes // self._lanes)

    @property
    def _late_table(self) -> bool:
        """Whether the table is applied to stored codes, for want of a vector look-up."""
        return self._work.table and self._isa.lookup is None

    def _codes_of(self, found: Sequence[Expr], places: Sequence[tuple[Index, int]], in_order: bool = True) -> Expr:
        """Stored codes of clamped (or, with a narrowing, any) integers relative to the zero point."""
        b, lanes = self._b, self._lanes * len(found)
        if self._work.output == "int16":
            return cast(f"int16x{lanes}", found[0] + self._integer(at.OUT_ZERO))
        if self._addition is not None and self._isa.narrow is not None and self._narrowing is not None:
            code = self._isa.narrow(self._sums(found, places), *self._narrowing, WIDE_SHIFT)
        elif self._narrowing is not None and self._isa.narrow is not None:
            options = {} if in_order else {"in_order": False}
            code = self._isa.narrow(found, *self._narrowing, **options)
        else:
            code = cast(f"{self._output.dtype}x{lanes}", found[0] + self._integer(at.OUT_ZERO))
        if self._work.table and self._isa.lookup is not None:
            code = bitcast(f"uint8x{lanes}", code)
            code = bitcast(f"{self._output.dtype}x{lanes}", self._isa.lookup(b, self._table, b.let(code)))
        return code

    def _sums(self, found: Sequence[Expr], places: Sequence[tuple[Index, int]]) -> list[Expr]:
        """Add the residual at 2^-WIDE_SHIFT, neighbouring vectors of one pixel together."""
        assert self._addition is not None
        assert self._isa.add_residual is not None
        sums: list[Expr] = []
        while len(sums) < len(found):
            start = len(sums)
            to, first = places[start]
            run = sum(other is to for other, _ in places[start:])
            codes = self._b.let(self._residual.load(self._beside(to) + first, run * self._lanes))
            sums += self._isa.add_residual(found[start : start + run], codes, *self._addition)
        return [self._b.let(total) for total in sums]

    def _float(self, position: int) -> Expr:
        return splat(self._floats.load(position), self._lanes)

    def _integer(self, position: int) -> Expr:
        return splat(self._integers.load(position), self._lanes)

    def _finish_integer(self, total: Expr, scale: Scale | None, to: Index) -> Expr:
        """Integers relative to the zero point, unclamped if a narrowing follows; raw sums if unscaled."""
        if scale is None:
            return total
        b, integers = self._b, f"int32x{self._lanes}"
        scaled = self._scaled(total, scale, to)
        saturate = self._isa.round_saturating
        if saturate is not None and self._narrowing is not None and (self._addition or not self._work.residual):
            if self._work.bounded and self._isa.round_bounded is not None:
                saturate = self._isa.round_bounded
            return b.let(saturate(scaled))
        near = self._sums_stay_near
        if near and self._work.residual and self._isa.round_bounded is not None:
            q = b.let(self._isa.round_bounded(scaled))
        else:
            q = b.let(self._isa.round_clamp(scaled, self._float(at.LO), self._float(at.HI)))
        if self._work.residual:
            other = cast(integers, self._residual.load(self._beside(to), self._lanes))
            factor = self._integers.load(at.RESIDUAL_FACTOR)
            if near:  # LLVM multiplies in 16 bits if it sees that it may
                factor = cast("int32", cast("int16", factor))
            q = q + other * splat(factor, self._lanes) + self._integer(at.RESIDUAL_OFFSET)
            q = b.let(q >> const(WIDE_SHIFT, integers))
            if self._narrowing is None:
                q = b.let(tirx.Min(tirx.Max(q, self._integer(at.INT_LO)), self._integer(at.INT_HI)))
        return q

    @property
    def _sums_stay_near(self) -> bool:
        """Whether sums need no clamp before a residual joins them: narrowing then makes the same of them."""
        bounded = self._work.bounded and self._work.bounded_residual
        return bounded and self._narrowing is not None and self._isa.round_bounded is not None

    def _scaled(self, total: Expr, scale: Scale, to: Index) -> Expr:
        """Sums in steps of the result, behind the activation."""
        scaled = self._b.let(self._real(total, to) * scale[0])
        if self._work.activation == "none":
            return scaled
        function = SCALED_ACTIVATIONS[self._work.activation]
        parameter = scale[1] if self._per_channel is not None else self._float(at.ALPHA)
        return self._b.let(function(self._b, scaled, parameter))

    def _real(self, total: Expr, to: Index) -> Expr:
        """Sums as floats, joined with those of the lower plane where there is one.

        The product with 256 is exact, so that it does not matter whether it becomes a fused multiply-add.
        """
        kind = f"float32x{self._lanes}"
        if not self._work.low:
            return cast(kind, total)
        lower = cast(kind, self._residual.load(self._beside(to), self._lanes))
        return self._b.let(cast(kind, total) * const(float(2**LOW_BITS), kind) + lower)

    def _finish_float(self, total: Expr, scale: Scale | None, to: Index) -> Expr:
        b = self._b
        if scale is not None:
            return self._scaled(total, scale, to)
        value = self._plus_residual(total, to)
        activation = ACTIVATIONS[self._work.activation]
        return activation(b, b.let(value), self._float(at.ALPHA), self._float(at.BETA))

    def _store_lanes(self, to: Index, value: Expr, valid: int) -> None:
        """Store the first ``valid`` lanes (or all)."""
        value = self._b.let(value)
        piece = lanes_of(value)
        if valid >= piece:
            self._output.store(to, value, piece)
            return
        first = 0
        while first < valid:
            if first + piece <= valid:
                part = shuffle([value], range(first, first + piece))
                self._output.store(to + first, part, piece)
                first += piece
            else:
                piece //= 2


def copy_elements(b: Builder, source: Memory, start: Index, to: Memory, first: Index, count: int, wide: int) -> None:
    """Copy elements, converted where the memories differ, and touch nothing else.

    Args:
        b: builder.
        source: memory to read.
        start: first element there.
        to: memory to write.
        first: first element there.
        count: elements.
        wide: elements to copy at once, a power of two.
    """
    whole = count // wide
    if whole:
        with b.loop(whole, stem="v") as v:
            to.store(first + v * wide, converted(b, source.load(start + v * wide, wide), source.dtype, to.dtype), wide)
    done, piece = whole * wide, wide
    while done < count:
        if done + piece <= count:
            to.store(first + done, converted(b, source.load(start + done, piece), source.dtype, to.dtype), piece)
            done += piece
        else:
            piece //= 2
