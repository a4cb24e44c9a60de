"""Files of tuning records: reading, writing, what is refused, which record wins."""

from __future__ import annotations

from pathlib import Path

import pytest

from qcompile.bundle import zig
from qcompile.errors import UsageError
from qcompile.tuning import database
from qcompile.tuning.database import Database, append_record, open_database, read_records, user_file
from qcompile.tuning.record import Record, read_record, workload_key


def record(ns: float = 100.0, plan: tuple[int, ...] | None = None, **workload: int) -> Record:
    return Record("avx2", workload or {"filters": 8}, plan, ns, 120.0, 9, "some processor", "0.1.0")


def test_a_record_survives_its_line() -> None:
    for original in (record(), record(plan=(1, 6, 2, 1, 12, 3), batch=1, kernel=3)):
        assert read_record(original.line(), "f:1") == original


def test_a_key_does_not_depend_on_the_order_of_fields() -> None:
    assert workload_key("avx2", {"a": 1, "b": [1, 2]}) == workload_key("avx2", {"b": [1, 2], "a": 1})
    assert workload_key("avx2", {"a": 1}) != workload_key("neon", {"a": 1})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not valid JSON"),
        ("[1]", "exactly the keys"),
        (record().line().replace('"ns"', '"time"'), "exactly the keys"),
        (record().line().replace("100.0", "0"), "positive numbers"),
        (record().line().replace("100.0", "NaN"), "positive numbers"),
        (record().line().replace("100.0", "true"), "positive numbers"),
        (record().line().replace("null", "[1, -2]"), "positive whole numbers"),
        (record().line().replace('"avx2"', "2"), "are texts"),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(record().line() + "\n" + line + "\n")
    with pytest.raises(UsageError, match=message) as caught:
        read_records(path)
    assert f"{path}:2" in str(caught.value)
    assert "delete the line" in (caught.value.hint or "")


def test_an_unfinished_last_line_does_not_count_and_is_not_continued(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "r.jsonl"
    append_record(path, record(1.0))
    with path.open("a") as file:
        file.write(record(2.0).line()[:30])
    assert [r.ns for r in read_records(path)] == [1.0]
    path.write_text(record(1.0).line() + "\n" + record(2.0).line())
    append_record(path, record(3.0))
    assert [r.ns for r in read_records(path)] == [1.0, 2.0, 3.0]


def test_the_last_record_of_a_workload_wins() -> None:
    found = Database([record(1.0), record(2.0), record(3.0, batch=2)])
    assert len(found) == 2
    latest = found.get(record().key)
    assert latest is not None
    assert latest.ns == 2.0


def test_the_users_records_win_over_those_that_come_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = tmp_path / "shipped"
    append_record(shipped / "avx2.jsonl", record(1.0))
    append_record(shipped / "avx2.jsonl", record(5.0, batch=5))
    monkeypatch.setattr(database, "SHIPPED", shipped)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert sorted(r.ns for r in open_database()) == [1.0, 5.0]
    append_record(user_file(), record(2.0))
    assert sorted(r.ns for r in open_database()) == [2.0, 5.0]
    assert len(open_database("off")) == 0
    assert [r.ns for r in open_database(str(user_file()))] == [2.0]


def test_a_user_without_a_home_has_no_records(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(user: int) -> None:
        raise KeyError(user)

    for name in ("HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "QCOMPILE_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    assert len(open_database()) > 0
    assert zig.cache_folder() is None
    assert zig.usable_cache("/somewhere") == Path("/somewhere/global-cache")
    with pytest.raises(UsageError, match="no home folder to keep tuning records in"):
        user_file()


def test_a_missing_file_is_refused_and_an_unwritable_one_too(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no file of tuning records"):
        open_database(str(tmp_path / "none.jsonl"))
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write tuning records"):
        append_record(tmp_path / "file" / "r.jsonl", record())


def test_what_comes_along_can_be_read() -> None:
    for path in sorted(database.SHIPPED.glob("*.jsonl")):
        found = read_records(path)
        assert found, path
        assert {r.isa for r in found} == {path.stem}
