"""Layers behind noise: the least squared error flattens their results, and the scales take that back."""

from __future__ import annotations

import numpy as np
import pytest

from qcompile import ops
from qcompile.calibrate import layer_correction
from qcompile.ir.graph import Graph
from qcompile.ir.parser import parse_graph
from qcompile.ops.interpreter import Interpreter
from qcompile.passmgr import PassContext, PassManager

DEPTH, WIDTH = 6, 24
PIPELINE = 'insert-observers{observer="minmax"},calibrate,assign-precision,quantize,fuse-requantize,round-weights'


def chain() -> Graph:
    """Dense layers whose operand has some values so large that all others get few of its codes."""
    lines = [f"  input %x0 : f32[64,{WIDTH}]"]
    for i in range(DEPTH):
        lines += [
            f"  const @w{i} : f32[{WIDTH},{WIDTH}] = normal({i + 1}, {1.6 / WIDTH**0.5})",
            f"  const @b{i} : f32[{WIDTH}] = normal({i + 31}, 0.1)",
        ]
    activation = '{activation="leaky_relu", alpha=0.1}'
    lines += [f"  %x{i + 1} = dense(%x{i}, @w{i}, @b{i}) {activation} : f32[64,{WIDTH}]" for i in range(DEPTH)]
    return parse_graph('graph "chain" {\n' + "\n".join([*lines, f'  output "y" = %x{DEPTH}', "}"]), ops.all_ops())


def slope_and_error(seed: int) -> tuple[float, float]:
    """Return cov(y, ŷ) / var(y) of the integer chain on its samples, and its squared error over the signal's."""
    rng = np.random.default_rng(seed)

    given = [{"x0": rng.normal(size=(64, WIDTH)).astype(np.float32)} for _ in range(16)]
    for sample in given:
        sample["x0"][rng.random(sample["x0"].shape) < 0.002] *= 40.0
    graph = chain()
    context = PassContext(samples=lambda: iter(given))
    integer = PassManager(PIPELINE).run(graph, context)
    real, rounded = Interpreter(graph), Interpreter(integer)
    pairs = [(real.run(s)["y"].ravel(), rounded.run(s)["y"].ravel()) for s in given]
    y, z = (np.concatenate(part).astype(np.float64) for part in zip(*pairs, strict=True))
    return float(np.cov(y, z)[0, 1] / np.var(y)), float(np.square(z - y).sum() / np.square(y).sum())


def test_noise_does_not_flatten_results(monkeypatch: pytest.MonkeyPatch) -> None:
    slope, error = slope_and_error(5)
    monkeypatch.setattr(layer_correction, "MOST_GAIN", 1.0)
    flat, before = slope_and_error(5)
    assert flat < slope
    assert abs(slope - 1.0) < 0.25 * abs(flat - 1.0)
    assert error < 1.1 * before
