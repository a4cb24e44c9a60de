"""Says so where a network that was to be quantized stays in float for the most part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from qcompile.ir.graph import Graph
from qcompile.passmgr import PassRecord
from qcompile.passmgr.float_reasons import BY_COST
from qcompile.search.score import mac_shares

_MOST = 0.5
"""Share of the multiply-accumulates in float from which on it is worth a word."""


def float_note(graph: Graph, records: Sequence[PassRecord]) -> str | None:
    """Return how much of a network stays in float, and why; None where that is little.

    Args:
        graph: final graph, after quantization.
        records: of the passes; `assign-precision` says why nodes stay in float.
    """
    share = mac_shares(graph)["float32"]
    if share < _MOST:
        return None
    last = next((record for record in reversed(records) if record.name == "assign-precision"), None)
    reasons = Counter(skip.reason for skip in last.skips) if last is not None else Counter[str]()
    conversions = reasons.pop(BY_COST, 0)
    named = [f"{reason} ({_nodes(count)})" for reason, count in reasons.most_common(2)]
    if conversions:
        named.append(f"conversions to integers and back would cost more than these save ({_nodes(conversions)})")
    why = f": {'; '.join(named)}" if named else ""
    return f"{share:.0%} of the multiply-accumulates stay in float32{why}"


def _nodes(count: int) -> str:
    return f"{count} node{'s' * (count > 1)}"
