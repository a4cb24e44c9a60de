"""Train the two models of this example on poems.txt and write them as ONNX files: a minute each on a laptop.

    pip install numpy autograd onnx
    OPENBLAS_NUM_THREADS=1 python make_models.py

Both read one character and predict the next. `transformer.onnx` attends to the keys and values of all characters before
it, which it gets as `past_*` and returns as `present_*`; `gru.onnx` keeps one vector, `h` and `h_next`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import autograd.numpy as np
import numpy
import onnx
from autograd import grad
from onnx import TensorProto, helper, numpy_helper

HERE = Path(__file__).parent
TEXT = (HERE / "poems.txt").read_text(encoding="utf-8")
LETTERS = "".join(sorted(set(TEXT)))
CONTEXT, WIDTH, HEADS, LAYERS = 96, 48, 4, 2
DEPTH = WIDTH // HEADS
HIDDEN = 96
Weights = dict[str, Any]


def batch(rng: Any, rows: int, length: int) -> tuple[Any, Any]:
    codes = numpy.array([LETTERS.index(c) for c in TEXT])
    starts = rng.integers(0, len(codes) - length - 1, rows)
    both = numpy.stack([codes[s : s + length + 1] for s in starts])
    return both[:, :-1], both[:, 1:]


def cross_entropy(logits: Any, wanted: Any) -> Any:
    shifted = logits - np.max(logits, -1, keepdims=True)
    logs = shifted - np.log(np.sum(np.exp(shifted), -1, keepdims=True))
    chosen = numpy.eye(len(LETTERS), dtype="f4")[wanted]
    return -np.sum(logs * chosen) / wanted.size


def train(weights: Weights, loss: Callable[..., Any], rows: int, length: int, steps: int, rate: float) -> Weights:
    """Minimize by Adam with a rate that falls to zero."""
    rng, gradient = numpy.random.default_rng(0), grad(loss)
    first = {n: numpy.zeros_like(w) for n, w in weights.items()}
    second = {n: numpy.zeros_like(w) for n, w in weights.items()}
    for step in range(1, steps + 1):
        given, wanted = batch(rng, rows, length)
        slopes = gradient(weights, given, wanted)
        pace = rate * min(1.0, step / 50, 2 * (1 - step / (steps + 1)))
        for name, slope in slopes.items():
            slope = numpy.clip(slope, -1.0, 1.0)
            first[name] = 0.9 * first[name] + 0.1 * slope
            second[name] = 0.99 * second[name] + 0.01 * slope**2
            change = first[name] / (1 - 0.9**step) / (numpy.sqrt(second[name] / (1 - 0.99**step)) + 1e-8)
            weights[name] = (weights[name] - pace * change).astype("f4")
        if step % 50 == 0:
            print(f"  step {step}: {float(loss(weights, given, wanted)):.3f}", file=sys.stderr, flush=True)
    return weights


# -- transformer -------------------------------------------------------------------------------------------------


def transformer_weights() -> Weights:
    rng = numpy.random.default_rng(1)

    def normal(*shape: int) -> Any:
        return (rng.normal(0, 1, shape) / numpy.sqrt(shape[0])).astype("f4")

    weights = {"letters": normal(len(LETTERS), WIDTH), "places": 0.1 * normal(CONTEXT, WIDTH)}
    for layer in range(LAYERS):
        for name in ("q", "k", "v", "o"):
            weights[f"{name}{layer}"] = normal(WIDTH, WIDTH)
        weights[f"up{layer}"], weights[f"down{layer}"] = normal(WIDTH, 4 * WIDTH), normal(4 * WIDTH, WIDTH)
        for name in ("a", "m"):
            weights[f"g{name}{layer}"] = numpy.ones(WIDTH, "f4")
            weights[f"b{name}{layer}"] = numpy.zeros(WIDTH, "f4")
    weights["out"] = normal(WIDTH, len(LETTERS))
    return weights


def normalized(x: Any, scale: Any, bias: Any) -> Any:
    centred = x - np.mean(x, -1, keepdims=True)
    return centred / np.sqrt(np.mean(centred**2, -1, keepdims=True) + 1e-5) * scale + bias


def transformer_loss(w: Weights, given: Any, wanted: Any) -> Any:
    rows, length = given.shape
    x = w["letters"][given] + w["places"][:length]
    later = numpy.triu(numpy.full((length, length), -1e9, "f4"), 1)
    for layer in range(LAYERS):
        n = normalized(x, w[f"ga{layer}"], w[f"ba{layer}"])
        q, k, v = (np.transpose(np.reshape(np.dot(n, w[f"{m}{layer}"]), (rows, length, HEADS, DEPTH)), (0, 2, 1, 3))
                   for m in "qkv")  # fmt: skip
        scores = np.matmul(q, np.transpose(k, (0, 1, 3, 2))) / numpy.float32(DEPTH**0.5) + later
        powers = np.exp(scores - np.max(scores, -1, keepdims=True))
        mixed = np.matmul(powers / np.sum(powers, -1, keepdims=True), v)
        x = x + np.dot(np.reshape(np.transpose(mixed, (0, 2, 1, 3)), (rows, length, WIDTH)), w[f"o{layer}"])
        n = normalized(x, w[f"gm{layer}"], w[f"bm{layer}"])
        x = x + np.dot(np.maximum(np.dot(n, w[f"up{layer}"]), 0.0), w[f"down{layer}"])
    return cross_entropy(np.dot(x, w["out"]), wanted)


class Builder:
    """Collects nodes of an ONNX graph."""

    def __init__(self, weights: Weights) -> None:
        self.nodes: list[Any] = []
        self.tensors = [numpy_helper.from_array(numpy.asarray(a), n) for n, a in weights.items()]

    def __call__(self, op: str, inputs: str, output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs.split(), [output], name=output, **attributes))
        return output

    def constant(self, name: str, array: Any) -> str:
        self.tensors.append(numpy_helper.from_array(numpy.asarray(array), name))
        return name

    def save(self, name: str, inputs: list[Any], outputs: list[Any]) -> None:
        graph = helper.make_graph(self.nodes, name, inputs, outputs, self.tensors)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        entry = model.metadata_props.add()
        entry.key, entry.value = "letters", LETTERS
        onnx.checker.check_model(model)
        onnx.save(model, HERE / f"{name}.onnx")


def real(name: str, *shape: int) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def whole(name: str) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.INT64, (1,))


def write_transformer(w: Weights) -> None:
    """Write one step: it puts the new key and value at their place among the old ones, and attends up to there."""
    b = Builder(w)
    b.constant("column", numpy.arange(CONTEXT).reshape(CONTEXT, 1))
    b.constant("row", numpy.arange(CONTEXT).reshape(1, CONTEXT))
    b.constant("none", numpy.float32(0)), b.constant("never", numpy.float32(-1e9))
    b.constant("scale", numpy.float32(1 / DEPTH**0.5))
    b.constant("to_heads", numpy.array([HEADS, 1, DEPTH])), b.constant("from_heads", numpy.array([1, WIDTH]))
    b("Equal", "column position", "here"), b("LessOrEqual", "row position", "seen")
    b("Where", "seen none never", "mask")
    b("Add", f"{b('Gather', 'letters token', 'letter')} {b('Gather', 'places position', 'place')}", "x")
    x, inputs, outputs = "x", [whole("token"), whole("position")], [real("logits", 1, len(LETTERS))]
    for i in range(LAYERS):
        b("LayerNormalization", f"{x} ga{i} ba{i}", f"n{i}", axis=-1)
        for m in "qkv":
            b("Reshape", f"{b('MatMul', f'n{i} {m}{i}', f'{m}{i}_flat')} to_heads", f"{m}{i}_new")
        for m, name in (("k", "key"), ("v", "value")):
            b("Where", f"here {m}{i}_new past_{name}_{i}", f"present_{name}_{i}")
            inputs.append(real(f"past_{name}_{i}", HEADS, CONTEXT, DEPTH))
            outputs.append(real(f"present_{name}_{i}", HEADS, CONTEXT, DEPTH))
        b("Transpose", f"present_key_{i}", f"keys{i}", perm=[0, 2, 1])
        b("Mul", f"{b('MatMul', f'q{i}_new keys{i}', f'scores{i}')} scale", f"scaled{i}")
        b("Softmax", b("Add", f"scaled{i} mask", f"masked{i}"), f"shares{i}", axis=-1)
        b("Reshape", f"{b('MatMul', f'shares{i} present_value_{i}', f'mixed{i}')} from_heads", f"joined{i}")
        b("Add", f"{b('MatMul', f'joined{i} o{i}', f'attended{i}')} {x}", f"y{i}")
        b("LayerNormalization", f"y{i} gm{i} bm{i}", f"ny{i}", axis=-1)
        b("Relu", b("MatMul", f"ny{i} up{i}", f"wide{i}"), f"active{i}")
        x = b("Add", f"{b('MatMul', f'active{i} down{i}', f'narrow{i}')} y{i}", f"x{i}")
    b("MatMul", f"{x} out", "logits")
    b.save("transformer", inputs, outputs)


# -- GRU ---------------------------------------------------------------------------------------------------------


def gru_weights() -> Weights:
    rng = numpy.random.default_rng(2)

    def normal(*shape: int) -> Any:
        return (rng.normal(0, 1, shape) / numpy.sqrt(shape[0])).astype("f4")

    parts = {f"u{m}": normal(HIDDEN, HIDDEN) for m in "zrn"} | {f"b{m}": numpy.zeros(HIDDEN, "f4") for m in "zrn"}
    return parts | {f"w{m}": normal(len(LETTERS), HIDDEN) for m in "zrn"} | {"out": normal(HIDDEN, len(LETTERS))}


def gru_loss(w: Weights, given: Any, wanted: Any) -> Any:
    h, states = numpy.zeros((given.shape[0], HIDDEN), "f4"), []
    for step in range(given.shape[1]):
        letter = given[:, step]
        z = 1 / (1 + np.exp(-(w["wz"][letter] + np.dot(h, w["uz"]) + w["bz"])))
        r = 1 / (1 + np.exp(-(w["wr"][letter] + np.dot(h, w["ur"]) + w["br"])))
        n = np.tanh(w["wn"][letter] + np.dot(r * h, w["un"]) + w["bn"])
        h = h + z * (n - h)
        states.append(h)
    return cross_entropy(np.dot(np.stack(states, 1), w["out"]), wanted)


def write_gru(w: Weights) -> None:
    """Write one step."""
    b = Builder(w)
    for m in "zr":
        b("Add", f"{b('Gather', f'w{m} token', f'x{m}')} {b('MatMul', f'h u{m}', f'h{m}')}", f"s{m}")
        b("Sigmoid", b("Add", f"s{m} b{m}", f"t{m}"), m)
    b("Mul", "r h", "rh")
    b("Add", f"{b('Gather', 'wn token', 'xn')} {b('MatMul', 'rh un', 'hn_')}", "sn")
    b("Tanh", b("Add", "sn bn", "tn"), "n")
    b("Sub", "n h", "d")
    b("Add", f"h {b('Mul', 'z d', 'zd')}", "h_next")
    b("MatMul", "h_next out", "logits")
    b.save("gru", [whole("token"), real("h", 1, HIDDEN)], [real("logits", 1, len(LETTERS)), real("h_next", 1, HIDDEN)])


def main() -> None:
    wanted = sys.argv[1:] or ["transformer", "gru"]
    if "transformer" in wanted:
        write_transformer(train(transformer_weights(), transformer_loss, 4, CONTEXT, 1000, 4e-3))
    if "gru" in wanted:
        write_gru(train(gru_weights(), gru_loss, 8, 40, 500, 8e-3))


if __name__ == "__main__":
    main()
