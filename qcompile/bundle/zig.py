"""Runs the C compiler and linker of the zig toolchain, which pip installs, in a folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from qcompile.errors import BundleError, InternalError
from qcompile.files import own_folder

MODULE = "ziglang"
_TIMEOUT_S = 900
_MORE_ROOM = "let TMPDIR and QCOMPILE_CACHE name folders with more room"


def version() -> str:
    """Return the toolchain's version.

    Raises:
        BundleError: it is missing.
    """
    try:
        return metadata.version(MODULE)
    except metadata.PackageNotFoundError:
        raise _missing() from None


def _missing() -> BundleError:
    return BundleError(f"the Python package '{MODULE}' is missing", hint=f"pip install {MODULE}")


def cache_folder() -> Path | None:
    """Return where compiled code that all models share is kept: $QCOMPILE_CACHE, or the user's cache folder, if any."""
    chosen = os.environ.get("QCOMPILE_CACHE")
    return Path(chosen) if chosen else own_folder("XDG_CACHE_HOME", "~/.cache")


@contextmanager
def workplace(files: Mapping[str, bytes]) -> Iterator[str]:
    """Write files into a folder that is gone afterwards.

    Args:
        files: contents by name.

    Raises:
        BundleError: there is no room for temporary files.
    """
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


def cc(folder: str, arguments: Sequence[str]) -> None:
    """Run `zig cc` in a folder, with paths relative to it, so that none of ours can show in the output.

    Args:
        folder: of `workplace`.
        arguments: of the compiler.

    Raises:
        BundleError: zig is missing, or there is no room.
        InternalError: zig refuses the sources; with its output.
    """
    cache = usable_cache(folder)
    # The local cache lasts as long as the folder: objects with weights must not pile up in the user's.
    # Where TMPDIR cannot be written Python takes another folder, but zig does not.
    places = {"ZIG_GLOBAL_CACHE_DIR": str(cache), "ZIG_LOCAL_CACHE_DIR": f"{folder}/cache", "TMPDIR": folder}
    command = [sys.executable, "-m", MODULE, "cc", *arguments]
    try:
        done = subprocess.run(command, cwd=folder, env={**os.environ, **places}, capture_output=True,
                              text=True, errors="replace", timeout=_TIMEOUT_S, check=False)  # fmt: skip
    except subprocess.TimeoutExpired:
        raise InternalError(f"zig did not finish in {_TIMEOUT_S} s: zig cc {' '.join(arguments)}") from None
    if done.returncode == 0:
        return
    output = (done.stderr + done.stdout).strip()[-4000:]
    if f"No module named {MODULE}" in output:
        raise _missing()
    if any(word in output for word in ("NoSpaceLeft", "No space left", "DiskQuota")):
        raise BundleError(f"no space left while linking, in {folder} or {cache}", hint=_MORE_ROOM)
    raise InternalError(f"zig cc failed with status {done.returncode}:\n{output}")


def usable_cache(folder: str) -> Path:
    """Return the user's cache if it can be written, else one that lasts as long as this build.

    Args:
        folder: of `workplace`.
    """
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
