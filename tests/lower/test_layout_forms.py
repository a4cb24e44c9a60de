"""Every mode of the operations that move, pad, select or resize, in real and integer form, against the interpreter."""

from __future__ import annotations

from typing import Any

import pytest
from graph_checks import check

from qcompile import ops
from qcompile.ir import Graph, TensorType
from qcompile.quant import QParams
from qcompile.targets import Target

SHAPE = (2, 5, 7, 6)
GRID = QParams((0.05,), (-20,))
ROUNDING = {"asymmetric": "floor", "align_corners": "round_prefer_ceil", "half_pixel_symmetric": "ceil"}

MOVES: list[tuple[str, dict[str, Any]]] = [
    ("pad", {"pads": (0, 1, 2, 0, 0, 2, 3, 0)}),
    ("pad", {"pads": (0, 1, 2, 0, 0, 2, 3, 0), "value": float("-inf")}),
    ("pad", {"pads": (1, 1, 2, 1, 1, 2, 3, 4), "value": 1.3}),
    ("pad", {"pads": (0, 1, 2, 0, 0, 2, 3, 3), "mode": "edge"}),
    ("pad", {"pads": (1, 1, 2, 0, 0, 2, 3, 3), "mode": "reflect"}),
    ("pad", {"pads": (1, 6, 9, 0, 0, 2, 3, 3), "mode": "wrap"}),
    ("slice", {"starts": (1, 4, 0, 5), "steps": (-1, -2, 3, -5), "sizes": (2, 3, 3, 2)}),
    ("slice", {"starts": (0, 0, 0, 2), "steps": (1, 1, 1, 1), "sizes": (2, 5, 7, 3)}),
    ("slice", {"starts": (0, 0, 6, 0), "steps": (1, 1, -1, 1), "sizes": (2, 5, 7, 6)}),
    ("transpose", {"perm": (0, 3, 1, 2)}),
    ("transpose", {"perm": (3, 2, 1, 0)}),
    ("transpose", {"perm": (1, 0, 2, 3)}),
    ("split", {"axis": 3, "sizes": (1, 2, 3)}),
    ("split", {"axis": 1, "sizes": (2, 0, 3)}),
    ("expand", {"shape": (3, *SHAPE)}),
    ("reshape", {"shape": (10, 42)}),
    ("identity", {}),
]


def resizes(mode: str) -> list[tuple[str, dict[str, Any]]]:
    return [
        (
            "resize",
            {
                "size": size,
                "scales": (size[0] / SHAPE[1], size[1] / SHAPE[2]),
                "mode": mode,
                "coordinates": coordinates,
                "rounding": ROUNDING.get(coordinates, "round_prefer_floor"),
                "layout": "NHWC",
            },
        )
        for coordinates in ("half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric")
        for size in ((10, 14), (3, 20), (1, 1))
    ]


def graph_of(cases: list[tuple[str, dict[str, Any]]], integer: bool) -> Graph:
    """Return a graph that applies each operation to one input, each result an output."""
    graph = Graph("forms")
    x = graph.add_input("x", TensorType("int8" if integer else "float32", SHAPE))
    x.qparams = GRID if integer else None
    for name, attrs in cases:
        op = ops.get(name)
        node = graph.add_node(op, [x], op.Attrs(**attrs))
        for output in node.outputs:
            output.qparams = x.qparams
    results = [value for node in graph.nodes for value in node.outputs]
    graph.set_outputs(results, [f"{value.name}.{k}" for k, value in enumerate(results)])
    return graph


@pytest.mark.parametrize("integer", [False, True])
def test_moves(integer: bool, machine: Target) -> None:
    check(graph_of(MOVES, integer), machine)


@pytest.mark.parametrize(
    ("mode", "integer"),
    [("nearest", False), ("nearest", True), ("linear", False), ("linear", True), ("cubic", False)],
)
def test_resize(mode: str, integer: bool, machine: Target) -> None:
    check(graph_of(resizes(mode), integer), machine)
