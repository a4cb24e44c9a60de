"""Small networks of the kinds that take images of any batch, height and width."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .odd_models import OddModel

C = 8
END = 2**31 - 1


def opened() -> OddModel:
    """Return a model of x [N, 3, H, W] without nodes."""
    return OddModel(18, ("N", 3, "H", "W"), 9)


def part(m: OddModel, x: str, axis: int, start: int, end: int = END) -> str:
    return m.node("Slice", [x, m.integers(start), m.integers(end), m.integers(axis)])


def extents(m: OddModel, x: str, start: int, end: int) -> str:
    return part(m, m.node("Shape", [x]), 0, start, end)


def shaped(m: OddModel, x: str, *shape: str | int) -> str:
    """Reshape to extents that are numbers, or computed."""
    vectors = [m.integers(d) if isinstance(d, int) else d for d in shape]
    return m.node("Reshape", [x, m.node("Concat", vectors, axis=0)])


def patches(m: OddModel, size: int = 4) -> str:
    return m.node("Conv", ["x", m.weights(C, 3, size, size), m.vector(C)], strides=[size, size])


def tokens(m: OddModel, image: str) -> str:
    return m.node("Transpose", [m.node("Reshape", [image, m.integers(0, C, -1)])], perm=[0, 2, 1])


def image_of(m: OddModel, rows: str, like: str) -> str:
    return m.node("Reshape", [m.node("Transpose", [rows], perm=[0, 2, 1]), m.node("Shape", [like])])


def layer_norm(m: OddModel, x: str) -> str:
    return m.node("LayerNormalization", [x, m.vector(C, 0.5, 1.5), m.vector(C)])


def attended(m: OddModel, queries: str, keys: str, values: str, perm: list[int]) -> str:
    scores = m.node("MatMul", [queries, m.node("Transpose", [keys], perm=perm)])
    return m.node("MatMul", [m.node("Softmax", [scores], axis=-1), values])


def vision_transformer() -> OddModel:
    """Return patches with a class token and positions resized to them, attention in heads, and the class token."""
    m = opened()
    a = patches(m)
    batch = extents(m, a, 0, 1)
    first = m.node("Expand", [m.weights(1, 1, C), m.node("Concat", [batch, m.integers(1, C)], axis=0)])
    wanted = m.node("Concat", [m.integers(1, C), extents(m, a, 2, 4)], axis=0)
    positions = m.node("Resize", [m.weights(1, C, 4, 4), "", "", wanted], mode="cubic")
    x = m.node("Concat", [first, m.node("Add", [tokens(m, a), tokens(m, positions)])], axis=1)
    normal = layer_norm(m, x)
    batch, length = extents(m, normal, 0, 1), extents(m, normal, 1, 2)
    heads = shaped(m, m.node("MatMul", [normal, m.weights(C, 3 * C)]), batch, length, 3, 2, C // 2)
    heads = m.node("Transpose", [heads], perm=[2, 0, 3, 1, 4])
    q, k, v = (m.node("Gather", [heads, m.constant(np.array(n))], axis=0) for n in range(3))
    y = m.node("Transpose", [attended(m, q, k, v, [0, 1, 3, 2])], perm=[0, 2, 1, 3])
    y = m.node("Add", [x, shaped(m, y, batch, length, C)])
    m.names = [m.node("Gather", [y, m.constant(np.array(0))], axis=1)]
    return m


def detection_transformer() -> OddModel:
    """Return an encoder as PyTorch writes its attention: sequence first, batch and heads joined."""
    m = opened()
    x = m.node("Transpose", [tokens(m, patches(m))], perm=[1, 0, 2])
    length, batch = extents(m, x, 0, 1), extents(m, x, 1, 2)
    both = m.node("Mul", [batch, m.integers(2)])

    def projected() -> str:
        y = m.node("Add", [m.node("MatMul", [x, m.weights(C, C)]), m.vector(C)])
        return m.node("Transpose", [shaped(m, y, length, both, C // 2)], perm=[1, 0, 2])

    y = attended(m, projected(), projected(), projected(), [0, 2, 1])
    y = shaped(m, m.node("Transpose", [y], perm=[1, 0, 2]), length, batch, C)
    rows = m.node("Reshape", [m.node("Add", [x, y]), m.integers(-1, C)])
    rows = m.node("Relu", [m.node("Gemm", [rows, m.weights(C, C), m.vector(C)])])
    m.names = [m.node("ReduceMean", [m.node("Reshape", [rows, m.node("Shape", [x])]), m.integers(0)], keepdims=0)]
    return m


def unfolded() -> OddModel:
    """Return softmax over places of the same kind in patches of two by two, unfolded and folded as MobileViT does."""
    m = opened()
    a = m.conv("x", 3, C)
    batch = extents(m, a, 0, 1)
    height, width = (m.node("Div", [extents(m, a, k, k + 1), m.integers(2)]) for k in (2, 3))
    outer = m.node("Mul", [m.node("Mul", [batch, m.integers(C)]), height])
    y = m.node("Transpose", [shaped(m, a, outer, 2, width, 2)], perm=[0, 2, 1, 3])
    y = shaped(m, y, batch, C, m.node("Mul", [height, width]), 4)
    y = m.node("Softmax", [m.node("Transpose", [y], perm=[0, 3, 2, 1])], axis=2)
    y = shaped(m, m.node("Transpose", [y], perm=[0, 3, 2, 1]), outer, width, 2, 2)
    y = m.node("Transpose", [y], perm=[0, 2, 1, 3])
    m.names = [m.node("Reshape", [y, m.node("Shape", [a])])]
    return m


def shifted() -> OddModel:
    """Return an image rolled along both axes, convolved, and rolled back."""
    m = opened()
    a = m.conv("x", 3, C)
    for axis in (2, 3):
        a = m.node("Concat", [part(m, a, axis, 2), part(m, a, axis, 0, 2)], axis=axis)
    a = m.node("Relu", [m.conv(a, C, C)])
    for axis in (2, 3):
        a = m.node("Concat", [part(m, a, axis, -2), part(m, a, axis, 0, -2)], axis=axis)
    m.names = [a]
    return m


def shrunken_keys() -> OddModel:
    """Return attention to fewer keys than queries: SegFormer's, whose keys come of a convolution over the image."""
    m = opened()
    a = m.conv("x", 3, C)
    x = tokens(m, a)
    fewer = m.node("Conv", [image_of(m, x, a), m.weights(C, C, 4, 4), m.vector(C)], strides=[4, 4])
    keys = layer_norm(m, tokens(m, fewer))
    y = m.node("Add", [x, attended(m, x, keys, keys, [0, 2, 1])])
    m.names = [m.conv(image_of(m, y, a), C, 4, 1)]
    return m


def counted_positions() -> OddModel:
    """Return sine positions counted by a cumulative sum and divided by its last element."""
    m = opened()
    a = m.conv("x", 3, C)
    none = m.node("Mul", [m.node("ReduceMean", [a, m.integers(1)], keepdims=0), m.constant(np.float32(0))])
    rows = m.node("CumSum", [m.node("Add", [none, m.constant(np.float32(1))]), m.constant(np.array(1))])
    shares = m.node("Div", [rows, part(m, rows, 1, -1)])
    angles = m.node("Mul", [m.node("Unsqueeze", [shares, m.integers(3)]), m.vector(C, 1, 5)])
    m.names = [m.node("Add", [a, m.node("Transpose", [m.node("Sin", [angles])], perm=[0, 3, 1, 2])])]
    return m


def normalized() -> OddModel:
    """Return an image normalized by channel and by groups of them, in the form that PyTorch writes."""
    m = opened()
    a = m.node("InstanceNormalization", [m.conv("x", 3, C), m.vector(C), m.vector(C)])
    groups = m.node("Reshape", [m.conv(a, C, C), m.integers(0, 2, -1)])
    ones, zeros = m.constant(np.ones(2, np.float32)), m.constant(np.zeros(2, np.float32))
    y = m.node("Reshape", [m.node("InstanceNormalization", [groups, ones, zeros]), m.node("Shape", [a])])
    y = m.node("Mul", [y, m.constant(np.linspace(0.5, 1.5, C, dtype=np.float32).reshape(C, 1, 1))])
    m.names = [m.node("Flatten", [m.node("GlobalMaxPool", [y])])]
    return m


def centres(m: OddModel, image: str) -> tuple[str, str]:
    """Return the centres of all cells [cells, 2], and their number as a vector."""
    height, width = extents(m, image, 2, 3), extents(m, image, 3, 4)
    zero, one = (m.constant(np.float32(number)) for number in (0, 1))
    grids = []
    for extent, shape in ((width, (1, -1)), (height, (-1, 1))):
        limit = m.node("Cast", [m.node("Squeeze", [extent])], to=1)
        places = m.node("Add", [m.node("Range", [zero, limit, one]), m.constant(np.float32(0.5))])
        whole = m.node("Concat", [height, width], axis=0)
        grid = m.node("Expand", [m.node("Reshape", [places, m.integers(*shape)]), whole])
        grids.append(m.node("Unsqueeze", [grid, m.integers(-1)]))
    pairs = m.node("Reshape", [m.node("Concat", grids, axis=-1), m.integers(-1, 2)])
    return pairs, m.node("Mul", [height, width])


def boxes() -> OddModel:
    """Return offsets from the centres of cells of two sizes, in pixels, as YOLO's exports decode boxes."""
    m = opened()
    first = m.node("Relu", [m.conv("x", 3, C, strides=[2, 2])])
    levels = {2: first, 4: m.conv(first, C, C, strides=[2, 2])}
    centre, stride, offset = [], [], []
    for size, image in levels.items():
        pairs, count = centres(m, image)
        centre.append(pairs)
        column = m.node("ConstantOfShape", [m.node("Concat", [count, m.integers(1)], axis=0)])
        stride.append(m.node("Add", [column, m.constant(np.float32(size))]))
        offset.append(m.node("Reshape", [m.conv(image, C, 2, 1), m.integers(0, 2, -1)]))
    whole, sizes = (m.node("Transpose", [m.node("Concat", p, axis=0)], perm=[1, 0]) for p in (centre, stride))
    moved = m.node("Add", [m.node("Unsqueeze", [whole, m.integers(0)]), m.node("Concat", offset, axis=2)])
    m.names = [m.node("Mul", [moved, sizes])]
    return m


def joined_twice() -> OddModel:
    """Return rows joined with the batch, set apart again, and joined with the columns: each axis as long as another."""
    m = opened()
    columns = m.node("ReduceMean", [m.conv("x", 3, 6), m.integers(2)], keepdims=0)
    apart = m.node("Relu", [m.node("Flatten", [columns], axis=2)])
    back = m.node("Reshape", [apart, m.node("Shape", [columns])])
    m.names = [m.node("Softmax", [m.node("Reshape", [back, m.integers(0, -1)])], axis=1)]
    return m


NETWORKS: dict[str, Callable[[], OddModel]] = {
    "vision transformer": vision_transformer,
    "detection transformer": detection_transformer,
    "unfolded patches": unfolded,
    "shifted windows": shifted,
    "shrunken keys": shrunken_keys,
    "counted positions": counted_positions,
    "normalized": normalized,
    "boxes": boxes,
    "joined twice": joined_twice,
}
