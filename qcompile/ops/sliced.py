"""Parts of tensors as ONNX nodes ask for them."""

from __future__ import annotations

from qcompile.ir.graph import Value
from qcompile.ops.onnx_node import OnnxNode


def sliced(node: OnnxNode, x: Value, ranges: dict[int, slice], name: str | None = None) -> Value:
    """Return a part of x, x itself where the part is everything.

    Args:
        node: the ONNX node that asks for it.
        x: any tensor.
        ranges: what to take of each axis, in Python's terms; other axes are taken whole.
        name: wanted name of the result.
    """
    starts, steps, sizes = [], [], []
    for axis, extent in enumerate(x.shape):
        start, stop, step = ranges.get(axis, slice(None)).indices(extent)
        starts.append(start)
        steps.append(step)
        sizes.append(len(range(start, stop, step)))
    if tuple(sizes) == x.shape and all(step == 1 for step, size in zip(steps, sizes, strict=True) if size > 1):
        return x
    # Where one element or none is taken, the step does not matter: one spelling keeps equal slices equal.
    steps = [step if size > 1 else 1 for step, size in zip(steps, sizes, strict=True)]
    starts = [start if size else 0 for start, size in zip(starts, sizes, strict=True)]
    return node.add("slice", [x], name, starts=tuple(starts), steps=tuple(steps), sizes=tuple(sizes))
