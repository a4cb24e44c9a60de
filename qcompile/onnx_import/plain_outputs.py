"""Outputs that are no tensors of numbers: the words and dictionaries that exporters of classifiers add.

Source:
    ONNX, ai.onnx.ml ZipMap.
"""

from __future__ import annotations

from typing import Any

from onnx import TensorProto, helper

from qcompile.errors import ModelImportError
from qcompile.onnx_import.load import Model

_MOST_NAMED = 20
"""Classes that a note lists."""


def make_outputs_plain(model: Model) -> None:
    """Give out the table that a list of dictionaries is made of, and leave out words, in place.

    Args:
        model: its nodes in order; its notes tell what was done.

    Raises:
        ModelImportError: all outputs are words.
    """
    graph = model.proto.graph
    makers = {name: node for node in graph.node for name in node.output if name}
    words = []
    for output in graph.output:
        maker = makers.get(output.name)
        if maker is not None and (maker.domain, maker.op_type) == ("ai.onnx.ml", "ZipMap"):
            _unzip(model, maker, output)
        elif output.type.tensor_type.elem_type == TensorProto.STRING:
            words.append(output)
    if words and len(words) == len(graph.output):
        raise ModelImportError(
            f"output '{words[0].name}' of {model.source} holds words; no output holds numbers",
            hint="export the scores that the words are chosen by as well",
        )
    for output in words:
        graph.output.remove(output)
        model.notes.append(f"output '{output.name}' holds words, not numbers; the bundle leaves it out")


def _unzip(model: Model, node: Any, output: Any) -> None:
    """Turn a ZipMap into what it reads: a row of numbers for each dictionary."""
    classes = [_word(entry) for a in node.attribute for entry in helper.get_attribute_value(a)]
    table = helper.make_node("Identity", node.input, node.output, name=node.name)
    node.CopyFrom(table)
    output.type.CopyFrom(helper.make_tensor_type_proto(TensorProto.FLOAT, None))
    if not 0 < len(classes) <= _MOST_NAMED:
        classes = [f"{len(classes)} classes"]
    model.notes.append(
        f"output '{output.name}', a list of dictionaries, is a table in the bundle; its columns: {', '.join(classes)}"
    )


def _word(entry: Any) -> str:
    return entry.decode("utf-8", "replace") if isinstance(entry, bytes) else str(entry)
