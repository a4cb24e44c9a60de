"""Bodies of control flow: one copy after the other becomes part of the graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from qcompile.ir.graph import Value
from qcompile.onnx_import.inline import graph_body
from qcompile.ops.onnx_node import OnnxNode


@dataclass(frozen=True)
class Host:
    """What the conversion lends to control flow.

    Args:
        bind: makes a value known under a name.
        look_up: returns the value of a name, None where it could not be converted.
        convert: converts plain nodes in their order.
        read: returns the contents of a TensorProto.
        loops: the `qcompile.onnx_import.rolled.RolledLoop` whose body is converted, if any.
    """

    bind: Callable[[str, Value], None]
    look_up: Callable[[str], Value | None]
    convert: Callable[[Sequence[Any]], None]
    read: Callable[[Any], Any]
    loops: list[Any]


def convert_body(
    view: OnnxNode, host: Host, body: Any, inputs: Sequence[Value], count: int, prefix: str
) -> list[Value | None]:
    """Convert one copy of a body and return its results; None for one that could not be converted.

    Args:
        view: the node that it belongs to.
        host: the conversion.
        body: GraphProto.
        inputs: its operands.
        count: of its results.
        prefix: of the names of this copy.
    """
    names = []
    for index, value in enumerate(inputs):
        name = f"{prefix}in{index}"
        host.bind(name, value)
        names.append(name)
    outputs = [f"{prefix}out{index}" for index in range(count)]
    nodes, constants = graph_body(body, names, outputs, prefix, f"{view.name}/")
    for name, tensor in constants:
        if host.look_up(name) is None:
            host.bind(name, view.graph.add_constant(name, host.read(tensor)))
    host.convert(nodes)
    return [host.look_up(name) for name in outputs]
