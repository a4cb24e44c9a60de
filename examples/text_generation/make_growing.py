"""Write the transformer of this example in the form in which language models are exported: its caches grow.

    python make_growing.py build/decoder.onnx

The weights are those of transformer.onnx. A run takes any number of characters, `input_ids` [batch, sequence], and the
keys and values of those before, `past_key_values.N.key` [batch, heads, past, size]; it returns the logits of every
character and the longer keys and values, `present.N.key`. Needs onnx and NumPy; takes a second.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HERE = Path(__file__).parent


class Builder:
    """Collects nodes of an ONNX graph; names of inputs are separated by spaces."""

    def __init__(self, weights: dict[str, Any]) -> None:
        self.nodes: list[Any] = []
        self.weights = dict(weights)

    def __call__(self, op: str, inputs: str, output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs.split(), [output], name=output, **attributes))
        return output

    def constant(self, name: str, data: Any, dtype: str = "int64") -> str:
        self.weights[name] = np.asarray(data, dtype)
        return name


def info(name: str, kind: int, *shape: int | str) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def lengths(b: Builder) -> None:
    """Compute the places of the new characters, and which characters each of them sees."""
    b.constant("zero", 0), b.constant("one", 1), b.constant("two", 2)
    b.constant("column", [-1, 1]), b.constant("low", -1e9, "float32")
    b("Gather", f"{b('Shape', 'input_ids', 'ids_shape')} one", "new", axis=0)
    b("Gather", f"{b('Shape', 'past_key_values.0.key', 'past_shape')} two", "past", axis=0)
    b("Add", "past new", "total")
    b("Range", "past total one", "places_of_run")
    b("Range", "zero total one", "all_places")
    b("Greater", f"all_places {b('Reshape', 'places_of_run column', 'rows')}", "later")
    b("Mul", f"{b('Cast', 'later', 'later_real', to=TensorProto.FLOAT)} low", "mask")


def layer(b: Builder, i: int, x: str, heads: int, width: int) -> str:
    """Write one layer and return its result."""
    b("LayerNormalization", f"{x} ga{i} ba{i}", f"n{i}", axis=-1)
    for m in "qkv":
        b("Reshape", f"{b('MatMul', f'n{i} {m}{i}', f'{m}{i}_flat')} to_heads", f"{m}{i}_split")
        b("Transpose", f"{m}{i}_split", f"{m}{i}_new", perm=[0, 2, 1, 3])
    for m, name in (("k", "key"), ("v", "value")):
        b("Concat", f"past_key_values.{i}.{name} {m}{i}_new", f"present.{i}.{name}", axis=2)
    b("Transpose", f"present.{i}.key", f"keys{i}", perm=[0, 1, 3, 2])
    b("Mul", f"{b('MatMul', f'q{i}_new keys{i}', f'scores{i}')} scale", f"scaled{i}")
    b("Softmax", b("Add", f"scaled{i} mask", f"masked{i}"), f"shares{i}", axis=-1)
    b("Transpose", b("MatMul", f"shares{i} present.{i}.value", f"mixed{i}"), f"turned{i}", perm=[0, 2, 1, 3])
    b("Reshape", f"turned{i} from_heads", f"joined{i}")
    b("Add", f"{b('MatMul', f'joined{i} o{i}', f'attended{i}')} {x}", f"y{i}")
    b("LayerNormalization", f"y{i} gm{i} bm{i}", f"ny{i}", axis=-1)
    b("Relu", b("MatMul", f"ny{i} up{i}", f"wide{i}"), f"active{i}")
    return b("Add", f"{b('MatMul', f'active{i} down{i}', f'narrow{i}')} y{i}", f"x{i}")


def write(path: Path) -> None:
    """Write the model."""
    source = onnx.load(HERE / "transformer.onnx")
    weights = {t.name: numpy_helper.to_array(t) for t in source.graph.initializer}
    heads, _, size = (d.dim_value for d in source.graph.input[2].type.tensor_type.shape.dim)
    layers, width = sum(name.startswith("up") for name in weights), heads * size
    kept = [n for n in weights if n in ("letters", "places", "out", "scale") or n[-1].isdigit()]
    b = Builder({n: weights[n] for n in kept})
    b.constant("to_heads", [0, 0, heads, size]), b.constant("from_heads", [0, 0, width])
    lengths(b)
    x = b("Add", f"{b('Gather', 'letters input_ids', 'letter')} {b('Gather', 'places places_of_run', 'place')}", "x")
    inputs = [info("input_ids", TensorProto.INT64, "batch", "sequence")]
    outputs = [info("logits", TensorProto.FLOAT, "batch", "sequence", weights["out"].shape[1])]
    for i in range(layers):
        x = layer(b, i, x, heads, width)
        for name in ("key", "value"):
            inputs.append(info(f"past_key_values.{i}.{name}", TensorProto.FLOAT, "batch", heads, "past", size))
            outputs.append(info(f"present.{i}.{name}", TensorProto.FLOAT, "batch", heads, "past + sequence", size))
    b("MatMul", f"{x} out", "logits")
    tensors = [numpy_helper.from_array(array, name) for name, array in b.weights.items()]
    graph = helper.make_graph(b.nodes, "decoder", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python make_growing.py OUTPUT.onnx")
    write(Path(sys.argv[1]))
