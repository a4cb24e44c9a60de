"""A small classifier on disk, its calibration data, and the command line in this process."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))

from small_classifier import Cli, Result, classifier, samples

from qcompile.cli import run_command


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Return a function that runs the command line in this process."""

    def run(*arguments: object) -> Result:
        capsys.readouterr()
        code = run_command([str(word) for word in arguments])
        out, err = capsys.readouterr()
        return Result(code, out, err)

    return run


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The classifier's file; nothing else is in its folder."""
    path = tmp_path_factory.mktemp("model") / "small.onnx"
    onnx.save(classifier(), path)
    return path


@pytest.fixture(scope="session")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of .npy samples."""
    folder = tmp_path_factory.mktemp("calibration")
    for index, sample in enumerate(samples()):
        np.save(folder / f"{index}.npy", sample)
    return folder


@pytest.fixture(scope="session")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small photograph."""
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    pixels = np.random.default_rng(1).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="session")
def bundle(model: Path, calibration: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The classifier in int8 for this machine."""
    path = tmp_path_factory.mktemp("bundle") / "small"
    words = [model, "--int8", "--calib", calibration, "-o", path, "--quiet"]
    assert run_command([str(word) for word in words]) == 0
    return path
