"""A machine behind ssh: the system's own `ssh` and `scp`, with the user's keys and configuration."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from qcompile.device.device import Answer, Device
from qcompile.errors import DeviceError

_CONNECT_S = 10
_COPY_S = 600.0
_FAILED = 255
"""Status of ssh itself; a program's own status is passed on."""


class Ssh(Device):
    """A machine behind ssh, in a folder of its own under /tmp there.

    No password is asked for: keys must be set up. All commands share one connection.

    Args:
        host: "host" or "user@host", as ssh takes it; names of ~/.ssh/config work.
        port: None for ssh's own choice.
        name: as the user gave it.

    Raises:
        DeviceError: ssh is not installed, or the machine cannot be reached.
    """

    def __init__(self, host: str, port: int | None, name: str) -> None:
        for program in ("ssh", "scp"):
            if shutil.which(program) is None:
                raise DeviceError(f"device '{name}': {program} is not installed", hint="apt install openssh-client")
        self.name, self._host = name, host
        self._sockets = Path(tempfile.mkdtemp(prefix="qc-ssh-"))
        self._options = ["-o", "BatchMode=yes", "-o", f"ConnectTimeout={_CONNECT_S}", "-o", "ControlMaster=auto",
                         "-o", f"ControlPath={self._sockets}/c", "-o", "ControlPersist=60"]  # fmt: skip
        self._port = port
        self._folder = Path("/tmp")
        try:
            self._folder = self._work_folder()
        except BaseException:
            shutil.rmtree(self._sockets, ignore_errors=True)
            raise

    def _work_folder(self) -> Path:
        answer = self.run(["mktemp", "-d", "/tmp/qcompile.XXXXXX"], timeout=4.0 * _CONNECT_S)
        folder = answer.output.strip()
        if answer.status or not folder.startswith("/tmp/qcompile."):
            raise DeviceError(f"{self.name}: cannot make a folder in /tmp there: {answer.reason()}")
        return Path(folder)

    def put(self, source: Path, name: str) -> None:
        """Copy a file or a folder into the work folder, in place of what has the name there."""
        ports = ["-P", str(self._port)] if self._port is not None else []
        to = f"{self._host}:{self._folder}/{name}"
        command = ["scp", "-q", "-r", "-p", *ports, *self._options, str(source), to]
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace",
                                  stdin=subprocess.DEVNULL, timeout=_COPY_S, check=False)  # fmt: skip
        except subprocess.TimeoutExpired:
            raise DeviceError(f"{self.name}: copying {source.name} took more than {_COPY_S:.0f} s") from None
        if done.returncode:
            reason = " ".join(done.stderr.split()) or f"status {done.returncode}"
            raise DeviceError(f"{self.name}: cannot copy {source.name} there: {reason}", hint=self._hint())

    def close(self) -> None:
        """Remove the work folder, and end the connection."""
        try:
            if str(self._folder).startswith("/tmp/qcompile."):
                self.run(["rm", "-rf", str(self._folder)], timeout=60.0)
            subprocess.run(["ssh", *self._options, "-O", "exit", self._host], capture_output=True, timeout=10.0,
                           stdin=subprocess.DEVNULL, check=False)  # fmt: skip
        except (DeviceError, subprocess.TimeoutExpired):
            return  # the connection is gone: nothing is left to end
        finally:
            shutil.rmtree(self._sockets, ignore_errors=True)

    def _words(self, command: Sequence[str]) -> tuple[list[str], Path | None]:
        ports = ["-p", str(self._port)] if self._port is not None else []
        there = f"cd {shlex.quote(str(self._folder))} && exec {shlex.join(command)}"
        return ["ssh", *ports, *self._options, self._host, there], None

    def _check(self, answer: Answer) -> None:
        if answer.status == _FAILED:
            raise DeviceError(f"{self.name}: {answer.reason()}", hint=self._hint())

    def _hint(self) -> str:
        return f"`ssh {self._host} true` must work without asking for a password"
