"""Windows over the image: padding into the window's own pads, and windows that see everything."""

from __future__ import annotations

import math
from dataclasses import replace as replace_fields
from typing import Any

from qcompile.ir.graph import Node, Value
from qcompile.ir.rewrite import Rewriter
from qcompile.ops.spatial import Pads, spatial_axes
from qcompile.passmgr.patterns import RuleTable, bypass, emit, made_by, replace


def pad_into_window(node: Node, rewriter: Rewriter) -> bool:
    """conv2d(pad(x)) = conv2d(x) with larger pads, for zeros around the image; likewise pooling.

    avg_pool takes them in where it counts its own padding or has none, max_pool where they never win: −∞, or 0
    around values that are not negative.
    """
    pad = made_by(node.inputs[0], "pad")
    if pad is None or pad.attrs.mode != "constant" or not _harmless(pad, node):
        return False
    added = _around_image(pad, node.attrs.layout)
    if added is None:
        return False
    own: Pads = node.attrs.pads
    fields: dict[str, Any] = {"pads": tuple(a + b for a, b in zip(own, added, strict=True))}
    if node.op.name == "avg_pool":
        fields["count_include_pad"] = True
    wider = replace_fields(node.attrs, **fields)
    x = pad.inputs[0]
    try:
        result = node.op.infer(wider, [x.type, *(v.type for v in node.inputs[1:])])
    except ValueError:  # A window must not lie in padding altogether.
        return False
    if result[0] != node.output.type:
        return False
    rewriter.set_operand(node, 0, x)
    rewriter.set_attrs(node, **fields)
    return True


def _around_image(pad: Node, layout: str) -> Pads | None:
    """Return (top, left, bottom, right) of a pad that leaves samples and channels alone."""
    pairs = pad.attrs.pairs()
    if len(pairs) != 4:
        return None
    vertical, horizontal = spatial_axes(layout)
    if any(any(pair) for axis, pair in enumerate(pairs) if axis not in (vertical, horizontal)):
        return None
    return (pairs[vertical][0], pairs[horizontal][0], pairs[vertical][1], pairs[horizontal][1])


def _harmless(pad: Node, node: Node) -> bool:
    """Return whether the window's own padding means the same as the pad's constant."""
    value = pad.attrs.value
    if node.op.name == "conv2d":
        return bool(value == 0.0)
    if node.attrs.ceil_mode:
        return False
    if node.op.name == "avg_pool":
        return bool(value == 0.0 and (node.attrs.count_include_pad or not any(node.attrs.pads)))
    return bool(value == -math.inf or (value <= 0.0 and is_non_negative(pad.inputs[0])))


_NON_NEGATIVE = ("relu", "sigmoid", "hard_sigmoid", "softmax", "exp", "abs", "softplus")
_KEEPS_SIGN = ("max_pool", "avg_pool", "reshape", "transpose", "global_avg_pool", "slice", "concat", "split")


def is_non_negative(value: Value) -> bool:
    """Return whether a tensor is known to hold no negative number."""
    producer = value.producer
    if producer is None:
        return value.data is not None and bool((value.data >= 0).all())
    name, attrs = producer.op.name, producer.attrs
    activation = getattr(attrs, "activation", "none")
    if name in _NON_NEGATIVE or activation in _NON_NEGATIVE:
        return True
    if name == "clip":
        return bool(attrs.min >= 0.0)
    if activation == "clip":
        return bool(attrs.alpha >= 0.0)
    return name in _KEEPS_SIGN and all(is_non_negative(v) for v in producer.inputs)


def pool_to_global(node: Node, rewriter: Rewriter) -> bool:
    """A pooling whose only window is the whole image is a global pooling."""
    attrs, shape = node.attrs, node.inputs[0].shape
    image = tuple(shape[axis] for axis in spatial_axes(attrs.layout))
    result = tuple(node.output.shape[axis] for axis in spatial_axes(attrs.layout))
    plain = not any(attrs.pads) and attrs.dilations == (1, 1)
    if attrs.kernel != image or result != (1, 1) or not plain:
        return False
    return replace(rewriter, node, f"global_{node.op.name}", node.inputs, layout=attrs.layout)


def reduction_to_global(node: Node, rewriter: Rewriter) -> bool:
    """A mean or maximum over the two spatial axes is a global pooling, then a reshape if the axes go."""
    x, axes = node.inputs[0], tuple(node.attrs.axes)
    if len(x.shape) != 4 or axes not in ((1, 2), (2, 3)) or x.dtype != "float32":
        return False
    op = {"reduce_mean": "global_avg_pool", "reduce_max": "global_max_pool"}[node.op.name]
    options: dict[str, Any] = {"layout": "NCHW" if axes == (2, 3) else "NHWC"}
    if node.attrs.keepdims:
        return replace(rewriter, node, op, [x], **options)
    pooled = emit(rewriter, node, op, [x], f"{node.output.name}.pooled", **options)
    return replace(rewriter, node, "reshape", [pooled], shape=node.output.shape)


def trivial_pool(node: Node, rewriter: Rewriter) -> bool:
    """A pooling over single elements, one by one, is no operation."""
    attrs = node.attrs
    single = attrs.kernel == (1, 1) and attrs.strides == (1, 1) and not any(attrs.pads)
    return single and bypass(rewriter, node, node.inputs[0])


def same_size_resize(node: Node, rewriter: Rewriter) -> bool:
    """A resize by a factor of 1 is no operation: every coordinate it looks up is a whole number."""
    attrs = node.attrs
    unchanged = node.output.type == node.inputs[0].type and tuple(attrs.scales) == (1.0, 1.0)
    return unchanged and attrs.coordinates in _EXACT_COORDINATES and bypass(rewriter, node, node.inputs[0])


_EXACT_COORDINATES = ("half_pixel", "pytorch_half_pixel", "asymmetric", "half_pixel_symmetric")

RULES: RuleTable = {
    "conv2d": (pad_into_window,),
    "max_pool": (trivial_pool, pad_into_window, pool_to_global),
    "avg_pool": (trivial_pool, pad_into_window, pool_to_global),
    "resize": (same_size_resize,),
    "reduce_mean": (reduction_to_global,),
    "reduce_max": (reduction_to_global,),
}
"""Rules for windows."""
