"""Layers that read what does not tell its channels apart."""

from __future__ import annotations

import numpy as np
import pytest

from qcompile import ops
from qcompile.ir.parser import parse_graph
from qcompile.ops.interpreter import Interpreter
from qcompile.passmgr import PassContext, PassManager

TEXT = """graph "image with the channels first" {{
  input %x : f32[1,4,6,6]
  const @w : f32[4,1,1,1] = [1.0, 2.0, 0.5, 1.5]
  const @b : f32[4] = normal(1, 0.1)
  const @v : f32[8,3,3,4] = {uneven}
  const @c : f32[8] = normal(3, 0.1)
  const @u : f32[4,1,1,8] = normal(4, 0.3)
  const @d : f32[4] = normal(5, 0.1)
  const @g : f32[6,1,1,6] = normal(6, 0.3)
  const @h : f32[6] = normal(7, 0.1)
  %t = transpose(%x) {{perm=[0, 2, 3, 1]}} : f32[1,6,6,4]
  %n = conv2d(%t, @w, @b) {{groups=4, layout="NHWC"}} : f32[1,6,6,4]
  %a = conv2d(%n, @v, @c) {{pads=[1,1,1,1], layout="NHWC", activation="relu"}} : f32[1,6,6,8]
  %y = conv2d(%a, @u, @d) {{layout="NHWC"}} : f32[1,6,6,4]
  %m = transpose({read}) {{perm=[0, 3, 1, 2]}} : f32[1,{channels},6,6]
  %r = relu(%m) : f32[1,{channels},6,6]
  %z = conv2d(%r, @g, @h) {{layout="NHWC"}} : f32[1,{channels},6,6]
  output "y" = %y
  output "z" = %z
}}
"""


@pytest.mark.parametrize(("read", "channels"), [("%a", 8), ("%y", 4)])
def test_channels_that_have_one_number_are_scaled_alike(read: str, channels: int) -> None:
    weight = np.random.default_rng(2).normal(0, 0.2, (8, 36)) * np.geomspace(1, 40, 8)[:, None]
    uneven = ", ".join(f"{number:.5f}" for number in weight.ravel())
    graph = parse_graph(TEXT.format(uneven=f"[{uneven}]", read=read, channels=channels), ops.all_ops())
    random = np.random.default_rng(0)
    samples = [{"x": random.standard_normal((1, 4, 6, 6)).astype(np.float32)} for _ in range(8)]
    manager = PassManager("equalize-activations{gain=0.0}")
    made = manager.run(graph, PassContext(samples=lambda: iter(samples)))
    assert manager.records[0].changed
    wanted, found = (Interpreter(one).run(samples[0]) for one in (graph, made))
    for name, array in wanted.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-4)


def test_tensors_that_a_machine_may_not_hold_at_once_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from qcompile.passes import equalize_activations

    uneven = ", ".join(f"{number:.5f}" for number in np.geomspace(0.1, 40, 8 * 36))
    graph = parse_graph(TEXT.format(uneven=f"[{uneven}]", read="%a", channels=8), ops.all_ops())
    monkeypatch.setattr(equalize_activations, "_MOST_BYTES", 1000)
    manager = PassManager("equalize-activations{synthetic=4}")
    manager.run(graph, PassContext())
    assert not manager.records[0].changed
    assert any("GiB, too much to hold all of a sample's at once" in skip.reason for skip in manager.records[0].skips)
