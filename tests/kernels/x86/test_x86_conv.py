"""Convolutions on this processor, bit for bit against NumPy."""

from __future__ import annotations

from dataclasses import replace

import conv_reference
import layers_x86
import native_runner
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompile.errors import LoweringError
from qcompile.kernels import activation
from qcompile.kernels import isa as instruction_sets
from qcompile.kernels.conv_packing import pack_conv
from qcompile.kernels.conv_workload import ACTIVATIONS, ConvWorkload, dense
from qcompile.quant.scaled import SCALED
from qcompile.targets import Target

EXTREME = [
    ConvWorkload(1, 1, 1, 1, 1),
    ConvWorkload(1, 1, 1, 3, 5, (3, 3), pads=(1, 1, 1, 1)),
    ConvWorkload(2, 3, 2, 5, 70, (3, 3), (4, 5), pads=(4, 5, 6, 7)),
    ConvWorkload(1, 2, 3, 4, 8, (1, 1), (3, 3), pads=(2, 2, 2, 2)),
    ConvWorkload(1, 30, 5, 7, 3, (2, 2), (5, 1), dilations=(3, 2)),
    ConvWorkload(1, 4, 4, 2, 2, (3, 3), pads=(1, 1, 1, 1), groups=2),
    dense(1, 300, 65),
    dense(3, 17, 1),
    dense(65, 64, 64),
    ConvWorkload(1, 9, 9, 144, 144, (3, 3), pads=(1, 1, 1, 1), groups=144),
    ConvWorkload(1, 3, 2, 130, 130, (5, 3), (2, 1), pads=(2, 3, 4, 1), groups=130),
    ConvWorkload(1, 6, 6, 50, 50, (6, 2), dilations=(1, 3), pads=(2, 2, 3, 3), groups=50, residual=True),
    ConvWorkload(1, 5, 5, 70, 70, (3, 3), pads=(1, 1, 1, 1), groups=70, table=True),
    ConvWorkload(1, 5, 5, 70, 70, (3, 3), pads=(1, 1, 1, 1), groups=70, output="int32"),
]


def check(layers: list[conv_reference.Layer], target: Target, noise: int = 0x5A) -> None:
    """Build all layers into one library, run each, compare."""
    calls = [layers_x86.kernel_and_arguments(layer, target) for layer in layers]
    library = native_runner.Library([kernel for kernel, _ in calls], target)
    for layer, (kernel, arguments) in zip(layers, calls, strict=True):
        result = library.run(kernel, arguments, noise=noise)
        conv_reference.compare(layer, result, layers_x86.expected(layer, target))


def test_every_geometry(machine: Target) -> None:
    rng = np.random.default_rng(1)
    shapes = [*conv_reference.SHAPES, *conv_reference.DEPTHWISE, *EXTREME]
    check([conv_reference.make_layer(work, rng) for work in shapes], machine)


def test_every_geometry_in_float(float_machine: Target) -> None:
    rng = np.random.default_rng(2)
    shapes = [*conv_reference.SHAPES, *conv_reference.DEPTHWISE, *EXTREME]
    floats = [replace(work, precision="float32", output="float32", table=False) for work in shapes]
    check([conv_reference.make_layer(work, rng) for work in floats], float_machine)


def test_pixels_among_other_channels(machine: Target) -> None:
    rng = np.random.default_rng(5)
    check([conv_reference.make_layer(work, rng) for work in conv_reference.PITCHED], machine)


@pytest.mark.parametrize(("isa", "origin"), [("amx_int8", "avx512_vnni"), ("avx_vnni", "avx2")])
def test_integer_instruction_sets_share_float_kernels(isa: str, origin: str) -> None:
    first, second = instruction_sets.load(isa), instruction_sets.load(origin)
    assert first.float32 == second.float32
    assert first.depthwise_float32 == second.depthwise_float32
    assert first.round_clamp is second.round_clamp


@settings(max_examples=3, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1))
def test_random_layers_with_random_epilogues(machine: Target, seed: int) -> None:
    rng = np.random.default_rng(seed)
    works = [conv_reference.epilogues(conv_reference.random_workload(rng), rng) for _ in range(7)]
    check([conv_reference.make_layer(work, rng) for work in works], machine, noise=int(rng.integers(256)))


@pytest.mark.parametrize("activation", SCALED)
def test_activations_of_scaled_sums(machine: Target, activation: str) -> None:
    rng = np.random.default_rng(4)
    shapes = [*conv_reference.SHAPES[::3], *conv_reference.DEPTHWISE[::2], EXTREME[-5]]
    works = [replace(work, activation=activation, full_range=i % 2 == 0) for i, work in enumerate(shapes)]
    works += [replace(work, activation=activation, output="float32") for work in shapes[:2]]
    check([conv_reference.make_layer(work, rng) for work in works], machine)


def test_saturating_codes(machine: Target) -> None:
    """All products at their extremes, with sums far outside the int8 range."""
    rng = np.random.default_rng(3)
    layers = []
    for code, zero in ((-128, 127), (127, -128), (-128, -128)):
        layer = conv_reference.make_layer(ConvWorkload(1, 4, 4, 96, 48, (3, 3), pads=(1, 1, 1, 1)), rng)
        layer.x[...] = code
        layer.weights[::2], layer.weights[1::2] = -127, 127
        layer.scalars = replace(layer.scalars, x_zero_point=zero, qmin=-128, qmax=127)
        layer.multipliers[...] = 1e4
        layers.append(layer)
    check(layers, machine)


ACTIVATION_FUNCTIONS = {
    "none": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "clip": lambda x: np.clip(x, 0.1, 0.45),
    "leaky_relu": lambda x: np.where(x < 0, 0.1 * x, x),
    "hard_sigmoid": lambda x: np.clip(0.1 * x + 0.45, 0, 1),
    "hard_swish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "tanh": np.tanh,
}


def test_every_activation_has_a_function() -> None:
    assert set(ACTIVATION_FUNCTIONS) == set(ACTIVATIONS) == set(activation.ACTIVATIONS)


def test_fused_activations(float_machine: Target) -> None:
    """One input channel of weight one, so that the input itself meets the activation."""
    x = np.concatenate([np.linspace(-30, 30, 2001), np.logspace(-6, 2, 500), [-100.0, 0.0, 100.0]])
    values = x.astype(np.float32)
    layers = []
    for name in ACTIVATIONS:
        work = dense(len(x), 1, 3, precision="float32", output="float32", activation=name)
        layer = conv_reference.make_layer(work, np.random.default_rng(8))
        layer.x[...], layer.weights[...], layer.bias[...] = values.reshape(layer.x.shape), 1, 0
        layer.scalars = replace(layer.scalars, alpha=0.1, beta=0.45)
        layers.append(layer)
    calls = [layers_x86.kernel_and_arguments(layer, float_machine) for layer in layers]
    library = native_runner.Library([kernel for kernel, _ in calls], float_machine)
    for name, (kernel, arguments) in zip(ACTIVATIONS, calls, strict=True):
        result = library.run(kernel, arguments)
        wanted = ACTIVATION_FUNCTIONS[name](values.astype(np.float64))
        floor = 1e-6 if name.startswith("hard_") else 1e-30  # these subtract near their kink
        for channel in range(3):
            found = result[..., channel].ravel()
            np.testing.assert_allclose(found, wanted, rtol=2e-6, atol=floor, err_msg=name)


def test_ties_round_to_even(machine: Target) -> None:
    layer = conv_reference.make_layer(dense(64, 4, 64), np.random.default_rng(4))
    layer.multipliers[...] = 0.5
    layer.weights[...] = np.eye(64, 4, dtype=np.int8).reshape(layer.weights.shape)
    layer.scalars = replace(layer.scalars, y_zero_point=0, qmin=-128, qmax=127)
    check([layer], machine)


def test_any_split_gives_the_same_bits(machine: Target) -> None:
    rng = np.random.default_rng(5)
    works = [
        ConvWorkload(1, 40, 40, 32, 64, (3, 3), pads=(1, 1, 1, 1)),
        ConvWorkload(2, 28, 28, 48, 100),
        dense(1, 700, 900),
        ConvWorkload(1, 6, 6, 64, 160, (3, 3), pads=(1, 1, 1, 1)),
        ConvWorkload(1, 20, 20, 72, 72, (3, 3), pads=(1, 1, 1, 1), groups=72),
        ConvWorkload(1, 40, 40, 32, 64, (3, 3), pads=(1, 1, 1, 1), precision="float32", output="float32"),
    ]
    layers = [conv_reference.make_layer(work, rng) for work in works]
    calls = [layers_x86.kernel_and_arguments(layer, machine) for layer in layers]
    library = native_runner.Library([kernel for kernel, _ in calls], machine)
    for kernel, arguments in calls:
        assert kernel.tiles > 2
        whole = library.run(kernel, arguments)
        cut = int(rng.integers(1, kernel.tiles))
        for ranges in (
            [(i, i + 1) for i in reversed(range(kernel.tiles))],
            [(cut, kernel.tiles), (0, cut), (3, 3)],
        ):
            np.testing.assert_array_equal(library.run(kernel, arguments, ranges=ranges), whole)


def test_the_output_may_overwrite_the_residual(machine: Target) -> None:
    rng = np.random.default_rng(9)
    works = [
        ConvWorkload(1, 9, 9, 24, 100, residual=True),
        ConvWorkload(1, 9, 9, 70, 70, (3, 3), pads=(1, 1, 1, 1), groups=70, residual=True),
        ConvWorkload(1, 9, 9, 24, 100, precision="float32", output="float32", residual=True),
    ]
    calls = [layers_x86.kernel_and_arguments(conv_reference.make_layer(w, rng), machine) for w in works]
    library = native_runner.Library([kernel for kernel, _ in calls], machine)
    for kernel, arguments in calls:
        apart = library.run(kernel, arguments)
        np.testing.assert_array_equal(library.run(kernel, arguments, in_place=4), apart)


def test_weights_of_minus_128_meet_activations_of_minus_128(machine: Target) -> None:
    layer = conv_reference.make_layer(dense(20, 40, 33), np.random.default_rng(6))
    grouped = conv_reference.make_layer(ConvWorkload(1, 6, 6, 70, 70, (3, 3), groups=70), np.random.default_rng(7))
    for one in (layer, grouped):
        one.x[...], one.weights[...] = -128, -128
    check([layer, grouped], machine)


def test_a_weight_too_small_for_the_instruction_set_is_refused() -> None:
    with pytest.raises(LoweringError, match="neon needs weights of at least -127"):
        pack_conv(dense(1, 4, 1), instruction_sets.load("neon"), np.full((1, 4), -128, np.int8), None)


def test_an_overflowing_bias_is_refused(machine: Target) -> None:
    isa = instruction_sets.load(machine.isa)
    weights = np.full((1, 8), 127, np.int8)
    with pytest.raises(LoweringError, match="int32 accumulator"):
        pack_conv(dense(1, 8, 1), isa, weights, np.array([2**31 - 1], np.int32))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kernel": (9, 9)}, "larger than the padded input"),
        ({"channels": 70_000}, "overflow"),
        ({"groups": 3}, "multiples of groups"),
        ({"output": "int32", "table": True}, "table"),
        ({"output": "float32", "residual": True}, "residual"),
        ({"activation": "relu"}, "no relu of integer sums"),
        ({"activation": "hard_swish", "output": "int32"}, "no hard_swish of integer sums"),
        ({"activation": "leaky_relu", "residual": True}, "no leaky_relu of integer sums"),
        ({"activation": "leaky_relu", "table": True}, "no leaky_relu of integer sums"),
        ({"activation": "softsign"}, "no activation 'softsign'"),
        ({"activation": "prelu", "precision": "float32", "output": "float32"}, "no activation 'prelu'"),
        ({"precision": "float32"}, "no int8 output"),
        ({"strides": (0, 1)}, "positive"),
    ],
)
def test_a_wrong_workload_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(LoweringError, match=message):
        replace(ConvWorkload(1, 4, 4, 8, 8), **change)
