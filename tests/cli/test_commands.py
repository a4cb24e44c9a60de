"""What a user can do: compile, run, bench, inspect, targets, passes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from small_classifier import ROOT, Cli, classifier, samples

from qcompile import runtime, targets
from qcompile.bundle import read_manifest

FILES = {"libmodel.so", "model.h", "run.py", "command.py", "self_test.py", "bin/qcrun", "example/main.c", "report.html"}


def reference(model: Path, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def test_compiles_to_int8(cli: Cli, model: Path, calibration: Path, tmp_path: Path) -> None:
    result = cli(model, "--target", "host", "--int8", "--calib", calibration, "-o", tmp_path / "b")
    assert result.code == 0, result.err
    manifest = read_manifest(tmp_path / "b")
    assert set(manifest["files"]) == FILES
    assert {step["precision"] for step in manifest["steps"]} == {"int8"}
    assert manifest["calibration"]["samples"] == 4
    assert manifest["recipe"]["accuracy"]["verified"] is True
    assert "100% in int8" in result.out
    assert re.search(r"accuracy  SQNR \d+\.\d dB at the output against float, 4 calibration samples", result.out)
    assert re.search(r"checked   same bits as the simulation; \d+\.\d+ ms here, one thread", result.out)
    x = samples()[1]
    with runtime.load(tmp_path / "b") as session:
        actual = session.run({"x": x})["logits"]
    expected = reference(model, x)
    noise = np.sum((actual - expected) ** 2) / np.sum(expected**2)
    assert 10 * np.log10(noise) < -20


@pytest.mark.parametrize(
    ("count", "words"), [(1, "one calibration sample"), (3, "3 calibration samples that are all the same")]
)
def test_samples_without_variety_give_no_figure(count: int, words: str, cli: Cli, model: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "c.npz", x=np.concatenate(samples(1) * count))
    result = cli(model, "--target", "host", "--int8", "--calib", tmp_path / "c.npz", "-o", tmp_path / "b")
    assert result.code == 0, result.err
    assert f"accuracy unknown: nothing follows from {words}" in " ".join(result.out.split())


def test_compiles_to_float(cli: Cli, model: Path, calibration: Path, tmp_path: Path) -> None:
    result = cli(model, "--fp32", "--calib", calibration, "-o", tmp_path / "b")
    assert result.code == 0, result.err
    assert "note: the calibration samples are not used: a float network needs no ranges" in result.out
    assert "accuracy" not in result.out
    assert re.search(r"checked +agrees with the simulation", result.out)
    for x in samples():
        with runtime.load(tmp_path / "b") as session:
            np.testing.assert_allclose(session.run({"x": x})["logits"], reference(model, x), rtol=1e-4, atol=1e-5)


def test_without_data_says_that_accuracy_is_unverified(cli: Cli, model: Path, tmp_path: Path) -> None:
    result = cli(model, "--int8", "-o", tmp_path / "b")
    assert result.code == 0, result.err
    note = "no calibration data: ranges come from synthetic inputs, accuracy is unverified"
    assert f"note: {note}" in result.out
    assert re.search(r"accuracy +unverified: SQNR", result.out)
    manifest = read_manifest(tmp_path / "b")
    assert note in manifest["notes"]
    assert manifest["calibration"] is None
    assert manifest["recipe"]["accuracy"]["verified"] is False


def test_cross_compiles_without_a_compiler(
    cli: Cli, model: Path, calibration: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    result = cli(model, "--target", "rpi4", "--int8", "--calib", calibration, "-o", tmp_path / "b")
    assert result.code == 0, result.err
    assert "checked" not in result.out
    for name in ("libmodel.so", "bin/qcrun"):
        elf = (tmp_path / "b" / name).read_bytes()
        assert elf[:4] == b"\x7fELF"
        assert int.from_bytes(elf[18:20], "little") == 183, "not AArch64"
    refused = cli("bench", tmp_path / "b")
    assert refused.code == 2
    assert "the bundle is for aarch64 Linux, this is x86_64 Linux" in refused.err


def test_quantized_inputs_and_outputs(cli: Cli, model: Path, calibration: Path, tmp_path: Path) -> None:
    result = cli(model, "--int8", "--io", "int8", "--calib", calibration, "-o", tmp_path / "b")
    assert result.code == 0, result.err
    with runtime.load(tmp_path / "b") as session:
        (x,), (y,) = session.inputs, session.outputs
        assert (x.dtype, y.dtype) == ("int8", "int8")
        real = samples()[0]
        q = np.clip(np.rint(real / np.float32(x.scale)) + x.zero_point, -128, 127).astype(np.int8)
        answer = (session.run({"x": q})["logits"].astype(np.float32) - y.zero_point) * np.float32(y.scale)
    np.save(tmp_path / "x.npy", real)
    said = cli("run", tmp_path / "b", "--input", tmp_path / "x.npy", "-o", tmp_path / "y.npz")
    assert said.code == 0, said.err
    # the command takes real values and gives real values, whatever the bundle keeps
    np.testing.assert_allclose(np.load(tmp_path / "y.npz")["logits"], answer, rtol=1e-6)


def test_settings_from_files(cli: Cli, tmp_path: Path) -> None:
    onnx.save(classifier("batch"), tmp_path / "m.onnx")
    (tmp_path / "names.txt").write_text("ant\nbee\ncow\ndog\n")
    (tmp_path / "m.yaml").write_text("labels: names.txt\npreprocess: {resize: 8, mean: 128, std: 64}\nseed: 3\n")
    settings = tmp_path / "settings.yaml"
    np.save(tmp_path / "pairs.npy", samples(1, (4, 3, 8, 8))[0])
    settings.write_text("target: x86-64\ncalib: pairs.npy\nobserver: minmax\ninput-shapes: {x: [2, 3, 8, 8]}\n")
    result = cli(tmp_path / "m.onnx", "--config", settings, "--target", "host", "--samples", 2, "-o", tmp_path / "b")
    assert result.code == 0, result.err
    assert "note: settings of m.yaml apply" in result.out
    assert "note: settings of settings.yaml apply" in result.out
    manifest = read_manifest(tmp_path / "b")
    used = manifest["recipe"]["configuration"]
    assert used["target"] == "host", "an option wins over a file"
    assert (used["observer"], used["seed"], used["samples"]) == ("minmax", 3, 2)
    assert used["calib"] == "pairs.npy"
    assert manifest["calibration"]["samples"] == 2
    assert used["preprocess"] == {"resize": 8, "mean": [128.0], "std": [64.0]}
    assert manifest["labels"] == ["ant", "bee", "cow", "dog"]
    assert manifest["inputs"][0]["shape"] == [2, 3, 8, 8]


def test_a_yaml_file_of_another_tool_is_no_configuration(cli: Cli, model: Path, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(model.read_bytes())
    (tmp_path / "m.yaml").write_text("epochs: 100\nnc: 80\n")
    result = cli(tmp_path / "m.onnx", "--fp32", "-o", tmp_path / "b")
    assert result.code == 0, result.err
    assert "settings of" not in result.out
    (tmp_path / "m.yaml").write_text("epochs: 100\ntarget: host\n")
    result = cli(tmp_path / "m.onnx", "--fp32", "-o", tmp_path / "c")
    assert result.code == 2
    assert "unknown setting 'epochs'" in result.err


@pytest.fixture
def labelled(bundle: Path, tmp_path: Path) -> Path:
    """The bundle with class names, one of which looks like markup and one like a command to the terminal."""
    import shutil

    path = Path(shutil.copytree(bundle, tmp_path / "labelled"))
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["labels"] = ["[bold]cat[/bold]", "[/]", "dog \x1b[2J", ":smile:"]
    manifest["preprocess"] = {"resize": 8, "crop": 8, "mean": 128, "std": 64}
    (path / "manifest.json").write_text(json.dumps(manifest))
    return path


def test_run_prints_the_best_classes(cli: Cli, labelled: Path, photo: Path, tmp_path: Path) -> None:
    result = cli("run", labelled, "--input", photo, "--top", 4, "-o", tmp_path / "y.npz")
    assert result.code == 0, result.err
    logits = np.load(tmp_path / "y.npz")["logits"][0]
    lines = result.out.splitlines()
    assert lines[0].split() == ["class", "logits", "probability", "label"]
    order = np.argsort(-logits, kind="stable")
    assert [int(line.split()[0]) for line in lines[1:]] == order.tolist()
    names = ["[bold]cat[/bold]", "[/]", "dog \ufffd[2J", ":smile:"]
    for line, index in zip(lines[1:], order, strict=True):
        assert line.endswith(names[index])
    shares = [float(line.split()[2].rstrip("%")) for line in lines[1:]]
    assert sum(shares) == pytest.approx(100, abs=0.3)


def test_run_says_what_it_guessed(cli: Cli, bundle: Path, labelled: Path, photo: Path, tmp_path: Path) -> None:
    guessed = cli("run", bundle, "--input", photo).out.splitlines()[-1]
    assert guessed.startswith(f"note: the bundle does not say how '{photo}' becomes its input; guessed: resize=")
    assert "note:" not in cli("run", labelled, "--input", photo).out
    np.save(tmp_path / "x.npy", samples()[0])
    assert "note:" not in cli("run", bundle, "--input", tmp_path / "x.npy").out


@pytest.mark.parametrize("kind", ["npy", "npy without batch", "npz", "npz with names"])
def test_run_reads_arrays(cli: Cli, bundle: Path, tmp_path: Path, kind: str) -> None:
    x = samples()[2]
    path = tmp_path / ("x.npy" if kind.startswith("npy") else "x.npz")
    if kind == "npz with names":
        np.savez(path, other=np.zeros(3), x=x)
    elif kind == "npz":
        np.savez(path, anything=x)
    else:
        np.save(path, x[0] if kind.endswith("batch") else x)
    result = cli("run", bundle, "--input", path, "--threads", 2, "-o", tmp_path / "y.npz")
    assert result.code == 0, result.err
    with runtime.load(bundle) as session:
        np.testing.assert_array_equal(np.load(tmp_path / "y.npz")["logits"], session.run({"x": x})["logits"])
    assert result.out.split()[:2] == ["index", "logits"]
    assert {p.name for p in tmp_path.iterdir()} == {path.name, "y.npz"}, "temporary files were left"


def test_run_does_not_write_over_its_input(cli: Cli, bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, x=samples()[2])
    before = path.read_bytes()
    (tmp_path / "link.npz").symlink_to(path)
    for output in (path, tmp_path / "link.npz"):
        refused = cli("run", bundle, "--input", path, "-o", output)
        assert refused.code == 2
        assert f"'{output}' is the file of input 'x' itself" in refused.err
        assert "hint: give another file with -o" in refused.err
    assert path.read_bytes() == before


def test_run_names_an_input_that_is_none(cli: Cli, bundle: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", samples()[2])
    refused = cli("run", bundle, "--input", f"image={tmp_path / 'x.npy'}")
    assert refused.code == 2
    assert "error: the model has no input 'image'" in refused.err
    odd = tmp_path / "image=1.npy"
    np.save(odd, samples()[2])
    assert cli("run", bundle, "--input", odd).code == 0


def test_bench(cli: Cli, bundle: Path) -> None:
    result = cli("bench", bundle, "--runs", 20, "--profile")
    assert result.code == 0, result.err
    for word in ("median", "p90", "fastest", "first", "peak memory", "speed", "measured"):
        assert re.search(rf"^{word} ", result.out, re.M), word
    for node in ("stem", "depthwise", "pool", "head"):
        assert re.search(rf"^{node} ", result.out, re.M), node
    assert result.err == ""


def test_bench_as_json(cli: Cli, bundle: Path) -> None:
    result = cli("bench", bundle, "--runs", 7, "--threads", 2, "--json", "--profile")
    found = json.loads(result.out)
    assert (found["runs"], found["threads"]) == (7, 2)
    assert 0 < found["fastest_ms"] <= found["median_ms"] <= found["p90_ms"]
    assert 0.5 < found["peak_mb"] < 64
    assert sum(layer["macs"] for layer in found["layers"]) == found["macs"] > 0


def test_inspect(cli: Cli, model: Path) -> None:
    text = cli("inspect", model)
    assert text.code == 0
    assert text.out.startswith('graph "small" {\n  input %x : f32[1,3,8,8]\n')
    for node in classifier().graph.node:
        assert f'loc("{node.name}")' in text.out
    fused = cli("inspect", model, "--passes", "to-nhwc,fuse-activation")
    assert "relu(" in text.out
    assert "relu(" not in fused.out
    summary = cli("inspect", model, "--format", "summary").out
    assert "7 nodes" in summary
    assert re.search(r"2 conv2d", summary)


def test_inspect_draws_for_graphviz(cli: Cli, model: Path) -> None:
    dot = cli("inspect", model, "--format", "dot").out
    assert dot.startswith('digraph "')
    assert dot.count("{") - dot.count("}") == 0
    assert dot.count("->") == 9  # seven nodes, the residual addition reads two tensors, one output
    assert "in0 -> n0" in dot


def test_targets(cli: Cli) -> None:
    listed = cli("targets").out
    first = [line.split()[0] for line in listed.splitlines()]
    assert first[:2] == ["target", "host"]
    assert {"rpi3", "rpi4", "rpi5", "graviton2", "x86-64-v3", "x86-64-v4-vnni"} <= set(first)
    assert len(first) == len(set(first))


@pytest.mark.parametrize("name", ["rpi4", "zen4", "host"])
def test_what_is_shown_of_a_target_describes_one(cli: Cli, tmp_path: Path, name: str) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(cli("targets", name).out)
    assert targets.load(mine) == targets.load(name)
    assert cli("targets", mine).out == mine.read_text()


def test_passes(cli: Cli, tmp_path: Path) -> None:
    listed = cli("passes").out
    assert re.search(r"^fold-batchnorm ", listed, re.M)
    assert re.search(r"^ +keep_float: ", listed, re.M)
    shown = cli("passes", "quantize").out
    assert re.search(r"^option +io: ", shown, re.M)
    assert "Before:" in shown
    (tmp_path / "my_pass.py").write_text(
        "from dataclasses import dataclass\nfrom typing import ClassVar\nfrom qcompile import Pass\n"
        "from qcompile.passmgr import Exact, Tolerance\n\n\n@dataclass(frozen=True)\nclass MyPass(Pass):\n"
        '    """Do nothing, slowly."""\n\n    name: ClassVar[str] = "my-pass"\n'
        "    tolerance: ClassVar[Tolerance] = Exact()\n    alpha: int = 1\n\n    def run(self, graph, context):\n"
        '        context.note(f"alpha is {self.alpha}")\n'
    )
    assert "Do nothing, slowly." in cli("passes", "--pass-path", tmp_path).out


def test_passes_of_the_user_run(cli: Cli, model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    test_passes(cli, folder)
    words = ("--passes", "my-pass{alpha=2}", "--pass-path", folder, "--fp32", "-o", tmp_path / "b")
    result = cli(model, *words)
    assert result.code == 0, result.err
    assert "note: alpha is 2" in result.out
    assert "my-pass{alpha=2}" in read_manifest(tmp_path / "b")["recipe"]["passes"]


def test_a_pass_of_the_user_that_fails(cli: Cli, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What its author needs, the traceback, goes to a file."""
    test_passes(cli, tmp_path)
    file = tmp_path / "my_pass.py"
    file.write_text(file.read_text() + "        graph.nodes[0].attribute\n    size = 3\n")
    monkeypatch.chdir(tmp_path)
    refused = cli("inspect", model, "--passes", "my-pass", "--pass-path", tmp_path)
    assert refused.code == 2
    line = len(file.read_text().splitlines()) - 1
    assert f"'Node' object has no attribute 'attribute' ({file}, line {line})\nhint: " in refused.err
    (written,) = tmp_path.glob("qcompile-reproducer-*.txt")
    assert f"are in {written}\n" in refused.err
    assert "graph.nodes[0].attribute" in written.read_text()
    assert "// pipeline: my-pass\n" in written.read_text()
    refused = cli("inspect", model, "--passes", "my-pass{size=4}", "--pass-path", tmp_path)
    assert "has no option 'size'\nhint: an attribute is an option once it has a type" in refused.err


def test_watching_the_passes(cli: Cli, model: Path, calibration: Path, tmp_path: Path) -> None:
    words = ("--calib", calibration, "--dump-ir", tmp_path / "ir", "--print-ir-after", "quantize", "--time-passes")
    result = cli(model, *words, "--verify-numerics", "--verbose", "-o", tmp_path / "b")
    assert result.code == 0, result.err
    names = sorted(path.name for path in (tmp_path / "ir").iterdir())
    assert names[0] == "000_input.qir"
    assert any(name.endswith("_fuse-requantize.qir") for name in names)
    assert result.out.count("// after quantize\n") == 1
    assert re.search(r"^calibrate +\d+\.\d +\d+\.\d% +yes +\d+$", result.out, re.M)
    assert re.search(r"^fuse-requantize +\S", result.out, re.M)


def test_quiet_prints_nothing(cli: Cli, model: Path, tmp_path: Path) -> None:
    assert cli(model, "--fp32", "--quiet", "-o", tmp_path / "b") == (0, "", "")


def test_keep_float(cli: Cli, model: Path, calibration: Path, tmp_path: Path) -> None:
    result = cli(model, "--calib", calibration, "--keep-float", "hea?", "-o", tmp_path / "b")
    assert result.code == 0, result.err
    steps = {step["node"]: step["precision"] for step in read_manifest(tmp_path / "b")["steps"]}
    assert (steps["stem"], steps["head"]) == ("int8", "float32")
    assert read_manifest(tmp_path / "b")["recipe"]["self_test"]["tolerance"] > 0


def test_dynamic(cli: Cli, tmp_path: Path) -> None:
    model = ROOT / "examples/models/fashion_mobilenetv2.onnx"
    result = cli(model, "--dynamic", "-o", tmp_path / "b")
    assert result.code == 0, result.err
    assert "agrees with the simulation" in result.out
    assert any(step["precision"] == "int8" for step in read_manifest(tmp_path / "b")["steps"])
    assert cli(model, "--dynamic", "--int8", "-o", tmp_path / "c") == (
        2,
        "",
        "error: --int8 and --dynamic exclude each other\nhint: give one of them\n",
    )
    wide = cli(model, "--dynamic", "--keep-int16", "op:dense", "-o", tmp_path / "c")
    assert wide.err.startswith("error: --keep-int16 needs --int8")


def test_keep_int16(cli: Cli, model: Path, calibration: Path, tmp_path: Path) -> None:
    settings = tmp_path / "settings.yaml"
    settings.write_text("keep_int16: [stem]\n")
    result = cli(model, "--calib", calibration, "--config", settings, "-o", tmp_path / "b")
    assert result.code == 0, result.err
    assert "same bits as the simulation" in result.out
    steps = {step["node"]: step["precision"] for step in read_manifest(tmp_path / "b")["steps"]}
    assert (steps["stem"], steps["head"]) == ("int16", "int8")
    assert re.search(r"% in int8, \d+% in int16$", result.out, re.M)
    wrong = cli(model, "--calib", calibration, "--keep-int16", "heads", "-o", tmp_path / "c")
    assert wrong.code == 2
    assert "error: --keep-int16 'heads' matches no node\nhint: did you mean 'head'?" in wrong.err


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",), ("compile", "--help"), ("run", "-h"), ("bench", "-h")])
def test_help(cli: Cli, words: tuple[str, ...]) -> None:
    result = cli(*words)
    assert result.code == 0
    assert "Usage: qcompile" in result.out
    assert "Example" in result.out
    assert all(len(line) <= 80 for line in result.out.splitlines())


def test_python_runs_the_package() -> None:
    command = [sys.executable, "-m", "qcompile", "nothing.onnx", "-o", "nowhere"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")


def test_version(cli: Cli) -> None:
    import qcompile

    assert cli("--version").out == f"qcompile {qcompile.__version__}\n"


def test_readme_commands_on_a_real_network(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    words = ("examples/models/fashion_mobilenetv2.onnx", "--int8", "--calib", "examples/images", "--samples", 12)
    result = cli(*words, "-o", tmp_path / "b")
    assert result.code == 0, result.err
    answer = cli("run", tmp_path / "b", "--input", "examples/images/astronaut.jpg")
    assert answer.code == 0, answer.err
    labels = Path("examples/models/fashion_labels.txt").read_text().split("\n")
    assert answer.out.splitlines()[1].split("  ")[-1] in labels
    done = subprocess.run([sys.executable, "-I", tmp_path / "b/run.py", "--self-test"], capture_output=True, text=True)
    assert done.stdout == "self-test passed: exactly the foreseen bits\n", done.stderr


def test_a_closed_pipe_is_no_error(model: Path) -> None:
    command = f"{sys.executable} -m qcompile.cli inspect {model} | head -c 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout.endswith("0\n")
