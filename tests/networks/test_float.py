"""Float builds against ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qcompile import runtime
from qcompile.bundle import write_bundle

from .conftest import NETWORKS, graphs, model_path, program, sample

ort = pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("name", NETWORKS)
def test_agrees_with_onnx_runtime(name: str, tmp_path: Path) -> None:
    inputs = sample(graphs(name, "fp32")[1])
    session = ort.InferenceSession(str(model_path(name)), providers=["CPUExecutionProvider"])
    expected = dict(zip((o.name for o in session.get_outputs()), session.run(None, inputs), strict=True))
    write_bundle(program(name, "fp32", "host"), tmp_path / "bundle")
    actual = runtime.load(tmp_path / "bundle").run(inputs)
    for output, array in expected.items():
        difference = np.abs(actual[output] - array).max() / np.abs(array).max()
        assert difference <= 1e-4, f"{output}: {difference:.2e} of the largest value"


@pytest.mark.parametrize(("target", "copies"), [("x86-64-v4-vnni", 1.15), ("x86-64-v3", 1.5)])
def test_size_of_an_int8_bundle(target: str, copies: float, tmp_path: Path) -> None:
    """The library holds the INT8 weights, at most 15 % more, and at most 400 KB of code, tables and divisors.

    On AVX2 a pair of weights whose products would saturate takes a further step, with the places of its pixels.
    """
    graph = graphs("efficientnet_lite0", "int8")[1]
    weights = sum(v.type.size for v in graph.constants() if v.dtype == "int8")
    write_bundle(program("efficientnet_lite0", "int8", target), tmp_path / "bundle")
    assert (tmp_path / "bundle" / "libmodel.so").stat().st_size <= copies * weights + 400_000
