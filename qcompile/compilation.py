"""What a compilation makes: the results of its stages, and the bundle in the end."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qcompile.calibrate.calibration_set import CalibrationSet
    from qcompile.evaluate.comparison import Comparison
    from qcompile.evaluate.self_test import Check
    from qcompile.ir.graph import Graph
    from qcompile.ir.program import Program
    from qcompile.passmgr import PassContext, PassRecord
    from qcompile.search.result import SearchResult


@dataclass
class Bundle:
    """A finished compilation.

    Args:
        path: the bundle's directory.
        manifest: contents of its manifest.json.
        report: its HTML report.
        graph: what the library computes: `qcompile.Interpreter(bundle.graph)` runs it in NumPy.
        notes: what the user should know, in plain words.
        records: what each pass did.
        check: how the library was found to run on this machine; None where it is for another.
        search: how the passes were found; None where nothing was searched for.
        float_within: nodes that compute in float within steps that count as integers.
    """

    path: Path
    manifest: dict[str, Any]
    report: Path
    graph: Graph
    notes: list[str] = field(default_factory=list)
    records: list[PassRecord] = field(default_factory=list)
    check: Check | None = None
    search: SearchResult | None = None
    float_within: list[str] = field(default_factory=list)


@dataclass
class Compilation:
    """What the stages made, on its way into the bundle.

    Args:
        context: services and notes of the passes; holds the calibration statistics.
        samples: the calibration set, or None.
        graph: the final graph.
        program: its code.
        comparison: integers against float, None for a float build.
        records: what each pass did.
        labels: class names, or None.
        search: how the passes were found, None where nothing was searched for.
        float_within: nodes that compute in float within steps that count as integers.
    """

    context: PassContext
    samples: CalibrationSet | None
    graph: Graph
    program: Program
    comparison: Comparison | None
    records: list[PassRecord]
    labels: list[str] | None
    search: SearchResult | None = None
    float_within: list[str] = field(default_factory=list)
