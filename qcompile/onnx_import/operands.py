"""Whether the operands of an ONNX node have element types that its operator takes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from onnx import TensorProto, defs

from qcompile.ir.graph import Value
from qcompile.onnx_import.tensors import element_type


def operand_problem(node: Any, operands: Sequence[Value | None], opset: int) -> str | None:
    """Return what is wrong with the number or the element types of a node's operands, None where nothing is.

    Args:
        node: NodeProto of the default domain, not control flow.
        operands: its inputs; None for one left out.
        opset: version of the operator set in force.

    Source:
        ONNX operator schemas: type constraints of the formal parameters.
    """
    if not defs.has(node.op_type, opset, ""):
        return None
    bound: dict[str, Value] = {}
    for index, value in enumerate(operands):
        formal = _formal(node.op_type, opset, index)
        if formal is None:
            return f"it has {len(operands)} inputs, more than operator set {opset} gives it"
        allowed, variable = formal
        if value is None:
            continue
        if value.dtype not in allowed:
            return f"its input {index} is {value.dtype}; operator set {opset} takes {', '.join(sorted(allowed))}"
        first = bound.setdefault(variable, value) if variable else value
        if first.dtype != value.dtype:
            return f"its input {index} is {value.dtype}, but '{first.name}' is {first.dtype}; they must agree"
    return None


@cache
def _formal(op_type: str, opset: int, index: int) -> tuple[frozenset[str], str] | None:
    """Return the IR element types that an input takes and the type variable it shares ("" for none)."""
    formals = defs.get_schema(op_type, opset, "").inputs
    if not formals or (index >= len(formals) and formals[-1].option != defs.OpSchema.FormalParameterOption.Variadic):
        return None
    formal = formals[min(index, len(formals) - 1)]
    numbers = dict(TensorProto.DataType.items())
    names = (text.removeprefix("tensor(").removesuffix(")").upper() for text in formal.types)
    allowed = frozenset(kind for kind in (element_type(numbers[n]) for n in names if n in numbers) if kind is not None)
    shared = formal.is_homogeneous and not formal.type_str.startswith("tensor(")
    return allowed, formal.type_str if shared else ""
