"""The HTML report: one file that opens offline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from qcompile.cost import Cost, NodeCosts, precision_of
from qcompile.ir.cost import modelled_ns
from qcompile.ir.opdef import Quantization
from qcompile.ir.regions import times_run
from qcompile.ops.arithmetic import CONVERSIONS
from qcompile.report.search_section import search_section
from qcompile.report.templates import filled
from qcompile.report.terminal import bytes_text, int8_share, macs_text, step_counts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qcompile.bundle.manifest import Provenance
    from qcompile.compilation import Compilation
    from qcompile.ir.program import Step

_LEFT, _WIDTH, _HEIGHT = 44.0, 1000.0, 200.0
_LEAST_TOP_DB = 40.0
_NAME, _NAME_START = 38, 9
"""Characters of a node's name in a table, and how many of them are its first."""

_LOW_DB = 15.0
"""Below this a layer's noise is more than 3 % of its signal's power, and the report marks it."""


@dataclass(frozen=True)
class Row:
    """One step of the program, as the report shows it.

    Args:
        loc: ONNX node.
        op: operation.
        precision: what it computes in.
        range: real values that its result can take, or "".
        sqnr_db: signal to quantization noise ratio of its result, dB; None where it was not compared.
        macs: multiply-accumulates.
        bytes: memory it reads and writes.
        share: of the modelled time, 0 to 1.
        int8: time in int8, measured or modelled; None for a step that is not a node, such as a copy.
        float32: the same in float32.
    """

    loc: str
    op: str
    precision: str
    range: str
    sqnr_db: float | None
    macs: int
    bytes: int
    share: float
    int8: Cost | None = None
    float32: Cost | None = None

    @property
    def slower(self) -> bool:
        """Whether a step is in the slower of the two precisions."""
        if self.int8 is None or self.float32 is None:
            return False
        ours, other = (self.int8, self.float32) if self.precision == "int8" else (self.float32, self.int8)
        return self.precision in ("int8", "float32") and ours.ns > other.ns

    @property
    def low(self) -> bool:
        """Whether the noise is large."""
        return self.sqnr_db is not None and self.sqnr_db < _LOW_DB


def report_html(made: Compilation, provenance: Provenance) -> str:
    """Return the report of a compilation.

    It holds no time of day and no measured time, so that the same compilation gives the same bytes.

    Args:
        made: results of the stages.
        provenance: what the bundle was made from.
    """
    program = made.program
    steps = [{"precision": s.precision, "macs": s.macs} for s in program.steps]
    rows = _rows(made)
    return filled(
        "report.html.j2",
        {
            "bytes": bytes_text,
            "macs": macs_text,
            "middle": _without_middle,
            "microseconds": _microseconds,
            "setting": _setting,
        },
        program=program,
        target=program.target,
        model=provenance.model,
        macs=sum(s.macs for s in program.steps),
        share=int8_share(steps),
        counts=step_counts(steps, made.float_within),
        comparison=made.comparison,
        calibration=provenance.calibration,
        notes=[note for note in provenance.notes if "unverified" not in note],
        warnings=[note for note in provenance.notes if "unverified" in note],
        rows=rows,
        measured=any(cost is not None and cost.measured for row in rows for cost in (row.int8, row.float32)),
        integer_io=any(tensor.scale is not None for tensor in (*program.inputs, *program.outputs)),
        longest=max((row.share for row in rows), default=0.0) or 1.0,
        operations=_operations(rows),
        chart=_chart([row for row in rows if row.sqnr_db is not None]),
        passes=made.records,
        search=search_section(made.search),
        configuration=provenance.recipe["configuration"],
    )


def _without_middle(name: str) -> str:
    """Return a long name without its middle: what tells nodes apart is at its end."""
    return name if len(name) <= _NAME else f"{name[:_NAME_START]}…{name[len(name) + _NAME_START + 1 - _NAME :]}"


def _setting(value: Any) -> str:
    """Return a setting of the recipe in words: "–" for none, `name=value` for those of a mapping."""
    if value is None or value == "" or value == [] or value == {}:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={_setting(item)}" for name, item in value.items())
    if isinstance(value, (list, tuple)):
        return " ".join(_setting(item) for item in value)
    return str(value)


def _microseconds(ns: float) -> str:
    """Return a time with about three digits, microseconds."""
    return f"{ns / 1e3:,.{2 if ns < 1e4 else 1 if ns < 1e5 else 0}f}"


def _rows(made: Compilation) -> list[Row]:
    """Return one row per step, in the order of computation; what is known of a node is in the row of its last step."""
    costs, ranges, steps = _costs(made), _ranges(made), made.program.steps
    errors = {t.value: t.sqnr_db for t in made.comparison.tensors} if made.comparison else {}
    last = {step.makes: place for place, step in enumerate(steps)}
    times = _times(steps, last, costs)
    total = sum(times) or 1.0
    rows = []
    for place, (step, time) in enumerate(zip(steps, times, strict=True)):
        row = Row(step.loc, step.op, step.precision, "", None, step.macs, step.bytes, time / total)
        if last[step.makes] == place:
            both = costs.get(step.makes, {})
            span, noise = ranges.get(step.makes, ""), errors.get(step.makes)
            row = replace(row, range=span, sqnr_db=noise, int8=both.get("int8"), float32=both.get("float32"))
        rows.append(row)
    return rows


def _times(steps: Sequence[Step], last: Mapping[str, int], costs: Mapping[str, Mapping[str, Cost]]) -> list[float]:
    """Return the time of each step, ns: its share of what its node costs, else what its work and bytes take."""
    modelled = [modelled_ns(step.macs, step.bytes, step.precision) for step in steps]
    together: dict[str, float] = {}
    for step, time in zip(steps, modelled, strict=True):
        together[step.makes] = together.get(step.makes, 0.0) + time
    times = []
    for step, time in zip(steps, modelled, strict=True):
        own = costs.get(step.makes, {}).get(steps[last[step.makes]].precision)
        whole = together[step.makes]
        times.append(time if own is None else own.ns * time / whole if whole else own.ns)
    return times


def _costs(made: Compilation) -> dict[str, dict[str, Cost]]:
    """Return what each node costs in each precision that it could have, by the first tensor that it makes."""
    costs, found = NodeCosts.of(made.context), {}
    for node, times in times_run(made.graph).items():
        if node.op.name in CONVERSIONS:
            continue
        both = {"float32": costs.node(node, "float32")}
        if node.op.integer is not Quantization.FLOAT_ONLY:
            both["int8"] = costs.node(node, "int8")
        if node.is_integer:
            both.setdefault(precision_of(node), costs.node(node))
        together = {precision: replace(cost, ns=times * cost.ns) for precision, cost in both.items()}
        found[node.outputs[0].name] = together
    return found


def _ranges(made: Compilation) -> dict[str, str]:
    """Return the real range that each quantized result covers, by its name."""
    found = {}
    for node in made.graph.nodes:
        q = node.outputs[0].qparams
        if q is not None and not q.per_channel:
            lo = (q.qmin - q.scalar_zero_point) * q.scalar_scale
            hi = (q.qmax - q.scalar_zero_point) * q.scalar_scale
            found[node.outputs[0].name] = f"{lo:.4g} … {hi:.4g}"
    return found


def _operations(rows: list[Row]) -> list[dict[str, Any]]:
    """Return steps, MACs and share of the modelled time of each operation, the longest first."""
    table: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        entry = table.setdefault(
            (row.op, row.precision),
            {"op": row.op, "precision": row.precision, "steps": 0, "macs": 0, "bytes": 0, "share": 0.0},
        )
        entry["steps"] += 1
        entry["macs"] += row.macs
        entry["bytes"] += row.bytes
        entry["share"] += row.share
    return sorted(table.values(), key=lambda entry: (-entry["share"], entry["op"], entry["precision"]))


def _chart(rows: list[Row]) -> dict[str, Any] | None:
    """Return the SQNR along the network as points and grid lines of a drawing; None for fewer than two points."""
    if len(rows) < 2:
        return None
    values = [min(max(row.sqnr_db or 0.0, -20.0), 100.0) for row in rows]
    top, low = max([*values, _LEAST_TOP_DB]) + 4.0, min([*values, 0.0])

    def y(db: float) -> float:
        return round(_HEIGHT * (top - db) / (top - low), 1)

    points = [
        {"x": round(_LEFT + i * _WIDTH / (len(rows) - 1), 1), "y": y(value), "row": row}
        for i, (value, row) in enumerate(zip(values, rows, strict=True))
    ]
    levels = [{"db": db, "y": y(db)} for db in range(-20, 101, 10) if low <= db <= top]
    return {"points": points, "levels": levels, "left": _LEFT, "right": _LEFT + _WIDTH, "height": _HEIGHT}
