"""Caches that stay in the bundle: a decoder whose past is an operand becomes one that appends to its own memory.

The graph is that of the longest sequence with the most new places. What else depends on the length of the past is found
by importing the model at other lengths: a constant that differs is rows of a table (of positions, of the mask), since a
decoder computes the same for a place however the sequence before it was cut into runs. The result is compared with the
model at several lengths before it is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qcompile import ops
from qcompile.errors import QCompileError, UnsupportedOpError
from qcompile.ir.graph import Graph, Node, Value
from qcompile.ir.rewrite import Rewriter
from qcompile.ir.state import State
from qcompile.ir.symbol import Symbol
from qcompile.onnx_import.bounds import made_up
from qcompile.onnx_import.cache_readers import Reader, find_readers
from qcompile.onnx_import.growing import GrowingModel, role_of
from qcompile.onnx_import.lockstep import Twins, match_nodes
from qcompile.onnx_import.padding import KEPT_MASK, keep_masks
from qcompile.onnx_import.place_tables import Places, tabulate
from qcompile.onnx_import.uniform import drop_expansions, spread_uniform
from qcompile.onnx_import.written_once import HELD, hold_lengths
from qcompile.ops.cache_advance import LENGTH
from qcompile.ops.cache_append import CacheAppendAttrs
from qcompile.ops.interpreter import Interpreter

KEPT_LENGTH = "cache_length"
"""Name of the kept tensor that counts the filled places."""

SMALL = (3, 2)
"""Past and new places of the model at which reads of caches are recognized: five places in all."""

_TOLERANCE = 1e-4


@dataclass
class _Cache:
    """One cache.

    Args:
        past: graph input.
        node: the concat that appends to it; None where the first run computes all of it, and others read it.
        new: rows that are written to it.
        output: name of the graph output.
        readers: products that read it.
        transposed: whether it is kept with places innermost.
    """

    past: Value
    node: Node | None
    new: Value
    output: str
    readers: list[Reader]
    transposed: bool


def import_growing(grown: GrowingModel) -> Graph:
    """Import a decoder with growing caches.

    Args:
        grown: what is known of its inputs.

    Raises:
        UnsupportedOpError: its caches grow in another way than by appending, or what it computes depends on the length
            in a way that has no form; the message names the node.
    """
    total, new = grown.lengths.total, grown.lengths.new
    small = grown.at(*SMALL)
    try:
        graph, whole = grown.at(total - new, new), grown.at(0, total)
    except UnsupportedOpError as error:
        raise UnsupportedOpError(
            f"the model has no form with {total} places: {error.message}", hint="a smaller --max-length may help"
        ) from error
    caches = [_growing(graph, pair) for pair in grown.pairs] + [_written(graph, pair) for pair in grown.once]
    nodes = {cache.node for cache in caches if cache.node is not None}
    twins = Twins(match_nodes(graph, whole, nodes), match_nodes(graph, small, nodes), total, new, SMALL)
    back = {other: node for node, other in twins.small.items()}
    for cache in caches:
        read = twins.small[cache.node].output if cache.node is not None else _input(small, cache.past.name)
        cache.readers, cache.transposed = find_readers(read, back)
    tables = tabulate(graph, twins)
    rewriter = Rewriter(graph)
    length = graph.add_input(KEPT_LENGTH, LENGTH)
    source, axis = _source(graph, grown)
    first = graph.nodes[0]
    counted = rewriter.insert(
        first, ops.get("cache_advance"), [length, source], ops.get("cache_advance").Attrs(axis=axis), name="cache_total"
    )
    masks = keep_masks(graph, grown, first, length, counted.output)
    Places(rewriter, length, source, axis, first, total).insert(tables)
    held = hold_lengths(graph, grown.held, first, length)
    ends = [_end(rewriter, grown, cache, held) or (counted.output, total) for cache in caches]
    states = [*masks, *(_keep(rewriter, cache, length, end) for cache, end in zip(caches, ends, strict=True))]
    graph.outputs.append(counted.output)
    graph.output_names.append(f"{KEPT_LENGTH}_next")
    graph.states = (*states, *graph.states, State(KEPT_LENGTH, f"{KEPT_LENGTH}_next"))
    rewriter.eliminate_dead()
    opened = (new, total, *(symbol.most for symbol in grown.others))
    drop_expansions(graph, opened)
    spread_uniform(graph, opened)
    _set_symbols(graph, grown)
    _check_outputs(graph)
    _verify(graph, grown, {cache.past.name: cache.transposed for cache in caches})
    _say(graph, grown)
    return graph


def _input(graph: Graph, name: str) -> Value:
    return next(value for value in graph.inputs if value.name == name)


def _written(graph: Graph, pair: tuple[str, str]) -> _Cache:
    output, name = pair
    return _Cache(_input(graph, name), None, graph.outputs[graph.output_names.index(output)], output, [], False)


def _growing(graph: Graph, pair: tuple[str, str]) -> _Cache:
    output, name = pair
    past = _input(graph, name)
    made = graph.outputs[graph.output_names.index(output)]
    node = made.producer
    fits = node is not None and node.op.name == "concat" and len(node.inputs) == 2 and node.inputs[0] is past
    if node is None or not fits:
        raise UnsupportedOpError(
            f"output '{output}' is not '{name}' with new rows behind it, so that it cannot be kept as a growing cache",
            hint="caches of one length need fixed extents: give their inputs with --input-shape",
        )
    axis = node.attrs.axis % len(past.shape)
    if axis != len(past.shape) - 2:
        raise UnsupportedOpError(f"cache '{name}' grows along axis {axis}; only the last but one can", loc=node.loc)
    if past.users() != [node]:
        other = next(user for user in past.users() if user is not node)
        raise UnsupportedOpError(f"cache '{name}' is read without what is new by {other.loc or other.op.name}")
    return _Cache(past, node, node.inputs[1], output, [], False)


def _source(graph: Graph, grown: GrowingModel) -> tuple[Value, int]:
    """Return an input that holds the new places, and along which axis."""
    caches = [name for _, name in grown.pairs]
    for value in graph.inputs:
        roles = grown.roles.get(value.name, ())
        if value.name not in caches and "new" in roles:
            return value, roles.index("new")
    raise UnsupportedOpError("no input of the model holds the new places of a run, such as input_ids [batch, sequence]")


def _end(rewriter: Rewriter, grown: GrowingModel, cache: _Cache, held: Mapping[str, Value]) -> tuple[Value, int] | None:
    """Return how many places of a cache that is written once are filled, and most of them; None for one that grows."""
    if cache.node is not None:
        return None
    name, rows = cache.past.name, cache.past.shape[-2]
    for symbol in grown.held:
        if role_of(symbol) in grown.roles[name]:
            return held[symbol.name], rows
    return rewriter.constant(f"{name}.places", np.array([rows], np.int64)), rows


def _keep(rewriter: Rewriter, cache: _Cache, length: Value, end: tuple[Value, int]) -> State:
    """Write to the kept cache, and let its readers read that.

    Args:
        rewriter: of the graph.
        cache: what is kept.
        length: filled places of the growing sequence before the run.
        end: filled places of the cache after it, and how many it has.
    """
    graph, past, node, (total, rows) = rewriter.graph, cache.past, cache.node, end
    before = node or min(past.users(), key=graph.nodes.index)
    axis, shape = len(past.shape) - 2 + cache.transposed, [*past.shape[:-2], rows, past.shape[-1]]
    if cache.transposed:
        shape[-2:] = shape[:-3:-1]
    rewriter.set_type(past, past.type.with_shape(tuple(shape)), None)
    attrs = CacheAppendAttrs(axis, rows, once=node is None)
    kept = rewriter.insert(
        before, ops.get("cache_append"), [past, cache.new, length, total], attrs,
        name=f"{node.output.name if node is not None else past.name}.kept", loc=before.loc,
    )  # fmt: skip
    for reader in cache.readers:
        _read(rewriter, reader, kept.output, total)
    graph.outputs[graph.output_names.index(cache.output)] = kept.output
    if not cache.transposed:
        rewriter.replace_value(node.output if node is not None else past, kept.output, except_in=kept)
    return State(past.name, cache.output, in_place=True)


def _read(rewriter: Rewriter, reader: Reader, kept: Value, total: Value) -> None:
    """Let a product read the kept cache."""
    node = reader.node
    x = node.inputs[0]
    if reader.factor != 1.0:
        factor = rewriter.constant(f"{x.name}.factor", np.float32(reader.factor))
        x = rewriter.insert(node, ops.get("mul"), [x, factor], name=f"{x.name}.scaled", loc=node.loc).output
    rewriter.replace_op(node, ops.get(reader.op), [x, kept, total])


def _set_symbols(graph: Graph, grown: GrowingModel) -> None:
    lengths, caches = grown.lengths, [name for _, name in grown.pairs]
    symbols = [replace(s, kept=HELD.format(s.name) if s in grown.held else "") for s in grown.others]
    name = "S" if all(symbol.name != "S" for symbol in symbols) else "new"
    if not lengths.fixed:
        places = tuple(
            (value.name, axis)
            for value in graph.inputs
            if value.name not in caches
            for axis, role in enumerate(grown.roles.get(value.name, ()))
            if role in ("new", "total")
        )
        symbols.append(Symbol(name, 1, lengths.new, 1, places))
    added = str(lengths.new) if lengths.fixed else name
    graph.symbols = (*symbols, Symbol("length", 1, lengths.total, past=KEPT_LENGTH, new=added))


def _check_outputs(graph: Graph) -> None:
    """Refuse results whose extent is that of the whole sequence: their memory would be the caller's."""
    from qcompile.shapes.analysis import analyse

    kept = {state.output for state in graph.states}
    try:
        analysis = analyse(graph)
    except UnsupportedOpError as error:
        raise UnsupportedOpError(
            f"the model's caches cannot grow: {error.message}",
            hint="caches of one length can be kept: give their inputs fixed extents with --input-shape",
        ) from error
    for name, value in zip(graph.output_names, graph.outputs, strict=True):
        if name not in kept and any(e is not None and e.symbol == "length" for e in analysis.of(value)):
            raise UnsupportedOpError(f"output '{name}' {value.type} grows with the sequence, but is not kept")


def _verify(graph: Graph, grown: GrowingModel, transposed: Mapping[str, bool]) -> None:
    """Compare the graph with the model at several lengths."""
    total, most = grown.lengths.total, grown.lengths.new
    least = most if grown.lengths.fixed else 1
    probes = [(0, least), (0, most), (1, least), (max(0, total - most), most), (total - least, least)]
    smallest = {symbol.name: symbol.least for symbol in grown.others}
    cases: list[tuple[int, int, dict[str, int]]] = [(past, new, {}) for past, new in dict.fromkeys(probes)]
    cases += [(past, new, smallest) for past, new in (probes[0], probes[-1]) if smallest]
    interpreter, generator = Interpreter(graph), np.random.default_rng(0)
    for past, new, others in cases:
        wanted = grown.at(past, new, first=past == 0, others=others)
        inputs = {v.name: _made_up(v, generator, grown, past) for v in wanted.inputs}
        caches = {v.name: v for v in graph.inputs if v.name in transposed}
        given = {n: a for n, a in inputs.items() if n not in caches}
        for name, value in caches.items():
            given[name] = _placed(inputs.get(name) if past else None, value, transposed[name])
        given[KEPT_LENGTH] = np.array([past], np.int64)
        for symbol in grown.held:
            given[HELD.format(symbol.name)] = np.array([others.get(symbol.name, symbol.most) if past else 0], np.int64)
        _cut_masks(graph, grown, given, past)
        try:
            with np.errstate(all="ignore"):
                expected, found = Interpreter(wanted).run(inputs), interpreter.run(given)
        except (ValueError, IndexError, QCompileError) as error:
            raise _mismatch(past, new, str(error)) from error
        for name in [name for name in expected if name not in dict(grown.once)]:
            array, got = expected[name], found[name]
            if name in dict(grown.pairs):
                got = got.swapaxes(-1, -2) if transposed[dict(grown.pairs)[name]] else got
                got = got[..., : past + new, :]
            peak = float(np.abs(array, dtype=np.float64).max(initial=0)) if array.dtype.kind == "f" else 0.0
            if got.shape != array.shape or not np.allclose(got, array, _TOLERANCE, _TOLERANCE * peak, equal_nan=True):
                raise _mismatch(past, new, f"output '{name}' differs")


def _made_up(value: Value, generator: np.random.Generator, grown: GrowingModel, past: int) -> Any:
    """Return an input; of a batch the sequences begin one place later each, while these are past."""
    roles = grown.roles.get(value.name, ())
    if "total" in roles:
        starts = np.minimum(np.arange(value.shape[0]), past)
        return (np.arange(value.shape[-1]) >= starts[:, None]).astype(value.dtype)
    return made_up(value, generator)


def _cut_masks(graph: Graph, grown: GrowingModel, given: dict[str, Any], past: int) -> None:
    """Turn masks of all places into what is kept of them, and those of the new places."""
    for value in graph.inputs:
        name = KEPT_MASK.format(value.name)
        if "total" in grown.roles.get(value.name, ()) and any(v.name == name for v in graph.inputs):
            whole = given[value.name]
            kept = next(v for v in graph.inputs if v.name == name)
            given[name] = _placed(whole[:, :past, None], kept, transposed=False)
            given[value.name] = np.ascontiguousarray(whole[:, past:])


def _placed(past: Any, value: Value, transposed: bool) -> Any:
    """Return a cache that holds the rows of a past; None is an empty one."""
    cache = np.zeros(value.shape, value.dtype)
    if past is not None:
        rows = past.swapaxes(-1, -2) if transposed else past
        cache[tuple(map(slice, rows.shape))] = rows
    return cache


def _mismatch(past: int, new: int, what: str) -> UnsupportedOpError:
    return UnsupportedOpError(
        f"the model's caches cannot be kept: with a past of {past} and {new} new places, {what}",
        hint="caches of one length can be kept: give their inputs fixed extents with --input-shape",
    )


def _say(graph: Graph, grown: GrowingModel) -> None:
    lengths = grown.lengths
    runs = f"{lengths.new} new" if lengths.fixed else f"1 to {lengths.new} new"
    graph.notes = [note for note in graph.notes if "was taken as 1" not in note]
    graph.notes.append(
        f"{len(grown.pairs)} growing caches are kept: up to {lengths.total} places, {runs} in a run"
        f" (--max-length, --input-shape)"
    )
    graph.notes += grown.notes
    masks = [name for name, roles in grown.roles.items() if grown.padded and "total" in roles]
    if masks:
        listed = ", ".join(f"'{name}'" for name in masks)
        graph.notes.append(f"{listed} is given for the new places of a run; that of all places before is kept")
    if grown.once:
        graph.notes.append(f"{len(grown.once)} tensors are computed in the run that starts a sequence, and kept")
    fixed = [n for n in grown.roles if grown.follows(n)]
    if fixed:
        listed = ", ".join(f"'{name}'" for name in fixed)
        graph.notes.append(f"{listed} follow from the length: all places count, in order")
