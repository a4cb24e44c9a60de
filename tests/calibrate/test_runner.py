import numpy as np
import pytest

from qcompile.calibrate.minmax import MinMax
from qcompile.calibrate.moving_average import MovingAverage
from qcompile.calibrate.runner import calibrate
from qcompile.errors import CalibrationError, InternalError
from qcompile.ir.graph import Graph
from qcompile.ir.types import TensorType
from qcompile.ops import get
from qcompile.ops.interpreter import Interpreter


@pytest.fixture
def graph():
    graph = Graph()
    x = graph.add_input("x", TensorType("float32", (1, 4)))
    node = graph.add_node(get("relu"), [x], names=["y"])
    graph.set_outputs([node.output])
    return graph


def samples(count=5):
    return [{"x": np.random.default_rng(i).standard_normal((1, 4)).astype(np.float32)} for i in range(count)]


def test_inputs_and_results_are_observed(graph):
    observers = {"x": MinMax(), "y": MovingAverage(0.5)}
    found = calibrate(Interpreter(graph), samples(), observers)
    values = np.concatenate([s["x"] for s in samples()])
    assert list(found) == ["x", "y"]
    assert (found["x"].minimum, found["x"].maximum) == (values.min(), values.max())
    assert found["x"].count == values.size
    assert found["y"].minimum == 0.0
    assert found["y"].momentum == 0.5


def test_progress_is_told(graph):
    calls = []
    calibrate(Interpreter(graph), samples(3), {"y": MinMax()}, progress=lambda *c: calls.append(c))
    assert calls == [(0, 3), (1, 3), (2, 3), (3, 3)]
    calls.clear()
    calibrate(Interpreter(graph), iter(samples(2)), {"y": MinMax()}, progress=lambda *c: calls.append(c))
    assert calls == [(0, None), (1, None), (2, None)]


def test_no_sample(graph):
    with pytest.raises(CalibrationError, match="no calibration sample"):
        calibrate(Interpreter(graph), [], {"y": MinMax()})


def test_a_value_that_does_not_exist(graph):
    with pytest.raises(InternalError, match="saw no value for z"):
        calibrate(Interpreter(graph), samples(), {"z": MinMax()})


def test_nan_names_the_tensor(graph):
    bad = [*samples(1), {"x": np.full((1, 4), np.nan, np.float32)}]
    with pytest.raises(CalibrationError, match="output 'y' is NaN for calibration sample 2, tensor 'x' is"):
        calibrate(Interpreter(graph), bad, {"x": MinMax(), "y": MinMax()})


def test_an_interruption_passes_through(graph):
    def endless():
        yield samples(1)[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate(Interpreter(graph), endless(), {"y": MinMax()})
