"""The C tables of open extents: symbols, what follows from them, and the axes of the caller's tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from qcompile.errors import InternalError
from qcompile.ir.program import Program
from qcompile.ir.symbol import FIRST_RUN, JOINT, MOST_JOINED, Extent

MOST_EXTENTS = 1024
"""As many as `qc_sizes.c` has room for."""


def tables(program: Program) -> dict[str, str]:
    """Return what stands for the names in `model.c.in`."""
    if len(program.extents) > MOST_EXTENTS:
        raise InternalError(f"{len(program.extents)} open extents, at most {MOST_EXTENTS}")
    # The length of a growing sequence has the number behind those that the caller gives, then comes the first run.
    names = [symbol.name for symbol in (*program.given, *program.symbols[len(program.given) :])]
    names.append(FIRST_RUN.symbol)
    single, first = program.single.extents if program.single is not None else (), len(program.extents)
    shifted = [replace(place, tensor=place.tensor + len(program.inputs)) for place in program.open_outputs]
    places = [*program.open_inputs, *shifted]
    return {
        "SYMBOLS": _rows([f'{{"{s.name}", {s.least}, {s.most}, {s.step}}}' for s in program.given]),
        "TABLES": "\n".join(
            f"static const int32_t TABLE_{i}[] = {{{', '.join(map(str, extent.table))}}};"
            for i, extent in enumerate((*program.extents, *single))
        ),
        "EXTENTS": _rows([_extent(e, names, i) for i, e in enumerate(program.extents)]),
        "SINGLE_EXTENTS": _rows([_extent(e, names, i) for i, e in enumerate(single, first)]),
        "N_SINGLE": f"{len(program.single.steps) if program.single is not None else 0}, {len(single)}",
        "OPEN": _rows([f"{{{p.tensor}, {p.axis}, {p.extent}}}" for p in places]),
        "N_SYMBOLS": str(len(program.given)),
        "HELD": ", ".join(map(str, _held(program))) or "-1",
        "FIRST_RUN": ", ".join(str(int(tensor.first_run)) for tensor in program.inputs) or "0",
        "LENGTH": _length(program),
        "N_EXTENTS": str(len(program.extents)),
        "N_OPEN": str(len(places)),
    }


def _extent(extent: Extent, names: Sequence[str], number: int) -> str:
    """Return the fields of a `qc_extent` whose table has a number."""
    symbols = [names.index(part) for part in extent.symbol.split(JOINT)]
    symbols += [-1] * (MOST_JOINED - len(symbols))
    return f"{{{{{', '.join(map(str, symbols))}}}, TABLE_{number}}}"


def _held(program: Program) -> list[int]:
    """Return the number of the kept tensor that holds each symbol, -1 for none."""
    states = [state.tensor.name for state in program.states]
    return [states.index(symbol.kept) if symbol.kept else -1 for symbol in program.given]


def _length(program: Program) -> str:
    """Return the fields of `qc_length`."""
    length = program.length
    if length is None:
        return "-1, -1, 0, 0"
    state = [kept.tensor.name for kept in program.states].index(length.past)
    fixed = length.new.isdigit()
    symbol = -1 if fixed else [s.name for s in program.given].index(length.new)
    return f"{state}, {symbol}, {length.new if fixed else 0}, {length.most}"


def _rows(rows: list[str]) -> str:
    """Return the elements of an array, one a line; C has no empty arrays, so there is always one."""
    return "\n".join(f"    {row}," for row in rows) or "    {0},"
