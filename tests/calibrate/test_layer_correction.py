"""Layers behind noise: the least squared error takes variance from their results, and the scales give it back."""

from __future__ import annotations

import numpy as np
import pytest

from qcompile import ops, targets
from qcompile.calibrate import layer_correction, layer_moments
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


def spread_and_error(seed: int) -> tuple[float, float]:
    """Return var(ŷ) / var(y) of the integer chain on its samples, and its squared error over the signal's."""
    rng = np.random.default_rng(seed)

    given = [{"x0": rng.normal(size=(64, WIDTH)).astype(np.float32)} for _ in range(16)]
    for sample in given:
        sample["x0"][rng.random(sample["x0"].shape) < 0.002] *= 120.0
    graph = chain()
    context = PassContext(samples=lambda: iter(given))
    integer = PassManager(PIPELINE).run(graph, context)
    real, rounded = Interpreter(graph), Interpreter(integer)
    pairs = [(real.run(s)["y"].ravel(), rounded.run(s)["y"].ravel()) for s in given]
    y, z = (np.concatenate(part).astype(np.float64) for part in zip(*pairs, strict=True))
    return float(np.var(z) / np.var(y)), float(np.square(z - y).sum() / np.square(y).sum())


@pytest.mark.parametrize("seed", [5, 6, 7])
def test_noise_takes_no_variance_from_results(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    spread, error = spread_and_error(seed)
    monkeypatch.setattr(layer_correction, "MOST_GAIN", 1.0)
    flat, before = spread_and_error(seed)
    assert flat < 0.995
    assert abs(spread - 1.0) < 0.6 * abs(flat - 1.0)
    assert error < 1.02 * before


def test_layers_whose_weights_stay_odd_are_named() -> None:
    """Even weights are further from the real ones than whole numbers are."""
    text = """
    graph "crowded" {
      input %x : f32[256,32]
      const @w : f32[32,32] = normal(1, 0.1)
      const @b : f32[32] = normal(2, 0.1)
      %y = dense(%x, @w, @b) : f32[256,32] loc("layer")
      output "y" = %y
    }
    """
    rng = np.random.default_rng(3)
    given = [{"x": rng.normal(size=(256, 32)).astype(np.float32)} for _ in range(8)]

    def refused(options: str) -> list[str]:
        context = PassContext(samples=lambda: iter(given), target=targets.load("x86-64-v3"))
        manager = PassManager(PIPELINE.replace("round-weights", f"round-weights{options}"))
        manager.run(parse_graph(text, ops.all_ops()), context)
        return [skip.reason for skip in manager.records[-1].skips]

    assert any("even weights would add" in reason for reason in refused("{pair_loss=0.001}"))
    assert refused("{pair_loss=99.0}") == []


def test_layers_of_too_many_weights_keep_the_means_of_their_results(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their covariances would not fit in memory; the weights round by themselves, and the bias makes up for that."""
    monkeypatch.setattr(layer_moments, "MOST_TERMS", WIDTH - 1)
    rng = np.random.default_rng(3)
    given = [{"x0": rng.normal(1, 0.5, (64, WIDTH)).astype(np.float32)} for _ in range(16)]
    graph = chain()

    def mean_error(pipeline: str) -> tuple[float, list[str]]:
        manager = PassManager(pipeline)
        integer = manager.run(graph, PassContext(samples=lambda: iter(given)))
        errors = [Interpreter(graph).run(s)["y"] - Interpreter(integer).run(s)["y"] for s in given]
        reasons = [skip.reason for record in manager.records for skip in record.skips]
        return float(np.abs(np.mean(errors, axis=(0, 1))).mean()), reasons

    corrected, reasons = mean_error(PIPELINE)
    plain, _ = mean_error(PIPELINE.removesuffix(",round-weights"))
    assert reasons.count(f"{WIDTH} weights of an output are too many to round together") == DEPTH
    assert corrected < 0.5 * plain
