"""What an instruction set brings for depthwise convolution: one of two kinds of kernels.

A `DepthwiseKernel` filters rows of pixels that the generator has padded, or need no padding; a `DirectKernel` reads
the tensor itself and makes the borders in registers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.kernels.builder import Builder, Expr, Index, Memory, bitcast, cast, index, splat
from qcompile.kernels.conv_workload import ConvWorkload


@dataclass(frozen=True, kw_only=True)
class ChannelBlocks:
    """Filters a block of channels, each by itself, for a few output columns.

    Args:
        a_dtype: element type of the pixels as the kernel reads them.
        b_dtype: element type of the packed weights.
        lanes: channels in one result vector.
        vectors: result vectors of a block; up to ``channels - 1`` elements past a tensor's last channel may be read,
            and meet zero weights.
    """

    a_dtype: str
    b_dtype: str
    lanes: int
    vectors: int

    @property
    def channels(self) -> int:
        """Channels of a block."""
        return self.lanes * self.vectors


@dataclass(frozen=True)
class DepthwiseRows:
    """The pixels under a few neighbouring output columns of a depthwise convolution.

    Attributes:
        memory: activations, elements of the kernel's ``a_dtype``.
        corner: element index of the first column's first tap, for the block's first channel.
        row_step: elements from one filter row to the next.
        tap_step: elements from one filter column to the next.
        column_step: elements from one output column's pixels to the next one's.
    """

    memory: Memory
    corner: Index
    row_step: int
    tap_step: int
    column_step: int

    def load(self, column: int, row: int, tap: int, lanes: int, channel: int = 0) -> Expr:
        """Neighbouring channels of the pixel that output ``column`` meets at filter position (row, tap)."""
        offset = column * self.column_step + row * self.row_step + tap * self.tap_step
        return self.memory.load(self.corner + (offset + channel), lanes)


@dataclass(frozen=True)
class DepthwiseTile:
    """What a kernel computes at once: a few output columns of a block of channels.

    Attributes:
        rows: the pixels.
        weights: packed weights.
        at: element index of the block in them.
        kernel: (rows, columns) of the filter.
        columns: output columns, at most what ``DepthwiseKernel.columns`` returns.
        lines: output rows, as many as ``DepthwiseKernel.lines`` returns, or one.
    """

    rows: DepthwiseRows
    weights: Memory
    at: Index
    kernel: tuple[int, int]
    columns: int
    lines: int = 1

    @property
    def taps(self) -> list[tuple[int, int]]:
        """Filter positions (row, column) in order."""
        return [(i, j) for i in range(self.kernel[0]) for j in range(self.kernel[1])]

    def shared_pixels(self) -> list[list[tuple[int, int]]]:
        """The (output column, tap) pairs which meet at each input column, in the order of the input."""
        users: dict[int, list[tuple[int, int]]] = {}
        for x in range(self.columns):
            for j in range(self.kernel[1]):
                users.setdefault(x * self.rows.column_step + j * self.rows.tap_step, []).append((x, j))
        return [users[offset] for offset in sorted(users)]


class DepthwiseKernel(ChannelBlocks, ABC):
    """Filters rows that are padded; where ``a_dtype`` is not what is stored, the generator widens them into scratch."""

    @property
    def strided(self) -> DepthwiseKernel | None:
        """The kernel for convolutions with a column stride; None: this one."""
        return None

    @abstractmethod
    def columns(self, kernel: tuple[int, int], stride: int) -> int:
        """Output columns to compute at once."""

    def lines(self, strides: tuple[int, int], dilations: tuple[int, int]) -> int:
        """Output rows to compute at once."""
        return 1

    def reloads(self, kernel: tuple[int, int], stride: int) -> Sequence[str]:
        """What would not fit into registers from one tile to the next: "weights", or "scales" (the bias too)."""
        return ()

    def pack(self, weights: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Order the weights [channels, rows, columns] of one block; every block gives as many elements."""
        return by_taps(weights)

    @abstractmethod
    def sums(self, b: Builder, tile: DepthwiseTile, bias: Sequence[Expr]) -> Iterator[list[Expr]]:
        """Emit the sums of a tile, column by column of its first row, then of the next: a list of vectors each.

        The caller finishes a column before it asks for the next, which keeps registers few.

        Args:
            b: builder.
            tile: what to compute.
            bias: one vector of ``lanes`` for each part of the block.
        """


@dataclass(frozen=True)
class PixelRows:
    """The rows of pixels under a band, near a few output columns.

    Attributes:
        memory: the input.
        starts: element index, in each row, of the pixel under the first column's first tap, at the block's first
            channel; that pixel need not exist.
        exist: of each row: None where it is sure to exist; else an int64, all ones if it does and 0 if not.
        channels: elements of a pixel.
        inside: columns that exist, counted from the starts; None: all.
        fill: element that stands for what does not exist.
        salt: a number of the tile, see ``Builder.unknown_zero``.
    """

    memory: Memory
    starts: tuple[Index, ...]
    exist: tuple[Expr | None, ...]
    channels: int
    inside: range | None
    fill: Expr
    salt: Index = 0

    def holds(self, position: int) -> bool:
        """Return whether a column of pixels exists."""
        return self.inside is None or position in self.inside

    def pixel(self, position: int, row: int, lanes: int, channel: int = 0) -> Expr:
        """Neighbouring channels of a pixel, or of the border left and right of the image.

        Of a row that does not exist, they are those of another one: see ``interleaved_masks``.
        """
        if not self.holds(position):
            return splat(self.fill, lanes)
        return self.memory.load(self.starts[row] + (position * self.channels + channel), lanes)

    def interleaved_masks(self, b: Builder, rows: Sequence[int]) -> tuple[Expr, Expr] | None:
        """What to and and to or with interleaved 8-bit rows to fill in what does not exist: an int32 for each quad.

        Masking after interleaving spares LLVM from moving masks through shuffles, which takes it long.
        """
        if all(self.exist[row] is None for row in rows):
            return None
        keep, fill = index(0), cast("int64", bitcast("uint8", self.fill))
        for i, row in enumerate(rows):
            exists = self.exist[row]
            keep = keep | ((index(-1) if exists is None else exists) & index(255 << 8 * i))
        rest = (fill * index(0x01010101)) & (keep ^ index(-1))
        return b.settled(cast("int32", keep)), b.settled(cast("int32", rest))


class DirectKernel(ChannelBlocks, ABC):
    """Filters a band of output rows, straight from the tensor; ``a_dtype`` is what is stored."""

    @property
    def tail(self) -> DirectKernel | None:
        """The kernel of smaller blocks for the channels past the last whole block, with bands of the same height."""
        return None

    @property
    def dealt(self) -> bool:
        """Whether neighbouring lanes of the results are neighbouring channels."""
        return True

    @property
    def order(self) -> list[int]:
        """The channel of the block in each lane of its result vectors."""
        return list(range(self.channels))

    def in_order(self) -> DirectKernel:
        """The same kernel with neighbouring channels in neighbouring lanes."""
        return self

    def height(self, work: ConvWorkload) -> int:
        """Output rows of a band."""
        return 1

    @abstractmethod
    def columns(self, kernel: tuple[int, int], stride: int) -> int:
        """Output columns to compute at once."""

    @abstractmethod
    def pack(self, weights: npt.NDArray[Any], work: ConvWorkload) -> npt.NDArray[Any]:
        """Order the weights [channels, rows, columns] of one block; every block gives as many elements."""

    @abstractmethod
    def sums(
        self, b: Builder, rows: PixelRows, w: Memory, at: Index, work: ConvWorkload, bias: Sequence[Expr], columns: int
    ) -> Iterator[list[list[Expr]]]:
        """Emit the sums of some columns of a band, one column after another: vectors of each output row.

        Args:
            b: builder.
            rows: the pixels.
            w: packed weights.
            at: element index of the block in them.
            work: the layer.
            bias: one vector of ``lanes`` for each part of the block.
            columns: how many, at most what ``columns`` returns.
        """


def by_taps(weights: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Order weights [channels, rows, columns] as [row][column][channel]."""
    return np.ascontiguousarray(weights.transpose(1, 2, 0))


def seen_rows(work: ConvWorkload, height: int) -> list[int]:
    """Rows of pixels under ``height`` output rows, counted from the first."""
    steps = range(0, height * work.strides[0], work.strides[0])
    taps = range(0, work.kernel[0] * work.dilations[0], work.dilations[0])
    return sorted({step + tap for step in steps for tap in taps})


def seen_columns(work: ConvWorkload, columns: int) -> list[tuple[int, list[tuple[int, int]]]]:
    """Columns of pixels, from the first under output column 0, with the (output column, tap) that see them."""
    users: dict[int, list[tuple[int, int]]] = {}
    for x in range(columns):
        for j in range(work.kernel[1]):
            users.setdefault(x * work.strides[1] + j * work.dilations[1], []).append((x, j))
    return sorted(users.items())
