"""Packs the tasks of a search for other machines: graphs without recursion from node to node, operations by name."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from qcompile import ops
from qcompile.ir.graph import Node, Value
from qcompile.ir.opdef import OpDef


def pack(work: Callable[[int], Any]) -> bytes:
    """Return a function with all that it refers to, as bytes for `unpack` on a machine with the same qcompile."""
    import cloudpickle

    class Packer(cloudpickle.Pickler):  # type: ignore[misc]
        def reducer_override(self, item: Any) -> Any:
            if isinstance(item, Value):
                return _value, (item.name, item.type, item.data, item.qspec, item.qparams, item.stats, item.steps)
            if isinstance(item, Node):
                return _node, (item.op, item.inputs, item.outputs, item.attrs, item.loc, item.precision)
            if isinstance(item, OpDef) and ops.all_ops().get(item.name) is item:
                return ops.get, (item.name,)
            return super().reducer_override(item)

    target = io.BytesIO()
    Packer(target).dump(work)
    return target.getvalue()


@lru_cache(maxsize=2)
def unpack(packed: bytes) -> Callable[[int], Any]:
    """Return the function of `pack`; the latest ones are kept, since many tasks share one."""
    import cloudpickle

    work: Callable[[int], Any] = cloudpickle.loads(packed)
    return work


def call(packed: bytes, index: int) -> Any:
    """Return what a packed function gives for one task."""
    return unpack(packed)(index)


def version() -> str:
    """Return the version of qcompile here."""
    from qcompile import __version__

    return __version__


def _value(name: str, type: Any, data: Any, qspec: Any, qparams: Any, stats: Any, steps: Any) -> Value:
    value = Value(name, type, data)
    value.qspec, value.qparams, value.stats, value.steps = qspec, qparams, stats, steps
    return value


def _node(op: OpDef, inputs: Any, outputs: Any, attrs: Any, loc: str, precision: str) -> Node:
    """Make a node, and let its tensors know it again."""
    node = Node(op, inputs, outputs, attrs, loc)
    node.precision = precision
    for index, value in enumerate(inputs):
        value.uses.append((node, index))
    return node
