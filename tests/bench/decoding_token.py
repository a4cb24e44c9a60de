"""Writes single tokens of a decoder, a bundle or a .onnx file, behind sequences of any length.

    python decoding_token.py BUNDLE_OR_MODEL PLACES ...

It calls getppid() before and after the token behind each length, for an instruction counter, and needs NumPy alone for
a bundle, ONNX Runtime for a model.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

TOKEN = np.array([[5]], np.int64)


def open_decoder(path: Path, places: Sequence[int]) -> Callable[[int], object]:
    """Return what writes one token so that the sequence has a number of places after it."""
    return _of_model(path, places) if path.suffix == ".onnx" else _of_bundle(path)


def weight_bytes(path: Path) -> int:
    """Return the bytes of weights of a bundle, or of a model's file."""
    if path.suffix == ".onnx":
        return path.stat().st_size
    return int(json.loads((path / "manifest.json").read_text())["memory"]["weights"])


def _of_bundle(path: Path) -> Callable[[int], object]:
    spec = importlib.util.spec_from_file_location("bundle_run", path / "run.py")
    assert spec is not None
    assert spec.loader is not None
    run = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(run)
    session, generator = run.load(path, threads=1), np.random.default_rng(0)
    for tensor in session.states:
        if tensor.name != "cache_length":
            session.set_state(tensor.name, _noise(generator, tensor.shape, tensor.dtype))

    def step(count: int) -> object:
        session.set_state("cache_length", np.array([count - 1]))
        return session.run({"input_ids": TOKEN})

    return step


def _of_model(path: Path, places: Sequence[int]) -> Callable[[int], object]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    outputs = [output.name for output in session.get_outputs()]
    feeds = {count: _feeds(session, count) for count in places}
    given = {
        count: {name: onnxruntime.OrtValue.ortvalue_from_numpy(array) for name, array in arrays.items()}
        for count, arrays in feeds.items()
    }
    return lambda count: session.run_with_ort_values(outputs, given[count])


def _feeds(session: Any, count: int) -> dict[str, np.ndarray]:
    """Return a token behind a past that is one place shorter than the sequence will be."""
    generator = np.random.default_rng(0)
    feeds = {"input_ids": TOKEN, "attention_mask": np.ones((1, count), np.int64), "position_ids": TOKEN * 0 + count - 1}
    for value in session.get_inputs():
        if value.name.startswith("past"):
            feeds[value.name] = _noise(generator, (1, value.shape[1], count - 1, value.shape[3]), "float32")
    return feeds


def _noise(generator: np.random.Generator, shape: Sequence[int], dtype: str) -> np.ndarray:
    if dtype == "int8":
        return generator.integers(-127, 128, shape).astype(dtype)
    return np.abs(generator.standard_normal(shape, np.float32) * 0.1).astype(dtype)


def main() -> None:
    """Write one token behind each length twice, and count the second."""
    places = [int(text) for text in sys.argv[2:]]
    step = open_decoder(Path(sys.argv[1]), places)
    for count in places:
        step(count)
        os.getppid()
        step(count)
        os.getppid()


if __name__ == "__main__":
    main()
