"""Layer normalization over open axes, in operations that look at their actual extents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from qcompile import ops
from qcompile.ir.graph import Node, Value
from qcompile.ir.rewrite import Rewriter
from qcompile.ir.symbol import Axes, Extent
from qcompile.ops.mask_tail import MaskTailAttrs
from qcompile.ops.rescale_mean import RescaleMeanAttrs


def expand_norm(rewriter: Rewriter, node: Node, over: Axes, extents: Sequence[Extent], operand: Value) -> None:
    """Replace a layer_norm by y = c / √(mean c² + ε) · scale + bias, c = x − mean x, with means over actual extents.

    Args:
        rewriter: of the graph.
        node: the layer_norm.
        over: the extents of the axes it normalizes, None where one is fixed.
        extents: those that `operand` holds.
        operand: the actual extents, int32.
    """
    x, scale, bias = node.inputs
    first = len(x.shape) - len(over)
    opened = {first + k: extent for k, extent in enumerate(over) if extent is not None}

    def add(op: str, inputs: Sequence[Value], what: str, **attrs: Any) -> Value:
        definition, name = ops.get(op), f"{node.output.name}.{what}"
        made = definition.Attrs(**attrs)
        return rewriter.insert(node, definition, inputs, made, name=name, loc=node.loc).output

    def mean(value: Value, what: str) -> Value:
        for axis, extent in opened.items():
            attrs = vars(MaskTailAttrs(axis, extents.index(extent), 0.0))
            value = add("mask_tail", [value, operand], f"{what}.tail", **attrs)
        value = add("reduce_mean", [value], f"{what}.all", axes=tuple(range(first, len(x.shape))))
        entries = tuple(extents.index(extent) for extent in opened.values())
        attrs = vars(RescaleMeanAttrs(entries, tuple(extent.most for extent in opened.values())))
        return add("rescale_mean", [value, operand], what, **attrs)

    centred = add("sub", [x, mean(x, "mean")], "centred")
    variance = mean(add("mul", [centred, centred], "square"), "variance")
    epsilon = rewriter.constant(f"{node.output.name}.epsilon", np.array(node.attrs.epsilon, np.float32))
    root = add("sqrt", [add("add", [variance, epsilon], "shifted")], "root")
    y = _changed(add, "mul", add("div", [centred, root], "normal"), scale, 1.0)
    rewriter.replace_value(node.output, _changed(add, "add", y, bias, 0.0))


def _changed(add: Callable[..., Value], op: str, y: Value, parameter: Value, neutral: float) -> Value:
    """Return y combined with a parameter, unless that is neutral throughout."""
    if parameter.data is not None and (parameter.data == neutral).all():
        return y
    return add(op, [y, parameter], op)
