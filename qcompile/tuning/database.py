"""Records by workload: those that come with qcompile, and the user's own, which win."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from qcompile.errors import UsageError
from qcompile.files import own_folder
from qcompile.tuning.record import Record, read_record

SHIPPED = Path(__file__).parent / "records"
AUTO, OFF = "auto", "off"
_NAME = "tuning.jsonl"
_MOST_BYTES = 1 << 26
_ELSEWHERE = "let XDG_DATA_HOME name a folder that can be written, or give a file with --tuning"


class Database:
    """Records, the latest of each workload.

    Args:
        records: later ones replace earlier ones of the same workload.
    """

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self._records: dict[str, Record] = {}
        for record in records:
            self._records[record.key] = record

    def get(self, key: str) -> Record | None:
        """Return the record of a workload, None where there is none."""
        return self._records.get(key)

    def __iter__(self) -> Iterator[Record]:
        return iter(self._records.values())

    def __len__(self) -> int:
        return len(self._records)

    def add(self, record: Record) -> None:
        """Take a record in, in place of an older one of the workload."""
        self._records[record.key] = record


def user_file() -> Path:
    """Return where the user's records are kept: $XDG_DATA_HOME/qcompile/tuning.jsonl.

    Raises:
        UsageError: the user has no home.
    """
    folder = own_folder("XDG_DATA_HOME", "~/.local/share")
    if folder is None:
        raise UsageError("there is no home folder to keep tuning records in", hint=_ELSEWHERE)
    return folder / _NAME


def open_database(choice: str = AUTO, *, new: bool = False) -> Database:
    """Read records.

    Args:
        choice: "auto" for those that come with qcompile and the user's own; "off" for none; else the path of a
            file of records, which then are the only ones.
        new: the file need not exist yet.

    Raises:
        UsageError: a file cannot be read, or a line is not a record.
    """
    if choice == OFF:
        return Database()
    if choice != AUTO:
        if new and not Path(choice).exists():
            return Database()
        if not Path(choice).is_file():
            raise UsageError(f"there is no file of tuning records '{choice}'", hint="`--tune` makes one")
        return Database(read_records(Path(choice)))
    shipped = [record for path in sorted(SHIPPED.glob("*.jsonl")) for record in read_records(path)]
    return Database([*shipped, *_own_records()])


def _own_records() -> list[Record]:
    """Return the user's records; a user without a home, or with one that is closed to this process, has none."""
    folder = own_folder("XDG_DATA_HOME", "~/.local/share")
    return read_records(folder / _NAME) if folder is not None and os.path.isfile(folder / _NAME) else []


def read_records(path: Path) -> list[Record]:
    """Read a file of records, one a line; an unfinished last line, of a run that was killed, does not count.

    Raises:
        UsageError: it cannot be read, or a line is not a record.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise UsageError(f"'{path}' is too large for a file of tuning records", hint="delete it")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot read tuning records '{path}': {error.strerror}") from error
    except UnicodeDecodeError:
        raise UsageError(f"tuning records '{path}' are not text", hint="delete the file") from None
    lines = text.split("\n")[:-1]
    return [read_record(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()]


def append_record(path: Path, record: Record) -> None:
    """Append a record in one write, so that an interruption cannot leave half of one before another.

    Raises:
        UsageError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            size = file.seek(0, os.SEEK_END)
            if size:
                file.seek(size - 1)
            whole = size == 0 or file.read(1) == b"\n"
            file.write(("" if whole else "\n").encode() + record.line().encode() + b"\n")
    except OSError as error:
        raise UsageError(f"cannot write tuning records '{path}': {error.strerror}", hint=_ELSEWHERE) from error
