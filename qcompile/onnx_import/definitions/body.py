"""The nodes of one definition under construction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
from onnx import helper, numpy_helper

from qcompile.errors import UnsupportedOpError
from qcompile.ir.graph import Value

OPSET = 23
"""Operator set that definitions are written for."""


class Body:
    """Collects the nodes that stand for one node of the model.

    Args:
        node: NodeProto.
        operands: its inputs; None for one left out.
        label: the node's name in messages, and the prefix of all names made here.
    """

    def __init__(self, node: Any, operands: Sequence[Value | None], label: str) -> None:
        self.nodes: list[Any] = []
        self.operands = operands
        self._node = node
        self._label = label
        self._attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}

    def attr(self, name: str, default: Any = None) -> Any:
        """Return an attribute as Python has it, text decoded."""
        value = self._attributes.get(name, default)
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else value

    def has(self, index: int) -> bool:
        """Return whether input `index` is given."""
        return index < len(self.operands) and self.operands[index] is not None

    def input(self, index: int) -> str:
        """Return the name of input `index`.

        Raises:
            UnsupportedOpError: it is left out.
        """
        if not self.has(index):
            self.fail(f"input {index} is missing")
        return str(self._node.input[index])

    def value(self, index: int) -> Value:
        """Return input `index`."""
        self.input(index)
        value = self.operands[index]
        assert value is not None
        return value

    def shape(self, index: int) -> tuple[int, ...]:
        """Return the shape of input `index`."""
        return self.value(index).shape

    def output(self, index: int) -> str | None:
        """Return the name of output `index`, None where nobody asks for it."""
        return str(self._node.output[index]) if index < len(self._node.output) and self._node.output[index] else None

    def add(self, op: str, inputs: Sequence[str], output: str | None = None, **attributes: Any) -> str:
        """Append a node with one output, and return its name.

        Args:
            op: ONNX operator.
            inputs: names; "" for one left out.
            output: name of the result; made up by default.
            attributes: of the node; None for one left out.
        """
        return self.add_several(op, inputs, [output or f"{self._label}/{len(self.nodes)}"], **attributes)[0]

    def add_several(
        self, op: str, inputs: Sequence[str], outputs: int | Sequence[str], **attributes: Any
    ) -> tuple[str, ...]:
        """Append a node with several outputs, and return their names.

        Args:
            op: ONNX operator.
            inputs: names; "" for one left out.
            outputs: names of the results, "" for one that nobody asks for; or how many names to make up.
            attributes: of the node; None for one left out.
        """
        if isinstance(outputs, int):
            outputs = [f"{self._label}/{len(self.nodes)}.{k}" for k in range(outputs)]
        given = {name: value for name, value in attributes.items() if value is not None}
        self.nodes.append(helper.make_node(op, list(inputs), outputs, name=f"{self._label}/{op}", **given))
        return tuple(outputs)

    def constant(self, data: npt.ArrayLike, dtype: str = "float32") -> str:
        """Append a constant and return its name."""
        return self.add("Constant", [], value=numpy_helper.from_array(np.asarray(data, dtype)))

    def cast(self, x: str, dtype: str, output: str | None = None) -> str:
        """Append a Cast to an element type by NumPy's name, and return the name of the result."""
        return self.add("Cast", [x], output, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def real(self, index: int) -> str:
        """Return input `index` in float32."""
        x = self.input(index)
        return x if self.value(index).type.dtype == "float32" else self.cast(x, "float32")

    def reshape(self, x: str, shape: Sequence[int]) -> str:
        """Append a Reshape; 0 keeps an extent."""
        return self.add("Reshape", [x, self.constant(list(shape), "int64")])

    def fail(self, problem: str) -> NoReturn:
        """Refuse this node.

        Raises:
            UnsupportedOpError: always.
        """
        kind = f"{self._node.domain}.{self._node.op_type}".lstrip(".")
        raise UnsupportedOpError(f"node {self._label} ({kind}): {problem}")
