"""Samples of a network with states: each starts from what the one before left, however far earlier passes went."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import onnx.parser
import pytest

from qcompile import driver

COUNT = 6


@pytest.mark.parametrize("remembered", [2**28, 0, 3 * 4])
def test_passes_agree(remembered: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qcompile.calibrate.sequence._BYTES", remembered)
    head = '<ir_version: 8, opset_import: ["" : 18]> g (float[1, 1] x, float[1, 1] s) '
    model = f"{head} => (float[1, 1] y, float[1, 1] s_next) {{ s_next = Add(x, s)  y = Relu(s_next) }}"
    onnx.save(onnx.parser.parse_model(model), tmp_path / "m.onnx")
    config = driver.resolve_config(tmp_path / "m.onnx", None, {"state": ("auto",)})
    given = [{"x": np.ones((1, 1), np.float32)} for _ in range(COUNT)]
    _, samples, graph = driver.prepare(tmp_path / "m.onnx", config, given, None)
    assert [state.input for state in graph.states] == ["s"]
    assert samples is not None
    for length in (3, 1, COUNT, 4, COUNT):
        assert [float(sample["s"][0, 0]) for sample in islice(samples, length)] == list(range(length))
