"""Aligned columns on standard output, which wrap on a terminal and stay whole in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

_UNLIMITED = 10_000
"""Width where standard output is no terminal: whoever reads it, a file or a program, wants whole lines."""


class _PlainTable(Table):
    """A table whose texts are shown as they are: neither markup nor commands to the terminal."""

    def add_row(self, *cells: Any, **options: Any) -> None:
        super().add_row(*(printable(cell) for cell in cells), **options)


def printable(text: str) -> str:
    """Return a text without what a terminal takes for commands: names of nodes, files and classes are the user's."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def _console() -> Console:
    plain = {"markup": False, "highlight": False, "emoji": False}
    return Console(**plain) if sys.stdout.isatty() else Console(**plain, width=_UNLIMITED)  # type: ignore[arg-type]


def show(table: Table) -> None:
    """Print a table without the spaces that pad its last column."""
    console = _console()
    with console.capture() as capture:
        console.print(table)
    for line in capture.get().splitlines():
        print(line.rstrip())


def shortened(name: str, most: int = 60) -> str:
    """Return a name of a table's first column without its middle, where it would leave no room for the others.

    Args:
        name: of a node: its scopes tell little, where it begins and what it ends in tell most.
        most: characters to keep.
    """
    tail = 2 * most // 3
    return name if len(name) <= most else f"{name[: most - tail - 1]}…{name[-tail:]}"


def columns(*names: str, right: Sequence[str] = (), whole: Sequence[str] = ()) -> Table:
    """Return an empty table.

    Args:
        names: headings.
        right: columns of numbers.
        whole: columns that are never wrapped.
    """
    table = _PlainTable(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in names:
        justify = "right" if name in right else "left"
        table.add_column(name, justify=justify, no_wrap=name in right or name in whole, overflow="fold")  # type: ignore[arg-type]
    return table


def facts(rows: Sequence[tuple[str, str]], gap: int = 2) -> None:
    """Print names and, `gap` spaces behind, what they are; long texts continue under themselves."""
    table = _PlainTable(show_header=False, box=None, pad_edge=False, padding=(0, gap, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for row in rows:
        table.add_row(*row)
    show(table)
