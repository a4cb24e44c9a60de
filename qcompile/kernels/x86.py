"""What the x86 instruction sets share: narrowing by saturating packs, depthwise by interleaved rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import tirx

from qcompile.kernels.builder import (
    Builder,
    Expr,
    bitcast,
    call_pure,
    cast,
    const,
    lanes_of,
    shuffle,
    splat,
)
from qcompile.kernels.depthwise_kernel import DepthwiseTile
from qcompile.kernels.depthwise_micro import FixedTile
from qcompile.kernels.micro import MultiplyPairs

_BELOW_2_31 = 2147483520.0


def saturated(value: Expr) -> Expr:
    """Keep a float32 vector below 2^31, where ``cvtps2dq`` would wrap.

    For NaN, and for what lies below, its own answer is the least int32, as it should be.
    """
    return tirx.Min(const(_BELOW_2_31, str(value.ty)), value)


@dataclass(frozen=True)
class Packs:
    """Narrows int32 vectors to 8-bit codes: ``packssdw``, ``paddsw`` of the zero point, then a byte pack.

    Saturating early is exact: int16 holds every q for which q + zero is a code.

    Attributes:
        lanes: int32 lanes of a vector.
        words: intrinsic that packs two int32 vectors into one of int16, within 128-bit parts.
        bytes: intrinsic that packs two int16 vectors into one of 8-bit codes, likewise.
        add: intrinsic of the saturating int16 addition.
        stored: "uint8" or "int8".
        clamp_words: clamp in int16 (SSE2 has no signed byte minimum).
    """

    lanes: int
    words: str
    bytes: str
    add: str
    stored: str
    clamp_words: bool = False

    def __call__(
        self,
        vectors: Sequence[Expr],
        zero: Expr | None,
        low: Expr | None,
        high: Expr | None,
        in_order: bool = True,
    ) -> Expr:
        """One vector of codes for 1, 2 or 4 vectors of integers.

        Args:
            vectors: integers relative to the zero point.
            zero: int16; None: 0.
            low: least code; None: that of the type.
            high: greatest code; None: that of the type.
            in_order: bring the codes of one vector together; else each 128-bit part has those of its own lanes.
        """
        wide, narrow = f"int16x{2 * self.lanes}", f"{self.stored}x{4 * self.lanes}"
        four = [vectors[i * len(vectors) // 4] for i in range(4)] if len(vectors) < 4 else list(vectors)
        if len(vectors) == 2:
            four = [vectors[0], vectors[1], vectors[0], vectors[1]]
        pairs = [four[:2]] if len(vectors) < 4 else [four[:2], four[2:]]
        words = []
        for pair in pairs:
            word = call_pure(wide, self.words, *pair)
            if zero is not None:
                word = call_pure(wide, self.add, word, splat(zero, 2 * self.lanes))
            if self.clamp_words and low is not None:
                bounds = [splat(cast("int16", bound), 2 * self.lanes) for bound in (low, high)]
                word = tirx.Min(tirx.Max(word, bounds[0]), bounds[1])
            words.append(word)
        codes = call_pure(narrow, self.bytes, words[0], words[-1])
        if in_order:
            codes = self._in_order(codes, len(vectors))
        if self.clamp_words or low is None:
            return codes
        lanes = lanes_of(codes)
        return tirx.Min(tirx.Max(codes, splat(low, lanes)), splat(high, lanes))

    def _in_order(self, codes: Expr, count: int) -> Expr:
        """Undo the interleaving of the packs: each 128-bit part holds four codes of every vector."""
        parts = self.lanes // 4
        order = [4 * part + vector for vector in range(count) for part in range(parts)]
        if order == list(range(self.lanes)):
            return codes
        quads = shuffle([bitcast(f"int32x{self.lanes}", codes)], order)
        return bitcast(f"{self.stored}x{4 * len(order)}", quads)


@dataclass(frozen=True, kw_only=True)
class PairDepthwise(FixedTile):
    """int8 by int16: two filter rows interleaved, ``pmaddwd`` sums both taps of a channel.

    Args:
        multiply: as ``PairMicroKernel.multiply``.
    """

    multiply: MultiplyPairs
    vectors: int = 2
    a_dtype: str = "int16"
    b_dtype: str = "int16"

    def pack(self, weights: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """[pair of rows][column][channel][row of the pair]."""
        return interleaved(weights, 2)

    def sums(self, b: Builder, tile: DepthwiseTile, bias: Sequence[Expr]) -> Iterator[list[Expr]]:
        """Each interleaved pixel meets every output column that sees it."""
        rows, across = tile.rows, tile.kernel[1]
        totals = [list(bias) for _ in range(tile.columns)]
        zeros = const(0, f"int16x{self.channels}")
        for first in range(0, tile.kernel[0], 2):
            for users in tile.shared_pixels():
                column, tap = users[0]
                pair = [b.let(rows.load(column, first, tap, self.channels))]
                second = rows.load(column, first + 1, tap, self.channels) if first + 1 < tile.kernel[0] else zeros
                pair.append(b.let(second))
                mixed = [self._interleave(b, pair, half) for half in range(2)]
                for x, j in users:
                    block = tile.at + ((first // 2) * across + j) * 2 * self.channels
                    for half, values in enumerate(mixed):
                        weights = tile.weights.load(block + half * self.channels, self.channels)
                        totals[x][half] = b.let(totals[x][half] + self.multiply(values, weights))
        yield from totals

    def _interleave(self, b: Builder, pair: Sequence[Expr], half: int) -> Expr:
        channels = range(half * self.lanes, (half + 1) * self.lanes)
        return b.let(shuffle(pair, [row * self.channels + c for c in channels for row in range(2)]))


def interleaved(weights: npt.NDArray[Any], group: int) -> npt.NDArray[Any]:
    """Order weights [channels, rows, columns] as [group of rows][column][channel][row of the group]."""
    channels, rows, columns = weights.shape
    padded = np.pad(weights, ((0, 0), (0, -rows % group), (0, 0)))
    grouped = padded.reshape(channels, -1, group, columns)
    return np.ascontiguousarray(grouped.transpose(1, 3, 0, 2))
