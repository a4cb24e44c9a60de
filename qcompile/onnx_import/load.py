"""Reads a model file, and says precisely what is wrong with one that is not a model."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx

from qcompile.errors import ModelImportError
from qcompile.files import is_special

PROTOBUF_LIMIT = 2**31 - 1
"""Bytes that one protobuf message can have; larger models keep their weights in side files."""

_FOREIGN = (
    (b"PK\x03\x04", 0, "a ZIP archive (a PyTorch checkpoint?)"),
    (b"TFL3", 4, "a TensorFlow Lite model"),
    (b"\x89HDF", 0, "an HDF5 file (a Keras model?)"),
    (b"\x80\x02", 0, "a Python pickle"),
    (b"\x1f\x8b", 0, "a gzip archive"),
    (b"GGUF", 0, "a GGUF model"),
)


@dataclass
class Model:
    """A model as read, before any check.

    Args:
        proto: the onnx.ModelProto; external data are still in their files.
        source: how messages call it: the file's path, or "model" for a proto in memory.
        path: the file, or None.
        notes: what was assumed or converted, for the user.
        clashes: extents given to axes of one name that differ, in words.
    """

    proto: Any
    source: str
    path: Path | None
    notes: list[str] = field(default_factory=list)
    clashes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The name that generated files derive from."""
        return self.path.stem if self.path is not None else (self.proto.graph.name or "model")


def load_model(model: str | os.PathLike[str] | Model | Any) -> Model:
    """Read a model without its external data.

    Args:
        model: path of a .onnx file; or an onnx.ModelProto, or a model as read before, which are copied.

    Raises:
        ModelImportError: there is no such file, it cannot be read or it is not an ONNX model.
    """
    if isinstance(model, Model):
        return replace(model, proto=_copied(model.proto), notes=[])
    if isinstance(model, onnx.ModelProto):
        return Model(_copied(model), "model", None)
    path = Path(model)
    source = str(path)
    content = _read(path, source)
    proto = _parse(content, source)
    if not proto.HasField("graph"):
        raise ModelImportError(f"{source} is not an ONNX model: it holds no graph", hint=_describe(content))
    return Model(proto, source, path)


def _copied(proto: Any) -> Any:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    return copy


def _read(path: Path, source: str) -> bytes:
    if path.is_dir():
        models = sorted(p.name for p in path.glob("*.onnx"))
        hint = f"it holds {', '.join(models)}: name one of them" if models else "name the .onnx file"
        raise ModelImportError(f"{source} is a directory, not a model file", hint=hint)
    if is_special(path):
        hint = "write the model to a file first: it is read more than once"
        raise ModelImportError(f"{source} is a pipe or a device, not a model file", hint=hint)
    try:
        size = path.stat().st_size
        if size > PROTOBUF_LIMIT:
            raise ModelImportError(
                f"{source} has {size / 2**30:.1f} GiB; an ONNX file cannot be larger than 2 GiB",
                hint="save it with external data: onnx.save(model, path, save_as_external_data=True)",
            )
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise ModelImportError(f"model file {source} does not exist", hint=_neighbours(path)) from error
    except OSError as error:
        raise ModelImportError(f"model file {source} cannot be read: {error.strerror}") from error
    if not content:
        raise ModelImportError(f"model file {source} is empty", hint="was its download or export interrupted?")
    return content


def _neighbours(path: Path) -> str | None:
    import difflib

    try:
        names = [p.name for p in path.parent.glob("*.onnx")]
    except OSError:
        return None
    close = difflib.get_close_matches(path.name, names, n=1)
    return f"did you mean {path.parent / close[0]}?" if close else None


def _parse(content: bytes, source: str) -> Any:
    from google.protobuf.message import DecodeError

    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(content)
    except DecodeError as error:
        message = f"{source} is not an ONNX model, or is damaged"
        raise ModelImportError(message, hint=_describe(content)) from error
    # Protobuf hands over text that is not UTF-8 as bytes.
    if any(isinstance(text, bytes) for text in _texts(proto)):
        raise ModelImportError(f"{source} is damaged: a name in it is not text", hint=_describe(content))
    return proto


def _texts(proto: Any) -> Iterator[Any]:
    """Iterate over the names, operators, domains and symbols of a model."""
    graph = proto.graph
    yield graph.name
    for opset in proto.opset_import:
        yield opset.domain
    for node in (*graph.node, *(n for function in proto.functions for n in function.node)):
        yield from (node.op_type, node.domain, node.name, *node.input, *node.output)
        for attribute in node.attribute:
            yield from (attribute.name, attribute.ref_attr_name)
    for function in proto.functions:
        yield from (function.name, function.domain, *function.input, *function.output, *function.attribute)
    for tensor in (*graph.initializer, *(s.values for s in graph.sparse_initializer)):
        yield tensor.name
        for entry in tensor.external_data:
            yield from (entry.key, entry.value)
    for value in (*graph.input, *graph.output):
        yield value.name
        for dim in value.type.tensor_type.shape.dim:
            yield dim.dim_param


def _describe(content: bytes) -> str:
    """Return what the contents of a file that is not a model look like."""
    if content.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer: fetch the real file with 'git lfs pull'"
    for magic, offset, what in _FOREIGN:
        if content[offset : offset + len(magic)] == magic:
            return f"it looks like {what}: export it to ONNX first"
    try:
        head = content[:512].decode("utf-8")
    except UnicodeDecodeError:
        head = "\0"
    if all(c.isprintable() or c in "\r\n\t" for c in head):
        return "it is a text file; qcompile reads the binary .onnx format"
    return "the file may be truncated: export or download it again"
