"""Time the convolutions of MobileNetV2 or ResNet50 on this processor, layer by layer, one thread.

    python tests/bench/x86_kernels.py [--network resnet50] [--target x86-64-v3] [--float] [--layers 10]

Prints the best of some runs of each distinct layer with warm caches, so the sum is a lower bound of
the network's time.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "kernels" / "arm"))
sys.path.insert(0, str(Path(__file__).parents[1] / "kernels" / "x86"))

import arm_kernels
import conv_reference
import layers_x86
import native_runner

from qcompile import targets
from qcompile.kernels.conv_workload import ConvWorkload, dense
from qcompile.kernels.kernel import Kernel

STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))
"""(inner channels, repeats, stride) of ResNet50's stages, from its paper."""


def resnet50(size: int = 224) -> Iterator[ConvWorkload]:
    """Workloads of its convolutions; the classifier last."""
    yield ConvWorkload(1, size, size, 3, 64, (7, 7), (2, 2), pads=(3, 3, 3, 3))
    size, channels = size // 4, 64
    for inner, repeats, first_stride in STAGES:
        for i in range(repeats):
            stride = first_stride if i == 0 else 1
            yield ConvWorkload(1, size, size, channels, inner)
            yield ConvWorkload(1, size, size, inner, inner, (3, 3), (stride, stride), pads=(1, 1, 1, 1))
            if i == 0:
                yield ConvWorkload(1, size, size, channels, 4 * inner, (1, 1), (stride, stride))
            size, channels = size // stride, 4 * inner
            yield ConvWorkload(1, size, size, inner, channels, residual=True)
    yield dense(1, channels, 1000)


def mobilenet_v2() -> Iterator[ConvWorkload]:
    """Workloads of its convolutions."""
    yield from (work for _, work in arm_kernels.mobilenet_v2())


def seconds(library: native_runner.Library, kernel: Kernel, arguments: list[np.ndarray | None]) -> float:
    """Best time of one call."""
    held = [native_runner.Guarded(array, 0) if array is not None else None for array in arguments]
    scratch = native_runner.Guarded(np.zeros(kernel.scratch_bytes, np.uint8), 0)
    pointers = [ctypes.c_void_p(item.address if item else None) for item in held]
    pointers.append(ctypes.c_void_p(scratch.address))
    function, end = library.function(kernel), ctypes.c_int32(kernel.tiles)
    best = float("inf")
    for _ in range(30):
        start = time.perf_counter()
        function(*pointers, ctypes.c_int32(0), end)
        best = min(best, time.perf_counter() - start)
    return best


def main() -> None:
    """Parse, compile, time, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--network", choices=["mobilenet_v2", "resnet50"], default="mobilenet_v2")
    parser.add_argument("--target", default="x86-64-v4-vnni")
    parser.add_argument("--float", action="store_true", help="float32 instead of int8")
    parser.add_argument("--layers", type=int, default=10, help="how many of the slowest layers to print")
    options = parser.parse_args()
    target = targets.load(options.target)
    network = {"mobilenet_v2": mobilenet_v2, "resnet50": resnet50}[options.network]
    change = {"precision": "float32", "output": "float32"} if options.float else {}
    counts = Counter(replace(work, **change) for work in network())
    rng = np.random.default_rng(0)
    calls = {work: layers_x86.kernel_and_arguments(conv_reference.make_layer(work, rng), target) for work in counts}
    start = time.perf_counter()
    library = native_runner.Library([kernel for kernel, _ in calls.values()], target)
    print(f"{len(calls)} kernels compiled in {time.perf_counter() - start:.1f} s")
    times = {work: seconds(library, *call) for work, call in calls.items()}
    for work in sorted(counts, key=lambda work: -counts[work] * times[work])[: options.layers]:
        shape = f"{work.height}x{work.width}x{work.channels} -> {work.filters}, {work.kernel} / {work.strides}"
        rate = work.macs / times[work] / 1e9
        print(f"{counts[work]} x {times[work] * 1e6:8.1f} us {rate:7.1f} GMAC/s  {shape}, groups {work.groups}")
    total = sum(counts[work] * times[work] for work in counts)
    macs = sum(counts[work] * work.macs for work in counts)
    print(f"sum {total * 1e3:.2f} ms, {macs / total / 1e9:.1f} GMAC/s")


if __name__ == "__main__":
    main()
