"""Operators, and forms of operators, that are several nodes of ONNX's own.

Three kinds: those that ONNX Runtime's optimizer puts into models (domain com.microsoft), those of classical machine
learning (ai.onnx.ml), and windows over three axes, which become windows over two. A file holds a family of them in its
`DEFINITIONS`: the operator's name, and the function that writes its definition into a `Body`; its `DOMAIN` says whose
operators they are.

The integer operators of ONNX Runtime (QLinearAdd, QGemm, …) are not here: `compositions/quantized.py` has them.

Source:
    ONNX Runtime, ContribOperators.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from qcompile.ir.graph import Value
from qcompile.onnx_import.definitions.body import OPSET, Body

RUNTIME = "com.microsoft"
INTERNAL = ("SimplifiedLayerNormalization",)
"""Operators that ONNX Runtime writes into ONNX's own domain, which does not have them."""

Definition = Callable[[Body], None]


@cache
def _definitions() -> dict[tuple[str, str], Definition]:
    """Return the definitions by domain and operator."""
    import importlib
    import pkgutil

    names = sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name != "body")
    modules = [importlib.import_module(f"{__name__}.{name}") for name in names]
    return {(module.DOMAIN, op): define for module in modules for op, define in module.DEFINITIONS.items()}


def foreign_operators() -> list[str]:
    """Return the operators of other domains than ONNX's own that have a definition, with their domains, sorted."""
    return sorted(f"{domain}.{op}" for domain, op in _definitions() if domain)


def own_operators() -> list[str]:
    """Return the operators of ONNX's own domain of which some form, or every one, has a definition, sorted."""
    return sorted(op for domain, op in _definitions() if domain == "")


def definition(node: Any, operands: Sequence[Value | None], label: str) -> tuple[list[Any], int] | None:
    """Return the nodes that define a NodeProto and the operator set they are written for, None where it has none.

    Args:
        node: of any domain.
        operands: its inputs, for their shapes.
        label: prefix of the names of the body.

    Raises:
        UnsupportedOpError: a form of the operator that its definition does not cover.
    """
    define = _definitions().get((node.domain if node.domain != "ai.onnx" else "", node.op_type))
    if define is None:
        return None
    body = Body(node, operands, label)
    try:
        define(body)
    except (ArithmeticError, LookupError, MemoryError, TypeError, ValueError) as error:
        # Attributes or extents that no valid model has.
        body.fail(f"its attributes or inputs do not fit together ({error})")
    return (body.nodes, OPSET) if body.nodes else None
