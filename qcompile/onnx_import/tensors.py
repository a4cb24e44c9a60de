"""ONNX tensors to NumPy arrays: typed fields, external files, sparse form, element types the IR lacks."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from qcompile.errors import ModelImportError
from qcompile.ir.types import SHORT_DTYPE
from qcompile.onnx_import.load import Model
from qcompile.ops.round_float import SMALL

Array = npt.NDArray[Any]

CONVERTED = {"FLOAT16": "float16", "DOUBLE": "float64", "BFLOAT16": "bfloat16"}
"""Element types that become float32, and what notes call them."""

WIDENED = {"INT4": "int8", "UINT4": "uint8", "INT2": "int8", "UINT2": "uint8"}
"""Element types of less than a byte, and the one whose lowest bits hold them."""

MARKED = frozenset({*WIDENED, *SMALL})
"""Element types that the IR does not tell from others, but operators do."""

_NUMPY = {
    **WIDENED,
    "FLOAT": "float32",
    "INT8": "int8",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
    **dict.fromkeys((*CONVERTED, *SMALL), "float32"),
}


def element_type(number: int) -> str | None:
    """Return the IR element type for an ONNX one, or None where the IR has none.

    Args:
        number: a value of onnx.TensorProto.DataType.
    """
    return _NUMPY.get(element_name(number))


def element_name(number: int) -> str:
    """Return ONNX's name of an element type, e.g. "FLOAT16"."""
    try:
        return str(onnx.TensorProto.DataType.Name(number))
    except ValueError:
        return f"type {number}"


def has_external_data(proto: Any) -> bool:
    """Return whether weights of a ModelProto lie in side files."""
    return any(t.data_location == onnx.TensorProto.EXTERNAL for t in proto.graph.initializer)


_LAYERS = frozenset(("Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN"))


def _weights(graph: Any) -> set[str]:
    """Return the names of what layers read, and of the contents of constants among it."""
    names = {name for node in graph.node if node.op_type in _LAYERS for name in node.input}
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and node.output[0] in names:
                names.add(attribute.t.name)
            for body in (*attribute.graphs, attribute.g):
                names |= _weights(body)
    return names


class TensorReader:
    """Reads the tensors of one model and counts the conversions, for a note.

    Args:
        model: says where external data lie.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.converted: Counter[str] = Counter()
        self._not_finite: list[str] = []
        self._masks: list[str] = []

    def read(self, tensor: Any) -> Array:
        """Return the contents of a TensorProto, floats as float32.

        Raises:
            ModelImportError: the data are missing, too short or of a type that the IR lacks.
        """
        kind = element_name(tensor.data_type)
        dtype = self._dtype(tensor.name, kind)
        try:
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                array = self._external(tensor)
            else:
                array = numpy_helper.to_array(tensor)
        except (ValueError, TypeError) as error:
            raise ModelImportError(
                f"tensor '{tensor.name}' of {self.model.source} is damaged: {error}",
                hint="export or download the model again",
            ) from error
        return self._normalize(tensor.name, array, kind, dtype)

    def read_sparse(self, sparse: Any) -> Array:
        """Return the contents of a SparseTensorProto as a dense array.

        Raises:
            ModelImportError: indices and values do not fit each other or the shape.
        """
        name = sparse.values.name
        values, indices = self.read(sparse.values), self.read(sparse.indices)
        shape = tuple(sparse.dims)
        dense = np.zeros(math.prod(shape), values.dtype)
        if indices.ndim == 2 and indices.shape[1] == len(shape):
            inside = bool(((indices >= 0) & (indices < np.asarray(shape))).all())
            flat = np.ravel_multi_index(tuple(indices.T), shape) if inside and len(shape) else indices[:, :1]
        else:
            flat = indices
            inside = indices.ndim == 1 and bool(((indices >= 0) & (indices < dense.size)).all())
        if not inside or flat.size != values.size:
            raise ModelImportError(
                f"sparse tensor '{name}' of {self.model.source} has indices outside of {list(shape)}"
            )
        dense[flat] = values
        return dense.reshape(shape)

    def from_numpy(self, name: str, array: Array) -> Array:
        """Return an array that ONNX code computed in an element type of the IR.

        Raises:
            ModelImportError: the IR has no such type.
        """
        kind = array.dtype.name in ("float16", "float64", "bfloat16") or array.dtype.name.startswith("float8")
        if not kind and array.dtype.name not in SHORT_DTYPE:
            raise ModelImportError(f"tensor '{name}' of {self.model.source} has the unsupported type {array.dtype}")
        return np.asarray(array, np.float32) if kind else array

    def notes(self) -> list[str]:
        """Return what the user should know about the tensors read."""
        notes = [
            f"{count} {CONVERTED[kind]} tensor{'s' if count > 1 else ''} converted to float32"
            for kind, count in sorted(self.converted.items())
        ]
        weights = _weights(self.model.proto.graph) if self._masks else set()
        damaged = self._not_finite + [name for name in self._masks if name in weights]
        if damaged:
            names = ", ".join(damaged[:3]) + (", …" if len(damaged) > 3 else "")
            several = len(damaged) > 1
            notes.append(f"{len(damaged)} constant tensor{'s hold' if several else ' holds'} NaN or infinity: {names}")
        return notes

    def _dtype(self, name: str, kind: str) -> str:
        if kind not in _NUMPY:
            raise ModelImportError(
                f"tensor '{name}' of {self.model.source} has the unsupported element type {kind}",
                hint=f"supported: {', '.join(sorted(_NUMPY))}",
            )
        return _NUMPY[kind]

    def _normalize(self, name: str, array: Array, kind: str, dtype: str) -> Array:
        if kind in CONVERTED:
            self.converted[kind] += 1
        with np.errstate(over="ignore"):
            array = np.asarray(array, dtype)
        # Single infinities are bounds. A large tensor with one is damaged, or a mask of −∞ that no layer multiplies.
        if array.dtype.kind == "f" and array.size > 1 and not np.isfinite(array).all():
            masks = bool((np.isfinite(array) | np.isneginf(array)).all())
            (self._masks if masks else self._not_finite).append(name)
        return array

    # -- external data ------------------------------------------------------------------------------------

    def _external(self, tensor: Any) -> Array:
        entries = {e.key: e.value for e in tensor.external_data}
        path = self._side_file(tensor.name, entries.get("location", ""))
        kind = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
        shape = tuple(tensor.dims)
        try:
            offset = int(entries.get("offset", 0))
            length = int(entries.get("length", math.prod(shape) * kind.itemsize))
        except ValueError as error:
            raise ModelImportError(f"tensor '{tensor.name}' has a faulty external data entry: {error}") from error
        available = path.stat().st_size - offset
        if offset < 0 or length > available or length != math.prod(shape) * kind.itemsize:
            raise ModelImportError(
                f"tensor '{tensor.name}' needs {math.prod(shape) * kind.itemsize} bytes at offset {offset} of "
                f"{path}, which holds {max(available, 0)}",
                hint="the data file does not belong to this model, or is truncated",
            )
        little = kind.newbyteorder("<") if kind.isbuiltin == 1 else kind
        array = np.fromfile(path, little, math.prod(shape), offset=offset).reshape(shape)
        # Read-only arrays need no copy of their own in the graph.
        array.setflags(write=False)
        return array

    def _side_file(self, name: str, location: str) -> Path:
        if self.model.path is None:
            raise ModelImportError(
                f"tensor '{name}' lies in the external file '{location}', but the model was given without a path",
                hint="give the path of the .onnx file, or load its external data first",
            )
        folder = self.model.path.parent.resolve()
        path = (folder / location).resolve()
        # A model must not make us read files elsewhere on the machine, directly or through a link.
        if not location or Path(location).is_absolute() or not path.is_relative_to(folder):
            raise ModelImportError(
                f"tensor '{name}' of {self.model.source} refers to '{location}', outside of the model's directory",
                hint="external data must lie beside the model or below",
            )
        if not path.is_file():
            raise ModelImportError(
                f"external data file {path} of {self.model.source} is missing",
                hint="copy it to where the model is",
            )
        return path
