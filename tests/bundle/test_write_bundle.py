"""Bundles as they lie on the disk: their files, their bytes, and what happens when they cannot be written."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import jsonschema
import pytest

from qcompile import bundle
from qcompile.bundle import directory, link, manifest, source, zig
from qcompile.errors import BundleError, InternalError
from qcompile.ir.program import BufferRef, Program, TensorInfo

Maker = Callable[[str], Program]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def fake_files(text: str = "1") -> dict[str, bytes]:
    """A bundle for tests of the directory alone: nothing is compiled."""
    files = {"libmodel.so": b"so" + text.encode(), "model.h": b"h", "bin/qcrun": b"#!/bin/sh\n"}
    table = manifest.describe_files(files)
    target = {"name": "t", "triple": "x86_64-linux-gnu", "cpu": "c", "features": [], "isa": "i", "glibc": "2.17",
              "requires": []}  # fmt: skip
    made = {
        "format": manifest.FORMAT, "schema_version": 1, "name": "n", "target": target, "inputs": [], "outputs": [],
        "abi": {"version": 1, "prefix": "qc_n_", "library": "libmodel.so", "header": "model.h"},
        "memory": {"weights": 0, "arena": 0, "scratch_per_thread": 0}, "model": {}, "calibration": None,
        "recipe": {}, "tools": {}, "notes": [], "steps": [], "files": table,
    }  # fmt: skip
    return {**files, manifest.NAME: manifest.encode(made)}


def test_a_bundle_has_its_files_and_a_valid_manifest(tiny_program: Maker, tmp_path: Path) -> None:
    digest = "a" * 64
    origin = bundle.Provenance(
        model={"file": "m.onnx", "sha256": digest, "bytes": 7},
        calibration={"source": "images", "samples": 3, "sha256": digest},
        recipe={"precision": "int8"},
        notes=["a note"],
        labels=["cat", "dög"],
    )
    made = bundle.write_bundle(tiny_program("host"), tmp_path / "a" / "b", origin, files={"report.html": "<p>"})
    files = contents(tmp_path / "a" / "b")
    assert set(files) == {"libmodel.so", "model.h", "manifest.json", "run.py", "command.py", "self_test.py",
                          "report.html", "example/main.c", "bin/qcrun"}  # fmt: skip
    assert json.loads(files["manifest.json"]) == made == bundle.read_manifest(tmp_path / "a/b")
    schema = json.loads((Path(bundle.__file__).parent / "manifest.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(made, schema)
    assert made["abi"]["prefix"] == "qc_tiny_net_1_0_"
    assert made["model"]["sha256"] == digest
    assert made["labels"] == ["cat", "dög"]
    assert made["steps"][0] == {"node": "Mul_0", "op": "mul", "precision": "float32", "kernel": "k_scale",
                                "tiles": 63, "grain": 4, "macs": 1000, "bytes": 8000}  # fmt: skip
    assert made["files"] == manifest.describe_files({n: d for n, d in files.items() if n != "manifest.json"})
    assert os.access(tmp_path / "a/b/bin/qcrun", os.X_OK)


@pytest.mark.parametrize("target", ["host", "rpi4"])
def test_the_same_program_gives_the_same_bytes_anywhere(
    tiny_program: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    bundle.write_bundle(tiny_program(target), tmp_path / "one")
    elsewhere = tmp_path / "a longer path with spaces"
    elsewhere.mkdir()
    monkeypatch.setenv("TMPDIR", str(elsewhere))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.chdir(elsewhere)
    bundle.write_bundle(tiny_program(target), Path("two"))
    assert contents(tmp_path / "one") == contents(elsewhere / "two")
    for name, data in contents(tmp_path / "one").items():
        assert str(tmp_path).encode() not in data, name
        assert os.fsencode(Path.home()) + b"/" not in data, name


def test_other_weights_of_the_same_size_are_not_taken_from_a_cache(tiny_program: Maker) -> None:
    program = tiny_program("host")
    other = dataclasses.replace(program, weights=program.weights[:64] + b"\x5a" * 64)
    first, second = (link.build(source.sources(p), p.target)["libmodel.so"] for p in (program, other))
    assert program.weights in first
    assert other.weights in second


def test_the_runtime_is_compiled_once_for_all_models(
    tiny_program: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first build keeps its objects, another model's build takes them, and the bytes are those without a cache."""
    compiled: list[str] = []

    def recorded(folder: str, arguments: Sequence[str]) -> None:
        compiled.extend(word for word in arguments if word.endswith(".c"))
        zig.cc(folder, arguments)

    monkeypatch.setattr(link, "cc", recorded)
    program = tiny_program("host")
    other = dataclasses.replace(program, name="another")
    libraries = []
    for cache, built in (("a", program), ("a", other), ("a", program), ("b", program)):
        # The C library that zig itself compiles is the user's.
        monkeypatch.setattr(link, "usable_cache", lambda _, cache=cache: tmp_path / cache)
        libraries.append(link.build(source.sources(built), built.target))
    runtime = ["qc_cpu.c", "qc_model.c", "qc_pool.c", "qc_sizes.c"]
    own = ["model.c", "main.c"]
    assert compiled == [*runtime, *own, *own, *own, *runtime, *own]
    assert libraries[0] == libraries[2] == libraries[3]
    assert sorted(p.name for p in (tmp_path / "a").rglob("*.*")) == [f"{Path(name).stem}.o" for name in runtime]


def test_a_runtime_that_cannot_be_kept_is_compiled_each_time(
    tiny_program: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runtime").write_text("a file where a folder is to be")
    monkeypatch.setattr(link, "usable_cache", lambda _: tmp_path)
    program = tiny_program("host")
    first, second = (link.build(source.sources(program), program.target) for _ in range(2))
    assert first == second


def test_the_library_exports_the_models_functions_and_nothing_else(tiny_program: Maker, tmp_path: Path) -> None:
    bundle.write_bundle(tiny_program("host"), tmp_path / "b")
    listing = subprocess.run(["nm", "-D", "--defined-only", tmp_path / "b/libmodel.so"], check=True,
                             capture_output=True, text=True).stdout  # fmt: skip
    names = {line.split()[-1] for line in listing.splitlines()}
    functions = "abi_version create describe destroy profile reset run run_sized shape state status_string verify"
    assert names == {f"qc_tiny_net_1_0_{name}" for name in functions.split()}


@pytest.mark.parametrize("name", ["model", "pool"])
def test_a_model_may_have_a_name_of_the_runtime(tiny_program: Maker, tmp_path: Path, name: str) -> None:
    """Exported functions never have the names of those inside: `model.onnx` is what most exporters write."""
    bundle.write_bundle(dataclasses.replace(tiny_program("host"), name=name), tmp_path / "b")
    listed = subprocess.run(["nm", "-D", "--defined-only", tmp_path / "b/libmodel.so"], capture_output=True, text=True)
    assert {line.split()[2] for line in listed.stdout.splitlines()} >= {f"qc_{name}_run", f"qc_{name}_create"}


def test_the_library_needs_only_libc_libm_and_threads(tiny_program: Maker, tmp_path: Path) -> None:
    for target, newest in (("x86-64", (2, 17)), ("rpi4", (2, 28))):
        bundle.write_bundle(tiny_program(target), tmp_path / target)
        listing = subprocess.run(["readelf", "-dVW", tmp_path / target / "libmodel.so"], check=True,
                                 capture_output=True, text=True).stdout  # fmt: skip
        needed = {line.split("[")[1].rstrip("]") for line in listing.splitlines() if "(NEEDED)" in line}
        assert needed <= {"libc.so.6", "libm.so.6", "libpthread.so.0", "ld-linux-aarch64.so.1"}
        versions = {word for word in listing.split() if word.startswith("GLIBC_2")}
        assert versions
        assert all(tuple(map(int, word[6:].split("."))) <= newest for word in versions)


def test_header_compiles_as_strict_c_and_cpp_and_two_models_go_together(tiny_program: Maker, tmp_path: Path) -> None:
    program = tiny_program("host")
    for name in ("one", "two"):
        (tmp_path / f"{name}.h").write_text(source.header(dataclasses.replace(program, name=name)))
    code = '#include "one.h"\n#include "two.h"\nint main(void) { return qc_one_verify() + qc_two_verify(); }\n'
    for compiler, standard, suffix in (("gcc", "c99", "c"), ("g++", "c++11", "cc")):
        if shutil.which(compiler) is None:
            pytest.skip(f"{compiler} is not installed")
        (tmp_path / f"main.{suffix}").write_text(code)
        flags = ["-Wall", "-Wextra", "-Werror", "-pedantic", f"-std={standard}", "-c"]
        subprocess.run([compiler, *flags, f"main.{suffix}", "-o", "main.o"], cwd=tmp_path, check=True)


def test_runtime_sources_have_no_warnings(tmp_path: Path) -> None:
    flags = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-pedantic", "-Wshadow", "-Wconversion",
             "-Wno-sign-conversion", "-fvisibility=hidden"]  # fmt: skip
    for triple in ("x86_64-linux-gnu.2.17", "aarch64-linux-gnu.2.28"):
        for name in ("qc_cpu.c", "qc_model.c", "qc_pool.c", "qc_sizes.c"):
            command = [sys.executable, "-m", "ziglang", "cc", "-target", triple, *flags, "-c", source.CSRC / name]
            subprocess.run([*command, "-o", tmp_path / "out.o"], check=True)


def test_report_gets_the_manifest(tiny_program: Maker, tmp_path: Path) -> None:
    made = bundle.write_bundle(tiny_program("host"), tmp_path / "b", files={"report.html": lambda m: f"<p>{m['name']}"})
    assert (tmp_path / "b/report.html").read_text() == "<p>tiny-net 1.0"
    assert made["files"]["report.html"]["bytes"] == 15


@pytest.mark.parametrize("name", ["../x", "/x", "libmodel.so", "manifest.json", "a/../b", "a//b"])
def test_files_of_other_names_are_refused(tiny_program: Maker, tmp_path: Path, name: str) -> None:
    with pytest.raises(InternalError, match="cannot be added"):
        bundle.write_bundle(tiny_program("host"), tmp_path / "b", files={name: b""})


def test_add_file_records_it(tmp_path: Path) -> None:
    directory.replace(tmp_path / "b", fake_files())
    made = bundle.add_file(tmp_path / "b", "report.html", b"new")
    assert (tmp_path / "b/report.html").read_bytes() == b"new"
    assert bundle.read_manifest(tmp_path / "b") == made
    directory.replace(tmp_path / "b", fake_files("2"))
    assert not (tmp_path / "b/report.html").exists(), "the file is the bundle's own, and the new one has none"


def test_a_bundle_is_replaced_and_the_users_files_in_it_are_kept(tmp_path: Path) -> None:
    target = tmp_path / "b"
    directory.replace(target, fake_files("1"))
    (target / "notes").mkdir()
    (target / "notes/mine.txt").write_text("mine")
    (target / "link").symlink_to("nowhere")
    directory.replace(target, fake_files("2"))
    assert (target / "libmodel.so").read_bytes() == b"so2"
    assert (target / "notes/mine.txt").read_text() == "mine"
    assert os.readlink(target / "link") == "nowhere"
    assert os.listdir(tmp_path) == ["b"]


def test_without_an_atomic_exchange_two_renames_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    directory.replace(tmp_path / "b", fake_files("1"))
    directory.replace(tmp_path / "b", fake_files("2"))
    assert contents(tmp_path / "b") == fake_files("2")
    assert os.listdir(tmp_path) == ["b"]


def test_an_empty_directory_and_a_link_to_a_bundle_are_fine(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    directory.replace(tmp_path / "empty", fake_files("1"))
    (tmp_path / "link").symlink_to("empty")
    directory.replace(tmp_path / "link", fake_files("2"))
    assert (tmp_path / "link").is_symlink()
    assert contents(tmp_path / "empty") == fake_files("2")


def prepare_foreign(target: Path) -> None:
    target.mkdir()
    (target / "thesis.tex").write_text("ten years of work")


def prepare_foreign_manifest(target: Path) -> None:
    target.mkdir()
    (target / "manifest.json").write_text('{"name": "a web app"}')


def prepare_broken_manifest(target: Path) -> None:
    target.mkdir()
    (target / "manifest.json").write_text('{"form')


def prepare_edited(target: Path) -> None:
    directory.replace(target, fake_files())
    (target / "model.h").write_text("edited")


def prepare_clash(target: Path) -> None:
    directory.replace(target, fake_files())
    (target / "extra.txt").write_text("mine")


def prepare_file(target: Path) -> None:
    target.write_text("a file")


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (prepare_foreign, "not empty and not a bundle of ours"),
        (prepare_foreign_manifest, "its manifest.json is not qcompile's"),
        (prepare_broken_manifest, "not valid JSON"),
        (prepare_edited, "model.h was changed after qcompile wrote it"),
        (prepare_clash, "extra.txt is not ours"),
        (prepare_file, "is a file"),
    ],
)
def test_what_is_not_ours_is_left_alone(tmp_path: Path, prepare: Callable[[Path], None], message: str) -> None:
    target = tmp_path / "b"
    prepare(target)
    before = contents(tmp_path)
    with pytest.raises(BundleError, match=message) as caught:
        directory.replace(target, {**fake_files("2"), "extra.txt": b"ours"})
    assert caught.value.hint
    with pytest.raises(BundleError, match=message):
        bundle.check_output(target, ["extra.txt"])
    assert contents(tmp_path) == before


def test_the_current_and_the_root_directory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in (Path("."), Path("/")):
        with pytest.raises(BundleError, match="cannot be a bundle's directory"):
            bundle.check_output(path)


def test_output_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError, match=r"is not a directory|Not a directory"):
        bundle.check_output(tmp_path / "file/b")
    with pytest.raises(BundleError, match="cannot write"):
        directory.replace(tmp_path / "file/b", fake_files())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_unwritable_directory(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(BundleError, match="Permission denied"):
        bundle.check_output(tmp_path / "b")
    with pytest.raises(BundleError, match="Permission denied"):
        directory.replace(tmp_path / "b", fake_files())
    tmp_path.chmod(0o700)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_a_write_that_fails_leaves_everything_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    directory.replace(tmp_path / "old", fake_files("1"))
    before = contents(tmp_path)
    write = Path.write_bytes

    def failing(path: Path, data: bytes) -> int:
        if path.name == "qcrun":
            raise OSError(code, os.strerror(code))
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", failing)
    for target in (tmp_path / "old", tmp_path / "new/deep/er"):
        with pytest.raises(BundleError, match=os.strerror(code)):
            directory.replace(target, fake_files("2"))
    assert contents(tmp_path) == before
    assert os.listdir(tmp_path) == ["old"]


def test_an_interrupt_leaves_everything_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory.replace(tmp_path / "old", fake_files("1"))

    def interrupted(fresh: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(directory, "_swap", interrupted)
    for target in (tmp_path / "old", tmp_path / "new/b"):
        with pytest.raises(KeyboardInterrupt):
            directory.replace(target, fake_files("2"))
    assert contents(tmp_path / "old") == fake_files("1")
    assert os.listdir(tmp_path) == ["old"]


def test_no_room_for_temporary_files(tiny_program: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    program = tiny_program("host")
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(BundleError, match="No space left") as caught:
        link.build(source.sources(program), program.target)
    assert "TMPDIR" in (caught.value.hint or "")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
def test_a_disk_that_is_really_full(tiny_program: Maker, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("this container may not mount")
    try:
        with pytest.raises(BundleError, match="No space left"):
            bundle.write_bundle(tiny_program("host"), disk / "b")
        assert os.listdir(disk) == []
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_missing_zig_and_a_refused_source(tiny_program: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tiny_program("host")
    files = source.sources(program)
    with pytest.raises(InternalError, match=r"zig cc failed with status 1:\n(.|\n)*k_increment"):
        link.build({name: data for name, data in files.items() if not name.endswith(".o")}, program.target)
    monkeypatch.setattr(zig, "MODULE", "ziglang_that_is_not_there")
    with pytest.raises(BundleError, match="'ziglang_that_is_not_there' is missing"):
        link.build(files, program.target)


def test_a_temporary_folder_that_cannot_be_written_is_done_without(
    tiny_program: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "closed"))
    bundle.write_bundle(tiny_program("host"), tmp_path / "b")
    assert (tmp_path / "b" / "libmodel.so").exists()


def test_a_cache_that_cannot_be_written_is_done_without(
    tiny_program: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("QCOMPILE_CACHE", str(tmp_path / "file/cache"))
    assert zig.cache_folder() == tmp_path / "file/cache"
    assert zig.usable_cache(str(tmp_path)) == tmp_path / "global-cache"


@pytest.mark.parametrize(
    ("name", "identifier"),
    [("mobilenet_v2", "mobilenet_v2"), ("a-b c/é.onnx", "a_b_c_onnx"), ("日本", "model"), ("", "model"),
     ("1st", "1st"), ("x" * 80, "x" * 48)],
)  # fmt: skip
def test_identifier(name: str, identifier: str) -> None:
    assert source.identifier(name) == identifier


def bad_programs(program: Program) -> list[tuple[Program, str]]:
    step = program.steps[0]

    def with_step(**changes: object) -> Program:
        return dataclasses.replace(program, steps=(dataclasses.replace(step, **changes),))  # type: ignore[arg-type]

    return [
        (with_step(kernel="no symbol"), "not a C symbol"),
        (with_step(args=(BufferRef("none"),) * 9), "9 arguments"),
        (with_step(grain=0), "grain=0"),
        (with_step(args=(BufferRef("weights", 32),)), "not 64-byte aligned"),
        (with_step(args=(BufferRef("arena", 64000),)), "is not below"),
        (with_step(args=(BufferRef("output", 1),)), "is not below"),
        (dataclasses.replace(program, inputs=(TensorInfo("x", "string", (1,)),)), "has type string"),
        (dataclasses.replace(program, inputs=(TensorInfo("x", "int8", (1,), scale=1.0),)), "one of scale"),
    ]


def test_an_inconsistent_program_is_our_own_fault(tiny_program: Maker) -> None:
    for program, message in bad_programs(tiny_program("host")):
        with pytest.raises(InternalError, match=message):
            source.check(program)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not valid JSON"),
        ("[]", "not qcompile's"),
        ('{"format": "qcompile-bundle", "schema_version": 2}', "written by a newer qcompile"),
        ('{"format": "qcompile-bundle", "schema_version": 1}', "is damaged"),
    ],
)
def test_a_manifest_that_is_not_ours(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(BundleError, match=message):
        bundle.read_manifest(tmp_path)


def test_values_that_are_not_json_are_our_own_fault(tiny_program: Maker) -> None:
    for value in (float("nan"), {1, 2}):
        with pytest.raises(InternalError, match="not plain JSON"):
            manifest.build(tiny_program("host"), bundle.Provenance(recipe={"x": value}), {})
