"""A pad that adds what its operand never holds stays in float."""

from __future__ import annotations

import numpy as np
import pytest

from qcompile import ops
from qcompile.ir.parser import parse_graph
from qcompile.ops.interpreter import Interpreter
from qcompile.passmgr import PassContext, PassManager
from qcompile.quant.noise_power import NoisePower

TEXT = """graph "padded" {{
  input %x : f32[1,8,8,4]
  const @w : f32[8,1,1,4] = normal(1, 0.3)
  const @b : f32[8] = normal(2, 0.1)
  const @v : f32[8,3,3,8] = normal(3, 0.1)
  const @c : f32[8] = normal(4, 0.1)
  %a = conv2d(%x, @w, @b) {{layout="NHWC", activation="relu"}} : f32[1,8,8,8]
  %p = pad(%a) {{pads=[0,1,1,0,0,1,1,0], value={value}}} : f32[1,10,10,8]
  {behind} : f32[1,8,8,8]
  output "y" = %y
}}
"""

LAYER = '%y = conv2d(%p, @v, @c) {layout="NHWC"}'
POOL = '%y = max_pool(%p) {kernel=[3,3], layout="NHWC"}'


@pytest.mark.parametrize(
    ("value", "behind", "integer"),
    [("9.0", LAYER, False), ("-3.0", LAYER, False), ("0.25", LAYER, True), ("-inf", POOL, True), ("9.0", POOL, False)],
)
def test_what_integers_do_not_reach_stays_in_float(value: str, behind: str, integer: bool) -> None:
    graph = parse_graph(TEXT.format(value=value, behind=behind), ops.all_ops())
    random = np.random.default_rng(0)
    samples = [{"x": random.standard_normal((1, 8, 8, 4)).astype(np.float32)} for _ in range(8)]
    context = PassContext(samples=lambda: iter(samples))
    manager = PassManager("insert-observers,calibrate,assign-precision,quantize,fuse-requantize")
    made = manager.run(graph, context)
    assert next(node for node in made.nodes if node.op.name == "pad").is_integer is integer
    reasons = [skip.reason for record in manager.records for skip in record.skips]
    assert any(f"it adds {float(value):g}, beyond the range of a" in reason for reason in reasons) is not integer
    power = NoisePower()
    for sample in samples:
        power.add(Interpreter(graph).run(sample)["y"], Interpreter(made).run(sample)["y"])
    assert power.db > 30.0
