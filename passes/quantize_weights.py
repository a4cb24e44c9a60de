"""Keep weights in a few bits, while everything else stays float32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompile import ops
from qcompile.errors import UsageError, did_you_mean
from qcompile.ir.graph import Graph, Node, Value
from qcompile.ops.packed_weights import is_product
from qcompile.ops.unpack_groups import BITS, LEAST_GROUP, packed
from qcompile.passmgr import MinSqnrDb, Pass, PassContext, Tolerance
from qcompile.passmgr.facts import CHANNELS_LAST, Fact
from qcompile.passmgr.selection import selected
from qcompile.quant.groups import GroupedWeights, quantize_groups

_OPERATIONS = ("gather", "dense", "conv2d")


@dataclass(frozen=True)
class QuantizeWeights(Pass):
    """Round the weights of float layers to a few bits, one scale for each group of a row.

    Formula:
        w[n, k] ≈ scale[n, k // group_size] · (q[n, k] − zero_point[n, k // group_size]); the scale, kept as
        float16, has the least squared error of its group

    Before:
        %y = dense(%x, @w, @b) : f32[1,64]
    After:
        %w.real = unpack_groups(@w.q, @w.scale) {shape=[64, 128], bits=4} : f32[64,128]
        %y = dense(%x, %w.real, @b) : f32[1,64]

    Dense layers, 1×1 convolutions of stride 1 and tables that `gather` reads by rows unpack in registers; sums are
    float32. No calibration data is needed.

    Options:
        bits: 8, 4, 2 (ternary) or 1 (the sign).
        group_size: weights that share a scale, a power of two.
        symmetric: no zero points; false gives each group one, a byte more for better accuracy (4 and 8 bits).
        keep: nodes whose weights stay float: names, globs, "/regular expressions/", "op:gather", "from..to".
        smallest: weights that a constant must have to be worth it.
        operations: whose weights to take: "gather", "dense", "conv2d".

    Preconditions: to-nhwc ran. Integer layers are left alone.

    Refusals: a weight that is computed at run time or has other readers; a convolution with a kernel, a stride,
    padding or groups; a small constant.
    """

    name: ClassVar[str] = "quantize-weights"
    requires: ClassVar[tuple[Fact, ...]] = (CHANNELS_LAST,)
    tolerance: ClassVar[Tolerance] = MinSqnrDb(-3.0)

    bits: int = 8
    group_size: int = 32
    symmetric: bool = True
    keep: tuple[str, ...] = ()
    smallest: int = 256
    operations: tuple[str, ...] = _OPERATIONS

    def run(self, graph: Graph, context: PassContext) -> None:
        """Replace the weights of every layer that has a kernel for it."""
        self._check()
        kept = selected(graph, self.keep, option="keep") if self.keep else set()
        weights: dict[Value, list[tuple[Node, int]]] = {}
        for node in graph.nodes:
            operand = 0 if node.op.name == "gather" else 1
            if node.op.name not in self.operations:
                continue
            reason = "kept in float by request" if node in kept else self._obstacle(node, operand)
            if reason is None:
                weights.setdefault(node.inputs[operand], []).append((node, operand))
            else:
                context.skip(node, reason)
        rewriter = context.rewriter(graph)
        for number, (value, readers) in enumerate(weights.items()):
            context.progress(number, len(weights), "quantizing weights")
            if len(readers) != len(value.uses):
                for node, _ in readers:
                    context.skip(node, f"{value.name} has other readers")
                continue
            matrix = value.constant().reshape(value.shape[0], -1)
            made = quantize_groups(matrix, self.bits, self.group_size, symmetric=self.symmetric)
            operands = [rewriter.constant(f"{value.name}.q", packed(made.codes, self.bits))]
            operands.append(rewriter.constant(f"{value.name}.scale", made.scale))
            if made.zero_point is not None:
                operands.append(rewriter.constant(f"{value.name}.zero_point", made.zero_point))
            attrs = self._attrs(value, made)
            first, name = readers[0][0], f"{value.name}.real"
            node = rewriter.insert(first, ops.get("unpack_groups"), operands, attrs, name=name, loc=first.loc)
            for reader, operand in readers:
                rewriter.set_operand(reader, operand, node.output)

    def _check(self) -> None:
        """Refuse options that no kernel serves."""
        unknown = [name for name in self.operations if name not in _OPERATIONS]
        if unknown:
            raise UsageError(f"no weights of '{unknown[0]}'", hint=did_you_mean(unknown[0], list(_OPERATIONS)))
        if self.bits not in BITS:
            raise UsageError(f"no weights of {self.bits} bits", hint="8, 4, 2 (ternary) or 1 (the sign)")
        size = self.group_size
        if size < LEAST_GROUP or size & (size - 1) or size * self.bits < 32:
            least = max(LEAST_GROUP, 32 // self.bits)
            hint = f"a power of two, {least} or more for {self.bits} bits"
            raise UsageError(f"no groups of {size} weights", hint=hint)

    def _attrs(self, value: Value, made: GroupedWeights) -> object:
        attrs = ops.get("unpack_groups").Attrs
        return attrs(shape=value.shape, bits=self.bits, group=self.group_size, zero_point=made.centre)

    def _obstacle(self, node: Node, operand: int) -> str | None:
        weight = node.inputs[operand]
        if node.is_integer or weight.dtype != "float32":
            return f"{weight.name} is {weight.dtype}"
        if not weight.is_constant:
            return f"{weight.name} is computed at run time"
        if node.op.name == "gather":
            if node.attrs.axis != 0 or len(weight.shape) < 2:
                return f"it does not pick rows of {weight.name}"
        elif not is_product(node):
            return "it is a convolution with a kernel, a stride, padding or groups"
        if weight.type.size < self.smallest:
            return f"{weight.name} has {weight.type.size} elements only"
        if not np.isfinite(weight.constant()).all():
            return f"{weight.name} is not finite"
        return None
