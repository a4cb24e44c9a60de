"""Numbers of 16 bits in memory as float32 in registers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from tvm import tirx

from qcompile.kernels.builder import Builder, Expr, Index, Inlined, Memory, bitcast, cast, const, lanes_of, vector_type

if TYPE_CHECKING:
    from qcompile.kernels.isa import Isa

_HIDDEN = 0x38000000
"""112 in the exponent of a float32: the difference of the two biases."""


def from_float16(b: Builder, bits: Expr, *, native: bool = False) -> Expr:
    """Return the float32 numbers of IEEE 754 half-precision bits; infinities and NaN are not supported.

    Formula:
        normal: sign, (exponent + 112), mantissa; subnormal: 2^−14 · (1 + mantissa / 2^10) − 2^−14, which is exact

    Args:
        b: builder.
        bits: uint16.
        native: whether the machine has an instruction for it; else it takes some integer arithmetic.
    """
    lanes = lanes_of(bits)
    floats, integers = (vector_type(kind, lanes) for kind in ("float32", "int32"))
    if native:
        return cast(floats, bitcast(vector_type("float16", lanes), bits))
    wide = b.let(cast(integers, bits))
    magnitude = b.let((wide & const(0x7FFF, integers)) << const(13, integers))
    normal = bitcast(floats, magnitude + const(_HIDDEN, integers))
    small = bitcast(floats, magnitude + const(_HIDDEN + (1 << 23), integers)) - const(2.0**-14, floats)
    value = tirx.Select(magnitude < const(1 << 23, integers), small, normal)
    sign = (wide >> const(15, integers)) << const(31, integers)
    return bitcast(floats, bitcast(integers, value) | sign)


def to_float16(b: Builder, value: Expr) -> Expr:
    """Return the IEEE 754 half-precision bits nearest to a float32 number, ties to even; beyond ±65504 those.

    Formula:
        |x| ≥ 2^−14: the bits less 112 · 2^23, plus 4095 and the lowest kept bit, shifted by 13; else the low bits of
        |x| + 0.5, whose last digit is worth 2^−24

    Args:
        b: builder.
        value: float32, not NaN; a scalar.
    """
    bits = b.let(bitcast("int32", value))
    sign = (bits >> const(16, "int32")) & const(0x8000, "int32")
    size = b.let(bitcast("float32", bits & const(0x7FFFFFFF, "int32")))
    size = b.let(tirx.Min(size, const(65504.0, "float32")))
    whole = b.let(bitcast("int32", size))
    odd = (whole >> const(13, "int32")) & const(1, "int32")
    normal = (whole - const(_HIDDEN, "int32") + const(0xFFF, "int32") + odd) >> const(13, "int32")
    small = bitcast("int32", size + const(0.5, "float32")) - const(0x3F000000, "int32")
    half = tirx.Select(size >= const(2.0**-14, "float32"), normal, small)
    return cast("uint16", half | sign)


def from_bfloat16(bits: Expr) -> Expr:
    """Return the float32 numbers whose upper 16 bits these are."""
    lanes = lanes_of(bits)
    floats, integers = (vector_type(kind, lanes) for kind in ("float32", "int32"))
    return bitcast(floats, cast(integers, bits) << const(16, integers))


def to_bfloat16(b: Builder, value: Expr) -> Expr:
    """Return the bits of the bfloat16 numbers nearest to float32 numbers, ties to even: uint16.

    On a machine with bfloat16 arithmetic this is an instruction; on x86 it takes what is below 2^-126 as zero.
    """
    lanes = lanes_of(value)
    floats, halves, bits = (f"<{lanes} x {kind}>" for kind in ("float", "bfloat", "i16"))
    name = f"qc_to_bfloat16_{lanes}"
    if lanes == 1:
        floats, halves, bits = "float", "bfloat", "i16"
    text = f"""define {bits} @{name}({floats} %x) #0 {{
  %y = fptrunc {floats} %x to {halves}
  %z = bitcast {halves} %y to {bits}
  ret {bits} %z
}}
"""
    return b.inline(Inlined(name, text), vector_type("uint16", lanes), value)


def converted(b: Builder, value: Expr, source: str, dtype: str) -> Expr:
    """Return numbers as another element type has them; bfloat16 are their bits, uint16.

    Args:
        b: builder.
        value: scalar or vector of `source`.
        source: element type that they have.
        dtype: element type that they are to have.
    """
    if source == dtype:
        return value
    lanes = lanes_of(value)
    if source == "bfloat16":
        return converted(b, from_bfloat16(value), "float32", dtype)
    if dtype == "bfloat16":
        return to_bfloat16(b, converted(b, value, source, "float32"))
    return cast(vector_type(dtype, lanes), value)


@dataclass(frozen=True)
class WidenedMemory:
    """Weights of 16 bits that kernels read as float32, as they read a `Memory` of float32.

    Args:
        b: builder.
        memory: of uint16.
        kind: "float16" or "bfloat16".
        native: whether the machine converts float16 itself.
    """

    b: Builder
    memory: Memory
    kind: str
    native: bool

    def load(self, at: Index, lanes: int = 1) -> Expr:
        """Read consecutive elements and widen them."""
        bits = self.b.let(self.memory.load(at, lanes))
        return from_bfloat16(bits) if self.kind == "bfloat16" else from_float16(self.b, bits, native=self.native)

    def prefetch(self, at: Index, locality: int) -> None:
        """Ask for a line of cache; as `Memory.prefetch`."""
        self.memory.prefetch(at, locality)


def float_weights(b: Builder, position: int, kind: str, isa: Isa) -> Any:
    """Return float weights behind a pointer as float32, whatever they are stored as.

    Args:
        b: builder.
        position: number of the pointer.
        kind: "float32", "float16" or "bfloat16".
        isa: instruction set; those with a fused multiply-add convert float16 by an instruction.
    """
    if kind == "float32":
        return b.argument(position, "float32")
    return WidenedMemory(b, b.argument(position, "uint16"), kind, isa.fused)


def stored_as(kind: str, weights: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return float32 numbers that a 16-bit type has exactly as its bits; float32 and integers as they are."""
    if kind == "float16":
        return weights.astype(np.float16).view(np.uint16)
    if kind == "bfloat16":
        return np.asarray(np.ascontiguousarray(weights).view(np.uint32) >> np.uint32(16), np.uint16)
    return weights
