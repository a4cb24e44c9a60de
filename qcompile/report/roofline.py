"""The roofline of a profile: speed of each step over the bytes it moves for a multiply-accumulate."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from qcompile.evaluate.benchmark import Benchmark, LayerTime
from qcompile.files import replaced
from qcompile.report.templates import filled

_LEFT, _WIDTH, _HEIGHT = 60.0, 900.0, 380.0
_LEAST_BYTES, _MOST_BYTES = 1 / 1024, 64.0


def roofline(result: Benchmark) -> dict[str, Any] | None:
    """Return points, roofs and grid lines of the drawing; None without a profile or without a layer that multiplies.

    Both axes are logarithmic. A step of b bytes per multiply-accumulate cannot be faster than the lower of the
    instruction set's peak and bandwidth / b.

    Args:
        result: with a profile.
    """
    layers = [layer for layer in result.layers if layer.macs and layer.ms > 0]
    if not layers or result.roofs is None:
        return None
    threads = max(1, result.threads)
    peaks = {p: (result.roofs.peak(p) or 0.0) * threads for p in ("int8", "float32")}
    used = [p for p in peaks if peaks[p] and any(layer.precision == p for layer in layers)]
    scale = _Scale([bytes_per_mac(layer) for layer in layers], [layer.gmacs for layer in layers] + list(peaks.values()))
    points = [
        {"x": scale.x(bytes_per_mac(layer)), "y": scale.y(layer.gmacs), "layer": layer, "title": _title(layer)}
        for layer in layers
    ]
    roofs = [{"name": f"peak {p}, {peaks[p]:.0f} GMAC/s", "points": scale.flat(peaks[p])} for p in used]
    for name, gbs in (("cache", result.roofs.cache_gbs), ("memory", result.roofs.memory_gbs)):
        roofs.append({"name": f"{name}, {gbs:.0f} GB/s", "points": scale.slope(gbs)})
    return {"points": points, "roofs": roofs, "across": scale.across(), "along": scale.along(), "left": _LEFT,
            "right": _LEFT + _WIDTH, "height": _HEIGHT}  # fmt: skip


def bytes_per_mac(layer: LayerTime) -> float:
    """Return the bytes that a step moves for one multiply-accumulate."""
    return layer.bytes / layer.macs


class _Scale:
    """Places values on the drawing."""

    def __init__(self, across: list[float], up: list[float]) -> None:
        self._low = max(min(across) / 2, _LEAST_BYTES)
        self._high = max(min(max(across) * 2, _MOST_BYTES), 2 * self._low)
        self._bottom, self._top = min(value for value in up if value > 0) / 2, max(up) * 1.5

    def x(self, value: float) -> float:
        share = math.log(max(value, self._low) / self._low) / math.log(self._high / self._low)
        return round(_LEFT + _WIDTH * min(share, 1.0), 1)

    def y(self, value: float) -> float:
        share = math.log(max(value, self._bottom) / self._bottom) / math.log(self._top / self._bottom)
        return round(_HEIGHT * (1 - min(share, 1.0)), 1)

    def flat(self, gmacs: float) -> str:
        return f"{_LEFT},{self.y(gmacs)} {_LEFT + _WIDTH},{self.y(gmacs)}"

    def slope(self, gbs: float) -> str:
        """Return the part of bandwidth / bytes that lies in the drawing."""
        first, last = max(self._low, gbs / self._top), min(self._high, gbs / self._bottom)
        return " ".join(f"{self.x(b)},{self.y(gbs / b)}" for b in (first, last)) if first < last else ""

    def across(self) -> list[dict[str, Any]]:
        powers = range(math.ceil(math.log2(self._low)), math.floor(math.log2(self._high)) + 1)
        return [{"place": self.x(2.0**p), "label": _power_text(p)} for p in powers]

    def along(self) -> list[dict[str, Any]]:
        powers = range(math.ceil(math.log10(self._bottom)), math.floor(math.log10(self._top)) + 1)
        return [{"place": self.y(10.0**p), "label": f"{10.0**p:g}"} for p in powers]


def _power_text(power: int) -> str:
    return str(2**power) if power >= 0 else f"1/{2**-power}"


def _title(layer: LayerTime) -> str:
    share = f", {layer.peak:.0%} of the peak" if layer.peak is not None else ""
    return f"{layer.node} ({layer.op}): {layer.gmacs:.1f} GMAC/s{share}, {bytes_per_mac(layer):.3g} bytes a MAC"


def write_benchmark(result: Benchmark, path: Path) -> None:
    """Write a profile with its roofline as one HTML file that opens offline.

    Raises:
        UsageError: it cannot be written.
    """
    longest = max((layer.ms for layer in result.layers), default=0.0) or 1.0
    total = sum(layer.ms for layer in result.layers) or 1.0
    text = filled("bench.html.j2", {}, result=result, chart=roofline(result), longest=longest, total=total)
    with replaced(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
