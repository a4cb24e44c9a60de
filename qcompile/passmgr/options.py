"""The options of a pass: names, types and defaults, all from the fields of its dataclass."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, fields
from functools import cache
from typing import Any

from qcompile.ir.literal import describe_type
from qcompile.ir.printer import print_literal


@dataclass(frozen=True)
class Bounds:
    """Which numbers an option takes, as the annotation of its field: `samples: Annotated[int, Bounds(1)] = 48`.

    Args:
        least: the smallest number; None for no such end.
        most: the largest number.
        above: a number that all others exceed.
        below: a number that exceeds all others.
    """

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None

    def hold(self, value: float) -> bool:
        """Return whether a number is within; NaN never is."""
        return (
            value == value
            and (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        """In words."""
        words = {"at least": self.least, "more than": self.above, "at most": self.most, "less than": self.below}
        return " and ".join(f"{word} {end:g}" for word, end in words.items() if end is not None) or "a number"


@dataclass(frozen=True)
class Option:
    """One option of a pass.

    Args:
        name: as in pipeline text.
        type: what it accepts, in words ("float, at least 0", "'nearest' | 'linear'").
        default: its default as pipeline text.
    """

    name: str
    type: str
    default: str


def options_of(cls: type) -> tuple[Option, ...]:
    """Return the options of a pass class, in the order of its fields."""
    hints, bounds = typing.get_type_hints(cls), bounds_of(cls)

    def told(name: str) -> str:
        kind = describe_type(hints[name])
        return f"{kind}, {bounds[name]}" if name in bounds else kind

    return tuple(Option(f.name, told(f.name), print_literal(_default(f))) for f in fields(cls))


@cache
def bounds_of(cls: type) -> Mapping[str, Bounds]:
    """Return the bounds of those options of a pass class that have some."""
    found = {}
    for name, hint in typing.get_type_hints(cls, include_extras=True).items():
        for extra in getattr(hint, "__metadata__", ()):
            if isinstance(extra, Bounds):
                found[name] = extra
    return found


def check_bounds(options: Any) -> None:
    """Refuse options beyond their bounds.

    Args:
        options: an instance of a pass class.

    Raises:
        ValueError: a number is not within.
    """
    cls: type = type(options)
    for name, bounds in bounds_of(cls).items():
        value = getattr(options, name)
        if value is not None and not bounds.hold(value):
            raise ValueError(f"option '{name}' must be {bounds}, got {print_literal(value)}")


def _default(field: Field[Any]) -> Any:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return field.default
