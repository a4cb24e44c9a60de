"""Damage to valid models, of the kinds that broken exporters, editors and downloads do."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import onnx
from onnx import AttributeProto, TensorProto, helper

Change = Callable[[onnx.ModelProto, random.Random], None]

INTEGERS = (-(2**63), -(2**31), -1000, -2, -1, 0, 1, 2, 3, 7, 127, 1 << 16, 2**31 - 1, 2**40, 2**63 - 1)
FLOATS = (0.0, -0.0, -1.0, 0.5, 1e-45, 1e-30, 3.4e38, -3.4e38, float("inf"), float("-inf"), float("nan"))
TEXTS = ("", "SAME_UPPER", "VALID", "linear", "cubic", "constant", "reflect", "nothing", "half_pixel", "ij,jk->ik", "é")


def mutated(model: onnx.ModelProto, chance: random.Random) -> bytes:
    """Return the file of a model with one to three changes, in its structure or in its bytes."""
    if chance.random() < 0.2:
        return _damaged_bytes(model.SerializeToString(), chance)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        chance.choice(CHANGES)(copy, chance)
    return copy.SerializeToString()


def _damaged_bytes(content: bytes, chance: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(chance.randint(1, 8)):
        place = chance.randrange(len(data))
        kind = chance.randrange(4)
        if kind == 0:
            data[place] = chance.randrange(256)
        elif kind == 1:
            data[place] ^= 1 << chance.randrange(8)
        elif kind == 2:
            data[place:place] = chance.randbytes(chance.randint(1, 6))
        else:
            del data[place : place + chance.randint(1, 6)]
    return bytes(data[: chance.randrange(1, len(data))] if chance.random() < 0.2 else data)


def _graphs(graph: Any) -> Iterator[Any]:
    """Iterate over a graph and the bodies of its control flow."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from _graphs(attribute.g)


def _some_node(model: Any, chance: random.Random) -> Any | None:
    graph = chance.choice(list(_graphs(model.graph)))
    return chance.choice(graph.node) if graph.node else None


def _names(model: Any) -> list[str]:
    names = {""}
    for graph in _graphs(model.graph):
        names |= {v.name for v in (*graph.input, *graph.output)} | {t.name for t in graph.initializer}
        names |= {name for node in graph.node for name in (*node.input, *node.output)}
    return sorted(names)


def _operator(model: Any, chance: random.Random) -> None:
    node = _some_node(model, chance)
    if node is not None:
        node.op_type = chance.choice(sorted({s.name for s in onnx.defs.get_all_schemas()}))


def _input(model: Any, chance: random.Random) -> None:
    node = _some_node(model, chance)
    if node is None:
        return
    kind = chance.randrange(3)
    if kind == 0 and node.input:
        node.input[chance.randrange(len(node.input))] = chance.choice(_names(model))
    elif kind == 1 and node.input:
        del node.input[chance.randrange(len(node.input))]
    else:
        node.input.append(chance.choice(_names(model)))


def _output(model: Any, chance: random.Random) -> None:
    node = _some_node(model, chance)
    if node is None:
        return
    if node.output and chance.random() < 0.5:
        node.output[chance.randrange(len(node.output))] = chance.choice(_names(model))
    else:
        node.output.append(f"more_{chance.randrange(100)}")


def _attribute(model: Any, chance: random.Random) -> None:
    node = _some_node(model, chance)
    if node is None or not node.attribute:
        return
    place = chance.randrange(len(node.attribute))
    old = node.attribute[place]
    kind = chance.randrange(6)
    if kind == 0:
        del node.attribute[place]
    elif kind == 1 and old.type == AttributeProto.INTS and old.ints:
        old.ints[chance.randrange(len(old.ints))] = chance.choice(INTEGERS)
    elif kind == 2 and old.type == AttributeProto.INTS:
        del old.ints[chance.randrange(len(old.ints) + 1) :]
    else:
        values: list[Any] = [chance.choice(INTEGERS), chance.choice(FLOATS), chance.choice(TEXTS)]
        values += [[chance.choice(INTEGERS) for _ in range(chance.randint(1, 5))], [chance.choice(FLOATS)]]
        new = helper.make_attribute(old.name, chance.choice(values))
        old.CopyFrom(new)


def _new_attribute(model: Any, chance: random.Random) -> None:
    node = _some_node(model, chance)
    if node is None:
        return
    known = onnx.defs.has(node.op_type) and sorted(onnx.defs.get_schema(node.op_type).attributes)
    if known:
        value = chance.choice([chance.choice(INTEGERS), chance.choice(FLOATS), chance.choice(TEXTS)])
        node.attribute.append(helper.make_attribute(chance.choice(known), value))


def _extent(model: Any, chance: random.Random) -> None:
    graph = chance.choice(list(_graphs(model.graph)))
    values = [v for v in (*graph.input, *graph.output, *graph.value_info) if v.type.HasField("tensor_type")]
    if not values:
        return
    tensor = chance.choice(values).type.tensor_type
    kind = chance.randrange(4)
    if kind == 0:
        tensor.elem_type = chance.randrange(28)
    elif kind == 1 and tensor.shape.dim:
        dim = tensor.shape.dim[chance.randrange(len(tensor.shape.dim))]
        if chance.random() < 0.3:
            dim.dim_param = chance.choice(("N", "", "?"))
        else:
            dim.dim_value = chance.choice(INTEGERS)
    elif kind == 2 and tensor.shape.dim:
        del tensor.shape.dim[chance.randrange(len(tensor.shape.dim))]
    else:
        tensor.shape.dim.add().dim_value = chance.choice(INTEGERS)


def _constant(model: Any, chance: random.Random) -> None:
    graph = chance.choice(list(_graphs(model.graph)))
    tensors = [*graph.initializer, *(a.t for n in graph.node for a in n.attribute if a.HasField("t"))]
    if not tensors:
        return
    tensor: TensorProto = chance.choice(tensors)
    kind = chance.randrange(5)
    if kind == 0:
        tensor.data_type = chance.randrange(28)
    elif kind == 1 and tensor.dims:
        tensor.dims[chance.randrange(len(tensor.dims))] = chance.choice(INTEGERS)
    elif kind == 2 and tensor.raw_data:
        data = bytearray(tensor.raw_data)
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.choice((0, 1, 0x7F, 0x80, 0xFF))
        tensor.raw_data = bytes(data)
    elif kind == 3 and tensor.raw_data:
        tensor.raw_data = tensor.raw_data[: chance.randrange(len(tensor.raw_data))]
    else:
        tensor.name = chance.choice(_names(model))


def _order(model: Any, chance: random.Random) -> None:
    nodes = model.graph.node
    if not nodes:
        return
    place = chance.randrange(len(nodes))
    if chance.random() < 0.5:
        nodes.append(nodes[place])
    else:
        del nodes[place]


def _interface(model: Any, chance: random.Random) -> None:
    graph = chance.choice(list(_graphs(model.graph)))
    values = chance.choice((graph.input, graph.output))
    if not values:
        return
    if chance.random() < 0.5:
        del values[chance.randrange(len(values))]
    else:
        values[chance.randrange(len(values))].name = chance.choice(_names(model))


def _version(model: Any, chance: random.Random) -> None:
    if model.opset_import:
        entry = model.opset_import[chance.randrange(len(model.opset_import))]
        entry.version = chance.choice((0, 1, 5, 6, 7, 9, 11, 12, 13, 18, 21, 23, 30, 2**40))
    else:
        model.ir_version = chance.choice(INTEGERS[:-1])


def _initializer_lost(model: Any, chance: random.Random) -> None:
    tensors = model.graph.initializer
    if tensors:
        del tensors[chance.randrange(len(tensors))]


CHANGES: tuple[Change, ...] = (
    _operator, _input, _input, _output, _attribute, _attribute, _attribute, _new_attribute, _extent, _extent,
    _constant, _constant, _constant, _order, _interface, _version, _initializer_lost,
)  # fmt: skip
"""Every kind of change, those that reach deep more than once."""
