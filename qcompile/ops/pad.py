"""Elements added around a tensor: a constant, the edge, its mirror image or its other end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qcompile.ir.graph import Node, Value
from qcompile.ir.opdef import Array, OpDef, Quantization
from qcompile.ir.range_source import range_source
from qcompile.ir.types import NARROW, TensorType
from qcompile.ops.layout import axis_indices
from qcompile.ops.onnx_node import OnnxNode
from qcompile.ops.open_part import open_padded
from qcompile.ops.sliced import sliced
from qcompile.quant.affine import quantize
from qcompile.quant.qparams import QParams

MODES = ("constant", "reflect", "edge", "wrap")


@dataclass(frozen=True)
class PadAttrs:
    """Attributes of pad.

    Args:
        pads: elements added before each axis, then after each axis; none is negative.
        mode: one of MODES.
        value: what a constant pad adds, real units.
    """

    pads: tuple[int, ...]
    mode: str = "constant"
    value: float = 0.0

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode '{self.mode}' is none of {', '.join(MODES)}")
        if len(self.pads) % 2 or min(self.pads, default=0) < 0:
            raise ValueError(f"pads {list(self.pads)} are not two non-negative numbers per axis")

    def pairs(self) -> list[tuple[int, int]]:
        """Return (before, after) of each axis."""
        rank = len(self.pads) // 2
        return list(zip(self.pads[:rank], self.pads[rank:], strict=True))


def _from_onnx(node: OnnxNode) -> Value:
    x = node.value(0)
    rank = len(x.shape)
    given = node.attr("pads")
    if given is None:
        given = node.array(1, "pads").reshape(-1).tolist()
    fill = node.array_or_none(2, "the fill value")
    value = float(node.attr("value", 0.0) if fill is None else fill.reshape(-1)[0])
    axes = list(range(rank))
    if node.has(3):
        axes = axis_indices(node.array(3, "axes"), rank)
    if len(given) != 2 * len(axes):
        node.fail(f"{len(given)} pads for {len(axes)} axes")
    before, after = [0] * rank, [0] * rank
    for k, axis in enumerate(axes):
        before[axis], after[axis] = int(given[k]), int(given[k + len(axes)])
    mode = node.attr("mode", "constant")
    if min(before + after, default=0) < 0:
        x = _crop(node, x, before, after)
    if node.open is not None and mode in ("reflect", "wrap"):
        x = open_padded(node, x, before, after, mode)
    pads = tuple(max(p, 0) for p in (*before, *after))
    return node.add("pad", [x], pads=pads, mode=mode, value=value) if any(pads) else x


def _crop(node: OnnxNode, x: Value, before: Sequence[int], after: Sequence[int]) -> Value:
    """Take away what negative pads say, of which an edge or a mirror image then sees nothing."""
    ranges = {
        a: slice(max(-b, 0), extent - max(-e, 0))
        for a, (extent, b, e) in enumerate(zip(x.shape, before, after, strict=True))
    }
    more = any(p > 0 for p in (*before, *after))
    return sliced(node, x, ranges, f"{node.outputs[0]}.cropped" if more else None)


class Pad(OpDef):
    """y = x with elements added before and after each axis.

    constant: `value`. edge: the nearest element. reflect: the mirror image, edge not repeated. wrap: x repeated.

    Integer form: the same on q; a constant is quantized with the QParams of x, so that 0 becomes the zero point
    and −∞ (before a max pool) the smallest q.

    Source:
        ONNX Pad.
    """

    name = "pad"
    Attrs = PadAttrs
    integer = Quantization.SHARED
    onnx: ClassVar[dict[str, Any]] = {"Pad": _from_onnx}

    def infer(self, attrs: PadAttrs, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the type of the result."""
        x, pairs = inputs[0], attrs.pairs()
        if len(pairs) != x.rank:
            raise ValueError(f"pads {list(attrs.pads)} do not fit {x}")
        for extent, pair in zip(x.shape, pairs, strict=True):
            if attrs.mode == "reflect" and max(pair) >= max(extent, 1) and max(pair) > 0:
                raise ValueError(f"an axis of {extent} elements has no mirror image of {max(pair)}")
            if attrs.mode != "constant" and extent == 0 and max(pair) > 0:
                raise ValueError(f"an empty axis of {x} cannot be padded by mode '{attrs.mode}'")
        return (x.with_shape(tuple(d + sum(p) for d, p in zip(x.shape, pairs, strict=True))),)

    def evaluate(self, attrs: PadAttrs, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Return the padded tensor."""
        return (_padded(attrs, inputs[0], inputs[0].dtype.type(attrs.value)),)

    def evaluate_integer(self, node: Node, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Return the padded tensor in LSB."""
        params = node.inputs[0].qparams
        assert params is not None
        return (_padded(node.attrs, inputs[0], inputs[0].dtype.type(quantized_fill(node.attrs, params))),)

    def only_moves(self, node: Node) -> bool:
        """Return whether all that it adds lies on the grid of its operand, whichever that is."""
        return bool(node.attrs.mode != "constant" or node.attrs.value == 0)

    def shares_range(self, node: Node) -> bool:
        """Return whether its operand may hold what it adds, or something as small will do."""
        return self.only_moves(node) or (node.attrs.value <= 0.0 and _is_pooled(node))

    def integer_obstacle(self, node: Node) -> str | None:
        """Return why a constant is beyond the integers that it would have to be among, None where it is not."""
        attrs, spec = node.attrs, range_source(node.inputs[0]).qspec
        if attrs.mode != "constant" or spec is None or spec.range is None:
            return None
        low, high = spec.range
        half = (high - low) / 510
        pooled = bool(node.output.uses) and _is_pooled(node)
        if attrs.value > high + half or (attrs.value < low - half and not pooled):
            return f"it adds {attrs.value:g}, beyond the range of {node.inputs[0].name}"
        return None

    def lower(self, node: Node, context: Any) -> None:
        """Emit a copy that computes where each element comes from."""
        if node.attrs.mode == "constant":
            context.map(node, _constant_element(node))
        else:
            context.map(node, _moved_element(node))


def _is_pooled(node: Node) -> bool:
    """Return whether max pools alone read the result: they take the smallest integer for what is below all others."""
    return all(reader.op.name == "max_pool" for reader in node.output.users())


def quantized_fill(attrs: PadAttrs, qparams: QParams) -> int:
    """Return the integer that a constant pad adds, in LSB.

    Formula:
        q = clamp(rne(value / scale), qmin − zp, qmax − zp) + zp; exactly zp for 0

    Args:
        attrs: of the pad.
        qparams: of the padded tensor, per tensor.
    """
    if attrs.value == 0:
        return qparams.scalar_zero_point
    return int(quantize(np.asarray([attrs.value], np.float32), qparams)[0])


def _padded(attrs: PadAttrs, x: Array, fill: Any) -> Array:
    if attrs.mode == "constant":
        return np.pad(x, attrs.pairs(), constant_values=fill)
    return np.pad(x, attrs.pairs(), mode=attrs.mode)  # type: ignore[call-overload, no-any-return]


def _constant_element(node: Node) -> Any:
    pairs = node.attrs.pairs()
    shape = node.inputs[0].shape
    qparams = node.inputs[0].qparams

    def element(e: Any, i: Any) -> Any:
        inside, index = None, []
        for axis, (before, after) in enumerate(pairs):
            position = i[axis] - before if before else i[axis]
            index.append(position)
            for bound in ([i[axis] >= before] if before else []) + ([position < shape[axis]] if after else []):
                inside = bound if inside is None else e.and_(inside, bound)
        if qparams is not None:
            fill = e.clamp_store(e.i32(quantized_fill(node.attrs, qparams) - qparams.scalar_zero_point))
        elif node.inputs[0].dtype in ("float32", *NARROW):
            fill = e.f32(node.attrs.value)
        else:
            fill = e.cast(e.i32(int(node.attrs.value)), node.inputs[0].dtype)
        return e.load(0, *index) if inside is None else e.load_or(0, tuple(index), inside, fill)

    return element


def _moved_element(node: Node) -> Any:
    pairs = node.attrs.pairs()
    shape = node.inputs[0].shape

    def source(e: Any, i: Any, axis: int) -> Any:
        before, after = pairs[axis]
        if not before and not after:
            return i[axis]
        last = shape[axis] - 1
        position = i[axis] - before
        if node.attrs.mode == "edge":
            return e.min(e.max(position, 0), last)
        if node.attrs.mode == "reflect":
            return last - e.abs(last - e.abs(position))
        # As many whole lengths are added as keep the dividend from being negative.
        return (i[axis] + (-before) % shape[axis]) % shape[axis]

    return lambda e, i: e.load(0, *(source(e, i, axis) for axis in range(len(pairs))))


__all__ = ["Pad", "PadAttrs", "quantized_fill"]
