"""Unary functions: against ONNX Runtime in float, against scalar mathematics as tables."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest

from qcompile import ops
from qcompile.errors import QCompileError
from qcompile.ir.opdef import Quantization
from qcompile.ops.elementwise import Unary, erf, sigmoid
from qcompile.quant.qparams import QParams


def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def _logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))


# name: (ONNX type, first opset ONNX Runtime has it at (0: never), domain, attributes, scalar function)
FUNCTIONS = {
    "relu": ("Relu", 7, (-5, 5), {}, lambda x: max(x, 0.0)),
    "leaky_relu": ("LeakyRelu", 7, (-5, 5), {"alpha": 0.125}, lambda x: x if x >= 0 else 0.125 * x),
    "hard_sigmoid": ("HardSigmoid", 7, (-5, 5), {"alpha": 0.3, "beta": 0.4},
                     lambda x: max(0.0, min(1.0, 0.3 * x + 0.4))),
    "hard_swish": ("HardSwish", 14, (-5, 5), {}, lambda x: x * max(0.0, min(1.0, x / 6 + 0.5))),
    "sigmoid": ("Sigmoid", 7, (-9, 9), {}, _logistic),
    "tanh": ("Tanh", 7, (-5, 5), {}, math.tanh),
    "silu": ("Swish", 0, (-5, 5), {}, lambda x: x * _logistic(x)),
    "gelu": ("Gelu", 20, (-5, 5), {}, lambda x: 0.5 * x * (1 + math.erf(x / math.sqrt(2)))),
    "erf": ("Erf", 9, (-3, 3), {}, math.erf),
    "exp": ("Exp", 7, (-5, 3), {}, math.exp),
    "log": ("Log", 7, (0.01, 9), {}, None),
    "reciprocal": ("Reciprocal", 7, (0.2, 9), {}, None),
    "sqrt": ("Sqrt", 7, (0, 9), {}, lambda x: math.sqrt(x) if x >= 0 else math.nan),
    "neg": ("Neg", 7, (-5, 5), {}, lambda x: -x),
    "abs": ("Abs", 7, (-5, 5), {}, abs),
    "elu": ("Elu", 7, (-5, 5), {"alpha": 1.5}, lambda x: x if x >= 0 else 1.5 * math.expm1(x)),
    "selu": ("Selu", 7, (-5, 5), {"alpha": 1.6, "gamma": 1.1},
             lambda x: 1.1 * (x if x >= 0 else 1.6 * math.expm1(x))),
    "celu": ("Celu", 12, (-5, 5), {"alpha": 0.7}, lambda x: x if x >= 0 else 0.7 * math.expm1(x / 0.7)),
    "softplus": ("Softplus", 7, (-9, 9), {}, _softplus),
    "softsign": ("Softsign", 7, (-5, 5), {}, lambda x: x / (1 + abs(x))),
    "mish": ("Mish", 18, (-5, 5), {}, lambda x: x * math.tanh(_softplus(x))),
    "floor": ("Floor", 7, (-5, 5), {}, math.floor),
    "ceil": ("Ceil", 7, (-5, 5), {}, math.ceil),
    "round": ("Round", 11, (-5, 5), {}, lambda x: float(np.rint(x))),
    "sign": ("Sign", 9, (-5, 5), {}, lambda x: float(np.sign(x))),
    "sin": ("Sin", 7, (-9, 9), {}, math.sin),
    "cos": ("Cos", 7, (-9, 9), {}, math.cos),
    "tan": ("Tan", 7, (-1.2, 1.2), {}, None),
    "asin": ("Asin", 7, (-0.99, 0.99), {}, lambda x: math.asin(x) if abs(x) <= 1 else math.nan),
    "acos": ("Acos", 7, (-0.99, 0.99), {}, lambda x: math.acos(x) if abs(x) <= 1 else math.nan),
    "atan": ("Atan", 7, (-5, 5), {}, math.atan),
    "sinh": ("Sinh", 9, (-5, 5), {}, math.sinh),
    "cosh": ("Cosh", 9, (-5, 5), {}, math.cosh),
    "asinh": ("Asinh", 9, (-5, 5), {}, math.asinh),
    "acosh": ("Acosh", 9, (1.1, 9), {}, None),
    "atanh": ("Atanh", 9, (-0.95, 0.95), {}, None),
    "clip": ("Clip", 0, (-5, 8), {"min": -1.0, "max": 6.0}, lambda x: min(max(x, -1.0), 6.0)),
}  # fmt: skip
NOT_HERE = {"identity", "cast", "reshape", "transpose", "logical_not", "bitwise_not", "fake_quantize", "round_float"}
MONOTONIC = ["relu", "leaky_relu", "hard_sigmoid", "sigmoid", "tanh", "erf", "exp", "elu", "selu", "celu", "softplus",
             "softsign", "floor", "ceil", "round", "sign", "clip"]  # fmt: skip
TABLES = sorted(name for name in FUNCTIONS if ops.get(name).integer is Quantization.TABLE)


def test_every_unary_function_is_tested():
    found = {name for name, op in ops.all_ops().items() if isinstance(op, Unary)}
    assert found - NOT_HERE == set(FUNCTIONS)


@pytest.mark.parametrize("name", [n for n, row in FUNCTIONS.items() if row[1]])
def test_float_matches_onnx_runtime(name, against_ort):
    op_type, opset, (low, high), attrs, _ = FUNCTIONS[name]
    x = np.random.default_rng(1).uniform(low, high, (2, 3, 5, 7)).astype("f4")
    x[0, 0, 0, :3] = [low, high, max(low, 0)]
    if name == "round":
        x[0, 0, 1] = [0.5, 1.5, 2.5, -0.5, -1.5, 0.49999997, -2.5]
    for version in {opset, 13 if opset <= 13 else opset}:
        graph, _ = against_ort(op_type, [x], opset=version, **attrs)
        assert [n.op.name for n in graph.nodes] == [name]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_lowering_computes_the_same_function(name, lowered):
    _, _, (low, high), attrs, _ = FUNCTIONS[name]
    x = np.random.default_rng(2).uniform(low, high, (3, 40)).astype("f4")
    if name == "round":
        x[0, :7] = [0.5, 1.5, 2.5, -0.5, -1.5, 0.49999997, -1e-10]
    ours, reference = lowered(name, [x], **attrs)
    np.testing.assert_allclose(ours, reference, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("name", TABLES)
def test_table_is_the_rounded_function(name, one_node, random_qparams):
    _, _, _, attrs, scalar = FUNCTIONS[name]
    rng = np.random.default_rng(3)
    q = np.arange(-128, 128, dtype=np.int8)
    for _ in range(5):
        qx, qy = random_qparams(rng, 6.0), random_qparams(rng, 3.0)
        node, arrays = one_node(name, attrs, [(q, qx)], qy)
        (y,) = node.op.evaluate_integer(node, arrays)
        for code, result in zip(q.tolist(), y.tolist(), strict=True):
            f = scalar((code - qx.scalar_zero_point) * qx.scalar_scale)
            scaled = -math.inf if math.isnan(f) else f / qy.scalar_scale
            low, high = -128 - qy.scalar_zero_point, 127 - qy.scalar_zero_point
            want = min(max(scaled, low), high) + qy.scalar_zero_point
            # An odd half may fall to either side in the last bit of float64; anything else must be the nearest.
            assert abs(result - want) <= 0.5 + 1e-9


@pytest.mark.parametrize("name", MONOTONIC)
def test_table_of_a_monotonic_function_is_monotonic(name, integer, random_qparams):
    rng = np.random.default_rng(4)
    q = np.arange(-128, 128, dtype=np.int8)
    for _ in range(3):
        y = integer(name, [(q, random_qparams(rng, 6.0))], random_qparams(rng, 3.0), **FUNCTIONS[name][3])
        assert (np.diff(y.astype(int)) >= 0).all()


def test_table_keeps_to_narrowed_bounds(integer):
    q = np.arange(-128, 128, dtype=np.int8)
    qx = QParams.from_range(-6, 6)
    y = integer("silu", [(q, qx)], QParams((0.05,), (-100,), "int8", -100, 20))
    assert y.min() == -100
    assert y.max() == 20


def test_fixed_ranges_hold():
    x = np.linspace(-40, 40, 4001)
    for name, op in ops.all_ops().items():
        bounds = op.fixed_range(op.Attrs()) if isinstance(op, Unary) else None
        if bounds is not None:
            y = op.function(op.Attrs(), x)
            assert bounds[0] <= y.min() <= y.max() <= bounds[1], name


def test_erf_is_accurate_to_the_last_bits():
    x = np.concatenate([np.linspace(-7, 7, 20001), [0.0, -0.0, 1e-300, np.inf, -np.inf]])
    exact = np.array([math.erf(v) for v in x])
    assert np.abs(erf(x) - exact).max() < 3e-16
    single = erf(x.astype("f4"))
    assert single.dtype == np.float32
    wanted = np.array([math.erf(v) for v in x.astype("f4")])
    assert (np.abs(single - wanted) <= 0.51 * np.spacing(np.abs(wanted).astype("f4"))).all()
    assert np.isnan(erf(np.array([np.nan]))).all()


def test_sigmoid_of_huge_arguments_is_silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        y = sigmoid(np.array([-1e4, -100, 0, 100, 1e4], np.float32))
    np.testing.assert_allclose(y, [0, 0, 0.5, 1, 1], atol=1e-30)


@pytest.mark.parametrize("name", ["neg", "abs", "sign"])
def test_integers_stay_integers(name):
    op = ops.get(name)
    (y,) = op.evaluate(op.Attrs(), [np.array([-3, 0, 2], np.int64)])
    assert y.dtype == np.int64
    assert y.tolist() == {"neg": [3, 0, -2], "abs": [3, 0, 2], "sign": [-1, 0, 1]}[name]


@pytest.mark.parametrize("tanh", ["none", "tanh"])
def test_gelu_approximations(tanh, against_ort, lowered):
    x = np.random.default_rng(5).normal(0, 3, (4, 50)).astype("f4")
    against_ort("Gelu", [x], opset=20, approximate=tanh)
    ours, reference = lowered("gelu", [x], approximate=tanh)
    np.testing.assert_allclose(ours, reference, rtol=1e-5, atol=1e-6)


def test_gelu_refuses_an_unknown_approximation():
    with pytest.raises(ValueError, match="approximate 'erf'"):
        ops.get("gelu").Attrs(approximate="erf")


def test_swish_with_another_slope_is_decomposed(import_one):
    from qcompile.ops.interpreter import Interpreter

    x = np.linspace(-4, 4, 9, dtype="f4")
    graph = import_one("Swish", [x], opset=24, alpha=2.0)
    assert [n.op.name for n in graph.nodes] == ["mul", "sigmoid", "mul"]
    np.testing.assert_allclose(Interpreter(graph).run({"x0": x})["y"], x / (1 + np.exp(-2 * x)), rtol=1e-6)
    assert [n.op.name for n in import_one("Swish", [x], opset=24).nodes] == ["silu"]


class TestClip:
    x = np.linspace(-9, 9, 37, dtype="f4").reshape(1, 37)

    def test_attributes(self, against_ort):
        for attrs in ({"min": -2.0, "max": 3.0}, {"min": 0.0}, {"max": 6.0}, {}):
            graph, _ = against_ort("Clip", [self.x], opset=7, **attrs)
            assert [n.op.name for n in graph.nodes] == ["clip"]

    @pytest.mark.parametrize(("low", "high"), [(-2.0, 3.0), (None, 1.0), (0.5, None), (None, None), (4.0, 2.0)])
    def test_constant_inputs(self, against_ort, low, high):
        bounds = [None if b is None else np.array(b, "f4") for b in (low, high)]
        graph, _ = against_ort("Clip", [self.x, *bounds], constants=(1, 2), opset=13)
        assert graph.nodes[0].attrs.min == (-math.inf if low is None else low)

    @pytest.mark.parametrize("which", [(1,), (2,), (1, 2)])
    def test_bounds_of_run_time(self, against_ort, which):
        bounds = [np.array(b, "f4") if k in which else None for k, b in ((1, -2.0), (2, 3.0))]
        graph, _ = against_ort("Clip", [self.x, *bounds], opset=13)
        assert {n.op.name for n in graph.nodes} == {"clip" if b is None else n for b, n in zip(
            bounds, ("maximum", "minimum"), strict=True) if b is not None}  # fmt: skip

    def test_the_largest_float_is_no_bound(self, import_one):
        largest = np.array(np.finfo("f4").max)
        graph = import_one("Clip", [self.x, -largest, largest], constants=(1, 2))
        assert (graph.nodes[0].attrs.min, graph.nodes[0].attrs.max) == (-math.inf, math.inf)

    def test_integers(self, against_ort):
        x = np.arange(-5, 6, dtype=np.int64)
        against_ort("Clip", [x, np.array(-2), np.array(3)], constants=(1, 2), opset=13)


def test_two_operands_are_refused():
    from qcompile.ir.types import TensorType

    with pytest.raises(ValueError, match="one operand"):
        ops.get("relu").infer(ops.get("relu").Attrs(), [TensorType("float32", (1,))] * 2)


def test_prelu_forms(against_ort):
    rng = np.random.default_rng(6)
    x = rng.normal(size=(2, 3, 4, 5)).astype("f4")
    graph, _ = against_ort("PRelu", [x, np.array([0.25], "f4")], constants=(1,))
    assert [n.op.name for n in graph.nodes] == ["leaky_relu"]
    for shape in [(3, 1, 1), (1, 3, 1, 1)]:
        graph, _ = against_ort("PRelu", [x, rng.normal(size=shape).astype("f4")], constants=(1,))
        assert [n.op.name for n in graph.nodes] == ["prelu"]
    for shape, constants in [((4, 5), (1,)), ((3, 1, 1), ()), ((3, 4, 5), (1,))]:
        graph, _ = against_ort("PRelu", [x, rng.normal(size=shape).astype("f4")], constants=constants)
        assert "prelu" not in [n.op.name for n in graph.nodes]
    graph, _ = against_ort("PRelu", [x[:, :, 0, 0], rng.normal(size=3).astype("f4")], constants=(1,))
    assert [n.op.name for n in graph.nodes] == ["prelu"]


def test_prelu_integer_form(integer, real, nearest, random_qparams):
    rng = np.random.default_rng(7)
    q = rng.integers(-128, 128, (2, 4, 4, 6)).astype(np.int8)
    slope = rng.normal(0, 0.5, 6).astype("f4")
    for _ in range(5):
        qx, qy = random_qparams(rng), random_qparams(rng)
        y = integer("prelu", [(q, qx), slope], qy, layout="NHWC")
        x = real(q, qx)
        assert np.abs(y - nearest(np.where(x >= 0, x, slope * x), qy)).max() <= 1
        swapped = integer("prelu", [(np.ascontiguousarray(q.transpose(0, 3, 1, 2)), qx), slope], qy)
        np.testing.assert_array_equal(swapped.transpose(0, 2, 3, 1), y)


def test_prelu_real_lowering(lowered):
    x = np.random.default_rng(8).normal(size=(2, 3, 4, 5)).astype("f4")
    ours, reference = lowered("prelu", [x, np.array([0.1, -0.2, 0.3], "f4")])
    np.testing.assert_array_equal(ours, reference)


def test_unknown_attribute_values_end_in_an_error(import_one):
    with pytest.raises(QCompileError, match="approximate"):
        import_one("Gelu", [np.zeros(3, "f4")], opset=20, approximate="erf")


def test_erf_does_not_depend_on_how_it_is_divided() -> None:
    x = np.linspace(-7, 7, 50_001, dtype=np.float32).reshape(3, 7, -1)
    whole = erf(x)
    assert whole.shape == x.shape
    assert whole.dtype == np.float32
    assert np.array_equal(whole.reshape(-1), np.concatenate([erf(part) for part in x.reshape(-1, 2381)]))
    assert np.array_equal(whole.reshape(-1)[::5000], [np.float32(math.erf(v)) for v in x.reshape(-1)[::5000].tolist()])
    assert erf(np.zeros((2, 0), np.float32)).shape == (2, 0)
    assert erf(np.asarray(np.float64(0.5))).shape == ()
