"""Tensors that a bundle keeps between runs: Python, the C program, the simulation and ARM agree, step after step."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import qcompile
from qcompile import bundle as bundles
from qcompile import driver, pipelines, runtime, targets
from qcompile.errors import UsageError
from qcompile.ir.graph import Graph
from qcompile.ir.initial import initial_states
from qcompile.lower import lower_graph
from qcompile.onnx_import import import_onnx
from qcompile.onnx_import.states import bind_states
from qcompile.ops.interpreter import Interpreter
from qcompile.passmgr import PassManager

INPUTS, HIDDEN, STEPS = 16, 24, 6


def cell(kept: tuple[str, str] = ("h", "h_next")) -> Any:
    """Return h' = tanh(W x + U h + b), y = V h'."""
    rng = np.random.default_rng(1)
    shapes = {"w": (INPUTS, HIDDEN), "u": (HIDDEN, HIDDEN), "b": (HIDDEN,), "v": (HIDDEN, 5)}
    tensors = [numpy_helper.from_array(rng.normal(0, 0.4, s).astype("f4"), n) for n, s in shapes.items()]
    before, after = kept
    steps = [("MatMul", "x w xw"), ("MatMul", f"{before} u hu"), ("Add", "xw hu s"), ("Add", "s b t"),
             ("Tanh", f"t {after}"), ("MatMul", f"{after} v y")]  # fmt: skip
    nodes = [helper.make_node(op, names.split()[:-1], names.split()[-1:]) for op, names in steps]
    kinds = {"x": (1, INPUTS), before: (1, HIDDEN), after: (1, HIDDEN), "y": (1, 5)}
    infos = {n: helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in kinds.items()}
    graph = helper.make_graph(nodes, "cell", [infos["x"], infos[before]], [infos["y"], infos[after]], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cell") / "cell.onnx"
    onnx.save(cell(), path)
    return path


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return np.random.default_rng(2).normal(0, 1, (STEPS, 1, INPUTS)).astype(np.float32)


def reference(frames: np.ndarray, start: float = 0.0) -> np.ndarray:
    t = {x.name: numpy_helper.to_array(x).astype("f8") for x in cell().graph.initializer}
    h, results = np.full((1, HIDDEN), start), []
    for x in frames:
        h = np.tanh(x @ t["w"] + h @ t["u"] + t["b"])
        results.append(h @ t["v"])
    return np.array(results)


def compiled(model: Path, folder: Path, frames: np.ndarray, **settings: Any) -> runtime.Session:
    samples = [{"x": x} for x in frames] if settings["precision"] == "int8" else None
    settings = {"state": ["auto"], **settings}
    qcompile.compile(model, target="host", calibration=samples, output=folder, **settings)
    return runtime.load(folder)


def test_float(model: Path, frames: np.ndarray, tmp_path: Path) -> None:
    session = compiled(model, tmp_path / "b", frames, precision="fp32", state=["h_next=h"], state_initial={"h": 0.25})
    assert [t.name for t in session.inputs] == ["x"]
    assert [t.name for t in session.outputs] == ["y"]
    assert [(t.name, t.dtype, t.shape) for t in session.states] == [("h", "float32", (1, HIDDEN))]
    for _ in range(2):
        got = np.array([session.run({"x": x})["y"] for x in frames])
        np.testing.assert_allclose(got, reference(frames, 0.25), atol=1e-5)
        session.reset()
    np.testing.assert_array_equal(session.state("h"), np.full((1, HIDDEN), 0.25, np.float32))
    session.set_state("h", np.zeros((1, HIDDEN), np.float32))
    np.testing.assert_allclose(session.run({"x": frames[0]})["y"], reference(frames)[0], atol=1e-5)
    with pytest.raises(UsageError, match="keeps no 'c'"):
        session.state("c")
    with pytest.raises(UsageError, match="shape"):
        session.set_state("h", np.zeros(3, np.float32))


def integer_graph(model: Path, frames: np.ndarray) -> Graph:
    config = driver.resolve_config(model, None, {"state": ["auto"]})
    context, samples, graph = driver.prepare(model, config, [{"x": x} for x in frames], None)
    simplified, _ = driver.simplify(graph, config, context, ())
    assert samples is not None
    # Not what the driver would do by itself: it may protect the accuracy of so small a network by floats.
    text = f"{pipelines.quantization(config)},{pipelines.FINISH_FLOAT}"
    return PassManager(text).run(simplified, context)


def simulated(graph: Graph, frames: np.ndarray) -> np.ndarray:
    kept, results, interpreter = initial_states(graph), [], Interpreter(graph)
    for x in frames:
        made = interpreter.run({"x": x, **kept})
        kept = {state.input: made[state.output] for state in graph.states}
        results.append(made["y"])
    return np.array(results)


def test_integers_are_the_same_everywhere(model: Path, frames: np.ndarray, tmp_path: Path) -> None:
    graph = integer_graph(model, frames)
    expected = simulated(graph, frames)
    bundles.write_bundle(lower_graph(graph, targets.host()), tmp_path / "b")
    session = runtime.load(tmp_path / "b")
    assert session.states[0].dtype == "int8"
    assert session.manifest["states"][0]["output"] == "h_next"
    np.testing.assert_array_equal(np.array([session.run({"x": x})["y"] for x in frames]), expected)
    noise = np.abs(expected - reference(frames)).max()
    assert noise < 0.1 * np.abs(reference(frames)).max()
    np.save(tmp_path / "x.npy", frames)
    command = [tmp_path / "b/bin/qcrun", "--sequence", tmp_path / "x.npy", "--output", tmp_path / "y.bin"]
    subprocess.run([str(word) for word in command], check=True, capture_output=True)
    np.testing.assert_array_equal(np.fromfile(tmp_path / "y.bin", np.float32).reshape(expected.shape), expected)


@pytest.mark.arm
def test_arm(model: Path, frames: np.ndarray, tmp_path: Path, qemu_aarch64: str) -> None:
    graph = integer_graph(model, frames)
    executable = tmp_path / "model"
    executable.write_bytes(bundles.build_executable(lower_graph(graph, targets.load("rpi4"))))
    executable.chmod(0o755)
    frames.tofile(tmp_path / "x.bin")
    command = [
        qemu_aarch64,
        "-cpu",
        "cortex-a72",
        executable,
        "--sequence",
        tmp_path / "x.bin",
        "--output",
        tmp_path / "y",
    ]
    subprocess.run([str(word) for word in command], check=True, capture_output=True, timeout=120)
    expected = simulated(graph, frames)
    np.testing.assert_array_equal(np.fromfile(tmp_path / "y", np.float32).reshape(expected.shape), expected)


@pytest.mark.parametrize(
    ("before", "after"),
    [("h", "h_next"), ("h", "hn"), ("state", "stateN"), ("past_key", "present_key"), ("h_in", "h_out"), ("h0", "hn"),
     ("past_key_values.0.key", "present.0.key"), ("prev_h", "new_h"), ("h", "next_h")],
)  # fmt: skip
def test_names_that_suggest_a_pair(before: str, after: str) -> None:
    graph = import_onnx(cell((before, after)))
    bind_states(graph, ["auto"])
    assert [(s.output, s.input) for s in graph.states] == [(after, before)]


@pytest.mark.parametrize(
    ("wanted", "initial", "message"),
    [
        (["auto"], {"q": 1.0}, "no state 'q'"),
        (["h_next"], {}, "not OUTPUT=INPUT"),
        (["h_nxt=h"], {}, "no output 'h_nxt'"),
        (["h_next=k"], {}, "no input 'k'"),
        (["y=h"], {}, "output 'y' is f32"),
        (["h_next=h", "y=x"], {}, "output 'y' is f32"),
        (["auto"], {"h": "nowhere.npy"}, "cannot read the start"),
    ],
)
def test_refusals(wanted: list[str], initial: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        bind_states(import_onnx(cell()), wanted, initial)
    assert caught.value.hint or "cannot read" in message


def test_nothing_looks_like_a_pair() -> None:
    with pytest.raises(UsageError, match="no output looks like the next value"):
        bind_states(import_onnx(cell(("before", "after"))), ["auto"])
