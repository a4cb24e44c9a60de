"""What `qcompile ops` prints: the ONNX operators that can be imported, and how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qcompile.report.columns import columns, show

Way = Literal["operation", "several operations", "its definition", "its bodies", "its tensors"]


@dataclass(frozen=True)
class Operator:
    """One supported ONNX operator.

    Args:
        name: with its domain where that is not ONNX's own.
        way: how it becomes operations of the IR: as one of its own file, as several, by its definition
            in other operators, of branches and loops by that of their bodies, of sequences by their tensors.
        integer: how its operation takes part in int8, "" where it does not or is several operations.
    """

    name: str
    way: Way
    integer: str


def supported_operators() -> list[Operator]:
    """Return every ONNX operator that can be imported, sorted by name."""
    from qcompile.ir.opdef import Quantization
    from qcompile.onnx_import.control_flow import CONTROL_FLOW
    from qcompile.onnx_import.definitions import foreign_operators, own_operators
    from qcompile.onnx_import.sequences import OPERATORS as SEQUENCE_OPERATORS
    from qcompile.onnx_import.support import converters
    from qcompile.ops import all_ops

    own = {name: op for op in all_ops().values() for name in op.onnx}
    found = [Operator(name, "its bodies", "") for name in CONTROL_FLOW]
    found += [Operator(name, "its tensors", "") for name in SEQUENCE_OPERATORS]
    for name in converters():
        op = own.get(name)
        if op is None:
            found.append(Operator(name, "several operations", ""))
        else:
            integer = "" if op.integer is Quantization.FLOAT_ONLY else op.integer.value
            found.append(Operator(name, "operation", integer))
    defined = {*_defined(set(converters())), *own_operators()} - set(converters())
    found += [Operator(name, "its definition", "") for name in defined]
    found += [Operator(name, "its definition", "") for name in foreign_operators()]
    return sorted(found, key=lambda operator: operator.name)


def _defined(converted: set[str]) -> list[str]:
    """Return the operators that ONNX defines by others which can all be imported."""
    import onnx

    from qcompile.onnx_import.control_flow import CONTROL_FLOW

    schemas = {s.name: s for s in onnx.defs.get_all_schemas() if s.domain == "" and not s.deprecated}
    functions = {n: s for n, s in schemas.items() if s.has_function or s.has_context_dependent_function}
    known = converted | set(CONTROL_FLOW) | set(functions)
    return [
        name
        for name, schema in sorted(functions.items())
        if name not in converted
        and name not in _NO_TENSORS
        and (not schema.has_function or {node.op_type for node in schema.function_body.node} <= known)
    ]


_NO_TENSORS = ("Bernoulli", "SequenceMap")
"""Operators with a definition that needs chance or sequences."""


def print_operators() -> None:
    """Print the supported operators."""
    operators = supported_operators()
    table = columns("operator", "becomes", "in int8", whole=("operator",))
    for operator in operators:
        table.add_row(operator.name, operator.way, operator.integer)
    show(table)
    print(f"{len(operators)} operators")
