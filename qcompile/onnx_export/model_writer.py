"""Collects the nodes and tensors of an ONNX model, and keeps each of our tensors in the layouts asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.ir.graph import Value

Array = npt.NDArray[Any]

MICROSOFT = "com.microsoft"
"""Domain of ONNX Runtime's own operators."""

TO_FIRST, TO_LAST = (0, 3, 1, 2), (0, 2, 3, 1)
"""From channels last to channels first, and back."""

_SUFFIX = re.compile(r"(\.(q|fused|real)(\.\d+)?)+$")


class ModelWriter:
    """The ONNX graph under construction.

    Args:
        taken: names of inputs and outputs.

    Attributes:
        nodes: in order of computation.
        initializers: constants.
    """

    def __init__(self, taken: Sequence[str]) -> None:
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self._taken = set(taken)
        self._plain: dict[Value, str] = {}
        self._first: dict[Value, str] = {}

    # -- names --------------------------------------------------------------------------------------------

    def fresh(self, wish: str) -> str:
        """Return a name that nothing has, as near to a wish as possible."""
        name, number = wish, 0
        while name in self._taken:
            number += 1
            name = f"{wish}.{number}"
        self._taken.add(name)
        return name

    def emit(self, op: str, inputs: Sequence[str], wish: str, **attributes: Any) -> str:
        """Add a node with one result and return the result's name."""
        return self.emit_all(op, inputs, [wish], **attributes)[0]

    def emit_all(self, op: str, inputs: Sequence[str], wishes: Sequence[str], **attributes: Any) -> list[str]:
        """Add a node and return the names of its results."""
        from onnx import helper

        names = [self.fresh(wish) for wish in wishes]
        self.nodes.append(helper.make_node(op, list(inputs), names, self.fresh(f"{op}/{names[0]}"), **attributes))
        return names

    def constant(self, data: Array, wish: str) -> str:
        """Add an initializer and return its name."""
        from onnx import numpy_helper

        name = self.fresh(wish)
        self.initializers.append(numpy_helper.from_array(np.array(data, order="C"), name))
        return name

    # -- tensors ------------------------------------------------------------------------------------------

    def set(self, value: Value, name: str, *, first: bool = False) -> None:
        """Say under which name a tensor is known, as it is or with its channels moved to axis 1."""
        (self._first if first else self._plain)[value] = name

    def has_first(self, value: Value) -> bool:
        """Return whether a tensor is known with channels on axis 1 while our graph has them last."""
        return value in self._first

    def plain(self, value: Value) -> str:
        """Return the name of a tensor in the layout of our graph."""
        if value not in self._plain:
            if value.is_constant:
                self._plain[value] = self.constant(value.constant(), base_name(value))
            else:
                name = f"{base_name(value)}.nhwc"
                self._plain[value] = self.emit("Transpose", [self._first[value]], name, perm=list(TO_LAST))
        return self._plain[value]

    def first(self, value: Value) -> str:
        """Return the name of a 4-D tensor of ours with the channels last, moved to axis 1."""
        if value not in self._first:
            if value.is_constant:
                moved = value.constant().transpose(TO_FIRST)
                self._first[value] = self.constant(moved, f"{base_name(value)}.nchw")
            else:
                name = f"{base_name(value)}.nchw"
                self._first[value] = self.emit("Transpose", [self.plain(value)], name, perm=list(TO_FIRST))
        return self._first[value]


def base_name(value: Value) -> str:
    """Return the name of the real tensor that a tensor stands for."""
    return _SUFFIX.sub("", value.name) or value.name


def onnx_type(dtype: str) -> int:
    """Return ONNX's number of an element type."""
    from onnx import helper

    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def attributes_of(attrs: Any, names: Mapping[str, str]) -> dict[str, Any]:
    """Return ONNX attributes from ours, by the names they have there."""
    found = {theirs: getattr(attrs, ours) for ours, theirs in names.items()}
    return {k: list(v) if isinstance(v, tuple) else int(v) if isinstance(v, bool) else v for k, v in found.items()}
