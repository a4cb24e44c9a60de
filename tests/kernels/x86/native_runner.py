"""Runs compiled kernels in this process, with memory that faults where a kernel must not read."""

from __future__ import annotations

import ctypes
import mmap
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qcompile.kernels.build import build_objects
from qcompile.kernels.kernel import Kernel
from qcompile.targets import Target

PAGE = mmap.PAGESIZE
SLACK = 64
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class Guarded:
    """An array that ends, 64 readable bytes later, at a page nobody may touch."""

    def __init__(self, array: np.ndarray, noise: int) -> None:
        used = -(-(array.nbytes + SLACK) // 64) * 64
        pages = -(-used // PAGE)
        self._map = mmap.mmap(-1, (pages + 1) * PAGE)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        if _LIBC.mprotect(start + pages * PAGE, PAGE, 0):
            raise OSError(ctypes.get_errno(), "mprotect")
        offset = pages * PAGE - used
        self.address = start + offset
        view = np.frombuffer(self._map, np.uint8, used, offset)
        self.array = view[: array.nbytes].view(array.dtype).reshape(array.shape)
        self.array[...] = array
        self._slack = view[array.nbytes :]
        self._slack[:] = noise
        self._noise = noise

    def untouched(self) -> bool:
        """Whether the bytes past the array still hold what was put there."""
        return bool((self._slack == self._noise).all())


class Library:
    """Kernels linked into a shared library and loaded."""

    def __init__(self, kernels: Iterable[Kernel], target: Target) -> None:
        with tempfile.TemporaryDirectory() as name:
            object_file, library = Path(name) / "k.o", Path(name) / "k.so"
            object_file.write_bytes(build_objects(kernels, target))
            command = ["gcc", "-shared", "-nostdlib", "-Wl,-z,defs", "-o", str(library), str(object_file)]
            subprocess.run(command, check=True, capture_output=True)
            self._library = ctypes.CDLL(str(library))

    def function(self, kernel: Kernel) -> Any:
        """The C function of a kernel."""
        return getattr(self._library, kernel.name)

    def run(
        self,
        kernel: Kernel,
        arguments: Sequence[np.ndarray | None],
        output: int = 6,
        ranges: Sequence[tuple[int, int]] | None = None,
        noise: int = 0x5A,
        in_place: int | None = None,
    ) -> np.ndarray:
        """Call a kernel over its tiles (or the given ranges); returns the output array.

        ``in_place`` is the position of an operand which the output overwrites.
        """
        held = [None if array is None else Guarded(array, noise) for array in arguments]
        held += [None] * (8 - len(held))
        if in_place is not None:
            held[output] = held[in_place]
        scratch = Guarded(np.full(kernel.scratch_bytes, noise, np.uint8), noise)
        pointers = [ctypes.c_void_p(item.address if item else None) for item in held]
        function = self.function(kernel)
        for begin, end in ranges if ranges is not None else [(0, kernel.tiles)]:
            status = function(*pointers, ctypes.c_void_p(scratch.address), ctypes.c_int32(begin), ctypes.c_int32(end))
            assert status == 0
        assert scratch.untouched(), "the kernel wrote past its scratch"
        for item, array in zip(held, arguments, strict=False):
            if item is not None and array is not None:
                assert item.untouched(), "the kernel wrote past a tensor"
        result = held[output]
        assert result is not None
        return result.array.copy()
