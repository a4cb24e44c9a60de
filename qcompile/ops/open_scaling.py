"""How a model resizes axes that are open: extents and scales at every size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qcompile.ir.graph import Value
from qcompile.ops.layout import axis_indices
from qcompile.ops.onnx_node import OnnxNode

_LOCAL = ("half_pixel", "asymmetric", "half_pixel_symmetric", "pytorch_half_pixel")


@dataclass(frozen=True)
class Scaling:
    """How one axis is resized at each size.

    Args:
        symbol: the open extent that it follows; "" where it is fixed, and the tables have one entry.
        lengths: extents of the operand.
        sizes: extents of the result.
        scales: ratio result to operand.
    """

    symbol: str
    lengths: tuple[int, ...]
    sizes: tuple[int, ...]
    scales: tuple[float, ...]

    def is_even(self, coordinates: str) -> bool:
        """Return whether each element comes from the same place at every size: a whole factor."""
        factor = round(self.scales[-1])
        whole = set(self.scales) == {float(factor)} and self.sizes == tuple(n * factor for n in self.lengths)
        return not self.symbol or (whole and coordinates in _LOCAL)


def open_scalings(node: OnnxNode, x: Value, out: Sequence[int], scales: Sequence[float]) -> dict[int, Scaling]:
    """Return how the open axes of a Resize or Upsample change.

    Args:
        node: the ONNX node.
        x: its operand.
        out: extents of the result at the largest sizes.
        scales: ratios there, one an axis.

    Returns:
        By axis of x; those that keep their extent at every size are left out.
    """
    found = {}
    for axis, scale in enumerate(scales):
        scaling = _scaling(node, x, axis, scale)
        if scaling is None or (scaling.lengths == scaling.sizes and set(scaling.scales) == {1.0}):
            continue
        if scaling.sizes[-1] != max(scaling.sizes) or scaling.sizes[-1] != out[axis]:
            node.fail(f"axis {axis} of its result is not longest at the largest '{scaling.symbol}'")
        if node.attr("keep_aspect_ratio_policy", "stretch") != "stretch":
            node.fail(f"keep_aspect_ratio_policy with the open extent '{scaling.symbol}'")
        found[axis] = scaling
    return found


def _scaling(node: OnnxNode, x: Value, axis: int, scale: float) -> Scaling | None:
    """Return how one axis changes, None where it is fixed."""
    vector, is_size = _given(node)
    axes = axis_indices(node.attributes["axes"], len(x.shape)) if "axes" in node.attributes else range(len(x.shape))
    place = list(axes).index(axis) if axis in axes else None
    extent = node.open.extent(x, axis)
    symbols = set() if extent is None else {extent.symbol}
    if vector is not None and place is not None:
        symbols |= node.open.symbols(vector, place)
    if not symbols:
        return None
    if len(symbols) > 1:
        node.fail(f"the size of axis {axis} depends on several open extents ({', '.join(sorted(symbols))})")
    symbol = symbols.pop()
    count = node.open.count(symbol)
    inputs = (x.shape[axis],) * count if extent is None else extent.table
    if vector is None or place is None:
        ratios = [np.float32(scale if place is not None else 1.0)] * count
    else:
        numbers = [array.reshape(-1)[place] for array in node.open.table(vector, symbol)]
        if is_size:
            ratio = tuple(float(np.float32(s / n)) for s, n in zip(numbers, inputs, strict=True))
            return Scaling(symbol, inputs, tuple(int(s) for s in numbers), ratio)
        ratios = [np.float32(r) for r in numbers]
    sizes = tuple(math.floor(np.float32(n) * r) for n, r in zip(inputs, ratios, strict=True))
    return Scaling(symbol, inputs, sizes, tuple(float(r) for r in ratios))


def _given(node: OnnxNode) -> tuple[Value | None, bool]:
    """Return the vector that says how axes change, None where it is an attribute; and whether it holds sizes."""
    if node.op_type == "Upsample" or node.opset < 11:
        return (node.inputs[1] if node.has(1) else None), False
    if node.has(3) and node.value(3).type.size:
        return node.inputs[3], True
    return node.inputs[2], False


def add_resize(
    node: OnnxNode,
    image: Value,
    name: str | None,
    axes: Sequence[int | None],
    sizes: tuple[Sequence[int], Sequence[float]],
    scalings: Mapping[int, Scaling],
    details: Mapping[str, Any],
) -> Value:
    """Append a resize of height and width, with tables where these are open.

    Args:
        node: the ONNX node.
        image: NCHW.
        name: wanted name of the result.
        axes: of the model's operand that are height and width; None for one of a single element.
        sizes: extents of the result and ratios at the largest sizes, by axis of the model's operand.
        scalings: of open axes.
        details: further attributes.
    """
    out, ratios = sizes
    made = []
    for k, axis in enumerate(axes):
        size, ratio = (1, 1.0) if axis is None else (out[axis], ratios[axis])
        fixed = Scaling("", (image.shape[2 + k],), (size,), (ratio,))
        made.append(fixed if axis is None else scalings.get(axis, fixed))
    if all(scaling.is_even(details["coordinates"]) for scaling in made):
        whole = {"size": tuple(s.sizes[-1] for s in made), "scales": tuple(s.scales[-1] for s in made)}
        return node.add("resize", [image], name, **whole, **details)
    tables = {f: tuple(getattr(s, f) for s in made) for f in ("lengths", "sizes", "scales")}
    return node.add("open_resize", [image], name, symbols=tuple(s.symbol for s in made), **tables, **details)
