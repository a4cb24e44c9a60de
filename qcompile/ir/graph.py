"""The graph: values in SSA form, nodes in topological order, one level deep.

Only `qcompile.ir.rewrite.Rewriter` and builders change a graph; everybody else reads it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from qcompile.errors import InternalError
from qcompile.ir.counted import CountedAxis
from qcompile.ir.state import State
from qcompile.ir.symbol import Extent, Symbol
from qcompile.ir.types import TensorType

if TYPE_CHECKING:
    import networkx as nx

    from qcompile.ir.opdef import OpDef
    from qcompile.quant.qparams import QParams, QSpec


class Value:
    """One tensor: an input, a constant or the result of a node.

    Args:
        name: unique within the graph.
        type: element type and shape.
        data: contents of a constant (made read-only), None otherwise.

    Attributes:
        producer: the node that computes it, None for inputs and constants.
        uses: (node, operand index) pairs, in the order they were made.
        qspec: the quantization asked for, None where none is.
        qparams: the quantization it has, None for a real-valued tensor.
        stats: (mean, standard deviation) per channel known from a folded BatchNorm, real units, or None.
        steps: of a constant that a quantized model stores as integers, the scale of each element, in a shape that
            broadcasts to its own, real units per LSB; None for any other value.
    """

    __slots__ = ("_content", "data", "name", "producer", "qparams", "qspec", "stats", "steps", "type", "uses")

    def __init__(self, name: str, type: TensorType, data: npt.NDArray[Any] | None = None) -> None:
        self.name = name
        self.type = type
        self.data: npt.NDArray[Any] | None = None
        self._content: str | None = None
        if data is not None:
            array = np.array(data, order="C") if data.flags.writeable or not data.flags.c_contiguous else data
            array.setflags(write=False)
            if TensorType(array.dtype.name, array.shape) != type:
                raise InternalError(f"constant {name} holds {array.dtype}{array.shape}, its type says {type}")
            self.data = array
        self.producer: Node | None = None
        self.uses: list[tuple[Node, int]] = []
        self.qspec: QSpec | None = None
        self.qparams: QParams | None = None
        self.stats: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]] | None = None
        self.steps: npt.NDArray[np.float32] | None = None

    @property
    def is_constant(self) -> bool:
        """Whether the contents are known at compile time."""
        return self.data is not None

    @property
    def shape(self) -> tuple[int, ...]:
        """Extent of each axis, elements."""
        return self.type.shape

    @property
    def dtype(self) -> str:
        """NumPy's name of the element type."""
        return self.type.dtype

    def constant(self) -> npt.NDArray[Any]:
        """Return the contents of a constant.

        Raises:
            InternalError: the value is not a constant.
        """
        if self.data is None:
            raise InternalError(f"{self.name} is not a constant")
        return self.data

    def content_digest(self) -> str:
        """Return a digest of a constant's contents, "" for other values; it is computed once."""
        if self._content is None:
            self._content = hashlib.sha256(self.data.tobytes()).hexdigest() if self.data is not None else ""
        return self._content

    def users(self) -> list[Node]:
        """Return the nodes that read this value, each once, in the order of their first use."""
        return list(dict.fromkeys(node for node, _ in self.uses))

    def __repr__(self) -> str:
        return f"{'@' if self.is_constant else '%'}{self.name}: {self.type}"


class Node:
    """One operation.

    Args:
        op: its definition.
        inputs: operands.
        outputs: results; this node becomes their producer.
        attrs: an instance of `op.Attrs`.
        loc: name of the ONNX node it comes from, "" where there is none.

    Attributes:
        precision: arithmetic decided for it, "int8", "int16" or "float32"; "" while undecided.
    """

    __slots__ = ("attrs", "inputs", "loc", "op", "outputs", "precision")

    def __init__(self, op: OpDef, inputs: Sequence[Value], outputs: Sequence[Value], attrs: Any, loc: str = "") -> None:
        self.op = op
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self.attrs = attrs
        self.loc = loc
        self.precision = ""

    @property
    def output(self) -> Value:
        """The result of a node that has exactly one."""
        if len(self.outputs) != 1:
            raise InternalError(f"{self} has {len(self.outputs)} results")
        return self.outputs[0]

    @property
    def is_integer(self) -> bool:
        """Whether the node reads or makes a quantized activation, so that integer rules define it."""
        inputs, outputs = self.inputs, self.outputs
        return bool((inputs and inputs[0].qparams is not None) or (outputs and outputs[0].qparams is not None))

    def __repr__(self) -> str:
        return f"{self.op.name} {self.loc or self.outputs[0].name}"


class Graph:
    """A network: named inputs and outputs, and nodes in topological order.

    Args:
        name: used in messages and in the names of generated files.

    Attributes:
        unrolled: whether a loop of the model was unrolled that would stay one where loops are kept.
        notes: what the import assumed or converted, one sentence each, for the user.
        symbols: open extents of inputs; all types have their largest values.
        extents: what the input `extents_name` holds at run time, where masks read it.
        states: pairs of an output and an input that a bundle keeps between runs.
        counted: axes of outputs whose actual extents the data decide.
    """

    def __init__(self, name: str = "model") -> None:
        self.name = name
        self.inputs: list[Value] = []
        self.outputs: list[Value] = []
        self.output_names: list[str] = []
        self.nodes: list[Node] = []
        self.unrolled = False
        self.notes: list[str] = []
        self.states: tuple[State, ...] = ()
        self.symbols: tuple[Symbol, ...] = ()
        self.extents: tuple[Extent, ...] = ()
        self.counted: tuple[CountedAxis, ...] = ()
        self._names: set[str] = set()
        self._loops = False

    # -- building -----------------------------------------------------------------------------------------

    def unique_name(self, base: str) -> str:
        """Reserve a value name derived from base."""
        name, count = base, 1
        while name in self._names:
            name, count = f"{base}.{count}", count + 1
        self._names.add(name)
        return name

    def add_input(self, name: str, type: TensorType) -> Value:
        """Append a graph input."""
        value = Value(self.unique_name(name), type)
        self.inputs.append(value)
        return value

    def add_constant(self, name: str, data: npt.NDArray[Any]) -> Value:
        """Make a constant; it lives as long as a node or output reads it."""
        data = np.asarray(data)
        return Value(self.unique_name(name), TensorType(data.dtype.name, data.shape), data)

    def add_moved(self, name: str, source: Value, move: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> Value:
        """Make a constant of another one's elements in other places; each keeps its scale.

        Args:
            name: wanted.
            source: constant.
            move: only moves elements.
        """
        made = self.add_constant(name, np.ascontiguousarray(move(source.constant())))
        if source.steps is not None:
            made.steps = move(np.broadcast_to(source.steps, source.shape))
        return made

    def add_node(
        self,
        op: OpDef,
        inputs: Sequence[Value],
        attrs: Any = None,
        *,
        names: Sequence[str] | None = None,
        types: Sequence[TensorType] | None = None,
        loc: str = "",
        before: Node | None = None,
    ) -> Node:
        """Append a node, or insert one before another.

        Args:
            op: definition of the operation.
            inputs: operands, all of this graph.
            attrs: an instance of op.Attrs; None takes its defaults.
            names: wanted names of the results.
            types: types of the results where op.infer cannot know them (quantized forms); else inferred.
            loc: ONNX node name.
            before: the node to insert before, or before the loop around it where nothing of that is read; None appends.

        Raises:
            ValueError: the operand types do not fit the operation.
        """
        attrs = op.Attrs() if attrs is None else attrs
        inferred = tuple(types) if types is not None else op.infer(attrs, [v.type for v in inputs])
        bases = list(names) if names is not None else [f"{loc or op.name}.out"] * len(inferred)
        outputs = [Value(self.unique_name(n), t) for n, t in zip(bases, inferred, strict=True)]
        node = Node(op, inputs, outputs, attrs, loc)
        for output in outputs:
            output.producer = node
        for index, value in enumerate(node.inputs):
            value.uses.append((node, index))
        self._loops = self._loops or op.region == "begin"
        if before is None:
            self.nodes.append(node)
        else:
            position = self.nodes.index(before)
            self.nodes.insert(_home(self.nodes, position, inputs) if self._loops else position, node)
        return node

    def add_state(self, begin: Node, start: Value, name: str) -> Value:
        """Give a loop whose end does not exist yet one more state, and return what an iteration starts from.

        Args:
            begin: the loop_begin.
            start: of the first iteration.
            name: wanted name of the state.
        """
        value = Value(self.unique_name(name), start.type)
        value.producer = begin
        start.uses.append((begin, len(begin.inputs)))
        begin.inputs, begin.outputs = (*begin.inputs, start), (*begin.outputs, value)
        return value

    def set_outputs(self, values: Sequence[Value], names: Sequence[str] | None = None) -> None:
        """Declare the graph's results and the names callers see."""
        self.outputs = list(values)
        self.output_names = list(names) if names is not None else [v.name for v in values]

    # -- reading ------------------------------------------------------------------------------------------

    def constants(self) -> list[Value]:
        """Return the constants in use, in the order the nodes read them."""
        read = (v for node in self.nodes for v in node.inputs)
        return list(dict.fromkeys(v for v in [*read, *self.outputs] if v.is_constant))

    def made_before_loop(self, value: Value, reader: Node) -> bool:
        """Return whether a value is computed once, before the loop in which a reader is."""
        if not self._loops:
            return False
        at = self.nodes.index(reader)
        return _home(self.nodes, at, [value]) < at

    def values(self) -> Iterator[Value]:
        """Iterate over inputs, constants and results, each once."""
        yield from self.inputs
        yield from self.constants()
        for node in self.nodes:
            yield from node.outputs

    @property
    def is_quantized(self) -> bool:
        """Whether the model brings quantization parameters of its own, as roundings that no pass took in yet."""
        return any(node.op.name == "fake_quantize" for node in self.nodes)

    def to_networkx(self) -> nx.MultiDiGraph[Node]:
        """Return a view for graph algorithms: nodes are Node objects, one edge per operand read.

        Each edge carries `value` and `operand`; graph inputs and constants have no edge.
        """
        import networkx as nx

        view: nx.MultiDiGraph[Node] = nx.MultiDiGraph()
        view.add_nodes_from(self.nodes)
        for node in self.nodes:
            for index, value in enumerate(node.inputs):
                if value.producer is not None:
                    view.add_edge(value.producer, node, value=value, operand=index)
        return view

    def structural_hash(self) -> str:
        """Return a digest of everything that decides what the graph computes; names do not matter."""
        numbers: dict[Value, str] = {}
        digest = hashlib.sha256()

        def describe(value: Value) -> str:
            if value not in numbers:
                numbers[value] = f"v{len(numbers)}"
                content = value.content_digest()
                params = value.qparams.text if value.qparams is not None else None
                digest.update(f"{numbers[value]}:{value.type}:{params}:{value.qspec}:{content};".encode())
            return numbers[value]

        for value in self.inputs:
            describe(value)
        for node in self.nodes:
            operands = [describe(v) for v in node.inputs]
            results = [describe(v) for v in node.outputs]
            digest.update(f"{node.op.name}{node.attrs!r}{node.precision}{operands}->{results};".encode())
        digest.update(repr([(n, describe(v)) for n, v in zip(self.output_names, self.outputs, strict=True)]).encode())
        for more in (self.states, self.symbols, self.extents, self.counted):
            digest.update(repr(more).encode() if more else b"")
        return digest.hexdigest()

    def clone(self) -> Graph:
        """Return an independent copy; constants share their (read-only) contents."""
        copy = Graph(self.name)
        copy._names, copy._loops = set(self._names), self._loops
        copy.notes, copy.unrolled = list(self.notes), self.unrolled
        copy.states, copy.symbols, copy.extents = self.states, self.symbols, self.extents
        copy.counted = self.counted
        mapping: dict[Value, Value] = {}

        def twin(value: Value) -> Value:
            if value not in mapping:
                new = Value(value.name, value.type, value.data)
                new.qspec, new.qparams, new.stats, new.steps = value.qspec, value.qparams, value.stats, value.steps
                new._content = value._content
                mapping[value] = new
            return mapping[value]

        copy.inputs = [twin(v) for v in self.inputs]
        for node in self.nodes:
            new = Node(node.op, [twin(v) for v in node.inputs], [twin(v) for v in node.outputs], node.attrs, node.loc)
            new.precision = node.precision
            for output in new.outputs:
                output.producer = new
            for index, value in enumerate(new.inputs):
                value.uses.append((new, index))
            copy.nodes.append(new)
        copy.set_outputs([twin(v) for v in self.outputs], self.output_names)
        return copy


def _home(nodes: Sequence[Node], before: int, inputs: Sequence[Value]) -> int:
    """Return where a node belongs that is to be inserted: before a loop of which it reads nothing.

    Args:
        nodes: in order of computation.
        before: position to insert at.
        inputs: operands of the new node.
    """
    start = before - 1
    while start >= 0 and not nodes[start].op.region:
        start -= 1
    if start < 0 or nodes[start].op.region == "end":
        return before
    inside = {value for node in nodes[start:before] for value in node.outputs}
    return before if inside.intersection(inputs) else start
