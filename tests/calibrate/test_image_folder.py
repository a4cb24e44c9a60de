import errno
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qcompile.calibrate.array_files import array_files
from qcompile.calibrate.calibration_set import open_calibration
from qcompile.calibrate.image_folder import image_files, load_image, window
from qcompile.calibrate.preprocess import Preprocess
from qcompile.calibrate.sample import InputSpec
from qcompile.errors import CalibrationError

SPEC = InputSpec("image", "float32", (1, 3, 32, 32))
STEPS = Preprocess.parse("resize=40,mean=127,std=128")
PHOTOGRAPHS = Path(__file__).parents[2] / "examples" / "images"


def save(path, seed, size=(60, 50), **options):
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).resize((size[0] * 2, size[1] * 2)).save(path, **options)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sub").mkdir()
    for index, name in enumerate(["b.png", "a.jpg", "sub/c.PNG", "d.bmp"]):
        save(tmp_path / name, index)
    (tmp_path / "labels.txt").write_text("a 1")
    save(tmp_path / ".hidden.png", 9)
    return tmp_path


def test_a_few_photographs_give_64_samples(folder):
    samples = open_calibration(folder, [SPEC], STEPS)
    assert samples.size == 64
    arrays = [sample["image"] for sample in samples]
    assert len(arrays) == 64
    assert {a.shape for a in arrays} == {(1, 3, 32, 32)}
    assert len({a.tobytes() for a in arrays}) == 64
    assert "64 samples from 4 photographs, up to 16 crops of each" in samples.notes


def test_whole_photographs_come_first_in_the_order_of_names(folder):
    arrays = [s["image"] for s in open_calibration(folder, [SPEC], STEPS)]
    for array, name in zip(arrays, ["a.jpg", "b.png", "d.bmp", "sub/c.PNG"], strict=False):
        assert np.array_equal(array, load_image(folder / name, STEPS, SPEC))


def test_two_passes_and_two_runs_are_equal(folder):
    first, second = (open_calibration(folder, [SPEC], STEPS) for _ in range(2))
    for a, b, again in zip(first, second, first, strict=True):
        assert np.array_equal(a["image"], b["image"])
        assert np.array_equal(a["image"], again["image"])
    assert first.digest() == second.digest()


def test_the_digest_depends_on_contents_and_steps(folder):
    before = open_calibration(folder, [SPEC], STEPS).digest()
    assert open_calibration(folder, [SPEC], STEPS, limit=63).digest() != before
    assert open_calibration(folder, [SPEC], Preprocess.parse("resize=40,mean=0,std=128")).digest() != before
    save(folder / "b.png", 77)
    assert open_calibration(folder, [SPEC], STEPS).digest() != before


@pytest.mark.parametrize(
    ("limit", "crops", "expected"),
    [(None, 1, 4), (None, 3, 12), (10, None, 10), (3, 1, 3), (100, 50, 100), (2, None, 2)],
)
def test_limit_and_crops(folder, limit, crops, expected):
    samples = open_calibration(folder, [SPEC], STEPS, limit=limit, crops_per_image=crops)
    assert samples.size == expected == len(list(samples))


def test_many_photographs_are_thinned_out_evenly(tmp_path):
    for index in range(300):
        Image.new("RGB", (8, 8), (index % 256, index // 256, 0)).save(tmp_path / f"{index:03}.png")
    spec = InputSpec("image", "float32", (1, 3, 8, 8))
    samples = open_calibration(tmp_path, [spec], Preprocess.parse("resize=8,mean=0,std=1"))
    numbers = [int(s["image"][0, 0, 0, 0] + 256 * s["image"][0, 1, 0, 0]) for s in samples]
    assert len(numbers) == 256
    assert numbers == sorted(set(numbers))
    assert numbers[-1] > 295
    assert samples.notes[0] == "256 of 300 photographs by name, evenly spaced"


def test_batches(folder):
    batch = InputSpec("image", "float32", (8, 3, 32, 32))
    samples = list(open_calibration(folder, [batch], STEPS, limit=3))
    single = list(open_calibration(folder, [SPEC], STEPS, limit=24))
    assert [s["image"].shape for s in samples] == [(8, 3, 32, 32)] * 3
    assert np.array_equal(samples[1]["image"][0], single[8]["image"][0])


def test_input_without_batch_axis(folder):
    spec = InputSpec("image", "float32", (32, 32, 3))
    assert next(iter(open_calibration(folder, [spec], STEPS)))["image"].shape == (32, 32, 3)


def test_one_photograph_is_enough(folder):
    samples = open_calibration(folder / "a.jpg", [SPEC], STEPS, limit=5)
    assert samples.size == 5


def test_chosen_steps_are_noted(folder):
    samples = open_calibration(folder, [SPEC])
    assert samples.preprocess == Preprocess().resolve(SPEC)
    assert any(n.startswith("preprocessing chosen for the model: resize=37, ") for n in samples.notes)
    assert open_calibration(folder, [SPEC], Preprocess().resolve(SPEC), crops_per_image=1).notes == ()


def test_exif_orientation_is_obeyed(tmp_path):
    image = Image.new("RGB", (40, 20))
    image.paste((255, 255, 255), (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees
    image.save(tmp_path / "turned.png", exif=exif)
    spec = InputSpec("x", "float32", (1, 1, 40, 20))
    x = load_image(tmp_path / "turned.png", Preprocess(), spec)[0, 0]
    assert x[:20].mean() == pytest.approx(1.0)
    assert x[20:].mean() == pytest.approx(0.0)


def test_windows_stay_inside_and_differ():
    image = Image.new("RGB", (90, 60))
    sizes = [window(image, crop).size for crop in range(1, 30)]
    assert window(image, 0) is image
    assert all(60 <= w <= 90 and 40 <= h <= 60 for w, h in sizes)
    assert len(set(sizes)) > 15


def test_the_example_photographs_make_a_calibration_set():
    spec = InputSpec("images", "float32", (1, 3, 224, 224))
    samples = open_calibration(PHOTOGRAPHS, [spec], Preprocess.parse("resize=256,mean=127,std=128"))
    assert samples.size == 64
    first = next(iter(samples))["images"]
    assert -1 <= first.min() < first.max() <= 1


def test_a_damaged_image(folder):
    whole = (folder / "a.jpg").read_bytes()
    (folder / "a.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CalibrationError, match=r"image '.*a\.jpg' cannot be read") as caught:
        list(open_calibration(folder, [SPEC], STEPS))
    assert caught.value.hint


@pytest.mark.parametrize("content", [b"", b"hello, this is text", b"\x89PNG\r\n\x1a\n broken"])
def test_not_an_image(folder, content):
    (folder / "a.jpg").write_bytes(content)
    with pytest.raises(CalibrationError, match=r"a\.jpg' cannot be read: it is not an image"):
        list(open_calibration(folder, [SPEC], STEPS))


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    save(tmp_path / "a.png", 0)
    with pytest.raises(CalibrationError, match="cannot be read"):
        list(open_calibration(tmp_path, [SPEC], STEPS))


def test_too_small_after_resizing_names_the_file(tmp_path):
    save(tmp_path / "a.png", 0, (50, 50))
    spec = InputSpec("x", "float32", (1, 3, 40, 80))
    with pytest.raises(CalibrationError, match="too small for crop") as caught:
        list(open_calibration(tmp_path, [spec], Preprocess(resize=40)))
    assert caught.value.loc == str(tmp_path / "a.png")


def test_models_that_take_no_image(folder):
    with pytest.raises(CalibrationError, match="is not an image of 1 or 3 channels"):
        open_calibration(folder, [InputSpec("v", "float32", (1, 10))])
    with pytest.raises(CalibrationError, match="the model has 2 inputs"):
        open_calibration(folder, [SPEC, SPEC])


def test_fewer_samples_than_a_batch(folder):
    spec = InputSpec("image", "float32", (8, 3, 32, 32))
    with pytest.raises(CalibrationError, match="gives 4 samples, the model takes 8"):
        open_calibration(folder, [spec], STEPS, crops_per_image=1)


def test_images_of_real_numbers_are_refused(tmp_path):
    """Pillow makes those from 0 to 1 black without a word."""
    Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)).save(tmp_path / "depth.tiff")
    with pytest.raises(CalibrationError, match=r"depth\.tiff' cannot be taken: it holds real numbers") as caught:
        list(open_calibration(tmp_path, [InputSpec("x", "float32", (1, 3, 8, 8))]))
    assert "8 or 16 bits" in caught.value.hint


def test_a_link_to_nothing_is_said(tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "gone" / "b.png")
    with pytest.raises(CalibrationError, match=r"b\.png' cannot be read: .*No such file"):
        list(open_calibration(tmp_path, [InputSpec("x", "float32", (1, 3, 8, 8))]))


def test_frames_of_a_sequence_are_taken_one_after_the_other(tmp_path):
    for index in range(60):
        Image.new("RGB", (8, 8), (index, 0, 0)).save(tmp_path / f"{index:03}.png")
    spec = InputSpec("x", "float32", (1, 3, 8, 8))
    plain = Preprocess.parse("resize=8,mean=0,std=1,range=255")
    seen = open_calibration(tmp_path, [spec], plain, limit=24, kept=["s"])
    assert [int(sample["x"][0, 0, 0, 0]) for sample in seen] == list(range(24))
    runs = open_calibration(tmp_path, [spec], plain, limit=24, kept=["s"], leads=True)
    assert runs.size == 24
    assert [int(sample["x"][0, 0, 0, 0]) for sample in runs] == [*range(8), *range(18, 34), *range(44, 60)]


def test_folders_behind_links_count_once(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    save(elsewhere / "z.png", 5)
    (folder / "again").symlink_to(folder / "sub")
    (folder / "sub" / "loop").symlink_to(folder)
    (folder / "more").symlink_to(elsewhere)
    (folder / ".cache").mkdir()
    save(folder / ".cache" / "e.png", 6)
    names = [str(path.relative_to(folder)) for path in image_files(folder)]
    assert names == ["a.jpg", "b.png", "d.bmp", "more/z.png", "sub/c.PNG"]


@pytest.mark.parametrize("find", [image_files, array_files])
def test_a_folder_that_cannot_be_read_is_not_passed_over(folder, find, monkeypatch):
    """Permissions stop everybody but root, who may run this."""
    usual = os.scandir

    def listing(path):
        if Path(path).name == "sub":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return usual(path)

    monkeypatch.setattr(os, "scandir", listing)
    with pytest.raises(PermissionError, match="sub"):
        find(folder)
