"""A made-up detector with the post-processing of torchvision's SSD in the graph."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

SIDE, CHANNELS, PER_CELL, CLASSES = 16, 8, 3, 3
CANDIDATES, KEPT, LEAST = 10, 6, 0.55
ANCHORS = (SIDE // 2) ** 2 * PER_CELL


class _Builder:
    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, array: Any, dtype: Any = np.int64) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array, dtype), name))
        return name

    def node(self, op: str, *inputs: str, outputs: int = 1, name: str | None = None, **attributes: Any) -> Any:
        made = [
            f"{name or op.lower()}{'' if name else len(self.nodes)}{'' if k == 0 else f'.{k}'}" for k in range(outputs)
        ]
        self.nodes.append(helper.make_node(op, list(inputs), made, name=f"{op}_{len(self.nodes)}", **attributes))
        return made[0] if outputs == 1 else made


def _features(b: _Builder) -> tuple[str, str]:
    """Add convolutions; return boxes [N, 4] and class probabilities [N, classes]."""
    rng = np.random.default_rng(2)

    def conv(x: str, filters: int, channels: int, size: int, bias: Any, **attributes: Any) -> str:
        weight = rng.normal(0, 1 / np.sqrt(channels * size * size), (filters, channels, size, size))
        parts = [b.constant(weight, np.float32), b.constant(bias, np.float32)]
        return str(b.node("Conv", x, *parts, kernel_shape=[size] * 2, **attributes))

    def rows(x: str, width: int) -> str:
        last = b.node("Transpose", x, perm=[0, 2, 3, 1])
        return str(b.node("Reshape", last, b.constant([-1, width])))

    trunk = b.node("Relu", conv("image", CHANNELS, 3, 3, np.zeros(CHANNELS), pads=[1] * 4, strides=[2, 2]))
    deltas = rows(conv(trunk, 4 * PER_CELL, CHANNELS, 1, np.zeros(4 * PER_CELL)), 4)
    logits = rows(conv(trunk, CLASSES * PER_CELL, CHANNELS, 1, [1.2, 0, 0] * PER_CELL), CLASSES)
    grid = np.stack(np.meshgrid(*[np.arange(SIDE // 2)] * 2), -1).reshape(-1, 2)
    centres = b.constant(np.repeat(grid, PER_CELL, 0) * 2 + 1, np.float32)
    sizes = b.constant(np.tile([[2, 3], [4, 4], [5, 3]], ((SIDE // 2) ** 2, 1)), np.float32)
    shift, growth = b.node("Split", deltas, axis=1, outputs=2, num_outputs=2)
    middle = b.node("Add", b.node("Mul", shift, sizes), centres)
    half = b.node("Mul", b.node("Mul", b.node("Exp", growth), sizes), b.constant(0.5, np.float32))
    boxes = b.node("Concat", b.node("Sub", middle, half), b.node("Add", middle, half), axis=1)
    return boxes, b.node("Softmax", logits, axis=-1)


def _one_class(b: _Builder, boxes: str, scores: str, number: int) -> tuple[str, str, str]:
    """Take the best boxes of a class: what exceeds the least score, then the first few of that."""
    own = b.node("Gather", scores, b.constant(number), axis=1)
    above = b.node("NonZero", b.node("Greater", own, b.constant(LEAST, np.float32)))
    rows = b.node("Squeeze", above, b.constant([0]))
    own, boxes = (b.node("Gather", x, rows, axis=0) for x in (own, boxes))
    count = b.node("Min", b.node("Shape", own), b.constant([CANDIDATES]))
    best, place = b.node("TopK", own, count, axis=0, outputs=2)
    label = numpy_helper.from_array(np.array([number], np.int64))
    labels = b.node("ConstantOfShape", b.node("Shape", best), value=label)
    return b.node("Gather", boxes, place, axis=0), best, labels


def ssd() -> Any:
    """Return the detector; its outputs have as many rows as boxes stay."""
    b = _Builder()
    boxes, scores = _features(b)
    found = [_one_class(b, boxes, scores, number) for number in range(1, CLASSES)]
    boxes, scores, labels = (b.node("Concat", *parts, axis=0) for parts in zip(*found, strict=True))
    # Boxes of different classes are moved apart, so that one suppression serves all.
    largest = b.node("ReduceMax", boxes, keepdims=0)
    offsets = b.node("Mul", b.node("Cast", labels, to=TensorProto.FLOAT), largest)
    apart = b.node("Add", boxes, b.node("Unsqueeze", offsets, b.constant([1])))
    limits = [b.constant([1000]), b.constant([0.4], np.float32)]
    one = b.node("Unsqueeze", apart, b.constant([0])), b.node("Unsqueeze", scores, b.constant([0, 1]))
    chosen = b.node("Gather", b.node("NonMaxSuppression", *one, *limits), b.constant(2), axis=1)
    first = b.node("Slice", chosen, b.constant([0]), b.constant([KEPT]))
    for name, values in (("boxes", boxes), ("scores", scores), ("labels", labels)):
        b.node("Gather", values, first, name=name, axis=0)
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, SIDE, SIDE])
    kinds = {"boxes": (TensorProto.FLOAT, ["n", 4]), "scores": (TensorProto.FLOAT, ["n"]),
             "labels": (TensorProto.INT64, ["n"])}  # fmt: skip
    outputs = [helper.make_tensor_value_info(name, *kind) for name, kind in kinds.items()]
    graph = helper.make_graph(b.nodes, "ssd", [image], outputs, b.constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def images(count: int) -> list[dict[str, Any]]:
    """Return images of growing contrast; on the first, which is black, nothing is found."""
    rng = np.random.default_rng(3)
    noise = rng.standard_normal((count, 1, 3, SIDE, SIDE))
    return [{"image": (x * 2.5 * k / (count - 1)).astype(np.float32)} for k, x in enumerate(noise)]
