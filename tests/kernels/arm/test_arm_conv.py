"""Convolutions on the emulated cores, bit for bit against NumPy."""

from __future__ import annotations

from dataclasses import replace

import aarch64_runner
import conv_reference
import layers as arm_layers
import numpy as np
import pytest

from qcompile.quant.scaled import SCALED
from qcompile.targets import Target

pytestmark = pytest.mark.arm


def check(layers: list[conv_reference.Layer], target: Target, rng: np.random.Generator) -> None:
    """Run all layers in one process and compare."""
    results = aarch64_runner.run(target, [arm_layers.split_at_random(rng, layer, target) for layer in layers])
    for layer, (result,) in zip(layers, results, strict=True):
        wanted = conv_reference.among_others(conv_reference.expected(layer), layer.work.out_pitch, 0)
        conv_reference.compare(layer, result, wanted)


@pytest.mark.usefixtures("qemu")
def test_every_geometry(machine: Target) -> None:
    rng = np.random.default_rng(1)
    check([conv_reference.make_layer(work, rng) for work in conv_reference.SHAPES], machine, rng)


@pytest.mark.usefixtures("qemu")
def test_pixels_among_other_channels(machine: Target) -> None:
    rng = np.random.default_rng(5)
    check([conv_reference.make_layer(work, rng) for work in conv_reference.PITCHED], machine, rng)


@pytest.mark.usefixtures("qemu")
def test_random_layers_with_random_epilogues(machine: Target) -> None:
    rng = np.random.default_rng([2, *machine.name.encode()])  # other layers on each machine
    works = [conv_reference.epilogues(conv_reference.random_workload(rng), rng) for _ in range(20)]
    check([conv_reference.make_layer(work, rng) for work in works], machine, rng)


@pytest.mark.usefixtures("qemu")
def test_depthwise_with_every_epilogue(machine: Target) -> None:
    rng = np.random.default_rng(3)
    works = [
        *conv_reference.DEPTHWISE,
        *(conv_reference.epilogues(w, rng) for w in conv_reference.DEPTHWISE * 2),
    ]
    check([conv_reference.make_layer(work, rng) for work in works], machine, rng)


@pytest.mark.usefixtures("qemu")
def test_activations_of_scaled_sums(machine: Target) -> None:
    rng = np.random.default_rng(5)
    shapes = [*conv_reference.SHAPES[::4], *conv_reference.DEPTHWISE[::3]]
    works = [replace(work, activation=name, full_range=i % 2 == 0) for name in SCALED for i, work in enumerate(shapes)]
    works += [replace(work, activation=name, output="float32") for name in SCALED for work in shapes[:1]]
    check([conv_reference.make_layer(work, rng) for work in works], machine, rng)


@pytest.mark.usefixtures("qemu")
def test_large_layers_cut_into_many_items(machine: Target) -> None:
    rng = np.random.default_rng([4, *machine.name.encode()])
    check([conv_reference.make_layer(work, rng) for work in conv_reference.LARGE], machine, rng)
