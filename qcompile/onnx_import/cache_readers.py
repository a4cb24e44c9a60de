"""The products of attention that read a cache, recognized by which of its elements they get, not by how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from qcompile.ir.graph import Node, Value

_MOVES = ("transpose", "reshape", "expand", "identity", "slice", "gather", "concat", "cast")
"""What only moves elements of one operand."""


@dataclass(frozen=True)
class Reader:
    """A product that reads a cache.

    Args:
        node: matmul of the graph at the largest size.
        op: "cache_scores" or "cache_mix".
        factor: what the cache is multiplied by on the way.
    """

    node: Node
    op: str
    factor: float = 1.0


def find_readers(cache: Value, twins: Mapping[Node, Node]) -> tuple[list[Reader], bool]:
    """Return the products to be done on the kept cache, and whether it shall be kept with places innermost.

    Args:
        cache: [..., places, elements], of a graph at a small size.
        twins: the node at the largest size that stands for each of that graph's.

    Returns:
        No readers where one of them is no such product: then all read the cache as any tensor.
    """
    shape = cache.shape
    rows = np.arange(int(np.prod(shape))).reshape(-1, *shape[-2:])
    found: list[Reader] = []
    waiting: list[tuple[Value, Any, float]] = [(cache, rows.reshape(shape), 1.0)]
    while waiting:
        value, places, factor = waiting.pop()
        for user, operand in value.uses:
            kind = _kind(user, operand, places, rows)
            if kind is not None:
                found.append(Reader(twins[user], kind, factor))
            elif user.op.name == "mul" and (by := _number(user, value)) is not None:
                waiting.append((user.output, places, factor * by))
            elif not _moves(user, value):
                return [], False
            else:
                operands = [places if v is value else v.constant() for v in user.inputs]
                waiting.append((user.output, user.op.evaluate(user.attrs, operands)[0], factor))
    kinds = {reader.op for reader in found}
    return (found, kinds == {"cache_scores"}) if len(kinds) == 1 else ([], False)


def _moves(node: Node, value: Value) -> bool:
    others = [v for v in node.inputs if v is not value]
    if node.op.name == "cast":
        return node.output.dtype == value.dtype
    return node.op.name in _MOVES and len(node.outputs) == 1 and all(v.is_constant for v in others)


def _number(node: Node, value: Value) -> float | None:
    """Return the constant number that a node multiplies a tensor by, None for any other node."""
    other = [v for v in node.inputs if v is not value]
    if len(other) != 1 or not other[0].is_constant or other[0].type.size != 1 or node.output.shape != value.shape:
        return None
    return float(other[0].constant().reshape(()))


def _kind(node: Node, operand: int, places: Any, rows: Any) -> str | None:
    """Return which product a node is, None for another operation."""
    if node.op.name != "matmul" or operand != 1 or node.inputs[0] is node.inputs[1] or places.ndim < 3:
        return None
    x = node.inputs[0].shape
    if x[:-2] != places.shape[:-2] or len(x) != places.ndim:
        return None
    flat = places.reshape(-1, *places.shape[-2:])
    if len(flat) % len(rows):
        return None
    shared = np.repeat(rows, len(flat) // len(rows), axis=0)
    if np.array_equal(flat, shared.swapaxes(-1, -2)):
        return "cache_scores"
    return "cache_mix" if np.array_equal(flat, shared) else None
