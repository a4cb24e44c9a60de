"""Whose range a tensor has."""

from __future__ import annotations

from qcompile.ir.graph import Value


def range_source(value: Value) -> Value:
    """Return the tensor whose range a tensor shares; itself where it has its own."""
    while value.qspec is not None and value.qspec.kind == "shared" and value.producer is not None:
        value = value.producer.inputs[0]
    return value
