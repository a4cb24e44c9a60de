"""Machines that run our programs: this one, one behind ssh, an emulated one."""

from qcompile.device.address import open_device
from qcompile.device.device import Answer, Device

__all__ = ["Answer", "Device", "open_device"]
