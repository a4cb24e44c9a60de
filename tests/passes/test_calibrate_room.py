"""Which tensors calibration gives room for samples to come."""

from __future__ import annotations

import numpy as np
import pytest

from qcompile import ops
from qcompile.ir.parser import parse_graph
from qcompile.ops.interpreter import Interpreter
from qcompile.passmgr import PassContext, PassManager

TEXT = """
graph "room" {
  input %x : f32[1,8,8,8]
  const @w1 : f32[16,1,1,8] = normal(1, 0.2)
  const @w2 : f32[8,1,1,16] = normal(3, 0.3)
  const @b1 : f32[16] = normal(2)
  const @b2 : f32[8] = normal(4)
  %clipped = conv2d(%x, @w1, @b1) {layout="NHWC", activation="clip", alpha=0.0, beta=1.5} : f32[1,8,8,16]
  %rectified = conv2d(%x, @w1, @b1) {layout="NHWC", activation="relu"} : f32[1,8,8,16]
  %free = conv2d(%rectified, @w2, @b2) {layout="NHWC"} : f32[1,8,8,8]
  output "clipped" = %clipped
  output "free" = %free
}
"""


def samples(count: int) -> list[dict[str, np.ndarray]]:
    """Return samples some of which are much stronger than others."""
    random = np.random.default_rng(0)
    strengths = random.lognormal(0, 0.5, count)
    return [{"x": (s * random.laplace(size=(1, 8, 8, 8))).astype(np.float32)} for s in strengths]


def reaches(observer: str, count: int) -> dict[str, tuple[float, float]]:
    """Return by which factor the range of each tensor exceeds what the samples took."""
    graph, given = parse_graph(TEXT, ops.all_ops(), source="room"), samples(count)
    seen: dict[str, list[np.ndarray]] = {}
    for sample in given:
        Interpreter(graph).run(sample, on_value=lambda v, x: seen.setdefault(v.name, []).append(x))
    context = PassContext(samples=lambda: iter(given))
    calibrated = PassManager(f'insert-observers{{observer="{observer}"}},calibrate').run(graph, context)
    found = {}
    for value in calibrated.values():
        if value.qspec is not None and value.qspec.range is not None and value.name in seen:
            lo, hi = value.qspec.range
            every = np.concatenate(seen[value.name])
            found[value.name] = (lo / every.min() if lo else 1.0, hi / every.max())
    return found


@pytest.mark.parametrize("observer", ["mse", "auto", "auto{power=2.5}"])
def test_what_no_bound_holds_gets_room(observer: str) -> None:
    found = reaches(observer, 24)
    assert max(found["free"]) > 1.1
    assert found["rectified"][0] == 1.0
    assert found["rectified"][1] > 1.1
    assert found["clipped"] == pytest.approx((1.0, 1.0))
    assert max(found["x"]) <= 1.0


def test_who_asks_for_what_was_seen_gets_it() -> None:
    assert all(ends == pytest.approx((1.0, 1.0)) for ends in reaches("minmax", 24).values())


def test_few_samples_say_nothing_of_others() -> None:
    assert max(max(ends) for ends in reaches("mse", 5).values()) <= 1.0
