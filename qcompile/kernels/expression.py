"""Scalar expressions that elementwise kernels compute: one output element as a function of its index.

An expression is an immutable tree, shared where parts are equal, so that identity is equality. It knows nothing
of vectors; `qcompile.kernels.emit` turns it into vector code, after looking at how each load walks memory.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from qcompile.errors import InternalError
from qcompile.ir.types import NARROW

_RANK = {"bool": 0, "int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "int32": 3, "uint32": 3, "int64": 4, "uint64": 4,
         "float16": 5, "bfloat16": 5, "float32": 6, "float64": 7}  # fmt: skip

ITEMSIZE = {"bool": 1, "int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "int32": 4, "uint32": 4, "int64": 8, "uint64": 8,
            "float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}  # fmt: skip
"""Bytes of an element in memory."""

Build = Callable[[], "Expr"]
"""Something that makes an expression when asked."""

_INTERNED: weakref.WeakValueDictionary[Any, Expr] = weakref.WeakValueDictionary()


class Expr:
    """One node of an expression; made by the functions below, never by hand.

    Attributes:
        op: what it computes: "const", "index", "load", "add", ...
        dtype: NumPy's name of its element type.
        args: operands.
        data: what else decides it: a constant's value, an axis, a buffer number.
        depth: nodes on the longest way to a leaf, itself included.
    """

    __slots__ = ("__weakref__", "args", "data", "depth", "dtype", "op")

    op: str
    dtype: str
    args: tuple[Expr, ...]
    data: Any
    depth: int

    def __add__(self, other: Any) -> Expr:
        return _arithmetic("add", self, other)

    def __radd__(self, other: Any) -> Expr:
        return _arithmetic("add", other, self)

    def __sub__(self, other: Any) -> Expr:
        return _arithmetic("sub", self, other)

    def __rsub__(self, other: Any) -> Expr:
        return _arithmetic("sub", other, self)

    def __mul__(self, other: Any) -> Expr:
        return _arithmetic("mul", self, other)

    def __rmul__(self, other: Any) -> Expr:
        return _arithmetic("mul", other, self)

    def __truediv__(self, other: Any) -> Expr:
        return _arithmetic("div", self, other)

    def __rtruediv__(self, other: Any) -> Expr:
        return _arithmetic("div", other, self)

    def __floordiv__(self, other: Any) -> Expr:
        return _arithmetic("quotient", self, other)

    def __mod__(self, other: Any) -> Expr:
        return _arithmetic("remainder", self, other)

    def __rshift__(self, other: Any) -> Expr:
        return _arithmetic("shr", self, other)

    def __neg__(self) -> Expr:
        return _arithmetic("sub", constant(0, self.dtype), self)

    def __lt__(self, other: Any) -> Expr:
        return _arithmetic("lt", self, other)

    def __le__(self, other: Any) -> Expr:
        return _arithmetic("le", self, other)

    def __gt__(self, other: Any) -> Expr:
        return _arithmetic("lt", other, self)

    def __ge__(self, other: Any) -> Expr:
        return _arithmetic("le", other, self)

    def args_op(self, position: int) -> str:
        """Return what computes an operand, "" where there is none."""
        return self.args[position].op if position < len(self.args) else ""

    def __bool__(self) -> bool:
        raise InternalError("an expression has no truth value at compile time; use select or load_or")

    def __repr__(self) -> str:
        inner = ", ".join([*map(repr, self.args), *([] if self.data is None else [repr(self.data)])])
        return f"{self.op}:{self.dtype}({inner})"


def make(op: str, dtype: str, args: tuple[Expr, ...] = (), data: Any = None) -> Expr:
    """Return the one expression with these parts."""
    key = (op, dtype, tuple(map(id, args)), type(data), data)
    found = _INTERNED.get(key)
    if found is None:
        found = Expr.__new__(Expr)
        found.op, found.dtype, found.args, found.data = op, dtype, args, data
        found.depth = 1 + max((part.depth for part in args), default=0)
        _INTERNED[key] = found
    return found


def is_real(dtype: str) -> bool:
    """Return whether an element type is one of floating point numbers."""
    return dtype.startswith(("float", "bfloat"))


def constant(value: float, dtype: str) -> Expr:
    """Return a constant of an element type."""
    plain = float(value) if is_real(dtype) else int(value)
    # repr() separates 0.0 from -0.0, which compare equal.
    return make("const", dtype, (), (plain, repr(plain)))


def index(axis: int) -> Expr:
    """Return the index of the element along an axis of the kernel's iteration space."""
    return make("index", "int64", (), axis)


def load(buffer: int, dtype: str, offset: Expr) -> Expr:
    """Read an element.

    Args:
        buffer: number of the kernel's buffer.
        dtype: element type in memory.
        offset: position, elements.
    """
    return make("load", dtype, (offset,), buffer)


def load_or(buffer: int, dtype: str, offset: Expr, inside: Expr, fill: Expr) -> Expr:
    """Read an element where `inside` holds, else take `fill` without touching memory."""
    if inside.op == "const":
        return load(buffer, dtype, offset) if inside.data[0] else fill
    return make("load_or", dtype, (offset, inside, fill), buffer)


def cast(value: Expr, dtype: str) -> Expr:
    """Convert numerically; float to integer truncates."""
    if value.dtype == dtype:
        return value
    if value.op == "const" and not (is_real(value.dtype) and not is_real(dtype)):
        return constant(_wrapped(value.data[0], dtype), dtype)
    if value.op == "flip" and value.dtype == "int8" and dtype in ("int16", "int32", "int64"):
        return cast(value.args[0], dtype) - 128
    if value.op == "cast" and value.dtype == "float32" and value.args[0].dtype == dtype and dtype in NARROW:
        return value.args[0]  # it was widened, which changes nothing
    return make("cast", dtype, (value,))


def _wrapped(value: float, dtype: str) -> float:
    """Return a constant as its element type holds it: a whole number that lies beyond keeps its low bits."""
    if is_real(dtype):
        return value
    if dtype == "bool":
        return int(value != 0)
    bits = 8 * ITEMSIZE[dtype]
    lowest = 0 if dtype.startswith("uint") else -(1 << (bits - 1))
    return (int(value) - lowest) % (1 << bits) + lowest


def flip(value: Expr) -> Expr:
    """Turn a code q (int8) into q + 128 (uint8), or back: the top bit changes."""
    if value.op == "flip":
        return value.args[0]
    if value.op == "const":
        shifted = value.data[0] + (128 if value.dtype == "int8" else -128)
        return constant(shifted, {"int8": "uint8", "uint8": "int8"}[value.dtype])
    if value.op == "cast" and value.dtype == "int8" and value.args[0].dtype == "int32":
        return cast(value.args[0] + 128, "uint8")  # a conversion keeps the low byte, whatever the sign
    return make("flip", {"int8": "uint8", "uint8": "int8"}[value.dtype], (value,))


def select(condition: Expr, yes: Expr, no: Expr) -> Expr:
    """Return yes where the condition holds, else no; both are computed."""
    if condition.op == "const":
        return yes if condition.data[0] else no
    return make("select", yes.dtype, (condition, yes, no))


def unary(op: str, value: Expr, dtype: str | None = None) -> Expr:
    """Apply a function of one operand ("exp", "sqrt", ...)."""
    return make(op, dtype or value.dtype, (value,))


def round_clamp(value: Expr, lo: Expr, hi: Expr) -> Expr:
    """Return int32(rne(min(max(value, lo), hi))); NaN gives lo."""
    return make("round_clamp", "int32", (value, lo, hi))


def binary(op: str, x: Any, y: Any) -> Expr:
    """Apply a function of two operands: an arithmetic operator, "max", "min", "eq", "and", "or", "pow"."""
    return _arithmetic(op, x, y)


_FOLD: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "quotient": lambda x, y: x // y,
    "remainder": lambda x, y: x % y,
    "shr": lambda x, y: x >> y,
    "bit_and": lambda x, y: x & y,
    "bit_or": lambda x, y: x | y,
    "bit_xor": lambda x, y: x ^ y,
    "max": max,
    "min": min,
    "lt": lambda x, y: x < y,
    "le": lambda x, y: x <= y,
    "eq": lambda x, y: x == y,
    "and": lambda x, y: x and y,
    "or": lambda x, y: x or y,
}
_COMPARISONS = ("lt", "le", "eq")


def _arithmetic(op: str, x: Any, y: Any) -> Expr:
    x, y = _unify(x, y)
    dtype = "bool" if op in _COMPARISONS else x.dtype
    if x.op == y.op == "const" and op in _FOLD and not is_real(x.dtype):
        return constant(_FOLD[op](x.data[0], y.data[0]), dtype)
    simple = _simplify(op, x, y)
    return make(op, dtype, (x, y)) if simple is None else simple


def _simplify(op: str, x: Expr, y: Expr) -> Expr | None:
    """Return an equal, simpler expression of integers, or None."""
    if is_real(x.dtype):
        return None
    if op in ("add", "sub") and _is(y, 0):
        return x
    if op == "sub" and y.op == "const" and x.dtype.startswith("int"):
        return _arithmetic("add", x, constant(-y.data[0], y.dtype))
    if op == "add" and y.op == x.args_op(1) == "const" and x.op == "add":
        return _arithmetic("add", x.args[0], constant(x.args[1].data[0] + y.data[0], x.dtype))
    if op == "add" and _is(x, 0):
        return y
    if op in ("mul", "quotient") and _is(y, 1):
        return x
    if op == "mul" and _is(x, 1):
        return y
    if op == "mul" and (_is(x, 0) or _is(y, 0)):
        return constant(0, x.dtype)
    if op == "remainder" and _is(y, 1):
        return constant(0, x.dtype)
    if op in ("and", "or"):
        for this, other in ((x, y), (y, x)):
            if this.op == "const":
                return other if bool(this.data[0]) == (op == "and") else this
    return None


def _is(value: Expr, number: int) -> bool:
    return value.op == "const" and value.data[0] == number


def _unify(x: Any, y: Any) -> tuple[Expr, Expr]:
    """Give both operands one element type; a Python number takes the other's."""
    if not isinstance(x, Expr):
        if not isinstance(y, Expr):
            raise InternalError(f"neither {x!r} nor {y!r} is an expression")
        x = _number(x, y.dtype)
    if not isinstance(y, Expr):
        y = _number(y, x.dtype)
    if x.dtype != y.dtype:
        dtype = max(x.dtype, y.dtype, key=_RANK.__getitem__)
        if {x.dtype, y.dtype} == {"int8", "uint8"}:
            dtype = "int16"
        x, y = cast(x, dtype), cast(y, dtype)
    return x, y


def _number(value: Any, dtype: str) -> Expr:
    if isinstance(value, float) and not is_real(dtype):
        return constant(value, "float32")
    if dtype in ("int8", "uint8") and not -128 <= value <= 127:
        return constant(value, "int32")
    return constant(value, dtype)


# -- reading -------------------------------------------------------------------------------------------------


def walk(roots: tuple[Expr, ...]) -> Iterator[Expr]:
    """Iterate over every distinct part, operands first."""
    seen: set[int] = set()
    stack = [(root, False) for root in reversed(roots)]
    while stack:
        node, done = stack.pop()
        if done:
            yield node
        elif id(node) not in seen:
            seen.add(id(node))
            stack.append((node, True))
            stack.extend((part, False) for part in reversed(node.args))


def text(roots: tuple[Expr, ...]) -> str:
    """Return a text that is equal exactly for equal expressions; kernels are named after it."""
    numbers: dict[Expr, int] = {}
    lines = []
    for node in walk(roots):
        numbers[node] = len(numbers)
        operands = ",".join(f"%{numbers[part]}" for part in node.args)
        lines.append(f"{node.op}:{node.dtype}({operands}){'' if node.data is None else node.data!r}")
    return ";".join([*lines, ",".join(f"%{numbers[root]}" for root in roots)])


def rebuild(root: Expr, change: Callable[[Expr, tuple[Expr, ...]], Expr | None]) -> Expr:
    """Return the expression with parts replaced, from the leaves up.

    Args:
        root: what to rewrite.
        change: gets a part and its rewritten operands; returns the replacement, or None to keep the part as it
            is with the new operands.
    """
    done: dict[Expr, Expr] = {}
    for node in walk((root,)):
        args = tuple(done[part] for part in node.args)
        new = change(node, args)
        done[node] = again(node, args) if new is None else new
    return done[root]


def again(node: Expr, args: tuple[Expr, ...]) -> Expr:
    """Return the node with other operands, simplified as when it was first made."""
    if args == node.args:
        return node
    if node.op in _FOLD:
        return _arithmetic(node.op, *args)
    return make(node.op, node.dtype, args, node.data)


def substitute(root: Expr, indices: Mapping[int, Expr]) -> Expr:
    """Return the expression with indices of axes replaced."""
    return rebuild(root, lambda node, _: indices.get(node.data) if node.op == "index" else None)


# -- affine forms --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Affine:
    """constant + Σ coefficient · part, with parts that are indices or integer expressions not affine in them."""

    constant: int
    terms: tuple[tuple[Expr, int], ...]

    def coefficient(self, axis: int) -> int:
        """Return the factor of an axis' index."""
        return next((c for part, c in self.terms if part.op == "index" and part.data == axis), 0)

    @property
    def opaque(self) -> tuple[Expr, ...]:
        """The parts that are not plain indices."""
        return tuple(part for part, _ in self.terms if part.op != "index")


def affine(value: Expr) -> Affine:
    """Return the affine form of an integer expression."""
    total: dict[Expr, int] = {}
    fixed = _collect(value, 1, total)
    terms = [(part, c) for part, c in total.items() if c]
    plain = sorted((t for t in terms if t[0].op == "index"), key=lambda t: int(t[0].data))
    return Affine(fixed, (*plain, *(t for t in terms if t[0].op != "index")))


def _collect(value: Expr, factor: int, total: dict[Expr, int]) -> int:
    if value.op == "const":
        return factor * int(value.data[0])
    if value.op == "add":
        return _collect(value.args[0], factor, total) + _collect(value.args[1], factor, total)
    if value.op == "sub":
        return _collect(value.args[0], factor, total) + _collect(value.args[1], -factor, total)
    if value.op == "cast" and value.args[0].dtype in ("int32", "int64") and value.dtype == "int64":
        return _collect(value.args[0], factor, total)
    if value.op == "mul":
        for this, other in (value.args, value.args[::-1]):
            if this.op == "const":
                return _collect(other, factor * int(this.data[0]), total)
    total[value] = total.get(value, 0) + factor
    return 0
