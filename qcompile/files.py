"""Files that are there as a whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from qcompile.errors import UsageError


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
