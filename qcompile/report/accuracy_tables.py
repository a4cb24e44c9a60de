"""What evaluation and analysis found, on the terminal."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from qcompile.evaluate.cause import HEALTHY
from qcompile.report.columns import columns, facts, shortened, show
from qcompile.report.strict_json import json_text

if TYPE_CHECKING:
    from qcompile.evaluate.analysis import Analysis
    from qcompile.evaluate.evaluation import Evaluation
    from qcompile.evaluate.measure import Estimate


_COLUMNS = (
    "alone: SQNR where the node's operands, weights and result are rounded, and nothing else; accumulated: with all "
    "errors before it; codes: share of the 256 of 8 bits that values use; clipped: values beyond it"
)


def print_evaluation(result: Evaluation, *, as_json: bool) -> None:
    """Print a metric with its confidence interval, the float model beside it."""
    if as_json:
        print(json_text(result.to_mapping()))
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
    known = estimate.low is not None and estimate.high is not None
    return f"{estimate.value:{sign}.4f}", f"{estimate.low:{sign}.4f} … {estimate.high:{sign}.4f}" if known else "-"


def print_analysis(result: Analysis, *, top: int, as_json: bool) -> None:
    """Print the nodes that hurt most by themselves, with cause and exclusion.

    Args:
        result: what was found.
        top: nodes to print; 0 for all, in order of computation.
        as_json: print JSON instead.
    """
    if as_json:
        print(json_text(result.to_mapping()))
        return
    chosen = result.worst(top) if top else list(result.nodes)
    table = columns(
        "node",
        "op",
        "precision",
        "alone",
        "accumulated",
        "codes",
        "clipped",
        "cause",
        right=("alone", "accumulated", "codes", "clipped"),
    )
    for node in chosen:
        found = node.findings
        alone = f"{node.alone_db:.1f} dB" if node.alone_db is not None else "?"
        accumulated = f"{node.accumulated_db:.1f} dB"
        codes = f"{found.codes:.0%}" if found.codes is not None else "-"
        clipped = f"{found.clipped:.2%}" if found.clipped else "-"
        table.add_row(shortened(node.name), node.op, node.precision, alone, accumulated, codes, clipped, node.cause)
    show(table)
    print()
    source = "samples" if result.verified else "made-up inputs: accuracy is unverified"
    worst = ", ".join(f"{name} {db:.1f} dB" for name, db in result.outputs.items())
    rows = [("outputs", f"{worst} against float, {result.samples} {source}")]
    if len(chosen) < len(result.nodes):
        rows.append(("nodes", f"the worst {len(chosen)} of {len(result.nodes)}; --top 0 shows all"))
    rows.append(("columns", _COLUMNS))
    if result.kept:
        rows.append(
            ("in float", "; ".join(f"{name} ({reason})" for name, reason in list(result.kept.items())[: top or None]))
        )
    hurting = [node for node in result.worst(3) if node.cause != HEALTHY]
    ways: dict[frozenset[str], str] = {}
    for node in hurting:
        ways.setdefault(frozenset(shlex.split(node.exclusion)), node.exclusion)  # in whatever order nodes are named
    rows += [("exclude", text) for text in ways.values() if text]
    facts(rows)
    for note in result.notes:
        print(f"note: {note}")
