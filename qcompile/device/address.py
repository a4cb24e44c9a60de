"""How a user names a device."""

from __future__ import annotations

import re

from qcompile.device.device import Device, Emulated
from qcompile.device.ssh import Ssh
from qcompile.errors import DeviceError

_FORMS = "give ssh://user@host, ssh://host:port, local, or qemu:cortex-a72"
# No leading dash: ssh would take such a host for an option.
_SSH = re.compile(r"ssh://((?:[A-Za-z0-9_][\w.-]*@)?[A-Za-z0-9_][\w.-]*)(?::(\d{1,5}))?/?")


def open_device(text: str) -> Device:
    """Return the device that a text names, ready to run programs.

    Args:
        text: "local", "ssh://[user@]host[:port]", or "qemu:CPU".

    Raises:
        DeviceError: the text names none, or the machine cannot be reached.
    """
    if text == "local":
        return Device(text)
    if text.startswith("qemu:") and re.fullmatch(r"[a-z0-9-]+", text[5:]):
        return Emulated(text[5:], text)
    if text.startswith("rpc://"):
        raise DeviceError(f"device '{text}': there is no rpc server for bundles", hint=_FORMS)
    found = _SSH.fullmatch(text)
    if found is None or (found[2] is not None and not 0 < int(found[2]) < 65536):
        raise DeviceError(f"device '{text}' is not understood", hint=_FORMS)
    return Ssh(found[1], int(found[2]) if found[2] else None, text)
