"""Convolution with AMX tiles: ``tdpbusd`` multiplies 16 pixels by 64 channels of K by 16 filters.

``tdpbf16ps`` does so for 32 channels of bfloat16 numbers.

Two tiles of pixels meet two of weights in four tiles of sums, which fills all eight.  The pixels of a tile
lie at a fixed stride in a row of the input (or of its padded copy), so they are loaded from where they
are; a row whose width is no multiple of the tile ends in a tile that overlaps the one before, and only
its new pixels are stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import tirx

from qcompile.kernels.amx_kernel import BYTES, LANES, ROWS, AmxKernel, pixels_of_tile
from qcompile.kernels.builder import Builder, Expr, Index, Memory, index
from qcompile.kernels.conv_workload import ConvWorkload
from qcompile.kernels.epilogue import Epilogue

_CONFIG_BYTES = 64
_SUMS = (0, 1, 2, 3)


@dataclass(frozen=True)
class Pixels:
    """Where a rectangle of output pixels finds its input.

    Args:
        memory: pixels.
        entry: element under the first output's first tap.
        row_step: elements from an output row's pixels to the next one's.
        column_step: elements from an output column's pixels to the next one's.
        tap_row: elements from a filter row to the next.
        tap_column: elements from a filter column to the next.
    """

    memory: Memory
    entry: Expr
    row_step: int
    column_step: int
    tap_row: int
    tap_column: int


@dataclass(frozen=True)
class Filters:
    """The weights of a block of channels, and where its results go.

    Args:
        memory: packed weights.
        at: first element of the block.
        channel: padded number of its first channel.
        output: element of the first pixel's first channel in the output.
        nv: vectors of 16 channels.
        valid: channels that exist.
        ahead: first element of the weights to prefetch, if any.
    """

    memory: Memory
    at: Expr
    channel: Index
    output: Expr
    nv: int
    valid: int
    ahead: Index = 0


class AmxTiles:
    """Emits the tiles of one layer.

    Args:
        b: builder.
        work: canonical workload.
        epilogue: of the layer.
        runs: (filter rows, runs in a row, padded K of a run).
        micro: the instruction and its types.
        chunk: K values of a tile.
        nv: vectors of channels in a whole block.
        scratch: first free byte of scratch.

    Attributes:
        prefetch: called with ``Filters.ahead``, the number of the run and of the step in it; None: nothing to do.
    """

    def __init__(
        self,
        b: Builder,
        work: ConvWorkload,
        epilogue: Epilogue,
        runs: tuple[int, int, int],
        micro: AmxKernel,
        chunk: int,
        nv: int,
        scratch: int,
    ) -> None:
        self._b, self._work, self._epilogue, self._runs, self._chunk = b, work, epilogue, runs, chunk
        self._micro = micro
        self.prefetch: Callable[[Index, Index, Expr], None] | None = None
        self._scratch, self._width = scratch, pixels_of_tile(work.out_width)
        self._pixels: tuple[int, ...] = (4, 5) if nv > 1 else (4, 5, 6)
        self._weights: tuple[int, ...] = (6, 7) if nv > 1 else (7,)

    @property
    def scratch_bytes(self) -> int:
        """Bytes of scratch up to the end: the configuration, then four tiles of sums."""
        return self._scratch + _CONFIG_BYTES + 4 * ROWS * BYTES

    def begin(self) -> None:
        """Write the configuration and load it: rows and bytes of a row of each tile."""
        b = self._b
        config = bytearray(_CONFIG_BYTES)
        config[0] = 1
        sizes = dict.fromkeys(_SUMS, (self._width, BYTES))
        sizes.update(dict.fromkeys(self._pixels, (self._width, self._chunk * self._micro.element_bytes)))
        sizes.update(dict.fromkeys(self._weights, (self._chunk // self._micro.group, BYTES)))
        for tile, (rows, row_bytes) in sizes.items():
            config[16 + 2 * tile], config[48 + tile] = row_bytes, rows
        words, at = b.scratch("int64"), self._scratch // 8
        for i in range(_CONFIG_BYTES // 8):
            value = int.from_bytes(config[8 * i : 8 * i + 8], "little", signed=True)
            words.store(at + i, tirx.IntImm("int64", value))
        b.call("llvm.x86.ldtilecfg", b.scratch("uint8").address(self._scratch))

    def end(self) -> None:
        """Give the tiles back: a thread that holds them pays for them at each task switch."""
        self._b.call("llvm.x86.tilerelease")

    def emit(self, pixels: Pixels, filters: Filters, height: int, width: int) -> None:
        """Emit a rectangle of ``height`` x ``width`` outputs, at most four tiles, by one block of channels."""
        parts = self._parts(height, width)
        self._multiply_all(pixels, filters, parts)
        self._finish(parts, filters)

    def _parts(self, height: int, width: int) -> list[tuple[int, int, int]]:
        """(row, first column, columns to skip) of each tile; the last of a row may overlap what is done."""
        size = self._width
        starts = [min(i * size, width - size) for i in range(-(-width // size))]
        skips = [i * size - start for i, start in enumerate(starts)]
        return [(row, *part) for row in range(height) for part in zip(starts, skips, strict=True)]

    def _multiply_all(self, pixels: Pixels, filters: Filters, parts: Sequence[tuple[int, int, int]]) -> None:
        b, nv, bias = self._b, filters.nv, self._epilogue.bias_memory
        for number in range(len(parts)):
            for j in range(nv):  # a stride of zero repeats the bias in each row
                start = bias.address(filters.channel + j * LANES)
                b.call("llvm.x86.tileloadd64", *_tile(number * nv + j), start, index(0))
        corners = [row * pixels.row_step + start * pixels.column_step for row, start, _ in parts]
        rows, taps, padded = self._runs
        with b.loop(rows, stem="kh") as kh, b.loop(taps, stem="kw") as kw:
            entry = b.let(pixels.entry + (kh * pixels.tap_row + kw * pixels.tap_column))
            weights = b.let(filters.at + (kh * taps + kw) * (padded * nv * LANES))
            with b.loop(padded // self._chunk, stem="k", rolled=True) as k:
                at = b.let(weights + k * (self._chunk * nv * LANES))
                self._multiply(pixels, [entry + k * self._chunk + corner for corner in corners], filters, at)
                if self.prefetch is not None:
                    self.prefetch(filters.ahead, kh * taps + kw, k)

    def _multiply(self, pixels: Pixels, at: Sequence[Index], filters: Filters, weights: Expr) -> None:
        b, nv, size = self._b, filters.nv, self._micro.element_bytes
        for j in range(nv):
            start, step = filters.memory.address(weights + j * (BYTES // size)), index(nv * BYTES)
            b.call("llvm.x86.tileloadd64", *_tile(self._weights[j]), start, step)
        for number, start in enumerate(at):
            tile, step = self._pixels[number % len(self._pixels)], pixels.column_step * size
            b.call("llvm.x86.tileloadd64", *_tile(tile), pixels.memory.address(start), index(step))
            for j in range(nv):
                b.call(self._micro.product, *_tile(number * nv + j, tile, self._weights[j]))

    def _finish(self, parts: Sequence[tuple[int, int, int]], filters: Filters) -> None:
        """Bring the sums through scratch into vector registers, some pixels at a time."""
        b, work, nv, sums = self._b, self._work, filters.nv, self._b.scratch(self._micro.sums)
        buffer = (self._scratch + _CONFIG_BYTES) // 4
        for number in range(len(parts)):
            for j in range(nv):
                to = sums.address(buffer + (number * ROWS * nv + j) * LANES)
                b.call("llvm.x86.tilestored64", *_tile(number * nv + j), to, index(nv * BYTES))
        scale = [tuple(b.let(part) for part in parts) for parts in self._epilogue.scale(filters.channel, nv)]
        together = self._epilogue.pixels_together(nv)

        def finish(p: Index, count: int, number: int, at: int) -> None:
            first = b.let(buffer + (number * ROWS + p) * (nv * LANES))
            to = b.let(filters.output + (at + p) * work.output_step)
            pixels = []
            for i in range(count):
                found = [sums.load(first + (i * nv + j) * LANES, LANES) for j in range(nv)]
                pixels.append((found, b.let(to + i * work.output_step)))
            self._epilogue.store_pixels(pixels, scale, filters.valid)

        for number, (row, start, skip) in enumerate(parts):
            whole, rest = divmod(self._width - skip, together)
            at = row * work.out_width + start
            if whole:
                with b.loop(whole, stem="p") as p:
                    finish(skip + p * together, together, number, at)
            if rest:
                finish(self._width - rest, rest, number, at)


def _tile(*numbers: int) -> list[Expr]:
    """Tile numbers, which are part of the instruction."""
    return [tirx.IntImm("int8", number) for number in numbers]
