"""Import of a model with open extents: at their largest sizes, and checked against imports at others."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from os import PathLike
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.errors import InternalError, QCompileError, UnsupportedOpError, UsageError
from qcompile.ir.graph import Graph, Node, Value
from qcompile.ir.symbol import Symbol
from qcompile.onnx_import import import_onnx
from qcompile.onnx_import.named_axes import with_same_names
from qcompile.onnx_import.separate import separate_rows
from qcompile.ops.interpreter import Interpreter
from qcompile.shapes.specialize import Specializer

Array = npt.NDArray[Any]

Extents = Sequence["int | str"]

_SYMBOL = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::(\d+)\.\.(\d+)(?::(\d+))?)?")
_FORM = "such as ids=1,S:1..128; the same name later needs no bounds: mask=1,S"
_TOLERANCE = 1e-4
MOST = 1 << 16


def import_model(
    model: str | PathLike[str] | Any,
    shapes: Mapping[str, Extents],
    values: Mapping[str, Any] | None = None,
    *,
    keeps_loops: bool = True,
) -> Graph:
    """Import a model, with open extents where the shapes have symbols; see `import_onnx` and `import_bounded`."""
    if has_bounds(shapes):
        return import_bounded(model, shapes, values)
    fixed = {name: tuple(int(d) for d in shape) for name, shape in shapes.items()}
    return import_onnx(model, fixed, values, keeps_loops=keeps_loops)


def has_bounds(shapes: Mapping[str, Extents]) -> bool:
    """Return whether any extent is a symbol."""
    return any(isinstance(d, str) for shape in shapes.values() for d in shape)


def read_bounds(shapes: Mapping[str, Extents]) -> tuple[dict[str, tuple[int, ...]], tuple[Symbol, ...]]:
    """Return the largest shapes, and the symbols with their places.

    Args:
        shapes: by input name; an extent is a number, "S:1..128", "W:32..640:32" (in steps),
            or "S" where the bounds of S are given elsewhere.

    Raises:
        UsageError: an extent has another form, bounds are missing, contradict each other or are out of order.
    """
    symbols: dict[str, Symbol] = {}
    for name, shape in shapes.items():
        for axis, extent in enumerate(shape):
            if isinstance(extent, str):
                found = _read_symbol(extent, name)
                old = symbols.get(found.name, found)
                if found.most and old.most and found.values != old.values:
                    raise UsageError(f"'{found.name}' has two bounds: {old.least}..{old.most} and {extent}")
                known = found if found.most else old
                symbols[found.name] = replace(known, places=(*old.places, (name, axis)))
    for symbol in symbols.values():
        if not symbol.most:
            name = symbol.places[0][0]
            given = f"{name}={','.join(map(str, shapes[name]))}"
            raise UsageError(f"the open extent '{symbol.name}' of '{given}' has no bounds", hint=_FORM)
    bounds = {symbol.name: symbol.most for symbol in symbols.values()}
    largest = {n: tuple(_largest(d, bounds) for d in shape) for n, shape in shapes.items()}
    return largest, tuple(symbols.values())


def _largest(extent: int | str, bounds: Mapping[str, int]) -> int:
    return extent if isinstance(extent, int) else bounds[extent.partition(":")[0]]


def _read_symbol(text: str, name: str) -> Symbol:
    match = _SYMBOL.fullmatch(text)
    if match is None:
        raise UsageError(f"extent '{text}' of input '{name}' is neither a number nor NAME:LEAST..MOST", hint=_FORM)
    least, most, step = int(match[2] or 0), int(match[3] or 0), int(match[4] or 1)
    if match[2] is not None and not 0 <= least < most <= MOST:
        raise UsageError(
            f"the bounds of '{text}' must be two numbers from 0 to {MOST}, the smaller one first", hint=_FORM
        )
    if step < 1 or (most - least) % step:
        raise UsageError(f"'{text}': {most} is no whole number of steps of {step} above {least}", hint=_FORM)
    return Symbol(match[1], least, most, step)


def import_bounded(
    model: str | PathLike[str] | Any, shapes: Mapping[str, Extents], values: Mapping[str, Any] | None = None
) -> Graph:
    """Import a model whose inputs have open extents.

    The graph is that of the largest sizes. It is compared with what the importer makes of the model at the smallest,
    a middle and the largest but one: where they do not mean the same, the model is refused.

    Args:
        model: as for `import_onnx`.
        shapes: by input name; see `read_bounds`. Inputs left out whose axes the model names like an open one follow it.
        values: what inputs are fixed to, as for `import_onnx`.

    Raises:
        UsageError: the shapes are wrong.
        UnsupportedOpError: an operation, or the model's arithmetic on shapes, has no form that serves all sizes.
    """
    from qcompile.onnx_import.load import load_model  # which loads ONNX

    loaded = load_model(model)
    shapes = with_same_names(loaded.proto.graph.input, shapes, values or {})
    largest, symbols = read_bounds(shapes)
    graph = import_onnx(loaded, largest, values, symbols=symbols)
    if len(symbols) > 1:
        separate_rows(graph)
    specializer = Specializer(graph)
    for size in _probes(symbols):
        given = {n: tuple(d if isinstance(d, int) else size[d.partition(":")[0]] for d in s) for n, s in shapes.items()}
        wanted = import_onnx(loaded, given, values, keeps_loops=False)
        _compare(specializer, size, wanted)
    listed = ", ".join(f"'{s.name}' from {s.least} to {s.most}" for s in symbols)
    graph.notes.append(f"open extents: {listed}; memory is planned for the largest")
    return graph


def _probes(symbols: Sequence[Symbol]) -> list[dict[str, int]]:
    """Return sizes to compare at: all symbols small, each in the middle and one below its bound."""
    largest = {s.name: s.most for s in symbols}
    found = [{s.name: s.least for s in symbols}, {s.name: s.values[len(s.values) // 2] for s in symbols}]
    found += [{**largest, s.name: s.values[-2]} for s in symbols]
    return [dict(items) for items in dict.fromkeys(tuple(sorted(f.items())) for f in found)]


def _compare(specializer: Specializer, size: Mapping[str, int], wanted: Graph) -> None:
    """Check that the graph at some size is, or at least computes, what was imported at that size."""
    try:
        got, _ = specializer.at(size)
    except (ValueError, InternalError, QCompileError) as error:
        raise _mismatch(size, f"the graph of the largest size has no form there ({error})") from error
    if got.structural_hash() == wanted.structural_hash():
        return
    generator = np.random.default_rng(0)
    inputs = {v.name: made_up(v, generator) for v in wanted.inputs}
    with np.errstate(all="ignore"):
        expected = Interpreter(wanted).run(inputs)
        try:
            found = Interpreter(got).run(inputs)
        except (ValueError, IndexError, InternalError, QCompileError) as error:
            raise _mismatch(size, _difference(got, wanted) or str(error)) from error
        if any(not _close(found[name], array) for name, array in expected.items()):
            raise _mismatch(size, _first_result(got, wanted, inputs))


def _close(found: Array, expected: Array) -> bool:
    largest = float(np.abs(expected[np.isfinite(expected)]).max(initial=0))
    return found.shape == expected.shape and np.allclose(
        found, expected, _TOLERANCE, _TOLERANCE * largest, equal_nan=True
    )


def _first_result(got: Graph, wanted: Graph, inputs: Mapping[str, Array]) -> str:
    """Return which node is the first to give something else in one of two graphs."""
    expected: dict[str, Array] = {}
    differing: list[str] = []

    def compare(value: Value, found: Array) -> None:
        if value.name in expected and not differing and not _close(found, expected[value.name]):
            node = value.producer
            differing.append(f"node {_where(node)} ({node.op.name})" if node is not None else f"'{value.name}'")

    Interpreter(wanted).run(inputs, lambda value, array: expected.update({value.name: array}))
    Interpreter(got).run(inputs, compare)
    return f"{differing[0] if differing else 'an output'} gives something else"


def made_up(value: Value, generator: np.random.Generator) -> Any:
    """Return an array that an input may hold: numbers around 0, of integers and bools 0 and 1."""
    if value.dtype.startswith("float"):
        return generator.standard_normal(value.shape).astype(value.dtype)
    return generator.integers(0, 2, value.shape).astype(value.dtype)


def _difference(got: Graph, wanted: Graph) -> str:
    """Return what first differs between two graphs, "" where nothing is found."""
    for mine, theirs in zip(got.nodes, wanted.nodes, strict=False):
        if mine.op.name != theirs.op.name:
            return f"node {_where(theirs)} ({theirs.op.name}) stands where {_where(mine)} ({mine.op.name}) does"
        if mine.attrs != theirs.attrs:
            return f"node {_where(theirs)} ({theirs.op.name}) has other attributes"
        for index, (a, b) in enumerate(zip(mine.inputs, theirs.inputs, strict=False)):
            if a.type != b.type or a.content_digest() != b.content_digest():
                what = "constant" if b.is_constant else "operand"
                return f"{what} {index} of node {_where(theirs)} ({theirs.op.name}) depends on it in another way"
    if len(got.nodes) != len(wanted.nodes):
        return f"the model has {len(got.nodes)} operations at the largest size and {len(wanted.nodes)} there"
    return ""


def _where(node: Node) -> str:
    return node.loc or node.outputs[0].name


def _mismatch(size: Mapping[str, int], what: str) -> UnsupportedOpError:
    where = ", ".join(f"{name}={value}" for name, value in size.items())
    return UnsupportedOpError(
        f"the model's arithmetic with open extents cannot be kept: at {where}, {what}",
        hint="fix the size with --input-shape, or choose a bound that is no other extent of the model",
    )
