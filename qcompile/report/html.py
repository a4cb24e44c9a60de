"""The HTML report: one file that opens offline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qcompile.ir.cost import modelled_ns
from qcompile.report.search_section import search_section
from qcompile.report.terminal import int8_share, layer_counts

if TYPE_CHECKING:
    from qcompile.bundle.manifest import Provenance
    from qcompile.driver import Compilation


def report_html(made: Compilation, provenance: Provenance) -> str:
    """Return the report of a compilation.

    It holds no time of day and no measured time, so that the same compilation gives the same bytes.

    Args:
        made: results of the stages.
        provenance: what the bundle was made from.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("qcompile.report", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["bytes"] = _bytes
    program = made.program
    steps = [{"precision": s.precision, "macs": s.macs} for s in program.steps]
    return environment.get_template("report.html.j2").render(
        name=program.name,
        model=provenance.model,
        target=program.target,
        inputs=program.inputs,
        outputs=program.outputs,
        weights=len(program.weights),
        arena=program.arena_bytes,
        share=int8_share(steps),
        counts=layer_counts(steps),
        comparison=made.comparison,
        calibration=provenance.calibration,
        notes=provenance.notes,
        rows=_layer_rows(made),
        passes=made.records,
        search=search_section(made.search),
        configuration=provenance.recipe["configuration"],
    )


def _bytes(count: int) -> str:
    """Return a byte count for people."""
    if count < 1024:
        return f"{count} B"
    return f"{count / 1024:.1f} KiB" if count < 1024**2 else f"{count / 1024**2:.2f} MiB"


def _layer_rows(made: Compilation) -> list[dict[str, Any]]:
    """Return one row per step: what it is, its range and error, and its modelled share of the time."""
    times = [modelled_ns(s.macs, s.bytes, s.precision) for s in made.program.steps]
    total = sum(times) or 1.0
    errors = {t.loc: t.sqnr_db for t in made.comparison.tensors} if made.comparison else {}
    ranges = _ranges(made)
    rows = []
    for step, time in zip(made.program.steps, times, strict=True):
        rows.append(
            {
                "loc": step.loc,
                "op": step.op,
                "precision": step.precision,
                "range": ranges.get((step.loc, step.op), ""),
                "sqnr": errors.get(step.loc),
                "macs": step.macs,
                "bytes": step.bytes,
                "share": time / total,
            }
        )
    return rows


def _ranges(made: Compilation) -> dict[tuple[str, str], str]:
    """Return the real range that each quantized result covers, by ONNX node and operation."""
    found = {}
    for node in made.graph.nodes:
        q = node.outputs[0].qparams
        if q is not None and not q.per_channel:
            lo = (q.qmin - q.scalar_zero_point) * q.scalar_scale
            hi = (q.qmax - q.scalar_zero_point) * q.scalar_scale
            found[node.loc, node.op.name] = f"{lo:.4g} … {hi:.4g}"
    return found
