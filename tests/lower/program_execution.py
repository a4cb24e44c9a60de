"""Runs a Program in this process: links its objects and calls the kernels through ctypes on NumPy memory."""

from __future__ import annotations

import ctypes
import itertools
import platform
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from qcompile.ir.program import MAX_ARGS, Program
from qcompile.targets import Target, load

_GUARD = 64
_X86 = {"avx512_vnni": "x86-64-v4-vnni", "avx2": "x86-64-v3", "portable": "x86-64"}
_ARM = {"neon_dotprod": "rpi5", "neon": "rpi4", "portable": "aarch64"}
_NEEDS = {
    "avx512_vnni": {"avx512_vnni", "avx512bw", "avx512vl", "avx512dq"},
    "avx2": {"avx2", "fma"},
    "neon_dotprod": {"asimddp"},
}
_TARGETS = _X86 if platform.machine() == "x86_64" else _ARM

INSTRUCTION_SETS = list(_TARGETS)
"""What machines of this architecture may have."""


def machine(isa: str) -> Target | None:
    """Return a target of an instruction set, or None where this machine cannot run it."""
    flags = set(Path("/proc/cpuinfo").read_text().split())
    if not _NEEDS.get(isa, set()) <= flags:
        return None
    return replace(load(_TARGETS[isa]), isa=isa)


class Executable:
    """A linked program.

    Args:
        program: for this machine.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        with tempfile.TemporaryDirectory() as folder:
            library = _link(program, Path(folder))
            self._library = ctypes.CDLL(str(library))
        self.arena, self._arena = _aligned(program.arena_bytes)
        self.scratch, self._scratch = _aligned(program.scratch_bytes)
        self.weights, self._weights = _aligned(len(program.weights))
        self.weights[: len(program.weights)] = np.frombuffer(program.weights, np.uint8)

    def run(self, inputs: dict[str, np.ndarray], pieces: int = 1) -> dict[str, np.ndarray]:
        """Run every step; each is cut into `pieces` ranges of tiles.

        Kept tensors are given like inputs; what the next run would find is not returned.
        """
        program = self.program
        given = [_copy(np.asarray(inputs[info.name], info.dtype)) for info in program.inputs]
        kept = [_copy(np.asarray(inputs[state.tensor.name], state.tensor.dtype)) for state in program.states]
        states = zip(program.states, kept, strict=True)
        following = [memory if state.in_place else _aligned(memory.size)[0] for state, (memory, _) in states]
        outputs = [_guarded(np.empty(info.shape, info.dtype).nbytes) for info in program.outputs]
        self.arena[:] = 0xA5
        for step in self._course():
            places = {"input": [m.ctypes.data for m, _ in given], "output": [m.ctypes.data for m in outputs]}
            places |= {"state": [m.ctypes.data for m, _ in kept], "next": [m.ctypes.data for m in following]}
            pointers = [self._pointer(ref, places) for ref in step.args]
            pointers += [None] * (MAX_ARGS - len(pointers))
            function = getattr(self._library, step.kernel)
            cuts = sorted({round(step.tiles * n / pieces) for n in range(pieces + 1)})
            for begin, end in itertools.pairwise(cuts):
                arguments = [ctypes.c_void_p(p) for p in [*pointers, self.scratch.ctypes.data]]
                assert function(*arguments, ctypes.c_int32(begin), ctypes.c_int32(end)) == 0
        for memory in outputs:
            assert (memory[memory.size - _GUARD :] == 0xC3).all(), "a kernel wrote past an output"
        return {
            info.name: memory[: memory.size - _GUARD].view(info.dtype).reshape(info.shape).copy()
            for info, memory in zip(program.outputs, outputs, strict=True)
        }

    def _course(self):
        """Yield the steps as they run, those of loops again and again; conditions lie in the arena."""
        program, at, trips = self.program, 0, 0
        loops = {loop.last: loop for loop in program.loops}
        while at < len(program.steps):
            yield program.steps[at]
            loop, at = loops.get(at), at + 1
            if loop is None:
                continue
            trips += 1
            assert loop.condition.space in ("none", "arena")
            if trips < loop.trips and (loop.condition.space == "none" or self.arena[loop.condition.offset]):
                at = loop.first
            else:
                trips = 0

    def _pointer(self, ref, places):
        if ref.space == "none":
            return None
        if ref.space in places:
            return places[ref.space][ref.offset]
        memory = self.arena if ref.space == "arena" else self.weights
        return memory.ctypes.data + ref.offset


def _link(program: Program, folder: Path) -> Path:
    names = []
    for number, data in enumerate(program.objects):
        path = folder / f"{number}.o"
        path.write_bytes(data)
        names.append(str(path))
    library = folder / "kernels.so"
    command = [sys.executable, "-m", "ziglang", "ld.lld", "-shared", "-o", str(library), *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return library


def _aligned(size: int):
    """Return a view of `size` bytes (and slack) at a multiple of 64, and its owner."""
    owner = np.zeros(size + 256, np.uint8)
    start = -owner.ctypes.data % 64
    return owner[start : start + size + 64], owner


def _copy(array: np.ndarray):
    memory, owner = _aligned(array.nbytes)
    memory[: array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return memory, owner


def _guarded(size: int) -> np.ndarray:
    memory, _ = _aligned(size)
    memory = memory[: size + _GUARD]
    memory[:] = 0xC3
    return memory
