"""Operators that ONNX Runtime's optimizer puts into models (domain com.microsoft), by their definition in ONNX's own.

A file holds a family of them in its `DEFINITIONS`: the operator's name, and the function that writes its definition
into a `Body`. The integer operators (QLinearAdd, QGemm, …) are no definitions: `compositions/quantized.py` has them.

Source:
    ONNX Runtime, ContribOperators.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from qcompile.ir.graph import Value
from qcompile.onnx_import.contrib.body import OPSET, Body

DOMAINS = ("com.microsoft",)
INTERNAL = ("SimplifiedLayerNormalization",)
"""Operators that ONNX Runtime writes into ONNX's own domain, which does not have them."""

Definition = Callable[[Body], None]


@cache
def contrib_operators() -> dict[str, Definition]:
    """Return the definitions by operator, sorted by name."""
    import importlib
    import pkgutil

    found: dict[str, Definition] = {}
    for module in sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name != "body"):
        found.update(importlib.import_module(f"{__name__}.{module}").DEFINITIONS)
    return dict(sorted(found.items()))


def contrib_definition(node: Any, operands: Sequence[Value | None], label: str) -> tuple[list[Any], int] | None:
    """Return the nodes that define a NodeProto and the operator set they are written for, None where none is known.

    Args:
        node: of any domain.
        operands: its inputs, for their shapes.
        label: prefix of the names of the body.

    Raises:
        UnsupportedOpError: a form of the operator that its definition does not cover.
    """
    define = contrib_operators().get(node.op_type) if node.domain in DOMAINS else None
    if define is None:
        return None
    body = Body(node, operands, label)
    define(body)
    return body.nodes, OPSET

