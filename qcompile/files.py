"""Files that are there as a whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from qcompile.errors import UsageError


def check_place(path: Path) -> None:
    """Refuse the path of a file that cannot be written, before the work that leads to it.

    Args:
        path: of the file.

    Raises:
        UsageError: it is a folder, or its folder is missing or closed to this user.
    """
    folder = path.parent
    if path.is_dir():
        raise UsageError(f"cannot write '{path}': it is a folder", hint="give the name of a file in it")
    if not folder.is_dir():
        problem = "is not a folder" if folder.exists() else "does not exist"
        raise UsageError(f"cannot write '{path}': '{folder}' {problem}", hint="make the folder first, or give another")
    if not os.access(folder, os.W_OK):
        raise UsageError(f"cannot write '{path}': the folder '{folder}' is read-only", hint="give another folder")


@contextmanager
def replaced(path: Path, problem: str | None = None) -> Iterator[Path]:
    """Give a path beside another; what was written there takes the other's place when the block ends.

    Args:
        path: of the file to make.
        problem: what to say where that fails; by default that it cannot be written.

    Raises:
        UsageError: it cannot be written; nothing has changed then.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
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


def check_writable(path: Path) -> None:
    """Refuse the name of a file that cannot be written, before the work is done that it is to hold.

    Args:
        path: of the file to be made.

    Raises:
        UsageError: a folder has this name, or the folder for it does not exist or cannot be written to.
    """
    if path.is_dir():
        raise UsageError(f"cannot write '{path}': it is a folder", hint=f"name a file in it: {path / 'report.html'}")
    if not path.parent.is_dir():
        raise UsageError(f"cannot write '{path}': there is no folder '{path.parent}'", hint="make the folder first")
    probe = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        problem = f"cannot write '{path}': {error.strerror or error}"
        raise UsageError(problem, hint="name a file in a folder that you may write to") from error
