"""What a search has measured so far, on disk, so that a killed search goes on where it was."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from qcompile.errors import UsageError
from qcompile.files import replaced

NAME = "search.json"
VERSION = 3

_DAMAGED_HINT = "delete it; the search then starts from the beginning"


class SearchState:
    """A table of measurements, written after each new one.

    Every decision of a search follows from measurements, and these follow from the recipe measured: a search that
    starts again with the table takes the same way to the same end.

    Args:
        folder: of the file; None keeps nothing on disk.
        key: digest of all that the measurements depend on; a table with another key is not used.

    Raises:
        UsageError: the folder cannot be made or read.
    """

    def __init__(self, folder: Path | None, key: str) -> None:
        self._folder = folder
        self._key = key
        self._entries: dict[str, Any] = {}
        self._found = folder is not None and folder.exists()
        self.resumed = 0
        if folder is not None:
            self._entries = self._read(folder)
            self.resumed = len(self._entries)

    def get(self, kind: str, recipe: str) -> Any | None:
        """Return a measurement, or None where it is not known.

        Args:
            kind: what was measured.
            recipe: pipeline text.
        """
        return self._entries.get(f"{kind}:{recipe}")

    def put(self, kind: str, recipe: str, value: Any) -> None:
        """Remember a measurement, a JSON value, on disk as well."""
        self._entries[f"{kind}:{recipe}"] = value
        if self._folder is not None:
            self._write(self._folder)

    def leave(self) -> None:
        """Take away the folder of a search that ended before it measured anything, unless it was there before."""
        if self._folder is not None and not self._found and self._folder.is_dir() and not any(self._folder.iterdir()):
            self._folder.rmdir()

    def _read(self, folder: Path) -> dict[str, Any]:
        path = folder / NAME
        try:
            folder.mkdir(parents=True, exist_ok=True)
            content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        except OSError as error:
            hint = "give another folder with --work-dir"
            raise UsageError(
                f"cannot keep the state of the search in '{folder}': {error.strerror}", hint=hint
            ) from None
        except ValueError:
            raise UsageError(f"'{path}' is damaged", hint=_DAMAGED_HINT) from None
        if not isinstance(content, dict) or content.get("version") != VERSION or content.get("key") != self._key:
            return {}
        entries = content.get("measurements")
        if not isinstance(entries, dict) or content.get("digest") != _digest(entries):
            raise UsageError(f"'{path}' is damaged", hint=_DAMAGED_HINT)
        return dict(entries)

    def _write(self, folder: Path) -> None:
        content = {
            "version": VERSION,
            "key": self._key,
            "digest": _digest(self._entries),
            "measurements": self._entries,
        }
        with replaced(folder / NAME, f"cannot keep the state of the search in '{folder}'") as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _digest(entries: dict[str, Any]) -> str:
    """Return a digest of measurements, which tells those of a file that somebody or something changed."""
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()


def remove_state(folder: Path) -> None:
    """Delete what a search left in a folder, and the folder where nothing else is in it."""
    (folder / NAME).unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
