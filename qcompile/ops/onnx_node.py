"""What a converter in an op file sees of an ONNX node; knows nothing of protobuf."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from qcompile.errors import InternalError, UnsupportedOpError
from qcompile.ir.graph import Graph, Value
from qcompile.ir.opdef import OpDef
from qcompile.ir.types import TensorType
from qcompile.ops.evaluation import keep_steps
from qcompile.ops.packed_weights import PACKED

FOLDED_LIMIT = 2**31
"""Bytes that a constant made at import may have; a larger one is a mistake of the model."""

TENSOR_LIMIT = 2**32
"""Bytes that any tensor may have: none of a network that runs on a CPU comes near."""


@dataclass
class OnnxNode:
    """One ONNX node during import, and the means to build IR for it.

    Args:
        graph: the IR graph under construction.
        op_type: ONNX operator type.
        name: ONNX node name (made up from the type and position where the model gives none).
        inputs: IR values; None for an optional input left out.
        attributes: by name, as Python ints, floats, strings, lists or NumPy arrays.
        outputs: ONNX names of the results ("" for one left out).
        opset: version of the operator set in force.
        source: model file, for messages.
        narrow: per input, ONNX's name of an element type of less than a byte ("INT4"), which the IR widens; "" else.
        open: `qcompile.onnx_import.open_shapes.OpenShapes` where extents are open, else None.
        counted: `qcompile.onnx_import.counted.Counts`; None for a node of no model.
        loop: `qcompile.onnx_import.rolled.RolledLoop` in whose body it is, else None.
        keeps_loops: whether loops stay loops that could be unrolled, but are not short.
    """

    graph: Graph
    op_type: str
    name: str
    inputs: Sequence[Value | None]
    attributes: dict[str, Any]
    outputs: Sequence[str]
    opset: int
    source: str = ""
    narrow: Sequence[str] = ()
    open: Any = None
    counted: Any = None
    loop: Any = None
    keeps_loops: bool = True
    _added: int = field(default=0, repr=False)

    def attr(self, name: str, default: Any = None) -> Any:
        """Return an attribute, or the default where the model leaves it out."""
        return self.attributes.get(name, default)

    def has(self, index: int) -> bool:
        """Return whether input `index` is given."""
        return index < len(self.inputs) and self.inputs[index] is not None

    def value(self, index: int) -> Value:
        """Return input `index`.

        Raises:
            UnsupportedOpError: the model leaves it out.
        """
        value = self.inputs[index] if index < len(self.inputs) else None
        if value is None:
            self.fail(f"input {index} is missing")
        return value

    def array(self, index: int, what: str) -> npt.NDArray[Any]:
        """Return the contents of input `index`, which must be known at compile time.

        Args:
            index: which input.
            what: its name in messages, e.g. "pads".

        Raises:
            UnsupportedOpError: it is computed at run time.
        """
        value = self.value(index)
        if value.data is None:
            if self.counted is not None and self.counted.touches([value]):
                self.fail(f"{what} follows from a number that the data decide")
            self.fail(f"{what} is computed at run time", hint="give fixed input shapes with --input-shape")
        return value.data

    def array_or_none(self, index: int, what: str) -> npt.NDArray[Any] | None:
        """Return the contents of an optional constant input, None where it is left out (or empty)."""
        if not self.has(index):
            return None
        data = self.array(index, what)
        return data if data.size else None

    def add(self, op: str, inputs: Sequence[Value], name: str | None = None, **attrs: Any) -> Value:
        """Append an IR node with one result and return the result.

        Args:
            op: name of the operation in `qcompile.ops`.
            inputs: operands.
            name: wanted name of the result; the ONNX output's name by default.
            attrs: fields of the operation's Attrs.

        Raises:
            UnsupportedOpError: the operation refuses these operands.
        """
        return self.add_many(op, inputs, [name or self.outputs[0]], **attrs)[0]

    def add_many(self, op: str, inputs: Sequence[Value], names: Sequence[str], **attrs: Any) -> tuple[Value, ...]:
        """Append an IR node with several results and return them; see `add`.

        A node whose operands are all constants is evaluated instead, and its results are constants, as are results
        without elements; weights of a few bits stay packed.
        """
        from qcompile import ops

        definition = ops.get(op)
        try:
            instance = definition.Attrs(**attrs)
            if self.counted is not None and self.counted.touches(inputs):
                live = inputs if self.open is None else [self.open.live(v) for v in inputs]
                return self._checked(self.counted.add(self, definition, live, instance, names))
            known = bool(inputs) and all(v.is_constant for v in inputs) and not definition.sized
            if known and op not in PACKED:
                return self._fold(definition, inputs, instance, names)
            if self.open is not None:
                inputs = self.open.operands(definition, inputs)
            node = self.graph.add_node(definition, inputs, instance, names=names, loc=self.name)
            made = self._checked(node.outputs)
        except ValueError as error:
            self.fail(str(error))
        if any(v.type.size for v in made):
            return made
        return tuple(self.graph.add_constant(v.name, np.zeros(v.shape, v.dtype)) for v in made)

    def _checked(self, made: tuple[Value, ...]) -> tuple[Value, ...]:
        """Return results that are not too large."""
        large = [v.type for v in made if v.type.nbytes > TENSOR_LIMIT]
        if large:
            self.fail(f"its result {large[0]} has {large[0].nbytes / 2**30:.0f} GiB")
        return made

    def _fold(self, op: OpDef, inputs: Sequence[Value], attrs: Any, names: Sequence[str]) -> tuple[Value, ...]:
        types = op.infer(attrs, [v.type for v in inputs])
        if sum(t.nbytes for t in types) > FOLDED_LIMIT:
            self.fail(f"its constant result {', '.join(map(str, types))} is too large")
        with np.errstate(all="ignore"):
            results = [np.asarray(r) for r in op.evaluate(attrs, [v.constant() for v in inputs])]
        found = [TensorType(r.dtype.name, r.shape) for r in results]
        if found != list(types):
            raise InternalError(f"{op.name} evaluates to {found}, but infers {list(types)}")
        made = tuple(self.graph.add_constant(n, r) for n, r in zip(names, results, strict=True))
        keep_steps(op, attrs, inputs, made)
        if self.open is not None:
            self.open.follow(op, inputs, attrs, made, self.name)
        return made

    def constant(self, suffix: str, data: npt.ArrayLike, dtype: str | None = None) -> Value:
        """Make a constant whose name derives from this node."""
        return self.graph.add_constant(f"{self.outputs[0]}.{suffix}", np.asarray(data, dtype))

    def moved(self, suffix: str, source: Value, move: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> Value:
        """Make a constant of another one's elements in other places; its name derives from this node."""
        return self.graph.add_moved(f"{self.outputs[0]}.{suffix}", source, move)

    def type(self, index: int) -> TensorType:
        """Return the type of input `index`."""
        return self.value(index).type

    def narrow_type(self, index: int) -> str:
        """Return ONNX's name of input `index`'s element type where it is less than a byte, "" elsewhere."""
        return self.narrow[index] if index < len(self.narrow) else ""

    def fail(self, problem: str, *, hint: str | None = None) -> NoReturn:
        """Refuse this node.

        Raises:
            UnsupportedOpError: always.
        """
        raise UnsupportedOpError(f"node {self.name} ({self.op_type}): {problem}", loc=self.source or None, hint=hint)
