"""A network that stays in float though integers were asked for says so, and why."""

from __future__ import annotations

import numpy as np
import pytest

from qcompile import ops
from qcompile.float_share import float_note
from qcompile.ir.parser import parse_graph
from qcompile.passmgr import PassContext, PassManager

TEXT = """
graph "g" {
  input %x : f32[1,64,256]
  const @w : f32[256,256] = normal(1, 0.1)
  const @b : f32[256] = normal(2, 0.1)
  %a = dense(%x, @w, @b) : f32[1,64,256] loc("First")
  %y = dense(%a, @w, @b) : f32[1,64,256] loc("Second")
  output "y" = %y
}
"""


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", None),
        ('keep_float=["First"]', "50% of the multiply-accumulates stay in float32: kept in float by request (1 node)"),
        ('keep_float=["*"]', "100% of the multiply-accumulates stay in float32: kept in float by request (2 nodes)"),
        (
            'for_accuracy=["a", "y"]',
            "100% of the multiply-accumulates stay in float32: kept in float for the accuracy of an output (2 nodes)",
        ),
    ],
)
def test_note(options: str, expected: str | None) -> None:
    given = [{"x": np.random.default_rng(n).normal(0, 1, (1, 64, 256)).astype(np.float32)} for n in range(4)]
    manager = PassManager(f"insert-observers,calibrate,assign-precision{{{options}}},quantize,fuse-requantize")
    made = manager.run(parse_graph(TEXT, ops.all_ops()), PassContext(samples=lambda: iter(given)))
    assert float_note(made, manager.records) == expected
