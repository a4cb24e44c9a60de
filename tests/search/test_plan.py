"""In which order nodes leave int8, and for which precision."""

from __future__ import annotations

import json
import random
import time
from itertools import pairwise

import numpy as np
import pytest

from qcompile import ops
from qcompile.cost import NodeCosts
from qcompile.ir.graph import Graph, Node
from qcompile.ir.parser import parse_graph
from qcompile.search.leaving import Kept, Prices
from qcompile.search.plan import Limit, Plan, _Places, _Planner, plan_steps
from qcompile.search.sensitivity import Noise
from qcompile.search.sources import REST, TENSOR, WEIGHTS, Source

CHAIN = """
graph "chain" {
  input %x : f32[1,64]
  const @w : f32[64,64] = normal(1, 0.1)
  const @b : f32[64] = normal(2, 0.1)
  %a = dense(%x, @w, @b) {activation="relu"} : f32[1,64] loc("a")
  %t = tanh(%a) : f32[1,64] loc("t")
  %c = dense(%t, @w, @b) : f32[1,64] loc("c")
  output "c" = %c
}
"""


@pytest.fixture
def chain() -> Graph:
    graph = parse_graph(CHAIN, ops.all_ops())
    for node in graph.nodes:
        node.precision = "int8"
    return graph


def noise(kind: str, power: float, *nodes: Node) -> Noise:
    """Return the noise of the constants, or of the result, of a node that vanishes where nodes leave int8."""
    made = nodes[0]
    constants = {1: np.zeros(1)} if kind == WEIGHTS else {}
    return Noise(Source(made.loc or "", kind, made, constants, made.outputs[0], None, frozenset(nodes)), (power,), True)


def test_tensors_go_to_sixteen_bits_and_weights_to_float(chain: Graph) -> None:
    _, table, last = chain.nodes
    noises = [noise(TENSOR, 9.0, table, last), noise(WEIGHTS, 5.0, last)]
    steps = plan_steps(chain, noises, NodeCosts())
    assert [(s.kept, s.noise) for s in steps] == [
        (Kept(), 14.0),
        (Kept((), ("t", "c")), 5.0),
        (Kept(("c",), ("t",)), 0.0),
    ]


def test_a_tensor_that_sixteen_bits_do_not_serve_goes_to_float(chain: Graph) -> None:
    _, table, last = chain.nodes
    steps = plan_steps(chain, [noise(TENSOR, 9.0, table, last), noise(REST, 2.0, table, last)], NodeCosts())
    assert [(s.kept, s.noise) for s in steps] == [
        (Kept(), 11.0),
        (Kept((), ("t", "c")), 2.0),
        (Kept(("t", "c"), ()), 0.0),
    ]


def test_a_layer_on_int8_gives_sixteen_bits_to_its_reader(chain: Graph) -> None:
    first, table, _ = chain.nodes
    assert [s.kept for s in plan_steps(chain, [noise(TENSOR, 1.0, first, table)], NodeCosts())][1:] == [
        Kept((), ("t",)),
    ]


def test_what_exceeds_the_limit_is_left_out_and_cheaper_steps_follow(chain: Graph) -> None:
    first, table, _ = chain.nodes
    noises = [noise(WEIGHTS, 99.0, first), noise(TENSOR, 1.0, table)]
    layer, wide = Prices.of(first, NodeCosts()).real, Prices.of(table, NodeCosts()).wide
    assert wide is not None
    assert wide < layer
    for limit in (Limit(ns=layer - 1.0), Limit(macs=64 * 64 - 1)):
        assert [s.kept for s in plan_steps(chain, noises, NodeCosts(), limit)] == [Kept(), Kept((), ("t",))]
    both = plan_steps(chain, noises, NodeCosts(), Limit(ns=layer + wide + 1.0, macs=64 * 64))
    assert both[-1].kept == Kept(("a",), ("t",))


def test_a_plan_goes_on_where_another_ended(chain: Graph) -> None:
    first, table, last = chain.nodes
    noises = [noise(TENSOR, 9.0, table, last), noise(WEIGHTS, 5.0, last), noise(WEIGHTS, 2.0, first)]
    whole = plan_steps(chain, noises, NodeCosts())
    for index, step in enumerate(whole):
        assert plan_steps(chain, noises, NodeCosts(), start=step.kept) == whole[index:]
    spent = Prices.of(last, NodeCosts()).real
    assert len(plan_steps(chain, noises, NodeCosts(), Limit(ns=spent), whole[2].kept)) == 1


def test_a_plan_survives_being_written(chain: Graph) -> None:
    first, table, last = chain.nodes
    steps = plan_steps(chain, [noise(TENSOR, 1.0, table, last), noise(WEIGHTS, 1.0, first)], NodeCosts())
    plan = Plan((), steps, {"a": "dense a"})
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


@pytest.mark.parametrize("seed", range(8))
def test_each_step_is_the_first_of_a_plan_that_starts_before_it(seed: int) -> None:
    """What the planner remembers from step to step is what it would find anew."""
    random = np.random.default_rng(seed)
    layers = int(random.integers(4, 14))
    lines = [f"%t{k + 1} = dense(%t{k}, @w, @b) : f32[1,64]" for k in range(layers)]
    head = (
        'graph "chain" { input %t0 : f32[1,64] const @w : f32[64,64] = normal(1, 0.1) const @b : f32[64] = normal(2) '
    )
    graph = parse_graph(f'{head} {" ".join(lines)} output "y" = %t{layers} }}', ops.all_ops())
    noises = []
    for index, node in enumerate(graph.nodes):
        node.precision = "int8"
        readers = graph.nodes[index + 1 : index + 1 + int(random.integers(1, 4))]
        noises += [noise(WEIGHTS, random.random(), node), noise(TENSOR, random.random(), node, *readers)]
    steps = plan_steps(graph, noises, NodeCosts())
    assert steps[-1].noise == 0.0
    for before, after in pairwise(steps):
        assert plan_steps(graph, noises, NodeCosts(), start=before.kept)[1] == after


class _Anew(_Planner):
    """Looks at every noise in every step, and remembers nothing."""

    def _touched(self, moved: _Places) -> set[int]:
        return set(range(len(self._needs)))

    def _best(self) -> int | None:
        self._unknown = set(range(len(self._needs)))
        return super()._best()


def branches(draw: random.Random) -> Graph:
    """Return dense layers, tables and additions, each of which reads what one of the last three gave."""
    kinds = ("dense({}, @w, @b)", "dense({}, @w, @b)", "tanh({})", "sigmoid({})", "add({}, {})")
    names, lines = ["%x"], []
    for index in range(draw.randint(3, 10)):
        made = draw.choice(kinds).format(draw.choice(names[-3:]), draw.choice(names[-3:]))
        lines.append(f"%v{index} = {made} : f32[1,64]")
        names.append(f"%v{index}")
    head = 'graph "g" { input %x : f32[1,64] const @w : f32[64,64] = normal(1, 0.1) const @b : f32[64] = normal(2)'
    graph = parse_graph(f'{head} {" ".join(lines)} output "y" = {names[-1]} }}', ops.all_ops())
    for node in graph.nodes:
        node.precision = "int8"
    return graph


def test_a_step_counts_all_noise_that_goes_with_it() -> None:
    for seed in range(60):
        draw = random.Random(seed)
        graph, noises = branches(draw), []
        for node in graph.nodes:
            if draw.random() < 0.8:
                noises.append(noise(TENSOR, draw.random(), node, *node.outputs[0].users()))
            if node.op.name == "dense" and draw.random() < 0.8:
                noises.append(noise(WEIGHTS, draw.random() * 3, node))
        names = [node.outputs[0].name for node in graph.nodes]
        start = Kept(tuple(name for name in names if draw.random() < 0.2)) if seed % 2 else Kept()
        if noises:
            anew = _Anew(graph, noises, NodeCosts(), Limit(), start).steps()
            assert plan_steps(graph, noises, NodeCosts(), start=start) == anew, seed


def test_thousands_of_layers_are_planned_to_the_end() -> None:
    layers = 1500
    lines = " ".join(f"%t{k + 1} = dense(%t{k}, @w, @b) : f32[1,8]" for k in range(layers))
    head = 'graph "chain" { input %t0 : f32[1,8] const @w : f32[8,8] = normal(1) const @b : f32[8] = normal(2)'
    graph = parse_graph(f'{head} {lines} output "y" = %t{layers} }}', ops.all_ops())
    draw, noises = np.random.default_rng(0), []
    for index, node in enumerate(graph.nodes):
        node.precision = "int8"
        noises += [noise(WEIGHTS, draw.random(), node), noise(TENSOR, draw.random(), *graph.nodes[index : index + 2])]
    started = time.process_time()
    steps = plan_steps(graph, noises, NodeCosts())
    print(f"{len(steps)} steps: {time.process_time() - started:.1f} s")
    assert len(steps) > layers
    assert steps[-1].noise == 0.0
