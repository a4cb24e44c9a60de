"""What a device does for us: take files, run programs, keep one running."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

from qcompile.errors import DeviceError

_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Answer:
    """What a program on a device printed.

    Args:
        output: its standard output.
        errors: its standard error.
        status: exit status.
    """

    output: str
    errors: str
    status: int

    def reason(self) -> str:
        """Return what the program itself says of its failure, on one line."""
        return " ".join(self.errors.split())[-400:] or f"it ended with status {self.status}"


class Device:
    """This machine, in a folder of its own; also the base of devices elsewhere.

    Args:
        name: as the user gave it.

    Attributes:
        tells_time: whether times taken on it say something about a processor.
    """

    tells_time = True

    def __init__(self, name: str = "local") -> None:
        self.name = name
        self._folder = Path(tempfile.mkdtemp(prefix="qcompile-device-"))

    def put(self, source: Path, name: str) -> None:
        """Copy a file or a folder into the work folder, in place of what has the name there.

        Args:
            source: on this machine.
            name: in the work folder.

        Raises:
            DeviceError: it does not arrive.
        """
        to = self._folder / name
        try:
            if source.is_dir():
                shutil.copytree(source, to, dirs_exist_ok=True)
            else:
                shutil.copy2(source, to)
        except (OSError, shutil.Error) as error:
            raise DeviceError(f"cannot copy {source} to {self._folder}: {error}") from None

    def run(self, command: Sequence[str], timeout: float = _TIMEOUT_S) -> Answer:
        """Run a program in the work folder and wait for it.

        Args:
            command: program, relative to the folder with "./", and arguments.
            timeout: seconds.

        Raises:
            DeviceError: it does not start or does not end in time; a program that fails is no error here.
        """
        words, folder = self._words(command)
        try:
            done = subprocess.run(words, cwd=folder, capture_output=True, text=True, errors="replace",
                                  stdin=subprocess.DEVNULL, timeout=timeout, check=False)  # fmt: skip
        except subprocess.TimeoutExpired:
            raise DeviceError(f"{self.name}: {command[0]} did not end in {timeout:.0f} s") from None
        except OSError as error:
            raise DeviceError(f"{self.name}: cannot run {command[0]}: {error.strerror}") from None
        answer = Answer(done.stdout, done.stderr, done.returncode)
        self._check(answer)
        return answer

    def start(self, command: Sequence[str], errors: IO[bytes]) -> subprocess.Popen[bytes]:
        """Start a program in the work folder whose input and output are pipes.

        Args:
            command: as for `run`.
            errors: file for its standard error.

        Raises:
            DeviceError: it does not start.
        """
        words, folder = self._words(command)
        try:
            return subprocess.Popen(words, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)
        except OSError as error:
            raise DeviceError(f"{self.name}: cannot run {command[0]}: {error.strerror}") from None

    def close(self) -> None:
        """Remove the work folder."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def processor(self) -> str:
        """Return the processor's name, as Linux on it says."""
        text = self.run(["cat", "/proc/cpuinfo"], timeout=60.0).output
        entries = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        found = {name.strip(): value.strip() for name, value in entries.items()}
        part = f"ARM part {found['CPU part']}" if "CPU part" in found else "unknown processor"
        return found.get("model name") or found.get("Model") or part

    def _words(self, command: Sequence[str]) -> tuple[list[str], Path | None]:
        """Return what to execute on this machine, and in which folder."""
        return list(command), self._folder

    def _check(self, answer: Answer) -> None:
        """Raise DeviceError where an answer is not the program's but the connection's."""

    def __enter__(self) -> Device:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Emulated(Device):
    """Another processor in qemu's user-mode emulation: right answers, meaningless times.

    Args:
        cpu: qemu's name of the processor.
        name: as the user gave it.

    Raises:
        DeviceError: qemu is not installed.
    """

    tells_time = False

    def __init__(self, cpu: str, name: str) -> None:
        program = shutil.which("qemu-aarch64")
        if program is None:
            raise DeviceError(f"device '{name}': qemu-aarch64 is not installed", hint="apt install qemu-user")
        super().__init__(name)
        self._prefix = [program, "-cpu", cpu]

    def _words(self, command: Sequence[str]) -> tuple[list[str], Path | None]:
        prefix = self._prefix if command[0].startswith("./") else []
        return [*prefix, *command], self._folder
