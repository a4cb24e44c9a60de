"""Loops in bundles: the same answers as ONNX Runtime's, and as the interpreter's in integers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import qcompile
from qcompile import driver, targets
from qcompile.bundle import read_manifest
from qcompile.config import CompileConfig
from qcompile.export import export_qdq
from qcompile.ir.graph import Graph
from qcompile.ir.regions import regions
from qcompile.lower import lower_graph
from qcompile.onnx_import import import_onnx
from qcompile.onnx_import.compositions import recurrent as recurrent_operators
from qcompile.ops.interpreter import Interpreter
from qcompile.passmgr import PassContext

from .rolled_models import Case, conditional, greedy, recurrent, scanning, summing
from .test_bit_exact import CORES

LONG = {
    "lstm": lambda: recurrent("LSTM", "bidirectional", steps=3000, batch=1),
    "loop": lambda: summing(9_000),
    "ended early": lambda: conditional(20.0, trips=12, collect=True),
    "decoder": lambda: greedy(9, 0.75),
    "ended late": lambda: conditional(1e9, trips=5, collect=True),
}


def session_of(case: Case, folder: Path, **options: Any) -> Any:
    """Return a loaded bundle of a model for this machine."""
    onnx.save(case[0], folder / "model.onnx")
    qcompile.compile(folder / "model.onnx", target="host", output=folder / "bundle", **options)
    return qcompile.runtime.load(folder / "bundle", threads=2)


@pytest.mark.parametrize("name", list(LONG))
def test_bundles_answer_as_onnx_runtime(name: str, tmp_path: Path) -> None:
    model, feeds = LONG[name]()
    reference = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in reference.get_outputs()]
    with session_of((model, feeds), tmp_path, precision="fp32") as session:
        for scale in (1.0, 0.5):
            given = {key: array if key == "limit" else (array * scale).astype("f4") for key, array in feeds.items()}
            answer = session.run(given)
            for key, expected in zip(names, reference.run(names, given), strict=True):
                assert answer[key].shape == expected.shape
                np.testing.assert_allclose(answer[key], expected, 1e-4, 1e-5, err_msg=key)


def test_profiles_and_manifests_know_loops(tmp_path: Path) -> None:
    model, feeds = recurrent("LSTM", "forward", steps=2500, batch=1)
    with session_of((model, feeds), tmp_path, precision="fp32") as session:
        manifest = read_manifest(tmp_path / "bundle")
        (loop,) = manifest["loops"]
        assert (loop["trips"], loop["conditional"]) == (2500, False)
        inside = manifest["steps"][loop["first"] : loop["last"] + 1]
        (product,) = [step for step in inside if step["op"] == "dense"]
        assert product["macs"] == 2500 * 16 * 4
        profile = session.profile(feeds)
        times = [step["ns"] for step in profile]
        # Each of the loop's steps ran 2,500 times: no clock is so coarse that it took nothing.
        assert all(times[loop["first"] : loop["last"] + 1])


@pytest.fixture
def quantized(monkeypatch: pytest.MonkeyPatch) -> tuple[Graph, dict[str, Any]]:
    """A recurrent network in integers whose steps are a loop, and an input."""
    monkeypatch.setattr(recurrent_operators, "STEPS_LIMIT", 0)
    model, feeds = recurrent("GRU", "forward", steps=24, batch=1, hidden=16)
    rng = np.random.default_rng(7)
    config, context = CompileConfig(precision="int8"), PassContext()
    context.samples = lambda: iter([{"x": rng.normal(0, 1, (24, 1, 3)).astype("f4")} for _ in range(8)])
    graph, _ = driver.simplify(import_onnx(model), config, context, ())
    return driver.to_precision(graph, config, context, ())[0], feeds


def test_layers_within_a_loop_are_quantized(quantized: tuple[Graph, dict[str, Any]]) -> None:
    graph, feeds = quantized
    (region,) = regions(graph.nodes)
    layers = [node for node in region.nodes if node.op.name == "dense"]
    assert layers
    assert all(node.is_integer for node in layers)
    assert all(old.dtype in ("float32", "int16") for old, _, _ in region.states)
    # Their operands' ranges are those of all iterations: a later step is no less exact than the first.
    float_graph = import_onnx(recurrent("GRU", "forward", steps=24, batch=1, hidden=16)[0])
    exact, found = (Interpreter(g).run(feeds)["y"][:, 0, 0] for g in (float_graph, graph))
    error = np.square(exact - found).mean(axis=1)
    assert error.mean() < 0.04**2 * np.square(exact).mean()
    assert error[12:].mean() < 3 * error[:12].mean()


def test_loops_are_written_to_onnx_as_their_copies(tmp_path: Path) -> None:
    model, feeds = recurrent("LSTM", "forward", steps=10, batch=1, hidden=8)
    onnx.save(model, tmp_path / "m.onnx")
    rng = np.random.default_rng(1)
    samples = [{"x": rng.normal(0, 1, (10, 1, 3)).astype("f4")} for _ in range(8)]
    written = export_qdq(tmp_path / "m.onnx", tmp_path / "q.onnx", calibration=samples)
    assert written.integer > 10 * 8
    options = onnxruntime.SessionOptions()
    # Its optimizer turns dense layers into Gemm and gives the quantization of their operand two types.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    sessions = [
        onnxruntime.InferenceSession(str(tmp_path / file), options, providers=["CPUExecutionProvider"])
        for file in ("m.onnx", "q.onnx")
    ]
    expected, found = (session.run(["y"], feeds)[0] for session in sessions)
    assert np.square(found - expected).mean() < 0.05**2 * np.square(expected).mean()


@pytest.mark.arm
def test_machines_agree(quantized: tuple[Graph, dict[str, Any]], run_emulated: Any, tmp_path: Path) -> None:
    graph, feeds = quantized
    expected = Interpreter(graph).run(feeds)
    qcompile.bundle.write_bundle(lower_graph(graph, targets.host()), tmp_path / "host")
    with qcompile.runtime.load(tmp_path / "host") as session:
        here = session.run(feeds)
    there = run_emulated(lower_graph(graph, targets.load("rpi4")), CORES["rpi4"], feeds, 2)
    for name, array in expected.items():
        np.testing.assert_array_equal(here[name], there[name])
        # What of a step stays in float rounds as a kernel's arithmetic does.
        np.testing.assert_allclose(here[name], array, 0, 2e-4)


def test_scan_stays_a_loop_in_a_bundle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from qcompile.onnx_import import control_flow

    monkeypatch.setattr(control_flow, "UNROLLED_LIMIT", 0)
    model, feeds = scanning((1, 1), (1, 0))
    reference = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    with session_of((model, feeds), tmp_path, precision="fp32") as session:
        assert read_manifest(tmp_path / "bundle")["loops"][0]["trips"] == 6
        answer = session.run(feeds)
    for name, expected in zip(("last", "all"), reference.run(None, feeds), strict=True):
        np.testing.assert_allclose(answer[name], expected, 1e-5, 1e-6)
