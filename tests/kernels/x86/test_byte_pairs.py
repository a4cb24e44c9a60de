"""Sums of two products of bytes in 16 bits: weights split so that none saturates, the same bits."""

from __future__ import annotations

from dataclasses import replace

import conv_reference
import layers_x86
import native_runner
import numpy as np
import pytest
import x86_machines
from test_objects import hot_loops

from qcompile.cost import PAIRING
from qcompile.kernels import byte_pairs
from qcompile.kernels import isa as instruction_sets
from qcompile.kernels.build import assembly
from qcompile.kernels.conv import plan_conv
from qcompile.kernels.conv_workload import ConvWorkload, dense, timed_workload

CASES = [
    dense(37, 64, 70),
    dense(12, 5, 3, table=True),
    dense(300, 24, 144, residual=True),
    dense(300, 24, 144, residual=True, bounded_residual=True, bounded=True),
    ConvWorkload(1, 9, 11, 18, 24, (3, 3), pads=(1, 1, 1, 1)),
    ConvWorkload(2, 9, 11, 7, 24, (3, 3), (2, 2), pads=(0, 1, 2, 1), residual=True, bounded_residual=True),
    ConvWorkload(1, 12, 13, 10, 9, (5, 3), dilations=(2, 1)),
    ConvWorkload(1, 12, 13, 10, 17, (3, 3), dilations=(1, 2), pads=(2, 2, 2, 2), output="float32"),
    ConvWorkload(1, 20, 20, 8, 40, (1, 1), (2, 2), output="int32"),
    ConvWorkload(1, 7, 7, 24, 40, in_pitch=40, out_pitch=100),
    ConvWorkload(1, 9, 9, 48, 24, (3, 3), in_pitch=64),
    ConvWorkload(1, 9, 11, 20, 12, (3, 3), pads=(1, 1, 1, 1), in_pitch=29, out_pitch=70),
]


def weights_of(kind: str, shape: tuple[int, ...]) -> np.ndarray:
    rng = np.random.default_rng(0)
    if kind == "ends":
        return rng.choice([-128, 127, -127, 64, 0, -64, 1], shape).astype(np.int8)
    if kind == "even":
        return rng.integers(-128, 128, shape).astype(np.int8)
    if kind == "halves":
        return rng.integers(-64, 64, shape).astype(np.int8) * 2
    noise = rng.normal(0, 1, shape)
    return np.rint(noise / np.abs(noise).max(axis=(1, 2), keepdims=True) * 127).astype(np.int8)


@pytest.mark.parametrize("kind", ["normal", "even", "ends", "halves"])
@pytest.mark.parametrize("shape", [(30, 3, 70), (9, 2, 13), (16, 1, 256), (3, 1, 1)])
def test_steps_sum_to_the_weights_and_none_saturates(kind: str, shape: tuple[int, int, int]) -> None:
    weights, lanes = weights_of(kind, shape), 8
    places = np.arange(shape[1]) * (shape[2] + 37)
    packed = byte_pairs.pack(weights, lanes, places)
    words = packed[: len(packed) // 4 * 4].view(np.int32)
    found = np.zeros((-(-shape[0] // lanes) * lanes, places[-1] + shape[2] + 8), np.int64)
    for block in range(len(found) // lanes):
        unit, place, plain, scaled = words[2 + 4 * block : 6 + 4 * block]
        data = packed[words[0] + unit * 4 * lanes :]
        steps = data[: plain * 4 * lanes].reshape(-1, lanes, 4).astype(np.int64)
        pairs = data[plain * 4 * lanes :][: scaled * 8 * lanes].reshape(-1, 2, lanes * 4)
        factors = np.repeat(np.ascontiguousarray(pairs[:, 1]).view(np.int16).astype(np.int64), 2, axis=-1)
        halves = pairs[:, 0].reshape(-1, lanes, 4).astype(np.int64)
        for stored in (steps, halves):
            for pair in (stored[..., :2], stored[..., 2:]):
                assert np.maximum(pair, 0).sum(axis=-1).max(initial=0) <= 128
                assert np.maximum(-pair, 0).sum(axis=-1).max(initial=0) <= 128
        every = np.concatenate([steps, halves * factors.reshape(halves.shape)])
        for at, step in zip(words[words[1] + place :][: plain + scaled], every, strict=True):
            found[block * lanes : (block + 1) * lanes, at : at + 4] += step
    for run, place in enumerate(places):
        np.testing.assert_array_equal(found[: shape[0], place : place + shape[2]], weights[:, run])


def test_few_great_weights_pay() -> None:
    assert byte_pairs.pays(np.zeros((8, 1, 64), np.int8), 8)
    assert byte_pairs.pays(weights_of("normal", (64, 1, 512)), 8)
    assert not byte_pairs.pays(weights_of("normal", (64, 1, 32)), 8)
    assert byte_pairs.pays(weights_of("halves", (64, 1, 32)), 8)
    assert not byte_pairs.pays(weights_of("ends", (64, 1, 512)), 8)


def test_every_geometry_and_epilogue() -> None:
    target, rng = x86_machines.x86_target("avx2"), np.random.default_rng(1)
    layers = [conv_reference.make_layer(replace(work, byte_pairs=True), rng) for work in CASES]
    for kind, some in (("ends", layers[::2]), ("halves", layers[3::4])):
        for one in some:
            one.x[..., ::2] = 127
            one.weights[...] = weights_of(kind, one.weights.shape)
    calls = [layers_x86.kernel_and_arguments(one, target) for one in layers]
    library = native_runner.Library([kernel for kernel, _ in calls], target)
    for one, (kernel, arguments) in zip(layers, calls, strict=True):
        wanted = layers_x86.expected(one, target)
        alone = [(i, i + 1) for i in reversed(range(kernel.tiles))]
        for ranges in (None, alone):
            found = library.run(kernel, arguments, ranges=ranges)
            np.testing.assert_array_equal(found, wanted, err_msg=str(one.work))


def test_only_one_instruction_set_asks_for_it_and_records_do_not_tell() -> None:
    work = dense(64, 64, 64, byte_pairs=True)
    assert timed_workload(work) == timed_workload(dense(64, 64, 64))
    having = [name for name in instruction_sets.names() if instruction_sets.load(name).byte_pairs is not None]
    assert having == list(PAIRING)


def test_the_hot_loop_multiplies_bytes_and_keeps_its_sums_in_registers() -> None:
    target = x86_machines.x86_target("avx2")
    kernel = plan_conv(dense(3136, 256, 64, byte_pairs=True), instruction_sets.load("avx2"), target)
    loops = hot_loops(assembly([kernel], target))
    hot = sorted(loops, key=lambda body: -sum("vpmaddubsw" in line for line in body))[:2]
    for body in hot:  # plain steps, and steps with factors
        count = sum("vpmaddubsw" in line for line in body)
        assert count == sum("vpmaddwd" in line for line in body) == sum("vpaddd" in line for line in body) >= 12
        assert count / len(body) >= 0.2
        assert not [line for line in body if "%rsp" in line]
