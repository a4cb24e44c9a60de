"""The C runtime, through the example program: on this machine and on emulated ones."""

from __future__ import annotations

import dataclasses
import platform
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from qcompile import bundle
from qcompile.ir.program import Program, TensorInfo

Maker = Callable[..., Program]


@pytest.fixture(scope="module")
def native(tiny_program: Maker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle for this machine."""
    folder = tmp_path_factory.mktemp("native") / "b"
    bundle.write_bundle(tiny_program("host"), folder)
    return folder


@pytest.fixture(scope="module")
def arm(tiny_program: Maker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example program with the model inside, for the Raspberry Pi 5."""
    return executable(tiny_program("rpi5"), tmp_path_factory.mktemp("arm"))


def executable(program: Program, folder: Path) -> Path:
    path = folder / "runner"
    path.write_bytes(bundle.build_executable(program))
    path.chmod(0o755)
    return path


def run(*command: object, code: int = 0) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stderr + done.stdout
    return done.stdout + done.stderr


def run_on(folder: Path, x: np.ndarray, *command: object) -> np.ndarray:
    """Run the example program on an input; returns the output's bytes as float32."""
    np.save(folder / "x.npy", x)
    run(*command, folder / "x.npy", "--output", folder / "y.bin")
    return np.fromfile(folder / "y.bin", np.float32).reshape(x.shape)


@pytest.mark.parametrize("threads", [0, 1, 2, 3, 4, 64])
def test_threads_do_not_change_a_bit(
    native: Path, tmp_path: Path, tiny_input: np.ndarray, tiny_output: np.ndarray, threads: int
) -> None:
    result = run_on(tmp_path, tiny_input, native / "bin/qcrun", "--threads", threads)
    np.testing.assert_array_equal(result, tiny_output)


@pytest.mark.arm
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_aarch64_gives_the_same_bits(
    qemu_aarch64: str, arm: Path, tmp_path: Path, tiny_input: np.ndarray, tiny_output: np.ndarray, threads: int
) -> None:
    command = (qemu_aarch64, "-cpu", "cortex-a76", arm, "--threads", threads)
    np.testing.assert_array_equal(run_on(tmp_path, tiny_input, *command), tiny_output)


@pytest.mark.arm
def test_aarch64_without_the_dot_product_is_refused(qemu_aarch64: str, arm: Path) -> None:
    text = run(qemu_aarch64, "-cpu", "cortex-a53", arm, "--bench", 1, code=1)
    assert "error: this processor lacks 'atomics', which target 'rpi5' needs" in text


def test_x86_without_avx2_is_refused(tiny_program: Maker, tmp_path: Path) -> None:
    emulator = shutil.which("qemu-x86_64")
    if emulator is None or platform.machine() != "x86_64":
        pytest.skip("needs an x86-64 system with qemu-x86_64 (Debian: apt-get install qemu-user)")
    bundle.write_bundle(tiny_program("x86-64-v3"), tmp_path / "b")
    runner = tmp_path / "b/bin/qcrun"
    assert "lacks 'movbe'" in run(emulator, "-cpu", "Nehalem", runner, "--bench", 1, code=1)
    assert "lacks 'avx2'" in run(emulator, "-cpu", "Haswell,avx2=off", runner, "--bench", 1, code=1)
    assert "median" in run(emulator, "-cpu", "Haswell", runner, "--bench", 1)


def test_raw_input_and_top(native: Path, tmp_path: Path, tiny_input: np.ndarray, tiny_output: np.ndarray) -> None:
    tiny_input.tofile(tmp_path / "x.bin")
    lines = run(native / "bin/qcrun", tmp_path / "x.bin", "--top", 3).splitlines()
    best = np.argsort(-tiny_output[0])[:3]
    assert lines[0] == "y:"
    assert [int(line.split()[0]) for line in lines[1:]] == best.tolist()
    assert [float(line.split()[1]) for line in lines[1:]] == pytest.approx(tiny_output[0][best].tolist(), rel=1e-5)


def test_bench_and_profile(native: Path) -> None:
    ballast = np.ones(64 << 20, np.uint8)  # the peak is the program's own, not that of the process that starts it
    text = run(native / "bin/qcrun", "--bench", 20)
    assert ballast.all()
    assert "20 runs, peak memory" in text
    assert 0.5 < float(text.split("peak memory")[1].split()[0]) < 32
    text = run(native / "bin/qcrun", "--profile")
    assert "mul          float32  Mul_0" in text
    assert 'a "hard" name: */ \\ ??/ \n ö' in text


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((1, 999), np.float32), "shape or order differs"),
        (np.zeros((1000, 1), np.float32), "shape or order differs"),
        (np.zeros((1, 1000, 1), np.float32), "shape or order differs"),
        (np.zeros(1000, np.float32), "shape or order differs"),
        (np.zeros((1, 1000), np.float64), "element type"),
        (np.zeros((1, 1000), ">f4"), "element type"),
    ],
)
def test_wrong_npy(native: Path, tmp_path: Path, array: np.ndarray, message: str) -> None:
    np.save(tmp_path / "x.npy", array)
    text = run(native / "bin/qcrun", tmp_path / "x.npy", code=2)
    assert message in text
    assert "hint: input 'x' has 4000 bytes, f4 [1,1000]" in text


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "too short"), (b"x" * 3999, "too short"), (b"x" * 4001, "too long"),
     (b"\x93NUMPY\x01\0\xff\xff{", "damaged")],
)  # fmt: skip
def test_wrong_raw_file(native: Path, tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.bin").write_bytes(content)
    assert message in run(native / "bin/qcrun", tmp_path / "x.bin", code=2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "error: 0 input file(s) given, the model has 1 input(s)"),
        (["a", "b"], "error: 2 input file(s) given, the model has 1 input(s)"),
        (["--bench"], "error: --bench takes a whole number from 0 to 1000000, not ''"),
        (["--bench", "many"], "error: --bench takes a whole number from 0 to 1000000, not 'many'"),
        (["--threads", "-1", "x"], "error: --threads takes a whole number from 0 to 1000000, not '-1'"),
        (["--frobnicate"], "error: --frobnicate: no such option"),
        (["--size", "S=5", "x"], "error: S=5: NAME=N is expected, with the name of an open extent of this model"),
        (["x", "--output"], "error: --output: the name of a file is missing"),
    ],
)
def test_wrong_command_lines(native: Path, words: list[str], message: str) -> None:
    text = run(native / "bin/qcrun", *words, code=2)
    assert message in text
    assert "hint: " in text or "input 'x' has 4000 bytes, f4 [1,1000]" in text


def test_help_is_no_error(native: Path) -> None:
    text = run(native / "bin/qcrun", "--help")
    assert text.startswith("usage:")
    assert "input 'x' has 4000 bytes, f4 [1,1000]" in text
    assert "1 run, peak memory" in run(native / "bin/qcrun", "--bench", 1)


def test_files_and_threads_that_do_not_serve(native: Path, tmp_path: Path, tiny_input: np.ndarray) -> None:
    assert "cannot be opened" in run(native / "bin/qcrun", tmp_path / "absent.npy", code=2)
    assert "threads is not within 0 and 64" in run(native / "bin/qcrun", "--bench", 1, "--threads", 65, code=1)
    np.save(tmp_path / "x.npy", tiny_input[None])
    words = ("--sequence", tmp_path / "x.npy", "--output", "/dev/full")
    assert "error: cannot write /dev/full" in run(native / "bin/qcrun", *words, code=1)


def test_the_documented_command_compiles_the_example(native: Path, tmp_path: Path, tiny_input: np.ndarray) -> None:
    if shutil.which("gcc") is None or platform.machine() != "x86_64":
        pytest.skip("needs gcc on x86-64")
    folder = tmp_path / "b"
    shutil.copytree(native, folder)
    line = "-O2 -I. example/main.c -L. -lmodel -Wl,-rpath,'$ORIGIN/..' -o example/main"
    assert f"cc {line}\n" in (folder / "example/main.c").read_text()
    strict = "-Wall -Wextra -Werror -pedantic -std=c11"
    subprocess.run(f"gcc {strict} {line}", shell=True, cwd=folder, check=True)
    np.save(tmp_path / "x.npy", tiny_input)
    assert run(folder / "example/main", tmp_path / "x.npy").startswith("y:")


INTERFACE = r"""
#define _POSIX_C_SOURCE 200809L
#include <assert.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include "model.h"
#define N 1000
#define FN(name) qc_tiny_net_1_0_##name

static float input[N + 1], wanted[N];

static void check_run(qc_model *model, int offset) {
    float *x = malloc(4 * N + 128), *y = malloc(4 * N + 128);
    memcpy(x + offset, input, 4 * N);
    const void *in[] = {x + offset};
    void *out[] = {y + offset};
    assert(FN(run)(model, in, out) == QC_OK);
    assert(memcmp(y + offset, wanted, 4 * N) == 0);
    free(x), free(y);
}

static void *hammer(void *argument) {
    for (int i = 0; i < 300; i++) check_run(argument, i % 3);
    return NULL;
}

static void check_arguments(void) {
    char message[64] = "";
    qc_options options = {QC_ABI_VERSION, 65, message, sizeof message};
    qc_model *model = (qc_model *)1;
    assert(FN(create)(&options, &model) == QC_ERR_ARGUMENT && model == NULL && strstr(message, "threads"));
    options.message_bytes = 5;
    assert(FN(create)(&options, &model) == QC_ERR_ARGUMENT && strcmp(message, "thre") == 0);
    options.abi_version = 99;
    assert(FN(create)(&options, &model) == QC_ERR_ABI);
    assert(FN(create)(NULL, NULL) == QC_ERR_ARGUMENT);
    const void *in[] = {NULL};
    void *out[] = {NULL};
    assert(FN(run)(NULL, in, out) == QC_ERR_ARGUMENT);
    assert(FN(create)(NULL, &model) == QC_OK);
    assert(FN(run)(model, in, out) == QC_ERR_ARGUMENT);
    in[0] = input;
    assert(FN(run)(model, in, out) == QC_ERR_ARGUMENT);
    assert(FN(profile)(model, in, out, NULL) == QC_ERR_ARGUMENT);
    FN(destroy)(model);
    FN(destroy)(NULL);
}

static void check_fork(void) {
    qc_options options = QC_OPTIONS_INIT;
    options.threads = 2;
    qc_model *model;
    int state;
    assert(FN(create)(&options, &model) == QC_OK);
    if (fork() == 0) {
        const void *in[] = {input};
        void *out[] = {wanted};
        qc_status status = FN(run)(model, in, out);
        FN(destroy)(model);
        _exit(status == QC_ERR_THREAD ? 0 : 1);
    }
    wait(&state);
    assert(state == 0);
    check_run(model, 0);
    FN(destroy)(model);
}

int main(void) {
    const qc_info *info = FN(describe)();
    pthread_t threads[4];
    qc_model *models[4];
    assert(info->abi_version == QC_ABI_VERSION && FN(abi_version)() == QC_ABI_VERSION);
    assert(info->n_inputs == 1 && info->n_outputs == 1 && info->n_steps == 2);
    assert(info->inputs[0].rank == 2 && info->inputs[0].shape[1] == N && info->inputs[0].bytes == 4 * N);
    assert(info->outputs[0].dtype == QC_FLOAT32 && !info->outputs[0].quantized);
    assert(FN(verify)() == QC_OK);
    assert(strstr(FN(status_string)(QC_ERR_ISA), "processor"));
    assert(strstr(FN(status_string)((qc_status)77), "not a status"));
    for (int i = 0; i < N; i++) input[i] = (float)(i * 37 % 101) / 7, wanted[i] = input[i] * (float)(i % 16) + 1;
    check_arguments();
    for (int i = 0; i < 4; i++) {
        qc_options options = QC_OPTIONS_INIT;
        options.threads = i + 1;
        assert(FN(create)(&options, &models[i]) == QC_OK);
        assert(pthread_create(&threads[i], NULL, hammer, models[i]) == 0);
    }
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL), FN(destroy)(models[i]);
    check_fork();
    puts("fine");
    return 0;
}
"""


@pytest.mark.parametrize("sanitizer", [None, "address,undefined", "thread"])
def test_the_c_interface(tiny_program: Maker, tiny_kernels: str, tmp_path: Path, sanitizer: str | None) -> None:
    """All functions, four handles at once, misaligned tensors, a fork; also with the sanitizers of gcc."""
    from qcompile.bundle import source

    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    for name, data in source.sources(tiny_program("host")).items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "test.c").write_text(INTERFACE)
    (tmp_path / "kernels.c").write_text(tiny_kernels)
    flags = ["-std=c11", "-g", "-O1", "-pthread", *([f"-fsanitize={sanitizer}"] if sanitizer else [])]
    if sanitizer == "address,undefined":
        flags.append("-fno-sanitize-recover=all")
    files = ["test.c", "model.c", "qc_cpu.c", "qc_model.c", "qc_pool.c", "qc_sizes.c", "weights.S", "kernels.c"]
    build = subprocess.run(["gcc", *flags, *files, "-o", "test"], cwd=tmp_path, capture_output=True, text=True)
    if sanitizer and ("cannot find" in build.stderr or "No such file" in build.stderr):
        pytest.skip(f"gcc has no runtime for -fsanitize={sanitizer}")
    assert build.returncode == 0, build.stderr
    done = subprocess.run([tmp_path / "test"], capture_output=True, text=True, timeout=120)
    if "unexpected memory mapping" in done.stderr:
        pytest.skip("this gcc's thread sanitizer does not know this kernel's address space layout")
    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", "")


def test_a_failing_kernel_is_reported(tiny_program: Maker, tmp_path: Path) -> None:
    program = tiny_program("host")
    failing = dataclasses.replace(program.steps[1], kernel="k_fail", tiles=16)
    bundle.write_bundle(dataclasses.replace(program, steps=(program.steps[0], failing)), tmp_path / "b")
    for threads in (1, 4):
        text = run(tmp_path / "b/bin/qcrun", "--bench", 1, "--threads", threads, code=1)
        assert "error: a kernel reported a failure" in text


def test_damaged_weights_are_found_by_verify(native: Path, tmp_path: Path) -> None:
    import ctypes

    content = (native / "libmodel.so").read_bytes()
    weights = np.arange(16, dtype="<f4").tobytes()
    damaged = tmp_path / "damaged.so"
    damaged.write_bytes(content.replace(weights, b"\1" + weights[1:]))
    verdicts = [ctypes.CDLL(str(path)).qc_tiny_net_1_0_verify() for path in (native / "libmodel.so", damaged)]
    assert verdicts == [0, 8]


def test_quantized_and_odd_tensors_keep_their_description(tiny_program: Maker, tmp_path: Path) -> None:
    from qcompile import runtime

    odd = (TensorInfo("s", "int64", ()), TensorInfo("e", "uint8", (0, 3)), TensorInfo("q", "int8", (2,), 0.1, -3))
    program = tiny_program("host")
    bundle.write_bundle(dataclasses.replace(program, inputs=(*program.inputs, *odd)), tmp_path / "b")
    with runtime.load(tmp_path / "b") as session:
        found = session.inputs[1:]
        assert [(t.name, t.dtype, t.shape, t.zero_point) for t in found] == [
            ("s", "int64", (), None), ("e", "uint8", (0, 3), None), ("q", "int8", (2,), -3),
        ]  # fmt: skip
        assert found[2].scale == np.float32(0.1)
        session.run(session.zeros())
