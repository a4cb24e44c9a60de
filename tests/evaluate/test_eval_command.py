"""`qcompile eval` and `qcompile analyze` through the real command line, on a small classifier."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from qcompile import driver
from qcompile.calibrate.sample import InputSpec
from qcompile.cli import run_command
from qcompile.config_files import read_labels
from qcompile.errors import UsageError
from qcompile.evaluate.analysis import Analysis, NodeAnalysis
from qcompile.evaluate.cause import Findings
from qcompile.evaluate.evaluation import InputRanges, evaluate_samples
from qcompile.evaluate.labelled_set import LabelledSet
from qcompile.evaluate.measure import make_measure
from qcompile.report.accuracy_tables import print_analysis


@dataclass(frozen=True)
class Classifier:
    model: str
    bundle: str
    calibration: str
    data: str


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    """A linear classifier whose labels are its own best classes, so that float is right every time."""
    folder = tmp_path_factory.mktemp("classifier")
    generator = np.random.default_rng(3)
    w = generator.normal(size=(16, 5)).astype(np.float32)
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], name="Gemm_0")
    graph = helper.make_graph(
        [node],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 5])],
        [numpy_helper.from_array(w, "w"), numpy_helper.from_array(np.zeros(5, np.float32), "b")],
    )
    model = folder / "linear.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), model)
    x = generator.normal(size=(200, 16)).astype(np.float32)
    np.savez(folder / "test.npz", x=x, labels=(x @ w).argmax(axis=1))
    np.save(folder / "calibration.npy", x[:32])
    bundle = folder / "bundle"
    calibration = str(folder / "calibration.npy")
    assert run_command([str(model), "--calib", calibration, "-o", str(bundle), "-q"]) == 0
    return Classifier(str(model), str(bundle), calibration, str(folder / "test.npz"))


def test_both_columns(classifier: Classifier, capsys: pytest.CaptureFixture[str]) -> None:
    code = run_command(
        ["eval", classifier.bundle, "--data", classifier.data, "--reference", classifier.model, "--json"]
    )
    result = json.loads(capsys.readouterr().out)
    assert code == 0
    assert result["samples"] == 200
    assert result["reference"]["value"] == 1.0
    assert 0.95 < result["model"]["value"] <= 1.0
    assert result["model"]["low"] < result["model"]["value"]
    assert result["difference"]["value"] == pytest.approx(result["model"]["value"] - 1.0)
    assert result["notes"] == []


def test_fail_under(classifier: Classifier, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["eval", classifier.bundle, "--data", classifier.data, "--limit", "50"]
    assert run_command([*command, "--fail-under", "0.9"]) == 0
    text = capsys.readouterr().out
    assert "top1" in text
    assert "50" in text
    command += ["--metric", "sqnr", "--reference", classifier.model]
    assert run_command([*command, "--fail-under", "300"]) == 2
    error = capsys.readouterr().err.splitlines()
    assert sum(line.startswith("error: ") for line in error) == 1
    assert "under the 300 asked for" in next(line for line in error if line.startswith("error"))


def test_errors_fail_where_they_are_over_the_bound(
    classifier: Classifier, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = np.load(classifier.data)
    weight = next(iter(onnx.load(classifier.model).graph.initializer))
    np.savez(tmp_path / "numbers.npz", x=data["x"], targets=data["x"] @ numpy_helper.to_array(weight) + 0.5)
    command = ["eval", classifier.bundle, "--data", str(tmp_path / "numbers.npz"), "--reference", classifier.model]
    command += ["--metric", "mae", "--fail-under"]
    assert run_command([*command, "0.6", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["model"]["value"] == pytest.approx(0.5, abs=0.05)
    assert result["reference"]["value"] == pytest.approx(0.5, abs=1e-4)
    assert not result["higher_is_better"]
    assert run_command([*command, "0.4"]) == 2
    assert "over the 0.4 asked for" in capsys.readouterr().err


def test_a_bound_in_percent_is_refused_before_anything_runs(
    classifier: Classifier, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["eval", classifier.bundle, "--data", "no-such-data"]
    assert run_command([*command, "--fail-under", "91"]) == 2
    error = capsys.readouterr().err
    assert "error: --fail-under 91: top1 is a share of the samples, from 0 to 1" in error
    assert "hint: 91 % is 0.91" in error
    assert run_command([*command, "--fail-under", "-1", "--metric", "topk{k=2}"]) == 2
    assert "error: --fail-under -1: topk{k=2} is a share" in capsys.readouterr().err


def test_labels_that_are_missing_are_named_with_what_needs_none(
    classifier: Classifier, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["eval", classifier.bundle, "--data", classifier.calibration]) == 2
    error = capsys.readouterr().err
    assert "has no label, which metric 'top1' needs" in error
    assert "with --reference MODEL.onnx these metrics need no labels: agreement, cosine" in error
    assert "psnr, r2, rmse, sqnr" in error


def test_what_the_samples_lack_is_told_before_the_float_model_is_compiled(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(driver, "compile", lambda *_, **__: pytest.fail("the float model was compiled"))
    command = ["eval", classifier.bundle, "--data", classifier.calibration, "--reference", classifier.model]
    assert run_command(command) == 2
    assert "has no label, which metric 'top1' needs" in capsys.readouterr().err


def test_comparisons_need_the_float_model(classifier: Classifier, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["eval", classifier.bundle, "--data", classifier.calibration, "--metric", "sqnr"]
    assert run_command(command) == 2
    assert "hint: add --reference MODEL.onnx" in capsys.readouterr().err
    assert run_command([*command, "--reference", classifier.model, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["reference"] is None
    assert 25 < result["model"]["value"] < 60


def test_labels_are_asked_for(classifier: Classifier, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["eval", classifier.bundle, "--data", classifier.calibration]) == 2
    assert "has no label, which metric 'top1' needs" in capsys.readouterr().err


def test_a_model_is_run_in_float(classifier: Classifier, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["eval", classifier.model, "--data", classifier.data, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"]["value"] == 1.0


def test_analyze(classifier: Classifier, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "analysis.html"
    command = ["analyze", classifier.model, "--calib", classifier.calibration, "--html", str(page)]
    assert run_command([*command, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    nodes = {node["name"]: node for node in result["nodes"]}
    assert nodes["Gemm_0"]["alone_db"] > 25
    assert nodes["Gemm_0"]["exclusion"] == "--keep-float Gemm_0"
    assert "Gemm_0" in page.read_text()
    assert run_command([*command, "--top", "1"]) == 0
    out = capsys.readouterr().out
    assert re.search(rf"^nodes +the worst 1 of {len(nodes)}; --top 0 shows all$", out, re.M)
    assert re.search("^columns +alone: SQNR where the node's operands, weights and result are rounded, and", out, re.M)
    assert run_command([*command, "--top", "0"]) == 0
    out = capsys.readouterr().out
    assert all(re.search(rf"^{name} ", out, re.M) for name in nodes)
    assert "shows all" not in out


def test_analyze_refuses_a_wrong_exclusion(classifier: Classifier, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["analyze", classifier.model, "--calib", classifier.calibration, "--keep-float", "Gem_0"]) == 2
    error = capsys.readouterr().err
    assert "--keep-float 'Gem_0' matches no node" in error
    assert "did you mean 'Gemm_0'?" in error


@pytest.mark.parametrize(("factor", "words"), [(20.0, "of the values lie beyond"), (0.01, "a small part of")])
def test_inputs_of_another_scale_are_noted(
    classifier: Classifier, tmp_path: Path, capsys: pytest.CaptureFixture[str], factor: float, words: str
) -> None:
    with np.load(classifier.data) as arrays:
        np.savez(tmp_path / "scaled.npz", x=arrays["x"] * np.float32(factor), labels=arrays["labels"])
    assert run_command(["eval", classifier.bundle, "--data", str(tmp_path / "scaled.npz"), "--json"]) == 0
    (note,) = json.loads(capsys.readouterr().out)["notes"]
    assert words in note
    assert "is the preprocessing the same?" in note


@pytest.mark.parametrize(
    ("factor", "words"), [(255.0, "0 to 255 where calibration had 0 to 1?"), (1 / 255, "0 to 1 where calibration had")]
)
def test_pixels_that_nobody_divided_are_recognized(
    classifier: Classifier, tmp_path: Path, capsys: pytest.CaptureFixture[str], factor: float, words: str
) -> None:
    with np.load(classifier.data) as arrays:
        np.savez(tmp_path / "pixels.npz", x=arrays["x"] * np.float32(factor), labels=arrays["labels"])
    assert run_command(["eval", classifier.bundle, "--data", str(tmp_path / "pixels.npz"), "--json"]) == 0
    (note,) = json.loads(capsys.readouterr().out)["notes"]
    assert words in note


def test_compiling_notes_what_is_wrong_with_the_samples(
    classifier: Classifier, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "few.npy", np.ones((3, 16), np.float32))
    command = [classifier.model, "--calib", str(tmp_path / "few.npy"), "-o", str(tmp_path / "bundle")]
    assert run_command(command) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "only 1 calibration sample:" in text
    assert "2 of 3 calibration samples are the same" in text
    assert "3 of 3 calibration samples are constant" in text


@pytest.mark.parametrize("bound", ["nan", "inf"])
def test_a_bound_that_is_no_number_is_refused(
    classifier: Classifier, capsys: pytest.CaptureFixture[str], bound: str
) -> None:
    command = ["eval", classifier.bundle, "--data", "no-such-data", "--metric", "sqnr", "--fail-under", bound]
    assert run_command(command) == 2
    assert f"error: --fail-under {bound}: no finite number" in capsys.readouterr().err


def test_a_value_that_is_no_number_is_under_every_bound(
    classifier: Classifier, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with np.load(classifier.data) as arrays:
        np.savez(tmp_path / "bare.npz", x=arrays["x"][:3], labels=np.full((3, 5), np.nan))
    command = ["eval", classifier.bundle, "--data", str(tmp_path / "bare.npz"), "--metric", "psnr"]
    assert run_command([*command, "--fail-under", "20"]) == 2
    assert "error: psnr is NaN, not the 20 asked for: none of the 3 samples counts" in capsys.readouterr().err
    assert run_command([*command, "--json"]) == 0
    result = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert result["model"] == {"value": None, "low": None, "high": None}


def test_one_rounding_beyond_the_calibrated_range_is_no_other_preprocessing() -> None:
    ranges = InputRanges({"x": [-1.0, 1.0], "y": [3.0, 3.0]})
    ranges.include({"x": np.float32([np.nextafter(np.float32(1), np.float32(2)), -1.001, 1.019]), "y": np.float32([3])})
    assert ranges.misfits() == []
    ranges.include({"x": np.float32([1.1, -1.0])})
    assert "20% of the values lie beyond" in ranges.misfits()[0]


def test_what_lies_beyond_few_values_by_chance_is_no_other_preprocessing() -> None:
    random = np.random.default_rng(0)
    for known, alarms in ((None, True), (5, False)):
        # Ends that 40 numbers between -1 and 1 have in the mean.
        ranges = InputRanges({"x": [-39 / 41, 39 / 41]}, known)
        for _ in range(200):
            ranges.include({"x": np.float32(random.uniform(-1, 1, 8))})
        assert bool(ranges.misfits()) == alarms
    ranges.include({"x": np.full(8000, 255, np.float32)})
    assert "of the values lie beyond" in ranges.misfits()[0]
    # One number is no range.
    alone = InputRanges({"x": [-1.0, 1.0]}, 64)
    alone.include({"x": np.float32([0.5])})
    assert alone.misfits() == []


def test_a_function_is_named_as_it_was_given(
    classifier: Classifier, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text("def first(outputs, label, reference):\n    return label\n")
    metric = f"{tmp_path}/mine.py:first"
    command = ["eval", classifier.bundle, "--data", classifier.data, "--limit", "3", "--metric", metric, "--json"]
    assert run_command(command) == 0
    assert json.loads(capsys.readouterr().out)["metric"] == metric
    assert run_command(["eval", classifier.bundle, "--data", classifier.data, "--metric", "nosuch:metric"]) == 2
    error = capsys.readouterr().err
    assert "error: 'nosuch' cannot be imported" in error
    assert "calib" not in error


def test_folders_that_are_not_as_many_as_the_classes_are_refused(tmp_path: Path) -> None:
    """Without the names of the classes only the number of folders shows that their order is another one."""
    for place in range(4):
        (tmp_path / f"class{place}").mkdir()
        Image.new("L", (4, 4), place).save(tmp_path / f"class{place}" / "one.png")
    samples = LabelledSet(str(tmp_path), [InputSpec("x", "float32", (1, 1, 4, 4))])

    def engine(inputs: object) -> dict[str, np.ndarray]:
        return {"y": np.eye(5)[:1]}

    with pytest.raises(UsageError, match=r"places of 4 folders .* but the model has 5 classes") as caught:
        evaluate_samples(samples, make_measure("top1"), engine)
    assert "--labels FILE names the classes" in (caught.value.hint or "")
    result = evaluate_samples(samples, make_measure("topk{k=3}"), lambda inputs: {"y": np.eye(4)[:1]})
    assert result.model.value == 0.75


def test_samples_that_are_stacked_are_given_to_run_one_at_a_time(
    classifier: Classifier, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "stack.npy", np.zeros((7, 1, 16), np.float32))
    assert run_command(["run", classifier.bundle, "--input", str(tmp_path / "stack.npy")]) == 2
    assert "hint: these are 7 samples in one array: give one at a time" in capsys.readouterr().err


def test_names_of_classes_keep_their_spaces(tmp_path: Path) -> None:
    """The characters of a reader of texts, of which one is the space."""
    (tmp_path / "characters.txt").write_bytes(b"\xef\xbb\xbfa\r\n \r\n\xe3\x80\x80\r\n b\r\n")
    assert read_labels(str(tmp_path / "characters.txt")) == ["a", " ", "\u3000", " b"]


def test_analyze_keeps_what_it_found_where_the_report_cannot_be_written(
    classifier: Classifier, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["analyze", classifier.model, "--calib", classifier.calibration, "--html"]
    with monkeypatch.context() as patch:
        patch.setattr("qcompile.assessment.analyze", lambda *_, **__: pytest.fail("worked before it looked"))
        assert run_command([*command, str(tmp_path / "none" / "x.html")]) == 2
        assert f"there is no folder '{tmp_path / 'none'}'" in capsys.readouterr().err
        assert run_command([*command, str(tmp_path)]) == 2
        assert "it is a folder" in capsys.readouterr().err
        assert run_command(["bench", classifier.bundle, "--html", str(tmp_path / "none" / "x.html")]) == 2
        assert "there is no folder" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []

    def full(*_: object) -> None:
        raise UsageError("no space left")

    monkeypatch.setattr("qcompile.report.analysis_html.write_analysis", full)
    assert run_command([*command, str(tmp_path / "x.html")]) == 2
    assert "Gemm_0" in capsys.readouterr().out


def test_analysis_is_strict_json(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever was found; and names of any length leave room for what is said of the nodes."""
    findings = Findings(
        alone_db=10.0,
        accumulated_db=float("nan"),
        rounding_db=20.0,
        weights_db=None,
        range=(float("-inf"), 1.0),
        seen=(0.0, 1.0),
        codes=None,
        clipped=0.0,
        clipping=0.0,
        channels=1,
        dead=(),
        lost=(),
        outliers=(),
    )
    name = "/model/" + "block/" * 60 + "Conv_17"
    node = NodeAnalysis(name, "conv2d", "int16", "t", 10.0, float("nan"), findings, "cause", "", (1,), ())
    result = Analysis("m", 1, True, {"y": float("nan")}, (node,), {})
    print_analysis(result, top=0, as_json=True)
    read = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert read["outputs"] == {"y": None}
    assert (read["nodes"][0]["name"], read["nodes"][0]["precision"]) == (name, "int16")
    assert read["nodes"][0]["findings"]["range"] == [None, 1.0]
    print_analysis(result, top=0, as_json=False)
    heading, row = capsys.readouterr().out.splitlines()[:2]
    assert heading.split() == ["node", "op", "precision", "alone", "accumulated", "codes", "clipped", "cause"]
    assert len(row) < 150
    assert row.startswith("/model/block/")
    assert "/Conv_17  conv2d  int16" in row
    assert row.split()[-3:] == ["-", "-", "cause"]
