"""Makes small ONNX models in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

Build = Callable[..., Any]


def value(name: str, shape: Sequence[Any] | None, kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


@pytest.fixture
def build() -> Build:
    """Return a function that makes a model of nodes, with inputs and constants by name; outputs are named."""

    def make(
        nodes: Sequence[Any],
        inputs: Mapping[str, Any],
        outputs: Sequence[str] = ("y",),
        constants: Mapping[str, Any] | None = None,
        opset: int = 17,
        **extra: Any,
    ) -> Any:
        infos = [v if isinstance(v, onnx.ValueInfoProto) else value(n, v) for n, v in inputs.items()]
        tensors = [numpy_helper.from_array(a, n) for n, a in (constants or {}).items()]
        results = [onnx.ValueInfoProto(name=n) for n in outputs]
        for result in results:
            result.type.tensor_type.elem_type = TensorProto.FLOAT
        graph = helper.make_graph(list(nodes), "net", infos, results, tensors)
        opsets = [helper.make_opsetid("", opset), *extra.pop("opsets", [])]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8, **extra)

    return make


@pytest.fixture
def relu(build: Build) -> Any:
    """Return the model y = relu(x) on f32[1, 4]."""
    return build([helper.make_node("Relu", ["x"], ["y"], name="act")], {"x": [1, 4]})
