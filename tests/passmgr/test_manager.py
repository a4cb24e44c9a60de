from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import pytest
from manager_graphs import BreaksUses, Raises, ScaleProduct, conv_graph

from qcompile import ops
from qcompile.errors import CalibrationError, InternalError, PassError, QCompileError, UsageError
from qcompile.ir.graph import Graph
from qcompile.ir.parser import parse_graph
from qcompile.ir.printer import print_graph
from qcompile.passmgr import (
    Bounds,
    Exact,
    Fact,
    Pass,
    PassContext,
    PassManager,
    Skip,
    Tolerance,
    parse_pipeline,
    run_pipeline,
)
from qcompile.passmgr.options import options_of
from qcompile.passmgr.registry import default_registry


def test_the_given_graph_stays_as_it_is() -> None:
    graph = conv_graph()
    before = print_graph(graph)
    result = run_pipeline(graph, [ScaleProduct(by=3.0)])
    assert print_graph(graph) == before
    assert print_graph(result) != before
    assert run_pipeline(graph, "") is not graph


def test_records() -> None:
    context = PassContext()
    manager = PassManager([ScaleProduct(by=1.0), ScaleProduct(by=2.0)])
    manager.run(conv_graph(), context)
    first, second = manager.records
    assert (first.index, first.text, first.changed, first.nodes) == (0, "scale-product", False, 2)
    assert (second.text, second.changed) == ("scale-product{by=2.0}", True)
    assert first.skips == (Skip("conv2d Conv_0", "it is no product"),)
    assert first.seconds > 0
    assert context.skips == []
    manager.run(conv_graph())
    assert len(manager.records) == 2


def test_changed_is_decided_by_the_graph_and_not_by_names() -> None:
    @dataclass(frozen=True)
    class Renames(Pass):
        """Rename every value."""

        name: ClassVar[str] = "renames"
        tolerance: ClassVar[Tolerance] = Exact()

        def run(self, graph: Graph, context: PassContext) -> None:
            for node in graph.nodes:
                node.output.name += ".new"

    manager = PassManager([Renames()])
    manager.run(conv_graph())
    assert not manager.records[0].changed


def test_a_users_pass_that_fails_is_the_users() -> None:
    told = r"pass 'raises'.*ZeroDivisionError: an accident \(.*manager_graphs.py, line \d+\)"
    with pytest.raises(PassError, match=told) as caught:
        run_pipeline(conv_graph(), [ScaleProduct(), Raises()])
    reproducer = caught.value.reproducer
    assert reproducer is not None
    assert "// pipeline: raises\n" in reproducer
    again = parse_graph(reproducer, ops.all_ops())
    assert [node.op.name for node in again.nodes] == ["conv2d", "mul"]


@pytest.mark.parametrize(
    ("returns", "message"),
    [
        (lambda graph: graph.clone(), r"pass 'other-way': run returned Graph"),
        (lambda graph: sys.exit(0), r"pass 'other-way'.* failed: SystemExit: 0 \(.*test_manager.py, line \d+\)"),
    ],
    ids=["returns", "exits"],
)
def test_a_pass_neither_returns_nor_exits(returns: Callable[[Graph], object], message: str) -> None:
    @dataclass(frozen=True)
    class OtherWay(Pass):
        """Do it in another way."""

        name: ClassVar[str] = "other-way"
        tolerance: ClassVar[Tolerance] = Exact()

        def run(self, graph: Graph, context: PassContext) -> None:
            return returns(graph)  # type: ignore[return-value]

    with pytest.raises(PassError, match=message):
        run_pipeline(conv_graph(), [OtherWay()])


@dataclass(frozen=True)
class Bounded(Pass):
    """Take what is within bounds."""

    name: ClassVar[str] = "bounded"
    tolerance: ClassVar[Tolerance] = Exact()

    share: Annotated[float, Bounds(above=0.0, most=1.0)] = 0.5
    count: Annotated[int | None, Bounds(1)] = None

    def run(self, graph: Graph, context: PassContext) -> None:
        """Do nothing."""


def test_bounds_of_options() -> None:
    assert [o.type for o in options_of(Bounded)] == ["float, more than 0 and at most 1", "int | none, at least 1"]
    Bounded(1.0, 1)
    for share, count in ((0.0, 1), (1.5, 1), (float("nan"), 1), (0.5, 0)):
        with pytest.raises(ValueError, match=r"option '(share|count)' must be"):
            Bounded(share, count)


def test_our_pass_that_fails_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    cls = default_registry().get("fold-constants")
    monkeypatch.setattr(cls, "run", Raises.run)
    with pytest.raises(
        InternalError, match=r"pass 'fold-constants' .number 1 of eliminate-dead,fold-constants"
    ) as caught:
        run_pipeline(conv_graph(), "eliminate-dead,fold-constants{limit=7}")
    assert caught.value.reproducer is not None
    (item,) = parse_pipeline(caught.value.reproducer.split("// pipeline: ")[1].splitlines()[0])
    assert item == cls(limit=7)  # type: ignore[call-arg]


def test_an_ill_formed_result_is_refused() -> None:
    told = r"pass 'breaks-uses'.* failed: it leaves a graph that is not well formed: mul .*does not list operand 0"
    with pytest.raises(PassError, match=told):
        run_pipeline(conv_graph(), [BreaksUses()])


@pytest.mark.parametrize(
    ("error", "says"),
    [(UsageError, "^pass 'refuses': no such tensor$"), (CalibrationError, "^no such tensor$")],
    ids=["of a setting", "of a sample, which any pass may be the first to read"],
)
def test_an_error_of_the_users_input_keeps_its_class(error: type[QCompileError], says: str) -> None:
    @dataclass(frozen=True)
    class Refuses(Pass):
        """Refuse the input."""

        name: ClassVar[str] = "refuses"
        tolerance: ClassVar[Tolerance] = Exact()

        def run(self, graph: Graph, context: PassContext) -> None:
            raise error("no such tensor", hint="give another")

    with pytest.raises(error, match=says):
        run_pipeline(conv_graph(), [Refuses()])


def test_interrupts_pass_through() -> None:
    @dataclass(frozen=True)
    class Interrupted(Pass):
        """Behave as if Ctrl-C were pressed."""

        name: ClassVar[str] = "interrupted"
        tolerance: ClassVar[Tolerance] = Exact()

        def run(self, graph: Graph, context: PassContext) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_pipeline(conv_graph(), [Interrupted()])


NO_MUL = Fact("product-free", lambda g: next((n for n in g.nodes if n.op.name == "mul"), None), "fold them")


@pytest.mark.parametrize("kind", ["requires", "establishes"])
def test_facts_are_checked(kind: str) -> None:
    cls = dataclass(frozen=True)(type("Claims", (ScaleProduct,), {"name": "claims", kind: (NO_MUL,)}))
    with pytest.raises(PassError, match="'product-free', which mul Mul_1 is not") as caught:
        run_pipeline(conv_graph(), [cls()])
    assert caught.value.hint is not None
    if kind == "requires":
        assert caught.value.hint == "fold them"


def test_quantization_passes_in_the_wrong_order() -> None:
    with pytest.raises(PassError, match="pass 'quantize' needs") as caught:
        run_pipeline(conv_graph(), "insert-observers,quantize")
    assert caught.value.hint == "run calibrate before"


def test_a_graph_that_is_ill_formed_from_the_start() -> None:
    graph = conv_graph()
    graph.nodes.reverse()
    with pytest.raises(InternalError, match="not computed before it is read"):
        run_pipeline(graph, "eliminate-dead")


def test_context_services() -> None:
    calls: list[tuple[int, int, str]] = []
    context = PassContext(on_progress=lambda *c: calls.append(c), samples=lambda: iter([{"x": np.zeros(1)}]))
    context.progress(1, 2, "calibrating")
    PassContext().progress(1, 2, "nobody listens")
    context.note("unverified")
    context.note("unverified")
    assert calls == [(1, 2, "calibrating")]
    assert context.notes == ["unverified"]
    assert context.samples is not None
    assert next(iter(context.samples()))["x"].shape == next(context.samples())["x"].shape
    context.skip(None, "no convolution")
    context.skip(None, "no convolution")
    assert [str(s) for s in context.skips] == ["no convolution"]
