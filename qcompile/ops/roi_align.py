"""Regions of an image averaged into grids of one size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qcompile.ir.graph import Node, Value
from qcompile.ir.opdef import Array, OpDef
from qcompile.ir.types import TensorType
from qcompile.ops.onnx_node import OnnxNode
from qcompile.ops.sampling import ArrayBuilder, floor_index


@dataclass(frozen=True)
class RoiAlignAttrs:
    """Attributes of roi_align.

    Args:
        size: extents of a region's grid.
        samples: points per cell along each axis.
        scale: elements of the image per unit of the regions' coordinates.
        half_pixel: whether element centres lie at half numbers.
        maximum: whether a cell is the largest of its points' weighted neighbours, else the mean of its points.
    """

    size: tuple[int, int] = (1, 1)
    samples: int = 1
    scale: float = 1.0
    half_pixel: bool = True
    maximum: bool = False

    def __post_init__(self) -> None:
        if min(*self.size, self.samples) < 1:
            raise ValueError(f"a grid of {self.size} cells with {self.samples} points")


def _from_onnx(node: OnnxNode) -> Value:
    samples = int(node.attr("sampling_ratio", 0))
    if samples < 1:
        node.fail("sampling_ratio=0: the number of points would depend on the data")
    usual = "half_pixel" if node.opset >= 16 else "output_half_pixel"
    transform = str(node.attr("coordinate_transformation_mode", usual))
    return node.add(
        "roi_align",
        [node.value(0), node.value(1), node.value(2)],
        size=(int(node.attr("output_height", 1)), int(node.attr("output_width", 1))),
        samples=samples,
        scale=float(node.attr("spatial_scale", 1.0)),
        half_pixel=transform == "half_pixel",
        maximum=str(node.attr("mode", "avg")) == "max",
    )


class RoiAlign(OpDef):
    """y[r, c, i, j] = mean over points of x[batch[r], c, …] at region r's cell (i, j), bilinear.

    Operands: x [N, C, H, W], regions [R, 4] as x1, y1, x2, y2, batch [R] int64 (out of range counts as the nearest).

    Source:
        ONNX RoiAlign; He et al. 2017.
    """

    name = "roi_align"
    Attrs = RoiAlignAttrs
    places = (1,)
    onnx: ClassVar[dict[str, Any]] = {"RoiAlign": _from_onnx}

    def infer(self, attrs: RoiAlignAttrs, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the type of the result."""
        x, regions, batch = inputs
        fits = x.rank == 4 and regions.rank == 2 and regions.shape[1] == 4 and batch.shape == regions.shape[:1]
        if not fits or batch.dtype not in ("int32", "int64") or 0 in x.shape:
            raise ValueError(f"regions {regions} of {x}, entries {batch}")
        return (x.with_shape((regions.shape[0], x.shape[1], *attrs.size)),)

    def evaluate(self, attrs: RoiAlignAttrs, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Add up the points of all cells, one point of each at a time."""
        x, regions, batch = inputs
        (shape,) = (t.shape for t in self.infer(attrs, [TensorType(a.dtype.name, a.shape) for a in inputs]))
        r, c, i, j = np.indices(shape)
        entry = np.clip(batch, 0, x.shape[0] - 1)[r]
        builder = ArrayBuilder()
        total = np.full(shape, -np.inf if attrs.maximum else 0.0, x.dtype)
        for sample in np.ndindex(attrs.samples, attrs.samples):
            terms = _terms(
                builder, attrs, x.shape[2:], lambda k: regions[r, k], (i, j), sample, lambda y, z: x[entry, c, y, z]
            )
            total = np.maximum.reduce([total, *terms]) if attrs.maximum else total + sum(terms)
        return ((total if attrs.maximum else total / x.dtype.type(attrs.samples**2)).astype(x.dtype, copy=False),)

    def lower(self, node: Node, context: Any) -> None:
        """Emit a reduction over the points of each cell."""
        attrs, shape = node.attrs, node.inputs[0].shape

        def body(e: Any, i: Any, r: Any) -> Any:
            number = e.cast(e.load(2, i[0]), "int32")
            entry = e.min(e.max(number, e.i32(0)), e.i32(shape[0] - 1))
            terms = _terms(
                e, attrs, shape[2:], lambda k: e.load(1, i[0], k), (i[2], i[3]), r,
                lambda y, x: e.load(0, entry, i[1], y, x),
            )  # fmt: skip
            total = terms[0]
            for term in terms[1:]:
                total = e.max(total, term) if attrs.maximum else total + term
            return total

        start = float("-inf") if attrs.maximum else 0.0
        share = 1.0 if attrs.maximum else 1.0 / attrs.samples**2
        combine = "max" if attrs.maximum else "sum"
        window = (attrs.samples, attrs.samples)
        context.reduce(node, window, body, combine, (start, "float32"), lambda e, acc, i: acc * e.f32(share))


def _terms(
    e: Any,
    attrs: RoiAlignAttrs,
    shape: Sequence[int],
    corner: Any,
    cell: Sequence[Any],
    sample: Sequence[Any],
    fetch: Any,
) -> list[Any]:
    """Return the four weighted neighbours of a point."""
    sides = []
    for axis in (0, 1):
        offset = 0.5 if attrs.half_pixel else 0.0
        first = corner(1 - axis) * e.f32(attrs.scale) - e.f32(offset)
        length = corner(3 - axis) * e.f32(attrs.scale) - e.f32(offset) - first
        if not attrs.half_pixel:
            length = e.max(length, e.f32(1.0))
        width = length * e.f32(1.0 / attrs.size[axis])
        within = (e.cast(sample[axis], "float32") + e.f32(0.5)) * e.f32(1.0 / attrs.samples)
        at = first + (e.cast(cell[axis], "float32") + within) * width
        sides.append(_neighbours(e, at, shape[axis]))
    (y, y_in), (x, x_in) = sides
    inside = e.and_(y_in, x_in)
    return [
        e.select(inside, fetch(row, column) * (row_share * column_share), e.f32(0.0))
        for row, row_share in y
        for column, column_share in x
    ]


def _neighbours(e: Any, at: Any, extent: int) -> tuple[list[tuple[Any, Any]], Any]:
    """Return the two elements next to a coordinate with their shares, and whether it lies near the image."""
    inside = e.and_(at >= e.f32(-1.0), at <= e.f32(float(extent)))
    bounded = e.min(e.max(at, e.f32(0.0)), e.f32(extent - 1.0))
    low, rest = floor_index(e, bounded)
    low = e.min(e.max(low, e.i32(0)), e.i32(extent - 1))
    high = e.min(low + e.i32(1), e.i32(extent - 1))
    return [(low, e.f32(1.0) - rest), (high, rest)], inside
