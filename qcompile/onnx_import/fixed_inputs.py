"""Inputs that the user fixes: they become constants of the model before it is converted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from onnx import helper, numpy_helper

from qcompile.errors import UnsupportedOpError, UsageError, did_you_mean
from qcompile.onnx_import.load import Model


def fix_inputs(model: Model, values: Mapping[str, Sequence[float]]) -> None:
    """Turn inputs of a model into initializers, in place.

    Args:
        model: as read.
        values: by input name: one number for all elements, or one per element in row-major order.

    Raises:
        UsageError: there is no such input, its extents are open and more than one number is not a vector's, or the
            numbers do not fit its element type or shape.
        UnsupportedOpError: the input is not a tensor of numbers.
    """
    graph = model.proto.graph
    initial = {tensor.name for tensor in graph.initializer}
    names = [value.name for value in graph.input if value.name not in initial]
    for name, numbers in values.items():
        if name not in names:
            raise UsageError(f"{model.source} has no input named '{name}' to fix", hint=did_you_mean(name, names))
        place = next(index for index, value in enumerate(graph.input) if value.name == name)
        array = _constant(model, graph.input[place], list(numbers))
        del graph.input[place]
        graph.initializer.append(numpy_helper.from_array(array, name))
        model.notes.append(f"input '{name}' is fixed to {', '.join(map(str, numbers))}")


def _constant(model: Model, value: object, numbers: list[float]) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    name, tensor = value.name, value.type.tensor_type  # type: ignore[attr-defined]
    try:
        kind = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    except (KeyError, ValueError, TypeError):
        kind = np.dtype(np.object_)
    if kind.kind not in "iufb" or not numbers:
        raise UnsupportedOpError(f"input '{name}' of {model.source} cannot be fixed: it holds no numbers")
    dims = [d.dim_value if d.dim_value > 0 else None for d in tensor.shape.dim]
    if None in dims and (len(dims) != 1 and len(numbers) != 1):
        raise UsageError(
            f"input '{name}' of {model.source} has open extents; {len(numbers)} numbers do not say which",
            hint="give one number, or export the model with fixed extents",
        )
    # An open extent is that of the numbers in a vector, and 1 elsewhere.
    shape = [d if d is not None else (len(numbers) if len(dims) == 1 else 1) for d in dims]
    with np.errstate(all="ignore"):
        array = np.asarray(numbers).astype(kind)
    if not np.array_equal(array.astype(np.float64), np.asarray(numbers, np.float64)) and kind.kind != "f":
        raise UsageError(f"input '{name}' of {model.source} is {kind}; {numbers} do not fit it")
    if len(numbers) == 1:
        return np.full(shape, array[0])
    if len(numbers) != int(np.prod(shape)):
        raise UsageError(f"input '{name}' of {model.source} has {int(np.prod(shape))} elements, not {len(numbers)}")
    return array.reshape(shape)
