"""Instruction sets: one file each, found by listing this package.

A file defines exactly one :class:`Isa`, whose name is the file's.  It says how 8-bit
activations are stored and brings two register-blocked inner kernels, integer and float32.

The packed weights of one block of ``nv * lanes`` output channels are, unless a kernel says
otherwise, ``[K / group][nv * lanes][group]``: the K values of one dot instruction are
neighbours.  The convolution generator walks K in steps and asks the inner kernel to emit each.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import tirx

from qcompile.errors import TargetError
from qcompile.kernels.amx_kernel import AmxKernel
from qcompile.kernels.builder import Builder, Expr, Memory
from qcompile.kernels.byte_pairs import BytePairKernel
from qcompile.kernels.depthwise_kernel import DepthwiseKernel, DirectKernel
from qcompile.kernels.micro import PairMicroKernel
from qcompile.kernels.micro_kernel import MicroKernel


@dataclass(frozen=True)
class ByteDots:
    """An instruction that sums products of four neighbouring bytes each.

    Attributes:
        dot: ``f(totals, x, y)``: int32 lanes ``totals[i] + sum(x[4i:4i+4] * y[4i:4i+4])``, y signed.
        signed: whether x is signed, too, or unsigned.
    """

    dot: Callable[[Expr, Expr, Expr], Expr]
    signed: bool


def _bound(value: Expr, low: Expr | None, high: Expr | None) -> Expr:
    """By comparisons, which an x86 instruction each does."""
    value = value if low is None else tirx.Max(value, low)
    return value if high is None else tirx.Min(value, high)


@dataclass(frozen=True)
class Isa:
    """One instruction set.

    Attributes:
        name: the file's name.
        activation_dtype: how an int8 activation is stored: "int8" (q) or "uint8" (q + 128).
        vector_bytes: width of a natural vector for elementwise loops.
        int8: inner kernel for 8-bit convolution and matmul, int32 sums.
        float32: inner kernel for float32.
        round_clamp: ``f(value, lo, hi)``: int32 vector ``int(rne(min(max(value, lo), hi)))`` of
            float32 vectors, NaN giving lo; |lo|, |hi| <= 2^24 and integral.
        lookup: ``f(b, table, codes)``: bytes ``table[code]`` for a uint8 vector of codes, table a
            256-byte Memory; None: the generator looks codes up one at a time.
        round_saturating: ``f(value)``: int32 vector ``rne(value)`` of a float32 vector, the ends of
            int32 for what lies outside; None: the epilogue clamps floats with ``round_clamp``.
        round_bounded: ``f(value)``: as ``round_saturating``, for values within int32.
        narrow: ``f(vectors, zero, low, high)``: one vector of stored codes
            ``min(max(q + zero, low), high)`` for int32 vectors of any value, |zero| <= 255;
            ``zero`` a scalar int16, ``low`` and ``high`` scalars of the stored type, or None for its ends.
        add_residual: ``f(vectors, codes, zero, factor)``: the int32 vectors plus ``(codes - zero) * factor``,
            saturated, for as many neighbouring stored codes; ``zero`` a stored code, ``factor`` an int16.
            With it ``narrow`` takes a last argument ``shift``: it first divides by 2^shift, rounding half up.
        eases: ``narrow`` takes None for a zero point of 0, and the epilogue saturates only what is not ``bounded``.
        narrows_pixels: narrow the sums of neighbouring pixels together where one pixel fills no vector of codes.
        loads_pairs: one instruction loads two vectors.
        depthwise_int8: kernel of 8-bit depthwise convolutions; None: they run as grouped ones.
        depthwise_float32: kernel of float32 depthwise convolutions; None: likewise.
        float16: inner kernel for float16 on machines that compute in it; None: there is none.
        bound_half: ``f(value, low, high)``: a float16 vector, at least ``low`` and at most ``high`` where these are.
        depthwise_float16: kernel of float16 depthwise convolutions; None: they run as grouped ones.
        bfloat16: inner kernel for bfloat16 on machines that multiply it; None: there is none.
        depthwise_bfloat16: kernel of bfloat16 depthwise convolutions, which multiplies in float32.
        matrix_bfloat16: kernel by matrix tiles for those bfloat16 layers that it fits.
        matrix_int8: kernel by matrix tiles for those 8-bit layers that it fits.
        single_int8: inner kernel for 8-bit layers of one output pixel; None: ``int8`` computes them too.
        product_int8: inner kernel for products of two activations, which may both be -128; None: computed as floats,
            or by ``int8`` where that multiplies unsigned codes.
        byte_dots: dots of whole vectors of bytes; None: there is no such instruction.
        byte_pairs: kernel for those 8-bit layers whose weights allow sums of two products of bytes in 16 bits.
        shared_int8: inner kernel for 8-bit 3x3 layers whose outputs share products of 16 bits; None: ``int8``, if it
            multiplies such.
        map_lanes: elements that an elementwise loop computes at once where all it does is arithmetic, so that codes
            fill a vector; 0: as many as there are lanes of the widest element.
        row_lanes: elements of a row that a softmax or layer normalization computes at once: several vectors, to
            hide latency; 0: one vector of float32.
        prefetches: ask for weights that come from afar while the item before computes.
        least_weight: least int8 weight for which no intermediate can overflow.
    """

    name: str
    activation_dtype: str
    vector_bytes: int
    int8: MicroKernel
    float32: MicroKernel
    round_clamp: Callable[[Expr, Expr, Expr], Expr]
    lookup: Callable[[Builder, Memory, Expr], Expr] | None = None
    round_saturating: Callable[[Expr], Expr] | None = None
    round_bounded: Callable[[Expr], Expr] | None = None
    narrow: Callable[..., Expr] | None = None
    add_residual: Callable[[Sequence[Expr], Expr, Expr, Expr], list[Expr]] | None = None
    narrows_pixels: bool = False
    eases: bool = False
    loads_pairs: bool = False
    depthwise_int8: DepthwiseKernel | DirectKernel | None = None
    depthwise_float32: DepthwiseKernel | DirectKernel | None = None
    float16: MicroKernel | None = None
    bound_half: Callable[[Expr, Expr | None, Expr | None], Expr] = _bound
    depthwise_float16: DepthwiseKernel | None = None
    bfloat16: MicroKernel | None = None
    depthwise_bfloat16: DepthwiseKernel | DirectKernel | None = None
    matrix_bfloat16: AmxKernel | None = None
    matrix_int8: AmxKernel | None = None
    single_int8: MicroKernel | None = None
    product_int8: MicroKernel | None = None
    byte_dots: ByteDots | None = None
    byte_pairs: BytePairKernel | None = None
    shared_int8: PairMicroKernel | None = None
    map_lanes: int = 0
    row_lanes: int = 0
    prefetches: bool = False
    least_weight: int = -127

    @property
    def fused(self) -> bool:
        """Whether the machine has a fused multiply-add, and converts float16 itself."""
        return self.float32.fused

    @property
    def pairs(self) -> PairMicroKernel | None:
        """Inner kernel for products of 16 bits, None where there is none."""
        if self.shared_int8 is not None:
            return self.shared_int8
        return self.int8 if isinstance(self.int8, PairMicroKernel) else None


def names() -> list[str]:
    """Names of the instruction sets, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(name: str) -> Isa:
    """Import an instruction set by name.

    Raises:
        TargetError: there is no such file, or it does not define one Isa of that name.
    """
    if name not in names():
        raise TargetError(f"unknown instruction set '{name}'", hint=f"known: {', '.join(names())}")
    module = importlib.import_module(f"{__name__}.{name}")
    found = [value for value in vars(module).values() if isinstance(value, Isa)]
    if len(found) != 1 or found[0].name != name:
        raise TargetError(f"isa/{name}.py must define exactly one Isa, named '{name}'")
    return found[0]
