"""Open extents of inputs that nobody mentions: those whose axes the model gives the same name."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

Extents = Sequence["int | str"]


def with_same_names(inputs: Iterable[Any], shapes: Mapping[str, Extents], fixed: Collection[str]) -> dict[str, Extents]:
    """Return the shapes given, and those of further inputs whose axes are named like an open one of them.

    An input of which the sizes are known otherwise is left to `resolve_inputs`, which knows what to say of it. So is
    one with an axis whose name stands for two extents, which exporters write where axes have nothing in common.

    Args:
        inputs: ValueInfoProto of every input of the model.
        shapes: by input name, as `bounds.read_bounds` takes them.
        fixed: inputs that are no longer the network's.
    """
    dims = {value.name: _dims(value) for value in inputs}
    named: dict[str, set[int | str]] = {}
    for name, shape in shapes.items():
        for dim, extent in zip(dims.get(name, ()), shape, strict=False):
            if isinstance(dim, str) and dim:
                named.setdefault(dim, set()).add(extent.partition(":")[0] if isinstance(extent, str) else extent)
    known = {dim: found for dim, extents in named.items() if len(extents) == 1 for found in extents}
    result = dict(shapes)
    for name, axes in dims.items():
        if name in shapes or name in fixed:
            continue
        # An open batch that is named like none of the others is one, as everywhere.
        extents = [known.get(d, 1 if axis == 0 else None) if isinstance(d, str) else d for axis, d in enumerate(axes)]
        if any(isinstance(extent, str) for extent in extents) and None not in extents:
            result[name] = tuple(extent for extent in extents if extent is not None)
    return result


def _dims(value: Any) -> list[int | str]:
    """Return the extents of an input, or the names of its open axes: "" where they have none."""
    return [d.dim_value if d.dim_value > 0 else d.dim_param.strip("?") for d in value.type.tensor_type.shape.dim]
