"""Compiles the kernels of a program: each once, on several threads, into few object files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from qcompile.errors import InternalError
from qcompile.kernels.build import build_objects
from qcompile.kernels.kernel import Kernel
from qcompile.progress import Progress
from qcompile.targets import Target

_PER_OBJECT = 8
"""Kernels in one object file: few enough that the threads end together, many enough to share its constants."""


def compile_kernels(
    kernels: Sequence[Kernel],
    target: Target,
    *,
    jobs: int = 2,
    progress: Progress | None = None,
) -> tuple[bytes, ...]:
    """Compile kernels to object files.

    Args:
        kernels: any order; equal names mean equal code.
        target: machine to compile for.
        jobs: threads; LLVM runs outside of Python's lock. The result does not depend on it.
        progress: called with (kernels done, kernels, "compiling kernels").

    Raises:
        InternalError: LLVM refuses a kernel; the message names it.
    """
    unique = sorted({kernel.name: kernel for kernel in kernels}.values(), key=lambda k: k.name)
    groups = [unique[n : n + _PER_OBJECT] for n in range(0, len(unique), _PER_OBJECT)]
    objects = []
    done = 0
    pool = ThreadPoolExecutor(max_workers=max(1, jobs))
    try:
        results = pool.map(lambda group: _compile(group, target), groups)
        for group, result in zip(groups, results, strict=True):
            objects.append(result)
            done += len(group)
            if progress is not None:
                progress(done, len(unique), "compiling kernels")
    finally:
        # After Ctrl-C or an error, what has not begun is not begun any more.
        pool.shutdown(cancel_futures=True)
    return tuple(objects)


def _compile(group: Sequence[Kernel], target: Target) -> bytes:
    try:
        return build_objects(group, target)
    except Exception as error:
        names = ", ".join(kernel.name for kernel in group)
        reason = re.sub(r"\s+", " ", str(error).strip().splitlines()[-1] if str(error).strip() else repr(error))
        raise InternalError(f"LLVM refuses one of the kernels {names} for {target.name}: {reason}") from error
