"""`import qcompile`: the same words as on the command line."""

from __future__ import annotations

import pydoc
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from small_classifier import classifier, samples

import qcompile
from qcompile.config import CompileConfig
from qcompile.errors import CalibrationError, QCompileError, UsageError


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_compile_and_run(model: Path, tmp_path: Path) -> None:
    given = [{"x": x} for x in samples()]
    bundle = qcompile.compile(model, target="host", precision="int8", calibration=given, output=tmp_path / "b")
    assert bundle.path == tmp_path / "b"
    assert bundle.manifest["calibration"]["samples"] == 4
    assert bundle.report.read_text().startswith("<!doctype html>")
    assert bundle.check is not None
    assert bundle.check.exact
    with qcompile.runtime.load(tmp_path / "b", threads=2) as session:
        outputs = session.run({"x": given[0]["x"]})
    assert list(outputs) == ["logits"]
    assert outputs["logits"].dtype == np.float32


def test_arguments_and_options_mean_the_same(model: Path, calibration: Path, tmp_path: Path) -> None:
    from qcompile.cli import run_command

    words = ["--calib", calibration, "--observer", "minmax", "--keep-float", "head", "--quiet", "-o", tmp_path / "a"]
    assert run_command([str(model), *map(str, words)]) == 0
    settings = {"observer": "minmax", "keep_float": ["head"]}
    qcompile.compile(model, calibration=calibration, output=tmp_path / "b", **settings)
    qcompile.compile(str(model), calibration=str(calibration), config=settings, output=str(tmp_path / "c"))
    record = CompileConfig(calib=str(calibration), observer="minmax", keep_float=("head",))
    qcompile.compile(model, config=record, output=tmp_path / "d")
    first = contents(tmp_path / "a")
    for name in "bcd":
        assert contents(tmp_path / name) == first, name


def test_a_generator_is_enough(model: Path, tmp_path: Path) -> None:
    def endless() -> Iterator[dict[str, np.ndarray]]:
        while True:
            yield from ({"x": x} for x in samples())

    bundle = qcompile.compile(model, calibration=endless(), samples=6, output=tmp_path / "b")
    assert bundle.manifest["calibration"]["samples"] == 6
    assert bundle.manifest["recipe"]["accuracy"]["verified"] is True


def test_bare_arrays_for_a_single_input(model: Path, tmp_path: Path) -> None:
    bundle = qcompile.compile(model, calibration=samples(3), output=tmp_path / "b")
    assert bundle.manifest["calibration"]["samples"] == 3


def test_input_shapes(tmp_path: Path) -> None:
    onnx.save(classifier("n"), tmp_path / "m.onnx")
    shape = np.array([2, 3, 8, 8])
    bundle = qcompile.compile(tmp_path / "m.onnx", precision="fp32", input_shapes={"x": shape}, output=tmp_path / "b")
    assert bundle.manifest["outputs"][0]["shape"] == [2, 4]
    with pytest.raises(UsageError, match=r"input_shapes\.x is 3, expected a list"):
        qcompile.compile(tmp_path / "m.onnx", input_shapes={"x": 3}, output=tmp_path / "c")  # type: ignore[dict-item]


def test_progress_is_reported(model: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    qcompile.compile(model, calibration=samples(), output=tmp_path / "b", progress=lambda *report: seen.append(report))
    for what in ("calibrating", "comparing with float", "compiling kernels", "linking"):
        last = [report for report in seen if report[2] == what][-1]
        assert last[0] == last[1] > 0, what


def test_whole_numbers_may_have_a_point(model: Path, tmp_path: Path) -> None:
    """YAML and Python both write them so now and then: they mean the same bundle."""
    bundles = [
        qcompile.compile(model, calibration=samples(), output=tmp_path / name, seed=seed, samples=count)
        for name, seed, count in (("a", 1, 4), ("b", 1.0, 4.0))
    ]
    assert bundles[0].manifest == bundles[1].manifest
    recorded = bundles[1].manifest["recipe"]["configuration"]
    assert [type(recorded[name]) for name in ("seed", "samples")] == [int, int]


def test_faults(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown setting 'obsever'") as caught:
        qcompile.compile(model, output=tmp_path / "b", obsever="mse")
    assert caught.value.hint == "did you mean 'observer'?"
    with pytest.raises(UsageError, match="precision is 'int4'"):
        qcompile.compile(model, output=tmp_path / "b", precision="int4")
    wrong = [samples()[0], np.zeros((1, 3, 8), np.float32)]
    with pytest.raises(CalibrationError, match=r"samples\[1\]: shape \[1, 3, 8\]"):
        qcompile.compile(model, output=tmp_path / "b", calibration=wrong)
    with pytest.raises(UsageError, match="not an iterable of samples"):
        qcompile.compile(model, output=tmp_path / "b", calibration=3)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_names_of_the_package() -> None:
    for name in qcompile.__all__:
        assert getattr(qcompile, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'compiel'"):
        _ = qcompile.compiel  # type: ignore[attr-defined]
    assert {*qcompile.__all__} <= {*dir(qcompile)}
    text = pydoc.render_doc(qcompile, renderer=pydoc.plaintext)  # type: ignore[attr-defined]
    for words in ("compile(model: ", "class Graph", "class Pass", "import_onnx(", "run_pipeline("):
        assert words in text


def test_the_loader_needs_no_compiler(bundle: Path) -> None:
    code = (
        "import sys, numpy as np, qcompile.runtime\n"
        f"session = qcompile.runtime.load({str(bundle)!r})\n"
        "print(session.run(session.zeros())['logits'].shape)\n"
        "print([m for m in ('tvm', 'onnx', 'networkx', 'typer', 'rich', 'yaml', 'jinja2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "(1, 4)\n[]\n"


def test_a_table_behind_a_layer_of_16_bits(tmp_path: Path) -> None:
    """The layer's result has 8 bits, as what reads it, but its kernel looks nothing up."""
    graph = classifier().graph
    for node in graph.node:
        node.op_type = "Sigmoid" if node.op_type == "Relu" else node.op_type
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)]), tmp_path / "m.onnx")
    settings = {"keep_int16": ["stem"], "keep_float": []}
    given = [{"x": x} for x in samples()]
    bundle = qcompile.compile(tmp_path / "m.onnx", calibration=given, output=tmp_path / "b", **settings)
    steps = {step["node"]: step["precision"] for step in bundle.manifest["steps"]}
    assert (steps["stem"], steps["stem_relu"]) == ("int16", "int8")
    assert bundle.check is not None
    assert bundle.check.exact


def test_paths_and_numbers_of_numpy_are_settings(model: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("a\nb\nc\nd\n")
    given = {"labels": labels, "samples": np.int64(4), "input_shapes": {"x": np.array([1, 3, 8, 8])}, "target": "host"}
    bundle = qcompile.compile(model, calibration=samples(), output=tmp_path / "b", **given)
    assert bundle.manifest["recipe"]["configuration"]["labels"] == "labels.txt"
    assert bundle.manifest["calibration"]["samples"] == 4
    with pytest.raises(UsageError, match="holds no pass"):
        qcompile.compile(model, output=tmp_path / "c", pass_path=[tmp_path])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model": onnx.ModelProto()}, "model is ModelProto, not the path"),
        ({"output": None}, "output is NoneType, not the path"),
        ({"target": 3}, "target is 3, expected a text"),
        ({"config": 3}, "config is int, not a configuration"),
        ({"progress": 3}, "progress is int, not a function"),
        ({"input_shapes": "x=1,3,8,8"}, "input_shapes is 'x=1,3,8,8', expected a mapping"),
        ({"input_shapes": [1, 3, 8, 8]}, "input_shapes is .*, expected a mapping"),
        ({"calibration": [(samples()[0], 3)]}, "is no array"),
    ],
)
def test_arguments_of_the_wrong_type(model: Path, tmp_path: Path, given: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {"model": model, "output": tmp_path / "b", **given}
    with pytest.raises(QCompileError, match=message):
        qcompile.compile(**arguments)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


class Dataset:
    """Samples by number, without an iterator and without an end, as a Dataset of PyTorch may be."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> np.ndarray:
        return samples()[index % 3]


class Faulty:
    """Samples that end in an error."""

    def __iter__(self) -> Iterator[np.ndarray]:
        yield samples()[0]
        raise ValueError("a damaged file")


def test_samples_by_number(model: Path, tmp_path: Path) -> None:
    bundle = qcompile.compile(model, calibration=Dataset(), output=tmp_path / "b")  # type: ignore[arg-type]
    assert bundle.manifest["calibration"]["samples"] == 3


def test_what_samples_raise_is_said_with_its_line(model: Path, tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"ValueError: a damaged file \(.*test_python_api.py, line \d+\)"):
        qcompile.compile(model, calibration=Faulty(), output=tmp_path / "b")  # type: ignore[arg-type]


def test_a_program_stops_a_compilation_by_an_error_of_its_own(model: Path, tmp_path: Path) -> None:
    class Cancelled(Exception):
        pass

    def progress(done: int, total: int, what: str) -> None:
        if what == stage:
            raise Cancelled(what)

    for stage in ("calibrating", "measuring sensitivity", "compiling kernels"):
        with pytest.raises(Cancelled, match=stage):
            qcompile.compile(model, calibration=samples(16), output=tmp_path / "b", progress=progress)
    assert list(tmp_path.iterdir()) == []


def test_the_simulator_runs_from_python(model: Path, tmp_path: Path) -> None:
    """As the README tells: the network in float, and the integers of the bundle."""
    x = samples()[0]
    bundle = qcompile.compile(model, calibration=samples(), output=tmp_path / "b")
    with qcompile.runtime.load(tmp_path / "b") as session:
        answer = session.run({"x": x})["logits"]
    simulated = qcompile.Interpreter(bundle.graph).run({"x": x})["logits"]
    assert simulated.tobytes() == answer.tobytes()
    exact = qcompile.Interpreter(qcompile.import_onnx(model)).run({"x": x})["logits"]
    assert not np.array_equal(exact, answer)
    assert np.allclose(exact, answer, atol=0.2)
