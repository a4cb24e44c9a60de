"""Nodes inside nodes: the bodies of ONNX's function operators and of control flow, as plain nodes.

A function operator (RMSNormalization, Attention, MeanVarianceNormalization, …) is defined by other operators; one
that qcompile has no operation for is replaced by its definition. All names of a body get the node's label as a prefix,
so that they cannot meet those of the graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import onnx
from onnx import defs, helper

from qcompile.ir.graph import Value

_GRAPHS = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)


def has_definition(node: Any, opset: int) -> bool:
    """Return whether ONNX defines a NodeProto's operator by other operators.

    Args:
        node: of the default domain.
        opset: version of the default operator set.
    """
    if not defs.has(node.op_type, opset, ""):
        return False
    schema = defs.get_schema(node.op_type, opset, "")
    return bool(schema.has_function or schema.has_context_dependent_function)


def function_body(node: Any, inputs: Sequence[Value | None], label: str, opset: int) -> tuple[list[Any], int] | None:
    """Return the nodes that define a NodeProto, and the operator set they are written for.

    Args:
        node: one for which `has_definition` holds.
        inputs: its operands; their types choose among the definitions.
        label: prefix of the names of the body.
        opset: version of the model's default operator set.

    Returns:
        Nodes that read the node's inputs and make its outputs, or None where no definition fits.
    """
    function = _definition(node, inputs, opset)
    if function is None:
        return None
    names = dict(zip(function.input, node.input, strict=False))
    names.update(dict.fromkeys(function.input[len(node.input) :], ""))
    names.update({formal: actual for formal, actual in zip(function.output, node.output, strict=False) if actual})
    attributes = _attributes(node, function, opset)
    body = renamed(function.node, names, f"{label}/", attributes)
    version = next((o.version for o in function.opset_import if o.domain in ("", "ai.onnx")), opset)
    return body, int(version)


def _definition(node: Any, inputs: Sequence[Value | None], opset: int) -> Any:
    schema = defs.get_schema(node.op_type, opset, "")
    if schema.has_function:
        versions = [v for v in schema.function_opset_versions if v <= opset] or schema.function_opset_versions[:1]
        function = onnx.FunctionProto()
        function.ParseFromString(schema.get_function_with_opset_version(versions[-1]))
        return function
    types = [
        b"" if value is None else helper.make_tensor_type_proto(_onnx_type(value), value.shape).SerializeToString()
        for value in inputs
    ]
    versions = schema.context_dependent_function_opset_versions
    version = ([v for v in versions if v <= opset] or versions[:1])[-1]
    text = schema.get_context_dependent_function_with_opset_version(version, node.SerializeToString(), types)
    function = onnx.FunctionProto()
    function.ParseFromString(text)
    return function if function.node else None


def _onnx_type(value: Value) -> int:
    import numpy as np

    return int(helper.np_dtype_to_tensor_dtype(np.dtype(value.dtype)))


def _attributes(node: Any, function: Any, opset: int) -> dict[str, Any]:
    """Return what the body's references to attributes stand for: the node's own, else the defaults."""
    schema = defs.get_schema(node.op_type, opset, "")
    found = {a.name: a for a in function.attribute_proto}
    for name, attribute in schema.attributes.items():
        if attribute.default_value.name:
            found[name] = attribute.default_value
    found.update({a.name: a for a in node.attribute})
    return found


def renamed(
    nodes: Iterable[Any], names: Mapping[str, str], prefix: str, attributes: Mapping[str, Any] | None = None
) -> list[Any]:
    """Return copies of nodes under other names.

    Args:
        nodes: NodeProtos of one body.
        names: actual name of each formal input, output, or captured value; "" for one left out.
        prefix: of every other name that the body makes.
        attributes: what references to attributes stand for; None keeps them.
    """
    nodes = list(nodes)
    mapping = dict(names)
    for node in nodes:
        for name in node.output:
            if name and name not in mapping:
                mapping[name] = prefix + name
    return [_renamed_node(node, mapping, prefix, attributes, index) for index, node in enumerate(nodes)]


def _renamed_node(
    node: Any, mapping: Mapping[str, str], prefix: str, attributes: Mapping[str, Any] | None, index: int
) -> Any:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.name = f"{prefix}{node.name or f'{node.op_type}_{index}'}"
    del copy.input[:], copy.output[:], copy.attribute[:]
    copy.input.extend(mapping.get(name, name) for name in node.input)
    copy.output.extend(mapping.get(name, name) for name in node.output)
    for attribute in node.attribute:
        kept = _resolved(attribute, attributes)
        if kept is not None:
            copy.attribute.append(_renamed_attribute(kept, mapping, attributes))
    return copy


def _resolved(attribute: Any, attributes: Mapping[str, Any] | None) -> Any:
    """Return an attribute, or what it refers to under its own name; None where that is not given."""
    if not attribute.ref_attr_name or attributes is None:
        return attribute
    target = attributes.get(attribute.ref_attr_name)
    if target is None:
        return None
    copy = onnx.AttributeProto()
    copy.CopyFrom(target)
    copy.name = attribute.name
    return copy


def _renamed_attribute(attribute: Any, mapping: Mapping[str, str], attributes: Mapping[str, Any] | None) -> Any:
    if attribute.type not in _GRAPHS:
        return attribute
    copy = onnx.AttributeProto()
    copy.CopyFrom(attribute)
    for graph in [copy.g] if copy.type == onnx.AttributeProto.GRAPH else copy.graphs:
        own = {v.name for v in graph.input} | {t.name for t in graph.initializer}
        own |= {name for inner in graph.node for name in inner.output}
        # Captured names change; those that the subgraph makes itself hide them.
        captured = {old: new for old, new in mapping.items() if old not in own}
        local = {name: name for name in own}
        nodes = renamed(graph.node, {**captured, **local}, "", attributes)
        del graph.node[:]
        graph.node.extend(nodes)
        for value in graph.output:
            value.name = captured.get(value.name, value.name)
    return copy


def subgraph(node: Any, name: str) -> Any:
    """Return a GraphProto attribute of a node, None where it has none."""
    return next((a.g for a in node.attribute if a.name == name and a.type == onnx.AttributeProto.GRAPH), None)


def graph_body(
    graph: Any, inputs: Sequence[str], outputs: Sequence[str], prefix: str, shared: str
) -> tuple[list[Any], list[tuple[str, Any]]]:
    """Return the nodes of a subgraph with its inputs and outputs under the caller's names.

    Args:
        graph: GraphProto; may read names of the graph around it.
        inputs: actual name of each input.
        outputs: wanted name of each output; "" for one nobody reads.
        prefix: of every name in between.
        shared: prefix of the names of constants, the same for all copies of the body.

    Returns:
        The nodes, and (name, TensorProto) of its initializers.
    """
    names = dict(zip([v.name for v in graph.input], inputs, strict=False))
    constants = [(shared + t.name, t) for t in graph.initializer if t.name not in names]
    names.update({t.name: shared + t.name for t in graph.initializer if t.name not in names})
    nodes = renamed(graph.node, names, prefix)
    made = {name: prefix + name for node in graph.node for name in node.output if name}
    # An output may be an input, a captured value or another output as well: each gets a node of its own.
    for value, wanted in zip(graph.output, outputs, strict=False):
        if wanted:
            source = made.get(value.name, names.get(value.name, value.name))
            nodes.append(helper.make_node("Identity", [source], [wanted], name=f"{prefix}{value.name}.result"))
    return nodes, constants
