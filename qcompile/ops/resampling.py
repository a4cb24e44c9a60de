"""Resizing as products with constant matrices, one per axis: any number of axes, antialiasing, regions of interest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.ir.graph import Value
from qcompile.ops.interpolation import Axis
from qcompile.ops.onnx_node import FOLDED_LIMIT, OnnxNode
from qcompile.ops.transpose import transposed

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class CroppedAxis(Axis):
    """One axis of a region that is cut out and resized.

    Args:
        start: where the region begins, relative to the extent less one.
        end: where it ends.
    """

    start: float = 0.0
    end: float = 1.0

    def positions(self) -> npt.NDArray[np.float32]:
        """Return the position in the operand, in elements, that each element of the result stands for.

        Formula:
            (start + i·(end − start)/(out − 1))·(size − 1); the middle of the region where out = 1

        Source:
            ONNX Resize, coordinate_transformation_mode tf_crop_and_resize.
        """
        reach = self.size - 1
        if self.out == 1:
            return np.asarray([0.5 * (self.start + self.end) * reach], np.float32)
        step = (self.end - self.start) * reach / (self.out - 1)
        return np.asarray(self.start * reach + np.arange(self.out) * step, np.float32)

    def outside(self) -> npt.NDArray[np.bool_]:
        """Return which elements of the result lie beyond the operand."""
        x = self.positions()
        return np.asarray((x < 0) | (x > self.size - 1))


def matrix(axis: Axis, details: Mapping[str, Any], antialias: bool = False) -> Array:
    """Return the shares [out, size] that the elements of a result have of those of the operand.

    Args:
        axis: what is resized.
        details: of the interpolation: mode, rounding, cubic_coeff, exclude_outside.
        antialias: whether each element of a smaller result averages all that it stands for.
    """
    mode = details["mode"]
    if antialias and axis.scale < 1 and mode != "nearest":
        indices, shares = _filtered(axis, mode, details["cubic_coeff"], details["exclude_outside"])
    elif mode == "nearest":
        indices = axis.nearest(details["rounding"])[:, None]
        shares = np.ones(indices.shape, np.float32)
    else:
        cubic = mode == "cubic"
        indices, shares = axis.cubic(details["cubic_coeff"], details["exclude_outside"]) if cubic else axis.linear()
    result = np.zeros((axis.out, axis.size), np.float32)
    np.add.at(result, (np.arange(axis.out)[:, None], indices), shares)
    if isinstance(axis, CroppedAxis):
        result[axis.outside()] = 0
    return result


def _filtered(axis: Axis, mode: str, a: float, exclude_outside: bool) -> tuple[Array, Array]:
    """Return taps and shares of an interpolation whose kernel is as wide as what a result stands for.

    Formula:
        share(u) = k((u − x)·scale) / Σ k, k the kernel of the interpolation, x the position

    Source:
        ONNX Resize, antialias = 1.
    """
    x = axis.positions().astype(np.float64)[:, None]
    reach = int(np.ceil((2 if mode == "cubic" else 1) / axis.scale)) + 1
    taps = np.floor(x) + np.arange(-reach, reach + 1)
    d = np.abs(taps - x) * axis.scale
    shares = np.maximum(1 - d, 0)
    if mode == "cubic":
        far = ((d - 5) * d + 8) * d * a - 4 * a
        shares = np.where(d <= 1, ((a + 2) * d - (a + 3)) * d * d + 1, np.where(d < 2, far, 0.0))
    if exclude_outside:
        shares = np.where((taps < 0) | (taps >= axis.size), 0.0, shares)
    shares = shares / shares.sum(1, keepdims=True)
    return np.clip(taps, 0, axis.size - 1).astype(np.int64), shares.astype(np.float32)


def resampled(node: OnnxNode, axes: Mapping[int, Axis], details: Mapping[str, Any], antialias: bool = False) -> Value:
    """Resize axes one after the other: by copies where elements are only moved, else by products.

    Args:
        node: ONNX Resize; `extrapolation_value` stands for what is outside of regions of interest.
        axes: by their number.
        details: as for `matrix`.
        antialias: as for `matrix`.
    """
    x, name = node.value(0), node.outputs[0]
    rank, fill = len(x.shape), float(node.attr("extrapolation_value", 0.0))
    outside = np.zeros([1] * rank, bool)
    for axis in axes.values():
        fits = axis.out > 0 and axis.size > 0 and axis.scale > 0 and np.isfinite(axis.scale)
        if not fits or axis.out * axis.size * 4 > FOLDED_LIMIT:
            node.fail(f"a size of {axis.out} for {axis.size} elements, scale {axis.scale}")
    for number, (where, axis) in enumerate(axes.items()):
        if details["mode"] == "nearest":
            indices = node.constant(f"places{number}", axis.nearest(details["rounding"]), "int64")
            x = node.add("gather", [x, indices], name=f"{name}.axis{number}", axis=where)
        else:
            x = _product(node, x, where, matrix(axis, details, antialias), f"{name}.axis{number}")
        if isinstance(axis, CroppedAxis):
            outside = outside | axis.outside().reshape([-1 if a == where else 1 for a in range(rank)])
    if not outside.any():
        return x
    x = node.add("mul", [x, node.constant("inside", ~outside, x.dtype)], name=f"{name}.inside")
    return node.add("add", [x, node.constant("outside", outside * fill, x.dtype)], name=f"{name}.filled")


def _product(node: OnnxNode, x: Value, where: int, shares: Array, name: str) -> Value:
    """Multiply an axis by a matrix: at the end of the tensor, where products take it."""
    perm = [a for a in range(len(x.shape)) if a != where] + [where]
    moved = transposed(node, x, perm, f"{name}.last")
    weight = node.constant(f"shares{where}", shares, x.dtype)
    bias = node.constant(f"none{where}", np.zeros(len(shares)), x.dtype)
    product = node.add("dense", [moved, weight, bias], name=f"{name}.product")
    return transposed(node, product, [perm.index(a) for a in range(len(perm))], name)
