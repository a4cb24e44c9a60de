"""How a photograph becomes the input of a model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from qcompile.calibrate.image_frame import ImageFrame
from qcompile.calibrate.pixels import converted, cropped, resized
from qcompile.calibrate.sample import InputSpec
from qcompile.errors import CalibrationError, UsageError, did_you_mean

if TYPE_CHECKING:
    from PIL.Image import Image

Array = npt.NDArray[Any]

INTERPOLATIONS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
COLORS = ("rgb", "bgr", "grey")
LAYOUTS = ("nchw", "nhwc")
RANGES = ("255", "unit")
_IMAGENET_MEAN = (123.675, 116.28, 103.53)
_IMAGENET_STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class Preprocess:
    """The steps from an image file to an input tensor. Fields left None are chosen by `resolve`.

    Formula:
        x = (pixel − mean) / std, with pixels from 0 to 255, or from 0 to 1 for range "unit"

    The steps: orient as the camera says, convert colours, resize, crop the centre, normalize, lay out.

    Args:
        resize: length of the shorter side, or (height, width) to stretch to, pixels.
        interpolation: one of INTERPOLATIONS, with the filter widened when shrinking.
        crop: (height, width) of the centre to keep, pixels.
        mean: subtracted, one value for all channels or one per channel, in the model's channel order.
        std: divisor, one value or one per channel.
        range: "255" or "unit", the scale of the pixels that mean and std refer to.
        color: "rgb", "bgr" or "grey".
        layout: "nchw" or "nhwc".
    """

    resize: int | tuple[int, int] | None = None
    interpolation: str | None = None
    crop: tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    range: str | None = None
    color: str | None = None
    layout: str | None = None

    @classmethod
    def parse(cls, text: str) -> Preprocess:
        """Read the command line's form, such as 'resize=256,crop=224,mean=127,std=128'.

        A list continues after its commas: 'mean=0.485,0.456,0.406,std=0.229,0.224,0.225,range=unit'. Sizes
        are one number or HEIGHTxWIDTH.

        Raises:
            UsageError: a key or value is not valid.
        """
        options: dict[str, str] = {}
        key = ""
        for part in (p.strip() for p in text.split(",")):
            name, equals, value = part.partition("=")
            if equals:
                key = name.strip()
                if key in options:
                    raise UsageError(f"--preprocess gives '{key}' twice")
                options[key] = value.strip()
            elif key and part:
                options[key] += f",{part}"
            else:
                raise UsageError(f"--preprocess: '{part}' is not of the form key=value")
        return cls.from_mapping(options)

    @classmethod
    def from_mapping(cls, options: Mapping[str, Any]) -> Preprocess:
        """Read a YAML stanza: the fields by name, sizes as a number, a list or 'HEIGHTxWIDTH'.

        Raises:
            UsageError: a key or value is not valid.
        """
        known = [field.name for field in fields(cls)]
        values: dict[str, Any] = {}
        for key, value in options.items():
            name = {"colour": "color", "gray": "grey"}.get(key, key)
            if name not in known:
                raise UsageError(f"preprocess has no option '{key}'", hint=did_you_mean(str(key), known))
            values[name] = _READERS[name](name, value)
        result = cls(**values)
        result._check_scale()
        return result

    def to_mapping(self) -> dict[str, Any]:
        """Return the fields that are set, in the form `from_mapping` reads and JSON can hold."""
        pairs = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: list(v) if isinstance(v, tuple) else v for name, v in pairs if v is not None}

    def to_text(self) -> str:
        """Return the form that `parse` reads."""
        parts = []
        for name, value in self.to_mapping().items():
            if isinstance(value, list):
                separator = "x" if name in ("resize", "crop") else ","
                value = separator.join(repr(v) for v in value)
            parts.append(f"{name}={value}")
        return ",".join(parts)

    def resolve(self, spec: InputSpec) -> Preprocess:
        """Fill the fields left open for a model input, by the ImageNet recipe.

        Defaults: shorter side resized (bicubic) to 256/224 of what covers the model's size, centre crop to
        that size, RGB, mean (123.675, 116.28, 103.53) and std (58.395, 57.12, 57.375). A grey input gets
        mean 0 and std 255 and no margin around the crop; an integer input keeps its pixels, mean 0, std 1.

        Args:
            spec: the model's only input.

        Raises:
            CalibrationError: the input is not an image, or the sizes do not lead to its size.
        """
        frame = ImageFrame.of(spec, self.layout)
        mean, std = _default_scale(frame, spec, self.range)
        color = self.color or ("grey" if frame.channels == 1 else "rgb")
        result = replace(
            self,
            interpolation=self.interpolation or "bicubic",
            crop=self.crop or (frame.height, frame.width),
            mean=self.mean if self.mean is not None else mean,
            std=self.std if self.std is not None else std,
            range=self.range or "255",
            color=color,
            layout=frame.layout,
        )
        if result.resize is None:
            margin = 1.0 if frame.channels == 1 else 256 / 224
            result = replace(result, resize=_covering(frame, margin))
        result._check_against(frame, spec)
        return result

    def _check_scale(self) -> None:
        means = self.mean or ()
        if any(v == 0 for v in self.std or ()):
            raise UsageError("preprocess: std must not be 0")
        if self.range is None and any(means) and all(0 <= m <= 1 for m in means):
            raise UsageError(
                f"preprocess: mean {means} looks as if pixels went from 0 to 1, they go to 255 here",
                hint="add range=unit, or range=255 if it is meant so",
            )

    def _check_against(self, frame: ImageFrame, spec: InputSpec) -> None:
        if self.crop != (frame.height, frame.width):
            raise CalibrationError(
                f"preprocess: crop {_size(self.crop)} is not the size of input {spec}",
                hint=f"use crop={frame.height}x{frame.width}, or set the model's size with --input-shape",
            )
        if isinstance(self.resize, int):
            # Whether an oblong crop fits then depends on the image, and is checked there.
            too_small = self.resize < min(self.crop)
        else:
            too_small = self.resize is None or any(r < c for r, c in zip(self.resize, self.crop, strict=True))
        if too_small:
            raise CalibrationError(
                f"preprocess: resize {_size(self.resize)} is smaller than crop {_size(self.crop)}",
                hint="resize to at least the size of the crop",
            )
        for name in ("mean", "std"):
            count = len(getattr(self, name))
            if count not in (1, frame.channels):
                raise CalibrationError(
                    f"preprocess: {name} has {count} values, input {spec} has {frame.channels} channels"
                )
        if (self.color == "grey") != (frame.channels == 1):
            raise CalibrationError(
                f"preprocess: color={self.color} does not give the {frame.channels} channels of input {spec}"
            )

    def apply(self, image: Image, spec: InputSpec) -> Array:
        """Turn an image into one item of the input's batch, without batch axis.

        Args:
            image: decoded, any mode.
            spec: the model input; `self` must have been resolved for it.

        Returns:
            [C, H, W] or [H, W, C] of the input's dtype.
        """
        if self.resize is None or self.crop is None or self.mean is None or self.std is None:
            raise ValueError("preprocess is not resolved")
        pixels = cropped(resized(converted(image, self.color), self.resize, self.interpolation), self.crop)
        x: Array = np.asarray(pixels, np.float32)
        x = x[..., None] if x.ndim == 2 else x
        if self.color == "bgr":
            x = x[..., ::-1]
        if self.range == "unit":
            x = x / np.float32(255)
        x = (x - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        if self.layout == "nchw":
            x = x.transpose(2, 0, 1)
        if np.dtype(spec.dtype).kind in "iu":
            limits = np.iinfo(spec.dtype)
            x = np.clip(np.rint(x), limits.min, limits.max)
        return np.ascontiguousarray(x, spec.dtype)

    def value_range(self) -> tuple[Array, Array]:
        """Return the smallest and largest tensor value per channel, float64, that an image can give."""
        top = 1.0 if self.range == "unit" else 255.0
        mean, std = np.asarray(self.mean or (0.0,)), np.asarray(self.std or (1.0,))
        black, white = (0.0 - mean) / std, (top - mean) / std
        return np.minimum(black, white), np.maximum(black, white)


def _default_scale(
    frame: ImageFrame, spec: InputSpec, pixel_range: str | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if np.dtype(spec.dtype).kind in "iu":
        return (0.0,), (1.0,)
    top = 255.0 if pixel_range != "unit" else 1.0
    if frame.channels == 1:
        return (0.0,), (top,)
    share = top / 255.0
    return tuple(m * share for m in _IMAGENET_MEAN), tuple(s * share for s in _IMAGENET_STD)


def _covering(frame: ImageFrame, margin: float) -> int | tuple[int, int]:
    if frame.height == frame.width:
        return math.floor(frame.height * margin + 0.5)
    # An input that is far from square is filled, as text lines and panoramas want it.
    return frame.height, frame.width


def _size(size: int | tuple[int, int] | None) -> str:
    return f"{size[0]}x{size[1]}" if isinstance(size, tuple) else str(size)


def _read_size(name: str, value: Any) -> int | tuple[int, int]:
    parts = [str(v) for v in value] if isinstance(value, (list, tuple)) else str(value).lower().split("x")
    try:
        numbers = [int(part) for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2) or any(n < 1 for n in numbers):
        hint = f"such as {name}=224 or {name}=224x320"
        raise UsageError(f"preprocess: {name}={value} is not a size", hint=hint)
    return numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1])


def _read_crop(name: str, value: Any) -> tuple[int, int]:
    size = _read_size(name, value)
    return (size, size) if isinstance(size, int) else size


def _read_numbers(name: str, value: Any) -> tuple[float, ...]:
    parts = value if isinstance(value, (list, tuple)) else str(value).split(",")
    try:
        numbers = tuple(float(part) for part in parts)
    except (TypeError, ValueError):
        numbers = ()
    if not numbers or not all(math.isfinite(n) for n in numbers):
        raise UsageError(f"preprocess: {name}={value} is not a number or a list of numbers")
    return numbers


def _read_word(name: str, value: Any) -> str:
    words = {"interpolation": INTERPOLATIONS, "color": COLORS, "layout": LAYOUTS, "range": RANGES}[name]
    word = {"gray": "grey", "1": "unit"}.get(str(value).lower(), str(value).lower())
    if word not in words:
        raise UsageError(f"preprocess: {name}={value} is not valid", hint=did_you_mean(word, list(words)))
    return word


_READERS: dict[str, Any] = {
    "resize": _read_size,
    "crop": _read_crop,
    "mean": _read_numbers,
    "std": _read_numbers,
    "interpolation": _read_word,
    "range": _read_word,
    "color": _read_word,
    "layout": _read_word,
}
