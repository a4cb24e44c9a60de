"""A tensor repeated along its axes of extent 1, and along new ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qcompile.ir.graph import Node, Value
from qcompile.ir.opdef import Array, OpDef, Quantization
from qcompile.ir.types import TensorType
from qcompile.ops.onnx_node import OnnxNode
from qcompile.ops.open_part import open_expanded
from qcompile.ops.reshape import reshaped


@dataclass(frozen=True)
class ExpandAttrs:
    """Attributes of expand.

    Args:
        shape: extents of the result, elements.
        fixed: axes that are repeated as often at every size, where others of that extent are open.
        opens: axes that are repeated to an open extent, where the operand has none that would tell.
    """

    shape: tuple[int, ...]
    fixed: tuple[int, ...] = ()
    opens: tuple[int, ...] = ()


def _from_onnx(node: OnnxNode) -> Value:
    x = node.value(0)
    target = tuple(int(d) for d in node.array(1, "shape").reshape(-1))
    if min(target, default=0) < 0:
        node.fail(f"shape {list(target)} has a negative extent")
    shape = np.broadcast_shapes(x.shape, target)
    if np.prod(shape) == x.type.size:
        return reshaped(node, x, shape)
    return node.add("expand", [x], shape=shape) if node.open is None else open_expanded(node, x, shape)


class Expand(OpDef):
    """y[i, j, …] = x[…], with index 0 on each axis where x has extent 1.

    Source:
        ONNX Expand; NumPy's broadcast_to.
    """

    name = "expand"
    Attrs = ExpandAttrs
    integer = Quantization.SHARED
    onnx: ClassVar[dict[str, Any]] = {"Expand": _from_onnx}

    def infer(self, attrs: ExpandAttrs, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the type of the result."""
        x, rank = inputs[0], len(attrs.shape)
        tail = attrs.shape[rank - x.rank :] if rank >= x.rank else ()
        if len(tail) != x.rank or any(d not in (1, t) for d, t in zip(x.shape, tail, strict=True)):
            raise ValueError(f"{x} cannot be expanded to {list(attrs.shape)}")
        return (x.with_shape(attrs.shape),)

    def evaluate(self, attrs: ExpandAttrs, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Return the repeated elements."""
        return (np.ascontiguousarray(np.broadcast_to(inputs[0], attrs.shape)),)

    def lower(self, node: Node, context: Any) -> None:
        """Emit a copy."""
        shape = node.inputs[0].shape
        new = len(node.attrs.shape) - len(shape)
        context.map(node, lambda e, i: e.load(0, *(i[new + a] if d > 1 else 0 for a, d in enumerate(shape))))
