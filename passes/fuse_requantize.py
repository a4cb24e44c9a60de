"""Finish a convolution in its own epilogue."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from qcompile.ir.graph import Graph, Node, Value
from qcompile.ir.opdef import Quantization
from qcompile.ir.rewrite import Rewriter
from qcompile.ops.arithmetic import ACTIVATIONS, CLAMPS
from qcompile.passmgr import Exact, Pass, PassContext, Tolerance
from qcompile.quant.int16 import INT16


@dataclass(frozen=True)
class FuseRequantize(Pass):
    """Merge what follows an accumulator into the operation that makes it.

    Before:
        %acc = conv2d(%x, @w, @b) : i32[…] q(scale=[…], axis=3, dtype=int32)
        %t = requantize(%acc) : i32[…] q(scale=s/2^12, dtype=int32, range=[…])
        %y = add(%t, %r) : i8[…] q(scale=s, zp=…)
    After:
        %y = conv2d(%x, @w, @b, %r) {residual=true} : i8[…] q(scale=s, zp=…)

    Likewise requantize to int8 or int16, dequantize to float, and an int8 activation table behind an int8 result. The
    integers are the same bit for bit.

    Refusals: an intermediate with other readers, or one that is a graph output, stays; so does a table behind a layer
    that reads 16-bit activations, an addition in a loop that the layer is before, and what rounds to 16 bits behind a
    transposed convolution, whose kernel stores 8.
    """

    name: ClassVar[str] = "fuse-requantize"
    tolerance: ClassVar[Tolerance] = Exact()

    def run(self, graph: Graph, context: PassContext) -> None:
        """Fuse wherever the pattern holds."""
        rewriter = context.rewriter(graph)
        for node in list(graph.nodes):
            if node.op.integer is Quantization.ACCUMULATE and node.is_integer:
                reason = _fuse_finish(rewriter, node)
                if reason is not None:
                    context.skip(node, reason)
        for node in list(graph.nodes):
            if node.op.integer is Quantization.TABLE and node.is_integer:
                _fuse_table(rewriter, node)


def _sole_reader(graph: Graph, value: Value) -> Node | None:
    users = value.users()
    return users[0] if len(users) == 1 and value not in graph.outputs else None


def _fuse_finish(rewriter: Rewriter, node: Node) -> str | None:
    """Merge the requantize, wide add or dequantize behind an accumulator; return why not."""
    graph = rewriter.graph
    acc = node.output
    if acc.dtype != "int32":
        return None
    reader = _sole_reader(graph, acc)
    if reader is None:
        return f"{acc.name} has several readers"
    if reader.output.dtype == INT16 and not node.op.takes_int16:
        return f"the kernels of {node.op.name} store no 16-bit results"
    if reader.op.name == "dequantize" or (reader.op.name == "requantize" and reader.output.dtype != "int32"):
        _merge(rewriter, node, reader, residual=None)
        return None
    if reader.op.name != "requantize":
        return f"{reader.op.name} reads the accumulator"
    add = _sole_reader(graph, reader.output)
    if add is None or add.op.name != "add":
        return f"{reader.output.name} is wide and no addition reads it"
    other = [v for v in add.inputs if v is not reader.output]
    if len(other) != 1 or other[0].shape != acc.shape:
        return f"{add} broadcasts or adds a tensor to itself"
    if graph.made_before_loop(acc, add):
        return f"{acc.name} is computed once, before a loop"
    rewriter.replace_node(reader, [acc])
    _merge(rewriter, node, add, residual=other[0])
    return None


def _merge(rewriter: Rewriter, node: Node, last: Node, residual: Value | None) -> None:
    """Let `node`, moved to where `last` is, compute the result of `last`."""
    operands = [*node.inputs] + ([residual] if residual is not None else [])
    attrs = replace(node.attrs, residual=True) if residual is not None else node.attrs
    rewriter.merge(node, last, operands, attrs)
    rewriter.erase(node)


def _fuse_table(rewriter: Rewriter, node: Node) -> None:
    """Merge an int8 activation into the convolution before it."""
    producer = node.inputs[0].producer
    if producer is None or producer.op.integer is not Quantization.ACCUMULATE or node.op.name not in ACTIVATIONS:
        return
    if producer.inputs[0].dtype == INT16:  # its result is of int8, but its kernel looks up no table
        return
    before = node.inputs[0].qparams
    if _sole_reader(rewriter.graph, node.inputs[0]) is not node or producer.attrs.activation != "none":
        return
    if before is None or before.dtype != "int8" or node.op.name in CLAMPS[:2]:
        return
    parameters = {n: getattr(node.attrs, n) for n in ("alpha", "beta") if hasattr(node.attrs, n)}
    attrs = replace(producer.attrs, activation=node.op.name, pre_activation=before, **parameters)
    rewriter.merge(producer, node, producer.inputs, attrs)
    rewriter.erase(producer)
