"""The peers' columns of accuracy.py, with this Python as the peers' own: it has ONNX Runtime."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

BENCH = Path(__file__).parent

SAMPLES = """
import numpy as np
def samples():
    random = np.random.default_rng(1)
    return [{"x": random.normal(size=(1, 16)).astype(np.float32)} for _ in range(32)]
"""

DIES = """
import sys
print('{"seconds": 1.0, "megabytes": 2.0, "notes": []}', flush=True)
sys.exit(3)
"""


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the module under test; its neighbours import each other by their plain names."""
    monkeypatch.syspath_prepend(str(BENCH))
    import accuracy_peers

    return accuracy_peers


@pytest.fixture
def row(bench: Any, tmp_path: Path) -> tuple[Any, dict[str, Any]]:
    """Return a task for a perceptron, and what the float network answered."""
    from accuracy_data import Network, Recorder, Row, float_run

    (tmp_path / "given.py").write_text(SAMPLES)
    network = Network(perceptron(tmp_path / "net.onnx"), f"{tmp_path / 'given.py'}:samples")
    random = np.random.default_rng(2)
    inputs = [{"x": random.normal(size=(1, 16)).astype(np.float32)} for _ in range(40)]
    exact = float_run(network.path)
    labels = [int(exact(x)["y"].argmax()) for x in inputs]

    def evaluate(runs: Mapping[str, Any]) -> float:
        return float(np.mean([runs["net"](x)["y"].argmax() == label for x, label in zip(inputs, labels, strict=True)]))

    made = Row({"net": network}, "classes, 40", evaluate, classes=True)
    recorders = {"net": Recorder(exact)}
    assert made.evaluate(recorders) == 1.0
    return made, recorders


def perceptron(path: Path) -> Path:
    random = np.random.default_rng(0)
    arrays = {"w0": (16, 32), "b0": (32,), "w1": (32, 5), "b1": (5,)}
    constants = [numpy_helper.from_array(random.normal(size=s).astype(np.float32), n) for n, s in arrays.items()]
    nodes = [
        helper.make_node("Gemm", ["x", "w0", "b0"], ["h"], name="hidden"),
        helper.make_node("Relu", ["h"], ["r"], name="rectified"),
        helper.make_node("Gemm", ["r", "w1", "b1"], ["y"], name="scores"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 16])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 5])
    graph = helper.make_graph(nodes, "perceptron", [x], [y], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_each_tool_gives_a_value_or_the_reason_why_not(bench: Any, row: Any, tmp_path: Path):
    found = bench.Peers(sys.executable, tmp_path / "peers", None).outcomes("perceptron", *row)
    assert list(found) == [tool.title for tool in bench.TOOLS]
    for title in ("ONNX Runtime static", "ONNX Runtime dynamic"):
        outcome = found[title]
        assert not outcome.fails
        assert outcome.value == outcome.agreement >= 0.9
        assert 20 < outcome.sqnr_db < 60
        assert outcome.seconds > 0
        assert outcome.megabytes > 10
    if importlib.util.find_spec("nncf") is None:
        assert "ModuleNotFoundError: No module named 'nncf'" in found["OpenVINO + NNCF"].fails
    else:
        assert found["OpenVINO + NNCF"].value >= 0.9


def test_kept_results_are_used_until_something_they_depend_on_changes(
    bench: Any, row: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(bench, "TOOLS", (bench.Tool("dynamic", ("onnxruntime-dynamic",)),))
    peers = bench.Peers(sys.executable, tmp_path / "peers", tmp_path / "kept")
    first = peers.outcomes("perceptron", *row)

    def nobody(*_: Any) -> None:
        raise AssertionError("a process was started")

    with monkeypatch.context() as patch:
        patch.setattr(bench, "PeerProcess", nobody)
        assert peers.outcomes("perceptron", *row) == first
    given = Path(row[0].networks["net"].calibration.partition(":")[0])
    given.write_text(SAMPLES.replace("default_rng(1)", "default_rng(7)"))
    monkeypatch.setattr(bench, "PeerProcess", nobody)
    with pytest.raises(AssertionError, match="was started"):
        peers.outcomes("perceptron", *row)


def test_a_peer_that_dies_fails_its_row_only(bench: Any, row: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    server = tmp_path / "dies.py"
    server.write_text(DIES)
    monkeypatch.setattr(bench, "SERVER", server)
    found = bench.Peers(sys.executable, tmp_path / "peers", None).outcomes("perceptron", *row)
    assert {outcome.fails for outcome in found.values()} == {"its process ended with 3"}


def test_a_peer_python_that_is_not_there_is_refused():
    command = [sys.executable, str(BENCH / "accuracy.py"), "g2p", "--peer-python", "/no/such/python"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "--peer-python: '/no/such/python' is not an executable file" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_a_tool_refuses_is_changed_as_users_do(bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import peer_server

    model = perceptron(tmp_path / "net.onnx")
    tried: list[str] = []

    def attempt(peer: str, given: str, samples: str, folder: Path) -> Any:
        tried.append(Path(given).name)
        if tried[-1] != "folded.onnx":
            raise RuntimeError("Exception from core.cpp:84:\nCheck 'false' failed at report.cpp:151:\nno such rank")
        return len, {"seconds": 1.0, "megabytes": 2.0, "notes": []}

    monkeypatch.setattr(peer_server, "_attempt", attempt)
    run, report = peer_server.prepared("any", str(model), "none", tmp_path)
    # Its opset is new enough: only constants are left to fold.
    assert tried == ["net.onnx", "folded.onnx"]
    assert run is len
    assert report["notes"] == ["the model as it is fails: RuntimeError: no such rank", "constants folded by hand"]
    assert (tmp_path / "folded.onnx").stat().st_size > 0
