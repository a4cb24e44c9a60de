"""Weights stored without zeros: small on disk, the same in memory."""

from __future__ import annotations

import ctypes
import dataclasses
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompile import bundle, runtime
from qcompile.bundle.squeeze import squeezed
from qcompile.ir.program import Program

Maker = Callable[..., Program]


def run_on(folder: Path, x: np.ndarray, *command: object) -> np.ndarray:
    """Run the example program on an input; returns the output's bytes as float32."""
    np.save(folder / "x.npy", x)
    words = [*command, folder / "x.npy", "--output", folder / "y.bin"]
    subprocess.run([str(word) for word in words], check=True, capture_output=True, timeout=120)
    return np.fromfile(folder / "y.bin", np.float32).reshape(x.shape)


def expanded(unit: int, stored: bytes, size: int) -> bytes:
    """Expand as the runtime does, in NumPy."""
    count = -(-size // unit)
    there = np.unpackbits(np.frombuffer(stored, np.uint8, -(-count // 8)), bitorder="little")[:count].astype(bool)
    units = np.zeros((count, unit), np.uint8)
    units[there] = np.frombuffer(stored, np.uint8, offset=-(-count // 8)).reshape(-1, unit)
    return units.tobytes()[:size]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    size=st.integers(0, 40_000),
    sparsity=st.sampled_from([0.0, 0.2, 0.5, 0.9, 1.0]),
    kind=st.sampled_from(["int8", "float32"]),
    seed=st.integers(0, 99),
)
def test_nothing_is_lost(size: int, sparsity: float, kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = -(-size // np.dtype(kind).itemsize)
    values = (rng.normal(size=count) * 50).astype(kind) * (rng.random(count) >= sparsity)
    weights = values.astype(kind).tobytes()[:size]
    unit, stored = squeezed(weights)
    if unit == 0:
        assert stored == weights
        return
    assert len(stored) <= 0.75 * len(weights)
    assert expanded(unit, stored, len(weights)) == weights


def test_few_zeros_are_not_worth_memory() -> None:
    dense = np.random.default_rng(1).normal(size=10_000).astype(np.float32)
    dense[:2000] = 0
    assert squeezed(dense.tobytes())[0] == 0
    assert squeezed(bytes(1000))[0] == 0


@pytest.fixture
def sparse(tiny_program: Maker) -> Callable[[str], Program]:
    """A function that makes the tiny program with many more weights that nobody reads."""

    def make(target: str) -> Program:
        program = tiny_program(target)
        more = np.random.default_rng(3).normal(size=60_000).astype(np.float32)
        more[np.random.default_rng(4).random(60_000) < 0.6] = 0
        return dataclasses.replace(program, weights=program.weights + more.tobytes())

    return make


@pytest.mark.parametrize("threads", [1, 3])
def test_program_answers_the_same(
    sparse: Callable[[str], Program], tmp_path: Path, tiny_input: np.ndarray, tiny_output: np.ndarray, threads: int
) -> None:
    program = sparse("host")
    made = bundle.write_bundle(program, tmp_path / "b")
    assert made["memory"]["weights"] == len(program.weights)
    assert made["memory"]["weights_stored"] < 0.5 * len(program.weights)
    assert made["files"]["libmodel.so"]["bytes"] < 0.7 * len(program.weights)
    result = run_on(tmp_path, tiny_input, tmp_path / "b/bin/qcrun", "--threads", threads)
    np.testing.assert_array_equal(result, tiny_output)


def test_verify_expands_what_is_stored(
    sparse: Callable[[str], Program], tmp_path: Path, tiny_input: np.ndarray, tiny_output: np.ndarray
) -> None:
    bundle.write_bundle(sparse("host"), tmp_path / "b")
    with runtime.load(tmp_path / "b") as session:
        np.testing.assert_array_equal(session.run({"x": tiny_input})["y"], tiny_output)
    library, damaged = tmp_path / "b/libmodel.so", tmp_path / "damaged.so"
    data = bytearray(library.read_bytes())
    data[data.index(squeezed(sparse("host").weights)[1][-4096:])] ^= 1
    damaged.write_bytes(data)
    verdicts = [ctypes.CDLL(str(path)).qc_tiny_net_1_0_verify() for path in (library, damaged)]
    assert verdicts == [0, 8]


@pytest.mark.arm
def test_program_answers_the_same_on_arm(
    sparse: Callable[[str], Program], tmp_path: Path, tiny_input: np.ndarray, tiny_output: np.ndarray
) -> None:
    emulator = shutil.which("qemu-aarch64")
    if emulator is None:
        pytest.skip("qemu-aarch64 is not installed (Debian: qemu-user)")
    path = tmp_path / "runner"
    path.write_bytes(bundle.build_executable(sparse("rpi4")))
    path.chmod(0o755)
    result = run_on(tmp_path, tiny_input, emulator, "-cpu", "cortex-a72", path)
    np.testing.assert_array_equal(result, tiny_output)
