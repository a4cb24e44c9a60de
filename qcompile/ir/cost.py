"""A modelled time, for decisions and reports where nothing was measured.

Only ratios are meant: between int8 and float they hold within a factor of two from a Cortex-A72 to a server core.
"""

from __future__ import annotations

MAC_NS = {"int8": 0.004, "int16": 0.009, "float32": 0.016}
"""Nanoseconds of one multiply-accumulate on one core."""

BYTE_NS = 0.03
"""Nanoseconds to move one byte through the cache: as long as some eight int8 multiply-accumulates."""

_ISA_MAC_NS: dict[str, dict[str, float]] = {}
"""The same as MAC_NS for the instruction sets whose proportions differ from it."""


def modelled_ns(macs: int, bytes_moved: int, precision: str, isa: str = "") -> float:
    """Return a modelled time of one operation.

    Formula:
        t = MAC_NS · macs + BYTE_NS · bytes

    Args:
        macs: multiply-accumulates.
        bytes_moved: bytes read and written.
        precision: "int8", "int16" or "float32"; anything else counts as float32.
        isa: instruction set of the kernels; "" for a typical one.
    """
    rates = _ISA_MAC_NS.get(isa, MAC_NS)
    return rates.get(precision, rates["float32"]) * macs + BYTE_NS * bytes_moved
