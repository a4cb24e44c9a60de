"""What leaves int8 where nothing less brings an output to 20 dB."""

from __future__ import annotations

import pytest

from qcompile.ir.graph import Graph
from qcompile.search import safety_net
from qcompile.search.leaving import Kept
from qcompile.search.plan import Step


def _checked(decibels: list[float], kept: Kept) -> safety_net._Checked:
    return safety_net._Checked(safety_net.Protected(Graph("g"), [], kept), decibels, decibels)


@pytest.mark.parametrize(("loses", "out"), [(0.0, 5), (1.5, 7), (3.5, 9), (9.9, 15)])
def test_a_rescue_that_falls_short_leaves_more_room(loses: float, out: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that adds noise leaves int8 only where nothing less is enough behind the slow passes."""
    names = tuple(f"n{index}" for index in range(15))
    steps = [Step(Kept(wide=names[:count]), 1.0) for count in range(16)]
    net = object.__new__(safety_net._Net)
    net._macs = {}
    goals = [20.0]

    def quick(_: object, kept: Kept, goals: list[float]) -> float:
        return len(kept.names) - goals[0] / 4

    monkeypatch.setattr(safety_net._Net, "_quick_margin", quick)
    monkeypatch.setattr(
        safety_net._Net, "_checked", lambda _, kept: _checked([goals[0] + quick(_, kept, goals) - loses], kept)
    )
    assert len(net._rescued(_checked([10.0], Kept()), steps, goals).made.kept.names) == out
