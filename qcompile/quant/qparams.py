"""What a tensor should get (QSpec) and what it got (QParams)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np

INT_RANGE: dict[str, tuple[int, int]] = {
    "int8": (-128, 127),
    "uint8": (0, 255),
    "int16": (-32768, 32767),
    "int32": (-(2**31), 2**31 - 1),
}

REMEMBERED = 4096
"""Constants made from parameters that are kept: loops and samples ask for the same ones again and again."""


@dataclass(frozen=True)
class QParams:
    """The affine quantization of one tensor.

    Formula:
        real = scale · (q − zero_point), with qmin ≤ q ≤ qmax

    Args:
        scale: real units per LSB, float32 values; one for a tensor, or one per index of `axis`.
        zero_point: the q that stands for real 0; as many as there are scales.
        dtype: storage of q: "int8", "int16" or "int32".
        qmin: smallest q in use, LSB.
        qmax: largest q in use, LSB.
        axis: the axis that `scale` runs along, or None for one scale (per tensor).

    Raises:
        ValueError: a scale is not a positive finite float32, or a zero_point or bound is out of range.
    """

    scale: tuple[float, ...]
    zero_point: tuple[int, ...] = (0,)
    dtype: str = "int8"
    qmin: int = -128
    qmax: int = 127
    axis: int | None = None

    def __post_init__(self) -> None:
        scales = np.asarray(self.scale, np.float32)
        if scales.ndim != 1 or scales.size == 0:
            raise ValueError("QParams needs at least one scale")
        if not (np.isfinite(scales).all() and (scales > 0).all()):
            raise ValueError(f"scale must be positive and finite, got {scales.min()!r}..{scales.max()!r}")
        object.__setattr__(self, "scale", tuple(float(s) for s in scales))
        zero_points = tuple(int(z) for z in self.zero_point)
        if len(zero_points) == 1:
            zero_points *= len(self.scale)
        object.__setattr__(self, "zero_point", zero_points)
        if len(zero_points) != len(self.scale):
            raise ValueError(f"{len(zero_points)} zero points for {len(self.scale)} scales")
        if self.axis is None and len(self.scale) != 1:
            raise ValueError(f"{len(self.scale)} scales without an axis")
        lo, hi = INT_RANGE[self.dtype]
        if not lo <= self.qmin <= self.qmax <= hi:
            raise ValueError(f"[{self.qmin}, {self.qmax}] is not a range of {self.dtype}")
        if any(not lo <= z <= hi for z in zero_points):
            raise ValueError(f"zero_point {zero_points} is out of {self.dtype}")

    @cached_property
    def _hash(self) -> int:
        # Of numbers only: the hash of a text is another one in the next process, and this one may be sent there.
        return hash((self.scale, self.zero_point, self.qmin, self.qmax, -1 if self.axis is None else self.axis))

    def __hash__(self) -> int:
        """Return a hash that is computed once: constants of nodes are remembered by their parameters."""
        return self._hash

    @cached_property
    def text(self) -> str:
        """All fields; kept, since the scales of many channels take long to print and are asked for after every pass."""
        return repr(self)

    @property
    def scalar_scale(self) -> float:
        """The one scale of a per-tensor quantization, in real units per LSB."""
        if self.axis is not None:
            raise ValueError("per-channel QParams have no single scale")
        return self.scale[0]

    @property
    def scalar_zero_point(self) -> int:
        """The one zero point of a per-tensor quantization, in LSB."""
        if self.axis is not None:
            raise ValueError("per-channel QParams have no single zero_point")
        return self.zero_point[0]

    @property
    def per_channel(self) -> bool:
        """Whether there is one scale per index of an axis."""
        return self.axis is not None

    def same_grid(self, other: QParams) -> bool:
        """Return whether q means the same real number under both, whatever the clamps are."""
        return (self.scale, self.zero_point, self.dtype, self.axis) == (
            other.scale,
            other.zero_point,
            other.dtype,
            other.axis,
        )

    def clamped(self, lo: float, hi: float) -> QParams:
        """Narrow [qmin, qmax] to the quantized images of the real bounds lo and hi.

        The division is that of ONNX QuantizeLinear, in float32, and the zero point is added to what is rounded already:
        only so is a bound half way between two integers the one that the model means.

        Formula:
            qmin' = max(qmin, rne(float32(lo) / scale) + zero_point), and likewise qmax' with min

        Args:
            lo: lower real bound; −inf leaves qmin as it is.
            hi: upper real bound; +inf leaves qmax as it is.
        """
        zero_point = self.scalar_zero_point
        qmin, qmax = self.qmin, self.qmax
        with np.errstate(over="ignore"):
            steps = np.rint(np.array([lo, hi], np.float32) / np.float32(self.scalar_scale)).astype(np.float64)
        if np.isfinite(lo):
            qmin = int(np.clip(steps[0], qmin - zero_point, qmax - zero_point)) + zero_point
        if np.isfinite(hi):
            qmax = int(np.clip(steps[1], qmin - zero_point, qmax - zero_point)) + zero_point
        return replace(self, qmin=qmin, qmax=qmax)

    @classmethod
    def int16(cls, lo: float, hi: float) -> QParams:
        """Choose symmetric int16 parameters for the real range [lo, hi].

        A zero point would win less than one of the sixteen bits, and costs every product sum a correction.

        Formula:
            scale = max(|lo|, |hi|) / 32767, zero_point = 0

        Args:
            lo: smallest real value to represent.
            hi: largest real value to represent.
        """
        reach = max(abs(float(lo)), abs(float(hi)))
        if not np.isfinite(reach):
            raise ValueError(f"range [{lo}, {hi}] is not finite")
        scale = np.float32(reach / 32767.0) if reach > 0 else np.float32(1.0)
        return cls((float(max(scale, np.finfo(np.float32).tiny)),), (0,), "int16", -32767, 32767)

    @classmethod
    def from_int16_range(cls, lo: float, hi: float) -> QParams:
        """Return the int16 parameters whose smallest and largest integer stand for lo and hi.

        Formula:
            scale = (hi − lo) / 65535, zero_point = rne(−32768 − lo / scale)

        Args:
            lo: what −32768 stands for, real units.
            hi: what 32767 stands for, real units.
        """
        scale = np.float32((float(hi) - float(lo)) / 65535.0)
        zero_point = int(np.clip(np.rint(-32768.0 - lo / ((float(hi) - float(lo)) / 65535.0)), -32768, 32767))
        return cls((float(scale),), (zero_point,), "int16", -32768, 32767)

    @classmethod
    def from_range(cls, lo: float, hi: float) -> QParams:
        """Choose asymmetric int8 parameters for the real range [lo, hi], with 0 exactly representable.

        Formula:
            scale = (hi − lo) / 255, zero_point = rne(−128 − lo / scale)

        Args:
            lo: smallest real value to represent; values above 0 are taken as 0.
            hi: largest real value to represent; values below 0 are taken as 0.
        """
        lo, hi = min(float(lo), 0.0), max(float(hi), 0.0)
        if not (np.isfinite(lo) and np.isfinite(hi)):
            raise ValueError(f"range [{lo}, {hi}] is not finite")
        # A tensor that is always zero still needs a scale; any positive one represents it exactly.
        scale = np.float32((hi - lo) / 255.0) if hi > lo else np.float32(1.0)
        scale = max(scale, np.finfo(np.float32).tiny)
        zero_point = int(np.clip(np.rint(-128.0 - lo / float(scale)), -128, 127))
        return cls((float(scale),), (zero_point,))


@dataclass(frozen=True)
class QSpec:
    """A request: how a tensor should be quantized once its statistics are known.

    Args:
        observer: name of the observer that turns statistics into a range.
        dtype: storage asked for.
        symmetric: whether zero_point must be 0.
        axis: the axis to give each index its own scale, or None.
        kind: "own" (from this tensor's statistics), "shared" (the same QParams as `source`), "derived"
            (bias: scale of input times scale of weight) or "fixed" (the range is known: `range`).
        source: the value that a shared spec follows.
        range: real bounds of a fixed spec.
        clamp: real bounds that values are clamped to within that range, None for the range's own.
    """

    observer: str = "minmax"
    dtype: str = "int8"
    symmetric: bool = False
    axis: int | None = None
    kind: Literal["own", "shared", "derived", "fixed"] = "own"
    source: str | None = None
    range: tuple[float, float] | None = None
    clamp: tuple[float, float] | None = None
