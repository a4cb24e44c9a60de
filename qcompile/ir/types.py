"""The type of a value: element type and shape."""

from __future__ import annotations

import math
from dataclasses import dataclass

import ml_dtypes  # NumPy learns "bfloat16" from it  # noqa: F401
import numpy as np

SHORT_DTYPE = {
    "float32": "f32",
    "float64": "f64",
    "float16": "f16",
    "bfloat16": "bf16",
    "int8": "i8",
    "uint8": "u8",
    "uint16": "u16",
    "uint32": "u32",
    "uint64": "u64",
    "int16": "i16",
    "int32": "i32",
    "int64": "i64",
    "bool": "i1",
}
"""NumPy's name of every element type the IR knows, and how the printer writes it."""

LONG_DTYPE = {short: long for long, short in SHORT_DTYPE.items()}

DTYPES = {name: np.dtype(name) for name in SHORT_DTYPE}
"""NumPy's element type of every name, which takes long to tell from the type."""

NARROW = frozenset({"float16", "bfloat16"})
"""Types of real numbers of 16 bits: each is rounded when it is stored, and float32 in registers."""


@dataclass(frozen=True)
class TensorType:
    """Element type and static shape of a tensor.

    Args:
        dtype: NumPy's name of the element type, one of SHORT_DTYPE.
        shape: extent of each axis, elements; () is a scalar.

    Raises:
        ValueError: an unknown dtype or a negative extent.
    """

    dtype: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.dtype not in SHORT_DTYPE:
            raise ValueError(f"unknown element type '{self.dtype}'")
        object.__setattr__(self, "shape", tuple(map(int, self.shape)))
        if min(self.shape, default=0) < 0:
            raise ValueError(f"negative extent in shape {self.shape}")

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes that a dense tensor of this type takes."""
        return self.size * np.dtype(self.dtype).itemsize

    def with_dtype(self, dtype: str) -> TensorType:
        """Return the type of the same shape with another element type."""
        return TensorType(dtype, self.shape)

    def with_shape(self, shape: tuple[int, ...]) -> TensorType:
        """Return the type of the same elements in another shape."""
        return TensorType(self.dtype, shape)

    def __str__(self) -> str:
        return f"{SHORT_DTYPE[self.dtype]}[{','.join(map(str, self.shape))}]"
