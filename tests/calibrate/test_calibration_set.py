import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qcompile import ops
from qcompile.calibrate.calibration_set import open_calibration, readers, usual_count
from qcompile.calibrate.preprocess import Preprocess
from qcompile.calibrate.sample import InputSpec, check_sample, graph_inputs
from qcompile.config import CompileConfig
from qcompile.driver import _samples
from qcompile.errors import CalibrationError, UsageError
from qcompile.ir.graph import Graph
from qcompile.ir.parser import parse_graph
from qcompile.ir.types import TensorType

X = InputSpec("x", "float32", (1, 2))
MASK = InputSpec("mask", "bool", (1, 2))


def test_the_listing_finds_all():
    assert set(readers()) == {"image-folder", "arrays", "python-function", "in-memory"}


def test_lists_can_be_read_twice():
    samples = open_calibration([{"x": np.ones((1, 2), np.float32)}, np.zeros(2)], [X])
    assert samples.size == 2
    assert [s["x"].sum() for s in samples] == [2, 0]
    assert len(list(samples)) == 2


def test_a_pass_knows_its_length():
    assert iter(open_calibration([np.zeros(2), np.ones(2)], [X])).size == 2
    assert iter(open_calibration((x for x in [np.zeros(2)]), [X])).size is None


def test_generators_can_be_read_once():
    samples = open_calibration((np.full(2, i, np.float32) for i in range(3)), [X], limit=2)
    assert samples.size is None
    assert len(list(samples)) == 2
    assert samples.digest()
    with pytest.raises(CalibrationError, match="used up") as caught:
        list(samples)
    assert "list" in caught.value.hint


def test_the_digest_covers_order_and_values():
    a, b = np.zeros(2, np.float32), np.ones(2, np.float32)
    digests = {open_calibration(list(s), [X]).digest() for s in ([a, b], [b, a], [a], [a, b, b])}
    assert len(digests) == 4
    assert open_calibration([a, b], [X]).digest() == open_calibration((x for x in [a, b]), [X]).digest()


def test_inputs_of_a_graph():
    graph = Graph()
    graph.add_input("x", TensorType("float32", (1, 2)))
    assert graph_inputs(graph) == (X,)


@pytest.mark.parametrize("given", [5, b"bytes", {"x": np.zeros(2)}])
def test_what_is_no_iterable_of_samples(given):
    with pytest.raises(UsageError, match="not an iterable of samples"):
        open_calibration(given, [X])


def test_no_sample_at_all():
    with pytest.raises(CalibrationError, match="gives no calibration sample"):
        list(open_calibration([], [X]))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "input 'x' is missing"),
        ({"x": np.zeros(2), "y": 1}, "no input named 'y'"),
        ({"x": np.zeros(2, np.int8), "mask": np.ones(2, bool)}, "elements are int8"),
        ({"x": "text", "mask": np.ones(2, bool)}, "is str, not an array of numbers"),
        ({"x": [[1, 2], [3]], "mask": np.ones(2, bool)}, "no array|not an array"),
        ({"x": np.zeros(2), "mask": np.zeros(2)}, "elements are float64, input 'mask'"),
        (np.zeros(2), "one ndarray for a model with 2 inputs"),
    ],
)
def test_samples_that_do_not_fit(given, message):
    with pytest.raises(CalibrationError, match=message):
        check_sample(given, [X, MASK], "here")


@pytest.mark.parametrize(
    ("shape", "wanted", "hint"),
    [
        ((4, 3), (1, 3), "samples of batch 1"),
        ((1, 8, 9, 3), (1, 3, 8, 9), "transpose to NCHW"),
        ((1, 3, 8, 9), (1, 8, 9, 3), "transpose to NHWC"),
        ((7,), (1, 3), "--input-shape"),
    ],
)
def test_hints_about_shapes(shape, wanted, hint):
    with pytest.raises(CalibrationError, match="does not fit") as caught:
        check_sample(np.zeros(shape, np.float32), [InputSpec("x", "float32", wanted)], "here")
    assert hint in caught.value.hint


def test_paths_that_lead_nowhere(tmp_path):
    with pytest.raises(CalibrationError, match="does not exist"):
        open_calibration(tmp_path / "none", [X])
    with pytest.raises(CalibrationError, match=r"folder '.*' is empty"):
        open_calibration(tmp_path, [X])
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(CalibrationError, match=r"holds no image or array, only \.txt"):
        open_calibration(tmp_path, [X])
    with pytest.raises(CalibrationError, match="neither an image nor an array"):
        open_calibration(tmp_path / "notes.txt", [X])


def test_folders_with_both_kinds(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(2))
    Image.new("RGB", (4, 4)).save(tmp_path / "b.png")
    with pytest.raises(CalibrationError, match="fits several readers: arrays and image-folder"):
        open_calibration(tmp_path, [X])


def test_integer_inputs_are_bounded_by_the_table_they_select_from():
    graph = Graph()
    ids = graph.add_input("ids", TensorType("int64", (1, 5)))
    mask = graph.add_input("mask", TensorType("int64", (1, 5)))
    table = graph.add_constant("table", np.zeros((30, 4), np.float32))
    gather = ops.get("gather")
    rows = graph.add_node(gather, [table, ids], gather.Attrs(axis=0))
    graph.set_outputs([rows.output, mask])
    assert [spec.bound for spec in graph_inputs(graph)] == [30, None]


def test_reading_samples_loads_neither_pillow_nor_a_compiler():
    code = (
        "import sys, qcompile.calibrate.calibration_set, qcompile.calibrate.runner\n"
        "print(sorted({'PIL', 'onnx', 'tvm', 'networkx'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def dense(rows: int, columns: int) -> Graph:
    text = f"""
    graph "layer" {{
      input %x : f32[1,{columns}]
      const @w : f32[{rows},{columns}] = normal(1)
      const @b : f32[{rows}] = normal(2)
      %y = dense(%x, @w, @b) : f32[1,{rows}]
      output "y" = %y
    }}"""
    return parse_graph(text, ops.all_ops())


@pytest.mark.parametrize(("rows", "columns", "count"), [(4, 8, 512), (1000, 1000, 200), (2000, 2000, 64)])
def test_tiny_networks_take_more_samples(rows: int, columns: int, count: int):
    assert usual_count(dense(rows, columns)) == count
    assert usual_count(dense(rows, columns), count // 8) <= count


def test_the_count_that_the_user_gives_holds(tmp_path: Path):
    given = [np.full((1, 8), i, np.float32) for i in range(600)]
    graph = dense(4, 8)
    for samples, count in ((None, 512), (20, 20)):
        found = _samples(graph, CompileConfig(samples=samples), given, Preprocess())
        assert found is not None
        assert len(list(found)) == count


def test_indices_beyond_their_table_are_refused():
    ids = InputSpec("ids", "int64", (1, 3), bound=30)
    assert check_sample(np.array([[29, 0, -30]]), [ids], "here")["ids"].tolist() == [[29, 0, -30]]
    for wrong in (30, -31):
        with pytest.raises(CalibrationError, match=f"is {wrong}, but indexes a table of 30 rows") as caught:
            check_sample(np.array([[1, wrong, 2]]), [ids], "here")
        assert "vocabulary" in caught.value.hint
