"""Operators of ONNX Runtime's optimizer, and windows over three axes, against ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qcompile.errors import UnsupportedOpError
from qcompile.onnx_import import import_onnx
from qcompile.onnx_import.definitions import foreign_operators
from qcompile.ops.interpreter import Interpreter

ort = pytest.importorskip("onnxruntime")

EXAMPLES = Path(__file__).parents[2] / "examples" / "models"
RANDOM = np.random.default_rng(3)


def floats(*shape: int) -> Any:
    return (RANDOM.standard_normal(shape) * 0.5).astype(np.float32)


MASK = np.array([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]], np.int32)
CASES: dict[str, tuple[str, list[Any], dict[str, Any], int]] = {
    # name: operator, inputs (None: left out), attributes, outputs
    "gelu": ("Gelu", [floats(2, 5)], {}, 1),
    "bias_gelu": ("BiasGelu", [floats(2, 5), floats(5)], {}, 1),
    "fast_gelu": ("FastGelu", [floats(2, 5)], {}, 1),
    "fast_gelu_bias": ("FastGelu", [floats(2, 5), floats(5)], {}, 1),
    "quick_gelu": ("QuickGelu", [floats(2, 5)], {"alpha": 1.5}, 1),
    "skip_layer": ("SkipLayerNormalization", [floats(2, 5, 8), floats(2, 5, 8), floats(8), floats(8), floats(8)],
                   {}, 1),
    "skip_layer_plain": ("SkipLayerNormalization", [floats(2, 5, 8), floats(2, 5, 8), floats(8)],
                         {"epsilon": 1e-3}, 1),
    "skip_rms": ("SkipSimplifiedLayerNormalization", [floats(2, 5, 8), floats(2, 5, 8), floats(8)],
                 {"epsilon": 1e-5}, 1),
    "simplified": ("SimplifiedLayerNormalization", [floats(2, 5, 8), floats(8)], {"epsilon": 1e-5, "axis": -1}, 1),
    "embedding": (
        "EmbedLayerNormalization",
        [np.array([[1, 2, 0], [4, 3, 1]], np.int32), np.array([[0, 0, 1], [0, 1, 1]], np.int32), floats(6, 8),
         floats(7, 8), floats(2, 8), floats(8), floats(8), np.array([[1, 1, 0], [1, 1, 1]], np.int32)],
        {}, 2,
    ),
    "group_query": ("GroupQueryAttention",
                    [floats(1, 3, 64), floats(1, 3, 32), floats(1, 3, 32), floats(1, 2, 4, 16), floats(1, 2, 4, 16),
                     np.array([6], np.int32), np.array(7, np.int32)], {"num_heads": 4, "kv_num_heads": 2}, 3),
    "group_query_rotary": ("GroupQueryAttention",
                           [floats(1, 1, 64), floats(1, 1, 32), floats(1, 1, 32), floats(1, 2, 4, 16),
                            floats(1, 2, 4, 16), np.array([4], np.int32), np.array(5, np.int32), floats(9, 8),
                            floats(9, 8)], {"num_heads": 4, "kv_num_heads": 2, "do_rotary": 1, "scale": 0.4}, 3),
    "group_query_packed": ("GroupQueryAttention",
                           [floats(1, 5, 128), None, None, None, None, np.array([4], np.int32), np.array(5, np.int32),
                            floats(9, 8), floats(9, 8)],
                           {"num_heads": 4, "kv_num_heads": 2, "do_rotary": 1, "rotary_interleaved": 1}, 3),
    "rotary": ("RotaryEmbedding", [floats(2, 3, 16), np.array([[2, 3, 4], [0, 1, 2]]), floats(9, 4), floats(9, 4)],
               {}, 1),
    "rotary_heads": ("RotaryEmbedding", [floats(1, 2, 3, 8), np.array([5]), floats(9, 4), floats(9, 4)],
                     {"interleaved": 1}, 1),
    "rotary_part": ("RotaryEmbedding", [floats(1, 3, 16), np.array([1]), floats(9, 2), floats(9, 2)],
                    {"num_heads": 2, "rotary_embedding_dim": 4}, 1),
    "fused_conv": ("FusedConv", [floats(1, 3, 6, 6), floats(4, 3, 3, 3), floats(4)],
                   {"activation": "Relu", "pads": [1, 1, 1, 1], "kernel_shape": [3, 3]}, 1),
    "fused_conv_sum": ("FusedConv", [floats(1, 3, 6, 6), floats(4, 3, 3, 3), floats(4), floats(1, 4, 4, 4)],
                       {"activation": "LeakyRelu", "activation_params": [0.2], "kernel_shape": [3, 3]}, 1),
    "fused_conv_clip": ("FusedConv", [floats(1, 3, 6, 6), floats(4, 3, 1, 1)],
                        {"activation": "Clip", "activation_params": [-0.1, 0.2], "kernel_shape": [1, 1]}, 1),
    "fused_gemm": ("FusedGemm", [floats(4, 5), floats(3, 5), floats(3)],
                   {"transB": 1, "alpha": 0.5, "activation": "Tanh"}, 1),
    "fused_matmul": ("FusedMatMul", [floats(2, 4, 5), floats(2, 3, 5)], {"transB": 1, "alpha": 0.25}, 1),
    "attention": ("Attention", [floats(2, 5, 8), floats(8, 24), floats(24), MASK], {"num_heads": 2}, 1),
    "attention_causal": ("Attention", [floats(2, 5, 8), floats(8, 24), floats(24)],
                         {"num_heads": 2, "unidirectional": 1}, 1),
    "attention_state": ("Attention", [floats(2, 1, 8), floats(8, 24), floats(24), None, floats(2, 2, 2, 4, 4)],
                        {"num_heads": 2, "unidirectional": 1}, 2),
    "multi_head": ("MultiHeadAttention", [floats(2, 5, 8), floats(2, 5, 8), floats(2, 5, 8), floats(24), MASK],
                   {"num_heads": 2}, 1),
    "multi_head_bias": ("MultiHeadAttention",
                        [floats(2, 3, 8), floats(2, 5, 8), floats(2, 5, 8), None, None, floats(2, 2, 3, 5)],
                        {"num_heads": 2, "scale": 0.3}, 1),
}  # fmt: skip


def codes(*shape: int) -> Any:
    return RANDOM.integers(-100, 100, shape).astype(np.int8)


ROWS = np.clip(np.rint(floats(2, 5, 8) * 60 + 120), 0, 255).astype(np.uint8)
SCALE, ZERO = np.array(0.02, np.float32), np.array(120, np.uint8)
CASES |= {
    "integer_product": ("MatMulIntegerToFloat",
                        [ROWS, codes(8, 6), SCALE, np.abs(floats(6)), ZERO, codes(6), floats(6)], {}, 1),
    "integer_product_plain": ("MatMulIntegerToFloat", [ROWS, codes(8, 6), SCALE, SCALE], {}, 1),
    "dynamic_product": ("DynamicQuantizeMatMul", [floats(2, 5, 8), codes(8, 6), np.abs(floats(6)), codes(6), floats(6)],
                        {}, 1),
    "dynamic_product_plain": ("DynamicQuantizeMatMul", [floats(2, 5, 8), codes(8, 6), SCALE], {}, 1),
    "integer_attention": ("QAttention", [ROWS, codes(8, 24), floats(24), SCALE, np.abs(floats(24)) * 0.02, MASK, ZERO,
                                         np.zeros(24, np.int8)], {"num_heads": 2}, 1),
    "integer_attention_state": ("QAttention", [ROWS[:, :1], codes(8, 24), floats(24), SCALE, SCALE, None, ZERO, None,
                                               floats(2, 2, 2, 4, 4)], {"num_heads": 2, "unidirectional": 1}, 2),
    "dynamic_lstm": ("DynamicQuantizeLSTM", [floats(6, 2, 8), codes(1, 8, 16), codes(1, 4, 16), floats(1, 32), None,
                     None, None, None, SCALE.reshape(1) / 4, np.array([3], np.int8), SCALE.reshape(1) / 4,
                     np.array([-2], np.int8)], {"hidden_size": 4}, 3),
    "dynamic_lstm_both_ways": ("DynamicQuantizeLSTM", [floats(6, 2, 8), codes(2, 8, 16), codes(2, 4, 16), None, None,
                               floats(2, 2, 4), floats(2, 2, 4), None, np.abs(floats(2, 16)) * 0.01,
                               np.zeros((2, 16), np.int8), np.abs(floats(2, 16)) * 0.01, np.zeros((2, 16), np.int8)],
                               {"hidden_size": 4, "direction": "bidirectional"}, 3),
}  # fmt: skip
ROUNDED_STATES = 2e-2
"""What the rounding of inputs and states to 8 bits, which we leave out, makes of an LSTM's results."""


VOLUME = floats(2, 4, 5, 6, 7)
CASES |= {
    "max_pool": ("MaxPool", [VOLUME], {"kernel_shape": [2, 3, 2], "strides": [2, 1, 2], "pads": [1, 0, 1, 0, 1, 1]}, 1),
    "max_pool_ceil": ("MaxPool", [VOLUME], {"kernel_shape": [3, 3, 3], "strides": [2, 2, 2], "ceil_mode": 1}, 1),
    "max_pool_places": ("MaxPool", [VOLUME],
                        {"kernel_shape": [2, 3, 2], "strides": [2, 1, 2], "pads": [1, 0, 1, 0, 1, 1]}, 2),
    "max_pool_places_of_equals": ("MaxPool", [np.round(VOLUME)], {"kernel_shape": [3, 3, 2], "strides": [1, 2, 2]}, 2),
    "average_pool": ("AveragePool", [VOLUME], {"kernel_shape": [3, 3, 2], "pads": [1, 1, 0, 1, 1, 1]}, 1),
    "average_pool_pads": ("AveragePool", [VOLUME],
                          {"kernel_shape": [3, 2, 2], "pads": [1, 1, 0, 1, 1, 1], "count_include_pad": 1}, 1),
    "lp_pool": ("LpPool", [VOLUME], {"kernel_shape": [2, 2, 2], "p": 3}, 1),
    "conv_3d": ("Conv", [VOLUME, floats(6, 4, 3, 2, 3), floats(6)],
                {"strides": [2, 1, 1], "pads": [1, 0, 1, 1, 1, 1], "dilations": [1, 2, 1]}, 1),
    "conv_3d_groups": ("Conv", [VOLUME, floats(8, 2, 2, 3, 3)], {"group": 2, "dilations": [2, 1, 1]}, 1),
    "conv_3d_same": ("Conv", [VOLUME, floats(4, 1, 3, 3, 3)], {"group": 4, "auto_pad": "SAME_UPPER"}, 1),
    "conv_transpose_3d": ("ConvTranspose", [VOLUME, floats(4, 3, 2, 3, 2), floats(3)],
                          {"strides": [2, 1, 2], "pads": [0, 1, 0, 1, 0, 0], "output_padding": [1, 0, 1]}, 1),
    "conv_transpose_3d_groups": ("ConvTranspose", [VOLUME, floats(4, 2, 2, 2, 2)],
                                 {"group": 2, "dilations": [2, 1, 1]}, 1),
}  # fmt: skip
IMAGE = floats(2, 4, 7, 9)
CASES |= {
    "max_pool_places": ("MaxPool", [np.round(IMAGE)],
                        {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 1]}, 2),
    "max_pool_places_by_column": ("MaxPool", [np.round(IMAGE)], {"kernel_shape": [2, 3], "storage_order": 1}, 2),
    "max_pool_places_1d": ("MaxPool", [IMAGE[0]], {"kernel_shape": [3], "strides": [2], "ceil_mode": 1}, 2),
    "unpool": ("MaxUnpool", [floats(1, 2, 2, 3), np.array([[[[0, 3, 9], [12, 15, 22]], [[25, 26, 28], [37, 46, 40]]]])],
               {"kernel_shape": [2, 2], "strides": [2, 2]}, 1),
    "unpool_1d": ("MaxUnpool", [floats(1, 1, 3), np.array([[[1, 2, 5]]])],
                  {"kernel_shape": [3], "strides": [2], "pads": [0, 1]}, 1),
    "deform_conv": ("DeformConv", [IMAGE, floats(6, 4, 3, 2), 3 * floats(2, 12, 4, 8), floats(6), floats(2, 6, 4, 8)],
                    {"strides": [2, 1], "pads": [1, 0, 1, 1], "dilations": [1, 2]}, 1),
    "deform_conv_groups": ("DeformConv", [IMAGE, floats(6, 2, 2, 2), 3 * floats(2, 16, 6, 8)],
                           {"group": 2, "offset_group": 2}, 1),
}  # fmt: skip
WINDOWS = ("MaxPool", "AveragePool", "LpPool", "Conv", "ConvTranspose", "MaxUnpool", "DeformConv")
SECOND_OUTPUTS = {"EmbedLayerNormalization": TensorProto.INT32, "MaxPool": TensorProto.INT64}
"""Element types of outputs that are not float32."""


def model(name: str, constants: tuple[int, ...] = ()) -> tuple[onnx.ModelProto, dict[str, Any]]:
    op, inputs, attributes, outputs = CASES[name]
    names = [f"i{k}" if array is not None else "" for k, array in enumerate(inputs)]
    given = {n: a for n, a in zip(names, inputs, strict=True) if a is not None}
    domain = "" if op in ("SimplifiedLayerNormalization", *WINDOWS) else "com.microsoft"
    node = helper.make_node(op, names, [f"o{k}" for k in range(outputs)], name="it", domain=domain, **attributes)
    fixed = [f"i{k}" for k in constants]
    infos = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in given.items()
        if n not in fixed
    ]
    kinds = [TensorProto.FLOAT] * outputs
    if op in SECOND_OUTPUTS:
        kinds[1:] = [SECOND_OUTPUTS[op]] * (outputs - 1)
    results = [helper.make_tensor_value_info(f"o{k}", kind, None) for k, kind in enumerate(kinds)]
    tensors = [numpy_helper.from_array(given[n], n) for n in fixed]
    graph = helper.make_graph([node], "g", infos, results, tensors)
    opsets = [helper.make_opsetid("", 19), helper.make_opsetid("com.microsoft", 1)]
    feed = {n: a for n, a in given.items() if n not in fixed}
    return helper.make_model(graph, opset_imports=opsets, ir_version=9), feed


@pytest.mark.parametrize("name", CASES)
def test_agrees_with_onnx_runtime(name: str) -> None:
    constants = tuple(range(1, len(CASES[name][1]))) if CASES[name][0] in WINDOWS else ()
    constants = (5, 6) if CASES[name][0] == "GroupQueryAttention" else constants
    if name.startswith(("integer_", "dynamic_")):
        constants = tuple(k for k, array in enumerate(CASES[name][1]) if k and array is not None)
    proto, feed = model(name, constants)
    options = ort.SessionOptions()
    # Without VNNI its products of uint8 and int8 saturate at 16 bits, unless it is told not to.
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    expected = dict(zip([o.name for o in session.get_outputs()], session.run(None, feed), strict=True))
    got = Interpreter(import_onnx(proto)).run(feed)
    for output, array in expected.items():
        noise = ROUNDED_STATES if "lstm" in name else 1e-4 if constants else 2e-5
        np.testing.assert_allclose(got[output], array, rtol=1e-3, atol=noise)


def test_every_definition_is_tested() -> None:
    known = {name.removeprefix("com.microsoft.") for name in foreign_operators() if name.startswith("com.microsoft.")}
    assert {case[0] for case in CASES.values()} - set(WINDOWS) == known - {"TransposeMatMul"}


def test_lengths_that_are_known_at_run_time_are_refused() -> None:
    with pytest.raises(UnsupportedOpError, match="seqlens_k"):
        import_onnx(model("group_query")[0])


def test_padding_behind_sequences_of_a_batch() -> None:
    """Without a past, lengths may be computed at run time: keys behind the end of a sequence do not count."""
    batch, length, heads, kept, size = 3, 6, 4, 2, 16
    columns = {"q": heads * size, "k": kept * size, "v": kept * size}
    names = ["q", "k", "v", "", "", "ends", "total"]
    sizes = {"num_heads": heads, "kv_num_heads": kept}
    node = helper.make_node("GroupQueryAttention", names, ["y", "pk", "pv"], domain="com.microsoft", **sizes)
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [batch, length, c]) for n, c in columns.items()]
    inputs.append(helper.make_tensor_value_info("ends", TensorProto.INT32, [batch]))
    total = helper.make_tensor("total", TensorProto.INT32, [], [length])
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("y", "pk", "pv")]
    graph = helper.make_graph([node], "g", inputs, outputs, [total])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    rng = np.random.default_rng(0)
    given = {n: rng.normal(0, 1, (batch, length, c)).astype(np.float32) for n, c in columns.items()}
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for ends in ([5, 2, 3], [5, 5, 5], [0, 1, 4]):
        feed = {**given, "ends": np.array(ends, np.int32)}
        got = Interpreter(import_onnx(proto)).run(feed)
        for name, array in zip(("y", "pk", "pv"), session.run(None, feed), strict=True):
            np.testing.assert_allclose(got[name], array, rtol=1e-4, atol=1e-5)


def test_forms_beyond_a_definition_are_refused() -> None:
    proto, _ = model("attention")
    proto.graph.input[3].CopyFrom(helper.make_tensor_value_info("i3", TensorProto.INT32, [7]))
    with pytest.raises(UnsupportedOpError, match="mask of shape"):
        import_onnx(proto)


@pytest.mark.parametrize(
    ("op", "shapes", "says"),
    [
        ("Conv", [[1, 1, 400, 3, 3], [1, 1, 300, 3, 3]], "300 taps along depth"),
        ("DeformConv", [[1, 1, 2048, 2048], [1, 1, 3, 3], [1, 18, 2046, 2046]], "points are supported"),
    ],
)
def test_extents_beyond_any_network_are_refused_at_once(op: str, shapes: list[list[int]], says: str) -> None:
    infos = [helper.make_tensor_value_info(f"i{k}", TensorProto.FLOAT, shape) for k, shape in enumerate(shapes)]
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node(op, [i.name for i in infos], ["y"])], "g", infos, [y])
    with pytest.raises(UnsupportedOpError, match=says):
        import_onnx(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9))


@pytest.mark.parametrize("name", ["fashion_resnet14", "fashion_mobilenetv2"])
def test_a_model_that_onnx_runtime_has_optimized(name: str, tmp_path: Path) -> None:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    session = ort.InferenceSession(str(EXAMPLES / f"{name}.onnx"), options, providers=["CPUExecutionProvider"])
    kinds = {node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node}
    assert "FusedConv" in kinds
    x = {"input": floats(1, 1, 28, 28)}
    (expected,) = session.run(None, x)
    (got,) = Interpreter(import_onnx(tmp_path / "optimized.onnx")).run(x).values()
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("attribute", "says"),
    [
        (helper.make_attribute("auto_pad", "SAME"), "unknown auto_pad 'SAME'"),
        (helper.make_attribute("pads", [0, 0, -1, 0, 0, 0]), "none may be negative"),
    ],
)
def test_paddings_that_three_axes_do_not_have_are_refused(attribute: Any, says: str) -> None:
    proto, _ = model("conv_3d_groups", constants=(1,))
    proto.graph.node[0].attribute.append(attribute)
    with pytest.raises(UnsupportedOpError, match=says):
        import_onnx(proto)
