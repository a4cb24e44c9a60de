"""A rectifier that follows a clamp gets what the clamp leaves, fused or not."""

from __future__ import annotations

import numpy as np
import pytest

from qcompile import ops
from qcompile.ir.parser import parse_graph
from qcompile.ops.interpreter import Interpreter
from qcompile.passmgr import PassContext, PassManager
from qcompile.quant.noise_power import NoisePower

PIPELINE = (
    "fuse-activation{tables=false},insert-observers,calibrate,assign-precision,quantize,fuse-prelu,fuse-requantize"
)

TEXT = """graph "clamped" {{
  input %x : f32[1,8,8,3]
  const @w : f32[8,3,3,3] = normal(1, 0.3)
  const @b : f32[8] = normal(2, 0.1)
  const @s : f32[8] = [-0.5, 0.25, -1.0, 0.5, -0.5, 0.25, -1.0, 0.5]
  const @v : f32[8,1,1,8] = normal(3, 0.3)
  const @c : f32[8] = normal(4, 0.1)
  %a = conv2d(%x, @w, @b) {{pads=[1,1,1,1], layout="NHWC"}} : f32[1,8,8,8]
  %k = {clamp} : f32[1,8,8,8]
  %p = prelu(%k, @s) {{layout="NHWC"}} : f32[1,8,8,8]
  %y = conv2d(%p, @v, @c) {{layout="NHWC"}} : f32[1,8,8,8]
  output "y" = %y
}}
"""


@pytest.mark.parametrize(
    "clamp", ["relu(%a)", "clip(%a) {min=0.0, max=1.0}", "clip(%a) {min=-0.5, max=0.5}", "clip(%a) {min=0.3, max=2.0}"]
)
def test_what_a_clamp_cuts_off_stays_cut_off(clamp: str) -> None:
    graph = parse_graph(TEXT.format(clamp=clamp), ops.all_ops())
    random = np.random.default_rng(0)
    samples = [{"x": random.standard_normal((1, 8, 8, 3)).astype(np.float32)} for _ in range(8)]
    made = PassManager(PIPELINE).run(graph, PassContext(samples=lambda: iter(samples)))
    assert sum(node.is_integer for node in made.nodes) > 3
    power = NoisePower()
    for sample in samples:
        power.add(Interpreter(graph).run(sample)["y"], Interpreter(made).run(sample)["y"])
    assert power.db > 28.0


def test_without_a_clamp_the_rectifier_is_the_layers() -> None:
    graph = parse_graph(TEXT.format(clamp="identity(%a)"), ops.all_ops())
    random = np.random.default_rng(0)
    samples = [{"x": random.standard_normal((1, 8, 8, 3)).astype(np.float32)} for _ in range(8)]
    made = PassManager(f"canonicalize,{PIPELINE}").run(graph, PassContext(samples=lambda: iter(samples)))
    assert not any(node.op.name == "prelu" for node in made.nodes)
