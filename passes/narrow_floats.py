"""Compute layers, and what lies between them, on numbers of 16 bits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar, Literal

import numpy as np

from qcompile import ops
from qcompile.calibrate.sample import graph_inputs
from qcompile.calibrate.synthetic import synthetic_samples
from qcompile.ir.graph import Graph, Node, Value
from qcompile.ir.rewrite import Rewriter
from qcompile.ops.interpreter import Interpreter
from qcompile.passmgr import MinSqnrDb, Pass, PassContext, Tolerance
from qcompile.passmgr.facts import CHANNELS_LAST, Fact
from qcompile.passmgr.selection import selected
from qcompile.shapes.analysis import analyse

LAYERS = frozenset({"conv2d", "dense"})
"""Operations that multiply numbers of 16 bits."""

TABLE = "gather"
"""Operation that picks rows of a table, which is stored in 16 bits."""

FOLLOWERS = frozenset({
    "abs", "add", "avg_pool", "clip", "concat", "div", "elu", "expand", "gelu", "global_avg_pool", "global_max_pool",
    "hard_sigmoid", "hard_swish", "leaky_relu", "max_pool", "maximum", "minimum", "mish", "mul", "neg", "pad", "prelu",
    "reduce_max", "reduce_mean", "relu", "reshape", "resize", "sigmoid", "silu", "slice", "split", "sub", "tanh",
    "transpose",
})  # fmt: skip
"""Operations that compute in float32 in registers, and read and write 16 bits where an operand has 16 bits anyway."""

_LARGEST = 65504.0
_MARGIN = 2.0
_SUMMED = 64
_SMALLEST_TABLE = 256
_SAMPLES, _SYNTHETIC = 16, 2


@dataclass(frozen=True)
class NarrowFloats(Pass):
    """Store the activations and weights of float layers in 16 bits, and multiply such numbers.

    Before:
        %y = conv2d(%x, @w, @b) : f32[1,8,8,16]
        %p = softmax(%y) : f32[1,8,8,16]
    After:
        %x.half = cast(%x) {dtype="float16"} : f16[1,8,8,8]
        %y.half = conv2d(%x.half, @w.half, @b) : f16[1,8,8,16]
        %y = cast(%y.half) {dtype="float32"} : f32[1,8,8,16]
        %p = softmax(%y) : f32[1,8,8,16]

    A tensor of 16 bits is rounded to nearest, ties to even, once, when it is stored. Kernels sum products of float16
    in float16 for short stretches and in float32 beyond (`qcompile.kernels.half_micro`), those of bfloat16 in
    float32 (`qcompile.kernels.bfloat_micro`); biases, residuals, activations, pooling and arithmetic are float32
    in registers. Softmax, normalizations, exponentials, products of two activations, and means over open axes stay
    in float32 altogether. Large tables that `gather` reads have 16 bits too.

    Options:
        type: "float16" (11 bits of precision, up to 65504) or "bfloat16" (8 bits, the range of float32).
        keep_float: nodes that stay in float32: names, globs, "/regular expressions/", "op:dense", "from..to".

    Preconditions: to-nhwc ran. Magnitudes come from the calibration samples, else from made-up inputs.

    Refusals: integer operations; weights computed at run time or packed; of float16 a tensor of which twice the
    largest number, or twice what 64 products can sum up to, is beyond 65504.
    """

    name: ClassVar[str] = "narrow-floats"
    requires: ClassVar[tuple[Fact, ...]] = (CHANNELS_LAST,)
    tolerance: ClassVar[Tolerance] = MinSqnrDb(35.0)

    type: Literal["float16", "bfloat16"] = "float16"
    keep_float: tuple[str, ...] = ()

    def run(self, graph: Graph, context: PassContext) -> None:
        """Rewrite the chosen nodes one after another."""
        kept = selected(graph, self.keep_float, option="keep_float")
        layers = [node for node in graph.nodes if (node.op.name in LAYERS and _is_float(node)) or _is_table(node)]
        if not layers:
            return
        # A mean over an open axis is rescaled to the actual extent, and rounded after that.
        wide = set(analyse(graph).means) if graph.symbols else set()
        magnitudes = _magnitudes(graph, context) if self.type == "float16" else {}
        narrow = _Narrowing(context.rewriter(graph), self.type)
        for node in list(graph.nodes):
            if (
                node in wide
                or not _is_float(node)
                or not (node.op.name in LAYERS or _is_table(node) or narrow.reads_half(node))
            ):
                continue
            reason = "keep_float names it" if node in kept else _obstacle(node, self.type, magnitudes)
            if reason is None:
                narrow.rewrite(node)
            elif node.op.name in LAYERS:
                context.skip(node, reason)
        narrow.rewriter.eliminate_dead()


class _Narrowing:
    """Puts forms of 16 bits beside the float32 tensors of a graph."""

    def __init__(self, rewriter: Rewriter, dtype: str) -> None:
        self.rewriter, self.dtype = rewriter, dtype
        self._half: dict[Value, Value] = {}

    def reads_half(self, node: Node) -> bool:
        """Return whether a node may follow: it reads a tensor that has 16 bits already."""
        return node.op.name in FOLLOWERS and any(value in self._half for value in node.inputs if not value.is_constant)

    def rewrite(self, node: Node) -> None:
        """Compute a node on tensors of 16 bits; its results are widened for those that read float32."""
        inputs = [self._narrowed(v, node) if k in _operands(node) else v for k, v in enumerate(node.inputs)]
        names = [f"{value.name}.half" for value in node.outputs]
        graph = self.rewriter.graph
        twin = graph.add_node(node.op, inputs, node.attrs, names=names, loc=node.loc, before=node)
        twin.precision = node.precision
        for old, half in zip(node.outputs, twin.outputs, strict=True):
            wide = self.rewriter.insert(node, ops.get("cast"), [half], _cast("float32"), name=old.name, loc=node.loc)
            wide.output.stats = old.stats
            self.rewriter.replace_value(old, wide.output)
            wide.output.name, old.name = old.name, wide.output.name
            self._half[wide.output] = half
        self.rewriter.erase(node)

    def _narrowed(self, value: Value, reader: Node) -> Value:
        if value not in self._half:
            name = f"{value.name}.half"
            if value.data is not None:
                self._half[value] = self.rewriter.constant(name, value.data.astype(self.dtype))
            else:
                to = _cast(self.dtype)
                cast = self.rewriter.insert(reader, ops.get("cast"), [value], to, name=name, loc=reader.loc)
                self._half[value] = cast.output
        return self._half[value]


def _cast(dtype: str) -> Any:
    return ops.get("cast").Attrs(dtype)


def _operands(node: Node) -> tuple[int, ...]:
    """Return the operands that get 16 bits: of layers all but the bias, of a look-up the table."""
    if node.op.name in LAYERS:
        return tuple(k for k in range(len(node.inputs)) if k != 2)
    return tuple(k for k, value in enumerate(node.inputs) if value.dtype == "float32")


def _is_float(node: Node) -> bool:
    return not node.is_integer and all(value.dtype == "float32" for value in node.outputs)


def _is_table(node: Node) -> bool:
    """Return whether a node picks rows of a constant table worth halving."""
    if node.op.name != TABLE or not _is_float(node):
        return False
    return node.inputs[0].data is not None and node.inputs[0].type.size >= _SMALLEST_TABLE


def _obstacle(node: Node, dtype: str, magnitudes: Mapping[str, float]) -> str | None:
    """Return why a node cannot compute on 16 bits, or None."""
    if node.op.name in LAYERS and node.inputs[1].data is None:
        return f"its weights ({node.inputs[1].name}) are computed at run time"
    return _overflow(node, magnitudes) if dtype == "float16" else None


def _overflow(node: Node, magnitudes: Mapping[str, float]) -> str | None:
    """Return what float16 cannot hold of a node, or None."""
    values = [node.inputs[k] for k in _operands(node)]
    for value in (*values, *node.outputs):
        largest = magnitudes.get(value.name, 0.0) * _MARGIN
        if value.data is not None:
            largest = float(np.abs(value.data).max(initial=0.0))
        if not largest <= _LARGEST:
            return f"{value.name} has numbers that float16 may not hold"
    if node.op.name not in LAYERS:
        return None
    weight = node.inputs[1].constant()
    rows = np.sort(np.abs(weight).reshape(weight.shape[0], -1), axis=1)
    reach = float(rows[:, -_SUMMED:].sum(axis=1).max(initial=0.0)) * magnitudes.get(node.inputs[0].name, 0.0)
    if not reach * _MARGIN <= _LARGEST:
        return f"{_SUMMED} products of {node.inputs[0].name} may sum up to more than float16 holds"
    return None


def _magnitudes(graph: Graph, context: PassContext) -> dict[str, float]:
    """Return the largest magnitude of each real tensor by name."""
    found: dict[str, float] = {}

    def on_value(value: Value, array: Any) -> None:
        if array.dtype.kind == "f" and array.size:
            found[value.name] = max(found.get(value.name, 0.0), float(np.abs(array).max()))

    samples: Iterable[Mapping[str, Any]]
    if context.samples is not None:
        samples = islice(context.samples(), _SAMPLES)
    else:
        samples = synthetic_samples(graph_inputs(graph), _SYNTHETIC, context.seed, context.preprocess)
    interpreter = Interpreter(graph)
    with np.errstate(all="ignore"):
        for done, sample in enumerate(samples):
            interpreter.run(sample, on_value=on_value)
            context.progress(done + 1, 0, "measuring magnitudes")
    return found
