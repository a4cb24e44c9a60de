"""Faults of a calibration set that one pass shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qcompile.calibrate.calibration_set import open_calibration
from qcompile.calibrate.sample import InputSpec
from qcompile.calibrate.sample_summary import SampleSummary

X = (InputSpec("x", "float32", (1, 4)),)


def summary(arrays: list[np.ndarray]) -> SampleSummary:
    found = SampleSummary()
    for array in arrays:
        found.include({"x": np.ascontiguousarray(array, np.float32)})
    return found


def different(count: int) -> list[np.ndarray]:
    return list(np.random.default_rng(0).normal(size=(count, 1, 4)))


def test_a_sound_set_has_no_notes() -> None:
    found = summary(different(32))
    assert found.notes() == []
    assert found.count == 32


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        (different(1), "only 1 calibration sample:"),
        (different(7), "only 7 calibration samples:"),
        (
            [*different(20), 1e3 * np.ones((1, 4)) * [1, 2, 3, 4]],
            "calibration sample 21 reaches 4e+03 in 'x', most others",
        ),
        ([*different(10), *different(3)], "3 of 13 calibration samples are the same"),
        ([*different(10), np.zeros((1, 4)), np.ones((1, 4))], "2 of 12 calibration samples are constant"),
    ],
)
def test_faults_are_noted(arrays: list[np.ndarray], words: str) -> None:
    (note,) = summary(arrays).notes()
    assert words in note


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        (different(1), "one calibration sample"),
        (different(1) * 3, "3 calibration samples that are all the same"),
        ([np.full((1, 4), level) for level in (0, 1)], "2 calibration samples that are all constant"),
        ([*different(2), np.zeros((1, 4))], ""),
    ],
)
def test_samples_that_tell_nothing_of_accuracy(arrays: list[np.ndarray], words: str) -> None:
    assert summary(arrays).emptiness == words


def test_a_state_of_zeros_is_no_constant_sample() -> None:
    found = SampleSummary()
    for array in different(10):
        found.include({"x": array.astype(np.float32), "state": np.zeros((1, 8), np.float32)})
    assert found.constant == 0
    assert found.ranges["state"] == (0.0, 0.0)
    assert found.ranges["x"] == (
        pytest.approx(float(np.min(different(10)))),
        pytest.approx(float(np.max(different(10)))),
    )


def test_a_calibration_set_keeps_the_summary_of_its_latest_pass() -> None:
    samples = open_calibration([{"x": a.astype(np.float32)} for a in different(3)], X)
    assert samples.summary is None
    for _ in range(2):
        assert sum(1 for _ in samples) == 3
        assert samples.summary is not None
        assert (samples.summary.count, samples.summary.repeated) == (3, 0)


PHOTOGRAPHS = sorted((Path(__file__).parents[2] / "examples" / "images").glob("*.jpg"))


def photographs(size: int, only: str = "") -> list[np.ndarray]:
    """Return [size, size, 3] pixels."""
    found = [Image.open(path).convert("RGB").resize((size, size)) for path in PHOTOGRAPHS if only in path.name]
    assert found
    return [np.asarray(image, np.float32) for image in found]


@pytest.mark.parametrize("size", [20, 32, 100, 224])
@pytest.mark.parametrize("scaled", [False, True])
def test_reshaped_instead_of_transposed(size: int, scaled: bool) -> None:
    """What is in the order of pixels is told from planes, whatever the size leaves over when divided by three."""
    images = [(x - [123.7, 116.3, 103.5]) / [58.4, 57.1, 57.4] if scaled else x for x in photographs(size)]
    assert summary([x.transpose(2, 0, 1)[None] for x in images]).notes() == []
    (note,) = summary([x.reshape(1, 3, size, size) for x in images]).notes()
    assert note.startswith("the values in 'x' repeat every third column and row")


def test_what_is_no_reshaped_picture() -> None:
    generator = np.random.default_rng(0)
    for image in photographs(64):  # one at a time, grey ones, too
        planes = image.transpose(2, 0, 1)[None]
        mosaic = np.zeros_like(planes)
        mosaic[:, 0, ::2, ::2], mosaic[:, 2, 1::2, 1::2] = planes[:, 0, ::2, ::2], planes[:, 2, 1::2, 1::2]
        mosaic[:, 1, ::2, 1::2] = planes[:, 1, ::2, 1::2]
        striped = planes * (np.arange(64) % 3 == 0)
        for array in (planes, mosaic, striped, planes.round(-2), planes[:, :, :17, :50]):
            assert summary([array]).interleaved == []
    for array in (generator.normal(size=(1, 3, 40, 40)), np.zeros((1, 3, 40, 40)), generator.normal(size=(2, 3, 9, 9))):
        assert summary([array]).interleaved == []
