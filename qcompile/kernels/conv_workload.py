"""The shape of a convolution or matrix product: everything its code depends on."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields, replace
from typing import Any

from qcompile.errors import LoweringError
from qcompile.quant.scaled import SCALED

Quad = tuple[int, int, int, int]
Pair = tuple[int, int]

ACTIVATIONS = ("none", "relu", "clip", "leaky_relu", "hard_sigmoid", "hard_swish", "sigmoid", "silu", "tanh")
"""Float activations that can be fused; ``LayerScalars`` has their parameters."""

LEAST_PIXELS = 16
"""Pixels that should share weights of byte pairs."""

MAX_K = (2**31 - 2**26) // (255 * 127)
"""Most products one int32 accumulator may sum, with room left for the bias."""


@dataclass(frozen=True)
class ConvWorkload:
    """An NHWC convolution with its fused epilogue.

    Formula:
        acc[n,y,x,o] = bias[o] + sum over (i,j,c) of
                       (x[n, y*sh + i*dh - top, x*sw + j*dw - left, c] - zp) * w[o,i,j,c]

    Args:
        batch: images.
        height: input rows.
        width: input columns.
        channels: input channels, all groups together.
        filters: output channels, all groups together.
        kernel: (rows, columns) of the filter.
        strides: (rows, columns).
        dilations: (rows, columns).
        pads: (top, left, bottom, right), pixels; filled with the zero point.
        groups: channel groups; filter o sees channels of group o // (filters / groups).
        precision: "int8", "float32", "float16": products of float16, the sums as `half_micro` says, or "bfloat16":
            products of bfloat16, summed in float32.
        output: "int8" or "int16" (requantized), "int32" (raw sums, int8 only), "float32", "float16" or "bfloat16".
        residual: a tensor of the output's shape is added; it is of the layer's precision, and the output too, or real.
        table: a 256-entry table is applied after requantizing, "int8" output only.
        activation: one of ``ACTIVATIONS``, with int8 precision of ``SCALED``, before the only rounding.
        weights: how weights are stored: "float16" or "bfloat16" with float32 precision only; "" for as they are used.
        bounded_residual: the residual's factor is at most ``RESIDUAL_REACH``, so that saturating sums
            need no clamp before them.
        full_range: an "int8" output is clamped to all of int8, to which narrowing saturates anyway.
        low: the input is the upper plane of a 16-bit tensor, and sums over its lower plane, int32 in the output's
            shape, join in before requantizing (`qcompile.quant.int16.combine`); "int8" precision only.
        bounded: every sum times its multiplier lies within int32, so that nothing needs to saturate; with a residual,
            within +-2^30.
        from_zero: the results' zero point is 0 as stored.
        in_pitch: elements from an input pixel to the next, where the input lies between channels of others; 0 for
            as many as channels.
        out_pitch: likewise of the output; not with a lower plane, which lies as the output does.
        residual_pitch: likewise of the residual.
        byte_pairs: few weights are so great that two products of bytes could leave 16 bits (``byte_pairs.pays``).
    """

    batch: int
    height: int
    width: int
    channels: int
    filters: int
    kernel: Pair = (1, 1)
    strides: Pair = (1, 1)
    dilations: Pair = (1, 1)
    pads: Quad = (0, 0, 0, 0)
    groups: int = 1
    precision: str = "int8"
    output: str = "int8"
    residual: bool = False
    table: bool = False
    activation: str = "none"
    weights: str = ""
    bounded_residual: bool = False
    full_range: bool = False
    low: bool = False
    bounded: bool = False
    from_zero: bool = False
    in_pitch: int = 0
    out_pitch: int = 0
    residual_pitch: int = 0
    byte_pairs: bool = False

    def __post_init__(self) -> None:
        for problem in self._problems():
            raise LoweringError(f"convolution {self}: {problem}")

    def _problems(self) -> list[str]:
        found = []
        sizes = (self.batch, self.height, self.width, self.channels, self.filters, self.groups)
        if min(*sizes, *self.kernel, *self.strides, *self.dilations) < 1 or min(self.pads) < 0:
            found.append("sizes must be positive and pads not negative")
        elif self.channels % self.groups or self.filters % self.groups:
            found.append("channels and filters must be multiples of groups")
        elif self.out_height < 1 or self.out_width < 1:
            found.append("the kernel is larger than the padded input")
        elif self.precision == "int8" and self.reduction > MAX_K:
            found.append(f"{self.reduction} products overflow an int32 accumulator (at most {MAX_K})")
        if (self.precision, self.output) not in _OUTPUTS:
            found.append(f"no {self.output} output from {self.precision}")
        if self.residual and (self.precision, self.output) not in _RESIDUAL:
            found.append("a residual needs an output of its own precision")
        if self.table and self.output != "int8":
            found.append("a table needs an int8 output")
        if self.full_range and self.output != "int8":
            found.append("only an int8 output has a range")
        if self.low and (self.precision != "int8" or self.output == "int32" or self.residual):
            found.append("a lower plane needs int8 precision, sums that are scaled, and no residual")
        if self.activation not in (*ACTIVATIONS, *(SCALED if self.precision == "int8" else ())):
            found.append(f"no activation '{self.activation}' (there are {', '.join(ACTIVATIONS)})")
        elif self.activation != "none" and self.precision == "int8" and not self._scales_for_activation:
            found.append(f"no {self.activation} of integer sums with this end")
        least = (self.channels, self.filters, self.filters)
        pitches = (self.in_pitch, self.out_pitch, self.residual_pitch)
        if any(0 < pitch < size for pitch, size in zip(pitches, least, strict=True)):
            found.append("a pitch must be at least what a pixel has")
        if self.out_pitch and self.low:
            found.append("a lower plane lies as the output does, which then has no pitch")
        if self.residual_pitch and not self.residual:
            found.append("only a residual has its pitch")
        if self.weights not in ("", "float16", "bfloat16") or (self.weights and self.precision != "float32"):
            found.append(f"no {self.weights} weights with {self.precision} precision")
        return found

    @property
    def adds(self) -> bool:
        """Whether a tensor joins the sums that lies as the output does, perhaps in its place."""
        return self.residual or self.low

    @property
    def _scales_for_activation(self) -> bool:
        plain = not (self.residual or self.table) and self.output != "int32"
        return plain and self.activation in SCALED

    @property
    def real(self) -> bool:
        """Whether it multiplies floating point numbers."""
        return self.precision != "int8"

    @property
    def element_bytes(self) -> int:
        """Bytes of a number that it multiplies."""
        return {"float32": 4, "float16": 2, "bfloat16": 2}.get(self.precision, 1)

    @property
    def out_height(self) -> int:
        """Output rows."""
        return self._extent(0, self.height)

    @property
    def out_width(self) -> int:
        """Output columns."""
        return self._extent(1, self.width)

    def _extent(self, axis: int, size: int) -> int:
        padded = size + self.pads[axis] + self.pads[axis + 2]
        return (padded - self.dilations[axis] * (self.kernel[axis] - 1) - 1) // self.strides[axis] + 1

    @property
    def input_step(self) -> int:
        """Elements from an input pixel to the next."""
        return self.in_pitch or self.channels

    @property
    def output_step(self) -> int:
        """Elements from an output pixel to the next."""
        return self.out_pitch or self.filters

    @property
    def residual_step(self) -> int:
        """Elements from a pixel of the residual to the next."""
        return self.residual_pitch or self.filters

    @property
    def reduction(self) -> int:
        """Products summed into one output."""
        return self.kernel[0] * self.kernel[1] * self.channels // self.groups

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the layer."""
        return self.batch * self.out_height * self.out_width * self.filters * self.reduction

    def canonical(self) -> ConvWorkload:
        """The same computation with an unpadded, unstrided 1x1 convolution as one long row of pixels."""
        if self.kernel != (1, 1) or self.strides != (1, 1) or any(self.pads):
            return self
        pixels = self.batch * self.height * self.width
        return replace(self, batch=1, height=1, width=pixels, dilations=(1, 1))


_OUTPUTS = {
    ("int8", "int8"),
    ("int8", "int16"),
    ("int8", "int32"),
    ("int8", "float32"),
    ("float32", "float32"),
    ("float16", "float16"),
    ("float16", "float32"),
    ("bfloat16", "bfloat16"),
    ("bfloat16", "float32"),
}
_RESIDUAL = _OUTPUTS - {("int8", "int16"), ("int8", "int32"), ("int8", "float32")}


def dense(rows: int, inputs: int, outputs: int, **epilogue: object) -> ConvWorkload:
    """A matrix product x[rows, inputs] * w[outputs, inputs]^T as a 1x1 convolution."""
    workload = ConvWorkload(1, 1, rows, inputs, outputs)
    return replace(workload, **epilogue)  # type: ignore[arg-type]


def timed_workload(workload: ConvWorkload) -> ConvWorkload:
    """Return the workload that stands for all of about the same time: canonical, whatever the calibration gave."""
    work = replace(workload.canonical(), bounded_residual=False, full_range=False, bounded=False, from_zero=False)
    work = replace(work, in_pitch=0, out_pitch=0, residual_pitch=0)
    work = replace(work, byte_pairs=False)
    return replace(work, activation="none") if work.precision == "int8" else work


def workload_fields(workload: ConvWorkload) -> dict[str, Any]:
    """Return the fields of `timed_workload` that are not its defaults, as JSON values."""
    work, found = timed_workload(workload), {}
    for field in fields(work):
        value = getattr(work, field.name)
        if field.default is MISSING or value != field.default:
            found[field.name] = list(value) if isinstance(value, tuple) else value
    return found
