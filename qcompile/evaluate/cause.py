"""Why a quantized node is inaccurate, from what was measured of it, in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from qcompile.evaluate.node_statistics import NodeStatistics

CODES = 256

FINE_DB = 30.0
"""A node that is better than this by itself needs no explanation."""

_SHARE = 0.5  # of the noise that one origin must have to be called the cause
_FEW_CODES = 0.5
_OUTLIER = 8.0  # times the median channel: three of the eight bits are lost for the others
_LISTED = 8
_INHERITED_DB = 6.0
_BAD_DB = 20.0
_FITTED_DB = 3.0  # half of the noise of the weights is not of their rounding


@dataclass(frozen=True)
class Findings:
    """Measured facts of one node.

    Args:
        alone_db: SQNR of the node alone; None where it could not be measured.
        accumulated_db: SQNR with all errors before it.
        rounding_db: SQNR of writing the exact result in its codes.
        weights_db: SQNR with nothing but the weights quantized; None without weights.
        range: real values of the smallest and the largest code; of the first values where there are no codes.
        seen: smallest and largest exact value.
        codes: share of the 256 codes between those that the smallest and the largest value get, 0 to 1; None where the
            result is not written in 8 bits.
        clipped: share of values beyond the range, 0 to 1.
        clipping: share of the noise of writing that those values make, 0 to 1.
        channels: how many there are.
        dead: channels that never change.
        lost: channels that change by less than half a step, so that all is rounded away.
        outliers: (channel, its peak over the median peak) of channels that stretch the range for all others.
        operand: the node whose result arrives worst, all errors before included; "" for none.
        operand_db: the SQNR of that result, dB.
        source: the node whose result, as operand, costs most by being written in its codes; "" for an input of the
            graph.
        source_outlier: how far the widest channel of that result reaches over the median channel.
        nearest_db: SQNR with nothing but the weights quantized, were they rounded to the nearest; None without weights.
        offset_db: decibels that the weights gain over those rounded to the nearest, on operands with all errors before
            them; None where that is not known.
    """

    alone_db: float | None
    accumulated_db: float
    rounding_db: float
    weights_db: float | None
    range: tuple[float, float]
    seen: tuple[float, float]
    codes: float | None
    clipped: float
    clipping: float
    channels: int
    dead: tuple[int, ...]
    lost: tuple[int, ...]
    outliers: tuple[tuple[int, float], ...]
    operand: str = ""
    operand_db: float = 0.0
    source: str = ""
    source_outlier: float = 1.0
    nearest_db: float | None = None
    offset_db: float | None = None

    @classmethod
    def real(cls, accumulated_db: float) -> Findings:
        """Return the facts of a result that is not written in codes: of noise it has what arrived before it.

        Args:
            accumulated_db: SQNR with all errors before it.
        """
        none = (0.0, 0.0)
        return cls(None, accumulated_db, math.inf, None, none, none, None, 0.0, 0.0, 0, (), (), ())

    @classmethod
    def of(cls, statistics: NodeStatistics, operands: Mapping[str, Findings], source: str | None = None) -> Findings:
        """Return the facts of a node that has seen at least one sample.

        Args:
            statistics: what was gathered.
            operands: facts of the nodes that make its operands, by name; "" for inputs of the graph.
            source: the one whose rounding was measured to cost most; None for the one that is written worst.
        """
        assert statistics.lowest is not None
        assert statistics.highest is not None
        lowest, highest = statistics.lowest, statistics.highest
        step = statistics.step
        low, high = statistics.range
        seen = float(lowest.min()), float(highest.max())
        rounding, clipping = statistics.rounding.noise, statistics.clipping.noise
        still = lowest == highest
        measured = statistics.alone.signal or statistics.alone.noise
        return cls(
            alone_db=statistics.alone.db if measured else None,
            accumulated_db=statistics.accumulated.db,
            rounding_db=statistics.rounding.db,
            weights_db=statistics.weights.db if statistics.weights is not None else None,
            range=(low, high),
            seen=seen,
            codes=_codes(statistics, seen),
            clipped=statistics.clipped / max(statistics.values, 1),
            clipping=clipping / rounding if rounding else 0.0,
            channels=len(lowest),
            dead=tuple(int(c) for c in np.flatnonzero(still)) if len(lowest) > 1 else (),
            lost=tuple(int(c) for c in np.flatnonzero(~still & (highest - lowest < step / 2))),
            outliers=_outliers(np.maximum(np.abs(lowest), np.abs(highest))),
            nearest_db=statistics.nearest.db if statistics.nearest is not None else None,
            offset_db=statistics.offset[0].db - statistics.offset[1].db if statistics.offset is not None else None,
            **_worst_operands(operands, source),
        )


def _codes(statistics: NodeStatistics, seen: tuple[float, float]) -> float | None:
    """Return the share of the 8-bit codes that values use; None where they are written in others, or not at all."""
    if statistics.qparams is None or statistics.qparams.dtype != "int8":
        return None
    low, high = statistics.range
    return min(1.0, (max(0.0, min(seen[1], high) - max(seen[0], low)) / statistics.step + 1) / CODES)


def _outliers(peaks: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> tuple[tuple[int, float], ...]:
    alive = peaks[peaks > 0]
    if alive.size < 4:
        return ()
    ratios = peaks / float(np.median(alive))
    order = np.argsort(-ratios, kind="stable")[:_LISTED]
    return tuple((int(c), round(float(ratios[c]), 1)) for c in order if ratios[c] > _OUTLIER)


def _worst_operands(operands: Mapping[str, Findings], source: str | None) -> dict[str, Any]:
    if not operands:
        return {}
    arriving = min(operands, key=lambda name: operands[name].accumulated_db)
    if source is None or source not in operands:
        source = min(operands, key=lambda name: operands[name].rounding_db)
    outliers = operands[source].outliers
    return {
        "operand": arriving,
        "operand_db": operands[arriving].accumulated_db,
        "source": source,
        "source_outlier": outliers[0][1] if outliers else 1.0,
    }


def origin(found: Findings) -> str:
    """Return where a node's noise comes from: "result", "weights", "fitted", "operands", "inherited"; "" for nowhere.

    The noise of a node alone comes from writing its result (clipping, rounding), from its weights, and from the
    rounding of its operands; whatever makes more than half of it is the origin. Weights are fitted where they are
    further from float than rounding makes them, and nearer to float's result for that on operands with errors.

    Args:
        found: measured facts.
    """
    if found.alone_db is None or found.alone_db >= FINE_DB:
        gap = found.alone_db is None or found.alone_db - found.accumulated_db > _INHERITED_DB
        return "inherited" if gap and found.operand and found.accumulated_db < _BAD_DB else ""
    alone = 10 ** (-found.alone_db / 10)
    if 10 ** (-found.rounding_db / 10) >= _SHARE * alone:
        return "result"
    if found.weights_db is not None and 10 ** (-found.weights_db / 10) >= _SHARE * alone:
        return "fitted" if _is_fitted(found, found.weights_db) else "weights"
    return "operands"


def _is_fitted(found: Findings, weights_db: float) -> bool:
    """Return whether the weights take back errors of nodes before, which to be alone then shows as noise of theirs."""
    return _is_apart(found, weights_db) and found.offset_db is not None and found.offset_db > 0.0


def _is_apart(found: Findings, weights_db: float) -> bool:
    """Return whether the weights are further from float than rounding to the nearest makes them."""
    return found.nearest_db is not None and found.nearest_db - weights_db > _FITTED_DB


HEALTHY = "rounding alone"
"""The cause where nothing stands out."""


def explain(found: Findings) -> str:
    """Return what limits a node's accuracy, in words.

    Args:
        found: measured facts.
    """
    where = origin(found)
    if where == "inherited":
        return f"inherited: '{found.operand}' arrives with {found.operand_db:.1f} dB"
    if where == "weights":
        if found.nearest_db is not None and found.weights_db is not None and _is_apart(found, found.weights_db):
            return (
                f"its weights, which are not the nearest to the float ones ({found.weights_db:.1f} dB by themselves,"
                f" rounded to the nearest {found.nearest_db:.1f} dB)"
            )
        return f"rounding of its weights ({found.weights_db:.1f} dB by themselves)"
    if where == "fitted":
        before = f"'{found.operand}', which arrives with {found.operand_db:.1f} dB" if found.operand else "the input"
        return (
            f"noise of {before}: the weights are fitted to offset it and gain {found.offset_db:.1f} dB on it, but by"
            f" themselves have {found.weights_db:.1f} dB, rounded to the nearest {found.nearest_db:.1f} dB"
        )
    if where == "operands":
        return _operand_cause(found)
    return _result_cause(found) if where == "result" else HEALTHY


def _operand_cause(found: Findings) -> str:
    if not found.source:
        return "rounding of the graph's input, which it amplifies"
    if found.source_outlier > _OUTLIER:
        return (
            f"rounding of its operand '{found.source}', whose widest channel reaches {found.source_outlier:.0f} times"
            " as far as the median one: equalize these layers"
        )
    return f"rounding of its operand '{found.source}', which it amplifies"


def _result_cause(found: Findings) -> str:
    if found.clipping > _SHARE:
        return (
            f"clipping: {found.clipped:.2%} of the values lie beyond {found.range[0]:.3g} … {found.range[1]:.3g}"
            f" (up to {found.seen[0]:.3g} … {found.seen[1]:.3g}) and make {found.clipping:.0%} of the noise"
        )
    if found.outliers:
        channel, ratio = found.outliers[0]
        kept = f", which keeps {max(1, round(CODES / ratio))} of {CODES} codes" if found.codes is not None else ""
        reach = f"channel {channel} reaches {ratio:.0f} times as far as the median channel"
        return f"outlier channels: {reach}{kept}{_channels(found)}"
    if found.codes is not None and found.codes < _FEW_CODES:
        return (
            f"range waste: the values use {found.codes:.0%} of the codes of {found.range[0]:.3g} … {found.range[1]:.3g}"
        )
    return f"long tails: few large values set the range, most are small against a step{_channels(found)}"


def _channels(found: Findings) -> str:
    """Return a remark on channels that are rounded away."""
    if not found.lost:
        return ""
    listed = ", ".join(map(str, found.lost[:_LISTED])) + (", …" if len(found.lost) > _LISTED else "")
    return f"; channels rounded away: {listed}"
