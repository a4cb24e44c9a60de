"""Static extents for the graph inputs: from the model, from the user, and 1 for an open batch axis."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qcompile.errors import ModelImportError, UnsupportedOpError, UsageError, did_you_mean
from qcompile.ir.types import TensorType
from qcompile.onnx_import.load import Model
from qcompile.onnx_import.tensors import CONVERTED, element_name, element_type
from qcompile.ops.onnx_node import TENSOR_LIMIT

Dim = int | str
"""A known extent, or the symbol of an open one ("" where the model gives no name)."""


@dataclass
class InputType:
    """What the model says about one input.

    Args:
        name: ONNX name.
        dtype: IR element type.
        dims: extents and symbols; None where the model does not even give the rank.
    """

    name: str
    dtype: str
    dims: list[Dim] | None


def resolve_inputs(model: Model, inputs: Sequence[Any], given: Mapping[str, tuple[int, ...]]) -> dict[str, TensorType]:
    """Return the static type of every graph input.

    Args:
        model: for messages; receives a note per assumption.
        inputs: ValueInfoProto of every input that is not an initializer.
        given: extents by input name, as the user gave them.

    Raises:
        UsageError: `given` names an unknown input or contradicts the model.
        ModelImportError: an extent other than the batch is left open.
    """
    known = [_read_input(model, value) for value in inputs]
    names = [i.name for i in known]
    constants = {tensor.name for tensor in model.proto.graph.initializer}
    for name in given:
        if name in names:
            continue
        if name in constants:
            hint = "an initializer of the model or --input-value gives its elements, and with them the shape"
            raise UsageError(f"{model.source} has no input named '{name}' but a constant", hint=hint)
        raise UsageError(f"{model.source} has no input named '{name}'", hint=did_you_mean(name, names))
    symbols: dict[str, tuple[int, str]] = {}
    for entry in known:
        if entry.name in given:
            _apply(model, entry, given[entry.name], symbols)
    for entry in known:
        _substitute(entry, symbols)
    batched = [entry for entry in known if entry.dims and isinstance(entry.dims[0], str)]
    for entry in batched:
        assert entry.dims is not None
        entry.dims[0] = 1
    if batched:
        listed = ", ".join(f"'{e.name}'" for e in batched)
        model.notes.append(f"the open batch axis (axis 0) of input {listed} was taken as 1")
    types = {entry.name: TensorType(entry.dtype, _closed(model, entry)) for entry in known}
    for name, type in types.items():
        if type.nbytes > TENSOR_LIMIT:
            raise ModelImportError(f"input '{name}' of {model.source} ({type}) has {type.nbytes / 2**30:.0f} GiB")
    return types


def _read_input(model: Model, value: Any) -> InputType:
    if value.type.WhichOneof("value") != "tensor_type":
        raise UnsupportedOpError(
            f"input '{value.name}' of {model.source} is not a tensor but a {value.type.WhichOneof('value')}"
        )
    tensor = value.type.tensor_type
    dtype = element_type(tensor.elem_type)
    kind = element_name(tensor.elem_type)
    if dtype is None:
        raise UnsupportedOpError(f"input '{value.name}' of {model.source} has the unsupported element type {kind}")
    if kind in CONVERTED:
        model.notes.append(f"input '{value.name}' is {CONVERTED[kind]} in the model and float32 here")
    if not tensor.HasField("shape"):
        return InputType(value.name, dtype, None)
    # Some exporters write −1 or 0 where they mean "unknown"; who means 0 gives the shape.
    dims: list[Dim] = [d.dim_value if d.dim_value > 0 else d.dim_param for d in tensor.shape.dim]
    return InputType(value.name, dtype, dims)


def _apply(model: Model, entry: InputType, given: Any, symbols: dict[str, tuple[int, str]]) -> None:
    try:
        shape = tuple(operator.index(d) for d in given)
    except TypeError:
        shape = (-1,)
    if min(shape, default=0) < 0:
        raise UsageError(f"the shape {given!r} given for input '{entry.name}' must hold integers, none negative")
    if entry.dims is None:
        entry.dims = list(shape)
        return
    if len(shape) != len(entry.dims):
        raise UsageError(
            f"input '{entry.name}' of {model.source} has {len(entry.dims)} axes ({_text(entry.dims)}), "
            f"but the given shape {_text(shape)} has {len(shape)}"
        )
    for axis, (size, dim) in enumerate(zip(shape, entry.dims, strict=True)):
        if isinstance(dim, int) and dim != size:
            raise UsageError(
                f"input '{entry.name}' of {model.source} has a fixed extent of {dim} on axis {axis}, not {size}",
                hint=f"export the model with a dynamic axis {axis}, or give {dim}",
            )
        if isinstance(dim, str) and _is_symbol(dim):
            first, where = symbols.setdefault(dim, (size, f"axis {axis} of '{entry.name}'"))
            if first != size:
                # Some exporters give unrelated axes one name. Where they are related, a node will not convert.
                model.clashes.append(f"'{dim}' is {first} on {where}, but {size} on axis {axis} of '{entry.name}'")
    entry.dims = list(shape)


def _is_symbol(dim: str) -> bool:
    """Return whether axes with this name are the same size: "?" and "" name nothing."""
    return dim.strip("?") != ""


def _substitute(entry: InputType, symbols: Mapping[str, tuple[int, str]]) -> None:
    if entry.dims is not None:
        entry.dims = [symbols[d][0] if isinstance(d, str) and d in symbols else d for d in entry.dims]


def _closed(model: Model, entry: InputType) -> tuple[int, ...]:
    if entry.dims is None:
        raise ModelImportError(
            f"input '{entry.name}' of {model.source} has no shape",
            hint=f"give it: --input-shape {entry.name}=1,3,224,224 (for example)",
        )
    open_axes = [(axis, dim) for axis, dim in enumerate(entry.dims) if isinstance(dim, str)]
    if open_axes:
        names = ", ".join(f"{axis} ({dim!r})" if dim else f"{axis} (unnamed)" for axis, dim in open_axes)
        what, whose = ("axes", "their extents") if len(open_axes) > 1 else ("axis", "its extent")
        wanted = ",".join(str(d) if isinstance(d, int) else f"<axis {a}>" for a, d in enumerate(entry.dims))
        raise ModelImportError(
            f"input '{entry.name}' of {model.source} has the dynamic {what} {names}; {whose} must be given",
            hint=f"--input-shape {entry.name}={wanted}, each <…> replaced by a number, or by a name with bounds "
            "where it is to stay open (H:64..640:32)",
        )
    return tuple(int(d) for d in entry.dims)


def _text(dims: Sequence[Dim]) -> str:
    return "[" + ", ".join(str(d) if d != "" else "?" for d in dims) + "]"
