"""The best boxes of each class, without those that overlap a better one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qcompile.ir.graph import Node, Value
from qcompile.ir.opdef import Array, OpDef
from qcompile.ir.types import TensorType
from qcompile.ops.onnx_node import OnnxNode

_AT_ONCE = 128


@dataclass(frozen=True)
class NonMaxSuppressionAttrs:
    """Attributes of non_max_suppression.

    Args:
        most: boxes of a class that stay at most.
        overlap: intersection over union, 0 … 1, beyond which a box goes.
        least: score that a box must exceed; −inf for none.
        centred: whether boxes are given as centre and size, else as two corners.
    """

    most: int = 1
    overlap: float = 0.0
    least: float = -np.inf
    centred: bool = False


def _from_onnx(node: OnnxNode) -> Value:
    boxes, scores = node.value(0), node.value(1)

    def number(index: int, what: str, default: float) -> float:
        return float(node.array(index, what).reshape(-1)[0]) if node.has(index) else default

    most = min(int(number(2, "max_output_boxes_per_class", 0)), boxes.shape[1] if len(boxes.shape) == 3 else 0)
    if most < 1:
        node.fail("max_output_boxes_per_class is 0: nothing is selected")
    overlap = number(3, "iou_threshold", 0.0)
    if not 0.0 <= overlap <= 1.0:
        node.fail(f"iou_threshold is {overlap:g}, which is not within 0 … 1")
    rows = node.add(
        "non_max_suppression",
        [boxes, scores],
        f"{node.outputs[0]}.rows",
        most=most,
        overlap=overlap,
        least=number(4, "score_threshold", -np.inf),
        centred=bool(node.attr("center_point_box", 0)),
    )
    box = node.add("gather", [rows, node.constant("box", 2, "int64")], f"{node.outputs[0]}.box", axis=1)
    found = node.add("greater_or_equal", [box, node.constant("first", 0, "int64")], f"{node.outputs[0]}.chosen")
    size = node.counted.axes(scores)[2]
    if size is not None:
        # Where scores are quantized, what lies past the end may have the least of them instead of none.
        inside = node.add("less", [box, node.counted.number(size)], f"{node.outputs[0]}.inside")
        found = node.add("logical_and", [found, inside], f"{node.outputs[0]}.kept")
    return node.add("gather", [rows, node.counted.positions(node, found)], axis=0)


class NonMaxSuppression(OpDef):
    """Rows (image, class, box) of the boxes that stay, the best first within a class; rows of −1 follow them.

    Operands: boxes [B, N, 4], scores [B, C, N]. The result has its largest size, [B·C·most, 3] in int64.

    Source:
        ONNX NonMaxSuppression, whose result has as many rows as boxes stay; see `qcompile.onnx_import.counted`.
    """

    name = "non_max_suppression"
    Attrs = NonMaxSuppressionAttrs
    places = (0,)
    onnx: ClassVar[dict[str, Any]] = {"NonMaxSuppression": _from_onnx}

    def infer(self, attrs: NonMaxSuppressionAttrs, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the type of the result at its largest."""
        boxes, scores = inputs
        fits = boxes.rank == scores.rank == 3 and boxes.shape[2] == 4
        if not fits or (boxes.shape[0], boxes.shape[1]) != (scores.shape[0], scores.shape[2]):
            raise ValueError(f"scores {scores} of boxes {boxes}")
        return (TensorType("int64", (scores.shape[0] * scores.shape[1] * attrs.most, 3)),)

    def evaluate(self, attrs: NonMaxSuppressionAttrs, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Take the best box that is left, class by class, and drop those that overlap it."""
        boxes, scores = inputs
        rows = []
        for n, c in np.ndindex(scores.shape[:2]):
            own = scores[n, c]
            order = np.argsort(-own, kind="stable")
            order = order[own[order] > np.float32(attrs.least)]
            corners = _corners(boxes[n], attrs.centred)[:, order]
            rows += [(n, c, order[place]) for place in _staying(corners, np.float32(attrs.overlap), attrs.most)]
        y = np.full((scores.shape[0] * scores.shape[1] * attrs.most, 3), -1, np.int64)
        y[: len(rows)] = np.asarray(rows, np.int64).reshape(-1, 3)
        return (y,)

    def lower(self, node: Node, context: Any) -> None:
        """Emit the search."""
        context.suppression(node)


def _corners(boxes: Array, centred: bool) -> Array:
    """Return the lower bounds of boxes along both axes, then the upper ones: [4, N]."""
    first, second = boxes.T[:2], boxes.T[2:]
    if centred:
        half = boxes.dtype.type(0.5)
        first, second = first - second * half, first + second * half
    return np.concatenate([np.minimum(first, second), np.maximum(first, second)])


def _staying(corners: Array, overlap: Array, most: int) -> list[int]:
    """Return which boxes overlap none that stays before them; many are compared with all those at a time.

    Args:
        corners: [4, N], the best box first.
        overlap: beyond which a box goes.
        most: boxes that stay at most.
    """
    stay: list[int] = []
    for start in range(0, corners.shape[1], _AT_ONCE):
        some = corners[:, start : start + _AT_ONCE]
        goes = np.asarray((_overlap(corners[:, stay, None], some[:, None]) > overlap).any(axis=0))
        among = np.asarray(_overlap(some[:, :, None], some[:, None]) > overlap)
        for place in range(some.shape[1]):
            if len(stay) == most:
                return stay
            if not goes[place]:
                stay.append(start + place)
                goes |= among[place]
    return stay


def _overlap(a: Array, o: Array) -> Array:
    """Return intersection over union of boxes, [4, …] each; 0 where one has no area."""
    with np.errstate(all="ignore"):
        first, second = (np.maximum(np.minimum(a[k + 2], o[k + 2]) - np.maximum(a[k], o[k]), 0) for k in (0, 1))
        shared = first * second
        areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, o)]
        ratio = shared / (areas[0] + areas[1] - shared)
    return np.asarray(np.where((areas[0] > 0) & (areas[1] > 0), ratio, np.float32(0)))
