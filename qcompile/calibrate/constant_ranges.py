"""One step for a tensor and for what a constant makes of it, so that adding or multiplying rounds nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from qcompile.ir.graph import Graph, Node, Value
from qcompile.ir.opdef import Quantization
from qcompile.quant.qparams import QParams

_CUT = 0.05
"""How much of its own range a tensor may lose."""

_FINER, _COARSER = 0.97, 1.05
"""By what a step may change so that a constant is a whole number of steps."""

_LEFT_OVER = 0.15
"""How far from a whole number of steps a constant may be otherwise, in steps."""

_INT8 = "int8"


def share_constant_ranges(graph: Graph) -> list[Value]:
    """Give tensors that only a constant is added to, or multiplied with, the steps of the result.

    Both are rounded otherwise. With one step the codes of y = x + c are those of x, moved by a whole number; those of
    y = k·x, k > 0, are the same with steps in the ratio k. A sum whose constant is nearly whole steps takes steps of
    which it is; where it is not, the sum stays as it is.

    Args:
        graph: calibrated, with precisions.

    Returns:
        The tensors whose range changed.
    """
    changed: list[Value] = []
    # Backwards, so that a chain of constants hands the steps of its end on.
    for node in reversed(graph.nodes):
        x, constant = _operands(node, graph)
        if x is None or constant is None:
            continue
        before = node.output.qspec
        wanted = _moved(x, constant, node) if node.op.name == "add" else _scaled(x, constant, node)
        if wanted is None or x.qspec is None or x.qspec.range == wanted:
            continue
        x.qspec = replace(x.qspec, range=wanted)
        changed += [x] if node.output.qspec is before else [x, node.output]
    return changed


def _operands(node: Node, graph: Graph) -> tuple[Value | None, Value | None]:
    """Return the tensor and the constant of a sum or product in int8; None where a tensor's range must stay."""
    if node.op.name not in ("add", "mul") or node.precision != _INT8 or not _is_own(node.output):
        return None, None
    if getattr(node.attrs, "activation", "none") not in ("none", "relu"):
        return None, None
    x, constant = sorted(node.inputs, key=lambda value: value.is_constant)
    maker = x.producer
    if x.is_constant or not constant.is_constant or x.shape != node.output.shape or maker is None:
        return None, None
    alone = len(x.users()) == 1 and x not in graph.outputs and _is_own(x)
    made = maker.precision == _INT8 and maker.op.integer not in (Quantization.FLOAT_ONLY, Quantization.SHARED)
    return (x, constant) if alone and made else (None, None)


def _is_own(value: Value) -> bool:
    spec = value.qspec
    return spec is not None and spec.kind == "own" and spec.range is not None and spec.observer != "grid"


def _moved(x: Value, constant: Value, node: Node) -> tuple[float, float] | None:
    """Return the range of x with the step of x + constant, None where that would cut much off or shift all codes."""
    spec, own = node.output.qspec, x.qspec
    assert spec is not None
    assert spec.range is not None
    assert own is not None
    assert own.range is not None
    step = QParams.from_range(*spec.range).scalar_scale
    factor = _whole(constant, node, step)
    low, high = own.range
    wanted = _with_zero(low, low + 255.0 * step * (factor or 1.0))
    if factor is None or wanted[1] < high - _CUT * (high - low):
        return None
    if factor != 1.0:
        node.output.qspec = replace(spec, range=(spec.range[0] * factor, spec.range[1] * factor))
    return wanted


def _whole(constant: Value, node: Node, step: float) -> float | None:
    """Return the factor for the step of a sum with which its constant is a whole number of steps, or nearly.

    None where there is none: what is left over would be an error of one sign everywhere.
    """
    data = np.unique(constant.constant())
    if data.size != 1:
        return None
    steps = abs(float(data[0])) / step
    factor = steps / max(1.0, float(np.rint(steps)))
    joined = any(reader.op.name == "concat" for reader in node.output.users())
    if not joined and _FINER <= factor <= _COARSER:
        return factor
    return 1.0 if abs(steps - np.rint(steps)) <= _LEFT_OVER else None


def _scaled(x: Value, constant: Value, node: Node) -> tuple[float, float] | None:
    """Return the range of x of which that of the result is a multiple, None where the factor is not one."""
    factors = np.unique(constant.constant())
    spec = node.output.qspec
    if factors.size != 1 or not np.isfinite(factors[0]) or factors[0] <= 0.0 or spec is None or spec.range is None:
        return None
    return spec.range[0] / float(factors[0]), spec.range[1] / float(factors[0])


def _with_zero(low: float, high: float) -> tuple[float, float]:
    """Return a range of the same width that holds zero."""
    if low > 0.0:
        return 0.0, high - low
    return (low - high, 0.0) if high < 0.0 else (low, high)
