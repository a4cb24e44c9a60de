"""Ctrl-C and a polite kill: exit code 130, one line, nothing left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qcompile import driver
from qcompile.cli import run_command

SLOW = """
import pathlib, time
import numpy as np
def samples():
    yield {"x": np.zeros((1, 3, 8, 8), np.float32)}
    pathlib.Path("reached").touch()
    time.sleep(60)
"""


def wait_for(condition: object, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not condition():  # type: ignore[operator]
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def start(folder: Path, *words: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "TMPDIR": str(folder / "tmp")}
    (folder / "tmp").mkdir()
    command = [sys.executable, "-m", "qcompile.cli", *map(str, words)]
    # Where the tests run in the background of a shell, SIGINT is ignored, and that would be inherited.
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                text=True, start_new_session=True)  # fmt: skip
    finally:
        signal.signal(signal.SIGINT, before)


def descendants(group: int) -> list[int]:
    """Return the living processes of a process group."""
    alive = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, _, process_group = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
            except OSError:
                continue
            if int(process_group) == group and state != "Z":
                alive.append(int(entry.name))
    return alive


def check(process: subprocess.Popen[str], folder: Path, kept: set[str]) -> None:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert err.splitlines()[-1] == "error: interrupted; unfinished output was removed"
    assert "Traceback" not in err
    assert {p.name for p in folder.iterdir()} == {*kept, "tmp"}
    assert list((folder / "tmp").iterdir()) == []
    assert descendants(process.pid) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_during_calibration(model: Path, tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    process = start(tmp_path, model, "--int8", "--calib", "slow.py:samples", "-o", "out")
    wait_for((tmp_path / "reached").exists, process)
    process.send_signal(number)
    check(process, tmp_path, {"slow.py", "reached"})


def test_a_search_ends_the_same_after_it(model: Path, calibration: Path, tmp_path: Path) -> None:
    words = (model, "--int8", "--calib", calibration, "--accuracy", "auto", "--min-sqnr", "60", "-o")
    process = start(tmp_path, *words, "out")
    wait_for((tmp_path / "out.search").exists, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert "error: interrupted; unfinished output was removed" in err.splitlines()
    assert not (tmp_path / "out").exists()
    for name in ("out", "whole"):
        assert run_command([str(word) for word in (*words, tmp_path / name, "-q")]) == 0
    assert not (tmp_path / "out.search").exists()
    first, second = (
        {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
        for folder in (tmp_path / "out", tmp_path / "whole")
    )
    assert first == second


def test_while_linking(model: Path, tmp_path: Path) -> None:
    process = start(tmp_path, model, "--fp32", "-o", "out")
    wait_for(lambda: any((tmp_path / "tmp").glob("qcompile-*/cache")), process)
    # as the terminal does it: everything in the foreground gets the signal
    os.killpg(process.pid, signal.SIGINT)
    check(process, tmp_path, set())


def test_what_helps_after_it_is_said(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt("the same command goes on")

    monkeypatch.setattr(driver, "compile", interrupted)
    assert run_command([str(model), "--fp32", "-o", str(tmp_path / "out")]) == 130
    said = capsys.readouterr().err.splitlines()
    assert said[-2:] == ["error: interrupted; unfinished output was removed", "hint: the same command goes on"]
