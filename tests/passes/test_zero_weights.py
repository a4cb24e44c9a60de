"""A layer whose weights are all zero still adds its bias."""

from __future__ import annotations

import numpy as np
import pytest

from qcompile import ops
from qcompile.ir.parser import parse_graph
from qcompile.ops.interpreter import Interpreter
from qcompile.passmgr import PassContext, PassManager

TEXT = """graph "nothing" {{
  input %x : f32[1,6,6,4]
  const @w : f32[3,1,1,4] = zeros
  const @b : f32[3] = {bias}
  const @v : f32[4,1,1,3] = normal(1, 0.5)
  const @c : f32[4] = normal(2, 0.1)
  %a = conv2d(%x, @w, @b) {{layout="NHWC"}} : f32[1,6,6,3]
  %y = conv2d(%a, @v, @c) {{layout="NHWC"}} : f32[1,6,6,4]
  output "y" = %y
}}
"""


@pytest.mark.parametrize("bias", [[0.25, -0.125, 0.0], [1e-3, 1e-3, -2e-3], [0.0, 0.0, 0.0]])
@pytest.mark.parametrize("more", ["", ",round-weights"])
def test_the_bias_of_a_layer_of_zeros_is_kept(bias: list[float], more: str) -> None:
    zeros = "[" + ", ".join(["0.0"] * 12) + "]"
    graph = parse_graph(TEXT.format(bias=bias).replace("zeros\n", f"{zeros}\n"), ops.all_ops())
    random = np.random.default_rng(0)
    samples = [{"x": 10 * random.standard_normal((1, 6, 6, 4)).astype(np.float32)} for _ in range(4)]
    pipeline = f"insert-observers,calibrate,assign-precision,quantize,fuse-requantize{more}"
    made = PassManager(pipeline).run(graph, PassContext(samples=lambda: iter(samples)))
    assert any(node.is_integer for node in made.nodes)
    wanted, found = (Interpreter(one).run(samples[0])["y"] for one in (graph, made))
    np.testing.assert_allclose(found, wanted, atol=0.02 * np.abs(wanted).max())
