"""Winograd's minimal filtering of 3x3 convolutions in integers: fewer products, and not a bit of difference.

A tile of m x n outputs costs (m+2)(n+2) products instead of 9mn.  In one dimension, pixels d and weights g give

    sums = A^T [(G g) * (B^T d)]

whose textbook G has fractions.  Here G and A are scaled to integers, so that every output comes out times a known
``scale``, 2^shift or 3 * 2^shift.  All of it may be reckoned modulo 2^32: a sum is what is left after a multiplication
by the inverse of 3 modulo 2^32 and an arithmetic shift, provided that sum * 2^shift lies within int32.

Source: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, 2015.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from qcompile.kernels.conv_workload import ConvWorkload

_TAPS = 3
_LARGEST_PRODUCT = 1 << 14
"""Magnitude of a stored code times a weight."""

MOST_WEIGHTS = 4 << 20
"""Bytes of transformed weights: more would come from far, and make programs large."""

INVERSE_OF_3 = pow(3, -1, 1 << 32)

Let = Callable[[Any], Any]


@dataclass(frozen=True)
class Form:
    """The algorithm in one dimension.

    Attributes:
        outputs: neighbouring outputs that a tile computes.
        weights: G, integers, one row for each product.
        shifts: of each output, the power of two in its scale.
        thirds: the scale has a factor 3 too.
        pixels: ``f(d, let)``: B^T d; ``let`` names a value that is used more than once.
        sums: ``f(products, let)``: A^T times the products: each output times its scale.
    """

    outputs: int
    weights: tuple[tuple[int, int, int], ...]
    shifts: tuple[int, ...]
    thirds: bool
    pixels: Callable[[Sequence[Any], Let], list[Any]]
    sums: Callable[[Sequence[Any], Let], list[Any]]

    @property
    def points(self) -> int:
        """Pixels, and products, of a tile."""
        return self.outputs + _TAPS - 1


def _twice(value: Any) -> Any:
    return value + value


def _pixels_of_2(d: Sequence[Any], let: Let) -> list[Any]:
    return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]


def _sums_of_2(m: Sequence[Any], let: Let) -> list[Any]:
    return [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]


def _pixels_of_4(d: Sequence[Any], let: Let) -> list[Any]:
    """The points 0, 1, -1, 2, -2 and infinity."""
    even, odd = let(d[4] - d[2]), let(_twice(d[3] - d[1]))
    inner = let(d[4] - _twice(let(_twice(d[2]))))
    outer = let(d[3] - _twice(let(_twice(d[1]))))
    first = _twice(let(_twice(d[0] - d[2]))) + even
    return [first, inner + outer, inner - outer, even + odd, even - odd, d[5] - d[3] - _twice(odd)]


def _sums_of_4(m: Sequence[Any], let: Let) -> list[Any]:
    near, far = let(m[1] + m[2]), let(m[3] + m[4])
    near_odd, far_odd = let(_twice(m[1] - m[2])), let(m[3] - m[4])
    return [
        m[0] + far + _twice(let(_twice(near))),
        near_odd + far_odd,
        near + far,
        near_odd + _twice(let(_twice(far_odd))) + m[5],
    ]


_FORMS = {
    2: Form(2, ((2, 0, 0), (1, 1, 1), (1, -1, 1), (0, 0, 2)), (1, 1), False, _pixels_of_2, _sums_of_2),
    4: Form(
        4,
        ((6, 0, 0), (-1, -1, -1), (-1, 1, -1), (1, 2, 4), (1, -2, 4), (0, 0, 12)),
        (3, 2, 1, 2),
        True,
        _pixels_of_4,
        _sums_of_4,
    ),
}

SQUARES = ((4, 4), (2, 4), (2, 2))
"""Tiles of outputs to choose from."""


def forms(square: tuple[int, int]) -> tuple[Form, Form]:
    """The algorithms along rows and columns for a tile of ``square`` outputs."""
    return _FORMS[square[0]], _FORMS[square[1]]


def fits(work: ConvWorkload, square: tuple[int, int]) -> bool:
    """Return whether a layer can be computed so: its shape, and whether no sum can leave its reach."""
    plain = work.kernel == (_TAPS, _TAPS) and work.strides == work.dilations == (1, 1) and work.groups == 1
    if not plain or work.precision != "int8" or work.low or square not in SQUARES:
        return False
    reach = work.reduction * _LARGEST_PRODUCT
    return reach << sum(max(form.shifts) for form in forms(square)) < 1 << 31


def is_sharable(work: ConvWorkload) -> bool:
    """Return whether a layer's outputs can share products in some tile, with weights that are not too large."""
    return any(fits(work, square) and weight_bytes(work, square) <= MOST_WEIGHTS for square in SQUARES)


def weight_bytes(work: ConvWorkload, square: tuple[int, int]) -> int:
    """Bytes of transformed weights."""
    return products(square) * work.channels * work.filters * 2


def products(square: tuple[int, int]) -> int:
    """Products of a tile, for each channel and filter."""
    return (square[0] + _TAPS - 1) * (square[1] + _TAPS - 1)


def tiles(work: ConvWorkload, square: tuple[int, int]) -> tuple[int, int]:
    """Tiles that cover an image: rows, columns."""
    return -(-work.out_height // square[0]), -(-work.out_width // square[1])


def transformed(weights: npt.NDArray[Any], square: tuple[int, int]) -> npt.NDArray[np.int16]:
    """Transform the weights.

    Formula:
        u = G_rows w G_columns^T

    Args:
        weights: int8 [filters, 3, 3, channels].
        square: tile of outputs.

    Returns:
        int16 [products, filters, channels], row by row of products.
    """
    rows, columns = (np.array(form.weights, np.int32) for form in forms(square))
    found = np.einsum("ir,orsc,js->ijoc", rows, weights.astype(np.int32), columns, optimize=True)
    assert np.abs(found).max(initial=0) < 1 << 15, "the scales of G are too large"
    return np.asarray(found.reshape(-1, *found.shape[2:]), np.int16)


def pack(weights: npt.NDArray[Any], square: tuple[int, int], nv: int, lanes: int) -> npt.NDArray[np.int16]:
    """Order transformed weights as [block of filters][product][pair of channels][filter of the block][channel].

    Args:
        weights: int8 [filters, 3, 3, channels].
        square: tile of outputs.
        nv: vectors of filters in a block.
        lanes: filters in a vector.
    """
    found = transformed(weights, square)
    found = np.pad(found, ((0, 0), (0, -found.shape[1] % lanes), (0, found.shape[2] % 2)))
    blocks = []
    for first in range(0, found.shape[1], nv * lanes):
        block = found[:, first : first + nv * lanes]
        pairs = block.reshape(*block.shape[:2], -1, 2)
        blocks.append(pairs.transpose(0, 2, 1, 3).reshape(-1))
    return np.concatenate(blocks)
