"""Files that are there as a whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from qcompile.errors import UsageError


def check_writable(path: Path, example: str) -> None:
    """Refuse the path of a file that cannot be written, before the work whose result it will hold.

    Args:
        path: of the file to be made.
        example: a name that such a file may have, for the hint where the path is that of a folder.

    Raises:
        UsageError: it is a folder, or its folder is missing, is none, or cannot be written to.
    """
    folder = path.parent
    if path.is_dir():
        raise UsageError(f"cannot write '{path}': it is a folder", hint=f"name a file in it: {path / example}")
    if not folder.is_dir():
        problem = f"'{folder}' is not a folder" if folder.exists() else f"there is no folder '{folder}'"
        raise UsageError(f"cannot write '{path}': {problem}", hint="make the folder first, or give another")
    # Whether the user may write there is more than a folder's permissions tell: it may be on a read-only disk.
    probe = _temporary(path)
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        problem = f"cannot write '{path}': {error.strerror or error}"
        raise UsageError(problem, hint="name a file in a folder that you may write to") from error


@contextmanager
def replaced(path: Path, problem: str | None = None) -> Iterator[Path]:
    """Give a path beside another; what was written there takes the other's place when the block ends.

    Args:
        path: of the file to make.
        problem: what to say where that fails; by default that it cannot be written.

    Raises:
        UsageError: it cannot be written; nothing has changed then.
    """
    temporary = _temporary(path)
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        problem = problem or f"cannot write '{path}'"
        raise UsageError(f"{problem}: {error.strerror or error}") from error
    finally:
        # Where the folder is a file there is nothing to remove either.
        with suppress(FileNotFoundError, NotADirectoryError):
            temporary.unlink()


def _temporary(path: Path) -> Path:
    """Return a hidden name beside a file, which no other process uses."""
    return path.with_name(f".{path.name}.{os.getpid()}")
