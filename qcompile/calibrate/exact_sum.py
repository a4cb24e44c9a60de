"""A sum of floating-point numbers without rounding, so that their order does not matter."""

from __future__ import annotations

from fractions import Fraction


class ExactSum:
    """Adds numbers up exactly, as a few numbers that do not overlap.

    Source:
        Shewchuk, "Adaptive precision floating-point arithmetic and fast robust geometric predicates", 1997
        (GROW-EXPANSION).
    """

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts: list[float] = []

    def add(self, number: float) -> None:
        """Add a finite float64 number."""
        parts, kept = self._parts, 0
        for part in parts:
            large, small = (number, part) if abs(number) >= abs(part) else (part, number)
            number = large + small
            rest = small - (number - large)
            if rest:
                parts[kept] = rest
                kept += 1
        parts[kept:] = [number]

    @property
    def value(self) -> Fraction:
        """The sum."""
        return sum(map(Fraction, self._parts), Fraction(0))
