"""Weights of a few bits: packing is exact, rounding as good as its bits allow, the operation what it says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompile import ops
from qcompile.ir import TensorType
from qcompile.ops.unpack_groups import UnpackGroupsAttrs, packed, unpacked
from qcompile.quant.groups import quantize_groups

few = settings(max_examples=40, deadline=None, derandomize=True)
widths = st.sampled_from([1, 2, 4, 8])


@few
@given(bits=widths, rows=st.integers(1, 5), inner=st.integers(1, 70), seed=st.integers(0, 99))
def test_unpacking_is_the_inverse_of_packing(bits: int, rows: int, inner: int, seed: int) -> None:
    low = -(1 << (bits - 1))
    codes = np.random.default_rng(seed).integers(low, low + (1 << bits), (rows, inner)).astype(np.int8)
    data = packed(codes, bits)
    assert data.shape == (rows, -(-inner * bits // 8))
    np.testing.assert_array_equal(unpacked(data, bits, inner), codes)


@few
@given(
    bits=widths,
    group=st.sampled_from([32, 64]),
    inner=st.integers(1, 200),
    symmetric=st.booleans(),
    offset=st.sampled_from([0.0, 0.0, 3.0]),
    spread=st.sampled_from([1e-8, 0.05, 1e6]),
    seed=st.integers(0, 99),
)
def test_error_is_what_the_bits_allow(
    bits: int, group: int, inner: int, symmetric: bool, offset: float, spread: float, seed: int
) -> None:
    """Least SQNR of normal noise; zero points make an offset harmless."""
    noise = np.random.default_rng(seed).normal(offset, 1.0, (7, inner))
    weight = (noise * spread).astype(np.float32)
    made = quantize_groups(weight, bits, group, symmetric=symmetric)
    real = evaluate(weight, bits, group, made)
    error = np.square(real - weight).sum()
    least = {8: 36.0, 4: 14.0, 2: 3.0, 1: 2.0}[bits]
    assert 10 * np.log10(np.square(weight.astype(np.float64)).sum() / max(error, 1e-300)) > least


def evaluate(weight, bits, group, made):
    attrs = UnpackGroupsAttrs(weight.shape, bits, group, made.centre)
    operands = [packed(made.codes, bits), made.scale] + ([] if made.zero_point is None else [made.zero_point])
    return ops.get("unpack_groups").evaluate(attrs, operands)[0].astype(np.float64)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("symmetric", [False, True])
def test_zeros_and_constant_groups(bits: int, symmetric: bool) -> None:
    weight = np.zeros((3, 64), np.float32)
    weight[1] = 0.375
    weight[2, 32:] = -2.0
    made = quantize_groups(weight, bits, 32, symmetric=symmetric)
    np.testing.assert_allclose(evaluate(weight, bits, 32, made), weight, rtol=2e-3)


def test_tiny_weights_keep_float32_scales() -> None:
    made = quantize_groups(np.full((1, 32), 1e-9, np.float32), 4, 32)
    assert made.scale.dtype == np.float32


def test_weights_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        quantize_groups(np.array([[np.inf]], np.float32), 4, 32)


@pytest.mark.parametrize(
    ("types", "message"),
    [
        (["uint8[3,31]", "float32[3,2]"], "do not hold"),
        (["int8[3,32]", "float32[3,2]"], "do not hold"),
        (["uint8[3,32]", "float32[3,1]"], "scale"),
        (["uint8[3,32]", "float32[3,2]", "int8[3,1]"], "zero point"),
        (["uint8[3,32]", "float32[3,2]", "float32[3,2]"], "zero point"),
    ],
)
def test_operands_that_do_not_fit_are_refused(types: list[str], message: str) -> None:
    made = [TensorType(t.split("[")[0], tuple(int(d) for d in t[:-1].split("[")[1].split(","))) for t in types]
    with pytest.raises(ValueError, match=message):
        ops.get("unpack_groups").infer(UnpackGroupsAttrs((3, 64), bits=4), made)


@pytest.mark.parametrize("fields", [{"bits": 3}, {"group": 24}, {"group": 8}, {"bits": 1, "group": 16}])
def test_attributes_without_a_kernel_are_refused(fields: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="bits"):
        UnpackGroupsAttrs((3, 64), **fields)
