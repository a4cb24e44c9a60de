"""Products of float32 rows with weights of a few bits, unpacked in registers.

Few rows are bound by memory: every weight is brought to float32 where it is used, and a group's scale multiplies its
sum. Many rows share the work: a block of weights is unpacked once to scratch memory. Either way a sum runs over K in
order, so that no result depends on how the work is cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import tirx

from qcompile.kernels import halves
from qcompile.kernels.activation import ACTIVATIONS
from qcompile.kernels.builder import (
    Builder,
    Expr,
    Index,
    Register,
    bitcast,
    call_pure,
    cast,
    const,
    equal,
    index,
    less,
    shuffle,
    splat,
    vector_type,
)
from qcompile.kernels.isa import Isa
from qcompile.kernels.kernel import Kernel, symbol
from qcompile.kernels.packed import PackedWorkload, choose_tiling

_UNROLL = 4
_LOOK_UP_LANES = 16


def packed_kernel(work: PackedWorkload, isa: Isa) -> Kernel:
    """Generate the kernel.

    p0 is x, p1 the packed integers, p2 the scales, p3 the zero points, p4 the bias, p5 the residual, p6 the result.
    """
    return _Product(work, isa).kernel()


class _Product:
    """Emits one product; a parallel item is a block of output channels."""

    def __init__(self, work: PackedWorkload, isa: Isa) -> None:
        self.work, self.isa, self.b = work, isa, Builder()
        self.tiling, self.lanes = choose_tiling(work, isa), isa.float32.lanes
        self.fused = isa.fused
        b = self.b
        self.x, self.y = b.argument(0, "float32"), b.argument(6, "float32")
        self.codes = b.argument(1, "int8" if work.bits == 8 else "uint32")
        self.scales = b.argument(2, "uint16" if work.scale == "float16" else "float32")
        self.zeros = b.argument(3, "int8")
        self.bias, self.residual = b.argument(4, "float32"), b.argument(5, "float32")
        self.panel = b.scratch("float32")
        self.looks_up = work.bits < 8 and self.lanes == _LOOK_UP_LANES
        self.folded = work.zero is not None and (self.looks_up or self.tiling.scratch)

    def kernel(self) -> Kernel:
        """Emit everything."""
        b, work, lanes = self.b, self.work, self.lanes
        channels = self.tiling.vectors * lanes
        blocks = self.tiling.blocks(work, lanes)
        rest = work.columns - (blocks - 1) * channels
        last = -(-rest // lanes)
        emit = self._from_scratch if self.tiling.scratch else self._direct
        with b.loop(b.end - b.begin, b.begin, stem="tile") as tile:
            block = index(tile)
            if blocks > 1:
                with b.when(less(block, blocks - 1)):
                    emit(block, self.tiling.vectors, channels)
                with b.when(equal(block, blocks - 1)):
                    emit(block, last, rest)
            else:
                emit(index(0), last, rest)
        name = symbol("packed", work, self.tiling, self.isa.name)
        scratch = work.inner * channels * 4 if self.tiling.scratch else 0
        return Kernel(name, b.function(name), blocks, -(-scratch // 64) * 64)

    # -- unpacking ------------------------------------------------------------------------------------------

    def _wide(self, kind: str) -> str:
        return f"{kind}x{self.lanes}"

    def _zero(self) -> Expr:
        return const(0.0, self._wide("float32"))

    def _elements(self, at: Index, vectors: int) -> list[Expr]:
        """Load one element of the packed weights for every vector."""
        return [self.b.let(self.codes.load(index(at) + index(v * self.lanes), self.lanes)) for v in range(vectors)]

    def _value(self, element: Expr, place: int) -> Expr:
        """Return q of one place of an element, less the zero point where that is the same everywhere."""
        bits, integers = self.work.bits, self._wide("int32")
        if self.looks_up:
            shifted = element >> const(place * bits, self._wide("uint32")) if place else element
            where = bitcast(integers, shifted)
            return call_pure(self._wide("float32"), "llvm.x86.avx512.permvar.sf.512", self.table, where)
        if bits == 8:
            return self._centred(cast(self._wide("float32"), cast(integers, element)))
        signed = bitcast(integers, element)
        left = 32 - bits * (place + 1)
        signed = signed << const(left, integers) if left else signed
        return self._centred(cast(self._wide("float32"), signed >> const(32 - bits, integers)))

    def _centred(self, value: Expr) -> Expr:
        return value - const(self.work.zero, self._wide("float32")) if self.folded and self.work.zero else value

    @property
    def table(self) -> Expr:
        """The real values of four bits; of fewer bits, repeated."""
        integers, bits = self._wide("int32"), self.work.bits
        code = tirx.Ramp(tirx.IntImm("int32", 0), tirx.IntImm("int32", 1), self.lanes)
        signed = (code << const(32 - bits, integers)) >> const(32 - bits, integers)
        value = cast(self._wide("float32"), signed)
        return value - const(self.work.zero, self._wide("float32")) if self.work.zero else value

    def _scale(self, at: Index) -> Expr:
        loaded = self.scales.load(at, self.lanes)
        if self.work.scale == "float16":
            loaded = halves.from_float16(self.b, self.b.let(loaded), native=self.fused)
        return self.b.let(loaded)

    def _multiply_add(self, x: Expr, y: Expr, z: Expr) -> Expr:
        return call_pure(self._wide("float32"), "llvm.fma", x, y, z) if self.fused else x * y + z

    # -- few rows -------------------------------------------------------------------------------------------

    def _direct(self, block: Expr, vectors: int, columns: int) -> None:
        b, work = self.b, self.work
        channels = self.tiling.vectors * self.lanes
        code_base = b.let(block * index(channels * work.steps))
        group_base = b.let(block * index(channels * work.groups))
        totals = self._registers(work.rows, vectors)
        whole, rest = divmod(work.inner, work.group)

        def group(number: Index, size: int) -> None:
            first = b.let(index(number) * index(work.group))
            steps = b.let(index(number) * index(work.group // work.together))
            at = b.let(code_base + steps * index(vectors * self.lanes))
            sums = self._group_sums(first, at, size, vectors)
            where = b.let(group_base + index(number) * index(vectors * self.lanes))
            self._add_group(totals, sums, where, first, size)

        if whole:
            with b.loop(whole, stem="g") as g:
                group(g, work.group)
        if rest:
            group(whole, rest)
        start = b.let(block * index(channels))
        for m, row in enumerate(totals):
            self._finish([b.let(total.get()) for total in row], index(m), start, columns)

    def _registers(self, rows: int, vectors: int) -> list[list[Register]]:
        return [[self.b.register(self._wide("float32"), self._zero()) for _ in range(vectors)] for _ in range(rows)]

    def _group_sums(self, first: Expr, at: Expr, size: int, vectors: int) -> list[list[Register]]:
        """Σ x · q over one group, for all rows and vectors."""
        b, together = self.b, self.work.together
        sums = self._registers(self.work.rows, vectors)
        unroll = _UNROLL if together == 1 else 1
        steps = size // (together * unroll)
        width = vectors * self.lanes

        def step(s: Index, count: int, places: int) -> None:
            for u in range(count):
                here = b.let(index(s) * index(unroll) + index(u))
                elements = self._elements(b.let(at + here * index(width)), vectors)
                k = b.let(first + here * index(together))
                for place in range(places):
                    values = [b.let(self._value(element, place)) for element in elements]
                    self._multiply(sums, k + index(place), values)

        if steps:
            with b.loop(steps, stem="s") as s:
                step(s, unroll, together)
        left = size - steps * together * unroll
        if left:
            step(steps, left if together == 1 else 1, 1 if together == 1 else left)
        return sums

    def _multiply(self, sums: Sequence[Sequence[Register]], k: Expr, values: Sequence[Expr]) -> None:
        for m, row in enumerate(sums):
            x = self.b.let(splat(self.x.load(k + index(m * self.work.inner)), self.lanes))
            for total, value in zip(row, values, strict=True):
                total.set(self._multiply_add(x, value, total.get()))

    def _add_group(self, totals: Any, sums: Any, where: Expr, first: Expr, size: int) -> None:
        """Add scale · (Σ x·q − zero · Σ x) of one group."""
        b, work = self.b, self.work
        corrected = work.zero is None or (bool(work.zero) and not self.folded)
        offsets = [self._row_sum(first + index(m * work.inner), size) for m in range(work.rows)] if corrected else []
        for v in range(len(sums[0])):
            at = where + index(v * self.lanes)
            scale = self._scale(at)
            for m, (row, total) in enumerate(zip(sums, totals, strict=True)):
                value = row[v].get()
                if corrected:
                    value = b.let(value - self._zero_points(at) * splat(offsets[m], self.lanes))
                total[v].set(self._multiply_add(scale, value, total[v].get()))

    def _zero_points(self, at: Expr) -> Expr:
        if self.work.zero is not None:
            return const(self.work.zero, self._wide("float32"))
        return cast(self._wide("float32"), cast(self._wide("int32"), self.zeros.load(at, self.lanes)))

    def _row_sum(self, first: Expr, size: int) -> Expr:
        """Return the sum of neighbouring elements of x."""
        b, lanes = self.b, self.lanes
        total, done = None, 0
        while done + lanes <= size:
            part = b.let(self.x.load(first + index(done), lanes))
            total = part if total is None else b.let(total + part)
            done += lanes
        result = const(0.0, "float32")
        if total is not None:
            width = lanes
            while width > 1:
                width //= 2
                total = b.let(shuffle([total], range(width)) + shuffle([total], range(width, 2 * width)))
            result = total
        for k in range(done, size):
            result = b.let(result + self.x.load(first + index(k)))
        return b.let(result)

    # -- many rows ------------------------------------------------------------------------------------------

    def _from_scratch(self, block: Expr, vectors: int, columns: int) -> None:
        b, work, channels = self.b, self.work, self.tiling.vectors * self.lanes
        self._unpack(block, vectors)
        start = b.let(block * index(channels))
        whole, rest = divmod(work.rows, self.tiling.height)
        if whole:
            with b.loop(whole, stem="rows") as n:
                self._tile(b.let(index(n) * index(self.tiling.height)), self.tiling.height, vectors, start, columns)
        if rest:
            self._tile(index(whole * self.tiling.height), rest, vectors, start, columns)

    def _unpack(self, block: Expr, vectors: int) -> None:
        """Bring a block's weights to scratch, [k][vector][lane]."""
        b, work, channels = self.b, self.work, self.tiling.vectors * self.lanes
        code_base = b.let(block * index(channels * work.steps))
        group_base = b.let(block * index(channels * work.groups))
        width = vectors * self.lanes

        def group(number: Index, size: int) -> None:
            where = b.let(group_base + index(number) * index(width))
            scales = [self._scale(where + index(v * self.lanes)) for v in range(vectors)]
            zeros = None
            if work.zero is None:
                zeros = [b.let(self._zero_points(where + index(v * self.lanes))) for v in range(vectors)]
            first = b.let(index(number) * index(work.group))

            def step(s: Index, places: int) -> None:
                k = b.let(first + index(s) * index(work.together))
                step_number = b.let(index(number) * index(work.group // work.together) + index(s))
                elements = self._elements(b.let(code_base + step_number * index(width)), vectors)
                for place in range(places):
                    for v, element in enumerate(elements):
                        value = self._value(element, place)
                        value = value - zeros[v] if zeros is not None else value
                        at = b.let((k + index(place)) * index(width) + index(v * self.lanes))
                        self.panel.store(at, value * scales[v], self.lanes)

            steps, left = divmod(size, work.together)
            if steps:
                with b.loop(steps, stem="s") as s:
                    step(s, work.together)
            if left:
                step(steps, left)

        whole, rest = divmod(work.inner, work.group)
        if whole:
            with b.loop(whole, stem="g") as g:
                group(g, work.group)
        if rest:
            group(whole, rest)

    def _tile(self, first: Expr, height: int, vectors: int, start: Expr, columns: int) -> None:
        b, inner = self.b, self.work.inner
        sums = self._registers(height, vectors)
        base = b.let(first * index(inner))
        with b.loop(inner, stem="k") as k:
            at = b.let(index(k) * index(vectors * self.lanes))
            values = [b.let(self.panel.load(at + index(v * self.lanes), self.lanes)) for v in range(vectors)]
            self._multiply(sums, base + index(k), values)
        for m, row in enumerate(sums):
            self._finish([b.let(total.get()) for total in row], b.let(first + index(m)), start, columns)

    # -- the end --------------------------------------------------------------------------------------------

    def _finish(self, totals: Sequence[Expr], row: Expr, start: Expr, columns: int) -> None:
        """Add bias and residual, apply the activation, store."""
        b, work = self.b, self.work
        base = b.let(row * index(work.columns) + start)
        for v, total in enumerate(totals):
            done, size, left = 0, self.lanes, min(self.lanes, columns - v * self.lanes)
            while left:
                if size > left:
                    size //= 2
                    continue
                part = total if size == self.lanes else shuffle([total], range(done, done + size))
                offset = index(v * self.lanes + done)
                value = b.let(part + self.bias.load(start + offset, size))
                if work.residual:
                    value = b.let(value + self.residual.load(base + offset, size))
                dtype = vector_type("float32", size)
                alpha, beta = const(work.alpha, dtype), const(work.beta, dtype)
                value = ACTIVATIONS[work.activation](b, value, alpha, beta)
                self.y.store(base + offset, value, size)
                done, left = done + size, left - size
