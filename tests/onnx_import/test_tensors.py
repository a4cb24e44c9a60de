"""Weights: every element type, sparse, beside the model, damaged."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qcompile.errors import ModelImportError
from qcompile.onnx_import import import_onnx

WEIGHT = np.arange(12, dtype=np.float32).reshape(3, 4) - 5


def adding(build: Any, tensor: Any, shape: tuple[int, ...] = (3, 4)) -> Any:
    kind = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, list(shape))
    model = build([helper.make_node("Add", ["x", "w"], ["y"], name="sum")], {"x": kind})
    if isinstance(tensor, onnx.SparseTensorProto):
        model.graph.sparse_initializer.append(tensor)
    else:
        model.graph.initializer.append(tensor)
    return model


def weight(graph: Any) -> Any:
    (value,) = graph.constants()
    return value.constant()


@pytest.mark.parametrize(
    ("kind", "name"),
    [(TensorProto.FLOAT16, "float16"), (TensorProto.DOUBLE, "float64"), (TensorProto.BFLOAT16, "bfloat16")],
)
def test_other_floats_become_float32_with_a_note(build: Any, kind: int, name: str) -> None:
    graph = import_onnx(adding(build, helper.make_tensor("w", kind, [3, 4], WEIGHT.ravel().tolist())))
    assert weight(graph).dtype == np.float32
    np.testing.assert_array_equal(weight(graph), WEIGHT)
    assert graph.notes == [f"1 {name} tensor converted to float32"]


def test_float64_beyond_float32_is_noted(build: Any) -> None:
    graph = import_onnx(adding(build, helper.make_tensor("w", TensorProto.DOUBLE, [2], [1e300, 0.0]), (2,)))
    assert np.isinf(weight(graph)[0])
    assert "1 constant tensor holds NaN or infinity: w" in graph.notes


@pytest.mark.parametrize(("value", "told"), [(-np.inf, False), (np.inf, True), (np.nan, True)])
def test_masks_are_no_damaged_tensors(build: Any, value: float, told: bool) -> None:
    mask = np.triu(np.full((3, 4), value, np.float32), 1)
    graph = import_onnx(adding(build, numpy_helper.from_array(mask, "w")))
    assert graph.notes == (["1 constant tensor holds NaN or infinity: w"] if told else [])


@pytest.mark.parametrize("constant", [False, True])
def test_infinite_weights_of_layers_are_noted(build: Any, constant: bool) -> None:
    tensors = [numpy_helper.from_array(np.full((4, 2), -np.inf, np.float32), name) for name in ("v", "w")]
    nodes = [helper.make_node("MatMul", ["x", name], [f"{name}.y"]) for name in ("v", "w")]
    nodes.append(helper.make_node("Add", ["v.y", "w.y"], ["y"]))
    if constant:
        nodes = [helper.make_node("Constant", [], [t.name], value=t) for t in tensors] + nodes
    model = build(nodes, {"x": helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [3, 4])})
    if not constant:
        model.graph.initializer.extend(tensors)
    assert "2 constant tensors hold NaN or infinity: v, w" in import_onnx(model).notes


@pytest.mark.parametrize("kind", [TensorProto.COMPLEX64, TensorProto.STRING, TensorProto.COMPLEX128])
def test_element_types_without_a_place_in_the_ir(build: Any, kind: int) -> None:
    values = [b"a", b"b"] if kind == TensorProto.STRING else [1, 2]
    with pytest.raises(ModelImportError, match=f"tensor 'w' .* {TensorProto.DataType.Name(kind)}"):
        import_onnx(adding(build, helper.make_tensor("w", kind, [2], values), (2,)))


def test_sparse_weights(build: Any) -> None:
    values = numpy_helper.from_array(np.array([3, -2], np.float32), "w")
    flat = numpy_helper.from_array(np.array([1, 11], np.int64), "i")
    pairs = numpy_helper.from_array(np.array([[0, 1], [2, 3]], np.int64), "i")
    for indices in (flat, pairs):
        graph = import_onnx(adding(build, helper.make_sparse_tensor(values, indices, [3, 4])))
        expected = np.zeros((3, 4), np.float32)
        expected[0, 1], expected[2, 3] = 3, -2
        np.testing.assert_array_equal(weight(graph), expected)


def test_sparse_weights_with_wrong_indices(build: Any) -> None:
    values = numpy_helper.from_array(np.array([3, -2], np.float32), "w")
    indices = numpy_helper.from_array(np.array([1, 12], np.int64), "i")
    with pytest.raises(ModelImportError):
        import_onnx(adding(build, helper.make_sparse_tensor(values, indices, [3, 4])))


def test_weight_with_too_few_bytes(build: Any) -> None:
    tensor = numpy_helper.from_array(WEIGHT, "w")
    tensor.raw_data = tensor.raw_data[:-3]
    with pytest.raises(ModelImportError, match="model"):
        import_onnx(adding(build, tensor))


# -- external data ----------------------------------------------------------------------------------------


@pytest.fixture
def external(build: Any, tmp_path: Path) -> Path:
    """Return the path of a model whose weight lies in weights.data, at an offset."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights.data").write_bytes(bytes(64) + WEIGHT.tobytes() + bytes(8))
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3, 4])
    onnx.external_data_helper.set_external_data(
        _with_raw_data(tensor), location="weights.data", offset=64, length=WEIGHT.nbytes
    )
    tensor.ClearField("raw_data")
    path = folder / "net.onnx"
    path.write_bytes(adding(build, tensor).SerializeToString())
    return path


def _with_raw_data(tensor: Any) -> Any:
    tensor.raw_data = b""
    return tensor


def edit(path: Path, **entries: str) -> None:
    """Change the external data entries of the model's weight; an empty value removes one."""
    model = onnx.load(path, load_external_data=False)
    (tensor,) = model.graph.initializer
    found = {e.key: e.value for e in tensor.external_data} | entries
    del tensor.external_data[:]
    for key, value in found.items():
        if value:
            tensor.external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())


def test_external_weights(external: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.testing.assert_array_equal(weight(import_onnx(external)), WEIGHT)
    edit(external, length="")
    monkeypatch.chdir(external.parent.parent)
    np.testing.assert_array_equal(weight(import_onnx(os.path.relpath(external))), WEIGHT)


def test_external_weights_in_a_folder_below(external: Path) -> None:
    (external.parent / "data").mkdir()
    (external.parent / "weights.data").rename(external.parent / "data" / "w.bin")
    edit(external, location="data/w.bin")
    np.testing.assert_array_equal(weight(import_onnx(external)), WEIGHT)


def test_onnx_saves_what_we_read(build: Any, tmp_path: Path) -> None:
    big = np.random.default_rng(3).normal(size=(64, 64)).astype(np.float16)
    model = adding(build, numpy_helper.from_array(big, "w"), (64, 64))
    onnx.save(model, tmp_path / "net.onnx", save_as_external_data=True, location="net.onnx.data", size_threshold=0)
    graph = import_onnx(tmp_path / "net.onnx")
    np.testing.assert_array_equal(weight(graph), big.astype(np.float32))


@pytest.mark.parametrize("location", ["../weights.data", "/etc/passwd", "a/../../weights.data", ""])
def test_external_data_outside_of_the_model(external: Path, location: str) -> None:
    (external.parent.parent / "weights.data").write_bytes(bytes(200))
    edit(external, location=location)
    with pytest.raises(ModelImportError, match="outside of the model's directory"):
        import_onnx(external)


def test_external_data_through_a_link(external: Path) -> None:
    secret = external.parent.parent / "secret.data"
    secret.write_bytes(bytes(200))
    (external.parent / "link.data").symlink_to(secret)
    edit(external, location="link.data")
    with pytest.raises(ModelImportError, match="outside of the model's directory"):
        import_onnx(external)


def test_missing_side_file(external: Path) -> None:
    (external.parent / "weights.data").unlink()
    with pytest.raises(ModelImportError, match=r"weights\.data .* is missing"):
        import_onnx(external)


@pytest.mark.parametrize(
    "entries", [{"offset": "90"}, {"offset": "-4"}, {"length": "47"}, {"offset": "x"}, {"length": "1000000"}]
)
def test_side_file_that_does_not_fit(external: Path, entries: dict[str, str]) -> None:
    edit(external, **entries)
    with pytest.raises(ModelImportError, match="'w'"):
        import_onnx(external)


def test_external_data_of_a_proto_in_memory(external: Path) -> None:
    with pytest.raises(ModelImportError, match="given without a path") as caught:
        import_onnx(onnx.load(external, load_external_data=False))
    assert "path" in str(caught.value.hint)


def test_weights_beyond_two_gigabytes(build: Any, tmp_path: Path) -> None:
    """The side file is sparse: it takes no room on the disk, and one row of it is read."""
    path = tmp_path / "net.onnx"
    with (tmp_path / "weights.data").open("wb") as file:
        file.seek(3 * 2**30)
        file.write(WEIGHT.tobytes())
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3, 4])
    onnx.external_data_helper.set_external_data(_with_raw_data(tensor), location="weights.data", offset=3 * 2**30)
    tensor.ClearField("raw_data")
    path.write_bytes(adding(build, tensor).SerializeToString())
    np.testing.assert_array_equal(weight(import_onnx(path)), WEIGHT)


def test_protobuf_beyond_two_gigabytes(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    with path.open("wb") as file:
        file.truncate(2**31)
    with pytest.raises(ModelImportError, match="cannot be larger than 2 GiB") as caught:
        import_onnx(path)
    assert "external" in str(caught.value.hint)
