"""Attention over caches that grow, on every instruction set of this machine, against the interpreter."""

from __future__ import annotations

import emulation
import numpy as np
import pytest
from graph_checks import compare, graph_of, random_inputs
from program_execution import Executable

from qcompile import targets
from qcompile.ir.graph import Graph
from qcompile.ir.symbol import FIRST_RUN
from qcompile.lower import lower_graph
from qcompile.ops.interpreter import Interpreter
from qcompile.targets import Target

TEXT = """
graph "caches" {
  input %q : f32[1,4,3,20]
  input %k : f32[1,2,3,20]
  input %v : f32[1,2,3,20]
  input %past_key : f32[1,2,20,21]
  input %past_value : f32[1,2,21,20]
  input %length : i64[1]
  const @table : f32[24,20] = normal(1, 1)
  %total = cache_advance(%length, %q) {axis=2} : i64[1]
  %keys = cache_append(%past_key, %k, %length, %total) {axis=3, rows=21} : f32[1,2,20,21]
  %values = cache_append(%past_value, %v, %length, %total) {rows=21} : f32[1,2,21,20]
  %rows = rows_at(@table, %length, %q) {shape=[3,20], new=2} : f32[3,20]
  %turned = add(%q, %rows) : f32[1,4,3,20]
  %scores = cache_scores(%turned, %keys, %total) : f32[1,4,3,21]
  %seen = causal_mask(%length, %q) {axis=2, shape=[1,1,3,21], new=2, long=[3]} : i1[1,1,3,21]
  const @nothing : f32[] = [-1e9]
  %masked = where(%seen, %scores, @nothing) : f32[1,4,3,21]
  %shares = softmax(%masked) {axis=3} : f32[1,4,3,21]
  %y = cache_mix(%shares, %values, %total) : f32[1,4,3,20]
  output "seen" = %seen
  output "y" = %y
  output "present_key" = %keys
  output "present_value" = %values
  output "total" = %total
  state {input="past_key", output="present_key", in_place=true}
  state {input="past_value", output="present_value", in_place=true}
  state {input="length", output="total"}
}
"""


def given(graph: Graph, length: int) -> dict[str, np.ndarray]:
    """Return inputs with caches of `length` places; those past it hold what nobody may read."""
    inputs = random_inputs(graph, length)
    inputs["length"][:] = length
    inputs["past_key"][..., length:] = np.nan
    inputs["past_value"][..., length:, :] = np.nan
    return inputs


def stored_as(kind: str) -> Graph:
    """Return the same attention over caches of f32 or f16."""
    caches = ("f32[1,2,20,21]", "f32[1,2,21,20]")
    return graph_of(TEXT.replace(caches[0], f"{kind}[1,2,20,21]").replace(caches[1], f"{kind}[1,2,21,20]"))


@pytest.mark.parametrize("pieces", [1, 3])
@pytest.mark.parametrize("kind", ["f32", "f16"])
def test_attention_over_a_cache(machine: Target, kind: str, pieces: int) -> None:
    graph = stored_as(kind)
    executable = Executable(lower_graph(graph, machine, jobs=1))
    for length in (0, 1, 7, 18):
        inputs = given(graph, length)
        compare(executable.run(inputs, pieces), wanted(graph, inputs), 1e-5)


@pytest.mark.arm
@pytest.mark.parametrize("target", ["rpi4", "rpi5"])
@pytest.mark.parametrize("kind", ["f32", "f16"])
def test_attention_over_a_cache_on_arm(target: str, kind: str) -> None:
    if emulation.emulator() is None:
        pytest.skip("qemu-aarch64 is not installed (Debian: qemu-user)")
    graph = stored_as(kind)
    inputs = given(graph, 7)
    got = emulation.run_emulated(lower_graph(graph, targets.load(target), jobs=1), inputs)
    compare(got, wanted(graph, inputs), 1e-5)


def wanted(graph: Graph, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return what the interpreter says; it reads past the filled places, but keeps nothing of that."""
    made = Interpreter(graph).run({name: np.nan_to_num(array) for name, array in inputs.items()})
    return {name: made[name] for name in ("seen", "y")}


def integers(size: int, places: int, shared: int, new: int, once: bool = False) -> str:
    """Return attention over int8 caches in integers; the weights are given, so that all bits are foreseen.

    With `once`, the first run writes all places.
    """
    heads, head = 2 * shared, f"[1,2,{places}]"
    rows, total, attrs = (places, "@places", ", once=true") if once else (new, "%total", "")
    return f"""
graph "integers" {{
  input %q : f32[1,{heads},{new},{size}]
  input %p : f32[1,{heads},{new},{places}]
  input %k : f32[1,2,{rows},{size}]
  input %v : f32[1,2,{rows},{size}]
  input %past_key : i8[1,2,{size},{places}]
  input %past_value : i8[1,2,{places},{size}]
  input %key_scales : f32{head}
  input %value_scales : f32{head}
  input %length : i64[1]
  %total = cache_advance(%length, %q) {{axis=2}} : i64[1]
  const @places : i64[1] = [{places}]
  %keys, %ks = cache_append(%past_key, %k, %length, {total}, %key_scales) {{axis=3, rows={places}{attrs}}}
    : i8[1,2,{size},{places}], f32{head}
  %values, %vs = cache_append(%past_value, %v, %length, {total}, %value_scales) {{rows={places}{attrs}}}
    : i8[1,2,{places},{size}], f32{head}
  %scores = cache_scores(%q, %keys, {total}, %ks) {{integer=true}} : f32[1,{heads},{new},{places}]
  %y = cache_mix(%p, %values, {total}, %vs) {{integer=true}} : f32[1,{heads},{new},{size}]
  output "scores" = %scores
  output "y" = %y
  output "present_key" = %keys
  output "present_value" = %values
  output "present_ks" = %ks
  output "present_vs" = %vs
  output "total" = %total
  state {{input="past_key", output="present_key", in_place=true}}
  state {{input="past_value", output="present_value", in_place=true}}
  state {{input="key_scales", output="present_ks", in_place=true}}
  state {{input="value_scales", output="present_vs", in_place=true}}
  state {{input="length", output="total"}}
}}
"""


INTEGERS = [(64, 150, 4, 1), (24, 1100, 3, 1), (70, 70, 2, 3), (128, 37, 1, 6), (64, 150, 1, 1, True),
            (20, 37, 2, 3, True)]  # fmt: skip
"""Size of a head, places, queries that share a head, new places, whether the caches are written once."""


def integer_inputs(graph: Graph, length: int) -> dict[str, np.ndarray]:
    """Return inputs with caches of `length` places; what lies past what is filled is no number where there are such."""
    rng, inputs = np.random.default_rng(length), random_inputs(graph, length)
    before, after = filled(graph, length)
    inputs["length"][:] = length
    for name in ("past_key", "past_value"):
        inputs[name] = rng.integers(-127, 128, inputs[name].shape).astype(np.int8)
    for name in ("key_scales", "value_scales"):
        inputs[name] = np.abs(inputs[name])
        inputs[name][..., before:] = np.nan
    shares = np.exp(rng.normal(0, 2, inputs["p"].shape)).astype(np.float32)
    shares[..., after:] = np.nan
    inputs["p"] = shares
    return inputs


def filled(graph: Graph, length: int) -> tuple[int, int]:
    """Return how many places a cache has before and after a run."""
    append = next(node for node in graph.nodes if node.op.name == "cache_append")
    new = next(value for value in graph.inputs if value.name == "q").shape[2]
    rows = append.attrs.rows
    return (rows if length else 0, rows) if append.attrs.once else (length, length + new)


@pytest.mark.parametrize("shape", INTEGERS, ids=str)
def test_attention_in_integers(machine: Target, shape: tuple[int, ...]) -> None:
    graph = graph_of(integers(*shape))
    executable = Executable(lower_graph(graph, machine, jobs=1))
    for length in (0, 5, shape[1] - shape[3]):
        inputs = integer_inputs(graph, length)
        same_bits(graph, inputs, executable.run(inputs, 1 + length % 2))


@pytest.mark.arm
@pytest.mark.parametrize("target", ["rpi4", "rpi5"])
@pytest.mark.parametrize("shape", [(64, 150, 4, 1), (22, 37, 1, 6), (20, 37, 2, 3, True)], ids=str)
@pytest.mark.parametrize("first", [True, False])
def test_attention_in_integers_on_arm(target: str, shape: tuple[int, ...], first: bool) -> None:
    if emulation.emulator() is None:
        pytest.skip("qemu-aarch64 is not installed (Debian: qemu-user)")
    graph = graph_of(integers(*shape))
    inputs = integer_inputs(graph, 0 if first else shape[1] - shape[3] - 2)
    same_bits(graph, inputs, emulation.run_emulated(lower_graph(graph, targets.load(target), jobs=1), inputs))


def same_bits(graph: Graph, inputs: dict[str, np.ndarray], got: dict[str, np.ndarray]) -> None:
    """Compare with the interpreter: sums are exact, and every rounding is foreseen."""
    want, (_, total) = Interpreter(graph).run(inputs), filled(graph, int(inputs["length"][0]))
    assert np.array_equal(got["scores"][..., :total], want["scores"][..., :total])
    assert np.array_equal(got["y"], want["y"])


ONCE = """
graph "once" {
  input %x : f32[1,2,5,21]
  input %kept : f32[1,2,21,5]
  input %length : i64[1]
  input %ids : i64[1,1]
  %total = cache_advance(%length, %ids) {axis=1} : i64[1]
  const @places : i64[1] = [5]
  %doubled = add(%x, %x) : f32[1,2,5,21]
  %filled = cache_append(%kept, %doubled, %length, @places) {axis=3, rows=5, once=true} : f32[1,2,21,5]
  %y = neg(%filled) : f32[1,2,21,5]
  output "y" = %y
  output "filled" = %filled
  output "total" = %total
  state {input="kept", output="filled", in_place=true}
  state {input="length", output="total"}
  symbol {name="length", least=1, most=9, places=[], past="length", new="1"}
}
"""


@pytest.mark.parametrize("pieces", [1, 3])
def test_a_tensor_that_the_first_run_makes(machine: Target, pieces: int) -> None:
    graph = graph_of(ONCE)
    executable = Executable(lower_graph(graph, machine, jobs=1))
    for length in (0, 1, 7):
        inputs = random_inputs(graph, length)
        inputs["length"][:] = length
        want = -(inputs["kept"] if length else 2 * inputs["x"].swapaxes(2, 3))
        assert np.array_equal(Interpreter(graph).run(inputs)["y"], want)
        assert np.array_equal(executable.run(inputs, pieces)["y"], want)


def test_what_only_the_first_run_needs_is_left_out_of_others(machine: Target) -> None:
    program = lower_graph(graph_of(ONCE), machine, jobs=1)
    first = {step.op for step in program.steps if step.only and program.extents[step.only.extent] == FIRST_RUN}
    assert first == {"add", "cache_append"}


HELD = """
graph "held" {{
  input %kept : i64[1]
  input %x : {x}
  input %length : i64[1]
  %held = cache_hold(%kept, %x, %length) {{{attrs}}} : i64[1]
  output "held" = %held
}}
"""


@pytest.mark.parametrize(("x", "attrs"), [("f32[1,7,3]", "axis=1"), ("i32[3]", "entry=1")])
def test_a_length_that_the_first_run_tells(machine: Target, x: str, attrs: str) -> None:
    graph = graph_of(HELD.format(x=x, attrs=attrs))
    executable = Executable(lower_graph(graph, machine, jobs=1))
    told = np.array([9, 7, 4], np.int32) if x == "i32[3]" else np.zeros((1, 7, 3), np.float32)
    for length, want in ((0, 7), (1, 5), (8, 5)):
        inputs = {"kept": np.array([5]), "x": told, "length": np.array([length])}
        assert Interpreter(graph).run(inputs)["held"] == want
        assert executable.run(inputs, 1)["held"] == want
