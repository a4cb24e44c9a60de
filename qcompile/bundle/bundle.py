"""Write a program as a bundle, add a file to one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from qcompile.bundle import directory, link, manifest, source
from qcompile.bundle.manifest import Provenance
from qcompile.errors import InternalError
from qcompile.ir.program import Program

Content = bytes | str | Callable[[dict[str, Any]], bytes | str]
"""A file's content, or a function of the manifest that returns it."""

_RUNTIME = Path(__file__).parent.parent / "runtime"
_CORE = ("libmodel.so", "model.h", "example/main.c", "bin/qcrun", "run.py", "command.py", "self_test.py")


def check_output(output: str | Path, files: Iterable[str] = ()) -> None:
    """Check that a bundle can be written to a directory, before hours are spent on making it.

    Args:
        output: the directory; it need not exist.
        files: relative paths of more files for it, as for `write_bundle`.

    Raises:
        BundleError: something of the user's is in the way, or the place cannot be written.
    """
    directory.check_output(Path(output), [*_CORE, *files])


def write_bundle(
    program: Program,
    output: str | Path,
    provenance: Provenance | None = None,
    *,
    files: Mapping[str, Content] | None = None,
) -> dict[str, Any]:
    """Link a program and write its bundle: library, header, example, loader, manifest.

    Args:
        program: what `qcompile.lower` made.
        output: the directory to write; an old bundle there is replaced, anything else is refused.
        provenance: the model file, calibration and configuration it was made from.
        files: more files for the bundle by relative path, for example {"report.html": ...}; a function gets
            the manifest (which does not list these files yet).

    Returns:
        The contents of manifest.json.

    Raises:
        BundleError: the directory is not ours to replace, cannot be written, or the disk is full; nothing was
            changed then.
        InternalError: the linker refuses the program.
    """
    path = Path(output)
    for name in files or {}:
        _check_name(name)
    directory.check_output(path, [*_CORE, *(files or {})])
    origin = provenance or Provenance()
    content = _core_files(program, origin.recipe.get("self_test"))
    made = manifest.build(program, origin, content)
    for name, data in (files or {}).items():
        value = data(made) if callable(data) else data
        content[name] = value.encode() if isinstance(value, str) else value
    made = {**made, "files": manifest.describe_files(content)}
    directory.replace(path, {**content, manifest.NAME: manifest.encode(made)})
    return made


def build_executable(program: Program, self_test: Mapping[str, Any] | None = None) -> bytes:
    """Return a program that has the model inside and needs no library on the device (statically linked).

    It takes the arguments of example/main.c, and runs under `qemu-aarch64` without a system image.

    Args:
        program: what `qcompile.lower` made.
        self_test: see `source.sources`.

    Raises:
        BundleError: zig is missing, or there is no room for temporary files.
        InternalError: the linker refuses the program.
    """
    return link.build_static(source.sources(program, self_test), program.target)


def read_manifest(path: str | Path) -> dict[str, Any]:
    """Return the manifest of the bundle in a directory.

    Raises:
        BundleError: it is not a bundle, it is damaged, or newer than this qcompile.
    """
    return manifest.read(Path(path))


def add_file(path: str | Path, name: str, content: bytes) -> dict[str, Any]:
    """Add a file to a bundle on disk, or replace one added earlier, and record it in the manifest.

    Args:
        path: the bundle's directory.
        name: relative path, for example "report.html".
        content: the file's bytes.

    Returns:
        The new contents of manifest.json.

    Raises:
        BundleError: it is not a bundle, or it cannot be written.
    """
    _check_name(name)
    made = read_manifest(path)
    files = {**made["files"], **manifest.describe_files({name: content})}
    made = {**made, "files": dict(sorted(files.items()))}
    directory.replace_file(Path(path) / name, content)
    directory.replace_file(Path(path) / manifest.NAME, manifest.encode(made))
    return made


def _core_files(program: Program, self_test: Mapping[str, Any] | None) -> dict[str, bytes]:
    code = source.sources(program, self_test)
    built = link.build(code, program.target)
    every = (built["libmodel.so"], code["model.h"], code["main.c"], built["qcrun"])
    python = ((_RUNTIME / name).read_bytes() for name in ("run.py", "command.py", "self_test.py"))
    return dict(zip(_CORE, (*every, *python), strict=True))


def _check_name(name: str) -> None:
    pure = PurePosixPath(name)
    taken = name in _CORE or name == manifest.NAME
    if taken or pure.is_absolute() or ".." in pure.parts or str(pure) != name:
        raise InternalError(f"'{name}' cannot be added to a bundle")
