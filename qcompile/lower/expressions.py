"""What an operation writes its elementwise form in: operands by index, arithmetic, and the exact integer rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from qcompile.errors import InternalError, LoweringError
from qcompile.ir.graph import Node, Value
from qcompile.ir.types import NARROW
from qcompile.kernels import expression as ex
from qcompile.kernels.expression import Expr
from qcompile.lower.offsets import as_index
from qcompile.lower.sources import Sources
from qcompile.quant.qparams import QParams

Index = Expr | int


class ExpressionBuilder:
    """Builds the expression of one result of a node.

    Args:
        node: whose operands are read.
        output: the result; its QParams govern `requantize`, `quantize` and `clamp_store`.
        sources: gives operands their buffer numbers, or the expression that is to be computed in place.
    """

    def __init__(self, node: Node, output: Value, sources: Sources) -> None:
        self.node, self.output, self._sources = node, output, sources

    # -- operands -----------------------------------------------------------------------------------------

    def load(self, operand: int, *position: Index) -> Expr:
        """Return an element of an operand: a real number, float32 for 16 bits, or the code q of a quantized one."""
        value = self.node.inputs[operand]
        return _widened(self._sources.read(value, tuple(as_index(p) for p in position), None, None))

    def load_or(self, operand: int, position: Sequence[Index], inside: Any, fill: Any) -> Expr:
        """Return an element where a condition holds, else a fill value, without touching memory there.

        Args:
            operand: which one.
            position: one index per axis.
            inside: condition.
            fill: a number in the operand's own terms (q where it is quantized), or an expression.
        """
        value = self.node.inputs[operand]
        other = fill if isinstance(fill, Expr) else ex.constant(fill, value.dtype)
        if not isinstance(inside, Expr):
            inside = ex.constant(bool(inside), "bool")
        fill = ex.cast(other, value.dtype)
        return _widened(self._sources.read(value, tuple(as_index(p) for p in position), inside, fill))

    def centred(self, operand: int, *position: Index) -> Expr:
        """Return int32(q − zero_point) of an element."""
        value = self.node.inputs[operand]
        params = self._params(value)
        if len(set(params.zero_point)) != 1:
            raise LoweringError(f"node {self.node}: {value.name} has a zero point per channel, which has no code")
        return ex.cast(self.load(operand, *position), "int32") - params.zero_point[0]

    def dequantize(self, operand: int, *position: Index) -> Expr:
        """Return float32(q − zero_point) · scale of an element."""
        params = self._params(self.node.inputs[operand])
        return ex.cast(self.centred(operand, *position), "float32") * self.f32(params.scalar_scale)

    def broadcast(self, operand: int, position: Sequence[Index]) -> tuple[Index, ...]:
        """Return the index into an operand that stretches to the result: the last axes, 0 where its extent is 1."""
        shape = self.node.inputs[operand].shape
        last = position[len(position) - len(shape) :] if shape else ()
        return tuple(0 if extent == 1 else at for extent, at in zip(shape, last, strict=True))

    def at(self, handle: Value, *position: Index) -> Expr:
        """Return an element of a constant made by `context.constant`."""
        return self._sources.read(handle, tuple(as_index(p) for p in position), None, None)

    def real(self, handle: Value, *position: Index, kind: str = "float16") -> Expr:
        """Return an element of a constant made by `context.constant` as float32; uint16 is another `kind`'s bits."""
        found = self.at(handle, *position)
        return found if found.dtype == "float32" else ex.unary(kind, found, "float32")

    # -- numbers ------------------------------------------------------------------------------------------

    def f32(self, value: float) -> Expr:
        """Return a float32 constant."""
        return ex.constant(float(np.float32(value)), "float32")

    def i32(self, value: int) -> Expr:
        """Return an int32 constant."""
        return ex.constant(int(value), "int32")

    def cast(self, value: Expr, dtype: str) -> Expr:
        """Convert numerically; float to integer truncates."""
        return ex.cast(value, dtype)

    def max(self, x: Any, y: Any) -> Expr:
        """Return the larger."""
        return ex.binary("max", x, y)

    def min(self, x: Any, y: Any) -> Expr:
        """Return the smaller."""
        return ex.binary("min", x, y)

    def equal(self, x: Any, y: Any) -> Expr:
        """Return whether both are equal."""
        return ex.binary("eq", x, y)

    def and_(self, x: Expr, y: Expr) -> Expr:
        """Return whether both hold."""
        return ex.binary("and", x, y)

    def or_(self, x: Expr, y: Expr) -> Expr:
        """Return whether at least one holds."""
        return ex.binary("or", x, y)

    def not_(self, x: Expr) -> Expr:
        """Return whether it does not hold."""
        return ex.unary("not", x)

    def select(self, condition: Expr, yes: Any, no: Any) -> Expr:
        """Return `yes` where the condition holds, else `no`; both are computed."""
        like = yes if isinstance(yes, Expr) else no
        yes, no = (v if isinstance(v, Expr) else ex.constant(v, like.dtype) for v in (yes, no))
        return ex.select(condition, yes, ex.cast(no, yes.dtype))

    def pow(self, x: Expr, y: Any) -> Expr:
        """Return x^y."""
        return ex.binary("pow", x, y)

    def exp(self, x: Expr) -> Expr:
        """Return e^x."""
        return ex.unary("exp", x)

    def log(self, x: Expr) -> Expr:
        """Return the natural logarithm."""
        return ex.unary("log", x)

    def sqrt(self, x: Expr) -> Expr:
        """Return the square root."""
        return ex.unary("sqrt", x)

    def tanh(self, x: Expr) -> Expr:
        """Return the hyperbolic tangent."""
        return ex.unary("tanh", x)

    def erf(self, x: Expr) -> Expr:
        """Return the error function."""
        return ex.unary("erf", x)

    def sin(self, x: Expr) -> Expr:
        """Return the sine of an angle in radians."""
        return ex.unary("sin", x)

    def cos(self, x: Expr) -> Expr:
        """Return the cosine of an angle in radians."""
        return ex.unary("cos", x)

    def atan(self, x: Expr) -> Expr:
        """Return the inverse tangent, in radians."""
        return ex.unary("atan", x)

    def bit_and(self, x: Any, y: Any) -> Expr:
        """Return the bits that both integers have."""
        return ex.binary("bit_and", x, y)

    def bit_or(self, x: Any, y: Any) -> Expr:
        """Return the bits that either integer has."""
        return ex.binary("bit_or", x, y)

    def bit_xor(self, x: Any, y: Any) -> Expr:
        """Return the bits in which the integers differ."""
        return ex.binary("bit_xor", x, y)

    def shift_left(self, x: Any, y: Any) -> Expr:
        """Return x · 2^y; y is less than the width."""
        return ex.binary("shl", x, y)

    def sigmoid(self, x: Expr) -> Expr:
        """Return 1 / (1 + e^−x)."""
        return ex.unary("sigmoid", x)

    def floor(self, x: Expr) -> Expr:
        """Return the largest whole number that is not larger."""
        return ex.unary("floor", x)

    def abs(self, x: Expr) -> Expr:
        """Return the magnitude."""
        return ex.unary("abs", x)

    def binade(self, x: Expr) -> Expr:
        """Return 2^floor(log2 x) of a normal number, 0 or less than that of a smaller one; x is not negative."""
        return ex.unary("binade", x)

    def round_clamp(self, x: Expr, low: Expr, high: Expr) -> Expr:
        """Return int32(rne(min(max(x, low), high))) for bounds within ±2^22; NaN gives the lower one."""
        return ex.round_clamp(x, low, high)

    # -- integer rules --------------------------------------------------------------------------------------

    def requantize(self, accumulator: Expr, multiplier: Any) -> Expr:
        """Return the code of an int32 accumulator: int(rne(clamp(float32(acc) · m))) + zp.

        Args:
            accumulator: int32.
            multiplier: float constant, or a float32 expression.
        """
        m = multiplier if isinstance(multiplier, Expr) else self.f32(multiplier)
        return self._rounded(ex.cast(accumulator, "float32") * m)

    def quantize(self, real: Expr) -> Expr:
        """Return the code of a real number: int(rne(clamp(x · inv))) + zp."""
        scale = np.float32(self._params(self.output).scalar_scale)
        return self._rounded(real * self.f32(float(np.float32(1.0) / scale)))

    def scaled(self, value: Expr) -> Expr:
        """Return the code of a real number that is in steps of the result already: int(rne(clamp(x))) + zp."""
        return self._rounded(value)

    def clamp_store(self, centred: Expr) -> Expr:
        """Return the code of an int32 that already has the result's scale: clamp(v) + zp."""
        params = self._params(self.output)
        zp = params.scalar_zero_point
        low, high = self.i32(params.qmin - zp), self.i32(params.qmax - zp)
        return ex.cast(self.min(self.max(ex.cast(centred, "int32"), low), high) + zp, params.dtype)

    def _rounded(self, scaled: Expr) -> Expr:
        params = self._params(self.output)
        zp = params.scalar_zero_point
        if max(abs(params.qmin - zp), abs(params.qmax - zp)) > _EXACT_CLAMP:
            raise LoweringError(f"node {self.node}: codes of more than 22 bits have no code here")
        low, high = self.f32(params.qmin - zp), self.f32(params.qmax - zp)
        return ex.cast(ex.round_clamp(scaled, low, high) + zp, params.dtype)

    def _params(self, value: Value) -> QParams:
        if value.qparams is None:
            raise InternalError(f"{self.node}: {value.name} is not quantized")
        return value.qparams


def _widened(element: Expr) -> Expr:
    """Return numbers of 16 bits as float32: nothing is computed in fewer bits but products of layers."""
    return ex.cast(element, "float32") if element.dtype in NARROW else element


_EXACT_CLAMP = 2**22
