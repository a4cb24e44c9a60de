"""Compile and link a model's sources for its target with the zig toolchain, which pip installs.

The result depends on the sources and on zig's version alone: no path, time or build id gets in.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from qcompile.errors import BundleError, InternalError
from qcompile.files import own_folder
from qcompile.targets import Target

_MODULE = "ziglang"
_TIMEOUT_S = 900
_MORE_ROOM = "let TMPDIR and QCOMPILE_CACHE name folders with more room"
_FLAGS = ("-std=c11", "-O2", "-g0", "-fPIC", "-mcpu=baseline", "-fvisibility=hidden", "-ffunction-sections",
          "-fdata-sections", "-fno-sanitize=all", "-fno-stack-protector", "-s", "-Wl,--gc-sections",
          "-Wl,--build-id=none", "-Wl,-z,noexecstack")  # fmt: skip
_C_FILES = ("model.c", "qc_cpu.c", "qc_model.c", "qc_pool.c", "qc_sizes.c", "weights.S")


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
    with _workplace(files) as folder:
        objects = sorted(name for name in files if name.endswith(".o"))
        shared = ["-shared", "-Wl,--version-script=exports.map", "-Wl,-z,defs", "-o", "libmodel.so"]
        _zig(folder, ["-target", triple, *_FLAGS, *shared, *_C_FILES, *objects, "-lm", "-lpthread"])
        _zig(folder, ["-target", triple, *_FLAGS, "-o", "qcrun", "main.c", "libmodel.so",
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
    with _workplace(files) as folder:
        objects = sorted(name for name in files if name.endswith(".o"))
        _zig(folder, ["-target", f"{target.arch}-linux-musl", "-static", *_FLAGS, "-o", "qcrun", "main.c",
                      *_C_FILES, *objects, "-lm", "-lpthread"])  # fmt: skip
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
    with _workplace(files) as folder:
        parts = sorted(name for name in files if name.endswith((".c", ".o")))
        _zig(folder, ["-target", triple, *(["-static"] if static else []), *_FLAGS, "-o", "program", *parts, "-lm"])
        return (Path(folder) / "program").read_bytes()


def cache_folder() -> Path | None:
    """Return where zig keeps the C library it compiled: $QCOMPILE_CACHE, or the user's cache folder if there is one."""
    chosen = os.environ.get("QCOMPILE_CACHE")
    return Path(chosen) if chosen else own_folder("XDG_CACHE_HOME", "~/.cache")


@contextmanager
def _workplace(files: Mapping[str, bytes]) -> Iterator[str]:
    """Write the files into a folder that is gone afterwards."""
    try:
        holder = tempfile.TemporaryDirectory(prefix="qcompile-", ignore_cleanup_errors=True)
    except OSError as error:
        raise _no_room(tempfile.gettempdir(), error) from None
    with holder as folder:
        try:
            for name, content in files.items():
                (Path(folder) / name).write_bytes(content)
        except OSError as error:
            raise _no_room(folder, error) from None
        yield folder


def _no_room(folder: str, error: OSError) -> BundleError:
    return BundleError(f"cannot write temporary files in {folder}: {error.strerror}", hint=_MORE_ROOM)


def _zig(folder: str, arguments: Sequence[str]) -> None:
    """Run `zig cc` in a folder, with paths relative to it, so that none of ours can show in the output."""
    cache = _usable_cache(folder)
    # The local cache lasts as long as the folder: objects with weights must not pile up in the user's.
    caches = {"ZIG_GLOBAL_CACHE_DIR": str(cache), "ZIG_LOCAL_CACHE_DIR": f"{folder}/cache"}
    command = [sys.executable, "-m", _MODULE, "cc", *arguments]
    try:
        done = subprocess.run(command, cwd=folder, env={**os.environ, **caches}, capture_output=True,
                              text=True, errors="replace", timeout=_TIMEOUT_S, check=False)  # fmt: skip
    except subprocess.TimeoutExpired:
        raise InternalError(f"zig did not finish in {_TIMEOUT_S} s: zig cc {' '.join(arguments)}") from None
    if done.returncode == 0:
        return
    output = (done.stderr + done.stdout).strip()[-4000:]
    if f"No module named {_MODULE}" in output:
        raise BundleError("the Python package 'ziglang' is missing", hint="pip install ziglang")
    if any(word in output for word in ("NoSpaceLeft", "No space left", "DiskQuota")):
        raise BundleError(f"no space left while linking, in {folder} or {cache}", hint=_MORE_ROOM)
    raise InternalError(f"zig cc failed with status {done.returncode}:\n{output}")


def _usable_cache(folder: str) -> Path:
    """Return the user's cache if it can be written, else one that lasts as long as this build."""
    cache = cache_folder()
    if cache is None:
        return Path(folder) / "global-cache"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        if os.access(cache, os.W_OK | os.X_OK):
            return cache
    except OSError:
        pass
    return Path(folder) / "global-cache"
