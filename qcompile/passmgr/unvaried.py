"""Tensors of which calibration saw one value, though what they are made from can give others."""

from __future__ import annotations

from collections.abc import Callable

from qcompile.ir.graph import Graph, Value


def unvaried_tensors(graph: Graph, one_value: Callable[[Value], bool | None]) -> set[Value]:
    """Return the float32 tensors that follow from inputs alone which the samples did not vary.

    Such are the mask of samples without padding, and a state that was fed as zeros. What they take for other inputs,
    -1e4 for instance, no sample tells.

    Args:
        graph: float graph.
        one_value: whether the samples gave a float32 tensor one value throughout; None where nothing is known of it.

    Returns:
        Inputs, and tensors computed only from constants, such inputs, and integers or truth values.
    """
    reached = {value for value in graph.inputs if value.dtype == "float32" and one_value(value)}
    for node in graph.nodes:
        given = [value for value in node.inputs if not value.is_constant]
        if given and all(value.dtype != "float32" or value in reached for value in given):
            made = (value for value in node.outputs if value.dtype == "float32")
            reached.update(value for value in made if one_value(value) is not False)
    return {value for value in reached if one_value(value)}
