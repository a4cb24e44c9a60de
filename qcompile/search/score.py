"""How good a candidate is: closeness to the float network, and time."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from qcompile.cost import precision_of
from qcompile.ir.graph import Graph
from qcompile.ir.regions import times_run


@dataclass(frozen=True)
class Score:
    """Measurements of one candidate.

    Args:
        sqnr_db: signal to quantization noise ratio at the worst output, dB.
        mean_db: the same, mean over the outputs, dB.
        drop: share of the metric lost against float, 0 to 1; see `qcompile.search.drop`.
        agreement: share of samples with the same best class as float; None for other outputs than class scores.
        ms: time of one inference on one core, measured or modelled node by node, milliseconds.
        int8_share: share of the multiply-accumulates computed in int8, 0 to 1.
        metric: value of the user's metric; None where there is none, and the drop is estimated.
        seconds: that building and measuring took; no bundle records it, so that it does not depend on the machine.
    """

    sqnr_db: float
    mean_db: float
    drop: float
    agreement: float | None
    ms: float
    int8_share: float
    metric: float | None = None
    seconds: float = field(default=0.0, compare=False)

    def to_json(self) -> dict[str, Any]:
        """Return the fields that a manifest records."""
        return {name: value for name, value in asdict(self).items() if name != "seconds"}

    @staticmethod
    def from_json(fields: dict[str, Any]) -> Score:
        """Return the score with the fields that `to_json` gave, and its seconds where they are among them."""
        return Score(**fields)

    def text(self) -> str:
        """Return the score in words."""
        metric = "" if self.metric is None else f", metric {self.metric:.4f}"
        agreement = "" if self.agreement is None else f", agreement {100 * self.agreement:.1f} %"
        share = f"{100 * self.int8_share:.1f} % of the MACs in int8"
        return f"SQNR {self.sqnr_db:.1f} dB, drop {100 * self.drop:.2f} %{metric}{agreement}, {share}, {self.ms:.3f} ms"


def int8_share(graph: Graph) -> float:
    """Return the share of the multiply-accumulates that a graph computes in int8; 1 where it has none."""
    return mac_shares(graph)["int8"]


def mac_shares(graph: Graph) -> dict[str, float]:
    """Return the share of the multiply-accumulates by precision; what a graph without any has counts as int8."""
    macs = [(times * node.op.macs(node), precision_of(node)) for node, times in times_run(graph).items()]
    total = sum(count for count, _ in macs)
    if not total:
        return {"int8": 1.0, "int16": 0.0, "float32": 0.0}
    return {kind: sum(n for n, p in macs if p == kind) / total for kind in ("int8", "int16", "float32")}
