"""Graphs as text: deterministic, parseable, with large constants as digests.

graph "tiny" {
  input %x : f32[1,8,8,3]
  const @w : f32[8,3,3,3] = #5a1f0c9d2e7b4431
  const @b : f32[2] = [0.5, -1.0]
  %y = conv2d(%x, @w, @b) {strides=[2,2]} : f32[1,4,4,8] loc("Conv_0")
  output "y" = %y
}
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import zlib
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal

import numpy as np

from qcompile.ir.graph import Graph, Node, Value
from qcompile.quant.qparams import INT_RANGE, QParams

INLINE_LIMIT = 8
"""Constants and scale lists of at most so many elements are written out."""

Large = Literal["digest", "elide", "noise"]
"""How constants that are not written out appear: by their digest, as "#", or as seeded noise of the same spread."""

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_.:/\-]+")


def digest(array: Any) -> str:
    """Return 16 hexadecimal digits that identify an array's dtype, shape and contents."""
    data = np.ascontiguousarray(array)
    header = f"{data.dtype.name}{data.shape}".encode()
    return hashlib.sha256(header + data.tobytes()).hexdigest()[:16]


def print_graph(graph: Graph, *, elide: bool = False, noise: bool = False) -> str:
    """Return the text of a graph.

    Args:
        graph: read only.
        elide: write "#" in place of digests; for texts that must not depend on the contents.
        noise: write large constants and lists of scales in a form that parses without their contents, as seeded
            noise of the same spread and in full; for texts that must stand alone.
    """
    large: Large = "noise" if noise else "elide" if elide else "digest"
    lines = [f"graph {json.dumps(graph.name)} {{"]
    lines += [f"  input {reference(v)} : {v.type}{_quantization(v, large)}" for v in graph.inputs]
    for value in graph.constants():
        content = _contents(value, large)
        lines.append(f"  const {reference(value)} : {value.type} = {content}{_quantization(value, large)}")
    lines += [f"  {print_node(node, large=large)}" for node in graph.nodes]
    for name, value in zip(graph.output_names, graph.outputs, strict=True):
        lines.append(f"  output {json.dumps(name)} = {reference(value)}")
    lines += [f"  state {print_fields(state)}" for state in graph.states]
    lines += [f"  symbol {print_fields(symbol)}" for symbol in graph.symbols]
    lines += [f"  extent {print_fields(extent)}" for extent in graph.extents]
    lines += [f"  counted {print_fields(axis)}" for axis in graph.counted]
    return "\n".join([*lines, "}"]) + "\n"


def print_node(node: Node, *, large: Large = "digest") -> str:
    """Return the text of one node, as in a graph.

    Args:
        node: read only.
        large: how lists of more than INLINE_LIMIT scales are written.
    """
    results = ", ".join(reference(v) for v in node.outputs)
    operands = ", ".join(reference(v) for v in node.inputs)
    types = ", ".join(f"{v.type}{_quantization(v, large)}" for v in node.outputs)
    attrs = print_fields(node.attrs)
    loc = f" precision({node.precision})" if node.precision else ""
    loc += f" loc({json.dumps(node.loc)})" if node.loc else ""
    return f"{results} = {node.op.name}({operands}){' ' + attrs if attrs else ''} : {types}{loc}"


def reference(value: Value) -> str:
    """Return how a value is written: %name, or @name for a constant; odd names are quoted."""
    sigil = "@" if value.is_constant else "%"
    plain = _PLAIN_NAME.fullmatch(value.name)
    return sigil + (value.name if plain else json.dumps(value.name))


def print_fields(instance: Any) -> str:
    """Return the fields of a frozen dataclass that differ from their defaults, as {name=value, …}."""
    parts = []
    for field in fields(instance):
        value = getattr(instance, field.name)
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        if default is MISSING or value != default or type(value) is not type(default):
            parts.append(f"{field.name}={print_literal(value)}")
    return "{" + ", ".join(parts) + "}" if parts else ""


def print_literal(value: Any) -> str:
    """Return the text of an attribute value."""
    if value is None:
        return "none"
    if isinstance(value, (bool, np.bool_)):
        return "true" if value else "false"
    if isinstance(value, (int, np.integer)):
        return str(int(value))
    if isinstance(value, (float, np.floating)):
        return _print_double(float(value))
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(print_literal(v) for v in value) + "]"
    if isinstance(value, QParams):
        return print_qparams(value)
    if is_dataclass(value):
        return f"{type(value).__name__}{print_fields(value) or '{}'}"
    raise TypeError(f"an attribute cannot hold {type(value).__name__}")


def _print_double(value: float) -> str:
    if math.isnan(value):
        return "nan"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return repr(value)


def _print_single(value: float) -> str:
    """Return the shortest text that gives the same float32: for what is stored as float32 only."""
    return str(np.float32(value)) if math.isfinite(value) else _print_double(value)


def print_qparams(qparams: QParams, *, large: Large = "digest") -> str:
    """Return the text of QParams: q(scale=…, zp=…, …), defaults left out.

    Args:
        qparams: read only.
        large: how more than INLINE_LIMIT scales are written; in full for "noise".
    """
    if len(qparams.scale) <= INLINE_LIMIT or large == "noise":
        scale = ", ".join(_print_single(s) for s in qparams.scale)
        scale = f"[{scale}]" if qparams.per_channel else scale
    else:
        scale = "#" if large == "elide" else "#" + digest(np.asarray(qparams.scale, np.float32))
    parts = [f"scale={scale}"]
    if any(qparams.zero_point):
        same = len(set(qparams.zero_point)) == 1
        parts.append(f"zp={qparams.zero_point[0] if same else print_literal(qparams.zero_point)}")
    if qparams.axis is not None:
        parts.append(f"axis={qparams.axis}")
    if qparams.dtype != "int8":
        parts.append(f"dtype={qparams.dtype}")
    if (qparams.qmin, qparams.qmax) != INT_RANGE[qparams.dtype]:
        parts.append(f"range=[{qparams.qmin}, {qparams.qmax}]")
    return f"q({', '.join(parts)})"


def _quantization(value: Value, large: Large) -> str:
    text = f" {print_qparams(value.qparams, large=large)}" if value.qparams is not None else ""
    if value.qspec is not None:
        text += f" spec({print_fields(value.qspec).strip('{}')})"
    return text


def _contents(value: Value, large: Large) -> str:
    data = value.constant()
    if data.size <= INLINE_LIMIT:
        text = _print_single if data.dtype == np.float32 else print_literal
        return "[" + ", ".join(text(v) for v in data.ravel().tolist()) + "]"
    if large == "noise" and data.dtype.kind in "iuf":
        with np.errstate(all="ignore"):
            spread = float(np.float32(np.std(data.astype(np.float64))))
        return f"normal({zlib.crc32(value.name.encode())}, {_print_double(spread if math.isfinite(spread) else 1.0)})"
    return "#" if large == "elide" else "#" + digest(data)


def constant_pool(graph: Graph) -> dict[str, Any]:
    """Return the arrays that the digests in a graph's text stand for, by digest."""
    pool: dict[str, Any] = {digest(v.constant()): v.constant() for v in graph.constants()}
    for value in graph.values():
        if value.qparams is not None:
            scale = np.asarray(value.qparams.scale, np.float32)
            pool[digest(scale)] = scale
    return pool


__all__ = [
    "constant_pool",
    "digest",
    "print_fields",
    "print_graph",
    "print_literal",
    "print_node",
    "print_qparams",
    "reference",
]
