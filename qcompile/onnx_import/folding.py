"""Operators whose results are known at import, and the evaluation of any operator on constants.

Shapes are static, so Shape and Size are constants, and with them the arithmetic that exporters write to compute
shapes at run time. Operators that qcompile has are folded through their own definition (`OnnxNode.add_many`); others,
which occur in such arithmetic only (ScatterND, Equal, Where, NonZero, …), through ONNX's reference
implementation, provided that all their inputs are constants.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx.shape_inference
from onnx import helper, numpy_helper

from qcompile.errors import ModelImportError
from qcompile.ir.graph import Value
from qcompile.ops.onnx_node import FOLDED_LIMIT, OnnxNode

_RANDOM = {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}


def _constant(node: OnnxNode) -> Value:
    for name in ("value", "sparse_value"):
        if name in node.attributes:
            return node.constant("value", node.attributes[name])
    scalars = {"value_float": "float32", "value_floats": "float32", "value_int": "int64", "value_ints": "int64"}
    for name, dtype in scalars.items():
        if name in node.attributes:
            return node.constant("value", node.attributes[name], dtype)
    return node.fail("it holds a string; only numbers are supported")


def _constant_of_shape(node: OnnxNode) -> Value:
    shape = tuple(int(d) for d in node.array(0, "shape"))
    fill = np.asarray(node.attr("value", np.zeros(1, np.float32)))
    if any(d < 0 for d in shape) or math.prod(shape) * fill.itemsize > FOLDED_LIMIT:
        node.fail(f"a constant of shape {list(shape)} cannot be made")
    constant = node.constant("value", np.full(shape, fill.reshape(-1)[0]))
    if node.open is not None:
        node.open.lead(constant, tuple(node.open.wanted(node.value(0), place) for place in range(len(shape))))
    return constant


def _shape(node: OnnxNode) -> Value:
    shape = node.type(0).shape
    rank = len(shape)
    start, end = int(node.attr("start", 0)), int(node.attr("end", rank))
    start = min(max(start + rank if start < 0 else start, 0), rank)
    end = min(max(end + rank if end < 0 else end, 0), rank)
    constant = node.constant("value", shape[start:end], "int64")
    if node.open is not None:
        node.open.shape(node.value(0), range(start, end), constant)
    return constant


def _size(node: OnnxNode) -> Value:
    return node.constant("value", node.type(0).size, "int64")


def _range(node: OnnxNode) -> Value:
    bounds = [node.value(index) for index in range(3)]
    if not all(value.is_constant for value in bounds):
        found: Value | None = node.loop.numbers(bounds) if node.loop is not None else None
        if found is not None:
            return found
        node.fail("how many numbers it makes depends on the data")
    start, limit, delta = (node.array(index, "bounds").reshape(()).item() for index in range(3))
    if not delta or not math.isfinite(limit - start) or (limit - start) / delta * 8 > FOLDED_LIMIT:
        node.fail(f"the numbers from {start} to {limit} in steps of {delta} cannot be made")
    constant = node.constant("value", np.arange(start, limit, delta), bounds[0].dtype)
    if node.open is not None:
        node.open.range(bounds, constant)
    return constant


CONSTANT_OPERATORS = {
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Range": _range,
    "Shape": _shape,
    "Size": _size,
}
"""Converters of the operators that are always constants, by ONNX name."""


def can_evaluate(node: Any) -> bool:
    """Return whether ONNX's reference implementation may stand in for a NodeProto with constant inputs.

    Args:
        node: not one with a subgraph, and not one whose result is random.
    """
    plain = all(
        a.type not in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) and not a.ref_attr_name
        for a in node.attribute
    )
    return plain and node.op_type not in _RANDOM and any(node.input)


def evaluate_reference(node: Any, inputs: Sequence[Value | None], opset: int) -> tuple[Any, ...] | None:
    """Compute a node on constants with ONNX's reference implementation.

    Args:
        node: a NodeProto of ONNX's default domain for which `can_evaluate` holds.
        inputs: its constant inputs; None for one left out.
        opset: version of the default operator set.

    Returns:
        One array per output, or None where the reference has no implementation or refuses the operands.
    """
    from onnx.reference import ReferenceEvaluator

    given = {name: value.constant() for name, value in zip(node.input, inputs, strict=True) if value is not None}
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    tensors = [numpy_helper.from_array(array, name) for name, array in given.items()]
    graph = helper.make_graph([node], "constant", [], outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    try:
        if _inferred_bytes(model) > FOLDED_LIMIT:
            return None
        with np.errstate(all="ignore"):
            results = ReferenceEvaluator(model).run(None, {})
    # The reference implementation raises whatever NumPy raises; either way the node is not a constant to us.
    except Exception:
        return None
    found = dict(zip([v.name for v in outputs], results, strict=True))
    arrays = tuple(found.get(name) for name in node.output)
    return arrays if all(isinstance(a, (np.ndarray, np.generic, type(None))) for a in arrays) else None


def _inferred_bytes(model: Any) -> int:
    """Return the size of a model's results as far as ONNX infers it, eight bytes an element.

    What it cannot infer (NonZero, Compress, Unique) is no larger than the operands.
    """
    outputs = onnx.shape_inference.infer_shapes(model, data_prop=True).graph.output
    return sum(8 * math.prod(d.dim_value for d in v.type.tensor_type.shape.dim) for v in outputs)


def attribute_values(node: Any, read: Any) -> dict[str, Any]:
    """Return a NodeProto's attributes as Python numbers, strings, lists and arrays.

    Args:
        node: without subgraphs.
        read: a `qcompile.onnx_import.tensors.TensorReader`.

    Raises:
        ModelImportError: a text attribute is not UTF-8.
    """
    return {a.name: _attribute(node, a, read) for a in node.attribute}


def _attribute(node: Any, attribute: Any, read: Any) -> Any:
    kinds = onnx.AttributeProto
    if attribute.type == kinds.TENSOR:
        return read.read(attribute.t)
    if attribute.type == kinds.SPARSE_TENSOR:
        return read.read_sparse(attribute.sparse_tensor)
    value = helper.get_attribute_value(attribute)
    try:
        if attribute.type == kinds.STRING:
            return value.decode("utf-8")
        if attribute.type == kinds.STRINGS:
            return [v.decode("utf-8") for v in value]
    except UnicodeDecodeError as error:
        raise ModelImportError(f"attribute '{attribute.name}' of node {node.name} is not text") from error
    return list(value) if attribute.type in (kinds.INTS, kinds.FLOATS) else value


__all__ = ["CONSTANT_OPERATORS", "attribute_values", "can_evaluate", "evaluate_reference"]
