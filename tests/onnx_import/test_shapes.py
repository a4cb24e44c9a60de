"""Open extents: what is assumed, what must be given, and what contradicts the model."""

from __future__ import annotations

from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from qcompile.errors import ModelImportError, UnsupportedOpError, UsageError
from qcompile.onnx_import import import_onnx

ADD = [helper.make_node("Add", ["a", "b"], ["y"], name="sum")]
RELU = [helper.make_node("Relu", ["x"], ["y"], name="act")]


def shapes(graph: Any) -> dict[str, tuple[int, ...]]:
    return {v.name: v.shape for v in graph.inputs}


@pytest.mark.parametrize("batch", ["N", None, "?", -1, 0])
def test_open_batch_becomes_one_with_a_note(build: Any, batch: Any) -> None:
    graph = import_onnx(build(RELU, {"x": [batch, 3, 8, 8]}))
    assert shapes(graph) == {"x": (1, 3, 8, 8)}
    assert graph.notes == ["the open batch axis (axis 0) of input 'x' was taken as 1"]
    assert graph.clone().notes == graph.notes


def test_shapes_may_be_any_sequence_of_integers(build: Any) -> None:
    import numpy as np

    model = build(RELU, {"x": ["N", 3, "H", 8]})
    for shape in ([2, 3, 4, 8], np.array([2, 3, 4, 8])):
        assert shapes(import_onnx(model, {"x": shape})) == {"x": (2, 3, 4, 8)}


def test_given_shape_wins_over_the_default(build: Any) -> None:
    graph = import_onnx(build(RELU, {"x": ["N", 3, "H", "W"]}), {"x": (4, 3, 32, 48)})
    assert shapes(graph) == {"x": (4, 3, 32, 48)}
    assert graph.notes == []


@pytest.mark.parametrize("dim", ["H", None, -1, "?"])
def test_other_open_axes_must_be_given(build: Any, dim: Any) -> None:
    with pytest.raises(ModelImportError) as caught:
        import_onnx(build(RELU, {"x": ["N", 3, dim, 8]}))
    error = caught.value
    assert "input 'x'" in str(error)
    assert "axis 2" in str(error)
    if isinstance(dim, str):
        assert repr(dim) in str(error)
    assert "--input-shape x=1,3,<axis 2>,8" in str(error.hint)
    assert "stay open (H:64..640:32)" in str(error.hint)


def test_several_open_axes_are_told_together(build: Any) -> None:
    with pytest.raises(ModelImportError) as caught:
        import_onnx(build(RELU, {"x": ["N", 3, "H", None]}))
    assert "has the dynamic axes 2 ('H'), 3 (unnamed); their extents must be given" in str(caught.value)
    assert "--input-shape x=1,3,<axis 2>,<axis 3>" in str(caught.value.hint)


@pytest.mark.parametrize("dim", ["K", 0])
def test_an_input_without_elements_is_known(build: Any, dim: Any) -> None:
    """An extent of 0 must be given, as in files it means that nobody knows; what follows from it is a constant."""
    nodes = [helper.make_node("Concat", ["a", "b"], ["c"], axis=1), helper.make_node("Relu", ["c"], ["y"])]
    nodes.append(helper.make_node("ReduceSum", ["b"], ["z"], keepdims=0))
    graph = import_onnx(build(nodes, {"a": [2, 3], "b": [2, dim]}, outputs=("y", "z")), {"b": (2, 0)})
    assert shapes(graph) == {"a": (2, 3), "b": (2, 0)}
    assert [(node.op.name, node.inputs[0].name) for node in graph.nodes] == [("relu", "a")]
    assert graph.outputs[1].constant() == 0


def test_input_without_any_shape(build: Any) -> None:
    model = build(RELU, {"x": None})
    with pytest.raises(ModelImportError, match="has no shape") as caught:
        import_onnx(model)
    assert "--input-shape x=" in str(caught.value.hint)
    assert shapes(import_onnx(model, {"x": (2, 5)})) == {"x": (2, 5)}


def test_one_symbol_is_one_extent(build: Any) -> None:
    model = build(ADD, {"a": ["N", "S"], "b": ["N", "S"]})
    assert shapes(import_onnx(model, {"a": (2, 7)})) == {"a": (2, 7), "b": (2, 7)}
    with pytest.raises(UnsupportedOpError, match="Add") as caught:
        import_onnx(model, {"a": (2, 7), "b": (2, 8)})
    assert "'S' is 7 on axis 1 of 'a', but 8 on axis 1 of 'b'" in str(caught.value.hint)


def test_a_name_may_stand_for_unrelated_axes(build: Any) -> None:
    nodes = [helper.make_node("Relu", ["a"], ["y"]), helper.make_node("Relu", ["b"], ["z"])]
    model = build(nodes, {"a": ["N", "S"], "b": ["N", "S"]}, outputs=("y", "z"))
    assert shapes(import_onnx(model, {"a": (2, 7), "b": (2, 8)})) == {"a": (2, 7), "b": (2, 8)}


def test_unnamed_axes_are_independent(build: Any) -> None:
    model = build(ADD, {"a": [1, "?"], "b": [1, "?"]})
    with pytest.raises(ModelImportError, match="input 'b'"):
        import_onnx(model, {"a": (1, 7)})
    assert shapes(import_onnx(model, {"a": (1, 7), "b": (1, 1)})) == {"a": (1, 7), "b": (1, 1)}


def test_unknown_input_name_is_guessed(build: Any) -> None:
    with pytest.raises(UsageError, match="no input named 'imge'") as caught:
        import_onnx(build([helper.make_node("Relu", ["image"], ["y"])], {"image": ["N", 3]}), {"imge": (1, 3)})
    assert caught.value.hint == "did you mean 'image'?"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ((1, 3, 8), "4 axes"),
        ((1, 4, 8, 8), "fixed extent of 3 on axis 1, not 4"),
        ((1, 3, -1, 8), "integers, none negative"),
        ((1, 3, 8.0, 8), "integers, none negative"),
        ((), "has 0"),
        (5, "integers, none negative"),
        (("a", 3, 8, 8), "integers, none negative"),
    ],
)
def test_shapes_that_contradict_the_model(build: Any, given: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        import_onnx(build(RELU, {"x": ["N", 3, "H", 8]}), {"x": given})


def test_scalar_input(build: Any) -> None:
    assert shapes(import_onnx(build(RELU, {"x": []}))) == {"x": ()}


def test_inputs_that_are_initializers_are_constants(build: Any) -> None:
    import numpy as np

    model = build(ADD, {"a": [1, 4], "b": [1, 4]}, constants={"b": np.ones((1, 4), np.float32)})
    graph = import_onnx(model)
    assert shapes(graph) == {"a": (1, 4)}
    assert [v.name for v in graph.constants()] == ["b"]
    with pytest.raises(UsageError, match="no input named 'b'"):
        import_onnx(model, {"b": (1, 4)})


def test_inputs_that_are_no_tensors(build: Any) -> None:
    kind = helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, [1])
    node = helper.make_node("SequenceLength", ["x"], ["y"])
    with pytest.raises(UnsupportedOpError, match="input 'x' of model is not a tensor"):
        import_onnx(build([node], {"x": kind}))


def test_text_input(build: Any) -> None:
    kind = helper.make_tensor_value_info("x", TensorProto.STRING, [1])
    with pytest.raises(UnsupportedOpError, match="input 'x' of model has the unsupported element type STRING"):
        import_onnx(build([helper.make_node("Identity", ["x"], ["y"])], {"x": kind}))


@pytest.mark.parametrize(("kind", "name"), [(TensorProto.FLOAT16, "float16"), (TensorProto.DOUBLE, "float64")])
def test_inputs_of_other_precision_become_float32(build: Any, kind: int, name: str) -> None:
    graph = import_onnx(build(RELU, {"x": helper.make_tensor_value_info("x", kind, [1, 2])}))
    assert graph.inputs[0].dtype == "float32"
    assert graph.notes == [f"input 'x' is {name} in the model and float32 here"]


def test_outputs_of_other_precision_become_float32(build: Any) -> None:
    kind = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])
    model = build([helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT16)], {"x": kind})
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    graph = import_onnx(model)
    assert graph.nodes == []
    assert graph.notes == [
        "casts to float16 are left out: the model is computed in float32",
        "output 'y' is float16 in the model and float32 here",
    ]


def test_declared_types_of_results_are_not_trusted(build: Any) -> None:
    model = build(RELU, {"x": ["N", 4]})
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["wrong", 99, 3]))
    assert isinstance(model, onnx.ModelProto)
    assert import_onnx(model).outputs[0].shape == (1, 4)
