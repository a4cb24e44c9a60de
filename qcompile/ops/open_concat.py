"""Tensors joined along an axis on which one that others follow is open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qcompile.ir.graph import Node
from qcompile.ir.opdef import Array, OpDef, Quantization
from qcompile.ir.types import TensorType
from qcompile.ops.concat import Concat, ConcatAttrs, is_copy
from qcompile.quant import requantize as rq


@dataclass(frozen=True)
class OpenConcatAttrs(ConcatAttrs):
    """Attributes of open_concat: those of concat, and one more.

    Args:
        entries: which number of the last operand is each part's actual extent; None where that is fixed.
    """

    entries: tuple[int | None, ...] = ()


class OpenConcat(OpDef):
    """y = the parts one after the other along an axis, each up to its actual end.

    Operands: the parts, and the actual extents (int32). Integer form: that of concat.
    """

    name = "open_concat"
    Attrs = OpenConcatAttrs
    integer = Quantization.ARITHMETIC
    takes_int16 = True

    def operand_activations(self, node: Node) -> tuple[int, ...]:
        """Return all operands but the last."""
        return tuple(range(len(node.inputs) - 1))

    def infer(self, attrs: OpenConcatAttrs, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the type of the result."""
        *parts, extents = inputs
        if extents.dtype != "int32" or len(attrs.entries) != len(parts):
            raise ValueError(f"{len(attrs.entries)} entries of {extents} for {len(parts)} parts")
        return Concat().infer(attrs, parts)

    def evaluate(self, attrs: OpenConcatAttrs, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Join the parts."""
        return (_joined(attrs, inputs[:-1], inputs[-1]),)

    def evaluate_integer(self, node: Node, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Bring each part to the result's scale and join them."""
        parts = []
        for q, value in zip(inputs[:-1], node.inputs[:-1], strict=True):
            p, y = value.qparams, node.output.qparams
            assert p is not None
            assert y is not None
            centred = q.astype(np.int32) - np.int32(p.scalar_zero_point)
            moved = rq.requantize(centred, rq.multiplier(p.scalar_scale, y.scalar_scale), y)
            parts.append(q if is_copy(p, y) else moved)
        return (_joined(node.attrs, parts, inputs[-1]),)

    def lower(self, node: Node, context: Any) -> None:
        """Emit a choice by the index."""
        attrs, last = node.attrs, len(node.inputs) - 1

        def element(e: Any, i: Any) -> Any:
            at, start, chosen, ends = i[attrs.axis], 0, [], []
            for k in range(last):
                size, entry = node.inputs[k].shape[attrs.axis], attrs.entries[k]
                inside = e.min(e.max(at - start, 0), size - 1)
                chosen.append(_element(e, node, k, (*i[: attrs.axis], inside, *i[attrs.axis + 1 :])))
                start = start + (size if entry is None else e.cast(e.load(last, entry), "int64"))
                ends.append(start)
            result = chosen[-1]
            for value, end in zip(chosen[-2::-1], ends[-2::-1], strict=True):
                result = e.select(at < end, value, result)
            return result

        context.map(node, element)


def _element(e: Any, node: Node, part: int, index: tuple[Any, ...]) -> Any:
    """Return an element of a part on the result's scale."""
    if not node.is_integer:
        return e.load(part, *index)
    p, y = node.inputs[part].qparams, node.output.qparams
    assert p is not None
    assert y is not None
    if is_copy(p, y):
        return e.load(part, *index)
    return e.requantize(e.centred(part, *index), float(rq.multiplier(p.scalar_scale, y.scalar_scale)))


def _joined(attrs: OpenConcatAttrs, parts: Sequence[Array], extents: Array) -> Array:
    """Return the parts up to their actual ends; behind, the last element of the last one, as a kernel does."""
    numbers, axis = extents.reshape(-1), attrs.axis
    sizes = [part.shape[axis] for part in parts]
    actual = [n if e is None else int(numbers[e]) for n, e in zip(sizes, attrs.entries, strict=True)]
    rest = np.full(sum(sizes) - sum(actual), sizes[-1] - 1)
    taken = [part.take(range(n), axis) for part, n in zip(parts, actual, strict=True)]
    behind = np.minimum(actual[-1] + np.arange(len(rest)), rest)
    return np.concatenate([*taken, parts[-1].take(behind, axis)], axis)
