"""Executed AArch64 instructions of MobileNetV2's layers, one image of 224 x 224, one thread.

    python tests/bench/arm_kernels.py --plugin COUNTER.so [--target rpi4 --target rpi5] [--precision float32] [--layers]

COUNTER.so is a qemu-user plugin that prints, at each getppid() call of the guest, a line
``mark N insns TOTAL (delta COUNT)``.  Counts are exact and repeatable; they are not time.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "kernels" / "arm"))

import aarch64_runner
import conv_reference
import layers as arm_layers

from qcompile import targets
from qcompile.kernels.conv_workload import ConvWorkload

INVERTED_RESIDUALS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""(expansion, channels, repeats, stride) of MobileNetV2's stages, from its paper."""


def mobilenet_v2(size: int = 224) -> Iterator[tuple[str, ConvWorkload]]:
    """Names and workloads of its convolutions; the classifier last."""
    size //= 2
    yield "first 3x3", ConvWorkload(1, 2 * size, 2 * size, 3, 32, (3, 3), (2, 2), pads=(0, 0, 1, 1))
    channels = 32
    for expansion, filters, repeats, first_stride in INVERTED_RESIDUALS:
        for i in range(repeats):
            stride, hidden = (first_stride if i == 0 else 1), channels * expansion
            if expansion > 1:
                yield "expand", ConvWorkload(1, size, size, channels, hidden)
            pads = (1, 1, 1, 1) if stride == 1 else (0, 0, 1, 1)
            yield (
                "depthwise",
                ConvWorkload(1, size, size, hidden, hidden, (3, 3), (stride, stride), pads=pads, groups=hidden),
            )
            size //= stride
            yield "project", ConvWorkload(1, size, size, hidden, filters, residual=stride == 1 and i > 0)
            channels = filters
    yield "last 1x1", ConvWorkload(1, size, size, channels, 1280)
    yield "classifier", ConvWorkload(1, 1, 1, 1280, 1000)


def in_float(work: ConvWorkload) -> ConvWorkload:
    """The float32 form of a layer: a clamp where there is no residual add."""
    activation = "none" if work.residual else "clip"
    return replace(work, precision="float32", output="float32", activation=activation)


def measure(name: str, precision: str, plugin: Path, per_layer: bool) -> None:
    """Print the counts of one target."""
    target, rng = targets.load(name), np.random.default_rng(0)
    network = list(mobilenet_v2())
    if precision == "float32":
        network = [(kind, in_float(work)) for kind, work in network]
    layers = [conv_reference.make_layer(work, rng) for _, work in network]
    cases = [arm_layers.case(layer, target, [(0, None)]) for layer in layers]
    counts = aarch64_runner.count(target, cases, plugin)
    totals: dict[str, list[int]] = {}
    for (kind, work), executed in zip(network, counts, strict=True):
        if per_layer:
            shape = f"{work.out_height}x{work.out_width} {work.channels}->{work.filters}"
            print(f"  {kind:10} {shape:20} {_cost(work.macs, executed)}")
        for key in (kind, "total"):
            total = totals.setdefault(key, [0, 0])
            total[0] += work.macs
            total[1] += executed
    print(f"{name} ({target.cpu}), {precision}")
    totals["total"] = totals.pop("total")
    for kind, (macs, executed) in totals.items():
        print(f"  {kind:10} {_cost(macs, executed)}")


def _cost(macs: int, executed: int) -> str:
    return f"{macs / 1e6:8.2f} MMAC {executed / 1e6:8.3f} M instructions {executed / macs:7.3f} per MAC"


def main() -> None:
    """Parse the command line and print a table for each target."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plugin", type=Path, required=True, help="qemu-user instruction counter")
    parser.add_argument("--target", action="append", help="default: rpi4 and rpi5")
    parser.add_argument("--precision", choices=["int8", "float32"], default="int8")
    parser.add_argument("--layers", action="store_true", help="print every layer")
    arguments = parser.parse_args()
    for name in arguments.target or ["rpi4", "rpi5"]:
        measure(name, arguments.precision, arguments.plugin, arguments.layers)


if __name__ == "__main__":
    main()
