"""Samples of a network with states: each starts from what the one before left, however far earlier passes went."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import onnx.parser
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcompile import driver
from qcompile.calibrate.calibration_set import CalibrationSet
from qcompile.calibrate.reader import LEAD, spaced_runs

COUNT = 6


@pytest.mark.parametrize("remembered", [2**28, 0, 3 * 4])
def test_passes_agree(remembered: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qcompile.calibrate.sequence._BYTES", remembered)
    head = '<ir_version: 8, opset_import: ["" : 18]> g (float[1, 1] x, float[1, 1] s) '
    model = f"{head} => (float[1, 1] y, float[1, 1] s_next) {{ s_next = Add(x, s)  y = Relu(s_next) }}"
    onnx.save(onnx.parser.parse_model(model), tmp_path / "m.onnx")
    config = driver.resolve_config(tmp_path / "m.onnx", None, {"state": ("auto",)})
    ones = [{"x": np.ones((1, 1), np.float32)} for _ in range(COUNT)]
    _, samples, graph = driver.prepare(tmp_path / "m.onnx", config, ones, None)
    assert [state.input for state in graph.states] == ["s"]
    assert samples is not None
    for length in (3, 1, COUNT, 4, COUNT):
        assert [float(sample["s"][0, 0]) for sample in islice(samples, length)] == list(range(length))


def _prepared(tmp_path: Path, stream: np.ndarray, **settings: object) -> CalibrationSet:
    """Return the set of a network that keeps its input for the next run, from a stack of inputs."""
    head = '<ir_version: 8, opset_import: ["" : 18]> g (float[1, 1] x, float[1, 1] s) '
    model = f"{head} => (float[1, 1] y, float[1, 1] s_next) {{ y = Sub(x, s)  s_next = Identity(x) }}"
    onnx.save(onnx.parser.parse_model(model), tmp_path / "m.onnx")
    np.save(tmp_path / "x.npy", stream)
    config = driver.resolve_config(
        tmp_path / "m.onnx", None, {"state": ("auto",), "calib": str(tmp_path / "x.npy"), **settings}
    )
    _, samples, _ = driver.prepare(tmp_path / "m.onnx", config, None, None)
    assert samples is not None
    return samples


def test_a_long_stream_is_not_read_with_jumps(tmp_path: Path) -> None:
    samples = _prepared(tmp_path, np.arange(1000, dtype=np.float32).reshape(1000, 1), samples=64)
    assert samples.notes == ("64 of 1000 samples, in evenly spaced runs of one after the other",)
    assert samples.size == 64
    for _ in range(2):
        seen = [(float(sample["x"][0, 0]), float(sample["s"][0, 0])) for sample in samples]
        assert len(seen) == samples.count == 64
        # What is kept is the one before, as in the stream itself; only the first has none.
        assert [x - s for x, s in seen[1:]] == [1.0] * 63
        assert (seen[0][0], seen[-1][0]) == (0.0, 999.0)
    assert samples.summary is not None
    assert samples.summary.different == 64


def test_a_short_stream_is_read_whole(tmp_path: Path) -> None:
    samples = _prepared(tmp_path, np.arange(20, dtype=np.float32).reshape(20, 1), samples=64)
    assert samples.notes == ()
    assert [float(sample["x"][0, 0]) for sample in samples] == list(range(20))


@given(total=st.integers(1, 400), limit=st.integers(1, 200))
def test_runs_have_as_many_samples_as_wanted_and_do_not_overlap(total: int, limit: int) -> None:
    chosen, leading = spaced_runs(total, limit)
    assert chosen == sorted(set(chosen))
    assert chosen[0] == 0
    assert chosen[-1] < total
    assert len(chosen) - len(leading) == min(total, limit)
    # Behind a jump nothing is taken before as many have led there.
    jumps = [place for place in range(1, len(chosen)) if chosen[place] != chosen[place - 1] + 1]
    assert all({*range(place, place + LEAD)} <= leading for place in jumps)
