"""The options of a pass: their types, defaults and checks, all from the fields of its dataclass."""

from __future__ import annotations

import types
import typing
from dataclasses import MISSING, Field, dataclass, fields
from typing import Any

from qcompile.errors import UsageError
from qcompile.ir.literal import build
from qcompile.ir.printer import print_literal


@dataclass(frozen=True)
class Option:
    """One option of a pass.

    Args:
        name: as in pipeline text.
        type: what it accepts, in words ("float", "'nearest' | 'linear'").
        default: its default as pipeline text.
    """

    name: str
    type: str
    default: str


def options_of(cls: type) -> tuple[Option, ...]:
    """Return the options of a pass class, in the order of its fields."""
    hints = typing.get_type_hints(cls)
    found = fields(cls)
    return tuple(Option(f.name, describe_type(hints[f.name]), print_literal(_default(f))) for f in found)


def _default(field: Field[Any]) -> Any:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return field.default


def describe_type(annotation: Any) -> str:
    """Return a type in words."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
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


def accepts(annotation: Any, value: Any) -> bool:
    """Return whether a parsed literal fits an option's type; an int fits float."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is Any:
        return True
    if origin is typing.Literal:
        return value in arguments
    if origin in (typing.Union, types.UnionType):
        return any(accepts(a, value) for a in arguments)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if Ellipsis in arguments:
            return all(accepts(arguments[0], v) for v in value)
        return len(value) == len(arguments) and all(map(accepts, arguments, value))
    if annotation is type(None):
        return value is None
    if annotation is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(annotation, type) and isinstance(value, annotation)


def instantiate(cls: type, given: dict[str, Any]) -> Any:
    """Make a pass from parsed options.

    Args:
        cls: the pass class.
        given: values by option name.

    Raises:
        UsageError: an unknown option, or a value of the wrong type.
    """
    what = f"pass '{cls.name}'"  # type: ignore[attr-defined]
    hints = typing.get_type_hints(cls)
    known = {f.name for f in fields(cls)}
    for name, value in given.items():
        if name in known and not accepts(hints[name], value):
            wanted = describe_type(hints[name])
            raise UsageError(f"{what}: option '{name}' must be {wanted}, got {print_literal(value)}")
    return build(cls, given, what)
