"""Labelled samples in all the forms in which users keep them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qcompile.calibrate.image_folder import read_image
from qcompile.calibrate.preprocess import Preprocess
from qcompile.calibrate.sample import InputSpec
from qcompile.errors import CalibrationError, UsageError
from qcompile.evaluate.labelled_set import LabelledSet

GREY = (InputSpec("x", "float32", (1, 1, 4, 4)),)
PAIR = (InputSpec("a", "float32", (1, 3)), InputSpec("b", "int64", (1, 2)))
PIXELS = Preprocess.parse("resize=4,mean=0,std=1,color=grey")


def picture(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4), value).save(path)


def labels_of(samples: LabelledSet) -> list[object]:
    return [sample.label for sample in samples]


def test_folders_named_by_number(tmp_path: Path) -> None:
    for label, value in ((7, 10), (7, 20), (2, 30)):
        picture(tmp_path / str(label) / f"{value}.png", value)
    samples = LabelledSet(str(tmp_path), GREY, PIXELS)
    assert samples.size == 3
    assert {(float(s.inputs["x"].mean()), s.label) for s in samples} == {(10.0, 7), (20.0, 7), (30.0, 2)}
    assert labels_of(samples) == labels_of(samples)


def test_folders_named_by_class_names_that_are_numbers(tmp_path: Path) -> None:
    for name in ("1", "3"):
        picture(tmp_path / name / "one.png", 1)
    assert labels_of(LabelledSet(str(tmp_path), GREY, PIXELS, names=["1", "2", "3"])) == [0, 2]
    assert labels_of(LabelledSet(str(tmp_path), GREY, PIXELS, names=["0", "1", "2", "3"])) == [1, 3]
    picture(tmp_path / "0" / "one.png", 1)
    with pytest.raises(UsageError, match="'0' is not one of the 3 class names"):
        LabelledSet(str(tmp_path), GREY, PIXELS, names=["1", "2", "3"])


def test_folders_named_by_the_words_of_a_class(tmp_path: Path) -> None:
    names = ["T-shirt/top", "Ankle boot", "ankle_boot", "--", "Bag"]
    for folder in ("T-shirt-top", "BAG"):
        picture(tmp_path / folder / "one.png", 1)
    assert sorted(labels_of(LabelledSet(str(tmp_path), GREY, PIXELS, names=names))) == [0, 4]
    picture(tmp_path / "ankle-boot" / "one.png", 1)
    with pytest.raises(UsageError, match=r"may be any of the classes 1 \('Ankle boot'\) and 2 \('ankle_boot'\)"):
        LabelledSet(str(tmp_path), GREY, PIXELS, names=names)
    (tmp_path / "ankle-boot" / "one.png").rename(tmp_path / "BAG" / "two.png")
    picture(tmp_path / "+" / "one.png", 1)
    with pytest.raises(UsageError, match=r"'\+' is not one of the 5 class names"):
        LabelledSet(str(tmp_path), GREY, PIXELS, names=names)


def test_folders_named_by_class(tmp_path: Path) -> None:
    for name in ("dog", "Cat"):
        picture(tmp_path / name / "one.png", 1)
    assert sorted(labels_of(LabelledSet(str(tmp_path), GREY, PIXELS, names=["bird", "cat", "dog"]))) == [1, 2]
    unnamed = LabelledSet(str(tmp_path), GREY, PIXELS)
    assert sorted(labels_of(unnamed)) == [0, 1]
    assert "in the order of their names" in unnamed.notes[0]
    with pytest.raises(UsageError, match="'Cat' is not one of the 2 class names") as caught:
        LabelledSet(str(tmp_path), GREY, PIXELS, names=["cats", "dog"])
    assert "known" in (caught.value.hint or "") or "did you mean" in (caught.value.hint or "")


def test_a_list_of_files(tmp_path: Path) -> None:
    picture(tmp_path / "pictures" / "a b.png", 5)
    np.save(tmp_path / "c.npy", np.full((1, 4, 4), 9, np.float32))
    (tmp_path / "list.csv").write_text('# a comment\n"pictures/a b.png",3\nc.npy,dog\n\n')
    samples = list(LabelledSet(str(tmp_path / "list.csv"), GREY, PIXELS, names=["cat", "dog"]))
    assert [(float(s.inputs["x"].mean()), s.label) for s in samples] == [(5.0, "3"), (9.0, "dog")]
    (tmp_path / "list.txt").write_text("c.npy some words\n")
    assert labels_of(LabelledSet(str(tmp_path / "list.txt"), GREY)) == ["some words"]
    (tmp_path / "list.tsv").write_text("missing.png\t1\n")
    with pytest.raises(UsageError, match=r"line 1: there is no file"):
        LabelledSet(str(tmp_path / "list.tsv"), GREY)
    (tmp_path / "bad.txt").write_text("c.npy\n")
    with pytest.raises(UsageError, match="not a file and a label"):
        LabelledSet(str(tmp_path / "bad.txt"), GREY)


def test_arrays(tmp_path: Path) -> None:
    x = np.arange(5 * 16, dtype=np.float32).reshape(5, 1, 4, 4)
    np.savez(tmp_path / "set.npz", images=x, labels=np.arange(5))
    samples = list(LabelledSet(str(tmp_path / "set.npz"), GREY, limit=3))
    assert [int(s.label) for s in samples] == [0, 1, 3]
    assert np.array_equal(samples[1].inputs["x"], x[1:2])
    np.savez(tmp_path / "two.npz", a=np.zeros((4, 3), np.float32), b=np.zeros((4, 1, 2), np.int64))
    assert labels_of(LabelledSet(str(tmp_path / "two.npz"), PAIR)) == [None] * 4
    np.savez(tmp_path / "odd.npz", a=np.zeros((4, 3), np.float32), b=np.zeros((3, 2), np.int64))
    with pytest.raises(UsageError, match="holds 4 of 'a', 3 of 'b'"):
        LabelledSet(str(tmp_path / "odd.npz"), PAIR)
    np.savez(tmp_path / "shape.npz", x=np.zeros((4, 9), np.float32), y=np.zeros(4))
    with pytest.raises(CalibrationError, match=r"shape \[4, 9\]"):
        LabelledSet(str(tmp_path / "shape.npz"), GREY)


def test_a_function(tmp_path: Path) -> None:
    source = tmp_path / "mine.py"
    source.write_text(
        "import numpy as np\n"
        "def pairs():\n    for i in range(9):\n        yield np.full((1, 4, 4), i, np.float32), i % 3\n"
        "def broken():\n    yield np.zeros((1, 4, 4), np.float32), 0\n    raise RuntimeError('no more')\n"
    )
    samples = LabelledSet(f"{source}:pairs", GREY, limit=4)
    assert labels_of(samples) == [0, 1, 2, 0]
    with pytest.raises(UsageError, match="raised RuntimeError: no more"):
        labels_of(LabelledSet(f"{source}:broken", GREY))


def test_samples_without_labels(tmp_path: Path) -> None:
    for value in range(3):
        picture(tmp_path / f"{value}.png", value)
    samples = list(LabelledSet(str(tmp_path), GREY, PIXELS))
    assert [s.label for s in samples] == [None] * 3
    with pytest.raises(CalibrationError, match="does not exist"):
        LabelledSet(str(tmp_path / "nowhere"), GREY)


def test_a_class_without_a_picture_keeps_its_place(tmp_path: Path) -> None:
    for name in ("a", "c"):
        picture(tmp_path / name / "one.png", 1)
    (tmp_path / "b").mkdir()
    samples = LabelledSet(str(tmp_path), GREY, PIXELS)
    assert labels_of(samples) == [0, 2]
    assert samples.notes == [
        "classes are the 3 folders in the order of their names, from 0",
        "1 of the 3 folders hold no image: 'b'",
    ]
    assert [sample.folders for sample in samples] == [3, 3]
    named = LabelledSet(str(tmp_path), GREY, PIXELS, names=["c", "a"])
    assert labels_of(named) == [1, 0]
    assert [sample.folders for sample in named] == [None, None]


def test_names_of_classes_that_differ_in_case_alone(tmp_path: Path) -> None:
    for name in ("Polish", "polish", "T-shirt_top", "DRESS "):
        picture(tmp_path / name / "one.png", 1)
    names = ["Dress", "T-shirt/top", "polish", "Polish"]
    assert labels_of(LabelledSet(str(tmp_path), GREY, PIXELS, names=names)) == [0, 3, 1, 2]
    picture(tmp_path / "POLISH" / "one.png", 1)
    with pytest.raises(UsageError, match=r"'POLISH' may be any of the classes 2 \('polish'\) and 3 \('Polish'\)"):
        LabelledSet(str(tmp_path), GREY, PIXELS, names=names)


def test_lists_as_other_programs_write_them(tmp_path: Path) -> None:
    """With a byte order mark, with spaces in the names of files, with a heading, with labels of digits."""
    np.save(tmp_path / "my c.npy", np.full((1, 4, 4), 9, np.float32))
    (tmp_path / "marked.csv").write_text("\ufeffmy c.npy,007\n", encoding="utf-8")
    assert labels_of(LabelledSet(str(tmp_path / "marked.csv"), GREY)) == ["007"]
    (tmp_path / "list.txt").write_text("my c.npy  two words\n")
    assert labels_of(LabelledSet(str(tmp_path / "list.txt"), GREY)) == ["two words"]
    (tmp_path / "heading.csv").write_text("filename,label\nmy c.npy,3\n")
    with pytest.raises(UsageError, match=r"line 1: there is no file") as caught:
        LabelledSet(str(tmp_path / "heading.csv"), GREY)
    assert "if this line is a heading, remove it" in (caught.value.hint or "")
    (tmp_path / "gone.csv").write_text("my c.npy,3\nyour c.npy,3\n")
    with pytest.raises(UsageError, match=r"line 2: there is no file") as caught:
        LabelledSet(str(tmp_path / "gone.csv"), GREY)
    assert caught.value.hint == "paths in a list are relative to the folder that the list is in"


def test_pictures_without_labels_are_read_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in range(3):
        picture(tmp_path / f"{place}.png", place)
    read: list[Path] = []

    def count(file: Path) -> Image.Image:
        read.append(file)
        return read_image(file)

    monkeypatch.setattr("qcompile.calibrate.image_folder.read_image", count)
    samples = LabelledSet(str(tmp_path), GREY, PIXELS)
    assert (samples.size, read) == (3, [])
    next(iter(samples))
    assert len(read) == 1
    with pytest.raises(CalibrationError, match=r"evaluation set '.*' does not exist") as caught:
        LabelledSet(str(tmp_path / "nowhere"), GREY)
    assert "a list of files and labels" in (caught.value.hint or "")


def test_of_a_sequence_without_labels_the_first_samples_are_taken(tmp_path: Path) -> None:
    """As of one with labels: the model goes on from each to the next, and is compared where it has seen them all."""
    np.save(tmp_path / "x.npy", np.arange(60, dtype=np.float32).reshape(60, 1))
    inputs = [InputSpec("x", "float32", (1, 1))]
    samples = LabelledSet(str(tmp_path / "x.npy"), inputs, limit=20, kept=["s"])
    assert [float(s.inputs["x"][0, 0]) for s in samples] == list(range(20))
    assert samples.notes == ["20 of 60 samples, the first, as each goes on where the one before it ended"]
    apart = LabelledSet(str(tmp_path / "x.npy"), inputs, limit=20)
    assert [float(s.inputs["x"][0, 0]) for s in apart] == list(range(0, 60, 3))
