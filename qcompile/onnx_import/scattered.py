"""Decoders that write new keys and values into caches of one length, as ones whose caches grow.

TensorScatter writes the rows of a run from an index on, and Attention is told how many rows count. Where all places
count, in order, that is Attention with a past: a bundle then appends in place and reads what is filled. The sequences
of a batch then have one length; where theirs differ, the caches are kept whole, as their extents in the shapes ask for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper

from qcompile.errors import UnsupportedOpError
from qcompile.onnx_graph import needed
from qcompile.onnx_import import import_onnx
from qcompile.onnx_import.bounds import made_up
from qcompile.onnx_import.growing import GrowingModel
from qcompile.onnx_import.load import load_model
from qcompile.ops.interpreter import Interpreter

_PAST = "past_sequence_length"
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Scattered:
    """A model with growing caches in place of scattered ones.

    Args:
        model: onnx.ModelProto with a past.
        original: as it was.
        places: of a cache.
        index: input that says where the rows of a run go.
        count: input that says how many rows count; "" where that is computed.
        batch: sequences, each with an index and a count of its own in the original.
    """

    model: Any
    original: Any
    places: int
    index: str
    count: str
    batch: int = 1

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know."""
        listed = ", ".join(f"'{name}'" for name in (self.index, self.count) if name)
        whole = "where theirs differ, give the caches' extents, too, and they are kept whole"
        return (
            (f"the sequences of a batch have one length: {listed} follow from it; {whole}",) if self.batch > 1 else ()
        )

    def check(self, grown: GrowingModel) -> None:
        """Compare both forms, with and without a past.

        Args:
            grown: what is known of the new one.

        Raises:
            UnsupportedOpError: they differ.
        """
        generator, caches = np.random.default_rng(0), [name for _, name in grown.pairs]
        kept = [output for output, _ in grown.pairs]
        for past, new in ((0, min(2, self.places)), (self.places // 2, 1)):
            wanted = grown.at(past, new)
            values = {self.index: [past] * self.batch}
            values.update({self.count: [past + new] * self.batch} if self.count else {})
            shapes = {v.name: v.shape for v in wanted.inputs if v.name not in caches}
            given = {v.name: made_up(v, generator) for v in wanted.inputs}
            graph = import_onnx(self.original, {**_sizes(self.original, shapes, self.batch), **shapes}, values)
            whole = {v.name: np.zeros(v.shape, v.dtype) for v in graph.inputs}
            for name, array in given.items():
                whole[name][tuple(map(slice, array.shape))] = array
            with np.errstate(all="ignore"):
                expected, found = Interpreter(wanted).run(given), Interpreter(graph).run(whole)
            for name in (name for name in expected if name not in kept):
                if not np.allclose(expected[name], found[name], _TOLERANCE, _TOLERANCE, equal_nan=True):
                    raise UnsupportedOpError(
                        f"output '{name}' is another one where the caches grow, with a past of {past}: '{self.index}' "
                        "does more than say how many places are filled",
                        hint="without --state and --max-length the caches are inputs and outputs",
                    )


def as_growing(model: Any, shapes: Mapping[str, Sequence[int | str]], values: Mapping[str, Any]) -> Scattered | None:
    """Return the form of a model with growing caches; None where it has no scattered ones, or they have none.

    Args:
        model: path of a .onnx file, or an onnx.ModelProto.
        shapes: extents by input name as the user gives them.
        values: what inputs are fixed to.
    """
    loaded = load_model(model)
    graph = loaded.proto.graph
    scatters = [node for node in graph.node if node.op_type == "TensorScatter"]
    indices = {node.input[2] if len(node.input) > 2 else "" for node in scatters}
    if not scatters or len(indices) != 1 or not all(_is_plain(graph, node) for node in scatters):
        return None
    index, inputs = indices.pop(), {value.name: value for value in graph.input}
    if index not in inputs or index in values or {node.input[0] for node in scatters} & set(shapes):
        return None
    batches = [shape[0] for shape in shapes.values() if len(shape) and isinstance(shape[0], int)]
    original = onnx.load(loaded.path) if loaded.path is not None else loaded.proto
    proto = onnx.ModelProto()
    proto.CopyFrom(original)
    proto.graph.name = loaded.name
    places = inputs[scatters[0].input[0]].type.tensor_type.shape.dim[2].dim_value
    count = _rewrite(proto.graph, index)
    return None if count is None else Scattered(proto, original, places, index, count, max(batches, default=1))


def written_caches(model: Any) -> set[str]:
    """Return the inputs of a model that TensorScatter writes to."""
    return {node.input[0] for node in load_model(model).proto.graph.node if node.op_type == "TensorScatter"}


def _is_plain(graph: Any, node: Any) -> bool:
    """Return whether a TensorScatter writes rows of heads, in order, to a cache of one sequence or an open batch."""
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    cache = next((value for value in graph.input if value.name == node.input[0]), None)
    if cache is None or node.output[0] not in [value.name for value in graph.output]:
        return False
    dims = cache.type.tensor_type.shape.dim
    single = len(dims) == 4 and dims[0].dim_value in (0, 1) and dims[2].dim_value > 1
    return single and attributes.get("axis", -2) in (2, -2) and attributes.get("mode", b"linear") == b"linear"


def _rewrite(graph: Any, index: str) -> str | None:
    """Let attention append to a past, in place; return the input that counted rows, None where that cannot be."""
    written = {node.output[0]: node for node in graph.node if node.op_type == "TensorScatter"}
    counts = set()
    for node in graph.node:
        if not set(written) & set(node.input):
            continue
        operands = [*node.input, *[""] * 7][:7]
        fits = operands[1] in written and operands[2] in written and not any(operands[3:6])
        if node.op_type != "Attention" or not fits or len(node.output) > 1:
            return None
        key, value = (written[name] for name in operands[1:3])
        counts.add(operands[6])
        node.input[:] = [operands[0], key.input[1], value.input[1], "", key.input[0], value.input[0]]
        node.output.extend([key.output[0], value.output[0]])
    if len(counts) != 1 or not (count := counts.pop()):
        return None
    caches = {node.input[0] for node in written.values()}
    for node in written.values():
        graph.node.remove(node)
    given = count in [value.name for value in graph.input]
    if not _drop(graph, {index, count}):
        return None
    for value in (*graph.input, *graph.output):
        if value.name in caches or value.name in written:
            value.type.tensor_type.shape.dim[2].dim_param = _PAST if value.name in caches else "total_sequence_length"
    filled = helper.make_node("Shape", [min(caches)], [index], f"{index}/filled", start=2, end=3)
    graph.node.insert(0, filled)
    return count if given else ""


def _drop(graph: Any, names: set[str]) -> bool:
    """Remove inputs, and what nothing needs any more; return whether nothing else is lost by that."""
    wanted = {value.name for value in graph.output}
    before = {name for node in graph.node for name in node.input}
    kept = needed(graph.node, wanted)
    del graph.node[:]
    graph.node.extend(kept)
    unread = {v.name for v in graph.input if v.name in before and v.name not in wanted} - names
    for value in [value for value in graph.input if value.name in names]:
        graph.input.remove(value)
    return not unread


def _sizes(model: Any, shapes: Mapping[str, tuple[int, ...]], batch: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the inputs that the growing form has not; what is open is the batch."""
    inputs = load_model(model).proto.graph.input
    dims = {v.name: tuple(d.dim_value or batch for d in v.type.tensor_type.shape.dim) for v in inputs}
    return {name: shape for name, shape in dims.items() if name not in shapes and len(shape) == 4}
