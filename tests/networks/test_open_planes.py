"""Random models of images with open height and width: one graph for all sizes computes what a graph of each does.

There are half as many as `QCOMPILE_OPEN_GRAPHS` says (60; nightly runs take 2,000).
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from open_planes import CHANNELS, STEPS, Planes, planes
from open_poison import INTEGERS, Feed, compare, compare_code, compare_poisoned, many, opened, poisoned

from qcompile import pipelines
from qcompile.errors import UnsupportedOpError
from qcompile.ir.graph import Graph
from qcompile.onnx_import import import_onnx
from qcompile.onnx_import.bounds import import_bounded
from qcompile.ops.interpreter import Interpreter

COUNT = int(os.environ.get("QCOMPILE_OPEN_GRAPHS", "60")) // 2
SHAPE = [1, CHANNELS, "H:4..10:2", "W:4..8:2"]
SIZES = st.tuples(st.sampled_from([4, 6, 8, 10]), st.sampled_from([4, 6, 8]))


def at_sizes(*sizes: tuple[int, int]) -> list[Feed]:
    rng = np.random.default_rng(7)
    return [{"x": rng.normal(0, 1, (1, CHANNELS, *size)).astype(np.float32)} for size in sizes]


def made(model: Any, wanted: str) -> tuple[Graph, Graph] | None:
    return opened(model, SHAPE, at_sizes((10, 8), (4, 4), (6, 8)), wanted)


def check(model: Any, sizes: tuple[int, int], final: Graph, bounded: Graph) -> None:
    (given,) = at_sizes(sizes)
    with np.errstate(all="ignore"):
        expected = Interpreter(import_onnx(model, {"x": (1, CHANNELS, *sizes)})).run(given)
        compare(Interpreter(final).run(given), expected)
        compare(poisoned(bounded, given), expected, 1e-3)


def regrouped(back: str) -> Any:
    """Return a model whose rows and columns at half the size are as many, at most, as its tokens at a quarter."""
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[1, 6, H, W] x) => (float[1, 6, A, B] y, float[1, 6, T] few) {
      two = Constant<value = int64[1] {2}>()  flat = Constant<value = int64[3] {1, 6, -1}>()
      one = Constant<value = int64[2] {1, 6}>()
      s = AveragePool<kernel_shape = [4, 4], strides = [4, 4]>(x)  few = Reshape(s, flat)
      p = AveragePool<kernel_shape = [2, 2], strides = [2, 2]>(x)  t = Reshape(p, flat)  r = Relu(t)
      h0 = Shape<start = 2, end = 3>(x)  h = Div(h0, two)  w0 = Shape<start = 3>(x)  w = Div(w0, two)
      shape = Concat<axis = 0>(one, BACK)  b = Reshape(r, shape)
      y = MaxPool<kernel_shape = [2, 1], strides = [1, 1]>(b)
    }"""
    return onnx.parser.parse_model(text.replace("BACK", back))


def test_rows_are_told_from_as_many_tokens() -> None:
    model, shape = regrouped("h, w"), [1, CHANNELS, "H:4..8:4", "W:4..8:4"]
    found = opened(model, shape, at_sizes((8, 8), (4, 4), (4, 8)), pipelines.FINISH_FLOAT)
    assert found is not None
    for sizes in ((4, 4), (4, 8), (8, 4), (8, 8)):
        check(model, sizes, *found)


def test_what_is_not_told_is_refused() -> None:
    with pytest.raises(UnsupportedOpError, match="cannot be kept"):
        import_bounded(regrouped("w, h"), {"x": [1, CHANNELS, "H:4..8:4", "W:4..8:4"]})


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.__name__)
def test_every_step_is_served(step: Any) -> None:
    @many(3)
    @given(data=st.data())
    def run(data: Any) -> None:
        sketch = Planes(data.draw, [("x", ("image",))])
        step(sketch)
        model = sketch.model()
        found = made(model, pipelines.FINISH_FLOAT)
        assert found is not None
        for sizes in ((4, 4), (10, 4), (6, 8), (8, 6)):
            check(model, sizes, *found)

    run()


@many(COUNT)
@given(model=planes(), sizes=SIZES)
def test_float(model: Any, sizes: tuple[int, int]) -> None:
    found = made(model, pipelines.FINISH_FLOAT)
    if found is not None:
        check(model, sizes, *found)


@many(COUNT)
@given(model=planes(), sizes=SIZES)
def test_integers(model: Any, sizes: tuple[int, int]) -> None:
    found = made(model, INTEGERS)
    if found is not None:
        # Means of float parts are summed in another order: what is rounded behind them may be a step away.
        compare_poisoned(found, *at_sizes(sizes), tolerance=0.05)


@many(max(3, COUNT // 20))
@given(model=planes())
def test_code(model: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    found = made(model, pipelines.FINISH_FLOAT)
    if found is not None:
        inputs = at_sizes((10, 8), (4, 4), (6, 8), (10, 4), (10, 8))
        compare_code(found, inputs, tmp_path_factory.mktemp("planes"), 1e-3)
