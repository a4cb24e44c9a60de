"""ONNX nodes to IR nodes, one by one, with everything that is constant folded on the way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from qcompile.errors import InternalError, ModelImportError, UnsupportedOpError
from qcompile.ir.graph import Graph, Value
from qcompile.ir.rewrite import Rewriter
from qcompile.ir.symbol import Symbol
from qcompile.ir.verify import verify
from qcompile.onnx_graph import needed, reads
from qcompile.onnx_import.bodies import Host
from qcompile.onnx_import.check import prepare
from qcompile.onnx_import.control_flow import CONTROL_FLOW, expand_control_flow
from qcompile.onnx_import.counted import Counts
from qcompile.onnx_import.counted_forms import counted_form
from qcompile.onnx_import.definitions import definition, foreign_operators, own_operators
from qcompile.onnx_import.folding import attribute_values, can_evaluate, evaluate_reference
from qcompile.onnx_import.inline import function_body, has_definition
from qcompile.onnx_import.load import Model
from qcompile.onnx_import.old_forms import modernized
from qcompile.onnx_import.open_shapes import OpenShapes, open_shapes
from qcompile.onnx_import.operands import operand_problem
from qcompile.onnx_import.sequences import OPERATORS as SEQUENCE_OPERATORS
from qcompile.onnx_import.sequences import Tensors, convert_sequence
from qcompile.onnx_import.shapes import resolve_inputs
from qcompile.onnx_import.support import DEFAULT_DOMAINS, converters, is_supported, qualified, report_unsupported
from qcompile.onnx_import.tensors import CONVERTED, MARKED, TensorReader, element_name
from qcompile.ops.onnx_node import OnnxNode


def convert_model(
    model: Model,
    input_shapes: Mapping[str, tuple[int, ...]],
    symbols: Sequence[Symbol] = (),
    *,
    keeps_loops: bool = True,
) -> Graph:
    """Check a model and turn it into a graph.

    Args:
        model: as read; changed by the checks (order, inlining).
        input_shapes: extents by input name.
        symbols: open extents among them, whose largest values the shapes have.
        keeps_loops: whether loops stay loops that could be unrolled, but are not short.

    Raises:
        ModelImportError: the model is not valid.
        UnsupportedOpError: it uses what qcompile does not have.
        UsageError: `input_shapes` does not fit.
    """
    opset = prepare(model)
    try:
        return _converted(model, opset, input_shapes, symbols, keeps_loops)
    except ModelImportError as error:
        if model.clashes and error.hint is None:
            error.hint = f"axes of the same name usually have the same extent: {model.clashes[0]}"
        raise


def _converted(
    model: Model,
    opset: int,
    input_shapes: Mapping[str, tuple[int, ...]],
    symbols: Sequence[Symbol],
    keeps_loops: bool,
) -> Graph:
    notes = list(model.notes)
    conversion = _Conversion(model, opset, keeps_loops=keeps_loops)
    try:
        return conversion.run(input_shapes, symbols)
    except UnsupportedOpError:
        if not keeps_loops or not any(node.op.region for node in conversion.graph.nodes):
            raise
    # What a loop cannot do, such as to change a type from one iteration to the next, its copies may.
    model.notes[:] = notes
    return _Conversion(model, opset, keeps_loops=False).run(input_shapes, symbols)


@dataclass(frozen=True)
class _Unavailable:
    """Stands for a tensor that could not be converted.

    Args:
        reason: why, where that is not reported yet: it becomes an error only if the tensor is read.
    """

    reason: str | None


class _Conversion:
    def __init__(self, model: Model, opset: int, *, keeps_loops: bool) -> None:
        self.model = model
        self.opset = opset
        self.keeps_loops = keeps_loops
        self.graph = Graph(model.name)
        self.reader = TensorReader(model)
        self.environment: dict[str, Value | Tensors | _Unavailable] = {}
        self.missing: list[Any] = []
        self.problems: list[UnsupportedOpError] = []
        self.narrow: dict[str, str] = {}
        self.open: OpenShapes | None = None
        self.loops: list[Any] = []
        self.counted = Counts(self.graph)

    def run(self, input_shapes: Mapping[str, tuple[int, ...]], symbols: Sequence[Symbol]) -> Graph:
        proto = self.model.proto.graph
        nodes = needed(proto.node, {v.name for v in proto.output})
        tensors = {t.name: t for t in proto.initializer}
        sparse = {s.values.name: s for s in proto.sparse_initializer}
        inputs = [v for v in proto.input if v.name not in tensors and v.name not in sparse]
        for name, type in resolve_inputs(self.model, inputs, input_shapes).items():
            value = self.graph.add_input(name, type)
            # Whatever such an input holds is known: nothing.
            empty = None if type.size else self.graph.add_constant(f"{name}.empty", np.zeros(type.shape, type.dtype))
            self.environment[name] = empty or value
        self.open = open_shapes(self.graph, symbols)
        for name, number in [
            *((t.name, t.data_type) for t in proto.initializer),
            *((v.name, v.type.tensor_type.elem_type) for v in inputs),
        ]:
            if element_name(number) in MARKED:
                self.narrow[name] = element_name(number)
        read = {name for node in nodes for name in reads(node)} | {v.name for v in proto.output}
        for name, tensor in tensors.items():
            if name in read:
                self.environment[name] = self.graph.add_constant(name, self.reader.read(tensor))
        for name, entry in sparse.items():
            if name in read:
                self.environment[name] = self.graph.add_constant(name, self.reader.read_sparse(entry))
        taken = {node.name for node in proto.node}
        position = {id(node): index for index, node in enumerate(proto.node)}
        seen: set[str] = set()
        for node in nodes:
            name = _unique_label(node, position[id(node)], seen, taken)
            self._convert(node, name)
        self._report()
        self._finish([v.name for v in proto.output])
        return self.graph

    # -- one node -----------------------------------------------------------------------------------------

    def _convert(self, node: Any, label: str) -> None:
        operands = [self._operand(name, node, label) for name in node.input]
        lost = [o for o in operands if isinstance(o, _Unavailable)]
        if lost:
            self._blame(lost, node, label)
            return
        own = node.domain in DEFAULT_DOMAINS
        if self._is_of_sequences(node, operands):
            self._convert_sequence(node, operands, label)
            return
        values: list[Any] = [o for o in operands if not isinstance(o, _Unavailable)]
        results: tuple[Value | Tensors | None, ...] | None
        problem = operand_problem(node, values, self.opset) if own and node.op_type not in CONTROL_FLOW else None
        if problem is not None:
            results = None
            self.problems.append(UnsupportedOpError(f"node {label} ({node.op_type}): {problem}", loc=self.model.source))
        elif self._define(node, label, values):
            return
        elif own and node.op_type in CONTROL_FLOW:
            try:
                with self._sensible(node, label):
                    results = expand_control_flow(node, self._view(node, label, values), self._host())
            except UnsupportedOpError as error:
                results = None
                self.problems.append(error)
        elif not is_supported(node) and counted_form(self.counted, qualified(node), values) is None:
            results = self._evaluate(node, values)
            if results is None and self._expand(node, label, values):
                return
            if results is None:
                node.name = label
                self.missing.append(node)
        else:
            try:
                results = self._apply(node, label, values)
            except UnsupportedOpError as error:
                results = None
                self.problems.append(error)
        self._bind(node, label, results)

    def _is_of_sequences(self, node: Any, operands: Sequence[Any]) -> bool:
        """Return whether a node reads or makes a sequence, except for a loop that carries one."""
        if node.domain not in DEFAULT_DOMAINS or node.op_type == "Loop":
            return False
        return node.op_type in SEQUENCE_OPERATORS or any(isinstance(operand, Tensors) for operand in operands)

    def _convert_sequence(self, node: Any, operands: Sequence[Any], label: str) -> None:
        view = self._view(node, label, [None if isinstance(o, Tensors) else o for o in operands])
        results: tuple[Value | Tensors | None, ...] | None = None
        try:
            if node.op_type not in (*SEQUENCE_OPERATORS, "Identity"):
                view.fail("it reads a sequence")
            with self._sensible(node, label):
                results = (convert_sequence(view, operands),)
        except UnsupportedOpError as error:
            self.problems.append(error)
        self._bind(node, label, results)

    def _operand(self, name: str, node: Any, label: str) -> Value | Tensors | _Unavailable | None:
        if not name:
            return None
        if name not in self.environment:
            # The checks saw to it for the graph itself; bodies of control flow are read here only.
            problem = f"it reads '{name}', which nothing defines"
            self.environment[name] = _Unavailable(f"node {label} ({node.op_type}): {problem}")
        return self.environment[name]

    def _view(self, node: Any, label: str, values: list[Value | None]) -> OnnxNode:
        attributes = attribute_values(node, self.reader)
        for attribute in node.attribute:
            # Constants hold their type in an attribute; what passes a tensor on keeps it.
            if node.op_type == "Constant" and element_name(attribute.t.data_type) in MARKED:
                self.narrow[node.output[0]] = element_name(attribute.t.data_type)
        if node.op_type in _PASSES_ON and node.input[0] in self.narrow:
            self.narrow[node.output[0]] = self.narrow[node.input[0]]
        names = [node.output[0] or label, *node.output[1:]]
        while len(names) > 1 and not names[-1]:
            names.pop()
        narrow = [self.narrow.get(name, "") for name in node.input]
        loop = self.loops[-1] if self.loops else None
        origin = (self.opset, self.model.source, narrow, self.open, self.counted, loop, self.keeps_loops)
        return OnnxNode(self.graph, node.op_type, label, values, attributes, names, *origin)

    def _host(self) -> Host:
        def look_up(name: str) -> Any:
            value = self.environment.get(name)
            return None if isinstance(value, _Unavailable) else value

        return Host(self.environment.__setitem__, look_up, self._convert_body, self.reader.read, self.loops)

    def _convert_body(self, nodes: Sequence[Any]) -> None:
        """Convert nodes that stand for another one."""
        for node in nodes:
            self._convert(node, node.name)

    def _define(self, node: Any, label: str, values: list[Value | None]) -> bool:
        """Convert a node by our definition of it; return whether there is one."""
        try:
            found = definition(node, values, label)
        except UnsupportedOpError as error:
            self.problems.append(UnsupportedOpError(error.message, loc=self.model.source))
            self._bind(node, label, None)
            return True
        return found is not None and self._convert_definition(node, *found)

    def _expand(self, node: Any, label: str, values: list[Value | None]) -> bool:
        """Convert the definition of a node whose operator ONNX defines by others; return whether it has one."""
        if node.domain not in DEFAULT_DOMAINS or not has_definition(node, self.opset):
            return False
        found = function_body(node, values, label, self.opset)
        return found is not None and self._convert_definition(node, *found)

    def _convert_definition(self, node: Any, body: Sequence[Any], version: int) -> bool:
        """Convert the nodes that stand for another one; return False where they do not make its outputs."""
        if not {name for inner in body for name in inner.output} >= {name for name in node.output if name}:
            # The definition depends on attributes, and those of this node define nothing.
            return False
        outer, self.opset = self.opset, version
        try:
            self._convert_body(needed(body, {name for name in node.output if name}))
        finally:
            self.opset = outer
        return True

    def _apply(self, node: Any, label: str, values: list[Value | None]) -> tuple[Value | None, ...]:
        view = self._view(node, label, values)
        with self._sensible(node, label):
            view = modernized(view)
            form = counted_form(self.counted, qualified(node), values)
            result = (form or converters()[qualified(node)])(view)
        results = result if isinstance(result, tuple) else (result,)
        if form is None:
            self._check_counted(view, results)
        return results

    @contextmanager
    def _sensible(self, node: Any, label: str) -> Iterator[None]:
        """Say of a node that cannot be converted because it makes no sense that it does not."""
        try:
            yield
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            # Attributes or constants that no valid model has; the checker does not look at their values.
            problem = f"its attributes or inputs do not fit together ({error})"
            raise UnsupportedOpError(f"node {label} ({node.op_type}): {problem}", loc=self.model.source) from error
        except MemoryError as error:
            problem = "its attributes ask for more memory than there is"
            raise UnsupportedOpError(f"node {label} ({node.op_type}): {problem}", loc=self.model.source) from error

    def _check_counted(self, view: OnnxNode, results: tuple[Value | None, ...]) -> None:
        """Refuse a node that makes a constant of the largest shape that an operand may have."""
        counted = any(value is not None and any(self.counted.axes(value)) for value in view.inputs)
        if counted and any(value is not None and value.is_constant and value.type.size > 1 for value in results):
            view.fail("the data decide an extent of its operand, and its result follows from the shape alone")

    def _evaluate(self, node: Any, values: list[Value | None]) -> tuple[Value | None, ...] | None:
        """Fold a node that qcompile cannot convert but whose inputs are all constants."""
        known = all(v is None or v.is_constant for v in values)
        if not known or node.domain not in DEFAULT_DOMAINS or not can_evaluate(node):
            return None
        arrays = evaluate_reference(node, values, self.opset)
        if arrays is None:
            return None
        return tuple(
            None if array is None else self.graph.add_constant(name, self.reader.from_numpy(name, array))
            for name, array in zip(node.output, arrays, strict=True)
        )

    def _bind(self, node: Any, label: str, results: tuple[Value | Tensors | None, ...] | None) -> None:
        for index, name in enumerate(node.output):
            if not name:
                continue
            if results is None:
                self.environment[name] = _Unavailable(None)
                continue
            value = results[index] if index < len(results) else None
            if value is not None:
                self.environment[name] = value
            else:
                problem = f"its output {index} ('{name}') is not supported"
                self.environment[name] = _Unavailable(f"node {label} ({node.op_type}): {problem}")

    def _blame(self, lost: list[_Unavailable], node: Any, label: str) -> None:
        """Pass on that operands are lost; name the node too if qcompile could not convert it anyway."""
        for operand in lost:
            self._complain(operand)
        other = (*own_operators(), *foreign_operators(), *CONTROL_FLOW, *SEQUENCE_OPERATORS)
        known = qualified(node) in other or has_definition(node, self.opset)
        if not is_supported(node) and not known:
            node.name = label
            self.missing.append(node)
        self._bind(node, label, None)

    def _complain(self, operand: _Unavailable) -> None:
        known = {error.message for error in self.problems}
        if operand.reason is not None and operand.reason not in known:
            self.problems.append(UnsupportedOpError(operand.reason, loc=self.model.source))

    # -- the end ------------------------------------------------------------------------------------------

    def _report(self) -> None:
        """Raise what was found, all at once."""
        for output in self.model.proto.graph.output:
            value = self.environment[output.name]
            if isinstance(value, Tensors):
                value = _Unavailable(f"output '{output.name}' of the model is a sequence")
            if isinstance(value, _Unavailable):
                self._complain(value)
        if not self.missing and not self.problems:
            return
        if not self.missing and len(self.problems) == 1:
            raise self.problems[0]
        report_unsupported(self.model, self.missing, [str(error) for error in self.problems])

    def _finish(self, names: list[str]) -> None:
        outputs = [self.environment[name] for name in names]
        values = [value for value in outputs if isinstance(value, Value)]
        if len(values) != len(names):
            raise InternalError(f"an output of {self.model.source} was lost without a report")
        self.graph.set_outputs(values, names)
        self.counted.finish()
        for output in self.model.proto.graph.output:
            kind = element_name(output.type.tensor_type.elem_type)
            if kind in CONVERTED:
                note = f"output '{output.name}' is {CONVERTED[kind]} in the model and float32 here"
                self.model.notes.append(note)
        Rewriter(self.graph).eliminate_dead()
        self.graph.notes += [*self.model.notes, *self.reader.notes()]
        verify(self.graph)


_PASSES_ON = ("Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Gather", "Expand")


def _unique_label(node: Any, index: int, seen: set[str], taken: set[str]) -> str:
    """Return the node's name, or one made of its operator and position where it has none of its own."""
    label = str(node.name)
    if not label or label in seen:
        label = f"{qualified(node)}_{index}"
        while label in seen or label in taken:
            label += "_"
    seen.add(label)
    return label
