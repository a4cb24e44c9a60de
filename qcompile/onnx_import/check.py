"""Checks a model before conversion: versions, structure, ONNX's own rules; inlines its local functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import onnx
from onnx import checker, defs, inliner

from qcompile.errors import ModelImportError
from qcompile.onnx_graph import reads, with_nested
from qcompile.onnx_import.definitions import INTERNAL, RUNTIME
from qcompile.onnx_import.load import Model
from qcompile.onnx_import.old_forms import MODERN, replace_experimental
from qcompile.onnx_import.plain_outputs import make_outputs_plain
from qcompile.onnx_import.support import DEFAULT_DOMAINS, is_supported, report_unsupported
from qcompile.onnx_import.tensors import has_external_data

OLDEST_OPSET = 1


def prepare(model: Model) -> int:
    """Check a model, bring its nodes into order and inline its functions, in place.

    Args:
        model: as read.

    Returns:
        The version of the default operator set.

    Raises:
        ModelImportError: the model is not valid.
        UnsupportedOpError: it uses operators that ONNX does not know either.
    """
    opset = _opset(model)
    _check_names(model)
    if opset < MODERN:
        replace_experimental(model.proto.graph)
    _sort_nodes(model)
    make_outputs_plain(model)
    _correct_domains(model)
    _refuse_unknown_operators(model, opset)
    _check_onnx(model)
    _inline_functions(model)
    return opset


def _opset(model: Model) -> int:
    newest = defs.onnx_opset_version()
    versions = [o.version for o in model.proto.opset_import if o.domain in DEFAULT_DOMAINS]
    if not versions and 0 < model.proto.ir_version < 3:
        return OLDEST_OPSET  # Files of that age cannot say.
    if not versions and not any(node.domain in DEFAULT_DOMAINS for node in model.proto.graph.node):
        # Linear models of scikit-learn have nodes of another domain only.
        versions = [defs.onnx_opset_version()]
        model.proto.opset_import.append(onnx.helper.make_opsetid("", versions[0]))
    if not versions:
        raise ModelImportError(f"{model.source} does not say which ONNX operator set it uses")
    version = int(versions[0])
    if version < OLDEST_OPSET:
        raise ModelImportError(
            f"{model.source} uses ONNX operator set {version}; qcompile reads {OLDEST_OPSET} to {newest}",
            hint="export it again",
        )
    if version > newest:
        raise ModelImportError(
            f"{model.source} uses ONNX operator set {version}, newer than the installed onnx {onnx.__version__}, "
            f"which knows up to {newest}",
            hint="pip install --upgrade onnx, or export the model with an older opset",
        )
    return version


def _defined(graph: Any) -> Iterable[tuple[str, str]]:
    """Iterate over the names that a graph defines and what defines each, inputs last."""
    for tensor in graph.initializer:
        yield tensor.name, "an initializer"
    for sparse in graph.sparse_initializer:
        yield sparse.values.name, "a sparse initializer"
    for index, node in enumerate(graph.node):
        for name in node.output:
            if name:
                yield name, f"node {node.name or f'{node.op_type}_{index}'}"


def _check_names(model: Model) -> None:
    """Refuse names that are defined twice, read but not defined, or empty where they must not be."""
    graph = model.proto.graph
    defined: dict[str, str] = {}
    inputs = _distinct(model, graph.input, "inputs")
    for name, where in _defined(graph):
        if name in defined:
            raise ModelImportError(f"{model.source} defines tensor '{name}' twice: {defined[name]} and {where}")
        if name in inputs and where.startswith("node"):
            raise ModelImportError(f"{model.source} defines tensor '{name}' twice: an input and {where}")
        defined[name] = where
    known = defined.keys() | inputs
    for index, node in enumerate(graph.node):
        for name in node.input:
            if name and name not in known:
                label = node.name or f"{node.op_type}_{index}"
                raise ModelImportError(
                    f"node {label} ({node.op_type}) of {model.source} reads '{name}', which nothing defines"
                )
    outputs = _distinct(model, graph.output, "outputs")
    if not outputs:
        raise ModelImportError(f"{model.source} has no outputs")
    for name in sorted(outputs - known):
        raise ModelImportError(f"output '{name}' of {model.source} is computed by no node")


def _distinct(model: Model, values: Sequence[Any], what: str) -> set[str]:
    """Return the names of inputs or outputs, which must differ."""
    twice = [name for name, count in Counter(v.name for v in values).items() if count > 1]
    if twice:
        raise ModelImportError(f"{model.source} has two {what} named '{twice[0]}'")
    return {v.name for v in values}


def _sort_nodes(model: Model) -> None:
    """Bring the nodes into topological order, keeping the given order where it is one."""
    import networkx as nx

    nodes = model.proto.graph.node
    producer = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    view: nx.DiGraph[int] = nx.DiGraph()
    view.add_nodes_from(range(len(nodes)))
    for index, node in enumerate(nodes):
        view.add_edges_from((producer[name], index) for name in reads(node) if name in producer)
    if all(source < target for source, target in view.edges):
        return
    try:
        order = list(nx.lexicographical_topological_sort(view))
    except nx.NetworkXUnfeasible as error:
        cycle = [nodes[a] for a, _ in nx.find_cycle(view)]
        names = " → ".join(n.name or n.op_type for n in [*cycle, cycle[0]])
        raise ModelImportError(f"the graph of {model.source} has a cycle: {names}") from error
    ordered = [onnx.NodeProto.FromString(nodes[index].SerializeToString()) for index in order]
    del nodes[:]
    nodes.extend(ordered)
    model.notes.append("the nodes of the model were not in topological order and were sorted")


def _correct_domains(model: Model) -> None:
    """Give operators of ONNX Runtime's own their domain, and declare it, which its optimizer omits."""
    for node in model.proto.graph.node:
        if node.domain in DEFAULT_DOMAINS and node.op_type in INTERNAL:
            node.domain = RUNTIME
    declared = {entry.domain for entry in model.proto.opset_import}
    if RUNTIME not in declared and any(node.domain == RUNTIME for node in model.proto.graph.node):
        model.proto.opset_import.append(onnx.helper.make_opsetid(RUNTIME, 1))


def _refuse_unknown_operators(model: Model, opset: int) -> None:
    """Report operators that ONNX's checker would stop at one by one."""
    functions = {(f.domain, f.name) for f in model.proto.functions}
    unknown = [
        node
        for node in model.proto.graph.node
        if node.domain in DEFAULT_DOMAINS
        and (node.domain, node.op_type) not in functions
        and not defs.has(node.op_type, opset, "")
    ]
    early = [node for node in unknown if is_supported(node)]
    if len(early) < len(unknown):
        report_unsupported(model, [n for n in model.proto.graph.node if (n.domain, n.op_type) not in functions])
    if early:
        node = early[0]
        since = min(s.since_version for s in defs.get_all_schemas_with_history() if s.name == node.op_type)
        raise ModelImportError(
            f"node {node.name or 'unnamed'} of {model.source} is a {node.op_type}, which ONNX has since operator set "
            f"{since}; the model says that it uses {opset}",
            hint="export it again with a newer opset, or correct its opset_import",
        )


def _check_onnx(model: Model) -> None:
    """Run ONNX's own checker."""
    subject = model.proto
    if has_external_data(model.proto):
        # Given a proto, the checker looks for side files in the current directory; given a path, it refuses what
        # we have just repaired. It sees empty stand-ins instead: the tensor reader checks the files themselves.
        subject = onnx.ModelProto()
        subject.CopyFrom(model.proto)
        for tensor in subject.graph.initializer:
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                tensor.CopyFrom(onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=[0]))
    shapeless = _shapeless(subject.graph)
    for tensor_type in shapeless:
        tensor_type.shape.SetInParent()
    try:
        checker.check_model(subject)
    except (checker.ValidationError, ValueError) as error:
        text = " ".join(str(error).split())
        raise ModelImportError(f"{model.source} is not a valid ONNX model: {text}") from error
    finally:
        for tensor_type in shapeless:
            tensor_type.ClearField("shape")


def _shapeless(graph: Any) -> list[Any]:
    """Return the types of inputs and outputs without a shape: the checker refuses them, runtimes take them."""
    types = [value.type for value in (*graph.input, *graph.output)]
    found = [t.tensor_type for t in types if t.WhichOneof("value") == "tensor_type"]
    return [t for t in found if not t.HasField("shape")]


def _inline_functions(model: Model) -> None:
    if not model.proto.functions:
        return
    _give_defaults(model.proto)
    try:
        model.proto = inliner.inline_local_functions(model.proto, convert_version=True)
    except (RuntimeError, ValueError) as error:
        text = " ".join(str(error).split())
        raise ModelImportError(f"the local functions of {model.source} cannot be inlined: {text}") from error
    _sort_nodes(model)


def _give_defaults(proto: Any) -> None:
    """Write the default attributes of local functions into their calls, since ONNX's inliner forgets them."""
    defaults = {(f.domain, f.name, f.overload): f.attribute_proto for f in proto.functions}
    bodies = [proto.graph.node, *(function.node for function in proto.functions)]
    for node in (node for body in bodies for node in with_nested(body)):
        given = {attribute.name for attribute in node.attribute}
        absent = defaults.get((node.domain, node.op_type, node.overload), ())
        node.attribute.extend(attribute for attribute in absent if attribute.name not in given)
