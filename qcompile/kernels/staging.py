"""Copies the input pixels of a block into scratch, with their padding, widened where the kernel wants it."""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx

from qcompile.kernels import parameters as at
from qcompile.kernels.builder import Builder, Expr, Index, Memory, const, less, splat, vector_type
from qcompile.kernels.conv_plan import Blocking
from qcompile.kernels.conv_workload import ConvWorkload
from qcompile.kernels.epilogue import copy_elements
from qcompile.kernels.halves import converted

SLACK_BYTES = 128
"""Room past the staged block for reads and writes in whole vectors."""

_BYTES = {"int8": 1, "uint8": 1, "int16": 2, "float16": 2, "bfloat16": 2, "float32": 4}


@dataclass(frozen=True)
class Stage:
    """Geometry of a staged block.

    Args:
        work: canonical workload.
        blocking: output rows and columns of a block.
        dtype: element type in scratch.
        vector_bytes: natural vector width.
    """

    work: ConvWorkload
    blocking: Blocking
    dtype: str
    vector_bytes: int

    @property
    def columns(self) -> int:
        """Input columns under a block's outputs."""
        return _reach(self.blocking.columns, self.work, 1)

    @property
    def rows(self) -> int:
        """Input rows under a block's outputs."""
        return _reach(self.blocking.rows, self.work, 0)

    @property
    def row_stride(self) -> int:
        """Elements from a staged row to the next."""
        return self.columns * self.work.channels

    @property
    def scratch_bytes(self) -> int:
        """Bytes of scratch, a multiple of 64."""
        used = self.rows * self.row_stride * _BYTES[self.dtype] + SLACK_BYTES
        return -(-used // 64) * 64

    def emit(self, b: Builder, source: Memory, image: Index, row: Index, column: Index, rows: Index) -> Memory:
        """Emit the copy of a block.

        Args:
            b: builder.
            source: the input tensor.
            image: number in the batch.
            row: first output row of the block.
            column: first output column of the block.
            rows: output rows that exist in the block.

        Returns:
            The scratch view; element 0 is the pixel under the block's first output and first tap.
        """
        work, staged = self.work, b.scratch(self.dtype)
        pad = b.argument(7, "float32" if work.real else "int32")
        wide = self.vector_bytes // _BYTES[self.dtype]
        zero = pad.load(at.PAD if work.real else at.IN_ZERO)
        fill = b.let(splat(converted(b, zero, "float32" if work.real else "int32", self.dtype), wide))
        height = (rows - 1) * work.strides[0] + (work.kernel[0] - 1) * work.dilations[0] + 1
        with b.loop(height, stem="r") as r:
            input_row = b.let(row * work.strides[0] + r - work.pads[0])
            to = b.let(r * self.row_stride)
            inside = tirx.And(tirx.Not(less(input_row, 0)), less(input_row, work.height))
            pixel = (image * work.height + input_row) * work.width + column * work.strides[1]
            start = pixel * work.input_step
            if work.pads[0] == 0 and work.pads[2] == 0:
                self._copy_row(b, source, b.let(start), staged, to, fill, wide, column)
            else:
                with b.when(inside):
                    self._copy_row(b, source, b.let(start), staged, to, fill, wide, column)
                with b.when(tirx.Not(inside)):
                    _fill(b, staged, to, self.row_stride, fill, wide)
        return staged

    def _copy_row(
        self,
        b: Builder,
        source: Memory,
        start: Expr,
        staged: Memory,
        to: Expr,
        fill: Expr,
        wide: int,
        column: Index,
    ) -> None:
        channels, whole = self.work.channels, self.columns
        left = min(self.work.pads[1], whole)
        middle = max(0, min(self.work.width, whole - left))
        if self.blocking.columns < self.work.out_width:  # the last block of columns may be short
            self._copy_part(b, source, start, staged, to, wide, column)
            return
        _fill(b, staged, to, left * channels, fill, wide)
        self._copy_pixels(b, source, start, staged, to + left * channels, middle, wide)
        right = whole - left - middle
        _fill(b, staged, to + (left + middle) * channels, right * channels, fill, wide)

    def _copy_part(
        self, b: Builder, source: Memory, start: Expr, staged: Memory, to: Expr, wide: int, column: Index
    ) -> None:
        work, size = self.work, self.blocking.columns
        remainder = work.out_width % size
        full = tirx.Not(less(work.out_width, column + size))
        if remainder == 0:
            self._copy_pixels(b, source, start, staged, to, self.columns, wide)
            return
        with b.when(full):
            self._copy_pixels(b, source, start, staged, to, self.columns, wide)
        with b.when(tirx.Not(full)):
            self._copy_pixels(b, source, start, staged, to, _reach(remainder, work, 1), wide)

    def _copy_pixels(
        self, b: Builder, source: Memory, start: Expr, staged: Memory, to: Index, count: int, wide: int
    ) -> None:
        """Copy neighbouring pixels, one by one where other channels lie between them."""
        channels, step = self.work.channels, self.work.input_step
        if step == channels:
            copy_elements(b, source, start, staged, to, count * channels, wide)
        elif count:
            with b.loop(count, stem="x") as x:
                copy_elements(b, source, b.let(start + x * step), staged, b.let(to + x * channels), channels, wide)


@dataclass(frozen=True)
class Gather:
    """Lays what a filter sees of a block side by side: one record of scratch per output pixel.

    Args:
        work: canonical workload, without groups or column dilation.
        blocking: output rows and columns of a block.
        record: elements of a record, at least what a filter sees.
        first: byte of scratch where the records start.
        dtype: element type in scratch.
        cleared: whether what a record has more than a filter sees must be zero.
    """

    work: ConvWorkload
    blocking: Blocking
    record: int
    first: int
    dtype: str
    cleared: bool

    @property
    def start(self) -> int:
        """Element of scratch where the records start."""
        return self.first // _BYTES[self.dtype]

    @property
    def scratch_bytes(self) -> int:
        """Bytes up to the end of the records, a multiple of 64."""
        elements = self.blocking.rows * self.blocking.columns * self.record
        used = self.first + elements * _BYTES[self.dtype] + SLACK_BYTES
        return -(-used // 64) * 64

    def emit(self, b: Builder, source: Memory, base: Index, row_stride: int, rows: Index, columns: Index) -> None:
        """Emit the copy, in whole vectors: what runs over a record's end, the next one overwrites.

        Args:
            b: builder.
            source: pixels, padding included.
            base: element under the block's first output and first tap.
            row_stride: elements from an input row to the next.
            rows: output rows that exist in the block.
            columns: output columns that exist in the block.
        """
        work, staged = self.work, b.scratch(source.dtype)
        run = work.channels * work.kernel[1]
        with b.loop(rows, stem="y") as y, b.loop(columns, stem="x") as x:
            start = b.let(base + y * (work.strides[0] * row_stride) + x * (work.strides[1] * work.channels))
            to = b.let(self.start + (y * self.blocking.columns + x) * self.record)
            for i in range(work.kernel[0]):
                for done in range(0, run, 16):
                    wide = min(16, 1 << (run - done - 1).bit_length())
                    pixels = source.load(start + i * work.dilations[0] * row_stride + done, wide)
                    staged.store(to + i * run + done, pixels, wide)
            seen = run * work.kernel[0]
            while self.cleared and seen < self.record:
                wide = 1 << ((self.record - seen).bit_length() - 1)
                staged.store(to + seen, const(0, vector_type("uint16", wide)), wide)
                seen += wide


def _reach(outputs: int, work: ConvWorkload, axis: int) -> int:
    return (outputs - 1) * work.strides[axis] + (work.kernel[axis] - 1) * work.dilations[axis] + 1


def _fill(b: Builder, staged: Memory, to: Index, count: int, value: Expr, wide: int) -> None:
    """Store at least ``count`` copies of the pad value; may run over by less than a vector."""
    if count:
        with b.loop(-(-count // wide), stem="f") as f:
            staged.store(to + f * wide, value, wide)
