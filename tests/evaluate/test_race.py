"""Races: names of runtimes, standings, errors. Contenders are real processes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import onnx
import pytest

from qcompile import driver
from qcompile.errors import BundleError, UsageError
from qcompile.evaluate import race as racing
from qcompile.report.standings import race_and_print, standings_text


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model of one small convolution, and its float bundle."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    folder = tmp_path_factory.mktemp("race")
    weight = np.random.default_rng(0).standard_normal((8, 3, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], name="conv")],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, 16, 16))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 8, 14, 14))],
        [numpy_helper.from_array(weight, "w")],
    )
    model = folder / "tiny.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), model)
    driver.compile(model, target="host", precision="fp32", output=folder / "bundle")
    return folder / "bundle", model


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("onnxrunime", "unknown runtime 'onnxrunime'"),
        ("litert", "takes .tflite files"),
        ("litert=none.tflite", "there is no such file"),
        ("onnxruntime,onnxruntime", "does not name each runtime once"),
        ("", "does not name each runtime once"),
    ],
)
def test_wrong_names_are_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        racing.parse_peers(text)


def test_a_typo_gets_a_suggestion() -> None:
    with pytest.raises(UsageError) as caught:
        racing.parse_peers("onnxrunime")
    assert "onnxruntime" in (caught.value.hint or "")


def test_both_options_are_needed(tiny: tuple[Path, Path]) -> None:
    with pytest.raises(UsageError, match="needs the model"):
        race_and_print(tiny[0], None, "onnxruntime", threads=1, runs=1, as_json=False)
    with pytest.raises(UsageError, match="for a comparison"):
        race_and_print(tiny[0], tiny[1], None, threads=1, runs=1, as_json=False)


def test_a_runtime_that_is_not_installed_is_named(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    with pytest.raises(UsageError, match="openvino, nncf cannot be imported") as caught:
        racing.race(*tiny, ["openvino"], pythons={"openvino": str(broken)})
    assert caught.value.hint == "pip install 'qcompile[bench]'"


def test_a_missing_model_is_refused(tiny: tuple[Path, Path]) -> None:
    with pytest.raises(UsageError, match="is not a file"):
        racing.race(tiny[0], tiny[1].with_name("other.onnx"), ["onnxruntime"])


def test_onnxruntime_is_raced(tiny: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    result = racing.race(*tiny, ["onnxruntime"], rounds=3, folder=tmp_path)
    assert [s.runtime for s in result.standings] == ["qcompile", "onnxruntime"]
    assert result.precision == "float32"
    assert result.standings[0].ratio == 1.0
    assert all(0 < s.fastest_ms <= s.median_ms for s in result.standings)
    assert result.best.runtime == "onnxruntime"
    assert f"{result.best.ratio:.2f} times as fast" in standings_text(result)
    assert (tmp_path / "tiny.onnxruntime.float32.onnx").exists()
    assert result.notes == ()
    race_and_print(*tiny, "onnxruntime", threads=1, runs=1, as_json=True)
    assert len(json.loads(capsys.readouterr().out)["standings"]) == 2


def test_another_model_than_the_bundles_is_noted(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    other = tmp_path / "other.onnx"
    model = onnx.load(tiny[1])
    model.doc_string = "trained longer"
    onnx.save(model, other)
    result = racing.race(tiny[0], other, ["onnxruntime"], rounds=1)
    assert result.notes[0].startswith(f"'{other}' is not the file that the bundle was made from")
    assert f"note: '{other}'" in standings_text(result)


def test_a_model_that_a_runtime_cannot_take_is_reported(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"\x08\x08garbage")
    with pytest.raises(BundleError, match="onnxruntime cannot take") as caught:
        racing.race(tiny[0], broken, ["onnxruntime"], folder=tmp_path, pythons={"onnxruntime": sys.executable})
    assert caught.value.hint == "--model takes the file that the bundle was made from, which this is not"


def test_of_the_bundles_own_model_a_runtime_that_cannot_take_it_needs_another(
    tiny: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")

    def refuse(name: str, *_: object) -> Path:
        raise BundleError(f"{name} cannot take it")

    monkeypatch.setattr(racing, "_prepared", refuse)
    with pytest.raises(BundleError) as caught:
        racing.race(*tiny, ["onnxruntime"])
    assert caught.value.hint == "give it a model of its own: --against onnxruntime=FILE.onnx"


LITERT = """
import numpy as np
__version__ = "2.3"
class Interpreter:
    def __init__(self, model_path, num_threads):
        assert open(model_path).read() == "flatbuffer"
        self.threads = num_threads
    def allocate_tensors(self):
        pass
    def get_input_details(self):
        return [{"index": 3, "shape": np.array([1, 4]), "dtype": np.int8}]
    def set_tensor(self, index, value):
        assert (index, value.shape, value.dtype) == (3, (1, 4), np.int8)
    def invoke(self):
        sum(range(100))
"""


def test_litert_races_with_a_model_of_its_own(
    tiny: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package = tmp_path / "ai_edge_litert"
    package.mkdir()
    (package / "__init__.py").write_text('__version__ = "2.3"\n')
    (package / "interpreter.py").write_text(LITERT)
    (tmp_path / "m.tflite").write_text("flatbuffer")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    race_and_print(tiny[0], None, f"litert={tmp_path}/m.tflite", threads=1, runs=5, as_json=True)
    ours, theirs = json.loads(capsys.readouterr().out)["standings"]
    assert (ours["runtime"], theirs["runtime"], theirs["version"]) == ("qcompile", "litert", "2.3")
    assert theirs["median_ms"] > 0
    assert theirs["ratio"] > 0
