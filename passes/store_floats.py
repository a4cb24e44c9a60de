"""Keep the large float constants as numbers of 16 bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np

from qcompile import ops
from qcompile.ir.graph import Graph, Node, Value
from qcompile.ir.opdef import Array
from qcompile.ops.packed_weights import LAYERS
from qcompile.ops.unpack_float import to_bits
from qcompile.passmgr import Bounds, MinSqnrDb, Pass, PassContext, Tolerance
from qcompile.passmgr.facts import CHANNELS_LAST, Fact

_LARGEST = 65504.0
_ARITHMETIC = ("add", "sub", "mul", "div", "maximum", "minimum")


def _can_widen(node: Node, operand: int) -> bool:
    """Return whether the code of a node widens one of its operands within its own loop."""
    if node.is_integer:
        return False
    if node.op.name in LAYERS:
        return operand == 1
    return node.op.name in _ARITHMETIC or (node.op.name == "gather" and operand == 0)


@dataclass(frozen=True)
class StoreFloats(Pass):
    """Store weights, tables and other float constants in 16 bits; all arithmetic stays float32.

    Before:
        %y = conv2d(%x, @w, @b) : f32[1,8,8,16]
    After:
        %w.real = unpack_float(@w.half) {kind="float16"} : f32[16,3,3,8]
        %y = conv2d(%x, %w.real, @b) : f32[1,8,8,16]

    Numbers are rounded to nearest, ties to even. Layers and `gather` widen them as they load them; elsewhere they are
    widened within the operation that reads them.

    Options:
        type: "float16" (11 significant bits) or "bfloat16" (8 significant bits, the range of float32).
        exact: only constants that lose nothing by it, such as those of a model that was float16.
        smallest: elements that a constant must have to be worth it.

    Preconditions: to-nhwc ran.

    Refusals: integer operations; biases, and constants of others than layers, `gather` and arithmetic; a number that
    is too large for float16; with `exact`, one that would be rounded.
    """

    name: ClassVar[str] = "store-floats"
    requires: ClassVar[tuple[Fact, ...]] = (CHANNELS_LAST,)
    tolerance: ClassVar[Tolerance] = MinSqnrDb(20.0)

    type: Literal["float16", "bfloat16"] = "float16"
    exact: bool = False
    smallest: Annotated[int, Bounds(1)] = 256

    def run(self, graph: Graph, context: PassContext) -> None:
        """Replace every constant that is worth it."""
        rewriter = context.rewriter(graph)
        kept = set(graph.outputs)
        for value in graph.constants():
            readers = value.users()
            if value.dtype != "float32" or value.type.size < self.smallest or not readers or value in kept:
                continue
            unable = next((node for node, operand in value.uses if not _can_widen(node, operand)), None)
            if unable is not None:
                context.skip(unable, f"it does not widen {value.name} as it reads it")
                continue
            bits = to_bits(value.constant(), self.type)
            obstacle = self._obstacle(value, bits)
            if obstacle is not None:
                context.skip(readers[0], obstacle)
                continue
            first = next(node for node in graph.nodes if node in readers)
            node = rewriter.insert(
                first,
                ops.get("unpack_float"),
                [rewriter.constant(f"{value.name}.half", bits)],
                ops.get("unpack_float").Attrs(kind=self.type),
                name=f"{value.name}.real",
                loc=first.loc,
            )
            rewriter.replace_value(value, node.output, except_in=node)

    def _obstacle(self, value: Value, bits: Array) -> str | None:
        data = value.constant()
        if self.type == "float16" and not np.abs(data).max(initial=0.0) <= _LARGEST:
            return f"{value.name} has numbers that float16 does not"
        if self.exact:
            attrs = ops.get("unpack_float").Attrs(kind=self.type)
            if not np.array_equal(ops.get("unpack_float").evaluate(attrs, [bits])[0], data):
                return f"{value.name} would be rounded"
        return None
