"""The analysis of a network as one HTML file that opens offline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qcompile.evaluate.analysis import Analysis, NodeAnalysis
from qcompile.evaluate.cause import HEALTHY
from qcompile.files import replaced
from qcompile.report.templates import filled

_WIDTH, _HEIGHT = 1000.0, 240.0
_SMALL_WIDTH, _SMALL_HEIGHT = 420.0, 110.0
_LEAST_TOP_DB = 40.0
_MOST_BARS = 15


def analysis_html(result: Analysis) -> str:
    """Return the report of an analysis; the same analysis gives the same bytes.

    Args:
        result: what was found.
    """
    return filled(
        "analysis.html.j2",
        {},
        result=result,
        worst=result.worst(5),
        healthy=HEALTHY,
        sensitive=_sensitive(result.worst(_MOST_BARS)),
        chart=_network_chart(result.nodes),
        details=[_detail(node) for node in result.nodes],
        width=_WIDTH,
        height=_HEIGHT,
        small_width=_SMALL_WIDTH,
        small_height=_SMALL_HEIGHT,
    )


def write_analysis(result: Analysis, path: Path) -> None:
    """Write the report under a temporary name, then rename.

    Raises:
        UsageError: it cannot be written.
    """
    with replaced(path) as temporary:
        temporary.write_text(analysis_html(result), encoding="utf-8")


def _network_chart(nodes: Sequence[NodeAnalysis]) -> dict[str, Any]:
    """Return the polylines of SQNR along the network, alone and accumulated, and the levels of the grid."""
    values = [v for node in nodes for v in (node.alone_db, node.accumulated_db) if v is not None]
    top = max([_LEAST_TOP_DB, *(min(v, 100.0) for v in values)])
    low = min([0.0, *values])

    def point(index: int, decibel: float) -> tuple[float, float]:
        share = (min(decibel, top) - low) / (top - low)
        return index * _WIDTH / max(len(nodes) - 1, 1), _HEIGHT * (1 - share)

    accumulated = [(node, *point(i, node.accumulated_db)) for i, node in enumerate(nodes)]
    alone = [(n, *point(i, n.alone_db)) for i, n in enumerate(nodes) if n.alone_db is not None]
    first = 10 * math.ceil(low / 10)
    levels = [(level, point(0, level)[1]) for level in range(first, int(top) + 1, 10)]
    return {"accumulated": accumulated, "alone": alone, "levels": levels}


def _sensitive(nodes: Sequence[NodeAnalysis]) -> list[tuple[NodeAnalysis, float]]:
    """Return nodes with the length of their bars, 0 to 1: the longer, the more noise a node adds by itself."""
    if not nodes:
        return []
    values = [node.alone_db or 0.0 for node in nodes]
    worst, best = min(values), max(max(values), min(values) + 1.0)
    return [(node, 0.05 + 0.95 * (best - v) / (best - worst)) for node, v in zip(nodes, values, strict=True)]


def _detail(node: NodeAnalysis) -> dict[str, Any]:
    shared = [p for p in (*node.original_peaks, *node.weight_peaks) if p > 0]
    return {
        "node": node,
        "bars": _bars(node.histogram),
        "low": _SMALL_WIDTH / 4,
        "high": _SMALL_WIDTH * 3 / 4,
        "weights": [
            (title, _peaks(peaks, shared), peaks, _spread(peaks))
            for title, peaks in (("before equalization", node.original_peaks), ("", node.weight_peaks))
            if len(peaks) > 1
        ],
    }


def _bars(counts: Sequence[int]) -> str:
    """Return the outline of a histogram with logarithmic heights, as an SVG path."""
    top = math.log1p(max(counts, default=0)) or 1.0
    step = _SMALL_WIDTH / max(len(counts), 1)
    parts = [f"M0 {_SMALL_HEIGHT:g}"]
    for index, count in enumerate(counts):
        y = _SMALL_HEIGHT * (1 - math.log1p(count) / top)
        parts.append(f"L{index * step:.1f} {y:.1f}H{(index + 1) * step:.1f}")
    return "".join([*parts, f"L{_SMALL_WIDTH:g} {_SMALL_HEIGHT:g}Z"])


def _peaks(peaks: Sequence[float], alive: Sequence[float]) -> str:
    """Return bars of the largest weight of each channel, logarithmic, as an SVG path.

    Args:
        peaks: one per channel.
        alive: all that one scale is to hold, above 0.
    """
    if len(alive) < 2:
        return ""
    low, high = math.log(min(alive)), math.log(max(alive))
    span = max(high - low, math.log(2.0))
    step = _SMALL_WIDTH / len(peaks)
    parts = []
    for index, peak in enumerate(peaks):
        share = 0.05 + 0.95 * (math.log(peak) - low) / span if peak > 0 else 0.0
        parts.append(
            f"M{index * step:.2f} {_SMALL_HEIGHT:g}v{-_SMALL_HEIGHT * share:.1f}h{step * 0.8:.2f}V{_SMALL_HEIGHT:g}Z"
        )
    return "".join(parts)


def _spread(peaks: Sequence[float]) -> float:
    """Return the largest over the smallest peak that is not zero; 1 without weights."""
    alive = [p for p in peaks if p > 0]
    return max(alive) / min(alive) if alive else 1.0
