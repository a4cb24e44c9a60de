"""A calibration sample: one array per model input, checked against what the model takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.errors import CalibrationError, did_you_mean
from qcompile.ir.graph import Graph, Value
from qcompile.ir.missing_values import may_miss

Array = npt.NDArray[Any]
Sample = dict[str, Array]

_TRANSPARENT = {"cast", "identity", "reshape", "squeeze", "unsqueeze"}


@dataclass(frozen=True)
class InputSpec:
    """What a model takes at one of its inputs.

    Args:
        name: of the input.
        dtype: NumPy's name of the element type.
        shape: extent of each axis, elements.
        bound: integers at this input stay below it, being indices into a table; None where nothing is known.
        axes: the extents that each axis may have, None where `shape` says it; () where it does for all.
        missing: whether NaN stands for a value that is not known.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    bound: int | None = None
    axes: tuple[range | None, ...] = ()
    missing: bool = False

    def accepts(self, shape: tuple[int, ...]) -> bool:
        """Return whether an array of a shape fits."""
        if not self.axes or len(shape) != len(self.shape):
            return shape == self.shape
        return all(d == n if r is None else n in r for d, r, n in zip(self.shape, self.axes, shape, strict=True))

    def __str__(self) -> str:
        return f"'{self.name}' ({self.dtype}{list(self.shape)})"


def graph_inputs(graph: Graph) -> tuple[InputSpec, ...]:
    """Return what each input of a graph takes."""
    given = graph.inputs[:-1] if graph.extents else graph.inputs
    missing = may_miss(graph)
    return tuple(_spec(graph, value, missing=value in missing) for value in given)


def _spec(graph: Graph, value: Value, *, missing: bool) -> InputSpec:
    """Return what one input takes; an open batch axis is shown with its smallest extent, others with the largest."""
    ranges = {axis: s.values for s in graph.symbols for name, axis in s.places if name == value.name}
    if not ranges:
        return InputSpec(value.name, value.dtype, value.shape, _index_bound(value), missing=missing)
    shape = (ranges[0].start, *value.shape[1:]) if 0 in ranges else value.shape
    axes = tuple(ranges.get(axis) for axis in range(len(shape)))
    return InputSpec(value.name, value.dtype, shape, _index_bound(value), axes, missing)


def missing_allowed(manifest: Mapping[str, Any]) -> frozenset[str]:
    """Return the inputs of a bundle at which NaN stands for a value that is not known."""
    return frozenset(tensor["name"] for tensor in manifest.get("inputs", ()) if tensor.get("missing"))


def _index_bound(value: Value) -> int | None:
    """Return the rows of the smallest table that the value selects from, through casts and reshapes."""
    bounds = []
    pending = [value]
    while pending:
        current = pending.pop()
        for node, operand in current.uses:
            if node.op.name == "gather" and operand == 1:
                bounds.append(node.inputs[0].shape[int(getattr(node.attrs, "axis", 0))])
            elif node.op.name in _TRANSPARENT and operand == 0:
                pending.append(node.outputs[0])
    return min(bounds) if bounds else None


def check_sample(given: object, inputs: Sequence[InputSpec], where: str, kept: Sequence[str] = ()) -> Sample:
    """Return a sample as the model takes it, or say what is wrong with it.

    Args:
        given: {input name: array}, or the array itself where the model has one input. Real numbers of
            another precision, integers of another size and a missing batch axis of 1 are put right.
        inputs: what the model takes.
        where: file or other source of the sample, for messages.
        kept: inputs of the model that its own outputs supply, run after run.

    Raises:
        CalibrationError: an input is missing, unknown or kept; an array has another kind of elements, another
            shape, infinities or NaN that nothing fills in, or indices beyond the table that they look up.
    """
    if not isinstance(given, Mapping):
        if len(inputs) != 1:
            raise CalibrationError(
                f"{where}: one {type(given).__name__} for a model with {len(inputs)} inputs",
                hint=f"give a mapping with the keys {_names(inputs)}",
            )
        given = {inputs[0].name: given}
    check_names([str(key) for key in given], inputs, where, kept)
    return {spec.name: fit_array(_as_array(given[spec.name], spec, where), spec, where) for spec in inputs}


def check_names(names: Sequence[str], inputs: Sequence[InputSpec], where: str, kept: Sequence[str] = ()) -> None:
    """Raise CalibrationError unless the names are exactly those of the inputs, less those that are kept."""
    known = [spec.name for spec in inputs]
    for name in names:
        if name not in known:
            raise unknown_input(name, inputs, where, kept)
    for name in known:
        if name not in names:
            raise CalibrationError(f"{where}: input '{name}' is missing", hint=f"give all of: {_names(inputs)}")


def unknown_input(name: str, inputs: Sequence[InputSpec], where: str, kept: Sequence[str] = ()) -> CalibrationError:
    """Return what to say of an array that no input takes.

    Args:
        name: of the array.
        inputs: what the model takes.
        where: file or other source of the sample.
        kept: inputs of the model that its own outputs supply, run after run.
    """
    if name not in kept:
        hint = did_you_mean(name, [spec.name for spec in inputs])
        return CalibrationError(f"{where}: the model has no input named '{name}'", hint=hint)
    return CalibrationError(
        f"{where}: input '{name}' takes no data: it is kept as a state (--state), each run passes it on to the next",
        hint=f"leave '{name}' out; samples follow one another in their order, from what state_initial says in --config",
    )


def fit_array(array: Array, spec: InputSpec, where: str) -> Array:
    """Return an array as an input takes it, contiguous.

    Args:
        array: what was given.
        spec: what the input takes.
        where: for messages.

    Raises:
        CalibrationError: the kind of elements, the shape or a value does not fit.
    """
    array = _with_dtype(array, spec, where)
    if not spec.accepts(array.shape) and spec.shape[:1] == (1,) and spec.accepts((1, *array.shape)):
        array = array[None]
    if not spec.accepts(array.shape):
        raise CalibrationError(
            f"{where}: shape {list(array.shape)} does not fit input {spec}",
            hint=_shape_hint(array.shape, spec),
        )
    if array.dtype.kind == "f":
        bad = np.isinf(array) if spec.missing else ~np.isfinite(array)
        if bad.any():
            place = tuple(int(i) for i in np.argwhere(bad)[0])
            raise CalibrationError(
                f"{where}: input {spec} has {int(bad.sum())} value(s) that are no finite numbers,"
                f" the first is {array[place]} at {list(place)}",
                hint="remove or clean the sample: this model has no answer to what is no number",
            )
    elif spec.bound is not None:
        _check_indices(array, spec, where)
    return np.asarray(array, order="C")


def _check_indices(array: Array, spec: InputSpec, where: str) -> None:
    """Raise CalibrationError where an index into a table points beyond it; negative ones count from its end."""
    bound = spec.bound or 0
    bad = (array >= bound) | (array < -bound)
    if bad.any():
        raise CalibrationError(
            f"{where}: input {spec} is {array[bad][0]}, but indexes a table of {bound} rows",
            hint="indices are below that: prepare samples with the vocabulary that the model was trained with",
        )


def check_dtype(dtype: np.dtype[Any], spec: InputSpec, where: str) -> None:
    """Raise CalibrationError unless an array of this element type can stand for the input."""
    wanted = np.dtype(spec.dtype)
    same_kind = dtype.kind == wanted.kind or (dtype.kind in "iu" and wanted.kind in "iu")
    if not same_kind:
        hint = f"convert it with .astype('{spec.dtype}')"
        if dtype == np.uint8 and wanted.kind == "f":
            hint = "these look like raw pixels: subtract the mean, divide by the deviation, save as float32"
        raise CalibrationError(f"{where}: elements are {dtype}, input {spec} takes {spec.dtype}", hint=hint)


def _with_dtype(array: Array, spec: InputSpec, where: str) -> Array:
    check_dtype(array.dtype, spec, where)
    if array.dtype.name == spec.dtype:
        return array
    with np.errstate(over="ignore", invalid="ignore"):
        converted = array.astype(spec.dtype)
    if array.dtype.kind in "iu" and not np.array_equal(converted, array):
        raise CalibrationError(f"{where}: input {spec} cannot hold the values {array.min()} to {array.max()}")
    return converted


def _as_array(value: object, spec: InputSpec, where: str) -> Array:
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:
        problem = f"{where}: the value for input {spec} is no array: {error}"
        pair = isinstance(value, (tuple, list)) and len(value) == 2
        hint = "of pairs of input and label give the input alone" if pair else "give a numpy.ndarray"
        raise CalibrationError(problem, hint=hint) from error
    if array.dtype.kind not in "fiub":
        raise CalibrationError(
            f"{where}: the value for input {spec} is {type(value).__name__}, not an array of numbers",
            hint="give a numpy.ndarray",
        )
    return array


def _shape_hint(shape: tuple[int, ...], spec: InputSpec) -> str:
    wanted = spec.shape
    if len(shape) == len(wanted) and shape[1:] == wanted[1:]:
        return f"give samples of batch {wanted[0]}, one at a time"
    if layout := layout_hint(shape, wanted):
        return layout
    if len(shape) == len(wanted) + 1 and shape[1:] == wanted:
        return f"these are {shape[0]} samples in one array: give one at a time, such as array[0]"
    return "if the model's shape is open, --input-shape sets it where the model is compiled"


def _names(inputs: Sequence[InputSpec]) -> str:
    return ", ".join(f"'{spec.name}'" for spec in inputs)


def layout_hint(shape: Sequence[int], wanted: Sequence[int]) -> str:
    """Return what to do with an image whose channels are at the other end; empty where that is not what is wrong.

    Args:
        shape: of what is given, 4 axes.
        wanted: by the model, 4 axes.
    """
    if len(shape) != 4 or len(wanted) != 4:
        return ""
    if [shape[i] for i in (0, 3, 1, 2)] == list(wanted):
        return "the channels come last here but first in the model: transpose to NCHW"
    if [shape[i] for i in (0, 2, 3, 1)] == list(wanted):
        return "the channels come first here but last in the model: transpose to NHWC"
    return ""
