"""Which ONNX operators can be converted, and the one error that lists those that cannot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NoReturn

from qcompile.errors import UnsupportedOpError
from qcompile.onnx_import.load import Model
from qcompile.ops import all_ops
from qcompile.ops.onnx_node import OnnxNode

DEFAULT_DOMAINS = ("", "ai.onnx")

Converter = Callable[[OnnxNode], Any]


@cache
def converters() -> dict[str, Converter]:
    """Return the converter of each operator of ONNX's default domain, sorted by name.

    Raises:
        ImportError: two files convert the same operator.
    """
    from qcompile.onnx_import.compositions import compositions
    from qcompile.onnx_import.folding import CONSTANT_OPERATORS

    found: dict[str, Converter] = dict(CONSTANT_OPERATORS)
    sources = [(type(op).__module__, op.onnx) for op in all_ops().values()]
    for module, own in [*sources, *compositions()]:
        for name, converter in own.items():
            if name in found:
                raise ImportError(f"two files convert the ONNX operator {name}; one is {module}")
            found[name] = converter
    return dict(sorted(found.items()))


def is_supported(node: Any) -> bool:
    """Return whether a NodeProto has a converter."""
    return qualified(node) in converters()


def qualified(node: Any) -> str:
    """Return a NodeProto's operator with its domain, where it is not ONNX's own."""
    return node.op_type if node.domain in DEFAULT_DOMAINS else f"{node.domain}.{node.op_type}"


def report_unsupported(model: Model, nodes: Sequence[Any], problems: Sequence[str] = ()) -> NoReturn:
    """Name every operator that has no converter, in one error.

    Args:
        model: its file is named.
        nodes: NodeProtos; those with a converter are left out.
        problems: what else is unsupported: forms of operators, one sentence each.

    Raises:
        UnsupportedOpError: always.
    """
    missing = [node for node in nodes if not is_supported(node)]
    counts = Counter(qualified(node) for node in missing)
    lines = list(problems)
    if counts:
        first = {qualified(n): n for n in reversed(missing)}
        listed = ", ".join(
            f"{name} (node {first[name].name or 'unnamed'}{f' and {count - 1} more' if count > 1 else ''})"
            for name, count in sorted(counts.items())
        )
        plural = "operators that are" if len(counts) > 1 else "an operator that is"
        lines.insert(0, f"{model.source} uses {plural} not supported: {listed}")
    hint = "export the model with others in their place; `qcompile ops` lists what is supported" if counts else None
    if any("Quantize" in name or "QLinear" in name or name.endswith("Integer") for name in counts):
        hint = "the model is quantized already; give the float model that it was made from, or one in QDQ form"
    raise UnsupportedOpError("\n".join(lines), hint=hint)
