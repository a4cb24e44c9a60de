"""`qcompile eval` of bundles with open extents, states and fixed inputs: here, on a device, beside float."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from qcompile import driver
from qcompile.cli import run_command
from qcompile.errors import BundleError, UsageError
from qcompile.evaluate.engine import BundleEngine
from qcompile.evaluate.remote import RemoteEngine

FUNCTION = """
import numpy as np
def samples():
    random = np.random.default_rng(7)
    return [{"x": random.normal(size=(1, n, 6)).astype(np.float32)} for n in (1, 9, 4, 12, 4, 7, 2, 11, 5)]
"""


def save(path: Path, nodes: list[onnx.NodeProto], inputs: dict, outputs: dict, weights: dict) -> Path:
    infos = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in given.items()]
        for given in (inputs, outputs)
    ]
    constants = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "net", *infos, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """A layer on rows of an open number, and their mean, with samples of many lengths."""
    folder, random = tmp_path_factory.mktemp("rows"), np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "v"], ["each"]),
        helper.make_node("ReduceMean", ["each"], ["all"], axes=[1], keepdims=0),
    ]
    model = save(
        folder / "rows.onnx", nodes, {"x": [1, "S", 6]}, {"each": [1, "S", 8], "all": [1, 8]},
        {"w": random.normal(size=(6, 32)), "v": random.normal(size=(32, 8))},
    )  # fmt: skip
    (folder / "given.py").write_text(FUNCTION)
    data = f"{folder / 'given.py'}:samples"
    made = driver.compile(
        model, precision="int8", calibration=data, input_shapes={"x": [1, "S:1..12", 6]}, output=folder / "bundle"
    )
    return made.path, model, data


@pytest.fixture(scope="module")
def recurrent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, random = tmp_path_factory.mktemp("recurrent"), np.random.default_rng(1)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("MatMul", ["h", "u"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["c"]),
        helper.make_node("Tanh", ["c"], ["h_next"]),
        helper.make_node("MatMul", ["h_next", "o"], ["y"]),
    ]
    weights = {"w": (6, 10), "u": (10, 10), "o": (10, 3)}
    np.savez(folder / "data.npz", x=random.normal(size=(24, 1, 6)).astype(np.float32))
    return save(
        folder / "net.onnx", nodes, {"x": [1, 6], "h": [1, 10]}, {"y": [1, 3], "h_next": [1, 10]},
        {name: random.normal(size=shape) * 0.4 for name, shape in weights.items()},
    )  # fmt: skip


def found(capsys: pytest.CaptureFixture[str], *command: object) -> dict:
    assert run_command(["eval", *map(str, command), "--json"]) == 0, capsys.readouterr().err
    answer: dict = json.loads(capsys.readouterr().out)
    return answer


def decibels(expected: list[np.ndarray], actual: list[np.ndarray]) -> float:
    signal, noise = (sum(float((a.astype(np.float64) ** 2).sum()) for a in part) for part in (
        expected, [e.astype(np.float64) - a for e, a in zip(expected, actual, strict=True)]))  # fmt: skip
    return float(10 * np.log10(signal / noise))


def test_samples_of_all_sizes_are_compared_with_float(
    rows: tuple[Path, Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, model, data = rows
    session, given = onnxruntime.InferenceSession(model), {}
    exec(FUNCTION, given)
    with BundleEngine(bundle) as engine:
        answers = [(session.run(["each"], s)[0], engine(s)["each"]) for s in given["samples"]()]
    command = [bundle, "--data", data, "--reference", model, "--metric", "sqnr{output=each}"]
    expected = decibels(*map(list, zip(*answers, strict=True)))
    assert found(capsys, *command)["model"]["value"] == pytest.approx(expected, abs=1e-3)
    # The shapes that the user gives for the float model hold.
    assert run_command(["eval", *map(str, command), "--input-shape", "x=1,S:1..3,6"]) == 2
    assert "'x'" in capsys.readouterr().err


def test_a_device_takes_and_returns_every_size(
    rows: tuple[Path, Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, model, data = rows
    with BundleEngine(bundle) as here, RemoteEngine(bundle, "local") as there:
        assert there.inputs == here.inputs
        for n in (5, 1, 12, 3):
            x = np.random.default_rng(n).normal(size=(1, n, 6)).astype(np.float32)
            answers = here({"x": x}), there({"x": x})
            assert answers[1]["each"].shape == (1, n, 8)
            for name, array in answers[0].items():
                np.testing.assert_array_equal(answers[1][name], array)
        with pytest.raises(UsageError, match="S is 13"):
            there({"x": np.zeros((1, 13, 6), np.float32)})
    command = [bundle, "--data", data, "--reference", model, "--metric", "sqnr"]
    assert found(capsys, *command, "--device", "local") == found(capsys, *command)


def test_extents_that_are_kept_are_refused_on_a_device(rows: tuple[Path, Path, str], tmp_path: Path) -> None:
    shutil.copytree(rows[0], tmp_path / "b")
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    manifest["symbols"][0]["kept"] = "some"
    (tmp_path / "b" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="'S' is kept from the first run on"):
        RemoteEngine(tmp_path / "b", "local")


@pytest.mark.parametrize("device", [[], ["--device", "local"]])
def test_the_float_model_keeps_what_the_bundle_keeps(
    recurrent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], device: list[str]
) -> None:
    data = recurrent.with_name("data.npz")
    made = driver.compile(
        recurrent, precision="int8", calibration=str(data), state=["auto"], output=tmp_path / "b"
    ).path
    session, h, answers = onnxruntime.InferenceSession(recurrent), np.zeros((1, 10), np.float32), []
    with BundleEngine(made) as engine:
        for x in np.load(data)["x"]:
            y, h = session.run(None, {"x": x, "h": h})
            answers.append((y, engine({"x": x})["y"]))
    result = found(capsys, made, "--data", data, "--reference", recurrent, "--metric", "sqnr", *device)
    assert result["model"]["value"] == pytest.approx(decibels(*map(list, zip(*answers, strict=True))), abs=1e-3)
    assert any("'h' is kept between runs: the samples are taken as one sequence" in n for n in result["notes"])


def test_the_float_model_has_the_same_inputs_fixed(
    recurrent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = recurrent.with_name("data.npz")
    made = driver.compile(
        recurrent, precision="int8", calibration=str(data), input_values={"h": 0.5}, output=tmp_path / "b"
    ).path
    session, h, answers = onnxruntime.InferenceSession(recurrent), np.full((1, 10), 0.5, np.float32), []
    with BundleEngine(made) as engine:
        for x in np.load(data)["x"]:
            answers.append((session.run(["y"], {"x": x, "h": h})[0], engine({"x": x})["y"]))
    expected = decibels(*map(list, zip(*answers, strict=True)))
    command = [made, "--data", data, "--reference", recurrent, "--metric", "sqnr{output=y}"]
    assert found(capsys, *command)["model"]["value"] == pytest.approx(expected, abs=1e-3)
    # Another value, if the user says so.
    assert found(capsys, *command, "--input-value", "h=0")["model"]["value"] < expected - 3
