"""Files that are there as a whole or not at all, and the folder of the user's own."""

from __future__ import annotations

import errno
import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from qcompile.errors import UsageError

_ELSEWHERE = "name a file in a folder that you may write to"


def check_writable(path: str | Path, example: str) -> None:
    """Refuse the path of a file that cannot be written, before the work whose result it will hold.

    Args:
        path: of the file to be made; as text it may end with a slash, and then means a folder.
        example: a name that such a file may have, for the hint where the path is that of a folder.

    Raises:
        UsageError: it is a folder, or its folder is missing, is none, or cannot be written to.
    """
    text, path = str(path), Path(path)
    folder = path.parent
    try:
        with suppress(FileNotFoundError, NotADirectoryError):
            path.stat()
    except OSError as error:  # such as of too long a name
        raise _refused(path, error) from error
    if path.is_dir() or text.endswith("/"):
        raise UsageError(f"cannot write '{text}': it is a folder", hint=f"name a file in it: {path / example}")
    if not folder.is_dir():
        problem = f"'{folder}' is not a folder" if folder.exists() else f"there is no folder '{folder}'"
        raise UsageError(f"cannot write '{path}': {problem}", hint="make the folder first, or give another")
    if is_special(path):
        return
    # Whether the user may write there is more than a folder's permissions tell: it may be on a read-only disk.
    probe = _temporary(_followed(path))
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise _refused(path, error) from error


def _refused(path: Path, error: OSError) -> UsageError:
    return UsageError(f"cannot write '{path}': {error.strerror or error}", hint=_ELSEWHERE)


@contextmanager
def replaced(path: Path, problem: str | None = None) -> Iterator[Path]:
    """Give a path beside another; what was written there takes the other's place when the block ends.

    A link stays one, and the file that it names is replaced. A device or a pipe stays what it is, too, and gets the
    bytes.

    Args:
        path: of the file to make.
        problem: what to say where that fails; by default that it cannot be written.

    Raises:
        UsageError: it cannot be written; nothing has changed then.
    """
    special = is_special(path)
    temporary = _temporary(_followed(path))
    try:
        if special:
            handle, name = tempfile.mkstemp(prefix="qcompile-")
            os.close(handle)
            temporary = Path(name)
        yield temporary
        if special:
            with temporary.open("rb") as source, path.open("wb") as sink:
                shutil.copyfileobj(source, sink)
        else:
            temporary.replace(_followed(path))
    except OSError as error:
        problem = problem or f"cannot write '{path}'"
        hint = "free some space on that disk" if error.errno in (errno.ENOSPC, errno.EDQUOT) else _ELSEWHERE
        raise UsageError(f"{problem}: {error.strerror or error}", hint=hint) from error
    finally:
        # Where the folder is a file there is nothing to remove either.
        with suppress(FileNotFoundError, NotADirectoryError):
            temporary.unlink()


def read_text(path: Path, encoding: str = "utf-8") -> str:
    """Return the text in a file or a pipe.

    Args:
        path: of the file.
        encoding: "utf-8-sig" leaves out the mark that some editors put first.

    Raises:
        OSError: it cannot be read.
        UnicodeDecodeError: it is not text.
        UsageError: it goes on and on, as devices do, and files that are something else.
    """
    with path.open("rb") as file:
        content = file.read(_MOST_TEXT + 1)
    if len(content) > _MOST_TEXT:
        problem = f"'{path}' is too long: a text of more than {_MOST_TEXT >> 20} MiB"
        raise UsageError(problem, hint="give a file that people can read")
    return io.TextIOWrapper(io.BytesIO(content), encoding).read()


_MOST_TEXT = 64 << 20
"""Bytes of the longest text that is read: a hundred times the names of the largest vocabularies."""


def files_below(folder: Path) -> list[Path]:
    """Return the files of a folder and of those in it, sorted by path; what starts with a dot is left out.

    Links to folders are followed, but no folder is read twice.

    Args:
        folder: where to look; what is no folder has none.

    Raises:
        OSError: one of the folders cannot be read: going on without its files would be noticed by nobody.
    """
    found: list[Path] = []
    seen: set[str] = set()
    starts = [str(folder)] if folder.is_dir() else []
    for start in starts:  # grows by the links that are found
        for base, folders, names in os.walk(start, onerror=_raise):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            real = os.path.realpath(base)
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            starts += [path for name in folders if os.path.islink(path := os.path.join(base, name))]
            found += [Path(base, name) for name in names if not name.startswith(".")]
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def _raise(error: OSError) -> None:
    raise error


def own_folder(variable: str, default: str) -> Path | None:
    """Return the folder that qcompile may use in one of the user's, None for a user without a home.

    Args:
        variable: environment variable that names the user's folder, such as "XDG_CACHE_HOME".
        default: what it is without, such as "~/.cache".
    """
    try:
        return Path(os.environ.get(variable) or default).expanduser() / "qcompile"
    except RuntimeError:
        return None


def is_special(path: Path) -> bool:
    """Return whether a path is that of a device or a pipe, such as /dev/stdout, whose place no file may take.

    Args:
        path: of anything, or of nothing.
    """
    return path.exists() and not path.is_file() and not path.is_dir()


def _followed(path: Path) -> Path:
    """Return the file that a link names."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def _temporary(path: Path) -> Path:
    """Return a hidden name beside a file, which no other process uses."""
    return path.with_name(f".{path.name[:200]}.{os.getpid()}")
