"""The same inputs give the same bytes, wherever they lie and whatever the machine does meanwhile."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from small_classifier import Cli, classifier

from qcompile.bundle import read_manifest


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("precision", ["--int8", "--fp32"])
def test_bundles_are_equal_byte_by_byte(model: Path, calibration: Path, tmp_path: Path, precision: str) -> None:
    """Compile in two places, with absolute and relative paths, another hash seed and another number of threads."""
    results = []
    for number, jobs in (("1", 1), ("2", 3)):
        place = tmp_path / number / ("deeper" * int(number))
        place.mkdir(parents=True)
        shutil.copy(model, place / "small.onnx")
        shutil.copytree(calibration, place / "data")
        where = place if number == "1" else tmp_path
        relative = [os.path.relpath(place / name, where) for name in ("small.onnx", "data", f"bundle{number}")]
        paths = [str(place / "small.onnx"), str(place / "data"), str(place / "bundle1")] if number == "1" else relative
        words = [paths[0], precision, "--calib", paths[1], "-o", paths[2], "--jobs", str(jobs), "--quiet"]
        environment = {**os.environ, "PYTHONHASHSEED": number}
        subprocess.run([sys.executable, "-m", "qcompile.cli", *words], cwd=where, env=environment, check=True)
        results.append(contents(place / f"bundle{number}"))
    assert results[0].keys() == results[1].keys()
    for name in results[0]:
        assert results[0][name] == results[1][name], name
    for content in results[0].values():
        assert str(tmp_path).encode() not in content, "a path of this machine got into the bundle"


def test_without_data_too(cli: Cli, model: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert cli(model, "--int8", "--seed", 5, "-o", tmp_path / name).code == 0
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_the_samples_matter(cli: Cli, model: Path, calibration: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(calibration, tmp_path / calibration.name))
    np.save(other / "0.npy", 3 * np.load(other / "0.npy"))
    digests = []
    for source, name in ((calibration, "a"), (other, "b")):
        assert cli(model, "--calib", source, "-o", tmp_path / name).code == 0
        digests.append(contents(tmp_path / name)["manifest.json"])
    assert digests[0] != digests[1]


def test_weights_in_side_files_are_part_of_the_model(cli: Cli, tmp_path: Path) -> None:
    found = []
    for name, factor in (("a", 1.0), ("b", 2.0)):
        (tmp_path / name).mkdir()
        model = classifier()
        weight = model.graph.initializer[0]
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(factor), weight.name))
        path = tmp_path / name / "m.onnx"
        onnx.save(model, path, save_as_external_data=True, location="m.data", size_threshold=0)
        assert cli(path, "--fp32", "-o", tmp_path / name / "out").code == 0
        found.append(read_manifest(tmp_path / name / "out")["model"])
    assert found[0]["sha256"] == found[1]["sha256"]
    assert found[0]["external"]["m.data"]["bytes"] > 800
    assert found[0]["external"] != found[1]["external"]


def test_compiling_again_replaces_the_old_bundle(cli: Cli, model: Path, tmp_path: Path) -> None:
    words = (model, "--fp32", "-o", tmp_path / "b")
    assert cli(*words).code == 0
    first = contents(tmp_path / "b")
    (tmp_path / "b/mine.txt").write_text("kept")
    assert cli(*words).code == 0
    assert contents(tmp_path / "b") == {**first, "mine.txt": b"kept"}
