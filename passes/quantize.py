"""Turn the nodes chosen for int8 into integer operations."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np

from qcompile import ops
from qcompile.calibrate.concat_ranges import share_concat_ranges
from qcompile.calibrate.constant_ranges import share_constant_ranges
from qcompile.calibrate.weights import (
    constant_scales,
    raise_for_bias,
    refine_for_bias,
    scales_of_bias,
    weight_scales,
)
from qcompile.errors import InternalError
from qcompile.ir.graph import Graph, Node, Value
from qcompile.ir.opdef import Quantization
from qcompile.ir.rewrite import Rewriter
from qcompile.ir.types import TensorType
from qcompile.ops.arithmetic import BOUNDED, CLAMPS, channel_factors, clamp_bounds, plain_activation
from qcompile.passmgr import MinSqnrDb, Pass, PassContext, Tolerance
from qcompile.passmgr.facts import CALIBRATED, PRECISION, Fact
from qcompile.quant import int16
from qcompile.quant.affine import quantize
from qcompile.quant.int16 import HEADROOM
from qcompile.quant.qparams import INT_RANGE, QParams, QSpec
from qcompile.quant.requantize import wide_qparams
from qcompile.quant.scaled import DIVIDED, SCALED

INT8, INT16 = "int8", "int16"
INTEGERS = (INT8, INT16)


@dataclass(frozen=True)
class Quantize(Pass):
    """Rewrite int8 and int16 nodes to integer arithmetic, with conversions only where precision changes.

    Before:
        %y = conv2d(%x, @w, @b) : f32[1,4,4,8] spec(range=[0.0, 6.0]) precision(int8)
    After:
        %xq = quantize(%x) : i8[1,8,8,3] q(scale=…, zp=…)
        %acc = conv2d(%xq, @wq, @bq) : i32[1,4,4,8] q(scale=[…], axis=3, dtype=int32)
        %yq = requantize(%acc) : i8[1,4,4,8] q(scale=…, zp=…)
        %y = dequantize(%yq) : f32[1,4,4,8]

    Parts of a concatenation take its range where that rounds them once instead of twice.
    An accumulator whose only reader is an addition goes there as int32 in steps of scale/2^12 rather than as
    int8, so the addition rounds once. One read only in float is dequantized directly. A clip between two grids of a
    quantized model is a requantization, and so are relu and clip on 16-bit activations, where a table would round off
    their corners. Products of 16-bit activations do not fit int32, so that their layers have the form that
    fuse-requantize makes from the start; so have layers with a leaky_relu or hard_swish, which applies to the scaled
    accumulators before they are rounded. A layer that divides what its activation gives (channel_clip,
    channel_hard_swish) and stays in float becomes the plain activation and a multiplication.

    Options:
        io: "float" converts at the graph's inputs and outputs; "int8" leaves those quantized that integer
            nodes read or make.
        wide: whether accumulators go into additions as int32; else as the model rounds them, to int8, and as int32
            only where it does not round them.

    Preconditions: every int8 node's tensors have ranges (calibrate) and its weights are constant.
    """

    name: ClassVar[str] = "quantize"
    requires: ClassVar[tuple[Fact, ...]] = (CALIBRATED, PRECISION)
    tolerance: ClassVar[Tolerance] = MinSqnrDb(10.0)

    io: Literal["float", "int8"] = "float"
    wide: bool = True

    def run(self, graph: Graph, context: PassContext) -> None:
        """Rewrite the graph."""
        if not any(node.is_integer for node in graph.nodes):
            context.reference = graph.clone()
        share_concat_ranges(graph)
        share_constant_ranges(graph)
        for node in list(graph.nodes):
            if node.precision not in INTEGERS and not node.is_integer:
                _split_divisors(context.rewriter(graph), node)
        builder = _IntegerBuilder(context, graph, self.wide)
        for node in list(graph.nodes):
            if node.is_integer:
                continue
            if node.precision in INTEGERS:
                builder.rewrite(node)
            else:
                builder.feed_float(node)
        if self.io == "int8":
            graph.outputs = [builder.native(v, None) if builder.is_integer(v) else v for v in graph.outputs]
        else:
            graph.outputs = [builder.real(v, None) for v in graph.outputs]
        builder.rewriter.eliminate_dead()
        if self.io == "int8":
            _quantize_inputs(builder.rewriter, context)
        for value in graph.values():
            value.qspec = None


class _IntegerBuilder:
    """Builds the integer twin of each int8 node and the conversions between the two worlds, each once."""

    def __init__(self, context: PassContext, graph: Graph, wide: bool) -> None:
        self.context, self.rewriter, self.wide = context, context.rewriter(graph), wide
        # What is moved in float takes the same values as its source, which the rewriting cuts it off from.
        self.specs = {v: _own_spec(v) for v in graph.values() if v.qspec is not None}
        self.integers: dict[tuple[Value, str], Value] = {}
        self.accumulators: dict[Value, Value] = {}
        self.fine: dict[Value, Value] = {}
        self.reals: dict[Value, Value] = {}

    # -- conversions --------------------------------------------------------------------------------------

    def is_integer(self, value: Value) -> bool:
        """Return whether a tensor is computed in integers."""
        node = value.producer
        return node is not None and node.precision in INTEGERS and not node.is_integer

    def native(self, value: Value, before: Node | None) -> Value:
        """Return the integer form in which a tensor is computed; the finer, if there are two."""
        known = [dtype for dtype in (INT16, INT8) if (value, dtype) in self.integers]
        if _on_grid(value):
            known = [value.qspec.dtype]  # type: ignore[union-attr]
        dtype = known[0] if known else INT16 if self._feeds(value, INT16) else INT8
        return self.integer(value, before, dtype)

    def integer(self, value: Value, before: Node | None, dtype: str) -> Value:
        """Return an integer form of a float tensor, made right before its first reader."""
        if (value, dtype) not in self.integers:
            qparams = self.result_params(value, dtype)
            source = self._source(value, before, dtype)
            if value.is_constant:
                made = self._constant(f"{value.name}.q", quantize(value.constant(), qparams), qparams)
            elif source is None:
                # A layer that only float readers had asked for has a real result.
                made = self._convert("quantize", _original(self.reals.get(value, value)), value, before, qparams)
            else:
                made = self._convert("requantize", source, value, before, qparams)
            self.integers[value, dtype] = made
        return self.integers[value, dtype]

    def _source(self, value: Value, before: Node | None, dtype: str) -> Value | None:
        """Return the integers from which a form is requantized, None where there are none."""
        other = INT8 if dtype == INT16 else INT16
        if not value.is_constant and _on_grid(value) and value.qspec.dtype == other:  # type: ignore[union-attr]
            # The model rounds to this grid first.
            return self.integer(value, before, other)
        if value in self.accumulators:
            # One requantization stays fused to the layer: the model's own, else the finer, if there are two.
            finer = dtype == INT8 and self._feeds(value, INT16) and not _on_grid(value)
            return self.integer(value, before, INT16) if finer else self.accumulators[value]
        return self.integers.get((value, other)) if self.is_integer(value) else None

    def _feeds(self, value: Value, dtype: str) -> bool:
        """Return whether a node of a precision reads a tensor as an activation."""
        return any(node.precision == dtype and index in node.op.operand_activations(node) for node, index in value.uses)

    def real(self, value: Value, before: Node | None) -> Value:
        """Return the float form of a tensor that is computed in integers; other tensors as they are."""
        if not self.is_integer(value):
            return value
        if value not in self.reals:
            only_float = all(reader.precision not in INTEGERS for reader in value.users())
            if (
                value in self.accumulators
                and not any((value, dtype) in self.integers for dtype in INTEGERS)
                and only_float
                and (self.wide or value.qspec is None)
                and not _clamped(value)
            ):
                source = self.accumulators[value]
            else:
                source = self.native(value, before)
            node = self.rewriter.insert(
                before,
                ops.get("dequantize"),
                [source],
                name=f"{value.name}.real",
                types=[value.type],
                loc=value.producer.loc if value.producer is not None else "",
            )
            node.precision = INT16 if source.dtype == INT16 else INT8
            self.reals[value] = node.output
        return self.reals[value]

    def _convert(self, op: str, source: Value, value: Value, before: Node | None, qparams: QParams) -> Value:
        """Insert a quantize or requantize and return its result."""
        loc = value.producer.loc if value.producer is not None else ""
        types = [TensorType(qparams.dtype, value.shape)]
        node = self.rewriter.insert(before, ops.get(op), [source], name=f"{value.name}.q", types=types, loc=loc)
        node.output.qparams = qparams
        node.precision = INT16 if INT16 in (source.dtype, qparams.dtype) else INT8
        return node.output

    def _constant(self, name: str, data: Any, qparams: QParams) -> Value:
        constant = self.rewriter.constant(name, data)
        constant.qparams = qparams
        return constant

    def result_params(self, value: Value, dtype: str) -> QParams:
        """Return the QParams that a tensor's calibrated range and its producer's clamp ask for."""
        spec = self.specs.get(value, value.qspec)
        if spec is None or spec.range is None:
            raise InternalError(f"{value.name} has no calibrated range")
        if dtype == INT16:
            qparams = _grid_params(spec) if _on_grid(value) else self._int16_params(value, spec)
        else:
            qparams = QParams.from_range(*spec.range)
        if spec.clamp is not None:
            qparams = qparams.clamped(*spec.clamp)
        attrs: Any = value.producer.attrs if value.producer is not None else None
        if getattr(attrs, "activation", "none") in BOUNDED:
            qparams = qparams.clamped(*clamp_bounds(attrs.activation, attrs.alpha, attrs.beta))
        return qparams

    def _int16_params(self, value: Value, spec: QSpec) -> QParams:
        """Return the QParams of 16 bits: for all that was seen, since sixteen bits need no range cut short."""
        assert spec.range is not None
        lo, hi = spec.range
        if spec.kind != "fixed" and not value.is_constant:
            seen = self.context.statistics.get(value.name) if self.context.samples is not None else None
            if seen is not None and seen.count:
                lo, hi = min(lo, seen.minimum), max(hi, seen.maximum)
            lo, hi = lo * HEADROOM, hi * HEADROOM
        return QParams.int16(lo, hi)

    def _width(self, node: Node, value: Value) -> str:
        """Return the element type that a node's result has: the model's own, or what its readers want."""
        if _on_grid(value):
            assert value.qspec is not None
            return value.qspec.dtype
        if node.op.integer is Quantization.ACCUMULATE and not node.op.takes_int16:
            return INT8  # No kernel of it stores anything wider.
        if self._feeds(value, INT16):
            return INT16
        narrow = all(reader.precision == INT8 for reader in value.users())
        output = value in self.rewriter.graph.outputs
        return INT8 if node.precision == INT8 or (value.uses and narrow and not output) else INT16

    # -- nodes --------------------------------------------------------------------------------------------

    def feed_float(self, node: Node) -> None:
        """Give a float node the float forms of its operands."""
        for index, value in enumerate(node.inputs):
            if self.is_integer(value):
                self.rewriter.set_operand(node, index, self.real(value, node))

    def rewrite(self, node: Node) -> None:
        """Build the integer form of one node."""
        kind = node.op.integer
        if kind is Quantization.ACCUMULATE:
            self._accumulate(node)
            return
        if _is_clamp(node):
            self._clamp(node)
            return
        wide = self._wide_operand(node) if node.op.name == "add" else None
        operands = list(node.inputs)
        for index in node.op.operand_activations(node):
            if index != wide:
                operands[index] = self._operand(node, node.inputs[index])
        if wide is not None:
            qparams = wide_qparams(self.result_params(node.output, INT8))
            value = node.inputs[wide]
            operands[wide] = self._convert("requantize", self.accumulators[value], value, node, qparams)
        if kind is Quantization.SHARED:
            shared = operands[0].qparams
            assert shared is not None
            self._emit(node, operands, [shared for _ in node.outputs])
            return
        # A table of int8 gives int8, as does an addition into which an accumulator goes.
        fixed = INT8 if wide is not None or (not node.op.takes_int16 and node.precision == INT8) else None
        self._emit(node, operands, [self.result_params(v, fixed or self._width(node, v)) for v in node.outputs])

    def _clamp(self, node: Node) -> None:
        """Turn a relu or clip into a requantization that uses a part of the result's integers."""
        x, value = node.inputs[0], node.output
        dtype = self._width(node, value)
        bounds = (0.0, np.inf) if node.op.name == "relu" else (node.attrs.min, node.attrs.max)
        qparams = self.result_params(value, dtype).clamped(*bounds)
        source = self.native(x, node) if _on_grid(x) else self.integer(x, node, node.precision)
        self.integers[value, dtype] = self._convert("requantize", source, value, node, qparams)

    def _operand(self, node: Node, value: Value) -> Value:
        """Return the integers that a node reads.

        The points of a table of 16 bits are 16 integers apart, and between them it is straight. What a model rounds to
        8 bits has to lie on points: a table reads it in steps 256 times as fine.
        """
        coarse = _on_grid(value) and value.qspec.dtype == INT8  # type: ignore[union-attr]
        if node.precision != INT16 or node.op.integer is not Quantization.TABLE or not coarse:
            return self.integer(value, node, node.precision)
        if value not in self.fine:
            source = self.native(value, node)
            q = source.qparams
            assert q is not None
            zero, *ends = (n << int16.LOW_BITS for n in (q.scalar_zero_point, q.qmin, q.qmax))
            fine = QParams((q.scalar_scale / (1 << int16.LOW_BITS),), (zero,), INT16, *ends)
            self.fine[value] = self._convert("requantize", source, value, node, fine)
        return self.fine[value]

    def _emit(self, node: Node, operands: list[Value], qparams: list[QParams]) -> Node:
        attrs = node.attrs
        if getattr(attrs, "activation", "none") in CLAMPS[1:]:
            # The clamp now is the result's [qmin, qmax].
            attrs = replace(attrs, activation="none", alpha=0.0, beta=0.0)
        twin = self.rewriter.graph.add_node(
            node.op,
            operands,
            attrs,
            names=[f"{v.name}.q" for v in node.outputs],
            types=[TensorType(q.dtype, v.shape) for v, q in zip(node.outputs, qparams, strict=True)],
            loc=node.loc,
            before=node,
        )
        twin.precision = node.precision
        for old, new, q in zip(node.outputs, twin.outputs, qparams, strict=True):
            new.qparams = q
            if q.dtype == "int32":
                self.accumulators[old] = new
            else:
                self.integers[old, q.dtype] = new
        return twin

    def _accumulate(self, node: Node) -> None:
        """Build conv2d, conv_transpose2d or dense, with a raw int32 accumulator as its result if x has 8 bits."""
        x = self.integer(node.inputs[0], node, node.precision)
        assert x.qparams is not None
        weight, bias, spec = node.inputs[1], node.inputs[2].constant(), node.inputs[1].qspec
        if spec is None:
            raise InternalError(f"{node}: the weight has no QSpec")
        chosen = self.context.remembered(
            lambda: f"scales{weight.content_digest()}{weight.type}{spec.observer}{spec.axis}{_stored(weight)}",
            lambda: _chosen_scales(weight, spec),
        )
        scales = np.broadcast_to(chosen, bias.shape)
        if spec.observer == "grid":
            scales = refine_for_bias(scales, weight.constant(), bias, x.qparams.scalar_scale)
        elif not weight.constant().any():
            scales = scales_of_bias(scales, bias, x.qparams.scalar_scale)
        scales = raise_for_bias(scales, bias, x.qparams.scalar_scale)
        w_params = QParams(tuple(scales.tolist()), (0,), "int8", -127, 127, axis=0)
        acc_scales = np.float64(x.qparams.scalar_scale) * np.asarray(w_params.scale, np.float64)
        b_params = QParams(tuple(acc_scales.tolist()), (0,), "int32", *INT_RANGE["int32"], axis=0)
        operands = [
            x,
            self._constant(f"{weight.name}.q", quantize(weight.constant(), w_params), w_params),
            self._constant(f"{node.inputs[2].name}.q", np.rint(bias / acc_scales).astype(np.int32), b_params),
        ]
        if node.precision == INT16 or node.attrs.activation in SCALED:
            self._finish(node, operands)
            return
        channel_axis = 1 if getattr(node.attrs, "layout", "NHWC") == "NCHW" else len(node.output.shape) - 1
        self._emit(node, operands, [replace(b_params, axis=channel_axis)])

    def _finish(self, node: Node, operands: list[Value]) -> None:
        """Emit a layer without raw accumulators, with the result that its readers want: integers, or real numbers."""
        value = node.output
        read = any(reader.precision in INTEGERS for reader in value.users())
        if read or node.attrs.activation in BOUNDED or _on_grid(value):
            self._emit(node, operands, [self.result_params(value, self._width(node, value))])
            return
        twin = self.rewriter.insert(
            node, node.op, operands, node.attrs, name=f"{value.name}.real", types=[value.type], loc=node.loc
        )
        twin.precision = node.precision
        self.reals[value] = twin.output

    def _wide_operand(self, node: Node) -> int | None:
        """Return which operand of an addition may come as a wide accumulator, None if neither may."""
        if node.precision != INT8 or (self._feeds(node.output, INT16) and not _on_grid(node.output)):
            return None
        if node.inputs[0] is node.inputs[1] or node.inputs[0].shape != node.inputs[1].shape:
            return None
        candidates = [
            index
            for index, value in enumerate(node.inputs)
            if value in self.accumulators
            and (self.wide or value.qspec is None)
            and (value, INT8) not in self.integers
            and _feeds_only(value, node, self.rewriter)
        ]
        if len(candidates) < 2:
            return candidates[0] if candidates else None
        # The later one: its convolution then finds the other operand ready and can take the addition in.
        place = self.rewriter.graph.nodes.index
        return max(candidates, key=lambda i: place(self.accumulators[node.inputs[i]].producer))  # type: ignore[arg-type]


def _split_divisors(rewriter: Rewriter, node: Node) -> None:
    """Let a float layer with divisors be one with the plain activation, and a multiplication behind it."""
    if getattr(node.attrs, "activation", "none") not in DIVIDED:
        return
    attrs = replace(node.attrs, activation=plain_activation(node.attrs.activation), divisors=())
    name = node.output.name
    plain = rewriter.insert(node, node.op, node.inputs, attrs, name=f"{name}.undivided", loc=node.loc)
    plain.precision = node.precision
    factors = channel_factors(node.attrs).astype(node.output.dtype)
    if getattr(node.attrs, "layout", "NHWC") == "NCHW":
        factors = factors.reshape(-1, 1, 1)
    constant = rewriter.constant(f"{name}.factors", factors)
    rewriter.replace_op(node, ops.get("mul"), [plain.output, constant])


def _original(value: Value) -> Value:
    """Return the tensor in float that a tensor repeats."""
    while value.producer is not None and value.producer.op.name == "identity" and not value.producer.is_integer:
        value = value.producer.inputs[0]
    return value


def _own_spec(value: Value) -> QSpec | None:
    """Return the QSpec that a tensor or, where it shares one, its source has."""
    while value.qspec is not None and value.qspec.kind == "shared" and value.producer is not None:
        value = value.producer.inputs[0]
    return value.qspec


def _stored(weight: Value) -> str:
    """Return a digest of the scales that a quantized model stores a weight with, "" where there are none."""
    return "" if weight.steps is None else hashlib.sha256(np.ascontiguousarray(weight.steps).tobytes()).hexdigest()


def _chosen_scales(weight: Value, spec: QSpec) -> Any:
    """Return the scales of a weight: those of the grid on which a quantized model's lie, or the best ones."""
    if spec.observer == "grid":
        scales = constant_scales(weight, spec.axis)
        if scales is None:
            raise InternalError("a weight of a quantized model does not lie on a grid")
        return scales
    method: Any = spec.observer
    return weight_scales(weight.constant(), spec.axis, method=method)


def _is_clamp(node: Node) -> bool:
    """Return whether a node only goes from integers to others and cuts them off."""
    if node.op.name == "clip" and _on_grid(node.output) and _on_grid(node.inputs[0]):
        return True
    return node.precision == INT16 and node.op.name in CLAMPS[1:]


def _on_grid(value: Value) -> bool:
    """Return whether a quantized model says to which integers a tensor is rounded."""
    return value.qspec is not None and value.qspec.observer == "grid"


def _grid_params(spec: QSpec) -> QParams:
    """Return the 16-bit form of a quantized model's own grid; one of 8 bits keeps its scale and zero point."""
    assert spec.range is not None
    if spec.dtype == INT16:
        return QParams.from_int16_range(*spec.range)
    return replace(QParams.from_range(*spec.range), dtype=INT16, qmin=-128, qmax=127)


def _feeds_only(value: Value, node: Node, rewriter: Rewriter) -> bool:
    takes = value.producer is not None and value.producer.op.adds_residual
    return takes and value.users() == [node] and value not in rewriter.graph.outputs and not _clamped(value)


def _clamped(value: Value) -> bool:
    return value.producer is not None and value.producer.attrs.activation != "none"


def _quantize_inputs(rewriter: Rewriter, context: PassContext) -> None:
    """Turn graph inputs that are only ever quantized, in one way, into integer inputs."""
    for value in rewriter.graph.inputs:
        readers = value.users()
        if value.dtype != "float32":
            continue
        if len(readers) != 1 or readers[0].op.name != "quantize":
            context.note(f"input '{value.name}' stays {value.dtype}: it is read in float")
            continue
        quantized = readers[0].output
        rewriter.replace_value(quantized, value)
        rewriter.erase(readers[0])
        rewriter.set_type(value, quantized.type, quantized.qparams)
