"""Fields of dataclasses that text sets, such as the options of a pass: their types, bounds, and how one is made."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from numbers import Real
from typing import Any

from qcompile.errors import UsageError, did_you_mean, with_line
from qcompile.ir.printer import print_literal


@dataclass(frozen=True)
class Bounds:
    """Which numbers an option takes, as the annotation of its field: `samples: Annotated[int, Bounds(1)] = 48`.

    Those of a tuple are of each of its items; `Annotated[float, Bounds(0.0)] | None` has bounds in a part of its type.

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


def build(cls: type, given: dict[str, Any], what: str) -> Any:
    """Make a frozen dataclass from parsed fields.

    Args:
        cls: the dataclass.
        given: field values by name.
        what: how messages call it, e.g. "pass 'fold-batchnorm'".

    Raises:
        UsageError: an unknown field, a value of the wrong type or beyond its bounds, or one that the dataclass refuses.
    """
    known = [f.name for f in fields(cls)]
    hints = typing.get_type_hints(cls)
    values = {}
    for name, value in given.items():
        if name not in known:
            hint = did_you_mean(name, known) if known else f"{what} has no options"
            if name in vars(cls) and not callable(vars(cls)[name]):
                hint = f"an attribute is an option once it has a type: write `{name}: float = ...`, or the like"
            raise UsageError(f"{what} has no option '{name}'", hint=hint)
        if not accepts(hints[name], value):
            wanted = describe_type(hints[name])
            raise UsageError(f"{what}: option '{name}' must be {wanted}, got {print_literal(value)}")
        values[name] = coerce(hints[name], value)
    try:
        made = cls(**values)
        check_bounds(made)
        return made
    except (TypeError, ValueError) as error:
        raise UsageError(f"{what}: {error}") from error
    except Exception as error:  # of a user's own class, which may check its fields in any way
        raise UsageError(f"{what}: {with_line(error)}") from error


def check_bounds(made: Any) -> None:
    """Refuse fields beyond their bounds, wherever in a union or a tuple the bounds are.

    Args:
        made: an instance of a dataclass.

    Raises:
        ValueError: a number is not within.
    """
    cls: type = type(made)
    for name, annotation in _annotations(cls).items():
        found = _breach(annotation, getattr(made, name))
        if found is not None:
            bounds, number = found
            raise ValueError(f"option '{name}' must be {bounds}, got {print_literal(number)}")


@cache
def _annotations(cls: type) -> Mapping[str, Any]:
    """Return the types of a dataclass's fields with their bounds."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in fields(cls)}


def own_bounds(annotation: Any) -> list[Bounds]:
    """Return the bounds in an annotation itself, not in parts of it."""
    return [extra for extra in getattr(annotation, "__metadata__", ()) if isinstance(extra, Bounds)]


def _breach(annotation: Any, value: Any) -> tuple[Bounds, Any] | None:
    """Return a number in a value that is not within bounds, with these; None where all are."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        beyond = ((b, n) for b in own_bounds(annotation) for n in _numbers(value) if not b.hold(n))
        return next(beyond, None) or _breach(arguments[0], value)
    if origin in (typing.Union, types.UnionType):
        # A value is within the bounds of one of the types that it has.
        found = [_breach(a, value) for a in arguments if accepts(a, value)]
        return None if None in found else next(iter(found), None)
    if origin is tuple and isinstance(value, tuple):
        items = [arguments[0]] * len(value) if Ellipsis in arguments else arguments
        return next(filter(None, map(_breach, items, value)), None)
    return None


def _numbers(value: Any) -> list[Any]:
    """Return what bounds are about in a value: itself, or the items of a tuple."""
    items = value if isinstance(value, tuple) else (value,)
    return [item for item in items if isinstance(item, Real) and not isinstance(item, bool)]


def describe_type(annotation: Any) -> str:
    """Return a field's type in words, with the bounds of parts of it."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return " ".join([describe_type(arguments[0]), *map(str, own_bounds(annotation))])
    if origin is typing.Literal:
        return " | ".join(print_literal(a) for a in arguments)
    if origin in (typing.Union, types.UnionType):
        return " | ".join(describe_type(a) for a in arguments)
    if origin is tuple:
        inner = [describe_type(a) for a in arguments if a is not Ellipsis]
        return f"[{inner[0]}, ...]" if Ellipsis in arguments else f"[{', '.join(inner)}]"
    if annotation is type(None):
        return "none"
    return getattr(annotation, "__name__", str(annotation))


def is_written(annotation: Any) -> bool:
    """Return whether there are literals that fit a field's type."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return is_written(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return any(map(is_written, arguments))
    if origin is tuple:
        return all(a is Ellipsis or is_written(a) for a in arguments)
    return origin is typing.Literal or annotation in (Any, bool, int, float, str, tuple, type(None))


def accepts(annotation: Any, value: Any) -> bool:
    """Return whether a parsed literal fits a field's type; an int fits float."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is Any:
        return True
    if origin is typing.Annotated:
        return accepts(arguments[0], value)
    if origin is typing.Literal:
        return value in arguments
    if origin in (typing.Union, types.UnionType):
        return any(accepts(a, value) for a in arguments)
    if origin is tuple:
        return isinstance(value, tuple) and _accepts_items(arguments, value)
    if annotation is type(None):
        return value is None
    if annotation is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(annotation, type) and isinstance(value, annotation)


def _accepts_items(arguments: tuple[Any, ...], value: tuple[Any, ...]) -> bool:
    if Ellipsis in arguments:
        return all(accepts(arguments[0], v) for v in value)
    return len(value) == len(arguments) and all(map(accepts, arguments, value))


def coerce(annotation: Any, value: Any) -> Any:
    """Return a literal that fits a field's type with ints made floats where the type says float."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is float:
        return float(value)
    if origin is tuple:
        items = [arguments[0]] * len(value) if Ellipsis in arguments else arguments
        return tuple(map(coerce, items, value))
    if origin in (typing.Union, types.UnionType):
        exact = [a for a in arguments if accepts(a, value) and (a is not float or isinstance(value, float))]
        return coerce(exact[0], value) if exact else float(value)
    return value
