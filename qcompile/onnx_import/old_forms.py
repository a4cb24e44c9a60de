"""Operators as ONNX's operator sets 1 to 6 had them, brought into the form of set 7.

What changed up to set 7: element-wise operators broadcast when told to, from an axis on; shapes, types and
repetitions were attributes or text; operators carried hints about memory (`consumed_inputs`) and training (`is_test`);
and some were experimental, which others replace.

Source:
    ONNX Changelog.md, operator sets 1 to 7.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from qcompile.errors import ModelImportError
from qcompile.ops.onnx_node import OnnxNode

MODERN = 7
"""The first version whose operators broadcast as today's do."""

_BINARY = ("Add", "And", "Div", "Equal", "Greater", "Less", "Mul", "Or", "Pow", "Sub", "Xor")


def modernized(node: OnnxNode) -> OnnxNode:
    """Return the form that operator set 7 has for a node of an older one.

    Args:
        node: of any version; one of set 7 or later is returned as it is.

    Raises:
        UnsupportedOpError: its operands do not fit its attributes.
    """
    if node.opset >= MODERN:
        return node
    dropped = {name: node.attributes[name] for name in node.attributes if name not in ("consumed_inputs", "is_test")}
    node = replace(node, attributes=dropped)
    change = _CHANGES.get(node.op_type)
    return node if change is None else change(node)


def _changed(node: OnnxNode, inputs: list[Any] | None = None, **attributes: Any) -> OnnxNode:
    """Return a node with other inputs and some attributes set, or removed where None."""
    merged = {k: v for k, v in {**node.attributes, **attributes}.items() if v is not None}
    return replace(node, inputs=list(node.inputs) if inputs is None else inputs, attributes=merged)


def _broadcast(node: OnnxNode) -> OnnxNode:
    """Line the second operand up with the axis that the node names, as broadcasting from the last axis expects."""
    a, b = node.value(0), node.value(1)
    axis = node.attr("axis")
    if node.attr("broadcast", 0) and axis is not None and b.type.size > 1:
        first = int(axis) + (len(a.shape) if axis < 0 else 0)
        behind = len(a.shape) - first - len(b.shape)
        if first < 0 or behind < 0 or b.shape != a.shape[first : first + len(b.shape)]:
            node.fail(f"{b.type} does not fit {a.type} from axis {axis} on")
        b = node.add("reshape", [b], name=f"{node.outputs[0]}.aligned", shape=(*b.shape, *[1] * behind))
    return _changed(node, [a, b], broadcast=None, axis=None)


def _prelu(node: OnnxNode) -> OnnxNode:
    x, slope = node.value(0), node.value(1)
    if len(slope.shape) == 1 and slope.type.size > 1 and len(x.shape) > 2:
        shape = (slope.type.size, *[1] * (len(x.shape) - 2))
        slope = node.add("reshape", [slope], name=f"{node.outputs[0]}.slope", shape=shape)
    return _changed(node, [x, slope])


def _reshape(node: OnnxNode) -> OnnxNode:
    if "shape" not in node.attributes:
        return node
    return _changed(node, [node.value(0), node.constant("shape", node.attributes["shape"], "int64")], shape=None)


def _concat(node: OnnxNode) -> OnnxNode:
    return _changed(node, axis=node.attr("axis", 1))


def _pad(node: OnnxNode) -> OnnxNode:
    return _changed(node, pads=node.attr("pads", node.attr("paddings")), paddings=None)


def _split(node: OnnxNode) -> OnnxNode:
    if not node.has(1):
        return node
    parts = [int(size) for size in node.array(1, "the sizes of its parts").reshape(-1)]
    return _changed(node, [node.value(0)], split=parts)


def _cast(node: OnnxNode) -> OnnxNode:
    kind = node.attr("to")
    if isinstance(kind, (str, bytes)):
        text = kind.decode("utf-8", "replace") if isinstance(kind, bytes) else kind
        known = dict(TensorProto.DataType.items())
        if text.upper() not in known:
            node.fail(f"its type '{text}' is not one of ONNX's")
        kind = known[text.upper()]
    return _changed(node, to=kind)


def _tile(node: OnnxNode) -> OnnxNode:
    if not node.has(2):
        return node
    repeats = np.ones(len(node.type(0).shape), np.int64)
    axis = int(node.array(2, "its axis").reshape(-1)[0])
    if not -len(repeats) <= axis < len(repeats):
        node.fail(f"axis {axis} is out of range for {node.type(0)}")
    repeats[axis] = int(node.array(1, "its repetitions").reshape(-1)[0])
    return _changed(node, [node.value(0), node.constant("repeats", repeats)])


def _upsample(node: OnnxNode) -> OnnxNode:
    scales = node.attr("scales")
    if scales is None:
        scales = [1.0, 1.0, float(node.attr("height_scale", 1.0)), float(node.attr("width_scale", 1.0))]
    return _changed(node, scales=scales, height_scale=None, width_scale=None)


def _selu(node: OnnxNode) -> OnnxNode:
    return _changed(node, alpha=node.attr("alpha", 1.6732), gamma=node.attr("gamma", 1.0507))


_CHANGES: dict[str, Callable[[OnnxNode], OnnxNode]] = {
    **dict.fromkeys(_BINARY, _broadcast),
    "Cast": _cast,
    "Concat": _concat,
    "PRelu": _prelu,
    "Pad": _pad,
    "Reshape": _reshape,
    "Selu": _selu,
    "Split": _split,
    "Tile": _tile,
    "Upsample": _upsample,
}


# -- experimental operators ----------------------------------------------------------------------------------


def replace_experimental(graph: Any) -> None:
    """Replace operators that no later operator set has by others, in place.

    Args:
        graph: onnx.GraphProto of operator set 1 to 6.

    Raises:
        ModelImportError: such a node lacks an input or an attribute, or has one that does not fit.
    """
    taken = {name for node in graph.node for name in node.output} | {tensor.name for tensor in graph.initializer}
    nodes: list[Any] = []
    for node in graph.node:
        builder = _EXPERIMENTAL.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        try:
            nodes += [node] if builder is None else builder(_Chain(node, taken))
        except (LookupError, TypeError, ValueError) as error:
            problem = f"its attributes or inputs do not fit together ({error})"
            raise ModelImportError(f"node {node.name or 'unnamed'} ({node.op_type}): {problem}") from error
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


class _Chain:
    """Builds the nodes that stand for one.

    Args:
        node: the one.
        taken: names in use; those made here join them.
    """

    def __init__(self, node: Any, taken: set[str]) -> None:
        self.node, self.taken = node, taken
        self.nodes: list[Any] = []
        self.attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        self.last = node.input[0]

    def name(self, suffix: str) -> str:
        name = f"{self.node.output[0]}.{suffix}"
        while name in self.taken:
            name += "_"
        self.taken.add(name)
        return name

    def constant(self, suffix: str, data: Any) -> str:
        name = self.name(suffix)
        tensor = numpy_helper.from_array(np.asarray(data, np.float32), name)
        self.nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        return name

    def then(self, op: str, *operands: str, **attributes: Any) -> _Chain:
        """Apply an operator to the result so far."""
        result = self.name(op.lower())
        label = f"{self.node.name or self.node.op_type}.{op.lower()}"
        self.nodes.append(helper.make_node(op, [self.last, *operands], [result], name=label, **attributes))
        self.last = result
        return self

    def scaled(self, suffix: str, factor: float) -> _Chain:
        """Multiply the result so far by a number."""
        return self.then("Mul", self.constant(suffix, factor), broadcast=1)

    def finish(self) -> list[Any]:
        """Return the nodes; the last gives the result of the one they stand for."""
        self.nodes[-1].output[0] = self.node.output[0]
        return self.nodes


def _affine(chain: _Chain) -> list[Any]:
    get = chain.attributes.get
    chain.scaled("alpha", get("alpha", 1.0))
    return chain.then("Add", chain.constant("beta", get("beta", 0.0)), broadcast=1).finish()


def _image_scaler(chain: _Chain) -> list[Any]:
    get = chain.attributes.get
    chain.scaled("scale", get("scale", 1.0))
    bias = np.asarray(get("bias", [0.0]), np.float32)
    return chain.then("Add", chain.constant("bias", bias), broadcast=1, axis=1).finish()


def _crop(chain: _Chain) -> list[Any]:
    left, top, right, bottom = (int(v) for v in chain.attributes["border"])
    extents = chain.attributes.get("scale")
    ends = [top + int(extents[0]), left + int(extents[1])] if extents else [-bottom or 2**31 - 1, -right or 2**31 - 1]
    return chain.then("Slice", axes=[2, 3], starts=[top, left], ends=ends).finish()


def _parametric_softplus(chain: _Chain) -> list[Any]:
    get = chain.attributes.get
    return chain.scaled("beta", get("beta", 1.0)).then("Softplus").scaled("alpha", get("alpha", 1.0)).finish()


def _scaled_tanh(chain: _Chain) -> list[Any]:
    get = chain.attributes.get
    return chain.scaled("beta", get("beta", 1.0)).then("Tanh").scaled("alpha", get("alpha", 1.0)).finish()


def _scale(chain: _Chain) -> list[Any]:
    return chain.scaled("scale", chain.attributes.get("scale", 1.0)).finish()


_EXPERIMENTAL: dict[str, Callable[[_Chain], list[Any]]] = {
    "Affine": _affine,
    "Crop": _crop,
    "ImageScaler": _image_scaler,
    "ParametricSoftplus": _parametric_softplus,
    "Scale": _scale,
    "ScaledTanh": _scaled_tanh,
}
