"""Bad input ends in one error line and one hint, exit code 2, nothing written and nothing overwritten."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from small_classifier import Cli, Result, classifier

Damage = Callable[[Path], None]


def refused(result: Result, *words: str) -> None:
    """Check that a run ended as bad input must, and that the message names all the words."""
    assert result.code == 2, result
    lines = [line for line in result.err.splitlines() if not line.startswith(("calibrating", "comparing", "compiling"))]
    assert len(lines) == 2, result.err
    assert lines[0].startswith("error: ")
    assert lines[1].startswith("hint: ")
    assert "Traceback" not in result.err + result.out
    for word in words:
        assert word in result.err, f"'{word}' is not in: {result.err}"


@pytest.fixture
def untouched(tmp_path: Path) -> Any:
    """After the test, the folder it writes to must hold what it held when the command began."""
    folder = tmp_path / "place"
    folder.mkdir()
    yield folder / "out"
    assert sorted(p.name for p in folder.rglob("*")) == [], "something was left behind"


def rewritten(change: Callable[[onnx.ModelProto], None]) -> Damage:
    def damage(path: Path) -> None:
        model = classifier()
        change(model)
        onnx.save(model, path)

    return damage


def without_external_data(path: Path) -> None:
    onnx.save(classifier(), path, save_as_external_data=True, location="weights.data", size_threshold=0)
    (path.parent / "weights.data").unlink()


def resized(model: onnx.ModelProto) -> None:
    """Let a node resize by a rule that ONNX does not have."""
    node = model.graph.node[1]
    node.op_type = "Resize"
    node.input.extend(["", "once"])
    node.attribute.append(onnx.helper.make_attribute("coordinate_transformation_mode", "bent"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(4, np.float32), "once"))


MODELS: dict[str, tuple[Damage, tuple[str, ...]]] = {
    "truncated": (
        lambda p: void(p.write_bytes(classifier().SerializeToString()[:700])),
        ("m.onnx is not an ONNX model, or is damaged",),
    ),
    "no protobuf": (lambda p: void(p.write_bytes(b"\x93\x12\xff" * 99)), ("m.onnx is not an ONNX model",)),
    "text": (lambda p: void(p.write_text("# a readme\n")), ("m.onnx is not an ONNX model", "it is a text file")),
    "empty": (lambda p: void(p.write_bytes(b"")), ("m.onnx is empty",)),
    "directory": (lambda p: p.mkdir(), ("m.onnx is a directory",)),
    "missing": (lambda p: None, ("m.onnx does not exist",)),
    "cyclic": (
        rewritten(lambda m: void(m.graph.node[2].input.__setitem__(0, "a1"))),
        ("m.onnx has a cycle", "depthwise", "residual"),
    ),
    "dangling": (
        rewritten(lambda m: void(m.graph.node[2].input.__setitem__(0, "nothing"))),
        ("node depthwise (Conv)", "m.onnx", "'nothing'"),
    ),
    "external data": (without_external_data, ("weights.data", "m.onnx is missing")),
    "operator": (
        rewritten(lambda m: setattr(m.graph.node[1], "op_type", "RandomNormalLike")),
        ("RandomNormalLike (node stem_relu", "m.onnx", "`qcompile ops` lists"),
    ),
    "form of an operator": (
        rewritten(resized),
        ("node stem_relu (Resize)", "m.onnx", "'bent'", "onnx.utils.extract_model"),
    ),
    "types": (
        rewritten(lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", onnx.TensorProto.STRING)),
        ("m.onnx", "x"),
    ),
}


def void(_: object) -> None:
    return None


@pytest.mark.parametrize("name", MODELS)
def test_models(cli: Cli, tmp_path: Path, untouched: Path, name: str) -> None:
    damage, words = MODELS[name]
    damage(tmp_path / "m.onnx")
    refused(cli(tmp_path / "m.onnx", "-o", untouched), *words)
    if name != "types":
        refused(cli("inspect", tmp_path / "m.onnx"), *words)


@pytest.mark.parametrize("percent", [0, 1, 10, 25, 40, 55, 70, 85, 95, 99])
def test_a_model_cut_anywhere(cli: Cli, tmp_path: Path, untouched: Path, percent: int) -> None:
    content = classifier().SerializeToString()
    (tmp_path / "m.onnx").write_bytes(content[: len(content) * percent // 100])
    refused(cli(tmp_path / "m.onnx", "-o", untouched), "m.onnx")


SAMPLES: dict[str, tuple[np.ndarray, tuple[str, ...]]] = {
    "shape": (np.zeros((1, 3, 9, 8), np.float32), ("0.npy", "[1, 3, 9, 8]", "'x'", "[1, 3, 8, 8]")),
    "type": (np.zeros((1, 3, 8, 8), np.uint8), ("0.npy", "uint8", "float32")),
    "complex": (np.zeros((1, 3, 8, 8), np.complex64), ("0.npy", "complex64")),
    "nan": (np.full((1, 3, 8, 8), np.nan, np.float32), ("0.npy", "192 value(s)", "nan", "[0, 0, 0, 0]")),
    "infinite": (np.full((1, 3, 8, 8), np.inf, np.float32), ("0.npy", "inf")),
    "none": (np.zeros((0, 3, 8, 8), np.float32), ("0.npy", "no sample")),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_calibration_arrays(cli: Cli, model: Path, tmp_path: Path, untouched: Path, name: str) -> None:
    array, words = SAMPLES[name]
    (tmp_path / "data").mkdir()
    np.save(tmp_path / "data/0.npy", array)
    refused(cli(model, "--calib", tmp_path / "data", "-o", untouched), *words)


def pickled(folder: Path) -> None:
    np.save(folder / "0.npy", np.array([{"a": 1}], object), allow_pickle=True)


def two_inputs(folder: Path) -> None:
    np.savez(folder / "0.npz", x=np.zeros((1, 3, 8, 8), np.float32), y=np.zeros(3))


FOLDERS: dict[str, tuple[Damage, tuple[str, ...]]] = {
    "empty": (lambda f: None, ("data' is empty",)),
    "other files": (lambda f: void((f / "notes.txt").write_text("x")), ("data' holds no image or array", ".txt")),
    "unreadable image": (lambda f: void((f / "a.jpg").write_bytes(b"nope")), ("a.jpg", "not an image")),
    "unreadable array": (lambda f: void((f / "a.npy").write_bytes(b"nope")), ("a.npy",)),
    "python objects": (pickled, ("0.npy", "never loaded")),
    "unknown input": (two_inputs, ("0.npz", "'y'")),
    "missing": (lambda f: f.rmdir(), ("data' does not exist",)),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_calibration_folders(cli: Cli, model: Path, tmp_path: Path, untouched: Path, name: str) -> None:
    (tmp_path / "data").mkdir()
    fill, words = FOLDERS[name]
    fill(tmp_path / "data")
    refused(cli(model, "--calib", tmp_path / "data", "-o", untouched), *words)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("no_such_module:f", ("no_such_module",)),
        ("json:no_such_function", ("no_such_function",)),
        ("json:dumps", ("json:dumps",)),
        ("file.py:bad", ("file.py:bad", "ZeroDivisionError")),
        ("file.py:nan", ("nan",)),
        ("file.py:wrong", ("wrong", "[1, 3, 8]")),
    ],
)
def test_calibration_functions(
    cli: Cli, model: Path, tmp_path: Path, untouched: Path, monkeypatch: pytest.MonkeyPatch, source: str,
    words: tuple[str, ...],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("file.py").write_text(
        "import numpy as np\ndef bad():\n    yield 1 / 0\n"
        "def nan():\n    yield {'x': np.full((1, 3, 8, 8), np.nan, np.float32)}\n"
        "def wrong():\n    yield {'x': np.zeros((1, 3, 8), np.float32)}\n"
    )
    refused(cli(model, "--calib", source, "-o", untouched), *words)


OPTIONS: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "option": (["--taget", "rpi4"], ("--taget", "did you mean --target?")),
    "option without a value": (["--target"], ("--target",)),
    "surplus word": (["more"], ("more",)),
    "target": (["--target", "rpi6"], ("unknown target 'rpi6'", "did you mean 'rpi5'?")),
    "target file": (["--target", "./none.yaml"], ("none.yaml",)),
    "input-shape form": (["--input-shape", "x:1,3"], ("x:1,3", "x=1,3,224,224")),
    "input-shape number": (["--input-shape", "x=1,a,8,8"], ("x=1,a,8,8",)),
    "input-shape rank": (["--input-shape", "x=1,3"], ("'x'", "[1, 3]", "small.onnx")),
    "input-shape value": (["--input-shape", "x=1,3,9,9"], ("'x'", "small.onnx")),
    "input-shape name": (["--input-shape", "y=1,3,8,8"], ("'y'", "known: x")),
    "preprocess form": (["--preprocess", "resize"], ("resize",)),
    "preprocess key": (["--preprocess", "resise=3"], ("resise", "did you mean 'resize'?")),
    "preprocess value": (["--preprocess", "resize=abc"], ("resize=abc",)),
    "observer": (["--observer", "mze"], ("'mze'", "did you mean 'mse'?")),
    "observer option": (["--observer", "percentile{p=3}"], ("'p'", "percentile")),
    "pass": (["--passes", "fold-batchnrom"], ("'fold-batchnrom'", "did you mean 'fold-batchnorm'?")),
    "pass option": (["--passes", "fold-constants{limmit=3}"], ("'limmit'", "did you mean 'limit'?")),
    "pass value": (["--passes", "fold-constants{limit=no}"], ("limit",)),
    "pass text": (["--passes", "fold-constants{limit="], ("pipeline, line 1: expected a value",)),
    "pass path": (["--pass-path", "none"], ("'none' is not a directory",)),
    "print-ir-after": (["--print-ir-after", "quantise"], ("'quantise'", "did you mean 'quantize'?")),
    "keep-float": (["--keep-float", "stme"], ("'stme' matches no node", "did you mean 'stem'?")),
    "keep-float absorbed": (["--keep-float", "stem_relu"], ("'stem_relu' matches no node", "'stem'")),
    "both precisions": (["--int8", "--fp32"], ("--int8", "--fp32")),
    "io": (["--io", "int4"], ("--io is 'int4'", "'float' or 'int8'")),
    "io of a float build": (["--fp32", "--io", "int8"], ("--io int8",)),
    "samples": (["--samples", "0"], ("--samples is 0", "1 or more")),
    "samples text": (["--samples", "few"], ("--samples", "'few'")),
    "goal": (["--min-sqnr", "nan"], ("--min-sqnr is nan", "a finite number")),
    "no time": (["--max-ms", "0"], ("--max-ms is 0", "more than 0")),
    "search of what is dynamic": (["--dynamic", "--max-drop", "0.5%"], ("needs --int8", "nothing to search")),
    "folder of no search": (["--work-dir", "w"], ("--work-dir is for a search", "add --accuracy auto")),
    "groups of whole layers": (["--group-size", "64"], ("--group-size is of weights alone", "add --weight-bits")),
    "seed": (["--seed", "-1"], ("--seed is -1",)),
    "jobs": (["--jobs", "0"], ("--jobs is 0",)),
    "labels": (["--labels", "none.txt"], ("none.txt", "No such file")),
    "config": (["--config", "none.yaml"], ("none.yaml", "No such file")),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options(
    cli: Cli, model: Path, tmp_path: Path, untouched: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    given, words = OPTIONS[name]
    refused(cli(model, "-o", untouched, *given), *words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("eval", "b", "--data", "d", "--fail-under", "90%"), "'--fail-under': '90%' is not a number"),
        (("eval", "b", "--data", "d", "--limit", "0"), "'--limit': 0 is less than 1"),
        (("analyze", "m.onnx", "--top", "-1"), "'--top': -1 is less than 0"),
        (("run", "b", "--input", "x.npy", "--top", "-1"), "'--top': -1 is less than 0"),
        (("m.onnx", "-o", "b", "--min-sqnr", "30dB"), "'--min-sqnr': '30dB' is not a number"),
    ],
)
def test_numbers_are_named_as_given(cli: Cli, words: tuple[str, ...], message: str) -> None:
    refused(cli(*words), f"error: invalid value for {message}")


CONFIGURATIONS = {
    "key": ("tagret: rpi4", ("unknown setting 'tagret'", "did you mean 'target'?")),
    "text for a number": ("samples: many", ("samples is 'many', expected a whole number",)),
    "number for a text": ("observer: 3", ("observer is 3, expected a text",)),
    "choice": ("precision: int4", ("precision is 'int4', expected 'int8' or 'dynamic' or 'fp16' or 'bf16' or 'fp32'",)),
    "range": ("samples: 0", ("samples is 0, expected 1 or more",)),
    "endless goal": ("min_sqnr: .inf", ("min_sqnr is inf, expected a finite number",)),
    "one for a list": ("keep_float: stem", ("keep_float is 'stem', expected a list, such as [stem]",)),
    "list": ("- target", ("not a mapping of settings",)),
    "text": ("just words", ("not a mapping of settings",)),
    "no YAML": ("target: [rpi4", ("not valid YAML", "line 2")),
    "python object": ("target: !!python/object/apply:os.system [id]", ("not valid YAML",)),
    "key twice": ("keep_float: [stem]\nseed: 1\nkeep_float: [head]", ("'keep_float' is given twice (line 3)",)),
    "two spellings": ("keep_float: [stem]\nkeep-float: [head]", ("gives 'keep_float' twice",)),
    "preprocess": ("preprocess: {resise: 3}", ("resise", "did you mean 'resize'?")),
    "shape": ("input_shapes: {x: 3}", ("input_shapes.x is 3, expected a list",)),
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_configurations(cli: Cli, model: Path, tmp_path: Path, untouched: Path, name: str) -> None:
    text, words = CONFIGURATIONS[name]
    (tmp_path / "settings.yaml").write_text(text + "\n")
    result = cli(model, "--config", tmp_path / "settings.yaml", "-o", untouched)
    refused(result, *words, *([] if name == "preprocess" else ["settings.yaml"]))


TARGETS = {
    "key": ("foo: 1", ("unknown key 'foo'",)),
    "missing keys": ("name: mine", ("mine.yaml", "is missing")),
    "no YAML": ("name: [", ("mine.yaml", "not valid YAML")),
    "list": ("- a", ("mine.yaml",)),
}


@pytest.mark.parametrize("name", TARGETS)
def test_target_files(cli: Cli, model: Path, tmp_path: Path, untouched: Path, name: str) -> None:
    text, words = TARGETS[name]
    (tmp_path / "mine.yaml").write_text(text + "\n")
    refused(cli(model, "--target", tmp_path / "mine.yaml", "-o", untouched), *words)
    refused(cli("targets", tmp_path / "mine.yaml"), *words)


def test_unknown_words(cli: Cli, model: Path) -> None:
    refused(cli("benhc", "build"), "unknown command 'benhc'", "did you mean 'bench'?")
    refused(cli(model), "missing option", "--output", "qcompile compile --help")
    refused(cli("inspect", model, "--format", "svg"), "unknown format 'svg'", "dot, summary, text")
    refused(cli("targets", "rpi9"), "unknown target 'rpi9'", "did you mean")
    refused(cli("passes", "quantise"), "unknown pass 'quantise'", "did you mean 'quantize'?")


def test_output_with_files_of_the_user(cli: Cli, model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter1.txt").write_text("unsaved work")
    refused(cli(model, "-o", folder), "thesis is not empty and not a bundle of ours")
    assert [p.name for p in folder.iterdir()] == ["chapter1.txt"]
    assert (folder / "chapter1.txt").read_text() == "unsaved work"


def test_output_that_is_a_file(cli: Cli, model: Path, tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("unsaved work")
    refused(cli(model, "-o", tmp_path / "notes"), "notes is a file")
    refused(cli(model, "-o", tmp_path / "notes/below"), "notes is not a directory")
    assert (tmp_path / "notes").read_text() == "unsaved work"


def test_output_is_checked_before_the_work(cli: Cli, model: Path, tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("unsaved work")
    result = cli(model, "--calib", "no_such_folder", "-o", tmp_path / "notes")
    refused(result, "notes is a file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_output_without_permission(cli: Cli, model: Path, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    refused(cli(model, "-o", tmp_path / "locked/b"), "Permission denied")


def test_output_on_a_read_only_file_system(cli: Cli, model: Path) -> None:
    refused(cli(model, "-o", "/proc/b"), "cannot write /proc/b")


@pytest.mark.parametrize("call", ["write_bytes", "mkdir"])
def test_a_full_disk(
    cli: Cli, model: Path, tmp_path: Path, untouched: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    original = getattr(Path, call)
    place = str(untouched.parent)

    def full(self: Path, *arguments: Any, **options: Any) -> Any:
        # the probe before the work still succeeds: the disk fills up during it
        if str(self).startswith(place) and any("qcompile/bundle/directory.py" in f for f in callers()):
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(self, *arguments, **options)

    def callers() -> list[str]:
        frame, names = sys._getframe(2), []
        while frame is not None:
            names.append(f"{frame.f_code.co_filename}:{frame.f_code.co_name}")
            frame = frame.f_back  # type: ignore[assignment]
        return [] if any(n.endswith("check_output") for n in names) else names

    monkeypatch.setattr(Path, call, full)
    refused(cli(model, "--fp32", "-o", untouched), "No space left on device", "free some space")


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"file systems cannot be mounted here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_disk_that_is_really_full(cli: Cli, model: Path, tiny_disk: Path) -> None:
    refused(cli(model, "--fp32", "-o", tiny_disk / "out"), "disk/out: No space left on device", "free some space")
    assert list(tiny_disk.iterdir()) == []


def test_an_old_bundle_survives_a_failed_compilation(cli: Cli, bundle: Path, tmp_path: Path) -> None:
    import shutil

    old = Path(shutil.copytree(bundle, tmp_path / "old"))
    before = {p.relative_to(old): p.read_bytes() for p in old.rglob("*") if p.is_file()}
    (tmp_path / "m.onnx").write_bytes(b"broken")
    refused(cli(tmp_path / "m.onnx", "-o", old), "m.onnx")
    assert {p.relative_to(old): p.read_bytes() for p in old.rglob("*") if p.is_file()} == before


RUNS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "shape": (np.zeros((2, 2), np.float32), ("in.npy", "[2, 2]", "[1, 3, 8, 8]")),
    "type": (np.zeros((1, 3, 8, 8), np.int32), ("in.npy", "int32")),
    "nan": (np.full((1, 3, 8, 8), np.nan, np.float32), ("in.npy", "nan")),
    "damaged": (b"\x93NUMPY broken", ("in.npy",)),
    "text": (b"hello", ("in.npy",)),
    "missing": (None, ("in.npy", "No such file")),
}


@pytest.mark.parametrize("name", RUNS)
def test_inputs_of_run(cli: Cli, bundle: Path, tmp_path: Path, name: str) -> None:
    content, words = RUNS[name]
    path = tmp_path / "in.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content)
    refused(cli("run", bundle, "--input", path, "-o", tmp_path / "y.npz"), *words)
    assert not (tmp_path / "y.npz").exists()


def test_more_faults_of_run_and_bench(cli: Cli, bundle: Path, tmp_path: Path) -> None:
    x = tmp_path / "x.npy"
    np.save(x, np.zeros((1, 3, 8, 8), np.float32))
    (tmp_path / "x.png").write_bytes(b"not a picture")
    np.savez(tmp_path / "x.npz", a=np.zeros(3), b=np.zeros(3))
    refused(cli("run", bundle, "--input", tmp_path / "x.png"), "x.png", "not an image")
    refused(cli("run", bundle, "--input", tmp_path / "x.npz"), "x.npz' has no array 'x'", "it has: a, b")
    refused(cli("run", bundle, "--input", x, "--input", x), "'x' is given twice")
    refused(cli("run", bundle, "--input", x, "-o", tmp_path / "none/y.npz"), "y.npz", "there is no folder")
    refused(cli("run", bundle, "--input", x, "--threads", 99), "threads is 99")
    refused(cli("run", tmp_path, "--input", x), "is not a bundle")
    refused(cli("bench", tmp_path), "is not a bundle")
    refused(cli("bench", bundle, "--runs", 0), "--runs is 0")
    refused(cli("bench", bundle, "--runs", "many"), "'many' is not a whole number")


def test_a_damaged_bundle(cli: Cli, bundle: Path, tmp_path: Path) -> None:
    import shutil

    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    library = copy / "libmodel.so"
    library.write_bytes(library.read_bytes()[:-1])
    refused(cli("bench", copy), "libmodel.so is truncated or altered")
    refused(cli("run", copy, "--input", "x.npy"), "libmodel.so is truncated or altered")


def test_faults_of_our_own(cli: Cli, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import qcompile.driver

    def broken(*_: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(qcompile.driver, "lower", broken)
    monkeypatch.chdir(tmp_path)
    result = cli(model, "--fp32", "-o", tmp_path / "b")
    assert result.code == 1
    assert "internal error: RuntimeError: a bug" in result.err
    assert "Traceback" not in result.err
    (written,) = tmp_path.iterdir()
    text = written.read_text()
    assert "Traceback" in text
    assert "a bug" in text
    assert str(written) in result.err


@pytest.mark.parametrize("words", [["none.onnx", "-o", "b"], ["--taget", "rpi4"], ["bench", "."]])
def test_the_program_itself(tmp_path: Path, words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "qcompile.cli", *words], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    refused(Result(done.returncode, done.stdout, done.stderr))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [["compile"], ["analyze"], ["export-qdq"], []])
def test_samples_of_two_places(words: list[str], cli: Cli, tmp_path: Path, untouched: Path) -> None:
    onnx.save(classifier(), tmp_path / "m.onnx")
    given = [tmp_path / "m.onnx", "--calib", tmp_path / "a.npz", f"--calib={tmp_path / 'b.npz'}"]
    refused(cli(*words, *given, *([] if words == ["analyze"] else ["-o", untouched])), "--calib is given 2 times")


def test_names_cannot_command_the_terminal(cli: Cli, tmp_path: Path, untouched: Path) -> None:
    def rename(model: onnx.ModelProto) -> None:
        model.graph.node[2].name = "evil \x1b]0;title\x07\nerror: second line"
        model.graph.node[2].input[0] = "nothing"

    rewritten(rename)(tmp_path / "m.onnx")
    result = cli(tmp_path / "m.onnx", "-o", untouched)
    refused(result, "evil")
    assert "\x1b" not in result.err
