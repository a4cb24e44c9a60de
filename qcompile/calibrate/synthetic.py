"""Made-up inputs for calibration without data.

They excite a network roughly as photographs do, which is enough to find ranges where nothing better is known,
and never enough to vouch for accuracy: whoever uses them says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.calibrate.image_frame import ImageFrame
from qcompile.calibrate.preprocess import Preprocess
from qcompile.calibrate.sample import InputSpec, Sample
from qcompile.errors import CalibrationError

Array = npt.NDArray[Any]

_SMALL_INTEGERS = 2


class SyntheticSamples:
    """Seeded samples for the inputs of a model; every pass over them gives the same.

    An image input gets patterns with structure at all scales, in the range of values that preprocessing
    gives; any other real input standard normal values; an integer input uniform indices into the table that
    it selects from, else zeros and ones.

    Args:
        inputs: what the model takes, as `graph_inputs` says.
        count: number of samples.
        seed: of the random numbers.
        preprocess: the image steps, for the range of values; what it leaves open is chosen for the model.

    Attributes:
        size: number of samples.
    """

    def __init__(
        self,
        inputs: Sequence[InputSpec],
        count: int = 16,
        seed: int = 0,
        preprocess: Preprocess | None = None,
    ) -> None:
        self.size = count
        self.seed = seed
        self._inputs = tuple(inputs)
        self._frames = {spec.name: _image(spec, preprocess or Preprocess()) for spec in self._inputs}

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[Sample]:
        for index in range(self.size):
            yield {
                spec.name: self._array(spec, np.random.default_rng([self.seed, index, position]))
                for position, spec in enumerate(self._inputs)
            }

    def _array(self, spec: InputSpec, rng: np.random.Generator) -> Array:
        dtype = np.dtype(spec.dtype)
        image = self._frames[spec.name]
        if image is not None:
            return _picture(spec, *image, rng)
        if dtype.kind == "f":
            return rng.standard_normal(spec.shape).astype(dtype)
        return np.asarray(rng.integers(0, spec.bound or _SMALL_INTEGERS, spec.shape)).astype(dtype)


def synthetic_samples(
    inputs: Sequence[InputSpec], count: int = 16, seed: int = 0, preprocess: Preprocess | None = None
) -> SyntheticSamples:
    """Return made-up samples for calibration without data; see SyntheticSamples."""
    return SyntheticSamples(inputs, count, seed, preprocess)


def _image(spec: InputSpec, preprocess: Preprocess) -> tuple[ImageFrame, Preprocess] | None:
    """Return the axes and the image steps of an input, or None where it is no image."""
    try:
        resolved = preprocess.resolve(spec)
        return ImageFrame.of(spec, resolved.layout), resolved
    except CalibrationError:
        return None


def _picture(spec: InputSpec, frame: ImageFrame, preprocess: Preprocess, rng: np.random.Generator) -> Array:
    """Return images with structure at every scale, mostly grey, a little coloured."""
    low, high = (np.broadcast_to(v, (frame.channels,)) for v in preprocess.value_range())
    images = []
    for _ in range(frame.batch):
        grey = _pattern(frame.height, frame.width, rng)
        tints = [_pattern(frame.height, frame.width, rng) for _ in range(frame.channels)]
        brightness, contrast = rng.uniform(0.3, 0.7), rng.uniform(0.1, 0.3)
        planes = [np.clip(brightness + contrast * (0.9 * grey + 0.4 * tint), 0.0, 1.0) for tint in tints]
        scaled = [lo + (hi - lo) * plane for plane, lo, hi in zip(planes, low, high, strict=True)]
        images.append(np.stack(scaled, axis=0 if frame.layout == "nchw" else -1))
    stack = np.stack(images)
    if np.dtype(spec.dtype).kind in "iu":
        stack = np.rint(stack)
    return np.ascontiguousarray(stack.reshape(spec.shape), spec.dtype)


def _pattern(height: int, width: int, rng: np.random.Generator) -> Array:
    """Return noise of mean 0 and deviation 1 whose blocks halve from octave to octave, float64 [H, W]."""
    total = np.zeros((height, width))
    block = max(1, max(height, width) // 2)
    while True:
        grid = rng.standard_normal((-(-height // block), -(-width // block)))
        total += np.sqrt(block) * np.repeat(np.repeat(grid, block, 0)[:height], block, 1)[:, :width]
        if block == 1:
            break
        block //= 2
    spread = float(total.std())
    return (total - total.mean()) / spread if spread > 0 else total
