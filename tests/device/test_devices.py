"""Devices: files arrive, programs run where they should, what goes wrong is said. ssh and scp are played by scripts."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from qcompile.device import open_device
from qcompile.errors import DeviceError

sys.path.insert(0, str(Path(__file__).parents[1]))
import fake_ssh


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the fake ssh and scp first; the file lists their calls."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return fake_ssh.install(folder)


@pytest.mark.parametrize("name", ["local", "ssh://pi@board:2222"])
def test_files_arrive_and_programs_run_among_them(name: str, tmp_path: Path, calls: Path) -> None:
    (tmp_path / "tool").write_text('#!/bin/sh\ncat data/a.txt; echo "got $1" >&2; exit 3\n')
    (tmp_path / "tool").chmod(0o755)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.txt").write_text("content")
    with open_device(name) as device:
        device.put(tmp_path / "tool", "tool")
        device.put(tmp_path / "data", "data")
        answer = device.run(["./tool", "it's $HOME; rm -rf x"])
        assert (answer.output, answer.errors, answer.status) == ("content", "got it's $HOME; rm -rf x\n", 3)
        folder = Path(device.run(["pwd"]).output.strip())
        assert folder.is_dir()
        assert device.tells_time
        assert device.processor()
    assert not folder.exists()
    if name != "local":
        assert "-p 2222" in calls.read_text()
        assert "-P 2222" in calls.read_text()
        assert "BatchMode=yes" in calls.read_text()


@pytest.mark.parametrize("name", ["local", "ssh://board"])
def test_a_running_program_answers_line_by_line(name: str, tmp_path: Path, calls: Path) -> None:
    with open_device(name) as device, tempfile.TemporaryFile() as errors:
        process = device.start(["cat"], errors)
        assert process.stdin is not None
        assert process.stdout is not None
        for text in (b"one\n", b"two\n"):
            process.stdin.write(text)
            process.stdin.flush()
            assert process.stdout.readline() == text
        process.stdin.close()
        assert process.wait(10) == 0
        process.stdout.close()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ssh://nowhere", "No route to host"),
        ("ssh://full", "cannot make a folder"),
        ("ssh://", "not understood"),
        ("ssh://-oProxyCommand=x", "not understood"),
        ("ssh://a b", "not understood"),
        ("ssh://pi@board:99999", "not understood"),
        ("rpc://board:9090", "no rpc server"),
        ("pi@board", "not understood"),
        ("qemu:", "not understood"),
    ],
)
def test_what_is_no_device_is_refused(name: str, message: str, calls: Path) -> None:
    with pytest.raises(DeviceError, match=message) as caught:
        open_device(name)
    if "not understood" in message or "rpc" in message:
        assert "ssh://user@host" in (caught.value.hint or "")


def test_a_copy_that_fails_is_an_error(tmp_path: Path, calls: Path) -> None:
    with open_device("ssh://broken") as device, pytest.raises(DeviceError, match="connection lost"):
        device.put(calls, "x")


def test_without_ssh_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match="ssh is not installed"):
        open_device("ssh://board")


def test_a_program_that_does_not_exist_and_one_that_hangs(tmp_path: Path) -> None:
    with open_device("local") as device:
        with pytest.raises(DeviceError, match=r"cannot run \./none"):
            device.run(["./none"])
        with pytest.raises(DeviceError, match="did not end"):
            device.run(["sleep", "5"], timeout=0.2)


@pytest.mark.skipif(shutil.which("qemu-aarch64") is None, reason="needs qemu-user")
def test_an_emulated_processor_tells_no_time() -> None:
    with open_device("qemu:cortex-a72") as device:
        assert not device.tells_time
