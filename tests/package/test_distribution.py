"""The package as users get it: a wheel, installed outside of the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel and unpack it into an empty directory; from a copy, as other processes may build theirs."""
    wheels, site, source = (tmp_path_factory.mktemp(name) for name in ("wheels", "site", "source"))
    for folder in ("qcompile", "passes", "targets"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / file, source)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "--wheel-dir", str(wheels), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = wheels.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return site


def python(site: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run Python elsewhere, with only the unpacked wheel in front of the installed packages."""
    environment = {**os.environ, "PYTHONPATH": str(site)}
    return subprocess.run([sys.executable, "-c", code], cwd=site, env=environment, capture_output=True, text=True)


def test_wheel_works_outside_the_checkout(site: Path) -> None:
    code = (
        "import qcompile, qcompile.targets, qcompile.passes\n"
        "from qcompile.passmgr import PassRegistry\n"
        "from qcompile import ops\n"
        "print(qcompile.__file__, len(qcompile.targets.names()), len(PassRegistry().names()), len(ops.all_ops()))"
    )
    done = python(site, code)
    assert done.returncode == 0, done.stderr
    location, targets, passes, operations = done.stdout.split()
    assert location.startswith(str(site))
    assert int(targets) >= 7
    assert int(passes) >= 12
    assert int(operations) >= 40


def test_wheel_holds_the_data_files(site: Path) -> None:
    present = {str(p.relative_to(site)) for p in site.rglob("*") if p.is_file()}
    for wanted in ("qcompile/targets/rpi4.yaml", "qcompile/bundle/csrc/qc_model.c", "qcompile/report/report.html.j2",
                   "qcompile/bundle/manifest.schema.json", "qcompile/py.typed"):  # fmt: skip
        assert wanted in present


@pytest.mark.parametrize("name", ["passes", "targets", "kernels"])
def test_inner_packages_are_not_top_level(site: Path, name: str) -> None:
    done = python(site, f"import {name}")
    assert "ModuleNotFoundError" in done.stderr


@pytest.mark.parametrize("arguments", [["-c", "import qcompile"], ["-m", "qcompile.cli", "--help"]])
def test_import_and_help_are_quick(site: Path, arguments: list[str]) -> None:
    loaded = python(site, "import sys, qcompile, qcompile.cli; print(*sys.modules)").stdout.split()
    assert not {"tvm", "onnx", "networkx", "numpy"} & set(loaded)
    best = 10.0
    for _ in range(3):
        start = time.perf_counter()
        environment = {**os.environ, "PYTHONPATH": str(site)}
        subprocess.run([sys.executable, *arguments], cwd=site, env=environment, check=True, capture_output=True)
        best = min(best, time.perf_counter() - start)
    print(f"{' '.join(arguments)}: {best:.3f} s")


def test_types(site: Path) -> None:
    settings = ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(site.parent / "mypy_cache")]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *settings, "-p", "qcompile"], cwd=site, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-4000:]


@pytest.mark.parametrize("rule", [["check"], ["format", "--check"]])
def test_style(rule: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "ruff", *rule, "."], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:]
