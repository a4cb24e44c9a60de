"""Depthwise convolution: vectors over channels, a few output columns at a time.

It takes the same arguments as ``conv`` and replaces it where every filter has its own channel
and the instruction set brings a depthwise kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import tirx

from qcompile.kernels.builder import Builder, Expr, Index, Memory, equal, index, quotient, remainder
from qcompile.kernels.conv_plan import Blocking, ConvPlan, Tiling
from qcompile.kernels.conv_workload import ConvWorkload
from qcompile.kernels.depthwise_direct import Bands, Block
from qcompile.kernels.depthwise_kernel import DepthwiseKernel, DepthwiseRows, DepthwiseTile, DirectKernel
from qcompile.kernels.epilogue import Epilogue, storage_dtype
from qcompile.kernels.halves import float_weights
from qcompile.kernels.isa import Isa
from qcompile.kernels.kernel import Kernel, symbol
from qcompile.kernels.staging import Stage

_ITEMS = 16
_ITEM_MACS = 50_000


def depthwise_kernel(workload: ConvWorkload, isa: Isa) -> DepthwiseKernel | DirectKernel | None:
    """The kernel to use for a workload, or None where it is not depthwise or there is none."""
    if not workload.channels == workload.filters == workload.groups or workload.groups == 1:
        return None
    by_precision = {
        "int8": isa.depthwise_int8,
        "float32": isa.depthwise_float32,
        "float16": isa.depthwise_float16,
        "bfloat16": isa.depthwise_bfloat16,
    }
    micro = by_precision[workload.precision]
    if isinstance(micro, DepthwiseKernel) and workload.strides[1] > 1:
        return micro.strided or micro
    if isinstance(micro, DirectKernel) and (workload.output != "int8" or workload.residual or workload.low):
        return micro.in_order()
    return micro


def choose_depthwise(workload: ConvWorkload, isa: Isa) -> ConvPlan:
    """Choose rows by amount of work, and as many columns at once as the kernel likes."""
    items = max(1, min(_ITEMS, workload.macs // workload.batch // _ITEM_MACS))
    lines = lines_at_once(workload, _kernel(workload, isa))
    rows = -(-workload.out_height // (items * lines)) * lines
    blocking = Blocking(min(rows, workload.out_height), workload.out_width, 1)
    return ConvPlan(Tiling(1, workload.out_width, 1), blocking)


def plan_depthwise(workload: ConvWorkload, isa: Isa, plan: ConvPlan | None = None) -> Kernel:
    """Generate the kernel of a depthwise convolution.

    Args:
        workload: one for which ``depthwise_kernel`` returns a kernel.
        isa: instruction set.
        plan: how to cut it; None: as estimates say.
    """
    return _Generator(workload, isa, plan or choose_depthwise(workload, isa)).kernel()


def pack_depthwise(workload: ConvWorkload, isa: Isa, weights: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Pack weights [channels, rows, columns, 1] for ``plan_depthwise``: a block of channels after another."""
    taps = weights.reshape(workload.channels, *workload.kernel)
    packed = []
    for run in _runs(workload, isa):
        size = run.micro.channels
        for first in range(run.first, run.first + run.blocks * size, size):
            block = taps[first : first + size]
            block = np.pad(block, ((0, size - len(block)), (0, 0), (0, 0)))
            packed.append(_packed(run.micro, block, workload).reshape(-1).astype(run.micro.b_dtype))
    return np.concatenate(packed)


def _packed(micro: DepthwiseKernel | DirectKernel, block: npt.NDArray[Any], work: ConvWorkload) -> npt.NDArray[Any]:
    return micro.pack(block, work) if isinstance(micro, DirectKernel) else micro.pack(block)


def channel_order(workload: ConvWorkload, isa: Isa, padded: int) -> npt.NDArray[np.intp]:
    """The channel in each place of the constants by channel, as the kernel reads them.

    Args:
        workload: one for which ``depthwise_kernel`` returns a kernel.
        isa: instruction set.
        padded: channels with those that fill the last block.
    """
    order = np.arange(padded)
    for run in _runs(workload, isa):
        if not isinstance(run.micro, DirectKernel):
            continue
        size = run.micro.channels
        for first in range(run.first, run.first + run.blocks * size, size):
            if first + size <= padded:
                order[first : first + size] = first + np.array(run.micro.order)
    return order


@dataclass(frozen=True)
class _Run:
    """Neighbouring blocks of channels which one kernel filters.

    Args:
        micro: the kernel.
        first: first channel.
        blocks: number of blocks.
        weights: packed weights before the run, elements.
        last: channels of the last block that exist.
    """

    micro: DepthwiseKernel | DirectKernel
    first: int
    blocks: int
    weights: int
    last: int


def _runs(workload: ConvWorkload, isa: Isa) -> list[_Run]:
    """Whole blocks of the kernel, then blocks of its ``tail`` where these waste fewer channels."""
    micro: DepthwiseKernel | DirectKernel = _kernel(workload, isa)
    found: list[_Run] = []
    first, before = 0, 0
    while True:
        left = workload.channels - first
        tail = micro.tail if isinstance(micro, DirectKernel) else None
        whole, rest = divmod(left, micro.channels)
        if tail is None or rest == 0 or -(-rest // tail.channels) * tail.channels >= micro.channels:
            blocks = -(-left // micro.channels)
            return [*found, _Run(micro, first, blocks, before, left - (blocks - 1) * micro.channels)]
        if whole:
            found.append(_Run(micro, first, whole, before, micro.channels))
            first += whole * micro.channels
            before += whole * _block_elements(workload, micro)
        micro = tail


def _kernel(workload: ConvWorkload, isa: Isa) -> DepthwiseKernel | DirectKernel:
    micro = depthwise_kernel(workload, isa)
    assert micro is not None, "the caller asked depthwise_kernel first"
    return micro


def _block_elements(workload: ConvWorkload, micro: DepthwiseKernel | DirectKernel) -> int:
    """Packed weights of one block of channels."""
    return int(_packed(micro, np.zeros((micro.channels, *workload.kernel), np.int8), workload).size)


def lines_at_once(workload: ConvWorkload, micro: DepthwiseKernel | DirectKernel) -> int:
    """Output rows that a kernel computes at once."""
    if isinstance(micro, DirectKernel):
        return micro.height(workload)
    return micro.lines(workload.strides, workload.dilations)


@dataclass(frozen=True)
class _Place:
    """A block of rows: its pixels, elements from a row and from a pixel to the next, where input and output start."""

    memory: Memory
    row_stride: int
    pixel: int
    base: Index
    output: Expr


class _Generator:
    """Emits one depthwise convolution; a parallel item is a block of output rows."""

    def __init__(self, work: ConvWorkload, isa: Isa, plan: ConvPlan) -> None:
        self.work, self.isa, self.micro = work, isa, _kernel(work, isa)
        self.blocking, self.columns = plan.blocking, plan.tiling.columns
        self.lines = lines_at_once(work, self.micro)
        self.stored = storage_dtype(isa, work.precision)
        self.stage: Stage | None = None
        if isinstance(self.micro, DirectKernel):
            rows = min(-(-self.blocking.rows // self.lines) * self.lines, work.out_height)
            self.blocking = replace(self.blocking, rows=rows)
        elif any(work.pads) or self.micro.a_dtype != self.stored:
            self.stage = Stage(work, self.blocking, self.micro.a_dtype, isa.vector_bytes)
        self.b = Builder()
        self.input = self.b.argument(0, self.stored)
        self.weights = self.b.argument(1, self.micro.b_dtype)
        if work.weights:
            self.weights = float_weights(self.b, 1, work.weights, isa)
        self.epilogue = Epilogue(self.b, work, isa, self.micro.lanes)

    def kernel(self) -> Kernel:
        """Emit everything."""
        b, work = self.b, self.work
        blocks = -(-work.out_height // self.blocking.rows)
        with b.loop(b.end - b.begin, b.begin, "item") as item:
            image = b.let(quotient(item, blocks)) if work.batch > 1 else 0
            row = b.let((remainder(item, blocks) if work.batch > 1 else item) * self.blocking.rows)
            self._item(image, row)
        name = symbol("depthwise", work, self.isa.name, self.blocking, self.columns)
        scratch = self.stage.scratch_bytes if self.stage else 0
        plane = work.out_height * work.out_width
        levels = ((work.batch, plane), (blocks, self.blocking.rows * work.out_width))
        return Kernel(name, b.function(name), work.batch * blocks, scratch, levels, work.filters)

    def _item(self, image: Index, first: Expr) -> None:
        """Emit a block of rows: its padded copy, then row by row, block of channels by block."""
        b, work, size = self.b, self.work, self.blocking.rows
        rows: Index = size
        if work.out_height % size:
            rows = b.let(tirx.Min(index(size), work.out_height - first))
        if isinstance(self.micro, DirectKernel):
            memories = (self.input, self.weights)
            Bands(b, work, self.epilogue, memories, self.lines, self.columns, self._blocks).emit(image, first, rows)
            return
        if self.stage is None:
            memory, row_stride, pixel = self.input, work.width * work.input_step, work.input_step
            base = b.let((image * work.height + first * work.strides[0]) * row_stride)
        else:
            memory = self.stage.emit(b, self.input, image, first, 0, rows)
            row_stride, base, pixel = self.stage.row_stride, 0, work.channels
        pixels = b.let((image * work.out_height + first) * work.out_width * work.output_step)
        place = _Place(memory, row_stride, pixel, base, pixels)
        whole = rows // self.lines if isinstance(rows, int) else b.let(quotient(rows, self.lines))
        if not isinstance(whole, int) or whole:
            with b.loop(whole, stem="y") as y:
                self._rows(place, y * self.lines, self.lines)
        if isinstance(rows, int):
            if rows % self.lines:
                self._rows(place, rows - 1, 1)
        elif size % self.lines or work.out_height % size % self.lines:
            with b.when(equal(remainder(rows, self.lines), 1)):
                self._rows(place, rows - 1, 1)

    def _rows(self, place: _Place, y: Index, lines: int) -> None:
        """Emit output rows y to y + lines of a block of rows."""
        b, work = self.b, self.work
        output = b.let(place.output + y * (work.out_width * work.output_step))
        corner = b.let(place.base + y * (work.strides[0] * place.row_stride))
        steps = (
            work.dilations[0] * place.row_stride,
            work.dilations[1] * place.pixel,
            work.strides[1] * place.pixel,
        )
        source = DepthwiseRows(place.memory, corner, *steps)
        for run in _runs(work, self.isa):
            whole = run.blocks if run.last == run.micro.channels else run.blocks - 1
            if whole:
                with b.loop(whole, stem="c") as block:
                    self._row(source, run, block, output, run.micro.channels, lines)
            if whole < run.blocks:
                self._row(source, run, whole, output, run.last, lines)

    def _blocks(self, emit: Callable[[Block], None]) -> None:
        """Emit all blocks of channels of a band."""
        for run in _runs(self.work, self.isa):
            assert isinstance(run.micro, DirectKernel), "so is its tail"
            size, each = run.micro.channels, _block_elements(self.work, run.micro)
            whole = run.blocks if run.last == size else run.blocks - 1
            if whole:
                with self.b.loop(whole, stem="c") as block:
                    emit(Block(run.micro, run.first + block * size, run.weights + block * each, size))
            if whole < run.blocks:
                emit(Block(run.micro, run.first + whole * size, run.weights + whole * each, run.last))

    def _row(self, source: DepthwiseRows, run: _Run, block: Index, output: Expr, valid: int, lines: int) -> None:
        """Emit output rows of a block of channels, of which ``valid`` exist."""
        b, work, micro = self.b, self.work, run.micro
        assert isinstance(micro, DepthwiseKernel), "others emit bands"
        channel = run.first + block * micro.channels
        bias, scale = self.epilogue.bias(channel, micro.vectors), self.epilogue.scale(channel, micro.vectors)
        at = run.weights + block * _block_elements(work, micro)
        most = min(micro.columns(work.kernel, work.strides[1]), self.columns)
        step = -(-work.out_width // -(-work.out_width // most))
        reloaded = micro.reloads(work.kernel, work.strides[1])

        def tile(column: Index, count: int) -> None:
            rows = replace(source, corner=b.let(source.corner + channel + column * source.column_step))
            first, start, factors = at, bias, scale
            if "weights" in reloaded:
                first = b.let(at + column * b.hidden_zero)
            if "scales" in reloaded:
                again = b.let(channel + column * b.hidden_zero)
                start, factors = self.epilogue.bias(again, micro.vectors), self.epilogue.scale(again, micro.vectors)
            found = micro.sums(b, DepthwiseTile(rows, self.weights, first, work.kernel, count, lines), start)
            used = -(-valid // micro.lanes)
            together, waiting = self.epilogue.pixels_together(used), []
            for i, sums in enumerate(found):
                pixel = column + i % count + i // count * work.out_width
                waiting.append((sums[:used], b.let(output + pixel * work.output_step + channel)))
                if len(waiting) == together or i == count * lines - 1:
                    self.epilogue.store_pixels(waiting, factors[:used], valid)
                    waiting = []

        whole, rest = divmod(work.out_width, step)
        with b.loop(whole, stem="x", rolled=True) as x:
            tile(x * step, step)
        if rest:
            tile(whole * step, rest)
