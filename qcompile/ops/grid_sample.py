"""An image sampled at computed coordinates."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qcompile.ir.graph import Node, Value
from qcompile.ir.opdef import Array, OpDef
from qcompile.ir.types import TensorType
from qcompile.ops.onnx_node import OnnxNode
from qcompile.ops.sampling import REACH, ArrayBuilder, cubic_weights, floor_index, reflect

_MODES = {"bilinear": "linear", "linear": "linear", "nearest": "nearest", "bicubic": "cubic", "cubic": "cubic"}
PADDINGS = ("zeros", "border", "reflection")


@dataclass(frozen=True)
class GridSampleAttrs:
    """Attributes of grid_sample.

    Args:
        mode: "linear", "nearest" or "cubic".
        padding: what lies outside of the image: "zeros", "border" (the nearest element) or "reflection".
        align_corners: whether ±1 are the centres of the outermost elements, else their outer edges.
    """

    mode: str = "linear"
    padding: str = "zeros"
    align_corners: bool = False

    def __post_init__(self) -> None:
        if self.mode not in _MODES.values() or self.padding not in PADDINGS:
            raise ValueError(f"mode '{self.mode}' with padding '{self.padding}'")


def _from_onnx(node: OnnxNode) -> Value:
    mode, padding = str(node.attr("mode", "linear")), str(node.attr("padding_mode", "zeros"))
    if mode not in _MODES:
        node.fail(f"mode '{mode}'")
    aligned = bool(node.attr("align_corners", 0))
    return node.add(
        "grid_sample", [node.value(0), node.value(1)], mode=_MODES[mode], padding=padding, align_corners=aligned
    )


Fetch = Callable[[Sequence[Any], Any], Any]


class GridSample(OpDef):
    """y[n, c, i…] = x[n, c, …] at the coordinates grid[n, i…], interpolated.

    Operands: x [N, C, D…], grid [N, I…, number of spatial axes], the innermost axis first, −1 … 1 over the image.

    Source:
        ONNX GridSample; Jaderberg et al. 2015.
    """

    name = "grid_sample"
    Attrs = GridSampleAttrs
    places = (1,)
    onnx: ClassVar[dict[str, Any]] = {"GridSample": _from_onnx}

    def infer(self, attrs: GridSampleAttrs, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the type of the result."""
        x, grid = inputs
        axes = x.rank - 2
        fits = axes in (1, 2, 3) and grid.rank == x.rank and grid.shape[0] == x.shape[0] and grid.shape[-1] == axes
        if not fits or (attrs.mode == "cubic" and axes != 2):
            raise ValueError(f"a {attrs.mode} sampling of {x} at {grid}")
        return (x.with_shape((*x.shape[:2], *grid.shape[1:-1])),)

    def evaluate(self, attrs: GridSampleAttrs, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Sample every point, all channels at once."""
        x, grid = inputs
        axes = x.ndim - 2
        batch = np.arange(x.shape[0]).reshape((-1,) + (1,) * axes)
        channels_last = np.moveaxis(x, 1, -1)

        def fetch(position: Sequence[Any], inside: Any) -> Any:
            safe = [np.clip(p, 0, d - 1) for p, d in zip(position, x.shape[2:], strict=True)]
            places = (batch, *safe)
            found = channels_last[places]
            return found if inside is None else np.where(np.asarray(inside)[..., None], found, x.dtype.type(0))

        coordinates = [grid[..., axes - 1 - axis] for axis in range(axes)]
        weigh = lambda value, weight: value * np.asarray(weight)[..., None]  # noqa: E731
        with np.errstate(all="ignore"):
            y = _sample(ArrayBuilder(), attrs, x.shape[2:], coordinates, fetch, weigh)
        return (np.ascontiguousarray(np.moveaxis(y, -1, 1)).astype(x.dtype, copy=False),)

    def lower(self, node: Node, context: Any) -> None:
        """Emit one expression per element; it reads the neighbours one by one."""
        shape = node.inputs[0].shape
        axes = len(shape) - 2

        def element(e: Any, i: Any) -> Any:
            def fetch(position: Sequence[Any], inside: Any) -> Any:
                if inside is None:
                    return e.load(0, i[0], i[1], *position)
                return e.load_or(0, (i[0], i[1], *position), inside, 0.0)

            coordinates = [e.load(1, i[0], *i[2:], axes - 1 - axis) for axis in range(axes)]
            return _sample(e, node.attrs, shape[2:], coordinates, fetch, lambda value, weight: value * weight)

        context.map(node, element)


def _sample(
    e: Any, attrs: GridSampleAttrs, shape: Sequence[int], coordinates: Sequence[Any], fetch: Fetch, weigh: Any
) -> Any:
    """Return the value at normalized coordinates, one per spatial axis of `shape`."""
    places = []
    for x, extent in zip(coordinates, shape, strict=True):
        at = _denormalized(e, attrs, x, extent)
        # Cubic weights reach beyond the border; there each neighbour is moved inside, not the point.
        places.append(at if attrs.mode == "cubic" else _inside(e, attrs, at, extent))
    taps = [_taps(e, attrs.mode, place) for place in places]
    total = None
    for combination in itertools.product(*taps):
        position, inside = _positions(e, attrs, [index for index, _ in combination], shape)
        value = fetch(position, inside)
        for _, weight in combination:
            value = value if weight is None else weigh(value, weight)
        total = value if total is None else total + value
    return total


def _denormalized(e: Any, attrs: GridSampleAttrs, x: Any, extent: int) -> Any:
    half = e.f32(0.5)
    if attrs.align_corners:
        return (x + e.f32(1.0)) * half * e.f32(extent - 1)
    return ((x + e.f32(1.0)) * e.f32(extent) - e.f32(1.0)) * half


def _bounds(attrs: GridSampleAttrs, extent: int) -> tuple[float, float]:
    return (0.0, extent - 1.0) if attrs.align_corners else (-0.5, extent - 0.5)


def _inside(e: Any, attrs: GridSampleAttrs, x: Any, extent: int) -> Any:
    if attrs.padding == "border":
        return e.min(e.max(x, e.f32(0.0)), e.f32(extent - 1.0))
    if attrs.padding == "reflection":
        return reflect(e, x, *_bounds(attrs, extent))
    return x


def _taps(e: Any, mode: str, x: Any) -> list[tuple[Any, Any]]:
    """Return the elements that count along one axis, with their weights (None for 1)."""
    if mode == "nearest":
        return [(e.round_clamp(x, e.f32(-REACH), e.f32(REACH)), None)]
    index, rest = floor_index(e, x)
    if mode == "linear":
        return [(index, e.f32(1.0) - rest), (index + e.i32(1), rest)]
    return [(index + e.i32(k - 1), weight) for k, weight in enumerate(cubic_weights(e, rest))]


def _positions(e: Any, attrs: GridSampleAttrs, indices: Sequence[Any], shape: Sequence[int]) -> tuple[list[Any], Any]:
    """Return where to read, and the condition under which there is something to read (None for always)."""
    if attrs.padding == "zeros":
        inside = None
        for index, extent in zip(indices, shape, strict=True):
            here = e.and_(index >= e.i32(0), index < e.i32(extent))
            inside = here if inside is None else e.and_(inside, here)
        return list(indices), inside
    found = []
    for index, extent in zip(indices, shape, strict=True):
        if attrs.padding == "reflection":
            mirrored = reflect(e, e.cast(index, "float32"), *_bounds(attrs, extent))
            index = e.round_clamp(mirrored, e.f32(-REACH), e.f32(REACH))
        found.append(e.min(e.max(index, e.i32(0)), e.i32(extent - 1)))
    return found, None
