"""Writes down how to see a fault again: one of ours, or of a pass of the user's own."""

from __future__ import annotations

import platform
import shlex
import tempfile
import traceback
from pathlib import Path


def write_reproducer(error: BaseException, text: str | None, command: list[str]) -> Path:
    """Write a file with the command, the traceback and, where there is one, the IR that shows the fault.

    Args:
        error: what was raised.
        text: pipeline and IR, or None.
        command: the program's arguments.

    Returns:
        Path of the file: in the working directory, or the temporary directory where that is not writable.
    """
    from qcompile import __version__

    lines = [
        f"qcompile {__version__}, Python {platform.python_version()}, {platform.platform()}",
        f"command: {shlex.join(command)}",
        "",
        "".join(traceback.format_exception(error)),
    ]
    if text:
        lines += ["reproducer:", text]
    content = "\n".join(lines)
    try:
        return _write(Path.cwd(), content)
    except OSError:
        return _write(Path(tempfile.gettempdir()), content)


def _write(directory: Path, content: str) -> Path:
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=directory, prefix="qcompile-reproducer-", suffix=".txt", delete=False
    ) as file:
        file.write(content)
    return Path(file.name)
