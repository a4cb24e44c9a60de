"""Keep the caches of a growing sequence in fewer bits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from qcompile import ops
from qcompile.ir.graph import Graph, Node, Value
from qcompile.ir.rewrite import Rewriter
from qcompile.ir.types import TensorType
from qcompile.ops.cache_scores import CacheProductAttrs
from qcompile.passmgr import MinSqnrDb, Pass, PassContext, Tolerance

_READERS = ("cache_scores", "cache_mix")


@dataclass(frozen=True)
class StoreCaches(Pass):
    """Store keys and values that a bundle keeps as int8, with a scale for each place of each head, or as float16.

    Before:
        %k = cache_append(%past, %new, %length, %total) {axis=3} : f32[1,4,8,256]
        %s = cache_scores(%q, %k, %total) : f32[1,4,1,256]
    After:
        %k, %k.scales = cache_append(%past, %new, %length, %total, %past.scales) {axis=3} : i8[...], f32[1,4,256]
        %s = cache_scores(%q, %k, %total, %k.scales) {integer=true} : f32[1,4,1,256]

    A scale is chosen as a row is appended: the largest magnitude of the row / 127. Attention over an int8 cache is
    computed in integers: queries become codes of 8 bits, weights of values those of 14, if a softmax makes them; else,
    and over float16, it widens the numbers in registers.

    Options:
        type: "int8" or "float16".
        integers: whether attention over int8 is computed in integers.

    Preconditions: the graph has growing caches. Refusals: a cache that others than products of attention read.
    """

    name: ClassVar[str] = "store-caches"
    tolerance: ClassVar[Tolerance] = MinSqnrDb(20.0)

    type: Literal["int8", "float16"] = "int8"
    integers: bool = True

    def run(self, graph: Graph, context: PassContext) -> None:
        """Narrow every cache that can be."""
        rewriter = context.rewriter(graph)
        for node in [node for node in graph.nodes if node.op.name == "cache_append"]:
            if node.inputs[0].dtype != "float32":
                continue
            other = next((user for user in node.output.users() if user.op.name not in _READERS), None)
            if other is not None:
                context.skip(node, f"{other} reads it, and takes real numbers")
                continue
            _narrow(rewriter, node, self.type, self.integers)


def _narrow(rewriter: Rewriter, node: Node, dtype: str, integers: bool) -> None:
    """Replace one append and the kept tensor behind it."""
    graph, cache = rewriter.graph, node.inputs[0]
    rewriter.set_type(cache, cache.type.with_dtype(dtype), None)
    operands = list(node.inputs)
    if dtype == "int8":
        shape = (*cache.shape[:-2], cache.shape[node.attrs.axis])
        operands.append(graph.add_input(f"{cache.name}.scales", TensorType("float32", shape)))
    new = rewriter.insert(node, node.op, operands, node.attrs, loc=node.loc)
    for reader in node.output.users():
        inputs = [reader.inputs[0], new.outputs[0], reader.inputs[2], *new.outputs[1:]]
        whole = integers and dtype == "int8" and (reader.op.name == "cache_scores" or _is_share(reader.inputs[0]))
        rewriter.replace_op(reader, ops.get(reader.op.name), inputs, CacheProductAttrs(integer=whole))
    graph.outputs = [new.outputs[0] if value is node.output else value for value in graph.outputs]
    new.outputs[0].name, node.output.name = node.output.name, new.outputs[0].name
    rewriter.erase(node)
    if dtype == "int8":
        _keep_scales(graph, cache, new.outputs[1])


def _is_share(value: Value) -> bool:
    """Return whether a tensor is a softmax, or one with zeros in place of some elements: none is below 0."""
    node = value.producer
    while node is not None and node.op.name == "where":
        zeros = [v for v in node.inputs[1:] if v.is_constant and not v.constant().any()]
        others = [v for v in node.inputs[1:] if v not in zeros]
        node = others[0].producer if len(zeros) == len(others) == 1 else None
    return node is not None and node.op.name == "softmax"


def _keep_scales(graph: Graph, cache: Value, scales: Value) -> None:
    state = next(state for state in graph.states if state.input == cache.name)
    name = f"{state.output}.scales"
    graph.outputs.append(scales)
    graph.output_names.append(name)
    graph.states = (*graph.states, replace(state, input=f"{cache.name}.scales", output=name))
