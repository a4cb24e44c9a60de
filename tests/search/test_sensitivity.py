from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from search_graphs import PIPELINE, context_of, heads, samples

from qcompile import ops
from qcompile.cost import NodeCosts
from qcompile.ir.graph import Graph
from qcompile.ir.parser import parse_graph
from qcompile.ops.interpreter import Interpreter
from qcompile.passmgr import PassManager
from qcompile.quant.affine import dequantize, quantize
from qcompile.search import sensitivity
from qcompile.search.plan import plan_steps
from qcompile.search.sensitivity import measure_noise, sensitivities
from qcompile.search.sources import Source, find_sources


def calibrated(graph: Graph, given: list[dict[str, np.ndarray]] | None = None) -> tuple[Graph, list[Source]]:
    """Return the calibrated graph with its precisions, and its sources of noise."""
    before = PIPELINE[: PIPELINE.index(",quantize")]
    context = context_of(given or samples())
    assigned = PassManager(before).run(graph, context)
    return assigned, find_sources(assigned, PassManager("quantize").run(assigned, context))


def test_every_rounded_tensor_and_weight_is_a_source_once():
    _, sources = calibrated(heads())
    named = {(s.kind, s.name) for s in sources}
    assert len(named) == len(sources)
    assert {n for k, n in named if k == "weights"} == {"h", "t", "boxes", "s"}
    assert {n for k, n in named if k == "tensor"} >= {"x", "h", "t", "both"}
    # Slices move integers about and add nothing.
    assert not named & {("tensor", "left"), ("tensor", "right")}


def test_a_tensor_stays_rounded_until_everything_that_shares_its_integers_is_float():
    _, sources = calibrated(heads())
    both = next(s for s in sources if s.name == "both")
    assert {node.loc for node in both.removal} == {"both", "left", "right"}


class Rounding(Interpreter):
    """Rounds the tensor of one source, wherever and however often it is computed."""

    def __init__(self, graph: Graph, source: Source) -> None:
        super().__init__(graph)
        self._source = source

    def evaluate(self, node, inputs):
        results = super().evaluate(node, inputs)
        if node.outputs[0].name == self._source.name:
            results = (dequantize(quantize(results[0], self._source.qparams), self._source.qparams),)
        return results


def assert_noise_of_a_run(graph: Graph, source: Source, given: list[dict[str, np.ndarray]], name: str) -> None:
    """Compare the noise that one tensor makes at an output with that of runs in which only it is rounded."""
    signal, noise = 0.0, 0.0
    for sample in given:
        expected, actual = Interpreter(graph).run(sample)[name], Rounding(graph, source).run(sample)[name]
        signal += float(np.square(expected.astype(np.float64)).sum())
        noise += float(np.square(actual.astype(np.float64) - expected).sum())
    found = measure_noise(graph, [source], given)[0]
    assert found.exact
    assert noise > 0.0
    assert found.outputs[graph.output_names.index(name)] == pytest.approx(noise / signal, rel=1e-9)


@pytest.mark.parametrize("threads", [1, 3])
def test_the_float_network_is_run_once_for_each_sample(threads: int, monkeypatch: pytest.MonkeyPatch):
    graph, sources = calibrated(heads())
    expected = measure_noise(graph, sources, samples(3))
    monkeypatch.setattr(sensitivity, "_CHUNK", 0.0)  # each source is a task of its own
    run, runs = sensitivity._Paths.run, []

    def counted(paths: sensitivity._Paths, sample: dict[str, np.ndarray]) -> object:
        runs.append(sample)
        return run(paths, sample)

    monkeypatch.setattr(sensitivity._Paths, "run", counted)
    assert measure_noise(graph, sources, samples(3), threads=threads) == expected
    assert threads > 1 or len(runs) == 3  # of several threads one may come late to the sample before


def test_noise_of_one_tensor_equals_a_run_with_only_this_tensor_rounded():
    graph, sources = calibrated(heads())
    source = next(s for s in sources if s.kind == "tensor" and s.name == "t")
    assert_noise_of_a_run(graph, source, samples(3), "scores")


@pytest.mark.parametrize("name", ["once", "product"])
def test_noise_goes_through_all_iterations_of_a_loop(name: str):
    text = """graph "loop" {
      input %x : f32[8,64]
      const @w : f32[64,64] = normal(1, 0.15)
      const @b : f32[64] = normal(2)
      const @v : f32[64,64] = normal(3, 0.15)
      const @c : f32[64] = normal(4)
      %once = dense(%x, @w, @b) : f32[8,64]
      %before = dense(%once, @v, @c) : f32[8,64]
      %t, %s = loop_begin(%before) {trips=4} : i64[], f32[8,64]
      %product = dense(%s, @w, @b) : f32[8,64]
      %next = dense(%product, @v, @c) : f32[8,64]
      %n, %y = loop_end(%t, %next) : i64[], f32[8,64]
      output "y" = %y
    }"""
    generator = np.random.default_rng(1)
    given = [{"x": generator.standard_normal((8, 64)).astype(np.float32)} for _ in range(4)]
    graph, sources = calibrated(parse_graph(text, ops.all_ops()), given)
    source = next(s for s in sources if s.kind == "tensor" and s.name == name)
    assert_noise_of_a_run(graph, source, given, "y")


@pytest.mark.parametrize("renamed", [False, True])
def test_the_concat_of_two_scales_is_found_whatever_it_is_called(renamed: bool):
    graph, sources = calibrated(heads(renamed))
    worst = sensitivities(measure_noise(graph, sources, samples(4)))[0]
    assert worst.op == "concat"
    assert worst.node == ("n5" if renamed else "both")
    assert worst.sqnr_db < 10
    assert worst.weights_db is None


def test_estimates_rank_as_measurements_do():
    graph, sources = calibrated(heads())
    exact = sensitivities(measure_noise(graph, sources, samples(4)))
    estimated = sensitivities(measure_noise(graph, sources, samples(4), work=1.0))
    assert all(row.exact for row in exact)
    assert not all(row.exact for row in estimated)
    assert estimated[0].node == exact[0].node


def test_results_do_not_depend_on_the_number_of_processes():
    graph, sources = calibrated(heads())
    one, two = (measure_noise(graph, sources, samples(4), jobs=jobs) for jobs in (1, 2))
    assert [n.outputs for n in one] == [n.outputs for n in two]


def test_the_plan_moves_what_harms_most_first_and_ends_without_noise():
    graph, sources = calibrated(heads())
    steps = plan_steps(graph, measure_noise(graph, sources, samples(4)), NodeCosts())
    assert steps[0].kept.names == ()
    assert {"both", "left", "right"} <= set(steps[1].kept.names)
    assert "h" not in steps[1].kept.names
    assert all(a.noise >= b.noise and set(a.kept.names) <= set(b.kept.names) for a, b in pairwise(steps))
    assert all(a.kept != b.kept and set(a.kept.real) <= set(b.kept.real) for a, b in pairwise(steps))
    assert steps[-1].noise == 0.0


def test_a_network_without_integers_has_an_empty_plan():
    text = 'graph "g" {\n  input %x : f32[1,4]\n  %y = exp(%x) : f32[1,4]\n  output "y" = %y\n}\n'
    graph = parse_graph(text, ops.all_ops())
    for node in graph.nodes:
        node.precision = "float32"
    assert find_sources(graph, graph) == []
    assert [step.kept.names for step in plan_steps(graph, [], NodeCosts())] == [()]
