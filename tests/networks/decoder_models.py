"""Small decoders as exporters write them: caches that grow, masks and places computed from shapes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class Export:
    """Collects the nodes of a decoder.

    Args:
        heads: of the queries.
        kept: heads of keys and values.
        size: of a head.
        layers: count.
        vocabulary: count.
        seed: of the weights.
    """

    def __init__(
        self, heads: int = 4, kept: int = 4, size: int = 8, layers: int = 2, vocabulary: int = 31, seed: int = 0
    ) -> None:
        self.heads, self.kept, self.size, self.layers, self.vocabulary = heads, kept, size, layers, vocabulary
        self.width = heads * size
        self.random = np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.tensors: list[Any] = []
        self.inputs = [self._input("input_ids", TensorProto.INT64, "batch_size", "sequence_length")]
        self.outputs = [self._input("logits", TensorProto.FLOAT, "batch_size", "sequence_length", vocabulary)]
        for layer in range(layers):
            for part in ("key", "value"):
                shape = ("batch_size", kept, "past_sequence_length", size)
                grown = ("batch_size", kept, "past_sequence_length + sequence_length", size)
                self.inputs.append(self._input(f"past_key_values.{layer}.{part}", TensorProto.FLOAT, *shape))
                self.outputs.append(self._input(f"present.{layer}.{part}", TensorProto.FLOAT, *grown))
        total = "past_sequence_length + sequence_length"
        self.inputs.append(self._input("attention_mask", TensorProto.INT64, "batch_size", total))

    @staticmethod
    def _input(name: str, kind: int, *shape: int | str) -> Any:
        return helper.make_tensor_value_info(name, kind, shape)

    def __call__(self, op: str, *inputs: str, n: int = 1, domain: str = "", **attributes: Any) -> Any:
        names = [f"/{op}_{len(self.nodes)}_{k}" for k in range(n)]
        self.name(op, list(inputs), names, domain, **attributes)
        return names[0] if n == 1 else names

    def name(self, op: str, inputs: list[str], outputs: list[str], domain: str = "", **attributes: Any) -> None:
        label = f"/{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, outputs, label, domain=domain, **attributes))

    def constant(self, data: Any, dtype: str = "int64") -> str:
        name = f"const_{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(np.asarray(data, dtype), name))
        return name

    def weight(self, *shape: int, scale: float = 1.0) -> str:
        return self.constant(self.random.normal(0, scale / np.sqrt(shape[0]), shape), "float32")

    def dim(self, x: str, axis: int) -> str:
        return self("Gather", self("Shape", x), self.constant(axis), axis=0)

    def row(self, number: str) -> str:
        return self("Unsqueeze", number, self.constant([0]))

    def dense(self, x: str, rows: int, columns: int) -> str:
        product = self("MatMul", x, self.weight(rows, columns))
        return self("Add", product, self.constant(self.random.normal(0, 0.1, columns), "float32"))

    def split_heads(self, x: str, heads: int) -> str:
        last = self.constant([heads, self.size])
        shape = self("Concat", self.row(self.dim(x, 0)), self.row(self.dim(x, 1)), last, axis=0)
        return self("Transpose", self("Reshape", x, shape), perm=[0, 2, 1, 3])

    def append(self, layer: int, part: str, new: str) -> str:
        name = f"present.{layer}.{part}"
        self.name("Concat", [f"past_key_values.{layer}.{part}", new], [name], axis=-2)
        return name

    def join_heads(self, x: str) -> str:
        moved = self("Transpose", x, perm=[0, 2, 1, 3])
        shape = self("Concat", self.row(self.dim(moved, 0)), self.row(self.dim(moved, 1)), self.constant([-1]), axis=0)
        return self("Reshape", moved, shape)

    def prune(self) -> None:
        """Remove nodes that nothing reads, and the mask if nothing does."""
        read = {value.name for value in self.outputs}
        kept = []
        for node in reversed(self.nodes):
            if read & set(node.output):
                read |= set(node.input)
                kept.append(node)
        self.nodes = kept[::-1]
        self.inputs = [value for value in self.inputs if value.name in read]

    def model(self, opset: int = 17, more: tuple[str, ...] = ()) -> Any:
        graph = helper.make_graph(self.nodes, "decoder", self.inputs, self.outputs, self.tensors)
        opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in more)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def gpt2(**sizes: int) -> Any:
    """Learned places, a bias buffer cut by the lengths, layer normalization, GELU by tanh."""
    b = Export(**sizes)
    w, places = b.width, 64
    past = b.dim("past_key_values.0.key", 2)
    new = b.dim("input_ids", 1)
    total = b("Add", past, new)
    position = b("Unsqueeze", b("Range", past, total, b.constant(1)), b.constant([0]))
    token = b("Gather", b.weight(b.vocabulary, w, scale=4), "input_ids")
    x = b("Add", token, b("Gather", b.weight(places, w, scale=2), position))
    mask = b("Unsqueeze", b("Unsqueeze", "attention_mask", b.constant([1])), b.constant([2]))
    low = b.constant(np.finfo(np.float32).min, "float32")
    mask = b("Mul", b("Sub", b.constant(1.0, "float32"), b("Cast", mask, to=1)), low)
    buffer = b.constant(np.tri(places, dtype=bool)[None, None], "bool")
    for layer in range(b.layers):
        n = b("LayerNormalization", x, b.constant(np.ones(w), "float32"), b.constant(np.zeros(w), "float32"), axis=-1)
        q, k, v = b("Split", b.dense(n, w, 3 * w), n=3, axis=2)
        q, k, v = (b.split_heads(part, b.heads) for part in (q, k, v))
        k, v = b.append(layer, "key", k), b.append(layer, "value", v)
        scores = b("Div", b("MatMul", q, b("Transpose", k, perm=[0, 1, 3, 2])), b.constant(b.size**0.5, "float32"))
        rows, columns = b.dim(q, 2), b.dim(k, 2)
        first = b("Sub", columns, rows)
        cut = b("Slice", buffer, b.row(first), b.row(columns), b.constant([2]), b.constant([1]))
        cut = b("Slice", cut, b.constant([0]), b.row(columns), b.constant([3]), b.constant([1]))
        scores = b("Where", cut, scores, low)
        shares = b("Softmax", b("Add", scores, mask), axis=-1)
        x = b("Add", b.dense(b.join_heads(b("MatMul", shares, v)), w, w), x)
        n = b("LayerNormalization", x, b.constant(np.ones(w), "float32"), b.constant(np.zeros(w), "float32"), axis=-1)
        h = b.dense(n, w, 4 * w)
        cube = b("Mul", b("Pow", h, b.constant(3.0, "float32")), b.constant(0.044715, "float32"))
        inner = b("Tanh", b("Mul", b("Add", h, cube), b.constant(0.7978845608, "float32")))
        h = b("Mul", b("Mul", h, b.constant(0.5, "float32")), b("Add", inner, b.constant(1.0, "float32")))
        x = b("Add", b.dense(h, 4 * w, w), x)
    b.name("MatMul", [x, b.weight(w, b.vocabulary)], ["logits"])
    return b.model()


def rotated(b: Export, x: str, cos: str, sin: str) -> str:
    half = b.size // 2
    first = b("Slice", x, b.constant([0]), b.constant([half]), b.constant([3]))
    second = b("Slice", x, b.constant([half]), b.constant([2**62]), b.constant([3]))
    turned = b("Concat", b("Neg", second), first, axis=-1)
    return b("Add", b("Mul", x, cos), b("Mul", turned, sin))


def normalized(b: Export, x: str, opset: int = 17) -> str:
    power = b("Pow", x, b.constant(2.0, "float32"))
    if opset < 18:
        squares = b("ReduceMean", power, axes=[-1], keepdims=1)
    else:
        squares = b("ReduceMean", power, b.constant([-1]), keepdims=1)
    root = b("Sqrt", b("Add", squares, b.constant(1e-5, "float32")))
    gain = b.constant(b.random.normal(1, 0.1, b.width), "float32")
    return b("Mul", gain, b("Mul", x, b("Div", b.constant(1.0, "float32"), root)))


def repeated(b: Export, x: str, heads: int) -> str:
    """Repeat the heads of keys or values by Unsqueeze, Expand and Reshape."""
    times = heads // b.kept
    batch, length = b.row(b.dim(x, 0)), b.row(b.dim(x, 2))
    wide = b("Concat", batch, b.constant([b.kept, times]), length, b.constant([b.size]), axis=0)
    flat = b("Concat", batch, b.constant([heads]), length, b.constant([b.size]), axis=0)
    return b("Reshape", b("Expand", b("Unsqueeze", x, b.constant([2])), wide), flat)


def llama(boolean: bool = False, **sizes: int) -> Any:
    """Rotary places, shared key heads, RMS normalization, a gated MLP; masks by Range and comparison.

    With `boolean`, masks are those of scaled dot product attention in newer exports: −∞ where nothing is seen, and
    zeros for rows that see nothing at all.
    """
    b = Export(**{"kept": 2, **sizes})
    w = b.width
    b.inputs.append(b._input("position_ids", TensorProto.INT64, "batch_size", "sequence_length"))
    past, new = b.dim("past_key_values.0.key", 2), b.dim("input_ids", 1)
    total = b("Add", past, new)
    x = b("Gather", b.weight(b.vocabulary, w, scale=4), "input_ids")
    frequencies = b.constant((10000.0 ** (-np.arange(0, b.size, 2) / b.size)).reshape(1, -1, 1), "float32")
    places = b("Cast", b("Unsqueeze", "position_ids", b.constant([1])), to=1)
    angles = b("Transpose", b("MatMul", frequencies, places), perm=[0, 2, 1])
    angles = b("Concat", angles, angles, axis=-1)
    cos, sin = (b("Unsqueeze", b(f, angles), b.constant([1])) for f in ("Cos", "Sin"))
    low = float(np.finfo(np.float32).min)
    columns = b("Range", b.constant(0), total, b.constant(1))
    rows = b("Reshape", b("Range", past, total, b.constant(1)), b.constant([-1, 1]))
    later = b("Cast", b("Greater", columns, rows), to=1)
    shape = b("Concat", b.row(new), b.row(total), axis=0)
    mask = b("Mul", b("ConstantOfShape", shape, value=helper.make_tensor("v", 1, [1], [low])), later)
    mask = b("Unsqueeze", mask, b.constant([0, 1]))
    keys = b("Unsqueeze", b("Unsqueeze", "attention_mask", b.constant([1])), b.constant([1]))
    padding = b("Equal", b("Add", mask, b("Cast", keys, to=1)), b.constant(0.0, "float32"))
    mask = b("Where", padding, b.constant(low, "float32"), mask)
    if boolean:
        seen = b("And", b("Cast", b("LessOrEqual", columns, rows), to=9), b("Cast", keys, to=9))
        mask = b("Where", seen, b.constant(0.0, "float32"), b.constant(-np.inf, "float32"))
    for layer in range(b.layers):
        n = normalized(b, x)
        q = rotated(b, b.split_heads(b("MatMul", n, b.weight(w, w)), b.heads), cos, sin)
        k = rotated(b, b.split_heads(b("MatMul", n, b.weight(w, b.kept * b.size)), b.kept), cos, sin)
        v = b.split_heads(b("MatMul", n, b.weight(w, b.kept * b.size)), b.kept)
        k, v = b.append(layer, "key", k), b.append(layer, "value", v)
        k, v = repeated(b, k, b.heads), repeated(b, v, b.heads)
        scores = b("Mul", b("MatMul", q, b("Transpose", k, perm=[0, 1, 3, 2])), b.constant(b.size**-0.5, "float32"))
        shares = b("Softmax", b("Add", scores, mask), axis=-1)
        if boolean:
            shares = b("Where", b("IsNaN", shares), b.constant(0.0, "float32"), shares)
        x = b("Add", x, b("MatMul", b.join_heads(b("MatMul", shares, v)), b.weight(w, w)))
        n = normalized(b, x)
        gate = b("MatMul", n, b.weight(w, 3 * w))
        h = b("Mul", b("Mul", gate, b("Sigmoid", gate)), b("MatMul", n, b.weight(w, 3 * w)))
        x = b("Add", x, b("MatMul", h, b.weight(3 * w, w)))
    b.name("MatMul", [normalized(b, x), b.weight(w, b.vocabulary)], ["logits"])
    return b.model()


def fused(kind: str) -> Any:
    """One node of attention a layer, which takes the caches and returns them: "group", "multi" or "onnx"."""
    b = Export(heads=4, kept=4 if kind == "multi" else 2, size=16, layers=2)
    w, kept = b.width, b.kept * b.size
    turns = [b.constant(b.random.normal(0, 1, (64, b.size // 2)), "float32") for _ in range(2)]
    mask = b("Cast", "attention_mask", to=6)
    lengths = b("Cast", b("Sub", b("ReduceSum", mask, b.constant([1]), keepdims=0), b.constant(1, "int32")), to=6)
    total = b("Cast", b.dim("attention_mask", 1), to=6)
    x = b("Gather", b.weight(b.vocabulary, w, scale=4), "input_ids")
    for layer in range(b.layers):
        n = normalized(b, x, opset=18)
        q, k, v = (b("MatMul", n, b.weight(w, columns)) for columns in (w, kept, kept))
        sides = ("past_key_values", "present")
        past, present = ([f"{side}.{layer}.{part}" for part in ("key", "value")] for side in sides)
        made = f"attended_{layer}"
        if kind == "group":
            operands = [q, k, v, *past, lengths, total, *turns]
            b.name("GroupQueryAttention", operands, [made, *present], "com.microsoft", num_heads=4, kv_num_heads=2,
                   do_rotary=1)  # fmt: skip
        elif kind == "multi":
            b.name("MultiHeadAttention", [q, k, v, "", "", "", *past], [made, *present], "com.microsoft", num_heads=4,
                   unidirectional=1)  # fmt: skip
        else:
            b.name("Attention", [q, k, v, "", *past], [made, *present], is_causal=1, q_num_heads=4, kv_num_heads=2)
        x = b("Add", x, b("MatMul", made, b.weight(w, w)))
    b.name("MatMul", [x, b.weight(w, b.vocabulary)], ["logits"])
    b.prune()
    return b.model(23 if kind == "onnx" else 18, more=("com.microsoft",))


def merged(model: Any) -> Any:
    """Return a decoder with a branch for the first run, whose caches are empty, as Optimum merges two exports."""
    graph = model.graph
    then = helper.make_graph(graph.node, "then_branch", [], list(graph.output))
    rest = []
    for node in graph.node:
        twin = onnx.NodeProto()
        twin.CopyFrom(node)
        pasts = [name for name in node.input if name.startswith("past_key_values") and ".encoder." not in name]
        if node.op_type == "Concat" and pasts:
            twin = helper.make_node("Identity", [node.input[1]], node.output)
        elif pasts:
            shape = next(v for v in graph.input if v.name == pasts[0]).type.tensor_type.shape.dim
            empty = np.array([1, shape[1].dim_value, 0, shape[3].dim_value])
            twin = helper.make_node("Constant", [], node.output, value=numpy_helper.from_array(empty))
        rest.append(twin)
    other = helper.make_graph(rest, "else_branch", [], list(graph.output))
    names = [value.name for value in graph.output]
    choice = helper.make_node("If", ["use_cache_branch"], names, "optimum::if", then_branch=then, else_branch=other)
    inputs = [*graph.input, helper.make_tensor_value_info("use_cache_branch", TensorProto.BOOL, [1])]
    whole = helper.make_graph([choice], "merged", inputs, graph.output, graph.initializer)
    return helper.make_model(whole, opset_imports=model.opset_import, ir_version=8)


def crossing() -> Any:
    """Attention over keys and values of an encoder besides, which the caller gives; their mask is an input."""
    b = Export(layers=1)
    w = b.width
    x = b("Gather", b.weight(b.vocabulary, w, scale=4), "input_ids")
    q, k, v = (b.split_heads(b("MatMul", x, b.weight(w, w)), b.heads) for _ in range(3))
    k, v = b.append(0, "key", k), b.append(0, "value", v)
    past, new = b.dim("past_key_values.0.key", 2), b.dim("input_ids", 1)
    total = b("Add", past, new)
    rows = b("Reshape", b("Range", past, total, b.constant(1)), b.constant([-1, 1]))
    later = b("Greater", b("Range", b.constant(0), total, b.constant(1)), rows)
    low = b.constant(np.finfo(np.float32).min, "float32")
    scores = b("Where", later, low, b("MatMul", q, b("Transpose", k, perm=[0, 1, 3, 2])))
    x = b("Add", x, b("MatMul", b.join_heads(b("MatMul", b("Softmax", scores, axis=-1), v)), b.weight(w, w)))
    encoded = [f"past_key_values.0.encoder.{part}" for part in ("key", "value")]
    for name in encoded:
        b.inputs.append(b._input(name, TensorProto.FLOAT, "batch_size", b.heads, "encoder_sequence_length", b.size))
    b.inputs.append(b._input("encoder_attention_mask", TensorProto.INT64, "batch_size", "encoder_sequence_length"))
    keys = b("Unsqueeze", b("Cast", "encoder_attention_mask", to=1), b.constant([1, 2]))
    mask = b("Mul", b("Sub", b.constant(1.0, "float32"), keys), low)
    shape = b("Concat", b.constant([1, b.heads]), b.row(new), b.row(b.dim(encoded[0], 2)), axis=0)
    bias = b("Add", b("ConstantOfShape", shape, value=helper.make_tensor("v", 1, [1], [0.0])), mask)
    q = b.split_heads(b("MatMul", x, b.weight(w, w)), b.heads)
    scores = b("Add", b("MatMul", q, b("Transpose", encoded[0], perm=[0, 1, 3, 2])), bias)
    x = b("Add", x, b.join_heads(b("MatMul", b("Softmax", scores, axis=-1), encoded[1])))
    b.name("MatMul", [x, b.weight(w, b.vocabulary)], ["logits"])
    b.prune()
    return b.model()


def translating() -> Any:
    """Return a merged decoder whose first run computes the keys and values of what an encoder made."""
    model, width, rng = merged(crossing()), 12, np.random.default_rng(8)
    graph, choice = model.graph, model.graph.node[0]
    branches = {attribute.name: attribute.g for attribute in choice.attribute}
    graph.input.append(
        Export._input("encoder_hidden_states", TensorProto.FLOAT, "batch_size", "encoder_sequence_length", width)
    )
    graph.initializer.append(numpy_helper.from_array(np.array([0, -1, 4, 8]), "heads"))
    first = []
    for past in [v.name for v in graph.input if ".encoder." in v.name]:
        present = past.replace("past_key_values", "present")
        weight = numpy_helper.from_array(rng.normal(0, 0.3, (width, 32)).astype(np.float32), f"{present}.weight")
        graph.initializer.append(weight)
        first += [
            helper.make_node("MatMul", ["encoder_hidden_states", weight.name], [f"{present}.wide"]),
            helper.make_node("Reshape", [f"{present}.wide", "heads"], [f"{present}.split"]),
            helper.make_node("Transpose", [f"{present}.split"], [present], perm=[0, 2, 1, 3]),
        ]
        for node in branches["else_branch"].node:
            node.input[:] = [present if name == past else name for name in node.input]
        nothing = numpy_helper.from_array(np.zeros((0, 4, 1, 8), np.float32))
        branches["then_branch"].node.append(helper.make_node("Constant", [], [present], value=nothing))
        shape = ["batch_size", 4, "encoder_sequence_length", 8]
        info = helper.make_tensor_value_info(present, TensorProto.FLOAT, shape)
        for outputs in (graph.output, *(branch.output for branch in branches.values())):
            outputs.append(info)
        choice.output.append(present)
    nodes = [*first, *branches["else_branch"].node]
    del branches["else_branch"].node[:]
    branches["else_branch"].node.extend(nodes)
    return model


def scattering(places: int = 24, **attributes: Any) -> Any:
    """Caches of one length, to which TensorScatter writes, read by Attention up to a number of rows."""
    b = Export(heads=4, kept=2, size=8, layers=2)
    w, kept = b.width, b.kept * b.size
    x = b("Gather", b.weight(b.vocabulary, w, scale=4), "input_ids")
    added = b("Range", b.constant(0), b.dim("input_ids", 1), b.constant(1))
    rows = b("Add", b("Unsqueeze", "write_indices", b.constant([1])), added)
    x = b("Add", x, b("Gather", b.weight(2 * places, w), rows))
    for layer in range(b.layers):
        n = normalized(b, x, opset=18)
        q, k, v = (
            b.split_heads(b("MatMul", n, b.weight(w, columns)), heads)
            for columns, heads in ((w, b.heads), (kept, b.kept), (kept, b.kept))
        )
        for part, update in (("key", k), ("value", v)):
            operands = [f"past_key_values.{layer}.{part}", update, "write_indices"]
            b.name("TensorScatter", operands, [f"present.{layer}.{part}"], **attributes)
        caches = [f"present.{layer}.{part}" for part in ("key", "value")]
        made = b("Attention", q, *caches, "", "", "", "nonpad_kv_seqlen", is_causal=1)
        x = b("Add", x, b("MatMul", b.join_heads(made), b.weight(w, w)))
    b.name("MatMul", [x, b.weight(w, b.vocabulary)], ["logits"])
    b.inputs += [b._input(name, TensorProto.INT64, "batch_size") for name in ("write_indices", "nonpad_kv_seqlen")]
    b.prune()
    for value in (*b.inputs, *b.outputs):
        if value.name.startswith(("past", "present")):
            value.type.tensor_type.shape.dim[2].dim_value = places
    return b.model(24)


def save(model: Any, path: Any) -> Any:
    """Write a model, after a check of what ONNX defines."""
    if {opset.domain for opset in model.opset_import} == {""}:
        onnx.checker.check_model(model)
    onnx.save(model, path)
    return path
