"""Runs a Program for another architecture: all its memory goes to an emulated player and comes back."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from qcompile.ir.program import MAX_ARGS, Program

PLAYER = Path(__file__).parent / "step_player.c"
QEMU_CPU = {"rpi3": "cortex-a53", "rpi4": "cortex-a72", "rpi5": "cortex-a76", "graviton2": "neoverse-n1",
            "graviton3": "max"}  # fmt: skip


def emulator() -> str | None:
    """Return the path of qemu-aarch64, or None."""
    return shutil.which("qemu-aarch64")


class _Layout:
    """Where the program's memory lies in the player's one block."""

    def __init__(self, program: Program, inputs: dict[str, np.ndarray]) -> None:
        self.data = bytearray()
        self.inputs = [self._put(np.asarray(inputs[i.name], i.dtype).tobytes()) for i in program.inputs]
        self.outputs = [self._put(bytes(np.empty(o.shape, o.dtype).nbytes)) for o in program.outputs]
        states = [inputs[s.tensor.name].astype(s.tensor.dtype) for s in program.states]
        self.states = [self._put(state.tobytes()) for state in states]
        following = [
            -1 if s.in_place else self._put(bytes(a.nbytes)) for s, a in zip(program.states, states, strict=True)
        ]
        self.next = [at if new < 0 else new for at, new in zip(self.states, following, strict=True)]
        self.weights = self._put(program.weights)
        self.arena = self._put(b"\xa5" * program.arena_bytes)
        self.scratch = self._put(bytes(program.scratch_bytes + 64))

    def _put(self, data: bytes) -> int:
        at = len(self.data)
        self.data += data + bytes(64) + bytes(-(len(data)) % 64)
        return at

    def address(self, ref) -> int:
        spaces = {"input": self.inputs, "output": self.outputs, "state": self.states, "next": self.next}
        if ref.space in spaces:
            return spaces[ref.space][ref.offset]
        bases = {"arena": self.arena, "weights": self.weights}
        return -1 if ref.space == "none" else bases[ref.space] + ref.offset


def run_emulated(program: Program, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Run a program for an ARM target under its core's emulation, which refuses instructions it lacks.

    Kept tensors are given like inputs; what the next run would find is not returned.
    """
    layout = _Layout(program, inputs)
    memory, _ = _play(program, layout, [], [])
    found = {}
    for at, info in zip(layout.outputs, program.outputs, strict=True):
        count = int(np.prod(info.shape))
        found[info.name] = np.frombuffer(memory, info.dtype, count, at).reshape(info.shape)
    return found


def count_instructions(program: Program, inputs: dict[str, np.ndarray], plugin: Path) -> list[int]:
    """Executed instructions of every step, by a qemu plugin that prints ``delta N`` at each getppid()."""
    options = ["-plugin", str(plugin), "-d", "plugin", "-D", "log"]
    _, log = _play(program, _Layout(program, inputs), options, ["count"])
    deltas = [int(delta) for delta in re.findall(r"^mark \d+ .*\(delta (\d+)\)", log, re.M)]
    if len(deltas) != 2 * len(program.steps):
        raise RuntimeError(f"the plugin printed {len(deltas)} marks for {len(program.steps)} steps")
    return deltas[1::2]


def _play(program: Program, layout: _Layout, options: list[str], words: list[str]) -> tuple[bytes, str]:
    """Return the memory after the run, and what the emulator logged."""
    names = sorted({step.kernel for step in program.steps})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _compile(program, names, folder)
        (folder / "program").write_bytes(_encode(program, names, layout))
        command = [str(emulator()), "-cpu", QEMU_CPU[program.target.name], *options, "player", "program", "results"]
        command += words
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, f"the player ended with {done.returncode}: {done.stderr}"
        log = folder / "log"
        return (folder / "results").read_bytes(), log.read_text() if log.exists() else ""


def _encode(program: Program, names: list[str], layout: _Layout) -> bytes:
    head = struct.pack("<qq", len(layout.data), len(program.steps))
    steps = bytearray()
    loops = {loop.last: (loop.trips, loop.first, layout.address(loop.condition)) for loop in program.loops}
    for number, step in enumerate(program.steps):
        places = [layout.address(ref) for ref in step.args]
        places += [-1] * (MAX_ARGS - len(places)) + [layout.scratch]
        steps += struct.pack("<14q", names.index(step.kernel), step.tiles, *places, *loops.get(number, (1, 0, -1)))
    return head + bytes(layout.data) + bytes(steps)


def _compile(program: Program, names: list[str], folder: Path) -> None:
    pointers = ", ".join(["uint8_t *"] * 9)
    table = [f"typedef int32_t kernel_function({pointers}, int32_t, int32_t);"]
    table += [f"kernel_function {name};" for name in names]
    table.append(f"static kernel_function *const kernels[] = {{{', '.join(names)}}};")
    (folder / "kernel_table.h").write_text("\n".join(["#include <stdint.h>", *table, ""]))
    objects = []
    for number, data in enumerate(program.objects):
        objects.append(f"{number}.o")
        (folder / objects[-1]).write_bytes(data)
    command = [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-musl", "-static", "-O1"]
    # With a relative path zig's cache can take another test's table, whose folder is gone, for this one's.
    command += [f"-I{folder}", "-o", "player", str(PLAYER), *objects, "-lm"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
