"""A small classifier, samples for it, and what a run of the command line gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).parents[2]


class Result(NamedTuple):
    """What a run of the command line gave."""

    code: int
    out: str
    err: str


Cli = Callable[..., Result]


def classifier(batch: int | str = 1) -> onnx.ModelProto:
    """Return conv, relu, depthwise conv, residual add, pooling and a dense layer on x [batch, 3, 8, 8]."""
    rng = np.random.default_rng(3)

    def constant(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(rng.normal(0, 0.4, shape).astype(np.float32), name)

    constants = [constant("w0", 8, 3, 3, 3), constant("b0", 8), constant("w1", 8, 1, 3, 3), constant("b1", 8),
                 constant("w2", 4, 8), constant("b2", 4)]  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w0", "b0"], ["c0"], name="stem", pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["c0"], ["r0"], name="stem_relu"),
        helper.make_node("Conv", ["r0", "w1", "b1"], ["c1"], name="depthwise", pads=[1, 1, 1, 1], group=8),
        helper.make_node("Add", ["c1", "r0"], ["a1"], name="residual"),
        helper.make_node("GlobalAveragePool", ["a1"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "w2", "b2"], ["logits"], name="head", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 4])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def samples(count: int = 4, shape: tuple[int, ...] = (1, 3, 8, 8)) -> list[np.ndarray]:
    """Return seeded normal samples."""
    rng = np.random.default_rng(5)
    return [rng.normal(size=shape).astype(np.float32) for _ in range(count)]
