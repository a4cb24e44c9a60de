"""Files that are models, and files that are not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import onnx
import pytest

from qcompile.errors import ModelImportError
from qcompile.onnx_import import import_onnx

MODELS = Path(__file__).parents[2] / "examples" / "models"


def refused(path: Path) -> ModelImportError:
    with pytest.raises(ModelImportError) as caught:
        import_onnx(path)
    assert str(path) in str(caught.value)
    return caught.value


def test_a_file_and_a_proto_give_the_same_graph(relu: Any, tmp_path: Path) -> None:
    onnx.save(relu, tmp_path / "net.onnx")
    from_file, from_memory = import_onnx(tmp_path / "net.onnx"), import_onnx(relu)
    assert from_file.structural_hash() == from_memory.structural_hash()
    assert from_file.name == from_memory.name == "net"
    assert import_onnx(str(tmp_path / "net.onnx")).structural_hash() == from_file.structural_hash()


def test_the_proto_given_is_not_changed(relu: Any) -> None:
    before = relu.SerializeToString(deterministic=True)
    relu.graph.node[0].ClearField("name")
    import_onnx(relu)
    relu.graph.node[0].name = "act"
    assert relu.SerializeToString(deterministic=True) == before


def test_missing_file_proposes_a_neighbour(relu: Any, tmp_path: Path) -> None:
    onnx.save(relu, tmp_path / "network.onnx")
    error = refused(tmp_path / "netwrk.onnx")
    assert "does not exist" in str(error)
    assert "network.onnx" in str(error.hint)
    assert refused(tmp_path / "nowhere" / "a.onnx").hint is None


def test_directory_names_the_models_in_it(relu: Any, tmp_path: Path) -> None:
    assert "name the .onnx file" in str(refused(tmp_path).hint)
    onnx.save(relu, tmp_path / "net.onnx")
    assert "net.onnx" in str(refused(tmp_path).hint)


def test_file_below_a_file(relu: Any, tmp_path: Path) -> None:
    onnx.save(relu, tmp_path / "net.onnx")
    refused(tmp_path / "net.onnx" / "inner.onnx")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser reads every file")
def test_unreadable_file(relu: Any, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(relu, path)
    path.chmod(0)
    assert "Permission denied" in str(refused(path))


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        (b"this is not a model\n", "text file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n", "git lfs pull"),
        (b"PK\x03\x04" + b"\x00\xff" * 40, "PyTorch"),
        (b"\x1c\x00\x00\x00TFL3" + b"\xff" * 40, "TensorFlow Lite"),
        (b"\x89HDF\r\n\x1a\n" + b"\xff" * 40, "HDF5"),
        (b"\x80\x02}q\x00." + b"\xff" * 40, "pickle"),
        (bytes(range(256)) * 4, "truncated"),
        (b"\xff" * 1000, "truncated"),
    ],
)
def test_what_is_no_protobuf_is_recognized(content: bytes, hint: str, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    assert hint in str(refused(path).hint)


def test_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.touch()
    assert "is empty" in str(refused(path))


def test_protobuf_without_a_graph(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(onnx.ModelProto(ir_version=8, producer_name="x").SerializeToString())
    assert "no graph" in str(refused(path))


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    whole = (MODELS / "fashion_hard.onnx").read_bytes()
    path = tmp_path / "net.onnx"
    for share in (0.001, 0.1, 0.5, 0.9, 0.99, 0.9999):
        path.write_bytes(whole[: int(len(whole) * share)])
        refused(path)
    for missing in range(1, 60):
        path.write_bytes(whole[:-missing])
        with pytest.raises(ModelImportError):
            import_onnx(path)


def test_altered_bytes_never_give_a_traceback(relu: Any, tmp_path: Path) -> None:
    whole = bytearray(relu.SerializeToString())
    path = tmp_path / "net.onnx"
    refusals = 0
    for position in range(len(whole)):
        for flip in (0x01, 0x80):
            whole[position] ^= flip
            path.write_bytes(whole)
            try:
                import_onnx(path)
            except ModelImportError:
                refusals += 1
            whole[position] ^= flip
    assert refusals > len(whole) // 2


@pytest.mark.parametrize("name", ["efficientnet_lite0", "fashion_hard", "fashion_mobilenetv2", "fashion_resnet14"])
def test_example_models_agree_with_onnx_runtime(name: str) -> None:
    import numpy as np
    import onnxruntime

    from qcompile.ops.interpreter import Interpreter

    path = MODELS / f"{name}.onnx"
    graph = import_onnx(path)
    (entry,) = graph.inputs
    x = np.random.default_rng(1).normal(size=entry.shape).astype(np.float32)
    got = Interpreter(graph).run({entry.name: x})
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    expected = dict(zip([o.name for o in session.get_outputs()], session.run(None, {entry.name: x}), strict=True))
    assert got.keys() == expected.keys()
    for key in got:
        np.testing.assert_allclose(got[key], expected[key], atol=1e-4 * np.abs(expected[key]).max())
    assert graph.notes == [f"the open batch axis (axis 0) of input '{entry.name}' was taken as 1"]


def test_import_is_deterministic() -> None:
    from qcompile.ir.printer import print_graph

    path = MODELS / "efficientnet_lite0.onnx"
    assert print_graph(import_onnx(path)) == print_graph(import_onnx(path))
