"""The Python loader: what it runs, and all that it refuses to load."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from qcompile import bundle, runtime
from qcompile.errors import BundleError, UsageError
from qcompile.ir.program import Program
from qcompile.runtime import run

Maker = Callable[..., Program]


@pytest.fixture(scope="module")
def built(tiny_program: Maker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built") / "b"
    labels = [f"label {i}" for i in range(1000)]
    bundle.write_bundle(tiny_program("host"), folder, bundle.Provenance(labels=labels))
    return folder


@pytest.fixture
def copied(built: Path, tmp_path: Path) -> Path:
    """A bundle to damage."""
    return Path(shutil.copytree(built, tmp_path / "copy"))


def edit_manifest(folder: Path, change: Callable[[dict], None]) -> None:
    content = json.loads((folder / "manifest.json").read_text())
    change(content)
    (folder / "manifest.json").write_text(json.dumps(content))


@pytest.mark.parametrize("threads", [0, 1, 2, 4])
def test_run(built: Path, tiny_input: np.ndarray, tiny_output: np.ndarray, threads: int) -> None:
    with runtime.load(built, threads=threads) as session:
        result = session.run({"x": tiny_input})
    assert list(result) == ["y"]
    np.testing.assert_array_equal(result["y"], tiny_output)
    assert result["y"].dtype == np.float32


def test_any_memory_layout(built: Path, tiny_input: np.ndarray, tiny_output: np.ndarray) -> None:
    wide = np.zeros((1, 2000), np.float32)
    wide[:, ::2] = tiny_input
    shifted = np.zeros(1001, np.float32)
    shifted[1:] = tiny_input[0]
    readonly = tiny_input.copy()
    readonly.setflags(write=False)
    with runtime.load(built) as session:
        for x in (wide[:, ::2], shifted[None, 1:], readonly, np.asfortranarray(tiny_input)):
            np.testing.assert_array_equal(session.run({"x": x})["y"], tiny_output)


def test_outputs_are_the_callers_own(built: Path, tiny_input: np.ndarray, tiny_output: np.ndarray) -> None:
    with runtime.load(built) as session:
        first = session.run({"x": tiny_input})["y"]
        session.run({"x": tiny_input * 2})
    np.testing.assert_array_equal(first, tiny_output)


def test_many_sessions_and_many_threads_at_once(built: Path, tiny_input: np.ndarray) -> None:
    shared = runtime.load(built, threads=2)
    failures: list[object] = []

    def work(factor: int) -> None:
        own = runtime.load(built, threads=2)
        x = tiny_input * np.float32(factor)
        expected = x * (np.arange(1000) % 16).astype(np.float32) + np.float32(1)
        for session in (own, shared) * 50:
            if not np.array_equal(session.run({"x": x})["y"], expected):
                failures.append(factor)
        own.close()

    workers = [threading.Thread(target=work, args=(factor,)) for factor in range(1, 5)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    shared.close()
    assert failures == []


def test_describe_and_profile(built: Path, tiny_input: np.ndarray) -> None:
    with runtime.load(built) as session:
        about = session.describe()
        steps = session.profile({"x": tiny_input}, runs=3)
        assert [step["op"] for step in session.profile()] == ["mul", "add"]
    assert about["name"] == "tiny-net 1.0"
    assert about["inputs"] == [{"name": "x", "dtype": "float32", "shape": (1, 1000), "scale": None, "zero_point": None}]
    assert about["weights_bytes"] == 128
    assert about["requires"] == session.manifest["target"]["requires"]
    assert steps[0]["node"] == "Mul_0"
    assert all(step["ns"] > 0 for step in steps)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "input 'x' is missing"),
        ({"z": np.zeros(1)}, "no input 'z'"),
        ({"x": np.zeros((1, 999), np.float32)}, r"has shape \(1, 999\), expected \(1, 1000\)"),
        ({"x": np.zeros((1, 1000))}, "is float64, expected float32"),
        ({"x": np.zeros((1, 1000), ">f4")}, "is >f4, expected float32"),
        ({"x": [0.0] * 1000}, "is a list, expected a NumPy array"),
        ([1], "inputs is a list"),
    ],
)
def test_wrong_inputs(built: Path, inputs: dict, message: str) -> None:
    with runtime.load(built) as session, pytest.raises(UsageError, match=message):
        session.run(inputs)


def test_a_closed_session(built: Path) -> None:
    session = runtime.load(built)
    session.close()
    session.close()
    with pytest.raises(UsageError, match="closed"):
        session.run(session.zeros())


@pytest.mark.parametrize("threads", [-1, 65, 1.5, True, "4"])
def test_wrong_number_of_threads(built: Path, threads: object) -> None:
    with pytest.raises(UsageError, match="threads is"):
        runtime.load(built, threads=threads)  # type: ignore[arg-type]


def truncate(folder: Path) -> None:
    path = folder / "libmodel.so"
    path.write_bytes(path.read_bytes()[:-100])


def alter(folder: Path) -> None:
    path = folder / "libmodel.so"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def rehash(folder: Path) -> None:
    """Give the manifest the digest of the library as it is."""
    import hashlib

    data = (folder / "libmodel.so").read_bytes()
    entry = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    edit_manifest(folder, lambda m: m["files"].update({"libmodel.so": entry}))


def no_elf(folder: Path) -> None:
    (folder / "libmodel.so").write_bytes(b"not a library")
    rehash(folder)


def other_libc(folder: Path) -> None:
    """Make the library ask for a C library that this system does not have."""
    path = folder / "libmodel.so"
    path.write_bytes(path.read_bytes().replace(b"libc.so.6", b"libX.so.6"))
    rehash(folder)


DAMAGES: list[tuple[Callable[[Path], object], str]] = [
    (truncate, "libmodel.so is truncated or altered"),
    (alter, "its SHA-256 is not the manifest's"),
    (no_elf, "not a 64-bit Linux library"),
    (other_libc, "cannot load libmodel.so"),
    (lambda f: (f / "libmodel.so").unlink(), "libmodel.so: No such file"),
    (lambda f: (f / "manifest.json").unlink(), "manifest.json: No such file"),
    (lambda f: (f / "manifest.json").write_text("{"), "not valid JSON"),
    (lambda f: (f / "manifest.json").write_text("[" * 100_000), "not valid JSON"),
    (lambda f: (f / "manifest.json").write_bytes(b"\xff\xfe"), "not valid JSON"),
    (lambda f: (f / "manifest.json").write_text('"x"'), "not qcompile's"),
    (lambda f: edit_manifest(f, lambda m: m.update(schema_version=2)), "written by a newer qcompile"),
    (lambda f: edit_manifest(f, lambda m: m.pop("abi")), "entries are missing"),
    (lambda f: edit_manifest(f, lambda m: m["files"].pop("libmodel.so")), "entries are missing"),
    (lambda f: edit_manifest(f, lambda m: m["abi"].update(version=2)), "version 2 of the C interface"),
    (lambda f: edit_manifest(f, lambda m: m["abi"].update(prefix="qc_other_")), "has no qc_other_describe"),
    (lambda f: edit_manifest(f, lambda m: m["abi"].update(prefix=7)), "entries are missing or of a wrong type"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES, ids=[message[:30] for _, message in DAMAGES])
def test_a_damaged_bundle_is_refused(copied: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(copied)
    with pytest.raises(BundleError, match=message):
        runtime.load(copied)


def test_wrong_architecture(tiny_program: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle.write_bundle(tiny_program("rpi4"), tmp_path / "b")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    with pytest.raises(BundleError, match="is for aarch64 Linux, this is x86_64 Linux") as caught:
        runtime.load(tmp_path / "b")
    assert "--target" in (caught.value.hint or "")


def test_wrong_system(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    with pytest.raises(BundleError, match="Darwin"):
        runtime.load(built)


def test_a_32_bit_python(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("struct.calcsize", lambda _: 4)
    with pytest.raises(BundleError, match="32-bit program"):
        runtime.load(built)


def test_missing_instruction_set(tiny_program: Maker, tmp_path: Path) -> None:
    target = tiny_program("host").target
    program = tiny_program(dataclasses.replace(target, requires=(*target.requires, "quantum_leap")))
    bundle.write_bundle(program, tmp_path / "b")
    with pytest.raises(BundleError, match="this processor lacks 'quantum_leap', which target 'host' needs") as caught:
        runtime.load(tmp_path / "b")
    assert "--target" in (caught.value.hint or "")


def test_a_failing_kernel(tiny_program: Maker, tmp_path: Path) -> None:
    program = tiny_program("host")
    failing = dataclasses.replace(program.steps[1], kernel="k_fail", tiles=16)
    bundle.write_bundle(dataclasses.replace(program, steps=(failing,)), tmp_path / "b")
    with runtime.load(tmp_path / "b", threads=2) as session:
        for _ in range(2):
            with pytest.raises(BundleError, match="a kernel reported a failure"):
                session.run(session.zeros())


def script(folder: Path, *arguments: object, code: int = 0) -> str:
    """Run the bundle's own run.py in a Python that cannot see qcompile."""
    command = [sys.executable, "-I", "-S", "-c", _ISOLATED, str(folder / "run.py"), *map(str, arguments)]
    environment = {"NUMPY_AT": str(Path(np.__file__).parent.parent), "PATH": os.environ["PATH"]}
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder.parent, env=environment, timeout=60)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


_ISOLATED = """
import os, sys, runpy
class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("qcompile", "onnx", "tvm", "yaml", "jsonschema"):
            raise ImportError(f"{name} is not on the device")
sys.meta_path.insert(0, Nothing())
sys.path.append(os.environ["NUMPY_AT"])
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_the_copy_in_the_bundle_runs_alone(built: Path, tmp_path: Path, tiny_input: np.ndarray) -> None:
    moved = Path(shutil.copytree(built, tmp_path / "moved"))
    np.save(tmp_path / "x.npy", tiny_input)
    text = script(moved, "--input", "x.npy", "--top", "2", "--output", "y.npz", "--bench", 3, "--profile")
    output = np.load(tmp_path / "y.npz")["y"]
    best = int(np.argmax(output))
    assert f"  {best:6d}  " in text
    assert f"label {best}" in text
    assert "3 runs, peak memory" in text
    assert "Mul_0" in text
    assert script(moved, "--input", "x=x.npy", "--top", "2").count("label") == 2
    assert sorted(os.listdir(tmp_path)) == ["moved", "x.npy", "y.npz"]


def test_outputs_go_through_links_and_pipes(built: Path, tmp_path: Path, tiny_input: np.ndarray) -> None:
    moved = Path(shutil.copytree(built, tmp_path / "moved"))
    np.save(tmp_path / "x.npy", tiny_input)
    (tmp_path / "link.npz").symlink_to(tmp_path / "there.npz")
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    for name in ("link.npz", "pipe"):
        script(moved, "--input", "x.npy", "--output", name)
    assert (tmp_path / "link.npz").is_symlink()
    assert (tmp_path / "pipe").is_fifo()
    assert os.read(reader, 1 << 16) == (tmp_path / "there.npz").read_bytes()
    os.close(reader)


def test_errors_of_the_script(built: Path, tmp_path: Path, tiny_input: np.ndarray) -> None:
    moved = Path(shutil.copytree(built, tmp_path / "moved"))
    np.save(tmp_path / "x.npy", tiny_input)
    np.save(tmp_path / "p.npy", np.array([{}], dtype=object), allow_pickle=True)
    (tmp_path / "t.npy").write_text("text")
    (tmp_path / "e.npy").write_text("")
    assert "hint: --input FILE.npy; the model takes x float32[1, 1000]" in script(moved, code=2)
    assert "error: cannot read absent.npy: No such file" in script(moved, "--input", "absent.npy", code=2)
    for name in ("t.npy", "p.npy", "e.npy"):
        assert "is not a .npy file" in script(moved, "--input", name, code=2)
    assert "2 inputs were given" in script(moved, "--input", "x.npy", "--input", "x.npy", code=2)
    for option in ("--bench", "--top"):
        assert "'-1' is not a whole number, 0 or more" in script(moved, "--input", "x.npy", option, "-1", code=2)
    assert "no input 'z'" in script(moved, "--input", "z=x.npy", code=2)
    assert "cannot write no/y.npz" in script(moved, "--input", "x.npy", "--output", "no/y.npz", code=2)
    before = (tmp_path / "x.npy").read_bytes()
    for given in ("x.npy", "x=x.npy"):
        assert "x.npy is the file of an input" in script(moved, "--input", given, "--output", "x.npy", code=2)
    assert (tmp_path / "x.npy").read_bytes() == before
    truncate(moved)
    assert "error: " in script(moved, "--bench", 1, code=2)


def test_it_can_be_stopped(built: Path, tmp_path: Path, tiny_input: np.ndarray) -> None:
    np.save(tmp_path / "x.npy", tiny_input)
    words = [sys.executable, "-u", built / "run.py", "--input", tmp_path / "x.npy", "--bench", "1000000000"]
    # Where the tests run in the background of a shell, SIGINT is ignored, and that would be inherited.
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, before)
    assert process.stdout is not None
    assert process.stdout.readline() == "y:\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "error: interrupted\n")


def test_the_file_keeps_to_old_syntax() -> None:
    """Raspberry Pi OS of 2021 has Python 3.9, Ubuntu 20.04 has 3.8."""
    import ast

    ast.parse(Path(run.__file__).read_text(), feature_version=(3, 8))


def test_loader_header_and_manifest_agree_on_versions_and_types() -> None:
    """The loader knows nothing of the compiler, so its constants are its own; they must be the same."""
    import re

    from qcompile.bundle import manifest, source

    header = (source.CSRC / "qc_types.h").read_text()
    constants = {name: int(value) for name, value in re.findall(r"(QC_\w+)(?: =)? (\d+)", header)}
    assert run.ABI_VERSION == manifest.ABI_VERSION == constants["QC_ABI_VERSION"]
    assert run.SCHEMA_VERSION == manifest.SCHEMA_VERSION
    assert constants["QC_MAX_THREADS"] == run.MAX_THREADS
    assert constants["QC_ERR_ISA"] == run._ERR_ISA
    for name, (constant, size) in source._DTYPES.items():
        assert run._DTYPES[constants[constant]] == name
        assert np.dtype(name).itemsize == size
