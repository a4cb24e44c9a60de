"""Products with weights of a few bits: what is multiplied, how much at once, and in which order weights lie.

A block of output channels is `vectors` vectors of lanes. Integers of less than a byte lie in words of 32 bits: a
word has consecutive values of K of one channel, so that one shift brings a value of every lane into place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.kernels.isa import Isa

Array = npt.NDArray[Any]

_DIRECT_ROWS = 4
"""Rows up to which weights are unpacked for each use; from there on a block is unpacked once, to scratch."""

_SCRATCH_ROWS = 6
_SCRATCH_BYTES = 1 << 18


@dataclass(frozen=True)
class PackedWorkload:
    """y[m, n] = act(Σ x[m, k] · scale[n, k // group] · (q[n, k] − zero[n, k // group]) + bias[n] + residual[m, n]).

    Args:
        rows: M.
        inner: K.
        columns: N.
        bits: of q: 1, 2, 4 or 8, in two's complement.
        group: values of K that share a scale.
        zero: zero point of all groups; None where each has its own.
        scale: element type of the scales in memory, "float16" or "float32".
        activation: applied last, one of `qcompile.kernels.activation.ACTIVATIONS`.
        alpha: its first parameter.
        beta: its second parameter.
        residual: whether a tensor of the result's shape is added.
        vectors: of channels that lie beside each other, where another kernel reads the same weights; 0 for a choice.
    """

    rows: int
    inner: int
    columns: int
    bits: int
    group: int
    zero: float | None = 0.0
    scale: str = "float16"
    activation: str = "none"
    alpha: float = 0.0
    beta: float = 0.0
    residual: bool = False
    vectors: int = 0

    @property
    def groups(self) -> int:
        """Groups of one row."""
        return -(-self.inner // self.group)

    @property
    def together(self) -> int:
        """Values of K that one element of the packed weights holds."""
        return 1 if self.bits == 8 else 32 // self.bits

    @property
    def steps(self) -> int:
        """Elements of the packed weights for one channel."""
        return -(-self.inner // self.together)

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        return self.rows * self.inner * self.columns


@dataclass(frozen=True)
class Tiling:
    """How a product is cut.

    Args:
        vectors: vectors of output channels in a block.
        height: rows of a register tile.
        scratch: whether a block of weights is unpacked to scratch memory first.
    """

    vectors: int
    height: int
    scratch: bool

    def blocks(self, work: PackedWorkload, lanes: int) -> int:
        """Return the blocks of output channels."""
        return -(-work.columns // (self.vectors * lanes))


def choose_tiling(work: PackedWorkload, isa: Isa) -> Tiling:
    """Choose a cut; the packed weights depend on its vectors."""
    lanes = isa.float32.lanes
    if work.vectors and work.rows <= _DIRECT_ROWS:
        return Tiling(work.vectors, work.rows, scratch=False)
    registers = 32 if lanes in (16,) or isa.name.startswith("neon") else 16
    if work.rows <= _DIRECT_ROWS:
        vectors = {1: 4, 2: 4, 3: 2, 4: 2}[work.rows] if registers == 32 else {1: 4, 2: 2, 3: 1, 4: 1}[work.rows]
        return Tiling(vectors, work.rows, scratch=False)
    wanted = 4 if registers == 32 and lanes < 16 else 2
    fitting = _SCRATCH_BYTES // (work.inner * lanes * 4)
    return Tiling(max(1, min(wanted, fitting)), min(work.rows, _SCRATCH_ROWS), scratch=True)


def pack_codes(work: PackedWorkload, codes: Array, isa: Isa) -> Array:
    """Order integers [N, K] as [block][step][vector][lane]: int8, or words of uint32."""
    padded = np.pad(codes, ((0, -work.columns % isa.float32.lanes), (0, work.steps * work.together - work.inner)))
    if work.bits == 8:
        elements = padded
    else:
        mask = np.uint32((1 << work.bits) - 1)
        parts = (padded.astype(np.int32).view(np.uint32) & mask).reshape(len(padded), work.steps, work.together)
        shifts = (np.arange(work.together, dtype=np.uint32) * np.uint32(work.bits)).astype(np.uint32)
        elements = np.bitwise_or.reduce(parts << shifts, axis=2)
    return _by_block(elements, choose_tiling(work, isa).vectors * isa.float32.lanes)


def pack_groups(work: PackedWorkload, values: Array, isa: Isa) -> Array:
    """Order one value per group [N, G] as [block][group][vector][lane]."""
    padded = np.pad(values, ((0, -work.columns % isa.float32.lanes), (0, 0)))
    return _by_block(padded, choose_tiling(work, isa).vectors * isa.float32.lanes)


def _by_block(elements: Array, channels: int) -> Array:
    blocks = [elements[n : n + channels].T.reshape(-1) for n in range(0, len(elements), channels)]
    return np.ascontiguousarray(np.concatenate(blocks))
