"""Import of a model with the tensors that it keeps between runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from os import PathLike
from typing import Any

from qcompile.errors import UsageError
from qcompile.ir.graph import Graph
from qcompile.onnx_import.bounds import Extents, import_model
from qcompile.onnx_import.caches import import_growing
from qcompile.onnx_import.growing import GrowingModel, describe, growing_pairs
from qcompile.onnx_import.load import load_model
from qcompile.onnx_import.scattered import as_growing, written_caches
from qcompile.onnx_import.states import AUTO, bind_states


def import_kept(
    model: str | PathLike[str] | Any,
    shapes: Mapping[str, Extents],
    values: Mapping[str, Any] | None,
    states: Sequence[str],
    initial: Mapping[str, float | str],
    length: int | None,
    cache: str = "float32",
    *,
    keeps_loops: bool = True,
) -> Graph:
    """Import a model, and note in the graph what it keeps.

    Args:
        model: as for `import_onnx`.
        shapes: extents by input name; an open one as "S:1..128".
        values: what inputs are fixed to.
        states: OUTPUT=INPUT, or "auto"; caches that grow with the sequence are among them.
        initial: what kept tensors start with, by name of the input.
        length: places of caches that grow; None for a default.
        cache: how these will be stored.
        keeps_loops: as for `import_onnx`.

    Raises:
        UsageError: a name, a shape or a pair does not fit.
        UnsupportedOpError: an operation has no form for open extents or growing caches.
    """
    if states:
        model = load_model(model)  # once: what grows is told from imports at several sizes
    grown = _growing(model, shapes, values, states, length) if states else None
    if grown is None or not grown.grows:
        if length is not None or cache != "float32":
            option = "--cache" if length is None else "--max-length"
            raise UsageError(
                f"{option} is for models whose caches grow, and this one has none",
                hint=_hint(model, shapes) if states else "name them: --state present.0.key=past_key_values.0.key",
            )
        graph = import_model(model, shapes, values, keeps_loops=keeps_loops)
        bind_states(graph, states, initial, values or ())
        return graph
    known = {name for pair in grown.pairs for name in pair}
    others = [text for text in states if text != AUTO and not set(text.split("=")) <= known]
    if others or initial:
        listed = others[0] if others else next(iter(initial))
        raise UsageError(f"'{listed}' cannot be kept beside caches that grow", hint="only the caches are kept")
    return import_growing(grown)


def _hint(model: str | PathLike[str] | Any, shapes: Mapping[str, Extents]) -> str | None:
    """Return what would let the caches of a model grow."""
    given = written_caches(model) & set(shapes)
    return f"leave the extents of '{min(given)}' out of --input-shape, and it grows" if given else None


def _growing(
    model: str | PathLike[str] | Any,
    shapes: Mapping[str, Extents],
    values: Mapping[str, Any] | None,
    states: Sequence[str],
    length: int | None,
) -> GrowingModel | None:
    """Return what is known of a model with caches that grow, or can; None for any other."""
    scattered = as_growing(model, shapes, values or {})
    pairs = growing_pairs(scattered.model, states) if scattered is not None else ()
    if scattered is not None and pairs:
        grown = describe(scattered.model, pairs, shapes, values, length or scattered.places)
        scattered.check(grown)
        return replace(grown, notes=scattered.notes)
    pairs = growing_pairs(model, states)
    return describe(model, pairs, shapes, values, length) if pairs else None
