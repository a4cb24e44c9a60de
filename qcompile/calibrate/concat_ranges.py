"""One range for a concatenation and its parts, where that rounds them once instead of twice."""

from __future__ import annotations

from dataclasses import replace

from qcompile.ir.graph import Graph, Node, Value
from qcompile.ir.opdef import Quantization

_RATIO = 2.0**0.5
"""How much wider than its own the range of a tensor with other readers may become: what it then loses for them, it
gains in the concatenation."""

_CUT = 0.05
"""How much of its own range, at either end, such a tensor may lose."""

_INT8 = "int8"


def share_concat_ranges(graph: Graph) -> list[Value]:
    """Give the parts of int8 concatenations the range of the result, so that they are copied as they are.

    A part with a scale of its own is rounded to that and then to the scale of the result. With step s of the part
    and S of the result, one range for both changes the squared error in the concatenation from (s² + S²)/12 to S²/12,
    and for other readers from s²/12 to S²/12. So a part that nothing else reads takes the result's range, and another
    one if S ≤ √2·s and the new range cuts little off it.

    Args:
        graph: calibrated, with precisions.

    Returns:
        The tensors whose range changed.
    """
    own: dict[Value, tuple[float, float]] = {}
    # Backwards, so that a concatenation within another one first gets the range that it hands on.
    for node in reversed(graph.nodes):
        if node.op.name != "concat" or node.precision != _INT8:
            continue
        spec = node.output.qspec
        finer = any(reader.precision not in (_INT8, "float32") for reader in node.output.users())
        if spec is None or spec.range is None or spec.observer == "grid" or finer:
            continue
        for part in node.inputs:
            _share(part, node, spec.range, graph, own)
    return list(own)


def _share(
    part: Value, node: Node, wanted: tuple[float, float], graph: Graph, own: dict[Value, tuple[float, float]]
) -> None:
    """Give the tensor that a part takes its range from another one, if that pays."""
    alone = True
    while True:
        alone = alone and _has_one_reader(part, graph)
        moved = part.qspec is not None and part.qspec.kind == "shared" and part.producer is not None
        if not moved or part.producer is None:
            break
        part = part.producer.inputs[0]
    spec, maker = part.qspec, part.producer
    if spec is None or spec.range is None or spec.kind != "own" or spec.observer == "grid" or part.is_constant:
        return
    if maker is None or maker.precision != _INT8 or maker.op.integer is Quantization.FLOAT_ONLY:
        return
    before = own.get(part, spec.range)
    if spec.range == wanted or not (alone or _near(before, wanted)):
        return
    own[part] = before
    part.qspec = replace(spec, range=wanted)


def _has_one_reader(value: Value, graph: Graph) -> bool:
    """Return whether one node alone reads a tensor and, where that is a part, the others of what was split."""
    results = value.producer.outputs if value.producer is not None else (value,)
    readers = {reader for result in results for reader in result.users()}
    return len(readers) == 1 and not any(result in graph.outputs for result in results)


def _near(own: tuple[float, float], wanted: tuple[float, float]) -> bool:
    """Return whether a range is little wider than another one, and hardly cuts it."""
    width = _width(own)
    cut = max(own[1] - wanted[1], wanted[0] - own[0])
    return width > 0.0 and _width(wanted) <= _RATIO * width and cut <= _CUT * width


def _width(bounds: tuple[float, float]) -> float:
    return max(bounds[1], 0.0) - min(bounds[0], 0.0)
