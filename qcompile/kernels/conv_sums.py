"""The innermost part of a convolution: the walk over the weights of a filter that sums a tile of outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from qcompile.kernels.amx_kernel import AmxKernel
from qcompile.kernels.builder import Builder, Expr, Index, Memory
from qcompile.kernels.conv_plan import ConvPlan, Walk, groups_of_step
from qcompile.kernels.conv_workload import ConvWorkload
from qcompile.kernels.micro_kernel import MicroKernel


@dataclass(frozen=True)
class Source:
    """Where a tile reads its pixels.

    Args:
        memory: a view of the input or of scratch.
        base: element under the tile's first output and first tap.
        row_step: elements from an output row's pixels to the next one's.
        column_step: elements from an output column's pixels to the next one's.
        tap_row: elements from a filter row to the next.
        tap_column: elements from a filter column to the next.
        turn: number of the tile in its block of pixels.
    """

    memory: Memory
    base: Index
    row_step: int
    column_step: int
    tap_row: int
    tap_column: int
    turn: Index = 0


@dataclass(frozen=True)
class Places:
    """Element indices where a tile starts: input, packed weights, padded channel, output; weights to prefetch."""

    input: Index
    weights: Index
    channel: Index
    output: Index
    ahead: Index = 0


class FilterSums:
    """Emits the sums of one layer's tiles.

    Args:
        b: builder.
        work: canonical workload.
        plan: how it is cut.
        walk: the order of K.
        micro: inner kernel.
        weights: packed weights.
        streamed: whether to ask for the weights of the next item while those of this one are used.
    """

    def __init__(
        self,
        b: Builder,
        work: ConvWorkload,
        plan: ConvPlan,
        walk: Walk,
        micro: MicroKernel | AmxKernel,
        weights: Memory,
        streamed: bool,
    ) -> None:
        self._b, self._work, self._walk, self._micro = b, work, walk, micro
        self._tiling, self._blocking = plan.tiling, plan.blocking
        self._weights, self._streamed = weights, streamed

    def emit(self, source: Source, places: Places, corners: Sequence[int], state: Any, nv: int) -> None:
        """Emit the walk over a filter's weights.

        Args:
            source: pixels.
            places: where the tile starts.
            corners: element of each pixel of the tile, counted from the first.
            state: the inner kernel's accumulators.
            nv: vectors of output channels.
        """
        b, micro = self._b, self._micro
        assert not isinstance(micro, AmxKernel), "the caller asked"
        lanes = nv * micro.lanes
        once = self._walk.length <= micro.block
        with b.loop(self._walk.rows, stem="kh") as kh, b.loop(self._walk.taps, stem="kw") as kw:
            tap = kh * source.tap_row + kw * source.tap_column
            entry = b.let(places.input + tap)
            run = kh * self._walk.taps + kw
            weights = b.let(places.weights + run * (self._walk.padded * lanes))

            def step(k: Index, groups: int) -> None:
                rows = [entry + k + corner for corner in corners]
                micro.step(b, state, source.memory, rows, self._weights, weights + k * lanes, groups)

            if not micro.block or once:
                self._run(step, run, places.ahead)
                if self._left:
                    rows = [entry + self._stepped + corner for corner in corners]
                    at = weights + self._stepped * lanes
                    micro.partial(b, state, source.memory, rows, self._weights, at, self._left)
            else:
                self._run_in_blocks(step, partial(micro.flush, b, state), run, places.ahead)
        if once:
            micro.flush(b, state)

    def _run(self, step: Callable[[Index, int], None], run: Index, ahead: Index) -> None:
        """Emit the steps of one run of K; ``step`` gets where it starts and its groups."""
        b, size, unroll = self._b, self._step, self._step // self._micro.group
        steps, rest = divmod(self._stepped, size)
        apart = 1 if self._first_step_apart(steps) else 0
        if apart:
            step(0, unroll)
        if steps:
            with b.loop(steps - apart, apart, stem="k", rolled=True) as k:
                step(k * size, unroll)
                if self._streamed:
                    self.prefetch(ahead, run, k)
        if rest:
            step(steps * size, rest // self._micro.group)

    def _run_in_blocks(
        self, step: Callable[[Index, int], None], flush: Callable[[], None], run: Index, ahead: Index
    ) -> None:
        """Emit the steps of one run of K with a flush after each block of them, and after the last."""
        assert not isinstance(self._micro, AmxKernel), "it sums in no blocks"
        b, size = self._b, self._step
        unroll, each = size // self._micro.group, self._micro.block // size
        steps, rest = divmod(self._walk.padded, size)

        def some(first: Index, count: int) -> None:
            with b.loop(count, stem="k", rolled=True) as k:
                step((first + k) * size, unroll)
                if self._streamed:
                    self.prefetch(ahead, run, first + k)

        whole, left = divmod(steps, each)
        if whole:
            with b.loop(whole, stem="block", rolled=True) as block:
                some(block * each, each)
                flush()
        if left:
            some(whole * each, left)
        if rest:
            step(steps * size, rest // self._micro.group)
        if left or rest:
            flush()

    @property
    def _left(self) -> int:
        """Values at the end of a run that fill no group, of kernels which then must not read past it."""
        return self._walk.run % self._micro.group if self._micro.exact and not isinstance(self._micro, AmxKernel) else 0

    @property
    def _stepped(self) -> int:
        """Values of a run that whole groups take."""
        return self._walk.run - self._left if self._left else self._walk.padded

    @property
    def _step(self) -> int:
        """Values of K in a step."""
        if isinstance(self._micro, AmxKernel):
            return self._micro.chunk(self._walk.run)
        return self._micro.group * groups_of_step(self._walk, self._micro)

    @property
    def _advance(self) -> int:
        """Packed weights to prefetch in a step of K of one tile, so that all tiles of an item cover an item's."""
        turns = -(-self._blocking.rows // self._tiling.rows) * -(-self._blocking.columns // self._tiling.columns)
        return -(-(self._tiling.nv * self._micro.lanes) * self._step // turns // 4) * 4

    @property
    def share(self) -> int:
        """Packed weights to prefetch for one block of channels of one tile."""
        return self._walk.rows * self._walk.taps * (self._walk.padded // self._step) * self._advance

    def prefetch(self, ahead: Index, run: Index, k: Expr) -> None:
        """Ask for the weights of the next item, at the pace at which they will be used.

        They follow this item's in memory; each tile of pixels asks for its share of them.
        """
        steps, line = self._walk.padded // self._step, 64 // self._work.element_bytes
        at = self._b.let(ahead + (run * steps + k) * self._advance)
        for offset in range(0, self._advance, line):
            self._weights.prefetch(at + offset, 2)

    def unlooped_groups(self) -> int:
        """Dot groups of a row that no loop over K surrounds: LLVM keeps their pixels from block to block."""
        if isinstance(self._micro, AmxKernel):
            return 0
        unroll = groups_of_step(self._walk, self._micro)
        steps, rest = divmod(self._walk.padded // self._micro.group, unroll)
        if steps > 1:
            return rest
        return (rest + steps * unroll) * self._walk.rows * self._walk.taps  # LLVM unrolls loops over few taps

    def _first_step_apart(self, steps: int) -> bool:
        """Whether the first step stands before the loop: sums that start at zero need no zeros there."""
        zeros = not isinstance(self._micro, AmxKernel) and self._micro.starts_at_zero
        return zeros and self._walk.rows * self._walk.taps == 1 and steps > 2
