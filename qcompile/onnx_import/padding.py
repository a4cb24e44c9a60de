"""Batches of sequences of different lengths: the mask of keys is the caller's, and is kept beside the caches.

A run gives the mask of its new places, 0 for padding in front of a shorter sequence; the bundle keeps the masks of all
places before. What the model computes from the mask of all places stays as it is.
"""

from __future__ import annotations

from qcompile import ops
from qcompile.errors import UnsupportedOpError
from qcompile.ir.graph import Graph, Node, Value
from qcompile.ir.rewrite import Rewriter
from qcompile.ir.state import State
from qcompile.ir.types import TensorType
from qcompile.onnx_import.growing import GrowingModel
from qcompile.ops.cache_append import CacheAppendAttrs

KEPT_MASK = "{}_past"
"""Name of the kept tensor that holds the mask of the places before a run."""


def keep_masks(graph: Graph, grown: GrowingModel, first: Node, length: Value, total: Value) -> list[State]:
    """Let each mask of all places consist of what is kept of it, and of what the caller gives.

    Args:
        graph: at the largest size; changed.
        grown: what is known of its inputs.
        first: node before which the new ones go.
        length: filled places before the run.
        total: filled places after it.

    Returns:
        The kept masks.

    Raises:
        UnsupportedOpError: a mask has other axes than batch and places.
    """
    if not grown.padded:
        return []
    masks = [value for value in graph.inputs if "total" in grown.roles.get(value.name, ())]
    return [_keep(graph, grown, value, first, (length, total)) for value in masks]


def _keep(graph: Graph, grown: GrowingModel, mask: Value, first: Node, lengths: tuple[Value, Value]) -> State:
    if grown.roles[mask.name].index("total") != 1 or len(mask.shape) != 2:
        raise UnsupportedOpError(
            f"mask '{mask.name}' {mask.type} is not [batch, places]; only such masks can be kept for a batch",
            hint="a batch of 1 needs no mask: give --input-shape input_ids=1,S",
        )
    rewriter, dtype, batch, name = Rewriter(graph), mask.dtype, mask.shape[0], mask.name
    readers, places, new = list(mask.uses), mask.shape[1], grown.lengths.new
    rewriter.set_type(mask, TensorType(dtype, (batch, new)), None)
    kept = graph.add_input(KEPT_MASK.format(name), TensorType("float32", (batch, places, 1)))

    def add(op: str, inputs: list[Value], label: str, attrs: object) -> Value:
        return rewriter.insert(first, ops.get(op), inputs, attrs, name=f"{name}.{label}").output

    cast, reshape = ops.get("cast").Attrs, ops.get("reshape").Attrs
    rows = mask if dtype == "float32" else add("cast", [mask], "real", cast("float32"))
    rows = add("reshape", [rows], "rows", reshape((batch, new, 1)))
    whole = add("cache_append", [kept, rows, *lengths], "kept", CacheAppendAttrs(1, places))
    flat = add("reshape", [whole], "flat", reshape((batch, places)))
    result = flat if dtype == "float32" else add("cast", [flat], "whole", cast(dtype))
    for node, index in readers:
        rewriter.set_operand(node, index, result)
    output = f"{kept.name}_next"
    graph.outputs.append(whole)
    graph.output_names.append(output)
    return State(kept.name, output, in_place=True)
