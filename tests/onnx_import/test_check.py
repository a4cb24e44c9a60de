"""Models that are not well formed, or that use what qcompile does not have."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from qcompile.errors import ModelImportError, UnsupportedOpError
from qcompile.onnx_import import import_onnx
from qcompile.ops.interpreter import Interpreter


def refused(model: Any, *says: str) -> ModelImportError:
    with pytest.raises(ModelImportError) as caught:
        import_onnx(model)
    for text in says:
        assert text in str(caught.value)
    return caught.value


def relu(x: str, y: str, name: str = "") -> Any:
    return helper.make_node("Relu", [x], [y], name=name)


# -- structure --------------------------------------------------------------------------------------------


def test_cycle_is_shown(build: Any) -> None:
    nodes = [
        helper.make_node("Add", ["x", "c"], ["a"], name="first"),
        relu("a", "b", "second"),
        relu("b", "c", "third"),
        relu("b", "y", "last"),
    ]
    error = refused(build(nodes, {"x": [4]}), "has a cycle")
    assert "first → second → third → first" in str(error)


def test_node_that_reads_itself(build: Any) -> None:
    refused(build([helper.make_node("Add", ["x", "y"], ["y"], name="loop")], {"x": [4]}), "loop → loop")


def test_nodes_out_of_order_are_sorted_with_a_note(build: Any) -> None:
    nodes = [relu("b", "y", "third"), relu("x", "a", "first"), relu("a", "b", "second")]
    graph = import_onnx(build(nodes, {"x": [4]}))
    assert [n.loc for n in graph.nodes] == ["first", "second", "third"]
    assert graph.notes == ["the nodes of the model were not in topological order and were sorted"]


def test_input_that_nothing_defines(build: Any) -> None:
    refused(build([relu("ghost", "y", "act")], {"x": [4]}), "node act (Relu)", "'ghost'", "which nothing defines")


def test_output_that_nothing_computes(build: Any) -> None:
    refused(build([relu("x", "y")], {"x": [4]}, outputs=["z"]), "output 'z'", "computed by no node")


def test_model_without_outputs(build: Any) -> None:
    refused(build([relu("x", "y")], {"x": [4]}, outputs=[]), "has no outputs")


@pytest.mark.parametrize(
    ("nodes", "says"),
    [
        ([relu("x", "y", "one"), relu("x", "y", "two")], "'y' twice: node one and node two"),
        ([relu("x", "x", "one"), relu("x", "y", "two")], "'x' twice: an input and node one"),
        ([relu("x", "w", "one"), relu("w", "y", "two")], "'w' twice: an initializer and node one"),
    ],
)
def test_tensor_defined_twice(build: Any, nodes: Any, says: str) -> None:
    refused(build(nodes, {"x": [4]}, constants={"w": np.ones(4, np.float32)}), says)


def test_two_inputs_or_outputs_of_one_name(build: Any) -> None:
    model = build([relu("x", "y")], {"x": [4]})
    model.graph.input.append(model.graph.input[0])
    refused(model, "two inputs named 'x'")
    refused(build([relu("x", "y")], {"x": [4]}, outputs=["y", "y"]), "two outputs named 'y'")


def test_two_nodes_of_one_name_are_told_apart(build: Any) -> None:
    nodes = [relu("x", "a", "act"), relu("a", "b", "act"), relu("b", "y", "Relu_1")]
    graph = import_onnx(build(nodes, {"x": [4]}))
    assert [n.loc for n in graph.nodes] == ["act", "Relu_1_", "Relu_1"]


def test_names_are_made_up_from_operator_and_position(build: Any) -> None:
    nodes = [relu("x", "a"), helper.make_node("Neg", ["x"], ["dead"]), helper.make_node("Neg", ["a"], ["y"])]
    graph = import_onnx(build(nodes, {"x": [4]}))
    assert [n.loc for n in graph.nodes] == ["Relu_0", "Neg_2"]


def test_checker_messages_are_one_error(build: Any) -> None:
    refused(build([helper.make_node("Relu", ["x", "x"], ["y"], name="act")], {"x": [4]}), "not a valid ONNX model")
    refused(build([helper.make_node("Concat", ["x"], ["y"], name="cat")], {"x": [4]}), "axis")
    refused(build([helper.make_node("Relu", ["x"], ["y"], alpha=1)], {"x": [4]}), "alpha")


# -- versions ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opset", range(1, onnx.defs.onnx_opset_version() + 1))
def test_every_opset_is_read(build: Any, opset: int) -> None:
    assert [n.op.name for n in import_onnx(build([relu("x", "y")], {"x": [4]}, opset=opset)).nodes] == ["relu"]


@pytest.mark.parametrize("opset", [0, -3])
def test_opsets_that_never_were_are_refused(build: Any, opset: int) -> None:
    refused(build([relu("x", "y")], {"x": [4]}, opset=opset), f"operator set {opset}", "1 to")


def test_opset_of_the_future(build: Any) -> None:
    error = refused(build([relu("x", "y")], {"x": [4]}, opset=999), "operator set 999", onnx.__version__)
    assert "--upgrade onnx" in str(error.hint)


def test_model_without_an_opset(build: Any) -> None:
    model = build([relu("x", "y")], {"x": [4]})
    del model.opset_import[:]
    refused(model, "does not say")


# -- operators --------------------------------------------------------------------------------------------


def test_all_unsupported_operators_come_in_one_error(build: Any) -> None:
    nodes = [
        helper.make_node("RandomNormalLike", ["x"], ["a"], name="d0"),
        helper.make_node("RandomNormalLike", ["x"], ["b"], name="d1"),
        helper.make_node("RandomUniformLike", ["a"], ["c"]),
        helper.make_node("FusedGelu", ["b"], ["d"], name="f0", domain="com.microsoft"),
        helper.make_node("Sum", ["b", "c", "d"], ["y"]),
    ]
    model = build(nodes, {"x": [2, 2]}, opsets=[helper.make_opsetid("com.microsoft", 1)])
    with pytest.raises(UnsupportedOpError) as caught:
        import_onnx(model)
    assert str(caught.value) == (
        "model uses operators that are not supported: RandomNormalLike (node d0 and 1 more), "
        "RandomUniformLike (node RandomUniformLike_2), com.microsoft.FusedGelu (node f0)"
    )
    assert "`qcompile ops`" in str(caught.value.hint)


def test_operators_that_onnx_does_not_know(build: Any) -> None:
    nodes = [
        helper.make_node("Magic", ["x"], ["a"], name="m"),
        helper.make_node("RandomNormalLike", ["a"], ["y"], name="d"),
    ]
    error = refused(build(nodes, {"x": [2, 2]}), "RandomNormalLike (node d)", "Magic (node m)")
    assert isinstance(error, UnsupportedOpError)


def test_unsupported_forms_are_collected_too(build: Any) -> None:
    nodes = [
        helper.make_node("MaxPool", ["x"], ["a"], name="volume", kernel_shape=[1] * 4),
        helper.make_node("RandomNormalLike", ["x"], ["b"], name="d"),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    refused(build(nodes, {"x": [1, 1, 2, 2, 2, 2]}), "RandomNormalLike (node d)", "node volume (MaxPool): 4-D pooling")


def test_one_unsupported_form_names_the_node_and_the_file(build: Any) -> None:
    nodes = [helper.make_node("Reshape", ["x", "s"], ["y"], name="shape")]
    shape = helper.make_tensor_value_info("s", TensorProto.INT64, [1])
    error = refused(build(nodes, {"x": [4], "s": shape}), "node shape (Reshape): shape is computed at run time")
    assert error.loc == "model"
    assert "--input-shape" in str(error.hint)


def test_unsupported_operators_that_no_output_needs_do_not_matter(build: Any) -> None:
    nodes = [helper.make_node("RandomNormalLike", ["x"], ["unused"]), relu("x", "y")]
    assert len(import_onnx(build(nodes, {"x": [2, 2]})).nodes) == 1


def test_outputs_that_are_not_made_matter_only_if_read(build: Any) -> None:
    norm = helper.make_node("LayerNormalization", ["x", "s"], ["y", "mean"], name="norm")
    inputs = {"x": [3, 4], "s": [4]}
    assert import_onnx(build([norm], inputs)).output_names == ["y"]
    refused(build([norm], inputs, outputs=["y", "mean"]), "node norm (LayerNormalization): its output 1 ('mean')")
    reader = helper.make_node("Relu", ["mean"], ["z"])
    refused(build([norm, reader], inputs, outputs=["y", "z"]), "node norm (LayerNormalization): its output 1 ('mean')")


def test_an_operator_with_a_definition_is_not_blamed_for_what_it_reads(build: Any) -> None:
    nodes = [
        helper.make_node("RandomNormalLike", ["a"], ["x"], name="d"),
        helper.make_node("MaxUnpool", ["x", "i"], ["y"], name="u", kernel_shape=[2, 2]),
    ]
    with pytest.raises(UnsupportedOpError) as caught:
        import_onnx(build(nodes, {"a": [1, 1, 2, 2], "i": [1, 1]}))
    assert "RandomNormalLike (node d)" in str(caught.value)
    assert "MaxUnpool (node" not in str(caught.value)


def test_outputs_without_a_name_are_left_out(build: Any) -> None:
    constants = {n: np.ones(3, np.float32) for n in "sbmv"}
    node = helper.make_node("BatchNormalization", ["x", *"sbmv"], ["y", "", "", "", ""], name="bn")
    model = build([node], {"x": [2, 3, 4]}, constants=constants, opset=9)
    assert [n.op.name for n in import_onnx(model).nodes] == ["batch_norm"]
    node.output[2] = "variance"
    refused(build([node], {"x": [2, 3, 4]}, constants=constants, opset=9), "node bn", "training mode")


def test_quantized_models_get_a_hint_of_their_own(build: Any) -> None:
    constants = {"s": np.array(0.5, np.float32), "z": np.array(0, np.int8)}
    node = helper.make_node("QLinearWhere", ["x", "s", "z"], ["y"], name="q", domain="com.microsoft")
    model = build([node], {"x": [4]}, constants=constants, opsets=[helper.make_opsetid("com.microsoft", 1)])
    error = refused(model, "com.microsoft.QLinearWhere (node q)")
    assert "quantized already" in str(error.hint)


def test_a_condition_at_run_time_is_unsupported(build: Any) -> None:
    branch = helper.make_graph([relu("x", "inner")], "b", [], [onnx.ValueInfoProto(name="inner")])
    branch.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
    branch.output[0].type.tensor_type.shape.SetInParent()
    node = helper.make_node("If", ["c"], ["y"], name="choice", then_branch=branch, else_branch=branch)
    condition = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    error = refused(build([node], {"x": [4], "c": condition}), "choice (If): its condition is computed at run time")
    assert isinstance(error, UnsupportedOpError)


# -- local functions --------------------------------------------------------------------------------------


def function_model(build: Any, body: list[Any], opset: int = 17) -> Any:
    function = helper.make_function(
        "local", "Twice", ["a"], ["b"], body, [helper.make_opsetid("", opset)], attributes=["alpha"]
    )
    nodes = [
        helper.make_node("Twice", ["x"], ["m"], name="t0", domain="local", alpha=0.5),
        helper.make_node("Twice", ["m"], ["y"], name="t1", domain="local", alpha=0.25),
    ]
    return build(nodes, {"x": [4]}, functions=[function], opsets=[helper.make_opsetid("local", 1)])


def test_local_functions_are_inlined(build: Any) -> None:
    leaky = helper.make_node("LeakyRelu", ["a"], ["t"])
    attribute = leaky.attribute.add(name="alpha", ref_attr_name="alpha")
    attribute.type = onnx.AttributeProto.FLOAT
    graph = import_onnx(function_model(build, [leaky, helper.make_node("Add", ["t", "t"], ["b"])]))
    assert [n.op.name for n in graph.nodes] == ["leaky_relu", "add", "leaky_relu", "add"]
    x = np.array([-1, 2, -3, 4], np.float32)
    assert Interpreter(graph).run({"x": x})["y"].tolist() == [-0.5, 8.0, -1.5, 16.0]


def test_local_functions_have_default_attributes(build: Any) -> None:
    leaky = helper.make_node("LeakyRelu", ["a"], ["b"])
    leaky.attribute.add(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT)
    sets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    default = [helper.make_attribute("slope", 0.5)]
    inner = helper.make_function("local", "Inner", ["a"], ["b"], [leaky], sets[:1], attribute_protos=default)
    call = helper.make_node("Inner", ["a"], ["b"], domain="local")
    outer = helper.make_function("local", "Outer", ["a"], ["b"], [call], sets)
    branches = {
        name: helper.make_graph(
            [helper.make_node(op, ["x"], [name], domain="local", **given)],
            name,
            [],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2])],
        )
        for name, op, given in [("then_branch", "Inner", {}), ("else_branch", "Inner", {"slope": 0.25})]
    }
    nodes = [
        helper.make_node("Outer", ["x"], ["u"], domain="local"),
        helper.make_node("If", ["yes"], ["v"], **branches),
        helper.make_node("If", ["no"], ["w"], **branches),
        helper.make_node("Sum", ["u", "v", "w"], ["y"]),
    ]
    constants = {"yes": np.array(True), "no": np.array(False)}
    functions = {"functions": [inner, outer], "opsets": sets[1:]}
    graph = import_onnx(build(nodes, {"x": [2]}, constants=constants, **functions))
    assert Interpreter(graph).run({"x": np.array([-8, 2], np.float32)})["y"].tolist() == [-4 - 4 - 2, 6]


def test_unsupported_operator_within_a_function(build: Any) -> None:
    error = refused(function_model(build, [helper.make_node("RandomNormalLike", ["a"], ["b"])]), "RandomNormalLike")
    assert isinstance(error, UnsupportedOpError)


def test_recursive_function(build: Any) -> None:
    body = [helper.make_node("Twice", ["a"], ["b"], domain="local")]
    model = function_model(build, body)
    model.functions[0].opset_import.append(helper.make_opsetid("local", 1))
    refused(model, "model")


def test_an_operator_of_a_newer_set_is_named_with_its_first() -> None:
    graph = onnx.parser.parse_graph("g (float[2] x, float[2] y) => (bool[2] z) { z = GreaterOrEqual (x, y) }")
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 9)], ir_version=8)
    with pytest.raises(ModelImportError, match=r"GreaterOrEqual, which ONNX has since operator set 12; .* uses 9"):
        import_onnx(model)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("g (int8[2] x) => (int8[2] y) { y = Softmax (x) }", "input 0 is int8; operator set 18 takes float32"),
        ("g (float[2] x, int32[2] y) => (float[2] z) { z = Add (x, y) }", "input 1 is int32, but 'x' is float32"),
    ],
)
def test_operands_of_another_element_type_are_refused(text: str, says: str) -> None:
    model = onnx.helper.make_model(
        onnx.parser.parse_graph(text), opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8
    )
    with pytest.raises(UnsupportedOpError, match=re.escape(says)):
        import_onnx(model)


def test_a_tensor_that_no_machine_holds_is_refused() -> None:
    graph = onnx.parser.parse_graph("g (float[1,65536,65536] x) => (float[1,65536,65536] y) { y = Relu (x) }")
    with pytest.raises(ModelImportError, match=r"input 'x' .* has 16 GiB"):
        import_onnx(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8))
