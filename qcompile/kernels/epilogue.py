"""What happens to finished sums before the only store: scale, residual, clamp or table, narrow.

Bit for bit (see quant): ``int(rne(clamp(float32(acc) * m)))``, then integers only.
"""

from __future__ import annotations

from collections.abc import Sequence

from tvm import tirx

from qcompile.kernels import parameters as at
from qcompile.kernels.activation import ACTIVATIONS
from qcompile.kernels.builder import Builder, Expr, Index, Memory, cast, const, shuffle, splat
from qcompile.kernels.conv_workload import ConvWorkload
from qcompile.kernels.isa import Isa


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
        self._bias = b.argument(2, "float32" if work.precision == "float32" else "int32")
        self._multipliers = b.argument(3, "float32")
        stored = storage_dtype(isa, work.output)
        self._residual = b.argument(4, stored)
        self._table = b.argument(5, "uint8")
        self._output = b.argument(6, stored)
        self._codes = b.argument(6, "uint8")
        self._floats = b.argument(7, "float32")
        self._integers = b.argument(7, "int32")

    def bias(self, channel: Index, nv: int) -> list[Expr]:
        """First values of the accumulators of ``nv`` vectors, from a padded channel number."""
        return [self._b.let(self._bias.load(channel + j * self._lanes, self._lanes)) for j in range(nv)]

    def scale(self, channel: Index, nv: int) -> list[Expr]:
        """Multipliers of ``nv`` vectors, to be handed to ``store``."""
        if self._work.precision == "float32" or self._work.output == "int32":
            return []
        return [self._multipliers.load(channel + j * self._lanes, self._lanes) for j in range(nv)]

    def store(self, sums: Sequence[Expr], scale: Sequence[Expr], to: Index, valid: int) -> None:
        """Finish one pixel.

        Args:
            sums: accumulator vectors of neighbouring channels.
            scale: what ``scale`` returned for these channels.
            to: element index in the output (and residual) of the first channel.
            valid: number of channels that exist; lanes past them are dropped.
        """
        finish = self._finish_float if self._work.output == "float32" else self._finish_integer
        for j, total in enumerate(sums):
            offset = j * self._lanes
            value = finish(total, scale[j] if scale else None, to + offset)
            self._store_lanes(to + offset, value, min(self._lanes, valid - offset))
        if self._work.table and self._isa.lookup is None:
            with self._b.loop(valid, stem="c") as c:
                code = cast("int64", self._codes.load(to + c))
                self._codes.store(to + c, self._table.load(code))

    def _float(self, position: int) -> Expr:
        return splat(self._floats.load(position), self._lanes)

    def _integer(self, position: int) -> Expr:
        return splat(self._integers.load(position), self._lanes)

    def _finish_integer(self, total: Expr, scale: Expr | None, to: Index) -> Expr:
        if scale is None:
            return total
        b, integers = self._b, f"int32x{self._lanes}"
        scaled = b.let(cast(f"float32x{self._lanes}", total) * scale)
        q = b.let(self._isa.round_clamp(scaled, self._float(at.LO), self._float(at.HI)))
        if self._work.residual:
            other = cast(integers, self._residual.load(to, self._lanes))
            q = q + other * self._integer(at.RESIDUAL_FACTOR) + self._integer(at.RESIDUAL_OFFSET)
            q = b.let(q >> const(at.WIDE_SHIFT, integers))
            q = b.let(tirx.Min(tirx.Max(q, self._integer(at.INT_LO)), self._integer(at.INT_HI)))
        code = cast(f"{self._output.dtype}x{self._lanes}", q + self._integer(at.OUT_ZERO))
        if self._work.table and self._isa.lookup is not None:
            return self._isa.lookup(b, self._table, code)
        return code

    def _finish_float(self, total: Expr, scale: Expr | None, to: Index) -> Expr:
        b = self._b
        value = total if scale is None else cast(f"float32x{self._lanes}", total) * scale
        if self._work.residual:
            value = value + self._residual.load(to, self._lanes)
        activation = ACTIVATIONS[self._work.activation]
        return activation(b, b.let(value), self._float(at.ALPHA), self._float(at.BETA))

    def _store_lanes(self, to: Index, value: Expr, valid: int) -> None:
        if valid >= self._lanes:
            self._output.store(to, value, self._lanes)
            return
        value = self._b.let(value)
        first, piece = 0, self._lanes
        while first < valid:
            if first + piece <= valid:
                part = shuffle([value], range(first, first + piece))
                self._output.store(to + first, part, piece)
                first += piece
            else:
                piece //= 2


def copy_elements(
    b: Builder, source: Memory, start: Index, to: Memory, first: Index, count: int, wide: int
) -> None:
    """Copy (and convert) ``count`` elements, ``wide`` at a time, touching nothing else."""
    whole = count // wide
    if whole:
        with b.loop(whole, stem="v") as v:
            to.store(first + v * wide, _convert(source.load(start + v * wide, wide), to.dtype, wide), wide)
    done, piece = whole * wide, wide
    while done < count:
        if done + piece <= count:
            to.store(first + done, _convert(source.load(start + done, piece), to.dtype, piece), piece)
            done += piece
        else:
            piece //= 2


def _convert(value: Expr, dtype: str, lanes: int) -> Expr:
    wanted = f"{dtype}x{lanes}" if lanes > 1 else dtype
    return value if str(value.ty) == wanted else cast(wanted, value)
