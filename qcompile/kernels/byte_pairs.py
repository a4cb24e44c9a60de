"""8-bit products by ``vpmaddubsw``, exactly: weights are written so that no sum of two products leaves 16 bits.

The instruction sums two products of an unsigned pixel and a signed weight, and saturates.  It cannot where the
positive weights of a pair sum to at most 128, and the negative ones to at least -128, since 255 * 128 < 2^15.  Of
a pair beyond that whose weights are even, half is stored, and ``vpmaddwd``, which widens the sums, multiplies them by
two instead of one (`qcompile.quant.byte_pairs` makes weights even).  Of any other pair the excess moves into a further
step, which reads some of the same pixels again.  Steps are listed in a table, each with the place of its four pixels;
every block of filters has a list of its own: of its plain steps, then of those that bring their factors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.kernels.builder import Builder, Expr, Index, Memory, bitcast, call_pure, cast, const, index, splat
from qcompile.kernels.micro_kernel import MicroKernel
from qcompile.quant.byte_pairs import REACH, halvable

_QUAD = 4
_HEAD = 4
"""Words of a block in the table: its first unit of weights, its first place, its plain steps, those with factors."""

_LINE = 64
_EXPECTED_EXCESS = 0.2
_MOST_EXCESS = 0.3
"""Further steps, as a share of the others, up to which the split is faster than widening to 16 bits."""


@dataclass(frozen=True)
class BytePairKernel(MicroKernel):
    """Sums two products of bytes in 16 bits, and two of those sums in 32.

    Attributes:
        lanes: int32 lanes in a vector.
        tiles: register tiles (mr, 1).
        multiply: intrinsic that sums products of unsigned by signed bytes, in pairs.
        widen: intrinsic that sums pairs of 16-bit numbers.
    """

    lanes: int
    tiles: Sequence[tuple[int, int]]
    multiply: str
    widen: str
    a_dtype: str = "uint8"
    b_dtype: str = "int8"
    group: int = _QUAD
    unroll: int = 1
    gather_cycles: float = float("inf")

    def cycles(self, mr: int, nv: int) -> float:
        """Estimated cycles of four K: three instructions on three ports, and the further steps."""
        return max(mr * nv + 0.5, 4.0) * (1 + _EXPECTED_EXCESS)

    def step(self, b: Builder, state: Any, a: Memory, rows: Sequence[Index], w: Memory, at: Index, groups: int) -> None:
        """Emit one plain step."""
        size = _QUAD * self.lanes
        self._step(b, state, a, rows, b.let(w.load(at, size)), const(1, f"int16x{size // 2}"))

    def _step(self, b: Builder, state: Any, a: Memory, rows: Sequence[Index], weights: Expr, factors: Expr) -> None:
        """Emit a step whose sums of two products are multiplied by factors."""
        size = _QUAD * self.lanes
        for row, (total,) in zip(rows, state, strict=True):
            pixels = b.let(bitcast(f"uint8x{size}", splat(bitcast("int32", a.load(row, _QUAD)), self.lanes)))
            pairs = call_pure(f"int16x{size // 2}", self.multiply, pixels, weights)
            total.set(total.get() + call_pure(f"int32x{self.lanes}", self.widen, pairs, factors))

    def emit(
        self,
        b: Builder,
        state: Any,
        pixels: tuple[Memory, Index, Sequence[int]],
        packed: tuple[Memory, Memory],
        block: Expr,
        ahead: Expr | None = None,
    ) -> None:
        """Emit the steps of one block of filters.

        Args:
            b: builder.
            state: what ``start`` returned.
            pixels: their memory, the element under the first one's first tap, and from there to that of each.
            packed: the packed weights, as int32 and as they are.
            block: number of the block.
            ahead: number of a block whose weights to ask for meanwhile.
        """
        (a, entry, corners), (table, w) = pixels, packed
        unit = _QUAD * self.lanes
        first, places, plain, scaled = (b.let(cast("int64", table.load(block * _HEAD + 2 + i))) for i in range(_HEAD))
        weights = b.let(cast("int64", table.load(0)) + first * unit)
        places = b.let(cast("int64", table.load(1)) + places)
        further = cast("int64", table.load(ahead * _HEAD + 2)) - first if ahead is not None else 0
        further = b.let(further * unit)

        def rows(k: Index) -> list[Index]:
            place = b.let(index(entry) + cast("int64", table.load(places + k)))
            return [place + corner for corner in corners]

        with b.loop(plain, stem="k", rolled=True) as k:
            at = weights + index(k) * unit
            if ahead is not None:
                w.prefetch(at + further, 2)
            self.step(b, state, a, rows(k), w, at, 1)
        weights = b.let(weights + plain * unit)
        with b.loop(scaled, stem="k", rolled=True) as k:
            at = b.let(weights + index(k) * (2 * unit))
            if ahead is not None:
                w.prefetch(at + further, 2)
            factors = b.let(bitcast(f"int16x{unit // 2}", w.load(at + unit, unit)))
            self._step(b, state, a, rows(plain + k), b.let(w.load(at, unit)), factors)


def pays(weights: npt.NDArray[Any], lanes: int) -> bool:
    """Return whether few enough weights need further steps; an estimate.

    A further step starts at a pair that needs one, and serves up to three in a row.

    Args:
        weights: int8 [filters, ..., run], the last axis contiguous in a row of pixels.
        lanes: filters of a block.
    """
    share = float(_excess(_blocks(weights, lanes)).any(axis=1).mean())
    return share == 0 or 2 / (3 + (1 - share) / share) <= _MOST_EXCESS


def pack(weights: npt.NDArray[Any], lanes: int, places: npt.NDArray[np.int64]) -> npt.NDArray[np.int8]:
    """Halve or split weights, and order them by block and step.

    Layout: int32 [byte of the first weight, word of the first place, then ``_HEAD`` words of each block], int32 places
    of all steps, int8 weights [step][filter of the block][4], behind each step with factors those, int16
    [filter of the block][2].

    Args:
        weights: int8 [filters, runs, run], the last axis contiguous in a row of pixels.
        lanes: filters of a block.
        places: element of each run's first pixel, from that under the first tap.
    """
    blocks = _blocks(weights, lanes)
    factors = np.where(halvable(blocks), 2, 1).astype(np.int16)
    further = _Excess(blocks)
    count, _, runs, width = blocks.shape
    blocks //= np.repeat(factors, 2, axis=-1).astype(np.int8)
    own, factors = (
        every.reshape(count, lanes, runs * width // _QUAD, -1).transpose(0, 2, 1, 3) for every in (blocks, factors)
    )
    starts = (places[:, None] + np.arange(0, width, _QUAD)).reshape(-1)
    made = []
    for n in range(count):
        run, at = further.places(n)
        scaled = (factors[n] != 1).any(axis=(1, 2))
        plain = np.concatenate([own[n, ~scaled], further.weights[n, : further.counts[n]]])
        with_factors = np.concatenate([own[n, scaled], factors[n, scaled].view(np.int8)], axis=1)
        where = np.concatenate([starts[~scaled], places[run] + at, starts[scaled]])
        made.append((plain, with_factors, where))
    return _laid_out(made)


class _Excess:
    """Moves what pairs have too much of into further steps, in place.

    A step of four pixels starts at the second weight of a pair, and so reaches up to the first one of the second
    pair after it; whichever weight of a pair gives its excess, enough remains of it.

    Attributes:
        weights: int8 [block, step, filter of the block, 4].
        counts: steps of each block.
    """

    def __init__(self, blocks: npt.NDArray[np.int8]) -> None:
        self._blocks, excess = blocks, _excess(blocks)
        count, lanes, runs, pairs = excess.shape
        needed = (excess != 0).any(axis=1)
        most = int(needed.sum(axis=(1, 2)).max(initial=0))
        self.weights = np.zeros((count, most, lanes, _QUAD), np.int8)
        self._at = np.zeros((count, most, 2), np.int64)
        self.counts = np.zeros(count, np.int64)
        for run in range(runs):
            opened = np.full(count, -_QUAD)
            for pair in range(pairs):
                if needed[:, run, pair].any():
                    self._move(excess[:, :, run, pair], run, pair, opened)

    def places(self, block: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Run, and element in it, where the steps of a block start."""
        at = self._at[block, : self.counts[block]]
        return at[:, 0], at[:, 1]

    def _move(self, excess: npt.NDArray[np.int16], run: int, pair: int, opened: npt.NDArray[np.int64]) -> None:
        """Move the excess of one pair of all blocks into the last step of each, or into a new one."""
        left, age, last = excess != 0, pair - opened, np.maximum(self.counts - 1, 0)
        held = self.weights[np.arange(len(excess)), last].astype(np.int16)
        beside = left & (age == 1)[:, None]
        alone = held[:, :, 0] == 0
        sums = held[:, :, 2] + excess
        further = left & (age == 2)[:, None] & ((held[:, :, 2] * excess <= 0) | (np.abs(sums) <= REACH))
        for chosen, slot, weight in ((beside & alone, 1, 0), (beside & ~alone, 2, 1), (further, 3, 0)):
            self._put(chosen, excess, last, slot, run, 2 * pair + weight)
        left &= ~(beside | further)
        new = left.any(axis=1)
        opened[new] = pair
        self._at[new, self.counts[new]] = run, 2 * pair + 1
        self.counts[new] += 1
        self._put(left, excess, self.counts - 1, 0, run, 2 * pair + 1)

    def _put(
        self,
        chosen: npt.NDArray[np.bool_],
        excess: npt.NDArray[np.int16],
        step: npt.NDArray[np.int64],
        slot: int,
        run: int,
        weight: int,
    ) -> None:
        block, lane = np.nonzero(chosen)
        self.weights[block, step[block], lane, slot] = excess[block, lane]
        self._blocks[block, lane, run, weight] -= excess[block, lane].astype(np.int8)


def _blocks(weights: npt.NDArray[Any], lanes: int) -> npt.NDArray[np.int8]:
    """[block, filter of the block, run, weight], a copy, padded with zeros."""
    flat = weights.reshape(len(weights), -1, weights.shape[-1])
    padded = np.pad(flat, ((0, -len(flat) % lanes), (0, 0), (0, -flat.shape[-1] % _QUAD)))
    return np.ascontiguousarray(padded.reshape(-1, lanes, *padded.shape[1:]), np.int8)


def _excess(blocks: npt.NDArray[np.int8]) -> npt.NDArray[np.int16]:
    """What the sum of a pair's weights of one sign has too much, unless half of it is stored.

    Returns:
        [block, filter of the block, run, pair].
    """
    pairs = blocks.astype(np.int16).reshape(*blocks.shape[:-1], -1, 2)
    above = np.maximum(np.maximum(pairs, 0).sum(axis=-1) - REACH, 0)
    below = np.maximum(np.maximum(-pairs, 0).sum(axis=-1) - REACH, 0)
    return np.where(halvable(blocks), 0, above - below).astype(np.int16)


_Steps = tuple[npt.NDArray[np.int8], npt.NDArray[np.int8], npt.NDArray[np.int64]]


def _laid_out(blocks: list[_Steps]) -> npt.NDArray[np.int8]:
    """Join table and weights; of each block there are plain steps, steps with factors, and the places of all."""
    plain, scaled = (np.array([len(block[i]) for block in blocks]) for i in (0, 1))
    head = np.empty(2 + _HEAD * len(blocks), np.int32)
    for i, sizes in enumerate((plain + 2 * scaled, plain + scaled)):
        head[2 + i :: _HEAD] = np.cumsum(sizes) - sizes
    head[4::_HEAD], head[5::_HEAD] = plain, scaled
    words = np.concatenate([head, *(np.asarray(block[2], np.int32) for block in blocks)])
    size = -(-words.nbytes // _LINE) * _LINE
    words[:2] = size, len(head)
    table = np.pad(words.view(np.int8), (0, size - words.nbytes))
    return np.concatenate([table, *(part.reshape(-1) for block in blocks for part in block[:2])])
