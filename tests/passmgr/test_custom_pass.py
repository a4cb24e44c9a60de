"""The worked example is installed as a user would, outside this process, and runs in a pipeline."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from qcompile.passmgr import PassRegistry, list_passes

EXAMPLE = Path(__file__).parents[2] / "examples" / "custom_pass"

PROGRAM = """
import json, sys
from qcompile.passmgr import list_passes, parse_pipeline, print_pipeline
found = {p.name: p for p in list_passes()}
info = found["prune-weights"]
print(json.dumps({
    "origin": info.origin,
    "options": [[o.name, o.type, o.default] for o in info.options],
    "tolerance": info.tolerance,
    "text": print_pipeline(parse_pipeline("fold-batchnorm,prune-weights{threshold=0.05}")),
}))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Install the example into a directory of its own; return the environment to run with."""
    folder = tmp_path_factory.mktemp("installed")
    # Building leaves files in the source tree, so it happens in a copy.
    source = shutil.copytree(EXAMPLE, folder / "source")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    target = folder / "site"
    done = subprocess.run([*command, "--target", target, source], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {**os.environ, "PYTHONPATH": str(target)}


def test_it_is_found_by_its_entry_point(installed: dict[str, str]) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=installed, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "origin": "qcompile-prune",
        "options": [["threshold", "float", "0.01"]],
        "tolerance": "SQNR of at least 20 dB",
        "text": "fold-batchnorm,prune-weights{threshold=0.05}",
    }


def test_its_own_tests_pass(installed: dict[str, str]) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(EXAMPLE)]
    done = subprocess.run(
        [*command, str(EXAMPLE / "tests")], env=installed, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


def test_it_is_not_there_uninstalled() -> None:
    assert "prune-weights" not in [info.name for info in list_passes()]


def test_it_works_from_a_directory() -> None:
    registry = PassRegistry([EXAMPLE / "src" / "qcompile_prune"])
    assert registry.get("prune-weights")(threshold=0.5).name == "prune-weights"  # type: ignore[call-arg]
    assert registry.origin("prune-weights").endswith("prune_weights.py")
