"""The options of a pass: names, types and defaults, all from the fields of its dataclass."""

from __future__ import annotations

import typing
from dataclasses import MISSING, Field, dataclass, fields
from typing import Any

from qcompile.ir.fields import describe_type, own_bounds
from qcompile.ir.printer import print_literal


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
    hints = typing.get_type_hints(cls, include_extras=True)
    return tuple(Option(f.name, _told(hints[f.name]), print_literal(_default(f))) for f in fields(cls))


def _told(annotation: Any) -> str:
    """Return which values an option takes, in words."""
    if typing.get_origin(annotation) is not typing.Annotated:
        return describe_type(annotation)
    kind = typing.get_args(annotation)[0]
    each = "each " if typing.get_origin(kind) is tuple else ""
    return ", ".join([describe_type(kind), *(f"{each}{extra}" for extra in own_bounds(annotation))])


def _default(field: Field[Any]) -> Any:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return field.default
