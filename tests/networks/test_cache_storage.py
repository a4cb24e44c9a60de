"""Caches in fewer bits: the same codes in the simulation, on x86 and on ARM; what they cost in accuracy and memory."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from decoder_models import gpt2, llama, save
from onnx import TensorProto, helper
from test_growing_caches import PLACES, chunks, prepared, reference

import qcompile
from qcompile import bundle as bundles
from qcompile import runtime, targets
from qcompile.errors import UsageError
from qcompile.ir.initial import initial_states
from qcompile.lower import lower_graph
from qcompile.ops.cache_append import real, stored
from qcompile.ops.interpreter import Interpreter
from qcompile.passmgr import PassContext, PassManager

HEADS, SIZE = 2, 8
TYPES = ("float32", "float16", "int8")


def attention() -> Any:
    """Return attention whose keys and values are inputs, with the largest score of each query beside it."""
    shape = (1, HEADS, "S", SIZE)
    past = (1, HEADS, "P", SIZE)
    nodes = [
        helper.make_node("Concat", ["past_key", "k"], ["present_key"], axis=2),
        helper.make_node("Concat", ["past_value", "v"], ["present_value"], axis=2),
        helper.make_node("Transpose", ["present_key"], ["turned"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["q", "turned"], ["scores"]),
        helper.make_node("ReduceMax", ["scores"], ["largest"], axes=[3], keepdims=0),
        helper.make_node("Softmax", ["scores"], ["shares"], axis=-1),
        helper.make_node("MatMul", ["shares", "present_value"], ["y"]),
    ]
    kinds = {"q": shape, "k": shape, "v": shape, "past_key": past, "past_value": past}
    made = {"y": shape, "largest": (1, HEADS, "S"), "present_key": past, "present_value": past}
    inputs, outputs = (
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in d.items()] for d in (kinds, made)
    )
    for value in outputs[2:]:
        value.type.tensor_type.shape.dim[2].dim_param = "T"
    graph = helper.make_graph(nodes, "attention", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(attention(), tmp_path_factory.mktemp("attention") / "attention.onnx")


def rows(count: int, seed: int) -> dict[str, Any]:
    """Return operands; each query asks for one element of the keys, so that its scores are exact."""
    rng = np.random.default_rng(seed)
    made = {name: rng.normal(0, 3, (1, HEADS, count, SIZE)).astype(np.float32) for name in "kv"}
    made["k"][:, :, 0] = 0.0
    made["v"] *= np.float32(1e-6)
    return {"q": np.eye(SIZE, dtype=np.float32)[rng.integers(0, SIZE, (1, HEADS, count))], **made}


RUNS = [rows(count, seed) for seed, count in enumerate((5, 1, 3, 1))]


@pytest.mark.parametrize("kind", TYPES)
def test_the_simulation_and_the_bundle_keep_the_same_codes(model: Path, tmp_path: Path, kind: str) -> None:
    settings = {"max_length": 19, "cache": kind}
    graph = prepared(model, **settings)
    qcompile.compile(model, precision="fp32", state=["auto"], output=tmp_path / "b", **settings)
    interpreter, kept = Interpreter(graph), initial_states(graph)
    with runtime.load(tmp_path / "b", threads=2) as session:
        for given in RUNS:
            found, wanted = session.run(given), interpreter.run({**given, **kept})
            kept = {state.input: wanted[state.output] for state in graph.states}
            assert np.array_equal(found["largest"], wanted["largest"])
            assert np.allclose(found["y"], wanted["y"], 1e-5, 1e-12)
        for state in graph.states:
            assert np.array_equal(session.state(state.input), kept[state.input]), state
        assert {t.dtype for t in session.states if "scales" not in t.name} == {kind, "int64"}


@pytest.mark.arm
@pytest.mark.parametrize("kind", ["float16", "int8"])
def test_the_same_codes_on_arm(model: Path, tmp_path: Path, qemu_aarch64: str, kind: str) -> None:
    graph = prepared(model, max_length=19, cache=kind)
    executable = tmp_path / "model"
    executable.write_bytes(bundles.build_executable(lower_graph(graph, targets.load("rpi4"))))
    executable.chmod(0o755)
    given = [rows(2, seed) for seed in range(4)]
    for name in "qkv":
        np.stack([part[name] for part in given]).tofile(tmp_path / name)
    order = [value.name for value in graph.inputs if value.name in given[0]]
    command = [qemu_aarch64, "-cpu", "cortex-a72", executable, "--size", "S=2", "--sequence"]
    command += [*(tmp_path / name for name in order), "--output", tmp_path / "out"]
    subprocess.run([str(word) for word in command], check=True, capture_output=True, timeout=120)
    size = HEADS * 2 * SIZE
    made = np.fromfile(tmp_path / "out", np.float32).reshape(4, -1)[:, size:]
    interpreter, kept = Interpreter(graph), initial_states(graph)
    for part, largest in zip(given, made, strict=True):
        wanted = interpreter.run({**part, **kept})
        kept = {state.input: wanted[state.output] for state in graph.states}
        assert np.array_equal(largest, wanted["largest"].reshape(-1))


@pytest.mark.parametrize(("kind", "error"), [("float16", 2.0**-11), ("int8", 1 / 254 + 1e-6)])
def test_a_stored_row_is_near(kind: str, error: float) -> None:
    row = np.random.default_rng(0).normal(0, 5, (3, 4, 16)).astype(np.float32)
    codes, scales = stored(row, kind)
    peak = np.abs(row).max(-1, keepdims=True)
    assert (np.abs(real(codes, scales, 1) - row) <= error * peak).all()


def test_extreme_rows() -> None:
    row = np.array([[[0.0, 0.0], [1e30, -1e30], [1e-42, 0.0], [7e4, -7e4]]], np.float32)
    halves, _ = stored(row, "float16")
    assert halves[0, 1].tolist() == [65504.0, -65504.0]
    codes, scales = stored(row, "int8")
    assert codes[0].tolist()[:2] == [[0, 0], [127, -127]]
    assert codes[0, 3].tolist() == [127, -127]
    assert scales is not None
    assert np.isfinite(scales).all()


@pytest.mark.parametrize(
    ("make", "kind", "decibels"), [(gpt2, "int8", 40), (llama, "int8", 40), (llama, "float16", 65)]
)
def test_accuracy_and_memory(tmp_path: Path, make: Any, kind: str, decibels: float) -> None:
    path = save(make(), tmp_path / "decoder.onnx")
    settings: dict[str, Any] = {"precision": "fp32", "state": ["auto"], "max_length": PLACES, "cache": kind}
    made = qcompile.compile(path, output=tmp_path / "b", **settings)
    plain = qcompile.compile(path, output=tmp_path / "plain", **{**settings, "cache": "float32"})
    sizes = [b.manifest["memory"]["states"] - 8 for b in (made, plain)]
    assert sizes[1] == sizes[0] * (2 if kind == "float16" else 4 / (1 + 4 / 8))
    assert made.manifest["recipe"]["accuracy"]["outputs"]["logits"] > decibels
    wanted = np.concatenate(reference(path, chunks()), 1)
    with runtime.load(tmp_path / "b") as session:
        found = np.concatenate([session.run({"input_ids": ids})["logits"] for ids in chunks()], 1)
    assert 10 * np.log10((wanted**2).sum() / ((found - wanted) ** 2).sum()) > decibels


@pytest.mark.parametrize("precision", ["int8", "dynamic"])
def test_beside_integer_layers(tmp_path: Path, precision: str) -> None:
    path = save(gpt2(), tmp_path / "decoder.onnx")
    samples = [{"input_ids": ids} for ids in chunks((9, 1, 1, 1, 20, 5, 2, 32, 1, 1), seed=8)]
    settings = {"state": ["auto"], "max_length": PLACES, "cache": "int8"}
    made = qcompile.compile(path, precision=precision, calibration=samples, output=tmp_path / "b", **settings)
    assert any(step["precision"] == "int8" and step["macs"] for step in made.manifest["steps"])
    wanted = np.concatenate(reference(path, chunks()), 1)
    with runtime.load(tmp_path / "b") as session:
        found = np.concatenate([session.run({"input_ids": ids})["logits"] for ids in chunks()], 1)
    assert 10 * np.log10((wanted**2).sum() / ((found - wanted) ** 2).sum()) > 20


# -- the pass ------------------------------------------------------------------------------------------------------


def test_the_pass_narrows_caches_and_their_readers(model: Path) -> None:
    graph = PassManager('store-caches{type="int8"}').run(prepared(model, max_length=19), PassContext())
    appends = [node for node in graph.nodes if node.op.name == "cache_append"]
    assert [[value.dtype for value in node.outputs] for node in appends] == [["int8", "float32"]] * 2
    for node in appends:
        for reader in node.outputs[0].users():
            assert reader.inputs[3] is node.outputs[1]
            assert reader.attrs.integer
    assert [state.in_place for state in graph.states] == [True, True, False, True, True]


@pytest.mark.parametrize("options", ['type="int8", integers=false', 'type="float16"'])
def test_attention_in_floats_where_asked_for(model: Path, options: str) -> None:
    graph = PassManager(f"store-caches{{{options}}}").run(prepared(model, max_length=19), PassContext())
    assert not any(node.attrs.integer for node in graph.nodes if node.op.name in ("cache_scores", "cache_mix"))


@pytest.mark.parametrize(("op", "integer"), [("Softmax", True), ("Tanh", False)])
def test_weights_that_may_be_below_0_stay_real(tmp_path: Path, op: str, integer: bool) -> None:
    proto = attention()
    proto.graph.node[5].op_type = op
    if op == "Tanh":
        del proto.graph.node[5].attribute[:]
    graph = prepared(save(proto, tmp_path / "weights.onnx"), max_length=19, cache="int8")
    found = {node.op.name: node.attrs.integer for node in graph.nodes if node.op.name.startswith("cache_")
             and hasattr(node.attrs, "integer")}  # fmt: skip
    assert found == {"cache_scores": True, "cache_mix": integer}


def test_a_cache_that_others_read_stays_as_it_is(model: Path, tmp_path: Path) -> None:
    proto = attention()
    axes = helper.make_node("ReduceSum", ["present_key"], ["sum"], keepdims=1)
    more = helper.make_node("Add", ["plain", "sum"], ["y"])
    proto.graph.node[-1].output[0] = "plain"
    proto.graph.node.extend([axes, more])
    graph = prepared(save(proto, tmp_path / "sum.onnx"), max_length=19, cache="int8")
    kept = {value.name: value.dtype for value in graph.inputs if "past" in value.name}
    assert kept == {"past_key": "float32", "past_value": "int8", "past_value.scales": "float32"}


def test_a_cache_type_without_caches(tmp_path: Path) -> None:
    proto = attention()
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[2].dim_value = 4
    with pytest.raises(UsageError, match="--cache is for models whose caches grow"):
        prepared(save(proto, tmp_path / "fixed.onnx"), cache="int8", state=[])
