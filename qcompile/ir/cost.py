"""A modelled time, for decisions and reports where nothing was measured.

Only ratios are meant: on an instruction set, between int8 and float, between arithmetic and memory.
"""

from __future__ import annotations

MAC_NS = {"int8": 0.004, "int16": 0.009, "float32": 0.016}
"""Nanoseconds of one multiply-accumulate on one core."""

BYTE_NS = 0.03
"""Nanoseconds to move one byte through the cache: as long as some eight int8 multiply-accumulates."""

# Measured on one x86 server (large layers, medians); ARM from instruction counts at the usual clocks of a Pi 3, 4, 5.
_ISA_NS: dict[str, tuple[float, float, float]] = {
    "amx_int8": (0.0015, 0.0120, 0.03),
    "avx512_vnni": (0.0032, 0.0115, 0.03),
    "avx_vnni": (0.0055, 0.0200, 0.03),
    "avx2": (0.0135, 0.0178, 0.03),
    "sse2": (0.0320, 0.0630, 0.03),
    "portable": (0.1600, 0.0620, 0.03),
    "neon": (0.1000, 0.2100, 0.20),
    "neon_inorder": (0.1600, 0.3000, 0.30),
    "neon_dotprod": (0.0160, 0.0650, 0.06),
    "neon_i8mm": (0.0050, 0.0300, 0.04),
}
"""Nanoseconds of a multiply-accumulate in int8 and in float32, and of a byte moved, by the kernels' instruction set."""

_FLOAT16 = 0.6
_INT16 = MAC_NS["int16"] / MAC_NS["int8"]


def modelled_ns(macs: int, bytes_moved: int, precision: str, isa: str = "") -> float:
    """Return a modelled time of one operation.

    Formula:
        t = time of one · macs + time of one · bytes

    Args:
        macs: multiply-accumulates.
        bytes_moved: bytes read and written.
        precision: "int8", "int16", "float16", "bfloat16" or "float32"; anything else counts as float32.
        isa: instruction set of the kernels; "" for a typical one.
    """
    integer, real, byte = _ISA_NS.get(isa, (MAC_NS["int8"], MAC_NS["float32"], BYTE_NS))
    one = {"int8": integer, "int16": _INT16 * integer, "float16": _FLOAT16 * real, "bfloat16": _FLOAT16 * real}.get(
        precision, real
    )
    return one * macs + byte * bytes_moved
