"""Ways to run one operation: through ONNX and both runtimes, on integers, and as its lowering says."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from qcompile import ops
from qcompile.ir.graph import Graph, Node
from qcompile.ir.types import TensorType
from qcompile.ir.verify import verify
from qcompile.onnx_import import import_onnx
from qcompile.ops.evaluation import evaluate_node
from qcompile.ops.interpreter import Interpreter
from qcompile.ops.onnx_node import OnnxNode
from qcompile.quant import affine
from qcompile.quant.qparams import QParams

IR_VERSION = 8


def _model(op_type: str, inputs: list[Any], constants: dict[int, Any], opset: int, attributes: dict[str, Any]):
    """Build a model of one node; `inputs` are its operands, those in `constants` are initializers."""
    names = ["" if a is None else f"x{k}" for k, a in enumerate(inputs)]
    node = helper.make_node(op_type, names, ["y"], name="node", **attributes)
    graph_inputs, initializers = [], []
    for k, array in enumerate(inputs):
        if array is None:
            continue
        if k in constants:
            initializers.append(numpy_helper.from_array(array, names[k]))
        else:
            kind = helper.np_dtype_to_tensor_dtype(array.dtype)
            graph_inputs.append(helper.make_tensor_value_info(names[k], kind, array.shape))
    output = helper.make_value_info("y", onnx.TypeProto())
    graph = helper.make_graph([node], "one", graph_inputs, [output], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=IR_VERSION)
    inferred = onnx.shape_inference.infer_shapes(model)
    if not inferred.graph.output[0].type.tensor_type.elem_type:
        inferred.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, None))
    return inferred


@pytest.fixture(scope="session")
def import_one():
    """Import a model of one ONNX node."""

    def run(op_type: str, inputs: list[Any], *, constants: tuple[int, ...] = (), opset: int = 17, **attributes):
        return import_onnx(_model(op_type, inputs, dict.fromkeys(constants), opset, attributes))

    return run


@pytest.fixture(scope="session")
def against_ort():
    """Run one ONNX node in the interpreter and in ONNX Runtime, compare, and return the graph and the result."""

    def run(
        op_type: str,
        inputs: list[Any],
        *,
        constants: tuple[int, ...] = (),
        opset: int = 17,
        rtol: float = 1e-5,
        atol: float = 1e-6,
        **attributes: Any,
    ) -> tuple[Graph, Any]:
        model = _model(op_type, inputs, dict.fromkeys(constants), opset, attributes)
        graph = import_onnx(model)
        verify(graph)
        feeds = {f"x{k}": a for k, a in enumerate(inputs) if a is not None and k not in constants}
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        expected = session.run(None, feeds)[0]
        actual = Interpreter(graph).run({v.name: feeds[v.name] for v in graph.inputs})["y"]
        assert actual.dtype == expected.dtype
        np.testing.assert_allclose(actual, expected, rtol=rtol, atol=atol)
        return graph, actual

    return run


def make_node(name: str, attrs: dict[str, Any], operands: list[Any], results: Any) -> tuple[Node, list[Any]]:
    """Make a graph of one node.

    Args:
        name: of the operation.
        attrs: fields of its Attrs.
        operands: arrays, or (array, QParams) pairs; arrays without QParams after the first are constants.
        results: QParams of the result, or None.
    """
    op, graph = ops.get(name), Graph("one")
    values, arrays = [], []
    for k, operand in enumerate(operands):
        array, qparams = operand if isinstance(operand, tuple) else (operand, None)
        if k and qparams is None and name not in ("where",):
            value = graph.add_constant(f"c{k}", array)
        else:
            value = graph.add_input(f"x{k}", TensorType(array.dtype.name, array.shape))
        value.qparams = qparams
        values.append(value)
        arrays.append(array)
    instance = op.Attrs(**attrs)
    # As the verifier sees it: a quantized operand means real numbers.
    types = op.infer(instance, [v.type if v.qparams is None else v.type.with_dtype("float32") for v in values])
    if results is not None:
        types = (types[0].with_dtype(results.dtype),)
    node = graph.add_node(op, values, instance, names=["y"], types=types)
    node.output.qparams = results
    graph.set_outputs([node.output])
    verify(graph)
    return node, arrays


@pytest.fixture(scope="session")
def one_node():
    """Make a node; see `make_node`."""
    return make_node


@pytest.fixture(scope="session")
def one_import_node():
    """Make what a converter sees of an ONNX node, without ONNX's own checks before it."""

    def run(op_type: str, shapes: list[tuple[int, ...]], attributes: dict[str, Any]) -> OnnxNode:
        graph = Graph("one")
        values = [graph.add_input(f"x{k}", TensorType("float32", shape)) for k, shape in enumerate(shapes)]
        return OnnxNode(graph, op_type, "node", values, attributes, ["y"], 17, "model.onnx")

    return run


@pytest.fixture(scope="session")
def integer():
    """Evaluate an operation on quantized operands, and check that its lowering computes the same bits."""

    def run(name: str, operands: list[Any], result: Any, lowered: bool = True, **attrs: Any) -> Any:
        node, arrays = make_node(name, attrs, operands, result)
        (y,) = evaluate_node(node, arrays)
        if lowered:
            np.testing.assert_array_equal(NumpyContext(arrays).lower(node), y)
        return y

    return run


@pytest.fixture(scope="session")
def lowered():
    """Evaluate a real-valued operation as its lowering says."""

    def run(name: str, operands: list[Any], **attrs: Any) -> tuple[Any, Any]:
        node, arrays = make_node(name, attrs, operands, None)
        (y,) = evaluate_node(node, arrays)
        return NumpyContext(arrays).lower(node), y

    return run


@pytest.fixture(scope="session")
def real():
    """Return the real numbers, in float64, that integers stand for."""

    def run(q: Any, qparams: QParams) -> Any:
        return (q.astype(np.float64) - qparams.scalar_zero_point) * qparams.scalar_scale

    return run


@pytest.fixture(scope="session")
def nearest():
    """Return the integers nearest to real numbers, computed in float64."""

    def run(y: Any, qparams: QParams) -> Any:
        low, high = qparams.qmin - qparams.scalar_zero_point, qparams.qmax - qparams.scalar_zero_point
        return np.clip(np.rint(y / qparams.scalar_scale), low, high).astype(int) + qparams.scalar_zero_point

    return run


@pytest.fixture(scope="session")
def random_qparams():
    """Return QParams of a random range that contains zero."""

    def run(rng: np.random.Generator, reach: float = 4.0) -> QParams:
        return QParams.from_range(-reach * rng.random(), reach * (0.05 + rng.random()))

    return run


class NumpyContext:
    """Executes what an operation's `lower` asks for, on whole arrays: a model of the lowering context.

    Args:
        arrays: the operands.
    """

    def __init__(self, arrays: list[Any]) -> None:
        self.arrays = arrays
        self.result: Any = None

    def lower(self, node: Node) -> Any:
        """Return what the lowered node stores."""
        node.op.lower(node, self)
        assert self.result is not None
        return self.result

    def _store(self, node: Node, element: Any) -> None:
        shaped = np.broadcast_to(np.asarray(element), node.output.shape)
        self.result = shaped.astype(node.output.dtype)

    def window(self, node: Node) -> bool:
        """Nothing lies within another array here."""
        return False

    def map(self, node: Node, fn: Any) -> None:
        index = tuple(np.indices(node.output.shape))
        self._store(node, fn(NumpyBuilder(node, self.arrays), index))

    def map_table(self, node: Node, fn: Any, before: QParams, table: Any) -> None:
        index = tuple(np.indices(node.output.shape))
        codes = fn(NumpyBuilder(node, self.arrays, before), index)
        self._store(node, table[np.asarray(codes).astype(np.int16) + 128])

    def reduce(self, node: Node, extents: Any, body: Any, combine: str, init: Any, finish: Any) -> None:
        e = NumpyBuilder(node, self.arrays)
        index = tuple(np.indices(node.output.shape))
        start, dtype = init
        total = np.full(node.output.shape, start, dtype)
        merge = {"sum": np.add, "max": np.maximum, "min": np.minimum, "prod": np.multiply}[combine]
        for r in itertools.product(*map(range, extents)):
            total = merge(total, np.asarray(body(e, index, r)).astype(dtype))
        self._store(node, finish(e, total, index))

    def table(self, node: Node) -> None:
        self._store(node, node.op.evaluate_integer(node, self.arrays)[0])

    def constant(self, array: Any) -> Any:
        return array


class NumpyBuilder:
    """The expression builder of `NumpyContext`."""

    def __init__(self, node: Node, arrays: list[Any], result: QParams | None = None) -> None:
        self.node, self.arrays = node, arrays
        self.result = result or node.output.qparams

    def load(self, operand: int, *position: Any) -> Any:
        array = self.arrays[operand]
        for at, extent in zip(position, array.shape, strict=True):
            assert np.all((np.asarray(at) >= 0) & (np.asarray(at) < extent)), "a load outside the tensor"
        return array[tuple(position)]

    def load_or(self, operand: int, position: Any, inside: Any, fill: Any) -> Any:
        safe = [np.clip(p, 0, d - 1) for p, d in zip(position, self.arrays[operand].shape, strict=True)]
        seen = self.load(operand, *safe)
        held = np.broadcast_to(inside, np.broadcast_shapes(np.shape(inside), seen.shape))
        for at, extent in zip(position, self.arrays[operand].shape, strict=True):
            full = np.broadcast_to(at, held.shape)
            assert np.all(((full >= 0) & (full < extent)) | ~held), "the condition lets a load outside"
        return np.where(held, seen, np.asarray(fill, seen.dtype))

    def centred(self, operand: int, *position: Any) -> Any:
        qparams = self.node.inputs[operand].qparams
        return np.asarray(self.load(operand, *position)).astype(np.int32) - np.int32(qparams.zero_point[0])

    def dequantize(self, operand: int, *position: Any) -> Any:
        return affine.dequantize(self.load(operand, *position), self.node.inputs[operand].qparams)

    def broadcast(self, operand: int, position: Any) -> Any:
        shape = self.arrays[operand].shape
        last = position[len(position) - len(shape) :] if shape else ()
        return tuple(0 if extent == 1 else at for extent, at in zip(shape, last, strict=True))

    def at(self, handle: Any, *position: Any) -> Any:
        return handle[tuple(position)]

    def requantize(self, accumulator: Any, multiplier: Any) -> Any:
        assert np.asarray(accumulator).dtype == np.int32
        return self._rounded(np.asarray(accumulator).astype(np.float32) * np.asarray(multiplier, np.float32))

    def quantize(self, real: Any) -> Any:
        inverse = np.float32(1.0) / np.float32(self.result.scalar_scale)
        return self._rounded(real * inverse)

    def clamp_store(self, centred: Any) -> Any:
        q = self.result
        zp = q.scalar_zero_point
        assert np.asarray(centred).dtype == np.int32
        return np.clip(centred, q.qmin - zp, q.qmax - zp) + zp

    def round_clamp(self, x: Any, low: Any, high: Any) -> Any:
        return np.rint(np.fmin(np.fmax(x, low), high)).astype(np.int32)

    def _rounded(self, scaled: Any) -> Any:
        q = self.result
        zp = q.scalar_zero_point
        clamped = np.fmin(np.fmax(scaled, np.float32(q.qmin - zp)), np.float32(q.qmax - zp))
        return np.rint(clamped).astype(np.int32) + zp

    f32, i32 = staticmethod(np.float32), staticmethod(np.int32)
    max, min, abs = staticmethod(np.maximum), staticmethod(np.minimum), staticmethod(np.abs)
    select, and_, or_, not_ = (staticmethod(f) for f in (np.where, np.logical_and, np.logical_or, np.logical_not))
    equal, pow = staticmethod(np.equal), staticmethod(np.power)
    exp, log, sqrt, tanh = (staticmethod(f) for f in (np.exp, np.log, np.sqrt, np.tanh))
    floor, sin, cos, atan = (staticmethod(f) for f in (np.floor, np.sin, np.cos, np.arctan))

    def cast(self, value: Any, dtype: str) -> Any:
        return np.asarray(value).astype(dtype)

    def erf(self, x: Any) -> Any:
        from qcompile.ops.elementwise import erf

        return erf(np.asarray(x))

    def sigmoid(self, x: Any) -> Any:
        from qcompile.ops.elementwise import sigmoid

        return sigmoid(np.asarray(x))
