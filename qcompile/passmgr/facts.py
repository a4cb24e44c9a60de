"""What a pass may take for granted and what it promises: checked on the graph, never remembered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from qcompile.ir.graph import Graph, Node, Value
from qcompile.ir.opdef import Quantization


@dataclass(frozen=True)
class Fact:
    """A statement about a graph that can be checked.

    Args:
        name: how passes, messages and listings call it.
        offender: returns the first node or value that contradicts it, or None where the fact holds.
        remedy: what brings it about, for the hint.
    """

    name: str
    offender: Callable[[Graph], Node | Value | None]
    remedy: str

    def __str__(self) -> str:
        return self.name


def _node(bad: Callable[[Node], bool]) -> Callable[[Graph], Node | None]:
    return lambda graph: next((node for node in graph.nodes if bad(node)), None)


def _value(bad: Callable[[Value], bool]) -> Callable[[Graph], Value | None]:
    return lambda graph: next((value for value in graph.values() if bad(value)), None)


def _unobserved(node: Node) -> bool:
    has_integer_form = node.op.integer is not Quantization.FLOAT_ONLY and not node.is_integer
    return has_integer_form and node.outputs[0].dtype == "float32" and node.outputs[0].qspec is None


def _uncalibrated(value: Value) -> bool:
    spec = value.qspec
    return spec is not None and spec.kind == "own" and not spec.symmetric and spec.range is None


def _channels_first(node: Node) -> bool:
    return getattr(node.attrs, "layout", "NHWC") == "NCHW" and len(node.inputs[0].shape) == 4


FLOAT = Fact("float", _node(lambda node: node.is_integer), "run this pass before quantize")
"""No activation is quantized."""

NO_BATCH_NORM = Fact("no-batch-norm", _node(lambda node: node.op.name == "batch_norm"), "run fold-batchnorm before")
"""No batch_norm is left."""

CHANNELS_LAST = Fact("channels-last", _node(_channels_first), "run to-nhwc before")
"""Every operation with a layout works on NHWC where its tensor has four axes."""

OBSERVED = Fact("observed", _node(_unobserved), "run insert-observers before")
"""Every tensor that an operation with an integer form makes has a QSpec."""

CALIBRATED = Fact("calibrated", _value(_uncalibrated), "run calibrate before")
"""Every QSpec that needs a range has one."""

PRECISION = Fact("precision", _node(lambda node: not node.precision), "run assign-precision before")
"""Every node's precision is decided."""

INTEGER = Fact("integer", _value(lambda value: value.qspec is not None), "run quantize before")
"""No QSpec is left open."""
