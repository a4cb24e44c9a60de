"""The verifier: every invariant of the IR, checked after each pass."""

from __future__ import annotations

from qcompile.errors import InternalError
from qcompile.ir.graph import Graph, Node, Value
from qcompile.ir.opdef import Quantization
from qcompile.ir.regions import verify_regions
from qcompile.ir.types import DTYPES


def verify(graph: Graph) -> None:
    """Check that a graph is well formed.

    Invariants: names are unique; constants hold what their types say; every operand is an input, a constant or the
    result of an earlier node; uses and producers agree with the nodes; types are those the operation infers;
    QParams fit dtype and shape; SHARED operations keep the grid of operand 0; loops are closed and leak nothing;
    the operation's own check passes.

    Args:
        graph: read only.

    Raises:
        InternalError: the first invariant that does not hold, with the node and value.
    """
    known: set[Value] = set(graph.inputs)
    names: dict[str, Value] = {}
    for value in graph.values():
        if names.setdefault(value.name, value) is not value:
            raise InternalError(f"two values are named {value.name}")
        data = value.data
        if data is not None and (data.dtype != DTYPES[value.dtype] or data.shape != value.shape):
            raise InternalError(f"constant {value.name} is {value.type}, its data are {data.dtype} {list(data.shape)}")
    for node in graph.nodes:
        _verify_operands(node, known)
        _verify_results(node, known)
        _verify_quantization(node)
        try:
            node.op.check(node)
        except ValueError as error:
            raise InternalError(f"{node}: {error}") from error
    for output in graph.outputs:
        if output not in known and not output.is_constant:
            raise InternalError(f"graph output {output.name} is not computed")
    if len(graph.output_names) != len(graph.outputs) or len(set(graph.output_names)) != len(graph.output_names):
        raise InternalError(f"graph outputs {graph.output_names} are not named one by one")
    _verify_states(graph)
    _verify_counted(graph)
    verify_regions(graph)
    _verify_uses(graph)


def _verify_states(graph: Graph) -> None:
    for state in graph.states:
        inputs = [v for v in graph.inputs if v.name == state.input]
        outputs = [v for n, v in zip(graph.output_names, graph.outputs, strict=True) if n == state.output]
        if not inputs or not outputs:
            raise InternalError(f"state {state.input} has lost its input or its output {state.output}")
        before, after = inputs[0], outputs[0]
        if before.type != after.type or before.qparams != after.qparams:
            raise InternalError(f"state {state.input} is {before.type}, but its output {state.output} {after.type}")


def _verify_counted(graph: Graph) -> None:
    outputs = dict(zip(graph.output_names, graph.outputs, strict=True))
    for entry in graph.counted:
        if entry.output not in outputs or entry.count not in outputs:
            raise InternalError(f"output {entry.output} or its extent {entry.count} is lost")
        value, count = outputs[entry.output], outputs[entry.count]
        if not 0 <= entry.axis < len(value.shape) or (count.dtype, count.shape) != ("int64", (1,)):
            raise InternalError(f"{count.type} does not count axis {entry.axis} of {value.type}")


def _verify_operands(node: Node, known: set[Value]) -> None:
    for index, value in enumerate(node.inputs):
        if value not in known and not value.is_constant:
            raise InternalError(f"{node}: operand {index} ({value.name}) is not computed before it is read")
        if (node, index) not in value.uses:
            raise InternalError(f"{node}: {value.name} does not list operand {index} among its uses")


def _verify_results(node: Node, known: set[Value]) -> None:
    for value in node.outputs:
        if value.producer is not node:
            raise InternalError(f"{node}: {value.name} names {value.producer} as its producer")
        if value in known or value.is_constant:
            raise InternalError(f"{node}: {value.name} is defined twice")
        known.add(value)
    try:
        # Integers stand for reals: an operation's rule about element types is one about what they mean.
        meant = [v.type if v.qparams is None else v.type.with_dtype("float32") for v in node.inputs]
        inferred = node.op.infer(node.attrs, meant)
    except ValueError as error:
        raise InternalError(f"{node}: {error}") from error
    actual = tuple(v.type for v in node.outputs)
    quantized = any(v.qparams is not None for v in (*node.inputs, *node.outputs))
    # On quantized tensors the element type follows from QParams; the shape is still the operation's.
    same = [i.shape for i in inferred] == [a.shape for a in actual] if quantized else inferred == actual
    if not same:
        raise InternalError(f"{node}: results are {_types(actual)}, the operation gives {_types(inferred)}")


def _types(types: tuple[object, ...]) -> str:
    return ", ".join(str(t) for t in types)


def _verify_quantization(node: Node) -> None:
    for value in (*node.inputs, *node.outputs):
        qparams = value.qparams
        if qparams is None:
            continue
        if value.dtype != qparams.dtype:
            raise InternalError(f"{node}: {value.name} is {value.dtype}, its QParams say {qparams.dtype}")
        if qparams.axis is not None and not 0 <= qparams.axis < len(value.shape):
            axis = f"axis {qparams.axis}, which does not exist"
            raise InternalError(f"{node}: {value.name} has {len(qparams.scale)} scales on {axis}")
        if qparams.axis is not None and value.shape[qparams.axis] != len(qparams.scale):
            raise InternalError(
                f"{node}: {value.name} has {len(qparams.scale)} scales on an axis of {value.shape[qparams.axis]}"
            )
    if node.op.integer is Quantization.SHARED and node.is_integer:
        source = node.inputs[0].qparams
        for value in node.outputs:
            if source is None or value.qparams is None or not value.qparams.same_grid(source):
                raise InternalError(f"{node}: {value.name} must have the QParams of {node.inputs[0].name}")


def _verify_uses(graph: Graph) -> None:
    present = set(graph.nodes)
    for value in graph.values():
        for user, index in value.uses:
            if user not in present or index >= len(user.inputs) or user.inputs[index] is not value:
                raise InternalError(f"{value.name} lists a use by {user} that does not exist")
