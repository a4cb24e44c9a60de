"""Steps from a decoded photograph to pixels of the wanted size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qcompile.errors import CalibrationError

if TYPE_CHECKING:
    from PIL.Image import Image


def converted(image: Image, color: str | None) -> Image:
    """Return an image upright, as its EXIF data say, in 8-bit grey or RGB.

    Transparency is dropped, 16-bit grey is scaled.
    """
    from PIL import Image as Images
    from PIL import ImageOps

    image = ImageOps.exif_transpose(image) or image
    if image.mode.startswith("I"):
        # Pillow would cut 16-bit samples off at 255.
        deep = np.asarray(image, np.float32)
        # Pillow calls some 16-bit files "I", others so that hold bytes: there the values must tell which.
        scale = 257.0 if image.mode.startswith("I;16") or deep.max(initial=0) > 255 else 1.0
        image = Images.fromarray(np.clip(np.rint(deep / scale), 0, 255).astype(np.uint8))
    return image.convert("L" if color == "grey" else "RGB")


def resized(image: Image, size: int | tuple[int, int], interpolation: str | None) -> Image:
    """Scale an image.

    Args:
        image: any mode.
        size: length of the shorter side, or (height, width), pixels.
        interpolation: name of Pillow's filter, lower case; None is bicubic.
    """
    from PIL import Image as Images

    if isinstance(size, tuple):
        height, width = size
    elif image.width <= image.height:
        height, width = int(size * image.height / image.width), size
    else:
        height, width = size, int(size * image.width / image.height)
    if (image.width, image.height) == (width, height):
        return image
    return image.resize((width, height), Images.Resampling[(interpolation or "bicubic").upper()])


def cropped(image: Image, crop: tuple[int, int]) -> Image:
    """Return the centre of an image.

    Args:
        image: any mode.
        crop: (height, width) to keep, pixels.

    Raises:
        CalibrationError: the image is smaller.
    """
    height, width = crop
    if image.height < height or image.width < width:
        raise CalibrationError(
            f"the image is {image.height}x{image.width} after resizing, too small for crop {height}x{width}",
            hint="use a larger resize, or resize=HEIGHTxWIDTH to stretch",
        )
    # Halves round to even, as in the tools that models are trained with.
    top, left = round((image.height - height) / 2.0), round((image.width - width) / 2.0)
    return image.crop((left, top, left + width, top + height))
