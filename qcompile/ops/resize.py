"""Another resolution of an image: nearest, linear or cubic interpolation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qcompile.ir.graph import Node, Value
from qcompile.ir.opdef import Array, OpDef, Quantization
from qcompile.ir.types import NARROW, TensorType
from qcompile.ops.interpolation import COORDINATES, ROUNDINGS, Axis, fixed_point, regular_factor
from qcompile.ops.layout import axis_indices
from qcompile.ops.onnx_node import OnnxNode
from qcompile.ops.open_scaling import Scaling, add_resize, open_scalings
from qcompile.ops.resampling import CroppedAxis, resampled
from qcompile.ops.reshape import reshaped
from qcompile.ops.spatial import from_nhwc, spatial_axes, to_nhwc, with_spatial
from qcompile.ops.transpose import transposed
from qcompile.quant import requantize as rq

MODES = ("nearest", "linear", "cubic")


@dataclass(frozen=True)
class ResizeAttrs:
    """Attributes of resize.

    Args:
        size: height and width of the result, elements.
        scales: ratio result to operand of height and width, which the coordinates follow.
        mode: one of MODES.
        coordinates: one of `qcompile.ops.interpolation.COORDINATES`.
        rounding: of nearest interpolation, one of `qcompile.ops.interpolation.ROUNDINGS`.
        cubic_coeff: parameter of the cubic kernel.
        exclude_outside: whether a cubic kernel leaves out what is beyond the edge.
        layout: "NCHW" or "NHWC".
    """

    size: tuple[int, int]
    scales: tuple[float, float]
    mode: str = "nearest"
    coordinates: str = "half_pixel"
    rounding: str = "round_prefer_floor"
    cubic_coeff: float = -0.75
    exclude_outside: bool = False
    layout: str = "NCHW"

    def __post_init__(self) -> None:
        for name, value, known in (
            ("mode", self.mode, MODES),
            ("coordinates", self.coordinates, COORDINATES),
            ("rounding", self.rounding, ROUNDINGS),
            ("layout", self.layout, ("NCHW", "NHWC")),
        ):
            if value not in known:
                raise ValueError(f"{name} '{value}' is none of {', '.join(known)}")
        if min(self.size) < 1 or not all(s > 0 and math.isfinite(s) for s in self.scales):
            raise ValueError(f"size {list(self.size)}, scales {list(self.scales)}")

    def axes(self, shape: Sequence[int]) -> tuple[Axis, Axis]:
        """Return how height and width are resized.

        Args:
            shape: of the operand.
        """
        where = spatial_axes(self.layout)
        height, width = (Axis(shape[where[k]], self.size[k], self.scales[k], self.coordinates) for k in (0, 1))
        return height, width


# -- ONNX -------------------------------------------------------------------------------------------------


def _upsample(node: OnnxNode) -> Value:
    given = node.attr("scales")
    scales = node.array(1, "scales").tolist() if given is None else given
    return _resized(node, scales, None, {"coordinates": "asymmetric", "rounding": "floor"})


def _resize(node: OnnxNode) -> Value:
    if node.opset < 11:
        scales = node.array(1, "scales").tolist()
        # Version 10 does not say how it rounds; this is how ONNX Runtime reads it.
        rounding = "ceil" if min(scales) < 1 else "floor"
        return _resized(node, scales, None, {"coordinates": "asymmetric", "rounding": rounding})
    coordinates = node.attr("coordinate_transformation_mode", "half_pixel")
    cropped = coordinates == "tf_crop_and_resize"
    if coordinates not in COORDINATES and not cropped:
        node.fail(f"coordinate_transformation_mode '{coordinates}'; supported: {', '.join(COORDINATES)}")
    details = {
        "coordinates": coordinates,
        "rounding": node.attr("nearest_mode", "round_prefer_floor"),
        "cubic_coeff": float(node.attr("cubic_coeff_a", -0.75)),
        "exclude_outside": bool(node.attr("exclude_outside", 0)),
    }
    scales, sizes = _whole_rank(node, 2, "scales", 1.0), _whole_rank(node, 3, "sizes", None)
    if cropped:
        return _cropped(node, scales, sizes, details)
    if sizes is not None:
        return _resized(node, *_from_sizes(node, sizes), details)
    if scales is None:
        node.fail("neither scales nor sizes are given")
    return _resized(node, scales, None, details)


def _whole_rank(node: OnnxNode, index: int, what: str, default: float | None) -> list[Any] | None:
    """Return scales or sizes for every axis, those that `axes` leaves out filled in."""
    given = node.array_or_none(index, what)
    if given is None:
        return None
    shape = node.type(0).shape
    if "axes" not in node.attributes:
        return list(given.tolist())
    full = [extent if default is None else default for extent in shape]
    for axis, value in zip(axis_indices(node.attributes["axes"], len(shape)), given.tolist(), strict=True):
        full[axis] = value
    return full


def _from_sizes(node: OnnxNode, sizes: list[Any]) -> tuple[list[float], list[int]]:
    """Return scales and extents for `sizes`, with the aspect ratio kept where the node says so."""
    shape = node.type(0).shape
    policy = node.attr("keep_aspect_ratio_policy", "stretch")
    ratios = [size / extent for size, extent in zip(sizes, shape, strict=True)]
    if policy == "stretch":
        return ratios, [int(s) for s in sizes]
    axes = axis_indices(node.attr("axes", range(len(shape))), len(shape))
    scale = (min if policy == "not_larger" else max)(ratios[a] for a in axes)
    scales = [scale if a in axes else 1.0 for a in range(len(shape))]
    # Half rounds up here.
    return scales, [math.floor(scale * d + 0.5) if a in axes else d for a, d in enumerate(shape)]


def _resized(node: OnnxNode, scales: Sequence[float], sizes: list[int] | None, details: dict[str, Any]) -> Value:
    """Resize the one or two axes that change, whichever they are."""
    x = node.value(0)
    rank = len(x.shape)
    if len(scales) != rank:
        node.fail(f"{len(scales)} scales for {x.type}")
    mode = {"bilinear": "linear"}.get(node.attr("mode", "nearest"), node.attr("mode", "nearest"))
    single = [float(np.float32(s)) for s in scales]
    out = sizes or [math.floor(np.float32(d) * np.float32(s)) for d, s in zip(x.shape, single, strict=True)]
    opened = {} if node.open is None else open_scalings(node, x, out, single)
    axes = [a for a in range(rank) if single[a] != 1.0 or out[a] != x.shape[a] or a in opened]
    if not axes:
        return x
    if mode not in MODES:
        node.fail(f"mode '{mode}' is none of {', '.join(MODES)}")
    filtered = bool(node.attr("antialias", 0)) and mode != "nearest" and min(single) < 1
    if len(axes) > 2 or filtered:
        if opened:
            node.fail("an open extent among more than two resized axes, or resized with antialiasing")
        found = {a: Axis(x.shape[a], out[a], single[a], details["coordinates"]) for a in axes}
        return resampled(node, found, {"mode": mode, **details}, filtered)
    if rank == 4 and set(axes) <= {2, 3}:
        return add_resize(node, x, None, (2, 3), (out, single), opened, {"mode": mode, **details})
    return _resized_elsewhere(node, x, axes, (out, single), opened, {"mode": mode, **details})


def _cropped(node: OnnxNode, scales: list[float] | None, sizes: list[int] | None, details: dict[str, Any]) -> Value:
    """Resize a region of interest, which must be a constant."""
    x, roi = node.value(0), node.array(1, "the region of interest").astype(np.float64)
    rank, mode = len(x.shape), node.attr("mode", "nearest")
    where = axis_indices(node.attr("axes", range(rank)), rank)
    if roi.size != 2 * len(where) or mode not in MODES or node.attr("antialias", 0):
        node.fail(f"a region of {roi.size} numbers, mode '{mode}', antialias {node.attr('antialias', 0)}")
    found: dict[int, Axis] = {}
    for a, start, end in zip(where, roi[: len(where)], roi[len(where) :], strict=True):
        ratio = 1.0 if scales is None else float(scales[a])
        size = math.floor(x.shape[a] * (end - start) * ratio) if sizes is None else int(sizes[a])
        if size != x.shape[a] or (start, end) != (0.0, 1.0):
            found[a] = CroppedAxis(x.shape[a], size, ratio, details["coordinates"], float(start), float(end))
    return resampled(node, found, {"mode": mode, **details})


def _resized_elsewhere(
    node: OnnxNode,
    x: Value,
    axes: list[int],
    sizes: tuple[list[int], list[float]],
    opened: dict[int, Scaling],
    details: dict[str, Any],
) -> Value:
    """Bring the axes that change to the end, as height and width of an image; resize; bring them back."""
    name = node.outputs[0]
    others = [a for a in range(len(x.shape)) if a not in axes]
    perm = others + axes
    moved = transposed(node, x, perm, f"{name}.moved")
    one = len(axes) == 1
    planes = math.prod(x.shape[a] for a in others)
    spatial = [x.shape[a] for a in axes]
    image = reshaped(node, moved, [1, planes, *([1] if one else []), *spatial], f"{name}.image")
    resized = add_resize(node, image, f"{name}.resized", (None, *axes)[-2:], sizes, opened, details)
    back = reshaped(node, resized, [sizes[0][a] for a in perm], f"{name}.planes")
    return transposed(node, back, [perm.index(a) for a in range(len(perm))])


# -- the operation ----------------------------------------------------------------------------------------


class Resize(OpDef):
    """y[n, c, i, j] = Σ a[i, u]·b[j, v]·x[n, c, rows[i, u], columns[j, v]], with 1, 2 or 4 taps per axis.

    Integer form: nearest copies q; linear takes the coefficients as 11-bit integers, acc = Σ a·b·(q − zp), and
    requantizes with m = s_x / (s_y·2^22). Both keep the QParams of the operand. Cubic stays in float.

    Source:
        ONNX Resize and Upsample.
    """

    name = "resize"
    Attrs = ResizeAttrs
    integer = Quantization.SHARED
    onnx: ClassVar[dict[str, Any]] = {"Resize": _resize, "Upsample": _upsample}

    def infer(self, attrs: ResizeAttrs, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the type of the result."""
        x = inputs[0]
        if x.rank != 4 or 0 in x.shape:
            raise ValueError(f"resize needs a 4-D operand, got {x}")
        if attrs.mode != "nearest" and x.dtype not in ("float32", "float64", *NARROW, "int8"):
            raise ValueError(f"{attrs.mode} interpolation of {x}")
        channels = x.shape[1] if attrs.layout == "NCHW" else x.shape[3]
        return (x.with_shape(with_spatial(x.shape, attrs.layout, attrs.size, channels)),)

    def evaluate(self, attrs: ResizeAttrs, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Interpolate in the precision of the operand."""
        taps = [axis_taps(attrs, axis) for axis in attrs.axes(inputs[0].shape)]
        return (from_nhwc(mixed(attrs, to_nhwc(inputs[0], attrs.layout), taps), attrs.layout),)

    def evaluate_integer(self, node: Node, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Copy, or interpolate in fixed point."""
        attrs = node.attrs
        if attrs.mode == "nearest":
            return self.evaluate(attrs, inputs)
        taps = [axis.linear() for axis in attrs.axes(inputs[0].shape)]
        return (from_nhwc(mixed_integer(node, to_nhwc(inputs[0], attrs.layout), taps), attrs.layout),)

    def integer_obstacle(self, node: Node) -> str | None:
        """Refuse cubic interpolation, whose result leaves the range of its operand."""
        return "cubic interpolation has no integer form" if node.attrs.mode == "cubic" else None

    def int16_obstacle(self, node: Node) -> str | None:
        """Refuse linear interpolation, whose fixed-point sums would leave int32."""
        return None if node.attrs.mode == "nearest" else "linear interpolation has no form on 16-bit activations"

    def only_moves(self, node: Node) -> bool:
        """Return whether it copies: what linear interpolation mixes is rounded."""
        return bool(node.attrs.mode == "nearest")

    def lower(self, node: Node, context: Any) -> None:
        """Emit one gather per tap, with tables of indices and coefficients."""
        rows, columns = node.attrs.axes(node.inputs[0].shape)
        if node.attrs.mode == "nearest":
            _lower_nearest(node, context, rows, columns)
        else:
            _lower_taps(node, context, rows, columns)


def linear_multiplier(operand: float, result: float) -> Any:
    """Return the requantization factor of linear interpolation.

    Formula:
        m = float32(s_x / (s_y · 2^22))

    Args:
        operand: s_x, real units per LSB.
        result: s_y, real units per LSB.
    """
    return rq.multiplier(operand, np.ldexp(result, 2 * rq.RESIZE_BITS))


def axis_taps(attrs: ResizeAttrs, axis: Axis) -> tuple[Array, Array]:
    """Return which elements each element of a result mixes along one axis, and their shares: [out, taps] each."""
    if attrs.mode == "nearest":
        indices = axis.nearest(attrs.rounding)[:, None]
        return indices, np.ones(indices.shape, np.float32)
    return axis.linear() if attrs.mode == "linear" else axis.cubic(attrs.cubic_coeff, attrs.exclude_outside)


def mixed(attrs: ResizeAttrs, x: Array, taps: Sequence[tuple[Array, Array]]) -> Array:
    """Return the resized real image.

    Args:
        attrs: say the mode.
        x: NHWC.
        taps: indices and shares of rows and of columns.
    """
    for where, (indices, shares) in enumerate(taps, 1):
        # What is only copied may be of any type.
        nearest = attrs.mode == "nearest"
        x = x.take(indices[:, 0], where) if nearest else _mix(x, where, indices, shares.astype(x.dtype))
    return x


def mixed_integer(node: Node, x: Array, taps: Sequence[tuple[Array, Array]]) -> Array:
    """Return the image resized by linear interpolation in fixed point; see `mixed`."""
    params, result = node.inputs[0].qparams, node.output.qparams
    assert params is not None
    assert result is not None
    acc = x.astype(np.int32) - np.int32(params.scalar_zero_point)
    for where, (indices, shares) in enumerate(taps, 1):
        acc = _mix(acc, where, indices, fixed_point(shares))
    return rq.requantize(acc, linear_multiplier(params.scalar_scale, result.scalar_scale), result)


def _mix(x: Array, where: int, indices: Array, coefficients: Array) -> Array:
    """Return the weighted sum of the taps along one axis of an NHWC array."""
    shape = [1, 1, 1, 1]
    shape[where] = len(indices)
    parts = [x.take(indices[:, t], where) * coefficients[:, t].reshape(shape) for t in range(indices.shape[1])]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _place(layout: str, i: Any, row: Any, column: Any) -> tuple[Any, ...]:
    return (i[0], i[1], row, column) if layout == "NCHW" else (i[0], row, column, i[3])


def _lower_nearest(node: Node, context: Any, rows: Axis, columns: Axis) -> None:
    layout = node.attrs.layout
    where = spatial_axes(layout)

    def source(axis: Axis) -> Any:
        indices = axis.nearest(node.attrs.rounding)
        factor = regular_factor(indices)
        if factor is not None:
            return lambda e, k: k if factor == 1 else k // factor
        table = context.constant(indices)
        return lambda e, k: e.at(table, k)

    row, column = source(rows), source(columns)
    context.map(node, lambda e, i: e.load(0, *_place(layout, i, row(e, i[where[0]]), column(e, i[where[1]]))))


def _lower_taps(node: Node, context: Any, rows: Axis, columns: Axis) -> None:
    attrs = node.attrs
    where = spatial_axes(attrs.layout)
    integer = node.is_integer
    indices, shares, count = [], [], 2 if attrs.mode == "linear" else 4
    for axis in (rows, columns):
        taps, coefficients = axis_taps(attrs, axis)
        table = fixed_point(coefficients) if integer else coefficients
        indices.append([context.constant(np.ascontiguousarray(taps[:, t])) for t in range(count)])
        shares.append([context.constant(np.ascontiguousarray(table[:, t])) for t in range(count)])

    def element(e: Any, i: Any) -> Any:
        total = None
        for u in range(count):
            row, share = e.at(indices[0][u], i[where[0]]), e.at(shares[0][u], i[where[0]])
            for v in range(count):
                index = _place(attrs.layout, i, row, e.at(indices[1][v], i[where[1]]))
                seen = e.centred(0, *index) if integer else e.load(0, *index)
                part = seen * (share * e.at(shares[1][v], i[where[1]]))
                total = part if total is None else total + part
        if not integer:
            return total
        x, y = node.inputs[0].qparams, node.output.qparams
        assert x is not None
        assert y is not None
        return e.requantize(total, float(linear_multiplier(x.scalar_scale, y.scalar_scale)))

    context.map(node, element)
