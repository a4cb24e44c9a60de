"""What an operation is: the protocol that each file of `qcompile/ops` implements once."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy.typing as npt

from qcompile.errors import InternalError
from qcompile.ir.types import TensorType

if TYPE_CHECKING:
    from qcompile.ir.graph import Node
    from qcompile.quant.qparams import QParams

Array = npt.NDArray[Any]

_TABLES = 1024
"""Tables to remember, of at most 16 KiB."""


class Quantization(enum.Enum):
    """How an operation takes part in quantization.

    FLOAT_ONLY: it has no integer form; tensors are dequantized around it.
    ACCUMULATE: operand 0 and the weight (operand 1) are int8, the bias int32, the result an int32
        accumulator of scale s_x·s_w that a requantize follows.
    ARITHMETIC: operands and result are int8, each with its own QParams, and the op has its own exact rule.
    SHARED: it moves or selects elements; the result has the QParams of operand 0.
    TABLE: a unary function; a 256-entry table maps int8 to int8.
    """

    FLOAT_ONLY = "float only"
    ACCUMULATE = "accumulate"
    ARITHMETIC = "arithmetic"
    SHARED = "shared"
    TABLE = "table"


@dataclass(frozen=True)
class NoAttrs:
    """Attributes of an operation that has none."""


class OpDef:
    """Definition of one operation; a file of `qcompile/ops` subclasses this once.

    Class attributes:
        name: the IR's name, as printed.
        Attrs: frozen dataclass of attributes.
        activations: indices of the operands that are activations (to be quantized); None means all of them.
        places: indices of the operands that say where to read: coordinates, boxes.
        integer: how it takes part in quantization.
        adds_residual: whether the epilogue of its integer form can add a residual.
        rounds: whether its real form rounds to few bits, as layers quantized at run time do.
        takes_int16: whether its integer form is defined on 16-bit activations too.
        selects: whether it reads only those elements of its first operand that it returns.
        overwrites: whether it can compute its real form in the memory of its first operand (`evaluate_over`).
        sized: whether the result follows from open extents, not from the operands alone.
        region: "begin" or "end" of a loop, whose results are those of all iterations; "" for all else.
        onnx: ONNX operator types whose conversion this file provides, with the converter of each.
    """

    name: ClassVar[str]
    Attrs: ClassVar[type] = NoAttrs
    activations: ClassVar[tuple[int, ...] | None] = None
    places: ClassVar[tuple[int, ...]] = ()
    integer: ClassVar[Quantization] = Quantization.FLOAT_ONLY
    adds_residual: ClassVar[bool] = False
    rounds: ClassVar[bool] = False
    takes_int16: ClassVar[bool] = False
    selects: ClassVar[bool] = False
    overwrites: ClassVar[bool] = False
    sized: ClassVar[bool] = False
    region: ClassVar[Literal["", "begin", "end"]] = ""
    onnx: ClassVar[dict[str, Callable[..., Any]]] = {}

    def infer(self, attrs: Any, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the types of the results.

        Raises:
            ValueError: the operand types or attributes do not fit; the message names the value.
        """
        raise InternalError(f"op '{self.name}' does not define infer")

    def evaluate(self, attrs: Any, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Compute the results in NumPy: the meaning of the operation on real (or index) tensors."""
        raise InternalError(f"op '{self.name}' does not define evaluate")

    def evaluate_over(self, attrs: Any, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Compute what `evaluate` does, and put the result where the first operand is."""
        raise InternalError(f"op '{self.name}' does not define evaluate_over")

    def evaluate_integer(self, node: Node, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Compute the results on quantized tensors, exactly as every kernel does.

        Args:
            node: carries the attributes and, on its operands and results, the QParams.
            inputs: integers in LSB.

        Raises:
            ValueError: the operation has no integer form.
        """
        if self.integer is Quantization.SHARED:
            return self.evaluate(node.attrs, inputs)
        if self.integer is Quantization.TABLE:
            from qcompile.quant import int16

            qx, qy = node.inputs[0].qparams, node.output.qparams
            if qx is None or qy is None:
                raise InternalError(f"{node}: a table needs QParams on both sides")
            entries = _table(self, node.attrs, qx, qy)
            if qx.dtype == int16.INT16:
                return (int16.look_up(inputs[0], entries, qy.dtype),)
            return (entries[inputs[0].astype("int16") + 128],)
        raise ValueError(f"'{self.name}' has no integer form")

    def function(self, attrs: Any, x: Array) -> Array:
        """Return f(x) in float64 for a unary TABLE operation.

        Args:
            attrs: the node's attributes.
            x: float64 array of any shape.
        """
        raise InternalError(f"op '{self.name}' does not define function")

    def integer_obstacle(self, node: Node) -> str | None:
        """Return why this very node cannot run in integers, or None if it can."""
        return "it has no integer form" if self.integer is Quantization.FLOAT_ONLY else None

    def int16_obstacle(self, node: Node) -> str | None:
        """Return why this very node cannot run on 16-bit activations, or None if it can."""
        if self.takes_int16 or self.integer in (Quantization.SHARED, Quantization.TABLE):
            return None
        return f"{self.name} has no form on 16-bit activations"

    def only_moves(self, node: Node) -> bool:
        """Return whether this very node hands on elements as they are: on its operand's grid nothing is rounded."""
        return self.integer is Quantization.SHARED

    def shares_range(self, node: Node) -> bool:
        """Return whether the result of this very node has the range of its operand, in float as well."""
        return self.integer is Quantization.SHARED

    def fixed_range(self, attrs: Any) -> tuple[float, float] | None:
        """Return the real bounds of the result where the function itself sets them (sigmoid: 0..1)."""
        return None

    def macs(self, node: Node) -> int:
        """Return the multiply-accumulates of one evaluation."""
        return 0

    def moved(self, node: Node) -> int:
        """Return how many elements one evaluation reads and writes."""
        read, written = ([value.type.size for value in values] for values in (node.inputs, node.outputs))
        if self.selects:
            read[0] = min(read[0], sum(written))
        return sum(read) + sum(written)

    def check(self, node: Node) -> None:
        """Verify what types alone cannot say.

        Raises:
            ValueError: an invariant of the operation does not hold; the message names the value.
        """

    def lower(self, node: Node, context: Any) -> None:
        """Emit the steps that compute the node.

        Args:
            node: in float or integer form.
            context: `qcompile.lower.operations.OperationContext`.
        """
        raise InternalError(f"op '{self.name}' does not define lower")

    def operand_activations(self, node: Node) -> tuple[int, ...]:
        """Return the indices of the operands to quantize as activations."""
        if self.activations is not None:
            return self.activations
        return tuple(range(len(node.inputs)))


@lru_cache(_TABLES)
def _table(op: OpDef, attrs: Any, qx: QParams, qy: QParams) -> Array:
    """Return the entries of a unary operation; loops and samples ask for the same ones again and again."""
    from qcompile.quant import int16
    from qcompile.quant.requantize import table

    rule = int16.table if qx.dtype == int16.INT16 else table
    entries = rule(lambda x: op.function(attrs, x), qx, qy)
    entries.setflags(write=False)
    return entries


def qparams_of(node: Node) -> tuple[list[QParams], list[QParams]]:
    """Return the QParams of all operands and results of an integer node.

    Raises:
        ValueError: one of them has none.
    """
    found: list[list[QParams]] = [[], []]
    for values, out in ((node.inputs, found[0]), (node.outputs, found[1])):
        for value in values:
            if value.qparams is None:
                raise ValueError(f"{value.name} of integer node {node} has no QParams")
            out.append(value.qparams)
    return found[0], found[1]
