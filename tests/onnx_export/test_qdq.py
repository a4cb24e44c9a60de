"""QDQ models: ONNX Runtime computes what our integers do, and importing one again gives the same integers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from qcompile import driver, precision
from qcompile.errors import UsageError
from qcompile.export import export_qdq
from qcompile.ir.graph import Graph
from qcompile.ops.interpreter import Interpreter

SHAPE = (1, 3, 12, 12)


def weights() -> list[Any]:
    random = np.random.default_rng(5)
    shapes = {"w0": (8, 3, 3, 3), "w1": (8, 1, 3, 3), "w2": (8, 8, 1, 1), "w3": (5, 16), "w4": (8, 4, 2, 2), "b0": (8,),
              "b2": (8,), "b3": (5,), "slope": (8, 1, 1)}  # fmt: skip
    tensors = [numpy_helper.from_array(random.normal(0, 0.3, s).astype("f4"), n) for n, s in shapes.items()]
    return [*tensors, numpy_helper.from_array(np.array([1, 1, 2, 2], "f4"), "scales")]


def network(softmax: bool = True) -> Any:
    """Return a small network with most forms that a layer takes: residual, clamp, table, concat, pools, resize."""
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w0", "b0"], ["c0"], pads=[1, 1, 1, 1], strides=[2, 2]),
        node("Relu", ["c0"], ["r0"]),
        node("Conv", ["r0", "w1"], ["c1"], pads=[1, 1, 1, 1], group=8),
        node("Sigmoid", ["c1"], ["g1"]),
        node("Mul", ["c1", "g1"], ["m1"]),
        node("Conv", ["m1", "w2", "b2"], ["c2"]),
        node("Add", ["c2", "r0"], ["a2"]),
        node("Relu", ["a2"], ["r2"]),
        node("PRelu", ["r2", "slope"], ["l2"]),
        node("MaxPool", ["l2"], ["p2"], kernel_shape=[2, 2], strides=[2, 2]),
        node("AveragePool", ["r2"], ["q2"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Resize", ["p2", "", "scales"], ["u2"], mode="nearest", coordinate_transformation_mode="asymmetric",
             nearest_mode="floor"),
        node("ConvTranspose", ["u2", "w4"], ["t2"], strides=[1, 1], group=1),
        node("GlobalAveragePool", ["t2"], ["v2"]),
        node("GlobalAveragePool", ["q2"], ["v1"]),
        node("Concat", ["v1", "v3"], ["j"], axis=1),
        node("Flatten", ["j"], ["f"]),
        node("Gemm", ["f", "w3", "b3"], ["z"], transB=1),
        node("Softmax" if softmax else "Identity", ["z"], ["y"]),
    ]  # fmt: skip
    nodes.insert(15, node("Concat", ["v2", "v2"], ["v3"], axis=1))
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 5])]
    graph = helper.make_graph(nodes, "net", inputs, outputs, weights())
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def samples(count: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(seed)
    return [{"x": random.normal(0, 1, SHAPE).astype("f4")} for _ in range(count)]


def integers(path: Path, **settings: Any) -> Graph:
    """Return the integer graph that `qcompile` makes of a model."""
    config = driver.resolve_config(path, None, {**settings, "precision": "int8"})
    given = samples(16)
    context, _, graph = driver.prepare(path, config, given, None)
    simplified, _ = driver.simplify(graph, config, context, ())
    return driver.to_precision(simplified, config, context, ())[0]


def answers(graph: Graph) -> np.ndarray:
    return np.concatenate([Interpreter(graph).run(s)["y"] for s in samples(8, seed=1)])


def runtime_answers(path: Path, optimize: bool) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Without VNNI its products of uint8 and int8 saturate at 16 bits, unless it is told not to.
    options.add_session_config_entry("session.x64quantprecision", "1")
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, s)[0] for s in samples(8, seed=1)])


@pytest.fixture
def model(tmp_path: Path) -> Path:
    onnx.save(network(), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


WIDE = ["c1", "c2", "op:add", "op:global_avg_pool"]
"""Nodes on 16 bits beside others on 8: what both read is rounded twice."""


@pytest.mark.parametrize(
    "settings",
    [{}, {"keep_float": ["op:silu"]}, {"keep_float": ["c2"]}, *({"keep_int16": [name]} for name in WIDE)],
    ids=["all", "table", "layer", *WIDE],
)
def test_onnx_runtime_computes_the_same_within_a_step(model: Path, settings: dict[str, list[str]]) -> None:
    done = export_qdq(model, model.with_name("q.onnx"), calibration=samples(16), settings=settings)
    onnx.checker.check_model(onnx.load(done.path), full_check=True)
    ours = answers(integers(model, **settings))
    exact = answers(driver.simplify(*_float(model), ())[0])
    for optimize in (False, True):
        found = runtime_answers(done.path, optimize)
        # A step of the last rounded tensor, of 255, moves a probability by less than this.
        assert np.abs(found - ours).max() < 0.01
        assert np.abs(found - exact).max() < 0.05
    assert done.real > 0
    assert done.roundings > 8


def _float(model: Path) -> tuple[Any, ...]:
    config = driver.resolve_config(model, None, {"precision": "fp32"})
    context, _, graph = driver.prepare(model, config, None, None)
    return graph, config, context


def test_scales_are_per_channel_and_biases_fit_them(model: Path) -> None:
    done = export_qdq(model, model.with_name("q.onnx"), calibration=samples(16))
    written = onnx.load(done.path)
    tensors = {t.name: numpy_helper.to_array(t) for t in written.graph.initializer}
    makers = {name: node for node in written.graph.node for name in node.output}
    convolutions = [node for node in written.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 3
    for node in convolutions:
        x, weight, bias = (makers[name] for name in node.input)
        assert tensors[weight.input[0]].dtype == np.int8
        assert tensors[bias.input[0]].dtype == np.int32
        outputs = tensors[weight.input[0]].shape[0]
        assert tensors[weight.input[1]].shape == (outputs,)
        steps = tensors[x.input[1]] * tensors[weight.input[1]]
        np.testing.assert_allclose(tensors[bias.input[1]], steps, rtol=1e-6)


def test_excluded_nodes_stay_real(model: Path) -> None:
    plain = export_qdq(model, model.with_name("a.onnx"), calibration=samples(16))
    kept = export_qdq(model, model.with_name("b.onnx"), calibration=samples(16), settings={"keep_float": ["c2"]})
    weights_of = [
        {numpy_helper.to_array(t).dtype for t in onnx.load(e.path).graph.initializer if t.name.startswith("w2")}
        for e in (plain, kept)
    ]
    assert np.dtype("int8") in weights_of[0]
    assert weights_of[1] == {np.dtype("float32")}
    assert kept.real > plain.real


def test_importing_again_gives_the_same_integers(tmp_path: Path) -> None:
    onnx.save(network(softmax=False), tmp_path / "net.onnx")
    done = export_qdq(tmp_path / "net.onnx", tmp_path / "q.onnx", calibration=samples(16))
    first, again = integers(tmp_path / "net.onnx"), integers(done.path)
    np.testing.assert_array_equal(answers(again), answers(first))
    count = [sum(n.op.name == "conv2d" and n.is_integer for n in g.nodes) for g in (first, again)]
    assert count == [3, 3]


@pytest.mark.parametrize("settings", [{}, {"keep_int16": ["c2", "op:add"]}], ids=["8 bits", "16 bits"])
def test_all_tensors_have_a_type_and_a_shape(model: Path, settings: dict[str, list[str]]) -> None:
    done = export_qdq(model, model.with_name("q.onnx"), calibration=samples(16), settings=settings)
    graph = onnx.load(done.path).graph
    told = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in graph.value_info}
    between = {name for node in graph.node for name in node.output} - {"y"}
    assert set(told) == between
    assert all(i.type.tensor_type.elem_type for i in graph.value_info)
    # Each tensor that a tool asks for as a further output is of the type and shape told.
    probed = onnx.load(done.path)
    probed.graph.output.extend(probed.graph.value_info)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(probed.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = sorted(between)
    for name, found in zip(names, session.run(names, samples(1)[0]), strict=True):
        assert list(found.shape) == told[name]


@pytest.mark.parametrize("name", WIDE)
def test_importing_again_keeps_16_bits(tmp_path: Path, name: str) -> None:
    onnx.save(network(softmax=False), tmp_path / "net.onnx")
    settings = {"keep_int16": [name]}
    done = export_qdq(tmp_path / "net.onnx", tmp_path / "q.onnx", calibration=samples(16), settings=settings)
    first, again = integers(tmp_path / "net.onnx", **settings), integers(done.path)
    assert any(v.dtype == "int16" for v in again.values())
    np.testing.assert_array_equal(answers(again), answers(first))


def test_moved_8_bits_beside_16_load_with_all_optimizations(tmp_path: Path) -> None:
    node = helper.make_node
    nodes = [
        node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]),
        node("Conv", ["t", "w0", "b0"], ["c0"], pads=[1, 1, 1, 1]),
        node("Sigmoid", ["c0"], ["s0"]),
        node("GlobalAveragePool", ["s0"], ["v"]),
        node("Flatten", ["v"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 12, 12, 3])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8])]
    graph = helper.make_graph(nodes, "net", inputs, outputs, weights())
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "n.onnx")
    given = [{"x": s["x"].transpose(0, 2, 3, 1)} for s in samples(8)]
    done = export_qdq(tmp_path / "n.onnx", tmp_path / "q.onnx", calibration=given, settings={"keep_int16": ["s0"]})
    written = onnx.load(done.path)
    onnx.checker.check_model(written, full_check=True)
    session = onnxruntime.InferenceSession(str(done.path), providers=["CPUExecutionProvider"])
    config = driver.resolve_config(done.path, None, {"precision": "int8"})
    context, _, imported = driver.prepare(done.path, config, None, None)
    again = driver.to_precision(driver.simplify(imported, config, context, ())[0], config, context, ())[0]
    assert any(v.dtype == "int16" for v in again.values())
    for sample in given:
        np.testing.assert_allclose(session.run(None, sample)[0], Interpreter(again).run(sample)["y"], atol=0.004)


def activated(first: str) -> Any:
    """Return layers with activations that integer layers apply before they round."""
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w0", "b0"], ["c0"], pads=[1, 1, 1, 1]),
        node(first, ["c0", "slope"], ["p0"]) if first == "PRelu" else node(first, ["c0"], ["p0"], alpha=0.1),
        node("Conv", ["p0", "w1"], ["c1"], pads=[1, 1, 1, 1], group=8),
        node("LeakyRelu", ["c1"], ["p1"], alpha=0.2),
        node("Conv", ["p1", "w2", "b2"], ["c2"]),
        node("HardSwish", ["c2"], ["p2"]),
        node("Conv", ["p2", "w2", "b2"], ["c3"]),
        node("GlobalAveragePool", ["c3"], ["v"]),
        node("Flatten", ["v"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8])]
    graph = helper.make_graph(nodes, "net", inputs, outputs, weights())
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("first", ["PRelu", "LeakyRelu"])
def test_activations_before_the_rounding(first: str, tmp_path: Path) -> None:
    onnx.save(activated(first), tmp_path / "net.onnx")
    ours = integers(tmp_path / "net.onnx")
    fused = [n.attrs.activation for n in ours.nodes if n.op.name == "conv2d" and n.is_integer]
    assert fused == ["prelu" if first == "PRelu" else "leaky_relu", "leaky_relu", "hard_swish", "none"]
    done = export_qdq(tmp_path / "net.onnx", tmp_path / "q.onnx", calibration=samples(16))
    np.testing.assert_allclose(runtime_answers(done.path, True), answers(ours), atol=0.02)
    again = integers(done.path)
    assert [n.attrs.activation for n in again.nodes if n.op.name == "conv2d" and n.is_integer] == fused
    np.testing.assert_array_equal(answers(again), answers(ours))


def test_few_weights_a_channel_keep_their_scales(tmp_path: Path) -> None:
    """Whatever else a single weight is a multiple of."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], group=3),
        helper.make_node("Conv", ["c", "w0", "b0"], ["y"], pads=[1, 1, 1, 1]),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8, 12, 12])]
    single = numpy_helper.from_array(np.array([0.3, -1.7, 0.9], "f4").reshape(3, 1, 1, 1), "w")
    graph = helper.make_graph(nodes, "net", inputs, outputs, [*weights(), single])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "n.onnx")
    done = export_qdq(tmp_path / "n.onnx", tmp_path / "q.onnx", calibration=samples(16))
    first, again = integers(tmp_path / "n.onnx"), integers(done.path)
    scales = [
        [n.inputs[1].qparams.scale for n in graph.nodes if n.op.name == "conv2d" and n.inputs[1].qparams is not None]
        for graph in (first, again)
    ]
    assert scales[0] == scales[1]
    np.testing.assert_array_equal(answers(again), answers(first))


def test_from_16_bits_to_8_is_a_requantization(tmp_path: Path) -> None:
    wide = [numpy_helper.from_array(np.float32(0.00017), "s16"), numpy_helper.from_array(np.int16(5), "z16")]
    narrow = [numpy_helper.from_array(np.float32(0.0307717), "s8"), numpy_helper.from_array(np.int8(-3), "z8")]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s16", "z16"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s16", "z16"], ["a"]),
        helper.make_node("QuantizeLinear", ["a", "s8", "z8"], ["q8"]),
        helper.make_node("DequantizeLinear", ["q8", "s8", "z8"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, SHAPE) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], [*wide, *narrow])
    path = tmp_path / "n.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    ours = integers(path)
    assert "requantize" in [node.op.name for node in ours.nodes]
    np.testing.assert_array_equal(answers(ours), runtime_answers(path, False))


def test_same_input_same_bytes(model: Path) -> None:
    files = [export_qdq(model, model.with_name(n), calibration=samples(8)).path for n in ("a.onnx", "b.onnx")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_the_model_itself_is_never_overwritten(model: Path) -> None:
    with pytest.raises(UsageError, match="is the model itself"):
        export_qdq(model, model, calibration=samples(4))


def test_an_operation_without_a_form_names_the_node(tmp_path: Path) -> None:
    node = helper.make_node("CumSum", ["x", "axis"], ["y"], name="Sum_0")
    axis = numpy_helper.from_array(np.array(1, np.int64), "axis")
    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, SHAPE) for n in ("x", "y")]
    graph = helper.make_graph([node], "net", value[:1], value[1:], [axis])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "n.onnx")
    with pytest.raises(UsageError, match="at 'Sum_0' is not written to ONNX"):
        export_qdq(tmp_path / "n.onnx", tmp_path / "q.onnx", calibration=samples(4))


def test_the_command(model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from qcompile.cli import run_command

    np.savez(model.with_name("calib.npz"), x=np.concatenate([s["x"] for s in samples(8)]))
    target = model.with_name("q.onnx")
    assert run_command(["export-qdq", str(model), "--calib", str(model.with_name("calib.npz")), "-o", str(target)]) == 0
    said = capfd.readouterr().out
    assert "nodes in integers" in said
    assert " bytes: " in said or " KiB: " in said, "a small file is not 0.00 MiB"
    assert run_command(["export-qdq", str(model), "-o", str(model)]) == 2
    assert "error:" in capfd.readouterr().err


def save(nodes: list[Any], path: Path, shapes: tuple[list[int], list[int]], *tensors: Any) -> Path:
    """Write a model from x to y."""
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in zip("xy", shapes, strict=True)]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], [*weights(), *tensors])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def refuse(*_: Any, **__: Any) -> Any:
    """Stand for a step that must not be reached."""
    raise AssertionError("calibrated first")


def test_what_cannot_be_written_is_refused_before_calibration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "with_observers", refuse)
    axis = numpy_helper.from_array(np.array(1, np.int64), "axis")
    sums = save(
        [helper.make_node("CumSum", ["x", "axis"], ["y"])], tmp_path / "s.onnx", (list(SHAPE), list(SHAPE)), axis
    )
    with pytest.raises(UsageError, match="is not written to ONNX"):
        export_qdq(sums, tmp_path / "q.onnx", calibration=samples(4))
    for place, problem in (
        ("none/q.onnx", "there is no folder"),
        ("s.onnx/q.onnx", "is not a folder"),
        (".", "it is a folder"),
        (f"{'q' * 251}.onnx", "File name too long"),
    ):
        with pytest.raises(UsageError, match=f"cannot write.*{problem}") as refused:
            export_qdq(sums, tmp_path / place, calibration=samples(4))
        assert place != "." or refused.value.hint == f"name a file in it: {tmp_path / 's.qdq.onnx'}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.onnx"]


def up(x: str, y: str, channels: int) -> tuple[Any, Any]:
    """Return a grouped transposed convolution of two taps, and its weights."""
    kernels = np.random.default_rng(1).uniform(0.1, 0.3, (channels, 1, 2, 2)).astype("f4")
    node = helper.make_node("ConvTranspose", [x, "grouped"], [y], name="up 1", group=channels, strides=[2, 2])
    return node, numpy_helper.from_array(kernels, "grouped")


@pytest.mark.parametrize(("groups", "outputs"), [(8, 1), (8, 2), (4, 1), (2, 3)])
def test_a_grouped_transposed_convolution_in_integers(tmp_path: Path, groups: int, outputs: int) -> None:
    """Its scales count outputs, which no axis of its weights in ONNX does."""
    random = np.random.default_rng(1)
    kernels = random.normal(0, 0.3, (8, outputs, 2, 2)).astype("f4")
    kernels *= np.linspace(1, 5, outputs, dtype="f4").reshape(1, -1, 1, 1) * random.uniform(0.2, 4, (8, 1, 1, 1))
    nodes = [
        helper.make_node("Conv", ["x", "w0", "b0"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("ConvTranspose", ["c", "up"], ["y"], name="up", group=groups, strides=[2, 2]),
    ]
    shapes = list(SHAPE), [1, groups * outputs, 24, 24]
    path = save(nodes, tmp_path / "t.onnx", shapes, numpy_helper.from_array(kernels.astype("f4"), "up"))
    done = export_qdq(path, tmp_path / "q.onnx", calibration=samples(16))
    onnx.checker.check_model(onnx.load(done.path), full_check=True)
    made, again = integers(path), integers(done.path)
    for graph in (made, again):
        assert any(node.op.name == "conv_transpose2d" and node.is_integer for node in graph.nodes)
    np.testing.assert_array_equal(answers(again), answers(made))
    step = np.ptp(answers(made)) / 255
    for optimize in (False, True):
        np.testing.assert_allclose(runtime_answers(done.path, optimize), answers(made), atol=1.01 * step)


def test_a_grouped_transposed_convolution_that_leaves_integers_is_written(tmp_path: Path) -> None:
    """What compilation keeps in float by itself, here because a logarithm follows, needs no integer form."""
    node, kernels = up("s", "u", 8)
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Softmax", ["c"], ["s"], axis=1),
        node,
        helper.make_node("Log", ["u"], ["y"]),
    ]
    path = save(nodes, tmp_path / "t.onnx", (list(SHAPE), [1, 8, 24, 24]), kernels)
    done = export_qdq(path, tmp_path / "q.onnx", calibration=samples(12))
    assert done.integer
    onnx.checker.check_model(onnx.load(done.path), full_check=True)
    np.testing.assert_allclose(runtime_answers(done.path, True), answers(integers(path)), atol=0.05)


def test_truth_values_are_written(tmp_path: Path) -> None:
    node = helper.make_node
    zero = numpy_helper.from_array(np.zeros((), "f4"), "zero")
    nodes = [
        node("Conv", ["x", "w0", "b0"], ["c"], pads=[1, 1, 1, 1]),
        node("Greater", ["c", "zero"], ["more"]),
        node("Not", ["more"], ["less"]),
        node("IsNaN", ["c"], ["none"]),
        node("Or", ["less", "none"], ["either"]),
        node("Where", ["either", "zero", "c"], ["y"]),
    ]
    path = save(nodes, tmp_path / "n.onnx", (list(SHAPE), [1, 8, 12, 12]), zero)
    done = export_qdq(path, tmp_path / "q.onnx", calibration=samples(16))
    assert {"Not", "Or", "IsNaN"} <= {n.op_type for n in onnx.load(done.path).graph.node}
    np.testing.assert_allclose(runtime_answers(done.path, True), answers(integers(path)), atol=0.05)


def test_unrolled_loops_are_told(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    w, r = (numpy_helper.from_array(random.normal(0, 0.3, (1, 32, n)).astype("f4"), k) for k, n in (("w", 4), ("r", 8)))
    nodes = [
        helper.make_node("LSTM", ["x", "w", "r"], ["all"], hidden_size=8),
        helper.make_node("Identity", ["all"], ["y"]),
    ]
    given = [{"x": random.normal(size=(12, 1, 4)).astype("f4")} for _ in range(4)]
    for steps, told in ((12, True), (2, False)):
        path = save(nodes, tmp_path / "n.onnx", ([steps, 1, 4], [steps, 1, 1, 8]), w, r)
        part = [{"x": sample["x"][:steps]} for sample in given]
        done = export_qdq(path, tmp_path / "q.onnx", calibration=part)
        assert any("loops are unrolled" in note for note in done.notes) is told


@pytest.mark.parametrize("name", ["Resize", "Pad"])
def test_what_moves_and_rounds_is_rounded(name: str, tmp_path: Path) -> None:
    """What is mixed, or added at the edges, lies on the grid of its operand in the model as it does in a bundle."""
    scales = numpy_helper.from_array(np.array([1, 1, 2, 2], "f4"), "twice")
    pads = numpy_helper.from_array(np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64), "pads")
    fill = numpy_helper.from_array(np.float32(0.3), "fill")
    inputs, extent = (["c0", "", "twice"], 24) if name == "Resize" else (["c0", "pads", "fill"], 14)
    nodes = [
        helper.make_node("Conv", ["x", "w0", "b0"], ["c0"], pads=[1, 1, 1, 1]),
        helper.make_node(name, inputs, ["u"], **({"mode": "linear"} if name == "Resize" else {})),
        helper.make_node("Conv", ["u", "w2", "b2"], ["y"]),
    ]
    path = save(nodes, tmp_path / "n.onnx", (list(SHAPE), [1, 8, extent, extent]), scales, pads, fill)
    done = export_qdq(path, tmp_path / "q.onnx", calibration=samples(16))
    ours = integers(path)
    assert all(node.is_integer for node in ours.nodes if node.op.name in ("resize", "pad"))
    # Where the mixed sum lies halfway between two integers, float32 may end at either.
    most = 0.2 if name == "Resize" else 0.01
    assert np.mean(runtime_answers(done.path, False) != answers(ours)) < most
    np.testing.assert_array_equal(answers(integers(done.path)), answers(ours))


@pytest.mark.parametrize("kept", [[], ["a"]], ids=["8 bits", "16 bits beside 8"])
def test_what_floats_give_is_rounded_in_two_ways(kept: list[str], tmp_path: Path) -> None:
    """A layer reads 8 bits of what a softmax gives, the addition beside it 16: both run in integers again."""
    nodes = [
        helper.make_node("Conv", ["x", "w0", "b0"], ["c0"], pads=[1, 1, 1, 1]),
        helper.make_node("Softmax", ["c0"], ["s"], axis=1),
        helper.make_node("Conv", ["s", "w2", "b2"], ["c2"]),
        helper.make_node("Add", ["s", "c2"], ["a"]),
        helper.make_node("Sigmoid", ["a"], ["y"]),
    ]
    path = save(nodes, tmp_path / "n.onnx", (list(SHAPE), [1, 8, 12, 12]))
    ours = integers(path, keep_int16=kept)
    roundings = {node.output.dtype for node in ours.nodes if node.op.name == "quantize" and node.inputs[0].name == "s"}
    assert roundings == ({"int8", "int16"} if kept else {"int8"})
    done = export_qdq(path, tmp_path / "q.onnx", calibration=samples(16), settings={"keep_int16": kept})
    again = integers(done.path)
    assert not any(node.op.name in ("fake_quantize", "identity") for node in again.nodes)
    np.testing.assert_array_equal(answers(again), answers(ours))


def test_open_extents_are_told_to_be_the_largest(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w0", "b0"], ["c0"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c0"], ["y"]),
    ]
    path = save(nodes, tmp_path / "n.onnx", ([1, 3, "H", 12], [1, 8, "H", 12]))
    settings = {"input_shapes": {"x": [1, 3, "H:4..12", 12]}}
    done = export_qdq(path, tmp_path / "q.onnx", calibration=samples(16), settings=settings)
    assert any("the largest sizes alone: x 1×3×12×12" in note for note in done.notes)
    (given,) = onnx.load(done.path).graph.input
    assert [extent.dim_value for extent in given.type.tensor_type.shape.dim] == list(SHAPE)
