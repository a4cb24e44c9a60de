"""Compile and link a model's sources for its target with the zig toolchain.

The result depends on the sources and on zig's version alone: no path, time or build id gets in.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from qcompile.bundle.zig import cc, usable_cache, version, workplace
from qcompile.targets import Target

_COMPILE = ("-std=c11", "-O2", "-g0", "-fPIC", "-mcpu=baseline", "-fvisibility=hidden", "-ffunction-sections",
            "-fdata-sections", "-fno-sanitize=all", "-fno-stack-protector")  # fmt: skip
_FLAGS = (*_COMPILE, "-s", "-Wl,--gc-sections", "-Wl,--build-id=none", "-Wl,-z,noexecstack")
_MODEL = ("model.c", "weights.S")
_SHARED = "qc_"
"""How the names of the runtime's files begin, which are the same for all models."""


def build(files: Mapping[str, bytes], target: Target) -> dict[str, bytes]:
    """Return libmodel.so and qcrun, the example program linked with it.

    Args:
        files: see `source.sources`.
        target: the machine; its C library's version is the oldest that the result runs with.

    Raises:
        BundleError: zig is missing, or there is no room for temporary files.
        InternalError: zig refuses the sources; with its output.
    """
    triple = f"{target.triple}.{target.glibc}"
    with workplace(files) as folder:
        objects = _objects(files, folder, triple)
        shared = ["-shared", "-Wl,--version-script=exports.map", "-Wl,-z,defs", "-o", "libmodel.so"]
        cc(folder, ["-target", triple, *_FLAGS, *shared, *_MODEL, *objects, "-lm", "-lpthread"])
        cc(folder, ["-target", triple, *_FLAGS, "-o", "qcrun", "main.c", "libmodel.so",
                      "-Wl,-rpath,$ORIGIN/.."])  # fmt: skip
        return {name: (Path(folder) / name).read_bytes() for name in ("libmodel.so", "qcrun")}


def build_static(files: Mapping[str, bytes], target: Target) -> bytes:
    """Return the example program with the model inside, statically linked.

    It runs on any Linux of the target's architecture, whatever its C library, and under a user-mode emulator
    without a system image.

    Args:
        files: see `source.sources`.
        target: the machine.

    Raises:
        BundleError, InternalError: as `build`.
    """
    triple = f"{target.arch}-linux-musl"
    with workplace(files) as folder:
        objects = _objects(files, folder, triple)
        cc(folder, ["-target", triple, "-static", *_FLAGS, "-o", "qcrun", "main.c", *_MODEL, *objects,
                    "-lm", "-lpthread"])  # fmt: skip
        return (Path(folder) / "qcrun").read_bytes()


def build_program(files: Mapping[str, bytes], target: Target, *, static: bool = False) -> bytes:
    """Return a program of our own, such as a benchmark, for a target.

    Args:
        files: C files, headers and objects, by name.
        target: the machine.
        static: link it statically, for an emulator.

    Raises:
        BundleError, InternalError: as `build`.
    """
    triple = f"{target.arch}-linux-musl" if static else f"{target.triple}.{target.glibc}"
    with workplace(files) as folder:
        parts = sorted(name for name in files if name.endswith((".c", ".o")))
        cc(folder, ["-target", triple, *(["-static"] if static else []), *_FLAGS, "-o", "program", *parts, "-lm"])
        return (Path(folder) / "program").read_bytes()


def _objects(files: Mapping[str, bytes], folder: str, triple: str) -> list[str]:
    """Return the names of a model's objects in a folder, those of the runtime included.

    The runtime is compiled once for a C library and taken from the user's cache afterwards.
    """
    shared = {name: content for name, content in sorted(files.items()) if name.startswith(_SHARED)}
    digest = hashlib.sha256(repr((triple, _COMPILE, version(), shared)).encode()).hexdigest()
    kept = usable_cache(folder) / "runtime" / digest[:32]
    made = []
    for source in (name for name in shared if name.endswith(".c")):
        made.append(f"{Path(source).stem}.o")
        try:
            content = (kept / made[-1]).read_bytes()
        except OSError:
            cc(folder, ["-target", triple, *_COMPILE, "-c", source, "-o", made[-1]])
            _keep(kept / made[-1], (Path(folder) / made[-1]).read_bytes())
        else:
            (Path(folder) / made[-1]).write_bytes(content)
    return [*made, *sorted(name for name in files if name.endswith(".o"))]


def _keep(path: Path, content: bytes) -> None:
    """Write a file that others may read or write at any time; where that fails, they compile by themselves."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
