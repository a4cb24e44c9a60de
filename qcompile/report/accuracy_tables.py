"""What evaluation and analysis found, on the terminal."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from qcompile.report.columns import columns, facts, show

if TYPE_CHECKING:
    from qcompile.evaluate.evaluation import Evaluation
    from qcompile.evaluate.measure import Estimate


def print_evaluation(result: Evaluation, *, as_json: bool) -> None:
    """Print a metric with its confidence interval, the float model beside it."""
    if as_json:
        print(json.dumps(result.to_mapping(), indent=1))
        return
    table = columns(f"{result.metric} {result.unit}".strip(), "value", "95 % interval", right=("value",))
    table.add_row("model", *_cells(result.model))
    if result.reference is not None and result.difference is not None:
        table.add_row("float", *_cells(result.reference))
        table.add_row("difference", *_cells(result.difference, "+"))
    show(table)
    direction = "more is better" if result.higher_is_better else "less is better"
    facts([("samples", f"{result.samples}, {direction}")])
    for note in result.notes:
        print(f"note: {note}")


def _cells(estimate: Estimate, sign: str = "") -> tuple[str, str]:
    return f"{estimate.value:{sign}.4f}", f"{estimate.low:{sign}.4f} … {estimate.high:{sign}.4f}"
