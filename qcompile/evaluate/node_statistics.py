"""What is gathered of one quantized tensor while samples run: noise by origin, use of the codes, channels."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.ir.graph import Node, Value
from qcompile.quant.affine import dequantize, quantize
from qcompile.quant.noise_power import NoisePower
from qcompile.quant.qparams import QParams

Array = npt.NDArray[Any]

BINS = 96
"""Bars of a histogram; the range takes the middle half of them."""


class NodeStatistics:
    """Statistics of one integer node and its result in 8 or 16 bits.

    Args:
        node: of the integer graph.
        qparams: of its result; None where the result is an accumulator that is read as real values.

    Attributes:
        alone: noise with only this node quantized.
        accumulated: noise with all nodes before it quantized as well.
        rounding: noise of writing the exact result in the codes of its range.
        clipping: the part of `rounding` that comes from values beyond the range.
        weights: noise of the quantized weights alone; None for a node without weights.
        nearest: noise of the float weights rounded to the nearest codes alone; None for a node without weights.
        offset: noise of the quantized weights, and of those rounded to the nearest codes, on operands with all errors
            before them; None where these are not known.
        operands: noise of the rounding of one operand alone, by its index; empty where one alone is rounded, and where
            no float node computes the same.
        values, clipped: how many values there were, and how many lay beyond the range.
        lowest, highest: per channel, real units; None before the first sample.
        histogram: counts in BINS equal bars, from half a range below the range to half a range above it.
    """

    def __init__(self, node: Node, qparams: QParams | None) -> None:
        self.node, self.qparams = node, qparams
        self.alone, self.accumulated, self.rounding, self.clipping = (
            NoisePower(),
            NoisePower(),
            NoisePower(),
            NoisePower(),
        )
        self.weights: NoisePower | None = None
        self.nearest: NoisePower | None = None
        self.offset: tuple[NoisePower, NoisePower] | None = None
        self.operands: dict[int, NoisePower] = {}
        self.values = self.clipped = 0
        self.lowest: Array | None = None
        self.highest: Array | None = None
        self.histogram = np.zeros(BINS, np.int64)
        self._first = (0.0, 0.0)

    @property
    def step(self) -> float:
        """Real units per code; 0 where there are no codes."""
        return self.qparams.scalar_scale if self.qparams is not None else 0.0

    @property
    def range(self) -> tuple[float, float]:
        """The real values of the smallest and the largest code in use; without codes, of the values seen first."""
        q = self.qparams
        if q is None:
            return self._first
        return (q.qmin - q.scalar_zero_point) * q.scalar_scale, (q.qmax - q.scalar_zero_point) * q.scalar_scale

    def update(self, exact: Array) -> None:
        """Count the exact values of one sample; what is not finite, a mask of −inf, counts as 0: it is no signal."""
        if exact.dtype.kind == "f" and not np.isfinite(exact).all():
            exact = np.nan_to_num(exact, posinf=0.0, neginf=0.0)
        if not self.values:
            self._first = float(exact.min(initial=0.0)), float(exact.max(initial=0.0))
        self.values += exact.size
        if self.qparams is not None:
            self._write(exact, self.qparams)
        self._channels(exact)
        low, high = self.range
        width = max(high - low, self.step) or 1.0
        places = (np.asarray(exact, np.float64) - (low - width / 2)) * (BINS / (2 * width))
        clamped = np.clip(np.nan_to_num(places), 0, BINS - 1).astype(np.int64)
        self.histogram += np.bincount(clamped.reshape(-1), minlength=BINS)

    def _write(self, exact: Array, qparams: QParams) -> None:
        """Measure what writing the exact values in their codes costs."""
        written = dequantize(quantize(exact, qparams), qparams)
        self.rounding.add(exact, written)
        low, high = self.range
        beyond = (exact < low - self.step / 2) | (exact > high + self.step / 2)
        self.clipped += int(beyond.sum())
        self.clipping.add(exact[beyond], written[beyond])

    def _channels(self, exact: Array) -> None:
        axis = channel_axis(self.node.outputs[0], self.node)
        rows = np.moveaxis(exact, axis, 0).reshape(exact.shape[axis], -1) if exact.ndim else exact.reshape(1, 1)
        low, high = rows.min(axis=1), rows.max(axis=1)
        self.lowest = low if self.lowest is None else _merged(np.minimum, self.lowest, low)
        self.highest = high if self.highest is None else _merged(np.maximum, self.highest, high)


def _merged(choose: Any, a: Array, b: Array) -> Array:
    """Return the elementwise choice; samples of several sizes may have several numbers of channels."""
    short, long = sorted((a, b), key=len)
    merged: Array = long.copy()
    merged[: len(short)] = choose(short, long[: len(short)])
    return merged


def channel_axis(value: Value, node: Node) -> int:
    """Return the axis of a tensor that counts channels: the last, except in NCHW, which graph inputs are in."""
    first = getattr(node.attrs, "layout", "NHWC") == "NCHW" or not node.inputs or node.inputs[0].producer is None
    return 1 if first and len(value.shape) == 4 else max(len(value.shape) - 1, 0)
