"""Sums that do not round."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from qcompile.calibrate.exact_sum import ExactSum

numbers = st.lists(st.floats(min_value=-1e100, max_value=1e100), max_size=40)


@given(numbers)
def test_the_sum_is_exact(terms: list[float]) -> None:
    total = ExactSum()
    for term in terms:
        total.add(term)
    assert total.value == sum(map(Fraction, terms), Fraction(0))


def test_what_a_float_would_lose() -> None:
    total = ExactSum()
    for term in (1e30, 1.0, -1e30, 2.0**-60):
        total.add(term)
    assert total.value == 1 + Fraction(1, 2**60)
