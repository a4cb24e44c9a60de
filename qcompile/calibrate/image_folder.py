"""Photographs in a folder, or one photograph."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from qcompile.calibrate.image_frame import ImageFrame
from qcompile.calibrate.preprocess import Preprocess
from qcompile.calibrate.reader import MOST_SAMPLES, Reader, Request, spaced_apart
from qcompile.calibrate.sample import InputSpec
from qcompile.errors import CalibrationError
from qcompile.files import files_below

if TYPE_CHECKING:
    from PIL.Image import Image

Array = npt.NDArray[Any]

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
FEW_SAMPLES = 64
"""With fewer photographs than this, several pieces of each are used."""

_LARGEST_ZOOM = 1.5


class ImageFolder(Reader):
    """Photographs, in the order of their names, from a folder and the folders in it.

    With fewer than FEW_SAMPLES photographs each gives several samples: first the whole photograph, then
    windows of it at places and sizes from a Halton sequence, half of them mirrored; the same in every run.
    The window goes through the same steps as a whole photograph would.
    """

    name: ClassVar[str] = "image-folder"

    def __init__(self, source: str, request: Request) -> None:
        super().__init__(source, request)
        if len(request.inputs) != 1:
            raise CalibrationError(
                f"'{source}' holds images, but the model has {len(request.inputs)} inputs",
                hint="give .npz files with one array per input, or a Python function",
            )
        self.spec = request.inputs[0]
        self.preprocess: Preprocess = request.preprocess.resolve(self.spec)
        self.frame = ImageFrame.of(self.spec, self.preprocess.layout)
        self.files = image_files(Path(source))
        self._plan = self._planned()
        if self.preprocess != request.preprocess:
            self.notes.append(f"preprocessing chosen for the model: {self.preprocess.to_text().replace(',', ', ')}")

    @classmethod
    def claims(cls, source: str) -> bool:
        """Return whether the source is an image file or a folder that holds one."""
        return bool(image_files(Path(source)))

    def size(self) -> int:
        """Return the number of samples."""
        return len(self._plan) // self.frame.batch - len(self.leading)

    def __iter__(self) -> Iterator[tuple[str, object]]:
        return self._read(self._plan)

    def spares(self) -> Iterator[tuple[str, object]]:
        """Yield photographs of which nothing is used otherwise."""
        taken = [index for index, _ in self._plan]
        more = spaced_apart(len(self.files), taken, self.request.spare * self.frame.batch)
        return self._read([(index, 0) for index in more])

    def _read(self, plan: Sequence[tuple[int, int]]) -> Iterator[tuple[str, object]]:
        batch = self.frame.batch
        for start in range(0, len(plan) // batch * batch, batch):
            chosen = plan[start : start + batch]
            items = [self._item(self.files[index], crop) for index, crop in chosen]
            where = ", ".join(dict.fromkeys(str(self.files[index]) for index, _ in chosen))
            yield where, np.stack(items) if self.frame.batched else items[0]

    def _planned(self) -> list[tuple[int, int]]:
        """Return (photograph, crop) pairs; every photograph comes once before any comes twice."""
        count, batch = len(self.files), self.frame.batch
        few, most = FEW_SAMPLES * batch, MOST_SAMPLES * batch
        asked = self.request.limit * batch if self.request.limit else None
        crops = self.request.crops_per_image or math.ceil(min(asked or few, few) / count)
        whole = count * crops if self.request.crops_per_image else few if count < few else most
        limit = asked or whole
        if crops > 1:
            pairs = [(index, crop) for crop in range(crops) for index in range(count)][:limit]
            self.notes.append(f"{len(pairs)} samples from {count} photographs, up to {crops} crops of each")
        else:
            # What leads to others is no part of a batch.
            chosen = (self.request if batch == 1 else replace(self.request, leads=False)).choose(count, limit)
            self.leading = chosen.leading
            pairs = [(index, 0) for index in chosen.indices]
            if chosen.taken < count:
                self.notes.append(f"{chosen.taken} of {count} photographs by name, {chosen.how}")
        if len(pairs) < batch:
            raise CalibrationError(f"'{self.source}' gives {len(pairs)} samples, the model takes {batch} at a time")
        return pairs

    def _item(self, file: Path, crop: int) -> Array:
        image = read_image(file)
        try:
            return self.preprocess.apply(window(image, crop), self.spec)
        except CalibrationError as error:
            raise CalibrationError(error.message, loc=str(file), hint=error.hint) from error
        except (OSError, ValueError, SyntaxError) as error:
            raise CalibrationError(f"image '{file}' cannot be converted: {error}") from error


def image_files(path: Path) -> list[Path]:
    """Return the image files of a folder and the folders in it, sorted by path; or the file itself."""
    if path.is_file():
        return [path] if path.suffix.lower() in SUFFIXES else []
    # A link to nothing is no reason to go on with fewer images than the user sees.
    return [p for p in files_below(path) if p.suffix.lower() in SUFFIXES and (p.is_file() or not p.exists())]


def read_image(file: Path) -> Image:
    """Decode an image file.

    Raises:
        CalibrationError: it is missing, damaged, not an image, or so large that it looks like an attack.
    """
    from PIL import Image as Images
    from PIL import ImageOps, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Images.DecompressionBombWarning)
            with Images.open(file) as image:
                image.load()
                upright = ImageOps.exif_transpose(image) or image
                if upright.mode == "F":  # Pillow would cut what lies between 0 and 1 to black
                    hint = "save it with 8 or 16 bits, or its pixels as float32 in a .npy file"
                    problem = "it holds real numbers, of which nothing says what is white"
                    raise CalibrationError(f"image '{file}' cannot be taken: {problem}", hint=hint)
                return upright.convert("RGBA") if upright.mode == "P" else upright.copy()
    except (OSError, ValueError, SyntaxError, Images.DecompressionBombError, Warning) as error:
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "it is not an image, or is damaged" if unknown else error
        raise CalibrationError(
            f"image '{file}' cannot be read: {reason}", hint="remove it from the folder, or save it again"
        ) from error


def load_image(file: Path, preprocess: Preprocess, spec: InputSpec) -> Array:
    """Return one photograph as a model input, batch axis included, as calibration would give it.

    Args:
        file: an image file.
        preprocess: the steps; fields left open are chosen for the model.
        spec: the model's image input, of batch 1.

    Raises:
        CalibrationError: the file cannot be read, or the input is not an image.
    """
    resolved = preprocess.resolve(spec)
    item = resolved.apply(read_image(file), spec)
    return item[None] if ImageFrame.of(spec, resolved.layout).batched else item


def window(image: Image, crop: int) -> Image:
    """Return the whole image for crop 0, else a window of it, half of them mirrored.

    The window keeps the image's proportions. Its size is the image's divided by a zoom between 1 and 1.5;
    place, zoom and mirroring are the crop-th point of the Halton sequence to bases 2, 3, 5 and 7.

    Source:
        Halton, "On the efficiency of certain quasi-random sequences of points", 1960.
    """
    if crop == 0:
        return image
    across, down, depth, side = (_halton(crop, base) for base in (2, 3, 5, 7))
    zoom = 1.0 + depth * (_LARGEST_ZOOM - 1.0)
    width, height = max(1, round(image.width / zoom)), max(1, round(image.height / zoom))
    left, top = round(across * (image.width - width)), round(down * (image.height - height))
    piece = image.crop((left, top, left + width, top + height))
    if side >= 0.5:
        from PIL import ImageOps

        piece = ImageOps.mirror(piece)
    return piece


def _halton(index: int, base: int) -> float:
    value, share = 0.0, 1.0
    while index:
        share /= base
        index, digit = divmod(index, base)
        value += digit * share
    return value
