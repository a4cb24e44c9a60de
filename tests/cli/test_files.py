"""Files that commands write: through links, into pipes, and never in place of a folder."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from threading import Thread
from time import sleep

import numpy as np
import pytest
from small_classifier import Cli, samples

from qcompile.errors import UsageError
from qcompile.files import check_writable, read_text, replaced


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    link, real = tmp_path / "link", tmp_path / "elsewhere" / "real"
    link.symlink_to(real)
    for text in ("first", "second"):
        check_writable(link, "example")
        with replaced(link) as temporary:
            temporary.write_text(text)
        assert link.is_symlink()
        assert real.read_text() == text
    assert sorted(os.listdir(tmp_path / "elsewhere")) == ["real"]


def test_a_pipe_stays_one(tmp_path: Path) -> None:
    """As a device does: renaming a file to /dev/null would leave a machine without it."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    check_writable(pipe, "example")
    with replaced(pipe) as temporary:
        temporary.write_text("text")
    assert pipe.is_fifo()
    assert os.read(reader, 100) == b"text"
    os.close(reader)
    assert os.listdir(tmp_path) == ["pipe"]


def test_a_full_device_is_said() -> None:
    full = pytest.raises(UsageError, match="cannot write '/dev/full': No space left")
    with full, replaced(Path("/dev/full")) as there:
        there.write_text("text")
    assert Path("/dev/full").is_char_device()


def test_the_longest_name_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 255)
    check_writable(path, "example")
    with replaced(path) as temporary:
        temporary.write_text("text")
    assert path.read_text() == "text"


def test_what_is_no_file(cli: Cli, model: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    refused = cli(model, "--calib", tmp_path / "pipe", "-o", tmp_path / "out")
    assert refused.code == 2
    assert "pipe' is a pipe or a device, not a file or a folder" in refused.err
    refused = cli(tmp_path / "pipe", "-o", tmp_path / "out")
    assert refused.code == 2
    assert "pipe is a pipe or a device, not a model file" in refused.err


@pytest.mark.parametrize(("number", "words"), [(errno.EACCES, "chmod"), (errno.EIO, "check the disk")])
def test_what_the_system_refuses(
    cli: Cli, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    """A folder closed to the user makes even the question fail whether a file is there."""
    usual = Path.exists

    def closed(path: Path) -> bool:
        if path.name == "data":
            raise OSError(number, os.strerror(number), str(path))
        return usual(path)

    monkeypatch.setattr(Path, "exists", closed)
    refused = cli(model, "--calib", "closed/data", "-o", tmp_path / "out")
    assert refused.code == 2
    assert f"error: cannot use 'closed/data': {os.strerror(number)}\nhint: " in refused.err
    assert words in refused.err


def test_the_name_of_a_folder_is_refused(cli: Cli, model: Path, bundle: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", samples()[0])
    commands = {
        "model.qdq.onnx": ("export-qdq", model, "-o"),
        "analysis.html": ("analyze", model, "--html"),
        "bench.html": ("bench", bundle, "--html"),
        "outputs.npz": ("run", bundle, "--input", tmp_path / "x.npy", "-o"),
    }
    for name, words in commands.items():
        refused = cli(*words, f"{tmp_path}/new/")
        assert refused.code == 2
        assert f"error: cannot write '{tmp_path}/new/': it is a folder" in refused.err
        assert f"hint: name a file in it: {tmp_path}/new/{name.replace('model', model.stem)}" in refused.err
    assert os.listdir(tmp_path) == ["x.npy"]


@pytest.mark.parametrize("option", ["--labels", "--config", "--target"])
def test_a_text_without_end(cli: Cli, model: Path, tmp_path: Path, option: str) -> None:
    refused = cli(model, option, "/dev/zero", "-o", tmp_path / "out")
    assert refused.code == 2
    assert "error: '/dev/zero' is too long: a text of more than 64 MiB\nhint: " in refused.err


def test_texts_come_from_pipes_and_with_any_ends_of_lines(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = os.open(tmp_path / "pipe", os.O_RDWR)
    os.write(writer, b"\xef\xbb\xbfone\r\ntwo\n")
    Thread(target=lambda: (sleep(0.2), os.close(writer))).start()
    assert read_text(tmp_path / "pipe", "utf-8-sig") == "one\ntwo\n"


def test_too_little_memory_is_said(cli: Cli, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise MemoryError("Unable to allocate 2.00 TiB")

    monkeypatch.setattr("qcompile.onnx_import.bounds.import_model", full)
    refused = cli("inspect", model)
    assert refused.code == 2
    assert refused.err.startswith("error: there is not enough memory: Unable to allocate 2.00 TiB\nhint: ")


def test_a_working_directory_that_is_gone(
    cli: Cli, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for words in ((model, "-o", "out"), (model, "-o", tmp_path / "out"), ("inspect", "model.onnx")):
        refused = cli(*words)
        assert refused.code == 2
        assert "hint: the folder that this runs in was deleted" in refused.err
    assert cli("ops").code == 0


@pytest.mark.parametrize(
    ("redirected", "code", "told"),
    [(">&-", 0, ""), (">&- 2>&-", 0, ""), (">/dev/full", 2, "error: cannot write: No space left on device\nhint: ")],
)
def test_output_that_is_closed_or_full(redirected: str, code: int, told: str) -> None:
    for words in ("targets", "ops"):
        command = f"{sys.executable} -m qcompile {words} {redirected}"
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (code, "")
        assert done.stderr.startswith(told)
        assert len(done.stderr.splitlines()) == (2 if told else 0)
