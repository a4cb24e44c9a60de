"""Says so where a network that was to be quantized stays in float for the most part, or in vain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from qcompile.ir.graph import Graph, Node, Value
from qcompile.ir.opdef import Quantization
from qcompile.ir.program import Program
from qcompile.ops.arithmetic import CONVERSIONS
from qcompile.passmgr import PassRecord
from qcompile.passmgr.context import Skip
from qcompile.passmgr.float_reasons import BY_COST, KEPT
from qcompile.passmgr.moved import makers, takers
from qcompile.search.score import mac_shares

_MOST = 0.5
"""Share of the multiply-accumulates in float from which on it is worth a word."""

_SHOWN = 3


def float_notes(graph: Graph, records: Sequence[PassRecord]) -> list[str]:
    """Return what the user should know of the nodes that stay in float; arguments as for `float_note`."""
    return [note for note in (float_note(graph, records), idle_note(graph, records)) if note is not None]


def float_note(graph: Graph, records: Sequence[PassRecord]) -> str | None:
    """Return how much of a network stays in float, and why; None where that is little.

    Args:
        graph: final graph, after quantization.
        records: of the passes; `assign-precision` says why nodes stay in float.
    """
    share = mac_shares(graph)["float32"]
    if share < _MOST:
        return None
    reasons = Counter(skip.reason for skip in _skips(records))
    conversions = reasons.pop(BY_COST, 0)
    named = [f"{reason} ({_nodes(count)})" for reason, count in reasons.most_common(2)]
    if conversions:
        named.append(f"conversions to integers and back would cost more than these save ({_nodes(conversions)})")
    why = f": {'; '.join(named)}" if named else ""
    return f"{share:.0%} of the multiply-accumulates stay in float32{why}"


def idle_note(graph: Graph, records: Sequence[PassRecord]) -> str | None:
    """Return which nodes the user keeps in float in vain, and what to name besides; None where there are none.

    A function of one tensor between 8-bit tensors is a table in integers: for each code of its operand the code that
    float computes. Only where its operand or its result stays real, too, is there something to gain.

    Args:
        graph: final graph, after quantization.
        records: of the passes; `assign-precision` says which nodes the user named.
    """
    kept = {skip.node for skip in _skips(records) if skip.reason == KEPT}
    idle = [node for node in graph.nodes if str(node) in kept and _is_idle(node, graph.outputs)]
    if not idle:
        return None
    names = [node.loc or node.outputs[0].name for node in idle]
    if len(idle) > 1:
        listed = f"{', '.join(names[:_SHOWN])}{', …' if len(names) > _SHOWN else ''}"
        what = f"changes nothing for {len(idle)} nodes ({listed}): their operands and results stay in int8"
        return f"--keep-float {what}; name what makes or reads these, too, as `qcompile analyze` does"
    kept_too = f"; name {others}, too" if (others := _others(idle[0])) else ""
    return f"--keep-float {names[0]} changes nothing: its operand and result stay in int8{kept_too}"


def float_within(graph: Graph, program: Program) -> list[str]:
    """Return the nodes that compute in float within steps that count as integers, in the order of computation.

    What computes element by element is part of the step that reads it, or makes it, and that step bears one name.

    Args:
        graph: what the program was made from.
        program: its code.
    """
    shown = {(step.loc, step.op): step.precision for step in program.steps}

    def precision(node: Node) -> str | None:
        return shown.get((node.loc or node.outputs[0].name, node.op.name))

    def hosts(node: Node) -> set[str]:
        """Return the precisions of the steps that a node may be part of: the next ones behind it, else before it."""
        for neighbours in (_readers, _sources):
            reached, waiting, found = {node}, [node], set()
            while waiting:
                more = [other for other in neighbours(waiting.pop()) if other not in reached]
                reached.update(more)
                found |= {kind for other in more if (kind := precision(other)) is not None}
                waiting += [other for other in more if precision(other) is None]
            if found:
                return found
        return set()

    computing = [n for n in graph.nodes if not (n.is_integer or n.op.only_moves(n) or n.op.name in CONVERSIONS)]
    merged = [n for n in computing if n.outputs[0].dtype == "float32" and precision(n) is None]
    return [node.loc or node.outputs[0].name for node in merged if hosts(node) & {"int8", "int16"}]


def _readers(node: Node) -> list[Node]:
    return [user for result in node.outputs for user in result.users()]


def _sources(node: Node) -> list[Node]:
    return [value.producer for value in node.inputs if value.producer is not None]


def _skips(records: Sequence[PassRecord]) -> Sequence[Skip]:
    """Return why nodes are in float."""
    last = next((record for record in reversed(records) if record.name == "assign-precision"), None)
    return last.skips if last is not None else ()


def _is_idle(node: Node, outputs: Collection[Value]) -> bool:
    """Return whether a node in float computes what it would in integers: from codes, of one tensor, to codes."""
    if node.is_integer or not (node.op.integer is Quantization.TABLE or node.op.only_moves(node)):
        return False
    return _codes_before(node) is not None and all(_is_rounded(value, outputs) for value in node.outputs)


def _codes_before(node: Node) -> Value | None:
    """Return the 8-bit codes that a node of one operand reads as real values; None where there are none."""
    read = [operand for operand in node.inputs if not operand.is_constant]
    made = read[0].producer if len(read) == 1 else None
    if made is None:
        return None
    if made.op.name == "dequantize":
        return made.inputs[0] if made.inputs[0].dtype == "int8" else None
    return _codes_before(made) if made.op.only_moves(made) else None


def _is_rounded(value: Value, outputs: Collection[Value]) -> bool:
    """Return whether all that is read of a real tensor are its 8-bit codes."""
    if value in outputs:
        return False
    for user in value.users():
        if user.op.name == "quantize":
            rounded = user.outputs[0].dtype == "int8"
        else:
            rounded = user.op.only_moves(user) and all(_is_rounded(result, outputs) for result in user.outputs)
        if not rounded:
            return False
    return True


def _others(node: Node) -> str:
    """Return what else must be in float for a node to compute other than in integers."""
    codes = _codes_before(node)
    before = makers(codes) if codes is not None else []
    rounded = [n for value in node.outputs for n in takers(value) if n.op.name == "quantize"]
    behind = [taker for conversion in rounded for taker in takers(conversion.outputs[0])]
    sides = []
    for nodes in (before, behind):
        named = dict.fromkeys(n.loc for n in nodes if n.loc and n.op.name not in CONVERSIONS and n.loc != node.loc)
        if named:
            sides.append(" and ".join(f"'{name}'" for name in named))
    return " or ".join(sides)


def _nodes(count: int) -> str:
    return f"{count} node{'s' * (count > 1)}"
