"""Pooling: geometry, real and integer forms, layouts."""

from __future__ import annotations

import numpy as np
import pytest

from qcompile import ops
from qcompile.errors import QCompileError
from qcompile.ir.types import TensorType
from qcompile.quant.qparams import QParams

GEOMETRIES = [
    {"kernel_shape": [2, 2], "strides": [2, 2]},
    {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
    {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1},
    {"kernel_shape": [3, 2], "strides": [2, 3], "pads": [2, 0, 1, 1], "ceil_mode": 1},
    {"kernel_shape": [5, 5], "pads": [2, 2, 2, 2]},
    {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
    {"kernel_shape": [2, 3], "strides": [2, 2], "auto_pad": "SAME_LOWER"},
    {"kernel_shape": [3, 3], "auto_pad": "VALID"},
    {"kernel_shape": [1, 1], "strides": [2, 2]},
]


def _image(rng, h=9, w=10):
    return rng.normal(size=(2, 3, h, w)).astype("f4")


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize(("h", "w"), [(9, 10), (7, 7), (12, 5)])
def test_float_matches_onnx_runtime(geometry, h, w, against_ort):
    x = _image(np.random.default_rng(1), h, w)
    against_ort("MaxPool", [x], opset=12, **geometry)
    against_ort("AveragePool", [x], opset=19, **geometry)
    against_ort("AveragePool", [x], opset=19, count_include_pad=1, **geometry)


@pytest.mark.parametrize("dilations", [[2, 2], [1, 3]])
def test_dilated_windows(dilations, against_ort):
    x = _image(np.random.default_rng(2))
    shape = {"kernel_shape": [3, 3], "dilations": dilations, "pads": [1, 2, 2, 1]}
    against_ort("MaxPool", [x], opset=12, **shape)
    against_ort("MaxPool", [x], opset=12, ceil_mode=1, strides=[2, 2], **shape)
    against_ort("AveragePool", [x], opset=19, **shape)
    against_ort("AveragePool", [x], opset=19, count_include_pad=1, **shape)


@pytest.mark.parametrize("op_type", ["MaxPool", "AveragePool"])
def test_one_dimension(op_type, against_ort):
    x = np.random.default_rng(3).normal(size=(2, 3, 17)).astype("f4")
    graph, _ = against_ort(op_type, [x], opset=12, kernel_shape=[3], strides=[2], pads=[1, 0])
    assert [n.op.name for n in graph.nodes][1] in ("max_pool", "avg_pool")


def test_four_dimensions_are_refused(import_one):
    with pytest.raises(QCompileError, match="4-D pooling"):
        import_one("MaxPool", [np.zeros((1, 1, 4, 4, 4, 4), "f4")], kernel_shape=[2, 2, 2, 2])


def test_windows_of_padding_alone_are_refused():
    pool = ops.get("max_pool")
    attrs = pool.Attrs(kernel=(2, 2), pads=(2, 0, 0, 0))
    with pytest.raises(ValueError, match="only padding"):
        pool.infer(attrs, [TensorType("float32", (1, 1, 4, 4))])
    with pytest.raises(ValueError, match="does not fit"):
        pool.infer(pool.Attrs(kernel=(5, 1)), [TensorType("float32", (1, 1, 4, 4))])


def _random_attrs(rng):
    kernel = tuple(int(k) for k in rng.integers(1, 5, 2))
    return {
        "kernel": kernel,
        "strides": tuple(int(s) for s in rng.integers(1, 4, 2)),
        "dilations": tuple(int(d) for d in rng.integers(1, 3, 2)),
        "pads": tuple(int(rng.integers(0, k)) for k in (*kernel, *kernel)),
        "ceil_mode": bool(rng.integers(2)),
    }


def _direct(x, attrs, out, reduce, count):
    """Pool one window at a time: x is NHWC float64."""
    y = np.zeros((x.shape[0], *out, x.shape[3]))
    for oh, ow in np.ndindex(*out):
        seen = []
        for i, j in np.ndindex(*attrs["kernel"]):
            h = oh * attrs["strides"][0] - attrs["pads"][0] + i * attrs["dilations"][0]
            w = ow * attrs["strides"][1] - attrs["pads"][1] + j * attrs["dilations"][1]
            inside = 0 <= h < x.shape[1] and 0 <= w < x.shape[2]
            padding = h < x.shape[1] + attrs["pads"][2] and w < x.shape[2] + attrs["pads"][3]
            if inside:
                seen.append(x[:, h, w])
            elif count and padding:
                seen.append(np.zeros_like(x[:, 0, 0]))
        y[:, oh, ow] = reduce(np.stack(seen), axis=0)
    return y


@pytest.mark.parametrize("seed", range(12))
def test_random_windows(seed, integer, lowered, one_node, real, nearest, random_qparams):
    rng = np.random.default_rng(seed)
    attrs = _random_attrs(rng)
    q = rng.integers(-128, 128, (2, 7, 9, 5)).astype(np.int8)
    qx, qy, count = random_qparams(rng), random_qparams(rng), bool(rng.integers(2))
    try:
        shape = ops.get("max_pool").infer(
            ops.get("max_pool").Attrs(layout="NHWC", **attrs), [TensorType("int8", q.shape)]
        )
    except ValueError:
        attrs["dilations"], attrs["kernel"], attrs["pads"] = (1, 1), (2, 3), (1, 0, 0, 2)
        shape = ops.get("max_pool").infer(
            ops.get("max_pool").Attrs(layout="NHWC", **attrs), [TensorType("int8", q.shape)]
        )
    out = shape[0].shape[1:3]

    largest = integer("max_pool", [(q, qx)], qx, layout="NHWC", **attrs)
    np.testing.assert_array_equal(largest, _direct(q.astype(float), attrs, out, np.max, False))
    mean = integer("avg_pool", [(q, qx)], qy, layout="NHWC", count_include_pad=count, **attrs)
    expected = _direct(real(q, qx), attrs, out, np.mean, count)
    assert np.abs(mean - nearest(expected, qy)).max() <= 1

    first = np.ascontiguousarray(q.transpose(0, 3, 1, 2))
    for name, y, qr, more in (("max_pool", largest, qx, {}), ("avg_pool", mean, qy, {"count_include_pad": count})):
        swapped = integer(name, [(first, qx)], qr, **attrs, **more)
        np.testing.assert_array_equal(swapped.transpose(0, 2, 3, 1), y)
        x = rng.normal(size=q.shape).astype("f4")
        ours, reference = lowered(name, [x], layout="NHWC", **attrs, **more)
        np.testing.assert_allclose(ours, reference, rtol=1e-5, atol=1e-6)


def test_large_windows_become_a_loop(integer, lowered):
    rng = np.random.default_rng(4)
    attrs = {"kernel": (13, 13), "pads": (6, 6, 6, 6), "layout": "NHWC"}
    q = rng.integers(-128, 128, (1, 14, 15, 3)).astype(np.int8)
    y = integer("max_pool", [(q, QParams((0.1,), (5,)))], QParams((0.1,), (5,)), **attrs)
    assert y.max() == q.max()
    ours, reference = lowered("max_pool", [rng.normal(size=q.shape).astype("f4")], **attrs)
    np.testing.assert_array_equal(ours, reference)


def test_average_rounds_halves_to_even(integer):
    # Sums 2, 6, 10, 254 of four equal taps' worth: 0.5, 1.5, 2.5 go to the even neighbour.
    q = np.zeros((1, 2, 8, 1), np.int8)
    q[0, 0, ::2, 0] = [2, 6, 10, -2]
    unit = QParams((1.0,), (0,))
    y = integer("avg_pool", [(q, unit)], unit, kernel=(2, 2), strides=(2, 2), layout="NHWC")
    assert y.reshape(-1).tolist() == [0, 2, 2, 0]


def test_padding_counts_as_real_zero(integer):
    # zero_point −128: the code of real 0 is −128, and the average of three zeros and 2.0 is 0.5.
    q = np.full((1, 1, 1, 1), -126, np.int8)
    params = QParams((1.0,), (-128,))
    y = integer(
        "avg_pool",
        [(q, params)],
        QParams((0.25,), (-128,)),
        kernel=(2, 2),
        pads=(1, 1, 0, 0),
        layout="NHWC",
        count_include_pad=True,
    )
    assert y.reshape(-1).tolist() == [-126]
    alone = integer(
        "avg_pool", [(q, params)], QParams((0.25,), (-128,)), kernel=(2, 2), pads=(1, 1, 0, 0), layout="NHWC"
    )
    assert alone.reshape(-1).tolist() == [-120]


def test_padding_never_wins_a_maximum(integer, against_ort):
    params = QParams((1.0,), (127,))
    q = np.full((1, 2, 2, 1), -128, np.int8)
    y = integer("max_pool", [(q, params)], params, kernel=(3, 3), pads=(1, 1, 1, 1), layout="NHWC")
    assert (y == -128).all()
    against_ort("MaxPool", [np.full((1, 1, 3, 3), -1e30, "f4")], kernel_shape=[3, 3], pads=[1, 1, 1, 1])


def test_the_places_of_maxima_are_computed_where_they_are_read():
    from onnx import TensorProto, helper

    from qcompile.onnx_import import import_onnx

    node = helper.make_node("MaxPool", ["x"], ["y", "i"], name="pool", kernel_shape=[2, 2])
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 4, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 3, 3])
    i = helper.make_tensor_value_info("i", TensorProto.INT64, [1, 1, 3, 3])
    for outputs in ([y], [y, i]):
        graph = helper.make_graph([node], "g", [x], outputs)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        assert [n.op.name for n in import_onnx(model).nodes] == ["max_pool", "pool_place"][: len(outputs)]
