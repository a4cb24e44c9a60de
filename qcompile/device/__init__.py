"""Machines that run our programs: this one, one behind ssh, an emulated one."""

from pathlib import Path

from qcompile.device.address import open_device
from qcompile.device.device import Answer, Device


def probe_source() -> str:
    """Return the C text of the program that measures a processor's clock and bandwidths."""
    return (Path(__file__).parent / "probe.c").read_text(encoding="utf-8")


__all__ = ["Answer", "Device", "open_device", "probe_source"]
