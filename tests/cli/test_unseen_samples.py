"""What calibration has not seen tells how accurate a network is."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from small_classifier import Cli, samples

from qcompile.assessment import analyze

LIMIT, GIVEN = 8, 72


@pytest.fixture
def uneven(tmp_path: Path) -> Path:
    """A stack of which every ninth sample calibrates, and the others reach twenty times as far."""
    stack = np.concatenate(samples(GIVEN))
    far = np.arange(GIVEN) % (GIVEN // LIMIT) > 0
    stack[far] *= 20
    np.save(tmp_path / "samples.npy", stack)
    return tmp_path / "samples.npy"


def test_the_accuracy_is_that_of_samples_beyond_the_limit(cli: Cli, model: Path, uneven: Path, tmp_path: Path) -> None:
    result = cli(model, "--int8", "--calib", uneven, "--samples", LIMIT, "-o", tmp_path / "bundle")
    assert result.code == 0
    found = re.search(r"accuracy  SQNR (-?\d+\.\d) dB at the output against float, (\d+) samples that", result.out)
    assert found is not None
    assert float(found[1]) < 10.0
    assert int(found[2]) == GIVEN - LIMIT
    accuracy = json.loads((tmp_path / "bundle" / "manifest.json").read_text())["recipe"]["accuracy"]
    assert accuracy["unseen"] is True
    assert "64 samples that calibration did not see" in (tmp_path / "bundle" / "report.html").read_text()


def test_so_is_what_analysis_says(model: Path, uneven: Path) -> None:
    found = [analyze(model, settings={"calib": str(uneven), "samples": limit}).outputs for limit in (LIMIT, GIVEN)]
    assert found[0]["logits"] < 10.0 < 20.0 < found[1]["logits"]
