"""Which operations read weights that are stored in fewer bits than they compute with."""

from __future__ import annotations

from qcompile.ir.graph import Node, Value

PACKED = ("unpack_groups", "unpack_float", "unpack_sparse")
"""Operations that make float32 weights from a smaller form of them."""

LEAST_TABLE = 256
"""Elements that a table must have to be stored in fewer bits."""

LAYERS = ("dense", "conv2d", "conv_transpose2d")
"""Operations with weights."""


def packed_source(value: Value) -> Node | None:
    """Return the node that unpacks a weight from constants, None for any other value."""
    node = value.producer
    if node is None or node.op.name not in PACKED or not all(v.is_constant for v in node.inputs):
        return None
    return node


def is_product(node: Node) -> bool:
    """Return whether a layer multiplies rows of its operand with its weights: dense, or a plain 1×1 convolution."""
    if node.op.name == "dense":
        return True
    if node.op.name != "conv2d":
        return False
    attrs, weight = node.attrs, node.inputs[1].shape
    kernel = weight[2:] if attrs.layout == "NCHW" else weight[1:3]
    plain = attrs.groups == 1 and attrs.strides == (1, 1) and not any(attrs.pads)
    return bool(kernel == (1, 1) and plain)


def is_table(node: Node) -> bool:
    """Return whether a gather picks rows of a constant of real numbers that is worth storing in fewer bits."""
    if node.op.name != "gather" or node.attrs.axis != 0:
        return False
    table = node.inputs[0]
    return table.is_constant and table.dtype == "float32" and len(table.shape) > 1 and table.type.size >= LEAST_TABLE


def reads_packed(node: Node, operand: int) -> bool:
    """Return whether the code of a node unpacks one of its operands in registers.

    Args:
        node: the reader.
        operand: which of its operands the packed weight is.
    """
    source = packed_source(node.inputs[operand])
    if source is None or node.is_integer:
        return False
    if node.op.name == "gather":
        return operand == 0
    if source.op.name == "unpack_float":
        return operand == 1 and node.op.name in LAYERS
    return operand == 1 and is_product(node) and getattr(node.attrs, "layout", "NHWC") == "NHWC"
