"""The gradients of operations, for one sample: from those of a node's results to those of its operands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.calibrate.block_gradients import input_gradient
from qcompile.ir.graph import Node
from qcompile.ops.convolution import convolve
from qcompile.ops.elementwise import Binary, Unary
from qcompile.ops.reduction import GlobalPoolAttrs, global_axes

Array = npt.NDArray[Any]

_STEP = 1e-3
"""Of a difference that stands for a derivative, as a part of an element, or of all on average where it is small."""

_FLAT = ("ceil", "floor", "round", "sign")
"""Functions that do not change where they have a derivative."""

_MOVES = ("concat", "expand", "gather", "gather_elements", "identity", "pad", "reshape", "slice", "split", "transpose")
_BY_ELEMENT = ("prelu", "where")

_TINY = 1e-30


@dataclass(frozen=True)
class Evaluated:
    """A node that was evaluated.

    Args:
        node: of a float graph.
        operands: arrays, as it read them.
        results: arrays, as it made them.
        slopes: of the activation that is fused into it, at each element; 1 where there is none.
    """

    node: Node
    operands: Sequence[Array]
    results: Sequence[Array]
    slopes: Array | float = 1.0

    @property
    def followed(self) -> list[int]:
        """Operands whose gradients anybody asks for: computed ones of real numbers."""
        values = enumerate(zip(self.node.inputs, self.operands, strict=True))
        return [index for index, (value, x) in values if not value.is_constant and x.dtype == np.float32]


def gradients(of: Evaluated, given: Sequence[Array], generator: np.random.Generator) -> dict[int, Array]:
    """Return the gradients of what a node read.

    Formula:
        g_x = Σ_y ∂y/∂x · g_y; where the derivative is not known, noise keeps its ratio to the signal:
        g_x = ±√(Σ_y E g_y² · ‖y‖² / ‖x‖²), of random sign

    Args:
        of: the node.
        given: gradients of its results, before the activation that is fused into it.
        generator: of signs.

    Returns:
        Gradients by index of the operand, of the operand's shape.
    """
    node = of.node
    rule = _rule(node)
    found = rule(of, given) if rule is not None else None
    if found is None:
        return _of_ratio(of, given, generator)
    return {index: np.asarray(found[index], np.float32) for index in of.followed if index in found}


Rule = Callable[[Evaluated, Sequence[Array]], dict[int, Array] | None]
"""From the gradients of results to those of operands; None where it does not hold for this node."""


def _rule(node: Node) -> Rule | None:
    if node.op.name in _RULES:
        return _RULES[node.op.name]
    if node.op.name in _MOVES or (node.op.name == "resize" and node.attrs.mode == "nearest"):
        return _of_moves
    if isinstance(node.op, Unary | Binary) or node.op.name in _BY_ELEMENT:
        return _of_elements
    return None


def _of_ratio(of: Evaluated, given: Sequence[Array], generator: np.random.Generator) -> dict[int, Array]:
    noise = sum(
        float(np.mean(np.square(g), dtype=np.float64)) * _power(y)
        for g, y in zip(given, of.results, strict=True)
        if y.dtype == np.float32 and y.size
    )
    found = {}
    for index in of.followed:
        x = of.operands[index]
        size = np.float32(np.sqrt(noise / max(_power(x), _TINY)))
        found[index] = random_signs(generator, x.shape) * size
    return found


def random_signs(generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Return an array of −1 and 1, float32.

    Args:
        generator: of random numbers.
        shape: of the array.
    """
    return generator.integers(0, 2, shape).astype(np.float32) * 2 - 1


def _power(x: Array) -> float:
    real = x if np.isfinite(x).all() else np.nan_to_num(x, posinf=0.0, neginf=0.0)
    return float(np.square(real, dtype=np.float64).sum())


def _summed(g: Array, shape: tuple[int, ...]) -> Array:
    """Return a gradient summed over what an operand of a shape was repeated along."""
    g = g.sum(axis=tuple(range(g.ndim - len(shape))))
    axes = tuple(axis for axis, extent in enumerate(shape) if extent == 1 and g.shape[axis] != 1)
    return np.asarray(g.sum(axis=axes, keepdims=True))


def derivative(function: Callable[[Array], Array], x: Array) -> Array:
    """Return the derivative of a function at each element, as a difference.

    Formula:
        (f(x + h) − f(x − h)) / 2h, h = max(|x|, min(√(mean x²), 1)) / 1000; masks such as −3.4e38 say nothing of the
        elements beside them

    Args:
        function: of arrays of the shape of x, element by element.
        x: real values, float32.
    """
    usual = min(float(np.sqrt(_power(x) / max(x.size, 1))), 1.0)
    step = np.asarray(np.maximum(np.abs(x), max(usual, _TINY)) * _STEP, np.float32)
    with np.errstate(all="ignore"):
        return np.asarray((function(x + step) - function(x - step)) / (2 * step))


def without_activation(attrs: Any) -> Any:
    """Return attributes of the same operation with nothing fused into it."""
    more = {"divisors": ()} if getattr(attrs, "divisors", ()) else {}
    return replace(attrs, activation="none", **more) if hasattr(attrs, "activation") else attrs


# -- layers and products --------------------------------------------------------------------------------------


def _of_convolution(of: Evaluated, given: Sequence[Array]) -> dict[int, Array] | None:
    attrs, (x, weight, *_) = of.node.attrs, of.operands
    if attrs.layout != "NHWC":
        return None
    found = {0: input_gradient(given[0], weight, attrs, x.shape)}
    return _with_residual(of, found, given[0])


def _of_transposed_convolution(of: Evaluated, given: Sequence[Array]) -> dict[int, Array] | None:
    attrs, (x, weight, *_) = of.node.attrs, of.operands
    if attrs.layout != "NHWC":
        return None
    groups = attrs.groups
    outputs, kh, kw, per_group = weight.shape
    taps = weight.reshape(groups, outputs // groups, kh, kw, per_group)
    back = np.ascontiguousarray(taps.transpose(0, 4, 2, 3, 1).reshape(groups * per_group, kh, kw, outputs // groups))
    pixels = convolve(given[0], back, attrs)
    # Output padding and a stride can leave a row or a column that nothing was made from.
    return _with_residual(of, {0: pixels[:, : x.shape[1], : x.shape[2]]}, given[0])


def _of_dense(of: Evaluated, given: Sequence[Array]) -> dict[int, Array]:
    return _with_residual(of, {0: given[0] @ of.operands[1]}, given[0])


def _with_residual(of: Evaluated, found: dict[int, Array], g: Array) -> dict[int, Array]:
    if of.node.attrs.residual:
        last = len(of.operands) - 1
        found[last] = _summed(g, of.operands[last].shape)
    return found


def _of_matmul(of: Evaluated, given: Sequence[Array]) -> dict[int, Array] | None:
    (a, b), g = of.operands, given[0]
    if a.ndim < 2 or b.ndim < 2:
        return None
    by_a, by_b = np.matmul(g, np.swapaxes(b, -1, -2)), np.matmul(np.swapaxes(a, -1, -2), g)
    return {0: _summed(by_a, a.shape), 1: _summed(by_b, b.shape)}


# -- element by element, and moves ----------------------------------------------------------------------------


def _of_elements(of: Evaluated, given: Sequence[Array]) -> dict[int, Array]:
    node, operands = of.node, of.operands
    if node.op.name in _FLAT:
        return {index: np.zeros_like(operands[index]) for index in of.followed}
    attrs = without_activation(node.attrs)
    found = {}
    for index in of.followed:
        x = operands[index]

        def result(changed: Array, index: int = index) -> Array:
            return node.op.evaluate(attrs, [*operands[:index], changed, *operands[index + 1 :]])[0]

        slopes = np.nan_to_num(derivative(result, x), posinf=0.0, neginf=0.0)
        found[index] = _summed(given[0] * slopes, x.shape)
    return found


def _of_moves(of: Evaluated, given: Sequence[Array]) -> dict[int, Array]:
    """Number all elements, and let the node itself say which of them each element of its results is."""
    node, attrs, followed, numbered, first = of.node, of.node.attrs, of.followed, [], {}
    count = 1
    for index, x in enumerate(of.operands):
        if index in followed:
            first[index] = count
            numbered.append(np.arange(count, count + x.size, dtype=np.float64).reshape(x.shape))
            count += x.size
        else:
            numbered.append(np.zeros(x.shape) if x.dtype == np.float32 else x)
    if node.op.name == "pad":
        attrs = replace(attrs, value=0.0)
    sums = np.zeros(count)
    for places, g in zip(node.op.evaluate(attrs, numbered), given, strict=True):
        sums += np.bincount(places.ravel().astype(np.int64), g.ravel(), minlength=count)
    return {
        at: sums[start : start + of.operands[at].size].reshape(of.operands[at].shape) for at, start in first.items()
    }


# -- windows and reductions -----------------------------------------------------------------------------------


def _axes(node: Node) -> tuple[int, ...]:
    return global_axes(node.attrs.layout) if isinstance(node.attrs, GlobalPoolAttrs) else tuple(node.attrs.axes)


def _kept(array: Array, x: Array, axes: tuple[int, ...]) -> Array:
    """Return a result of a reduction with its axes, of extent 1."""
    return array.reshape([1 if axis in axes else extent for axis, extent in enumerate(x.shape)])


def _of_sum(of: Evaluated, given: Sequence[Array]) -> dict[int, Array]:
    x = of.operands[0]
    return {0: np.broadcast_to(_kept(given[0], x, _axes(of.node)), x.shape)}


def _of_mean(of: Evaluated, given: Sequence[Array]) -> dict[int, Array]:
    x = of.operands[0]
    return {0: _of_sum(of, given)[0] * np.float32(given[0].size / max(x.size, 1))}


def _of_extreme(of: Evaluated, given: Sequence[Array]) -> dict[int, Array]:
    x, axes = of.operands[0], _axes(of.node)
    reached = x == _kept(of.results[0], x, axes)
    share = reached / np.maximum(reached.sum(axis=axes, keepdims=True), 1)
    return {0: share * _kept(given[0], x, axes)}


@dataclass(frozen=True)
class _Taps:
    """The windows of a pooling, tap by tap.

    Args:
        attrs: of the pooling, channels last.
        shape: of the operand.
        result: of the result.
    """

    attrs: Any
    shape: tuple[int, ...]
    result: tuple[int, ...]

    def padded(self, array: Array, fill: float) -> Array:
        """Return an array with all that windows reach beyond it."""
        reach = [
            (self.result[a + 1] - 1) * self.attrs.strides[a] + self.attrs.dilations[a] * (self.attrs.kernel[a] - 1) + 1
            for a in (0, 1)
        ]
        before = self.attrs.pads[:2]
        after = [max(0, reach[a] - before[a] - self.shape[a + 1]) for a in (0, 1)]
        return np.pad(array, ((0, 0), (before[0], after[0]), (before[1], after[1]), (0, 0)), constant_values=fill)

    def windows(self, padded: Array) -> list[Array]:
        """Return what each tap reads, as views."""
        (sh, sw), (dh, dw), (kh, kw) = self.attrs.strides, self.attrs.dilations, self.attrs.kernel
        rows, columns = (self.result[1] - 1) * sh + 1, (self.result[2] - 1) * sw + 1
        starts = [(i * dh, j * dw) for i in range(kh) for j in range(kw)]
        return [padded[:, top : top + rows : sh, left : left + columns : sw] for top, left in starts]

    def inner(self, padded: Array) -> Array:
        """Return what lies on the operand itself."""
        top, left = self.attrs.pads[:2]
        return padded[:, top : top + self.shape[1], left : left + self.shape[2]]


def _of_average_windows(of: Evaluated, given: Sequence[Array]) -> dict[int, Array] | None:
    x, attrs = of.operands[0], of.node.attrs
    if attrs.layout != "NHWC":
        return None
    taps = _Taps(attrs, x.shape, given[0].shape)
    ones = np.ones((1, *x.shape[1:3], 1), np.float32)
    inside = sum(taps.windows(taps.padded(ones, 0.0)))
    (average,) = of.node.op.evaluate(attrs, [ones])
    back = taps.padded(np.zeros_like(x), 0.0)
    g = given[0] * (average / np.maximum(inside, 1.0))  # the average of ones is their number over the divisor
    for window in taps.windows(back):
        window += g
    return {0: taps.inner(back)}


def _of_largest_windows(of: Evaluated, given: Sequence[Array]) -> dict[int, Array] | None:
    x, attrs = of.operands[0], of.node.attrs
    if attrs.layout != "NHWC":
        return None
    taps = _Taps(attrs, x.shape, given[0].shape)
    back = taps.padded(np.zeros_like(x), 0.0)
    left = given[0].copy()  # the first of several that are equally large has it all
    for window, read in zip(taps.windows(back), taps.windows(taps.padded(x, -np.inf)), strict=True):
        hit = read == of.results[0]
        window += np.where(hit, left, 0.0)
        left[hit] = 0.0
    return {0: taps.inner(back)}


# -- normalizations -------------------------------------------------------------------------------------------


def _of_softmax(of: Evaluated, given: Sequence[Array]) -> dict[int, Array]:
    y, g, axis = of.results[0], given[0], of.node.attrs.axis
    return {0: y * (g - (g * y).sum(axis=axis, keepdims=True))}


def _of_layer_norm(of: Evaluated, given: Sequence[Array]) -> dict[int, Array]:
    (x, scale, _), attrs = of.operands, of.node.attrs
    axes = tuple(range(attrs.axis % x.ndim, x.ndim))
    centred = x - x.mean(axis=axes, keepdims=True)
    deviation = np.sqrt(np.mean(centred * centred, axis=axes, keepdims=True) + np.float32(attrs.epsilon))
    normal, g = centred / deviation, given[0] * scale
    along = np.mean(g * normal, axis=axes, keepdims=True)
    return {0: (g - g.mean(axis=axes, keepdims=True) - normal * along) / deviation}


_RULES: dict[str, Rule] = {
    "conv2d": _of_convolution,
    "conv_transpose2d": _of_transposed_convolution,
    "dense": _of_dense,
    "matmul": _of_matmul,
    "reduce_sum": _of_sum,
    "reduce_mean": _of_mean,
    "global_avg_pool": _of_mean,
    "reduce_max": _of_extreme,
    "reduce_min": _of_extreme,
    "global_max_pool": _of_extreme,
    "avg_pool": _of_average_windows,
    "max_pool": _of_largest_windows,
    "softmax": _of_softmax,
    "layer_norm": _of_layer_norm,
}
"""Operations that are neither moves nor computed element by element."""
