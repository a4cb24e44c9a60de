"""The float layer of an integer layer is found, or none is taken for it."""

from __future__ import annotations

import numpy as np
import pytest

from qcompile import ops
from qcompile.calibrate.paired_run import pair_layers
from qcompile.ir.graph import Graph
from qcompile.ir.parser import parse_graph
from qcompile.ops.interpreter import Interpreter
from qcompile.passmgr import PassContext, PassManager

QUANTIZE = "insert-observers,calibrate,assign-precision,quantize,fuse-requantize"
CONV = '{pads=[1, 1, 1, 1], layout="NHWC"}'
DILATED = '{pads=[2, 2, 2, 2], dilations=[2, 2], layout="NHWC"}'


def twins(*layers: str) -> Graph:
    """Return layers with the same operand and weights."""
    text = 'graph "g" { input %x : f32[1,8,8,2] const @w : f32[3,3,3,2] = #0 const @b : f32[3] = [0.0, 0.0, 0.0] '
    text += "const @c : f32[3] = [3.0, 3.0, 3.0] "
    text += " ".join(f"%y{k} = conv2d(%x, @w, {layer} : f32[1,8,8,3]" for k, layer in enumerate(layers))
    text += " ".join(f' output "y{k}" = %y{k}' for k in range(len(layers)))
    weight = np.random.default_rng(0).normal(0, 0.3, (3, 3, 3, 2)).astype(np.float32)
    return parse_graph(text + " }", ops.all_ops(), constants={"0": weight})


def samples() -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(1)
    return [{"x": rng.normal(0, 1, (1, 8, 8, 2)).astype(np.float32)} for _ in range(24)]


@pytest.mark.parametrize("layers", [[f"@b) {CONV}", f"@c) {CONV}"], [f"@b) {CONV}", f"@b) {DILATED}"]])
def test_layers_that_differ_in_little(layers: list[str]) -> None:
    graph, given = twins(*layers), samples()
    made = PassManager(QUANTIZE).run(graph, PassContext(samples=lambda: iter(given)))
    pairs, strangers = pair_layers(graph, made)
    assert not strangers
    assert [(pair.reference.output.name, pair.node.attrs.dilations) for pair in pairs] == [
        (node.output.name, node.attrs.dilations) for node in graph.nodes
    ]
    made = PassManager(f"{QUANTIZE},round-weights").run(graph, PassContext(samples=lambda: iter(given)))
    wanted, got = Interpreter(graph).run(given[0]), Interpreter(made).run(given[0])
    for name, array in wanted.items():
        np.testing.assert_allclose(got[name], array, atol=0.1)


def test_a_layer_that_could_be_either_is_a_stranger() -> None:
    graph, given = twins(f"@b) {CONV}", f"@b) {DILATED}"), samples()
    made = PassManager(QUANTIZE).run(graph, PassContext(samples=lambda: iter(given)))
    for node, name in zip([n for n in made.nodes if n.op.name == "conv2d"], "ab", strict=True):
        node.output.name = name
    pairs, strangers = pair_layers(graph, made)
    assert not pairs
    assert len(strangers) == 2
