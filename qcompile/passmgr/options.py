"""The options of a pass: names, types and defaults, all from the fields of its dataclass."""

from __future__ import annotations

import typing
from dataclasses import MISSING, Field, dataclass, fields
from typing import Any

from qcompile.ir.literal import describe_type
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
