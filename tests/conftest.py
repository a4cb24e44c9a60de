"""Fixtures that several rooms share: a model of two steps, whose kernels are C."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from qcompile import targets
from qcompile.ir.program import BufferRef, Program, Step, TensorInfo
from qcompile.parallel import one_blas_thread
from qcompile.targets import Target

# Whoever runs the tests may have tuned: their own records must not decide what is compiled here.
os.environ["XDG_DATA_HOME"] = str(Path(__file__).parent / "no-such-folder")

ELEMENTS = 1000
TILE = 16

KERNELS = r"""
#include <stdint.h>
#define UNUSED(p) (void)(p)
#define EIGHT uint8_t *a, uint8_t *b, uint8_t *c, uint8_t *d, uint8_t *e, uint8_t *f, uint8_t *g, uint8_t *h
#define REST UNUSED(d), UNUSED(e), UNUSED(f), UNUSED(g), UNUSED(h)

/* c[i] = a[i] * b[i mod 16], by way of the scratch memory; fails if any buffer is not aligned */
int32_t k_scale(EIGHT, uint8_t *scratch, int32_t begin, int32_t end) {
    float *mine = (float *)scratch;
    REST;
    if (((uintptr_t)a | (uintptr_t)b | (uintptr_t)c | (uintptr_t)scratch) & 63) return 1;
    for (int32_t i = begin * 16; i < end * 16 && i < 1000; i++) {
        mine[i & 15] = ((float *)a)[i] * ((float *)b)[i & 15];
        ((float *)c)[i] = mine[i & 15];
    }
    return 0;
}

/* b[i] = a[i] + 1 */
int32_t k_increment(EIGHT, uint8_t *scratch, int32_t begin, int32_t end) {
    UNUSED(c), REST, UNUSED(scratch);
    for (int32_t i = begin * 16; i < end * 16 && i < 1000; i++) ((float *)b)[i] = ((float *)a)[i] + 1;
    return 0;
}

/* reports a failure for the tile 7 */
int32_t k_fail(EIGHT, uint8_t *scratch, int32_t begin, int32_t end) {
    UNUSED(a), UNUSED(b), UNUSED(c), REST, UNUSED(scratch);
    return begin <= 7 && 7 < end;
}
"""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite the expected texts of tests/passes/golden")


@pytest.fixture(scope="session", autouse=True)
def _one_blas_thread() -> Iterator[None]:
    """Tests run side by side: what calls passes without the driver must not fill all cores by itself."""
    with one_blas_thread():
        yield


@cache
def compiled_kernels(triple: str, folder: Path) -> bytes:
    (folder / "kernels.c").write_text(KERNELS)
    command = [sys.executable, "-m", "ziglang", "cc", "-target", triple, "-mcpu=baseline", "-O2", "-fPIC", "-Wall",
               "-c", "kernels.c", "-o", "kernels.o"]  # fmt: skip
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return (folder / "kernels.o").read_bytes()


def tiny_steps() -> tuple[Step, ...]:
    tiles = -(-ELEMENTS // TILE)
    scale = (BufferRef("input", 0), BufferRef("weights", 64), BufferRef("arena", 128))
    increment = (BufferRef("arena", 128), BufferRef("output", 0))
    return (
        Step("k_scale", scale, tiles, 4, "Mul_0", "mul", "float32", ELEMENTS, 8 * ELEMENTS),
        Step("k_increment", increment, tiles, 1, 'a "hard" name: */ \\ ??/ \n ö', "add", "float32", 0, 8 * ELEMENTS),
    )


@pytest.fixture(scope="session")
def tiny_program(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str | Target], Program]:
    """Return a function that makes, for a target, the program y = x · (0, 1, ..., 15, 0, ...) + 1."""
    folder = tmp_path_factory.mktemp("kernels")

    def make(target: str | Target) -> Program:
        machine = targets.load(target) if isinstance(target, str) else target
        weights = bytes(64) + struct.pack("<16f", *range(16))
        return Program(
            name="tiny-net 1.0",
            inputs=(TensorInfo("x", "float32", (1, ELEMENTS)),),
            outputs=(TensorInfo("y", "float32", (1, ELEMENTS)),),
            steps=tiny_steps(),
            arena_bytes=128 + 4 * ELEMENTS,
            scratch_bytes=64,
            weights=weights,
            objects=(compiled_kernels(machine.triple, folder),),
            target=machine,
        )

    return make


@pytest.fixture(scope="session")
def tiny_kernels() -> str:
    """The C source of the tiny program's kernels, to be compiled with instrumentation."""
    return KERNELS


@pytest.fixture(scope="session")
def tiny_input() -> np.ndarray:
    return np.random.default_rng(7).normal(size=(1, ELEMENTS)).astype(np.float32)


@pytest.fixture(scope="session")
def tiny_output(tiny_input: np.ndarray) -> np.ndarray:
    """What the program must return, bit for bit."""
    factors = (np.arange(ELEMENTS) % TILE).astype(np.float32)
    return tiny_input * factors + np.float32(1)


@pytest.fixture(scope="session")
def qemu_aarch64() -> str:
    """The emulator; a machine without it cannot run this test, and says so."""
    path = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    if path is None:
        pytest.skip("qemu-aarch64 is not installed (Debian: apt-get install qemu-user)")
    return path
