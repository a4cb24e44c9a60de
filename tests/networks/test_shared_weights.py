"""Steps of an unrolled recurrent layer read one copy of their weights, however these were rounded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from qcompile import driver

from .rolled_models import recurrent


def test_steps_share_their_weights(tmp_path: Path) -> None:
    model, feed = recurrent("LSTM", "forward", steps=8, batch=1, hidden=16)
    onnx.save(model, tmp_path / "m.onnx")
    random = np.random.default_rng(0)
    samples = [{n: random.normal(0, 1, a.shape).astype(np.float32) for n, a in feed.items()} for _ in range(24)]
    config = driver.resolve_config(tmp_path / "m.onnx", None, {"precision": "int8"})
    context, _, graph = driver.prepare(tmp_path / "m.onnx", config, samples, None)
    simplified, _ = driver.simplify(graph, config, context, ())
    final, _ = driver.to_precision(simplified, config, context, ())
    layers = [node for node in final.nodes if node.op.name == "dense" and node.inputs[1].dtype == "int8"]
    assert len(layers) >= 8
    assert len({node.inputs[1].content_digest() for node in layers}) <= 5
