import numpy as np
import pytest

from qcompile.calibrate.calibration_set import open_calibration
from qcompile.calibrate.sample import InputSpec
from qcompile.errors import CalibrationError

X = InputSpec("x", "float32", (1, 3, 4))
IDS = InputSpec("ids", "int64", (1, 5))
RNG = np.random.default_rng(0)


def real(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("shape", [(1, 3, 4), (3, 4)])
def test_one_sample(tmp_path, shape):
    array = real(*shape)
    np.save(tmp_path / "a.npy", array)
    (sample,) = open_calibration(tmp_path / "a.npy", [X])
    assert np.array_equal(sample["x"], array.reshape(1, 3, 4))


@pytest.mark.parametrize("shape", [(7, 3, 4), (7, 1, 3, 4)])
def test_a_stack(tmp_path, shape):
    array = real(*shape)
    np.save(tmp_path / "a.npy", array)
    samples = open_calibration(tmp_path / "a.npy", [X])
    assert samples.size == 7
    assert np.array_equal(np.concatenate([s["x"] for s in samples]), array.reshape(7, 3, 4))


@pytest.mark.parametrize("shape", [(7, 3, 6), (7, 1, 3, 6), (7, 1, 3, 8)])
def test_a_stack_of_samples_that_are_not_the_largest(tmp_path, shape):
    array = real(*shape)
    np.save(tmp_path / "a.npy", array)
    opened = InputSpec("x", "float32", (1, 3, 8), None, (None, None, range(4, 9)))
    samples = list(open_calibration(tmp_path / "a.npy", [opened]))
    assert [s["x"].shape for s in samples] == [(1, 3, shape[-1])] * 7
    assert np.array_equal(np.concatenate([s["x"] for s in samples]), array.reshape(7, 3, shape[-1]))


def test_a_stack_of_samples_beyond_an_open_extent_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", real(7, 1, 3, 9))
    opened = InputSpec("x", "float32", (1, 3, 8), None, (None, None, range(4, 9)))
    with pytest.raises(CalibrationError, match="does not fit"):
        open_calibration(tmp_path / "a.npy", [opened])


def test_a_stack_for_a_batch_of_two(tmp_path):
    array = real(7, 3)
    np.save(tmp_path / "a.npy", array)
    samples = list(open_calibration(tmp_path / "a.npy", [InputSpec("x", "float32", (2, 3))]))
    assert [s["x"].tolist() for s in samples] == [array[i : i + 2].tolist() for i in (0, 2, 4)]


def test_a_folder_in_the_order_of_names(tmp_path):
    arrays = {name: real(3, 4) for name in ("b", "a", "c")}
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    np.savez(tmp_path / "d.npz", whatever=(stack := real(2, 3, 4)))
    samples = [s["x"][0] for s in open_calibration(tmp_path, [X])]
    assert np.array_equal(samples, [arrays["a"], arrays["b"], arrays["c"], stack[0], stack[1]])


def test_archives_for_several_inputs(tmp_path):
    x, ids = real(4, 3, 4), RNG.integers(0, 9, (4, 5))
    np.savez_compressed(tmp_path / "a.npz", x=x, ids=ids)
    samples = list(open_calibration(tmp_path / "a.npz", [X, IDS]))
    assert [s["ids"].tolist() for s in samples] == [[row] for row in ids.tolist()]
    assert np.array_equal([s["x"][0] for s in samples], x)


def test_one_file_per_input(tmp_path):
    x, ids = real(4, 3, 4), RNG.integers(0, 9, (4, 5))
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "ids.npy", ids)
    samples = list(open_calibration(tmp_path, [X, IDS]))
    assert len(samples) == 4
    assert np.array_equal(samples[3]["x"][0], x[3])
    assert samples[3]["ids"][0].tolist() == ids[3].tolist()


def test_a_large_stack_is_thinned_out(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(1000, dtype=np.float32)[:, None])
    spec = InputSpec("x", "float32", (1, 1))
    samples = open_calibration(tmp_path / "a.npy", [spec])
    values = [float(s["x"][0, 0]) for s in samples]
    assert len(values) == samples.size == 256
    assert values[0] == 0
    assert values[-1] > 990
    assert samples.notes == ("256 of 1000 samples, evenly spaced",)
    assert open_calibration(tmp_path / "a.npy", [spec], limit=1000).size == 1000


def test_rows_that_make_no_whole_batch_are_told(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((10, 3), np.float32))
    samples = open_calibration(tmp_path / "a.npy", [InputSpec("x", "float32", (4, 3))])
    assert samples.size == 2
    assert [note.split(": ")[-2:] for note in samples.notes] == [
        ["the last 2 of 10 rows are no batch of 4", "left out"]
    ]
    assert open_calibration(tmp_path / "a.npy", [InputSpec("x", "float32", (5, 3))]).notes == ()


def test_a_stack_with_its_channels_at_the_other_end_is_told_so(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((10, 8, 6, 3), np.float32))
    with pytest.raises(CalibrationError) as caught:
        open_calibration(tmp_path / "a.npy", [InputSpec("x", "float32", (1, 3, 8, 6))])
    assert caught.value.hint == "the channels come last here but first in the model: transpose to NCHW"


def test_other_precisions_are_converted(tmp_path):
    np.save(tmp_path / "a.npy", RNG.standard_normal((3, 4)))
    np.save(tmp_path / "b.npy", RNG.standard_normal((3, 4)).astype(np.float16))
    assert {s["x"].dtype.name for s in open_calibration(tmp_path, [X])} == {"float32"}
    np.savez(tmp_path / "ids.npz", ids=np.arange(5, dtype=np.int32))
    (sample,) = open_calibration(tmp_path / "ids.npz", [IDS])
    assert sample["ids"].dtype == np.int64


def test_scalars_have_no_batch_axis(tmp_path):
    np.save(tmp_path / "a.npy", np.array([1.0, 2.0], np.float32))
    samples = list(open_calibration(tmp_path, [InputSpec("s", "float32", ())]))
    assert [s["s"].shape for s in samples] == [(), ()]


def test_files_are_mapped(tmp_path, monkeypatch):
    modes = []
    load = np.load
    monkeypatch.setattr(
        np, "load", lambda f, mmap_mode=None, **o: (modes.append((mmap_mode, o)), load(f, mmap_mode, **o))[1]
    )
    np.save(tmp_path / "a.npy", real(5, 3, 4))
    list(open_calibration(tmp_path / "a.npy", [X]))
    assert modes == [("r", {"allow_pickle": False})]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 5), np.float32), r"shape \[3, 5\] does not fit input 'x' \(float32\[1, 3, 4\]\)"),
        (np.zeros((0, 3, 4), np.float32), "holds no sample"),
        (np.zeros((3, 4), np.uint8), "elements are uint8, input 'x'"),
        (np.zeros((3, 4), np.complex64), "elements are complex64"),
        (np.full((3, 4), np.nan, np.float32), r"12 value\(s\) that are no finite numbers, the first is nan"),
        (np.full((3, 4), np.inf), "no finite numbers"),
        (np.full((3, 4), 1e300), "no finite numbers"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path, array, message):
    np.save(tmp_path / "bad.npy", array)
    with pytest.raises(CalibrationError, match=message) as caught:
        list(open_calibration(tmp_path, [X]))
    assert "bad.npy" in str(caught.value)


def test_integers_that_overflow(tmp_path):
    np.save(tmp_path / "a.npy", np.full(5, 2**40))
    with pytest.raises(CalibrationError, match="cannot hold the values"):
        list(open_calibration(tmp_path, [InputSpec("ids", "int32", (1, 5))]))


def test_objects_are_never_loaded(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    np.save(tmp_path / "a.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "b.npz", x=np.array([Evil()], dtype=object))
    for name in ("a.npy", "b.npz"):
        with pytest.raises(CalibrationError, match="Python objects, which are never loaded"):
            list(open_calibration(tmp_path / name, [X]))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
@pytest.mark.parametrize("content", [b"", b"plain text, no array at all", b"PK\x03\x04 broken", b"\x93NUMPY\x01\x00"])
def test_files_that_are_no_arrays(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CalibrationError, match=f"{name}' cannot be read") as caught:
        list(open_calibration(tmp_path, [X]))
    assert caught.value.hint


def test_truncated_files(tmp_path):
    np.save(tmp_path / "a.npy", real(9, 3, 4))
    np.savez_compressed(tmp_path / "b.npz", x=real(9, 3, 4))
    for name in ("a.npy", "b.npz"):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(CalibrationError, match=f"{name}' cannot be read"):
            list(open_calibration(path, [X]))


def test_damaged_archive_member(tmp_path):
    path = tmp_path / "b.npz"
    np.savez(path, x=real(9, 3, 4))
    data = bytearray(path.read_bytes())
    data[300] ^= 0xFF
    path.write_bytes(bytes(data))
    with pytest.raises(CalibrationError, match="cannot be read"):
        list(open_calibration(path, [X]))


def test_names_that_do_not_fit(tmp_path):
    np.savez(tmp_path / "a.npz", x=real(3, 4), idz=np.zeros(5, np.int64))
    with pytest.raises(CalibrationError, match="no input named 'idz'") as caught:
        open_calibration(tmp_path, [X, IDS])
    assert "ids" in caught.value.hint
    np.savez(tmp_path / "a.npz", x=real(3, 4))
    with pytest.raises(CalibrationError, match="input 'ids' is missing"):
        open_calibration(tmp_path, [X, IDS])
    (tmp_path / "a.npz").unlink()
    np.save(tmp_path / "x.npy", real(3, 4))
    with pytest.raises(CalibrationError, match="input 'ids' is missing"):
        open_calibration(tmp_path, [X, IDS])


def test_stacks_of_different_length(tmp_path):
    np.savez(tmp_path / "a.npz", x=real(4, 3, 4), ids=np.zeros((3, 5), np.int64))
    with pytest.raises(CalibrationError, match="different numbers of samples: 4 for 'x', 3 for 'ids'"):
        open_calibration(tmp_path, [X, IDS])


def test_an_archive_without_arrays(tmp_path):
    np.savez(tmp_path / "a.npz")
    with pytest.raises(CalibrationError, match="holds no array"):
        open_calibration(tmp_path, [X])
