"""Samples beyond those that calibrate are set aside, and tell how accurate the network is on what it has not seen."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from qcompile import driver, ops
from qcompile.calibrate.calibration_set import CalibrationSet, open_calibration
from qcompile.calibrate.sample import InputSpec
from qcompile.calibrate.sample_choice import unseen_samples
from qcompile.errors import CalibrationError
from qcompile.ir.parser import parse_graph
from qcompile.passmgr import PassContext
from qcompile.precision import measure
from qcompile.report.terminal import accuracy_text

Array = npt.NDArray[np.float32]
Give = Callable[[int], object]

SPEC = InputSpec("x", "float32", (1, 3, 4, 4))

FLOAT = 'graph "g" { input %x : f32[1,3,4,4] %y = relu(%x) : f32[1,3,4,4] output "y" = %y }'
INTEGER = """graph "g" {
  input %x : f32[1,3,4,4]
  %q = quantize(%x) : i8[1,3,4,4] q(scale=1.0, zp=0)
  %r = relu(%q) : i8[1,3,4,4] q(scale=1.0, zp=0)
  %y = dequantize(%r) : f32[1,3,4,4]
  output "y" = %y
}
"""


def image(index: int) -> Array:
    return np.full((1, 3, 4, 4), index, np.float32)


@pytest.fixture(params=["list", "npy", "npz", "files", "function", "images"])
def give(request: pytest.FixtureRequest, tmp_path: Path) -> Give:
    """Return what gives a source of so many samples, each of which is constant."""

    def source(count: int) -> object:
        folder = tmp_path / str(count)
        folder.mkdir(exist_ok=True)
        stack = np.concatenate([image(index) for index in range(count)])
        if request.param == "list":
            return [{"x": image(index)} for index in range(count)]
        if request.param == "npy":
            np.save(folder / "x.npy", stack)
        elif request.param == "npz":
            np.savez(folder / "x.npz", x=stack)
        elif request.param == "function":
            (folder / "given.py").write_text(
                "import numpy as np\ndef samples():\n"
                f"    return (np.full((1, 3, 4, 4), index, np.float32) for index in range({count}))\n"
            )
            return f"{folder / 'given.py'}:samples"
        for index in range(count):
            if request.param == "files":
                np.save(folder / f"{index:03}.npy", image(index))
            elif request.param == "images":
                Image.new("RGB", (4, 4), (index, index, index)).save(folder / f"{index:03}.png")
        return folder

    return source


def opened(source: object, limit: int | None, spare: int) -> CalibrationSet:
    return open_calibration(source, [SPEC], limit=limit, spare=spare)  # type: ignore[arg-type]


def levels(samples: CalibrationSet) -> tuple[list[float], list[float]]:
    """Return what tells the samples apart that calibrate, and those set aside."""
    used, spared = ([float(sample["x"].flat[0]) for sample in some] for some in (samples, samples.spares))
    return used, spared


def test_what_is_set_aside_is_not_among_the_others(give: Give) -> None:
    used, spared = levels(opened(give(100), 70, 8))
    assert len(used) == 70
    assert len(spared) == 8
    assert not set(used) & set(spared)
    assert used == levels(opened(give(100), 70, 0))[0], "the samples that calibrate must not depend on it"


def test_no_more_is_set_aside_than_is_left(give: Give) -> None:
    assert len(levels(opened(give(73), 70, 8))[1]) == 3
    assert levels(opened(give(70), 70, 8))[1] == []
    assert levels(opened(give(73), None, 8))[1] == []


def test_they_are_no_part_of_what_is_known_of_the_others(give: Give) -> None:
    samples, alone = opened(give(100), 70, 8), opened(give(100), 70, 0)
    assert len(samples.spares) == 8
    assert samples.digest() == alone.digest()
    assert samples.count == 70


def test_crops_of_photographs_that_calibrate_are_not_new(tmp_path: Path) -> None:
    for index in range(5):
        Image.new("RGB", (8, 8), (50 * index, 0, 0)).save(tmp_path / f"{index}.png")
    samples = opened(str(tmp_path), 64, 8)
    assert samples.size == 64
    assert samples.spares == []


def test_they_are_checked_as_others_are() -> None:
    samples = opened([*([image(0)] * 3), np.zeros((2, 2), np.float32)], 3, 1)
    assert len(list(samples)) == 3
    with pytest.raises(CalibrationError, match=r"samples\[3\]"):
        _ = samples.spares


def test_one_iterator_gives_both(tmp_path: Path) -> None:
    model = Path(__file__).parents[2] / "examples" / "models" / "fashion_hard.onnx"
    config = driver.resolve_config(model, None, {"samples": 20})

    def given() -> Iterator[dict[str, Array]]:
        for index in range(sys.maxsize):
            yield {"input": np.full((1, 1, 28, 28), index, np.float32)}

    _, samples, _ = driver.prepare(model, config, given(), None)
    assert samples is not None
    assert [sample["input"].flat[0] for sample in samples] == list(range(20))
    assert samples.spares[0]["input"].flat[0] == 20.0


@pytest.mark.parametrize(("count", "unseen"), [(134, True), (102, True), (101, False), (70, False)])
def test_accuracy_is_that_on_samples_that_calibration_has_not_seen(count: int, unseen: bool) -> None:
    """Of the made-up network with steps of 1, those set aside alone miss the grid."""
    given = [image(index) if index < 70 else image(index) + np.float32(0.25) for index in range(count)]
    reference, final = (parse_graph(text, ops.all_ops()) for text in (FLOAT, INTEGER))
    context = PassContext()
    samples = open_calibration([{"x": array} for array in given], [SPEC], limit=70, spare=64)
    samples.digest()
    found = measure(reference, final, samples, context)
    assert found is not None
    assert found.unseen == unseen
    assert (found.worst_output_db < 60.0) == unseen
    assert not (found.unseen and found.fitted)


@pytest.mark.parametrize(("given", "count", "found"), [(13, 8, 0), (14, 8, 4), (30, 8, 8), (10, 8, 0)])
def test_too_few_say_nothing(given: int, count: int, found: int) -> None:
    samples = opened([image(index) for index in range(given)], 10, 20)
    assert len(unseen_samples(samples, count)) == found
    assert unseen_samples(None, count) == []


def test_the_user_is_told() -> None:
    known = {"samples": 8, "verified": True, "fitted": False, "outputs": {"y": 30.0}}
    assert accuracy_text({**known, "unseen": True}).endswith("against float, 8 samples that calibration did not see")
    assert accuracy_text({**known, "unseen": False}).endswith("against float, 8 calibration samples")
