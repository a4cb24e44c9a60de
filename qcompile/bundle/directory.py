"""Put a set of files in place of a directory, as one step that happens or does not.

The files are written to a sibling directory first, which then takes the place of the old bundle. What is not
ours is not touched: only an empty directory or a bundle that nobody edited is replaced, and the user's own
files in it are kept.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from qcompile.bundle import manifest
from qcompile.errors import BundleError

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_ELSEWHERE = "choose another output directory with -o"
_EXECUTABLE = ("bin/qcrun",)


def check_output(path: Path, names: Iterable[str] = ()) -> None:
    """Check that a bundle can be written to a directory, before hours are spent on making it.

    Args:
        path: the directory; it need not exist.
        names: files that the bundle will have, where known.

    Raises:
        BundleError: something of the user's is in the way, or the place cannot be written.
    """
    target = _resolve(path)
    _check_replaceable(target, names)
    try:
        parent = next(folder for folder in (target.parent, *target.parent.parents) if folder.exists())
        if not parent.is_dir():
            raise BundleError(f"cannot write {path}: {parent} is not a directory", hint=_ELSEWHERE)
        probe = parent / f".{target.name}.{secrets.token_hex(6)}"
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        raise _cannot_write(path, error) from None


def replace(path: Path, files: Mapping[str, bytes]) -> None:
    """Make `path` a directory with exactly these files, plus those that the user added to it.

    Args:
        path: the directory; its missing parents are made.
        files: contents by relative path.

    Raises:
        BundleError: something of the user's is in the way, no permission, no space; nothing was changed then.
    """
    target = _resolve(path)
    theirs = _check_replaceable(target, files)
    made: list[Path] = []
    fresh = target.parent / f".{target.name[:200]}.{secrets.token_hex(6)}"
    try:
        _make_parents(target.parent, made)
        fresh.mkdir()
        for name, content in files.items():
            _write(fresh / name, content, executable=name in _EXECUTABLE)
        for name in theirs:
            _keep(target / name, fresh / name)
        _swap(fresh, target)
        made.clear()
    except OSError as error:
        raise _cannot_write(path, error) from None
    finally:
        # the unfinished new directory, or the old one, whose foreign files live on in the new one
        shutil.rmtree(fresh, ignore_errors=True)
        for folder in reversed(made):
            folder.rmdir()


def replace_file(path: Path, content: bytes) -> None:
    """Write one file under a temporary name and rename it.

    Raises:
        BundleError: no permission, no space; the old file is still there then.
    """
    fresh = path.parent / f".{path.name}.{secrets.token_hex(6)}"
    try:
        fresh.write_bytes(content)
        fresh.replace(path)
    except OSError as error:
        raise _cannot_write(path, error) from None
    finally:
        fresh.unlink(missing_ok=True)


def _resolve(path: Path) -> Path:
    """Follow links: the directory that a link names is replaced, not the link."""
    try:
        target = Path(os.path.realpath(path))
    except (OSError, ValueError) as error:
        raise BundleError(f"cannot write {path}: {error}") from None
    if target.parent == target or target == Path.cwd():
        hint = "name a directory of its own: -o build/model"
        raise BundleError(f"{path} cannot be a bundle's directory", hint=hint)
    return target


def _check_replaceable(target: Path, names: Iterable[str]) -> list[str]:
    """Return the user's own files in an old bundle; raise if the directory is not ours to replace."""
    try:
        if not os.path.lexists(target):
            return []
        if not target.is_dir():
            raise BundleError(f"{target} is a file", hint="choose another output directory with -o")
        present = _files_below(target)
        if not present:
            return []
        if manifest.NAME not in present:
            raise BundleError(
                f"{target} is not empty and not a bundle of ours: nothing was written",
                hint="choose another output directory with -o, or remove it yourself",
            )
        ours = manifest.read(target)["files"]
        for name in present:
            if name in ours and _digest(target / name) != ours[name]["sha256"]:
                raise BundleError(
                    f"{target / name} was changed after qcompile wrote it: nothing was written",
                    hint="move it away, or choose another output directory with -o",
                )
    except OSError as error:
        raise _cannot_write(target, error) from None
    theirs = [name for name in present if name not in ours and name != manifest.NAME]
    clash = sorted(set(theirs) & set(names))
    if clash:
        raise BundleError(
            f"{target / clash[0]} is not ours, but the bundle has a file of this name",
            hint="move it away, or choose another output directory with -o",
        )
    return theirs


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _files_below(folder: Path) -> list[str]:
    """Return the relative paths of all that is not a directory (links are not followed), sorted."""
    found = [os.path.relpath(os.path.join(base, name), folder)
             for base, folders, names in os.walk(folder, onerror=_raise)
             for name in (*names, *(f for f in folders if os.path.islink(os.path.join(base, f))))
             if os.path.basename(base) != "__pycache__"]  # fmt: skip
    return sorted(found)


def _raise(error: OSError) -> None:
    raise error


def _make_parents(folder: Path, made: list[Path]) -> None:
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    for parent in reversed(missing):
        parent.mkdir()
        made.append(parent)


def _write(path: Path, content: bytes, *, executable: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    if executable:
        path.chmod(path.stat().st_mode | ((path.stat().st_mode & 0o444) >> 2))


def _keep(old: Path, new: Path) -> None:
    """Give a user's file a second name in the new directory; copy it where links cannot be made."""
    new.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(old, new, follow_symlinks=False)
    except OSError:
        shutil.copy2(old, new, follow_symlinks=False)


def _swap(fresh: Path, target: Path) -> None:
    """Let `fresh` take the place of `target`; an old bundle is at `fresh` afterwards."""
    if not target.exists() or not any(target.iterdir()):
        fresh.rename(target)
        return
    exchange = getattr(ctypes.CDLL(None), "renameat2", None)
    if exchange is not None:
        names = os.fsencode(fresh), os.fsencode(target)
        if exchange(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
            return
    # Some file systems cannot exchange: two renames, and the first is taken back if the second fails.
    aside = target.parent / f"{fresh.name}.old"
    target.rename(aside)
    try:
        fresh.rename(target)
    except BaseException:
        aside.rename(target)
        raise
    aside.rename(fresh)


def _cannot_write(path: Path, error: OSError) -> BundleError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    hint = "free some space on that disk" if full else "choose another output directory with -o"
    return BundleError(f"cannot write {path}: {error.strerror or error}", hint=hint)
