"""Command-line options that several commands have."""

from __future__ import annotations

from typing import Annotated, Any

import typer


def _whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"'{text}' is not a whole number") from None


def number(text: str) -> Any:
    """Return an option that takes a whole number."""
    return typer.Option(metavar="N", parser=_whole_number, help=text)


InputShape = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=N,…", help="Extents: x=1,3,224,224; ids=1,S:1..128 serves each S. Repeatable."),
]
InputValue = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=X,…", help="Fix an input, e.g. sr=16000: the bundle no longer has it. Repeatable."),
]
