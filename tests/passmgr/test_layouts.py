from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcompile import ops
from qcompile.ir.parser import parse_graph
from qcompile.passmgr.layouts import (
    commuted,
    inverse,
    moves_units_only,
    permuted_constant,
    rearranged,
    reshape_before_transpose,
)

extents = st.sampled_from([1, 1, 2, 3, 4, 6])
shapes = st.lists(extents, min_size=1, max_size=5).map(tuple)


@st.composite
def transposed(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    shape = draw(shapes)
    return shape, tuple(draw(st.permutations(range(len(shape)))))


def numbered(shape: tuple[int, ...]) -> np.ndarray:
    return np.arange(math.prod(shape)).reshape(shape)


@st.composite
def reshaped(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Draw a shape of as many elements: axes merged, split, and extents of 1 thrown in."""
    target: list[int] = []
    for extent in shape:
        if target and draw(st.booleans()):
            target[-1] *= extent
        elif extent in (4, 6) and draw(st.booleans()):
            target += [2, extent // 2]
        else:
            target.append(extent)
        if draw(st.integers(0, 3)) == 0:
            target.append(1)
    return tuple(target)


@given(transposed())
def test_inverse(case: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    shape, perm = case
    x = numbered(shape)
    assert np.array_equal(x.transpose(perm).transpose(inverse(perm)), x)


@given(transposed())
def test_moves_units_only(case: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    shape, perm = case
    x = numbered(shape)
    moved = x.transpose(perm)
    assert moves_units_only(shape, perm) == np.array_equal(moved.ravel(), x.ravel())


@given(st.data(), transposed())
def test_reshape_before_transpose(data: st.DataObject, case: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    shape, perm = case
    x = numbered(shape)
    moved = x.transpose(perm)
    target = data.draw(reshaped(moved.shape))
    found = reshape_before_transpose(shape, perm, target)
    if found is not None:
        earlier, later = found
        assert np.array_equal(x.reshape(earlier).transpose(later), moved.reshape(target))
    merges = any(extent not in (1, 2, 3) for extent in target)
    if not merges and 1 not in (len(shape), len(target)):
        assert found is not None, "nothing is merged, so nothing stands in the way"


@pytest.mark.parametrize(
    ("shape", "perm", "target", "wanted"),
    [
        ((1, 4, 6, 30), (0, 3, 1, 2), (1, 3, 10, 4, 6), ((1, 4, 6, 3, 10), (0, 3, 4, 1, 2))),
        ((1, 1, 12, 8), (0, 3, 1, 2), (1, 8, 12), ((1, 12, 8), (0, 2, 1))),
        ((2, 3, 4, 5), (0, 3, 1, 2), (2, 5, 12), ((2, 12, 5), (0, 2, 1))),
        ((2, 3, 4, 5), (0, 3, 1, 2), (2, 15, 4), None),
        ((2, 1, 1, 8), (0, 3, 1, 2), (2, 8), ((2, 8), (0, 1))),
        ((1, 4, 1, 8), (0, 3, 1, 2), (1, 8, 4, 1), ((1, 4, 1, 8), (0, 3, 1, 2))),
        ((2, 0, 3), (1, 0, 2), (0, 6), None),
    ],
)
def test_known_reshapes(shape: tuple[int, ...], perm: tuple[int, ...], target: tuple[int, ...], wanted: object) -> None:
    assert reshape_before_transpose(shape, perm, target) == wanted


@given(st.data())
def test_rearranged(data: st.DataObject) -> None:
    shape = data.draw(st.tuples(*[st.sampled_from([1, 2, 4, 6])] * 4))
    fine: list[int] = []
    for extent in shape:
        fine += [2, extent // 2] if extent > 1 and data.draw(st.booleans()) else [extent]
    perm = tuple(data.draw(st.permutations(range(len(fine)))))
    moved = [fine[axis] for axis in perm]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(moved)), min_size=3, max_size=3)))
    bounds = [0, *cuts, len(moved)]
    target = tuple(math.prod(moved[a:b]) for a, b in itertools.pairwise(bounds))
    order = (0, 2, 3, 1)
    x = numbered(shape)
    y = x.reshape(fine).transpose(perm).reshape(target)
    found = rearranged(shape, fine, perm, target, order)
    if found is not None:
        first, middle, last = found
        got = x.transpose(order).reshape(first).transpose(middle).reshape(last)
        assert np.array_equal(got, y.transpose(order))


@given(st.data(), transposed())
def test_permuted_constant(data: st.DataObject, case: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    shape, perm = case
    x = numbered(shape)
    moved = x.transpose(perm)
    rank = data.draw(st.integers(0, len(shape)))
    kept = moved.shape[len(shape) - rank :]
    constant = numbered(tuple(e if data.draw(st.booleans()) else 1 for e in kept)) * 100
    before = permuted_constant(constant, perm)
    assert np.array_equal((x + before).transpose(perm), moved + constant)


def test_the_axes_of_an_expansion_move_with_it() -> None:
    text = """
    graph "g" {
      input %x : f32[1,2,1,1]
      %t = transpose(%x) {perm=[0,2,3,1]} : f32[1,1,1,2]
      %y = expand(%t) {shape=[1,5,7,2], fixed=[1], opens=[2]} : f32[1,5,7,2]
      output "y" = %y
    }
    """
    attrs = commuted(parse_graph(text, ops.all_ops()).nodes[-1], (0, 2, 3, 1))
    assert attrs is not None
    assert (attrs.shape, attrs.fixed, attrs.opens) == ((1, 2, 5, 7), (2,), (3,))
