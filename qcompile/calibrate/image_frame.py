"""Where an image's height, width and channels are in a model input."""

from __future__ import annotations

from dataclasses import dataclass

from qcompile.calibrate.sample import InputSpec
from qcompile.errors import CalibrationError


@dataclass(frozen=True)
class ImageFrame:
    """The axes of an image input.

    Args:
        batch: images per sample.
        channels: 1 or 3.
        height: pixels.
        width: pixels.
        layout: "nchw" or "nhwc".
        batched: whether the input has a batch axis at all.
    """

    batch: int
    channels: int
    height: int
    width: int
    layout: str
    batched: bool

    @classmethod
    def of(cls, spec: InputSpec, layout: str | None = None) -> ImageFrame:
        """Find the axes of an image input; the axis of extent 1 or 3 is taken for the channels.

        Raises:
            CalibrationError: the input cannot be an image, or not in the wanted layout.
        """
        shape = spec.shape if len(spec.shape) == 4 else (1, *spec.shape)
        fits = []
        if len(shape) == 4:
            fits = [name for name, axis in (("nchw", 1), ("nhwc", 3)) if shape[axis] in (1, 3)]
            fits = [name for name in fits if layout in (None, name)]
        if not fits:
            wanted = f" in layout {layout}" if layout else ""
            raise CalibrationError(
                f"input {spec} is not an image of 1 or 3 channels{wanted}",
                hint="give the calibration samples as .npy or .npz files, or by a Python function",
            )
        chosen = fits[0]
        batch, a, b, c = shape
        channels, height, width = (a, b, c) if chosen == "nchw" else (c, a, b)
        return cls(batch, channels, height, width, chosen, len(spec.shape) == 4)
