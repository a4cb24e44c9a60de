"""RNN, GRU and LSTM, one step after the other.

The products with the inputs of all steps are one matrix product; a step adds the product with the state. Everything
quantizes as any other layer does, and the number of steps is that of the (static) shape. All but short sequences stay
loops, whose steps share their scales and code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qcompile.ir.graph import Value
from qcompile.onnx_import.open_steps import OpenSteps, steps_along
from qcompile.onnx_import.rolled import RolledLoop, stacked
from qcompile.ops.onnx_node import OnnxNode
from qcompile.ops.reshape import reshaped
from qcompile.ops.sliced import sliced

UNROLLED_STEPS = 8
"""Steps of a direction that are unrolled; longer sequences stay loops where these can be."""

STEPS_LIMIT = 2000
"""Steps of all directions that are unrolled at most, where loops cannot be; more would take minutes to compile."""

Activation = Callable[[Value, str], Value]

_PLAIN = {"relu": "relu", "tanh": "tanh", "sigmoid": "sigmoid", "softsign": "softsign", "softplus": "softplus"}
_ALPHA = {"leakyrelu": 0.01, "elu": 1.0, "thresholdedrelu": 1.0, "affine": 1.0, "scaledtanh": 1.0, "hardsigmoid": 0.2}
_BETA = {"affine": 0.0, "scaledtanh": 1.0, "hardsigmoid": 0.5}


@dataclass
class _Layer:
    """What one direction of a recurrent operator is made of.

    Args:
        node: the ONNX node.
        name: prefix of its tensors.
        gates: products with the inputs of all steps, biases included, [T, B, G·H].
        steps: T where it is open, else None.
        recurrent: R, [G·H, H].
        bias: the recurrent bias, [G·H]; zeros where it is part of `gates` already.
        hidden: H.
        activations: in the operator's order.
    """

    node: OnnxNode
    name: str
    gates: Value
    steps: OpenSteps | None
    recurrent: Value
    bias: np.ndarray[Any, Any]
    hidden: int
    activations: Sequence[Activation]

    def op(self, op: str, inputs: Sequence[Value], label: str, **attrs: Any) -> Value:
        """Append a node under this direction's prefix."""
        return self.node.add(op, inputs, name=f"{self.name}.{label}", **attrs)

    def scalar(self, value: float) -> Value:
        """Make a constant of one number."""
        return self.node.constant("number", np.float32(value))

    def step_gates(self, step: int, label: str) -> Value:
        """Return the products with one step's input, [B, G·H]."""
        shape, name = self.gates.shape, f"{self.name}.{label}.input"
        if self.steps is not None:
            return self.steps.element(self.gates, 0, step, name)
        part = sliced(self.node, self.gates, {0: slice(step, step + 1)}, f"{self.name}.{label}.x")
        return reshaped(self.node, part, shape[1:], name)

    def product(self, state: Value, rows: slice, label: str) -> Value:
        """Return state · R[rows]ᵀ + bias[rows]."""
        weight = sliced(self.node, self.recurrent, {0: rows}, f"{self.name}.{label}.r")
        bias = self.node.constant("recurrent_bias", np.ascontiguousarray(self.bias[rows]))
        return linear(self.node, state, weight, bias, f"{self.name}.{label}")

    def gate(self, value: Value, number: int, label: str) -> Value:
        """Return one of the gates in [B, G·H]."""
        part = slice(number * self.hidden, (number + 1) * self.hidden)
        return sliced(self.node, value, {1: part}, f"{self.name}.{label}")


def linear(node: OnnxNode, x: Value, weight: Value, bias: Value, name: str) -> Value:
    """Return x · weightᵀ + bias, as a dense layer where the weight is constant.

    Args:
        node: the ONNX node that asks for it.
        x: [..., K].
        weight: [N, K].
        bias: [N], constant.
        name: of the result.
    """
    if weight.is_constant:
        return node.add("dense", [x, weight, bias], name=name)
    turned = node.add("transpose", [weight], name=f"{name}.t", perm=(1, 0))
    return node.add("add", [node.add("matmul", [x, turned], name=f"{name}.product"), bias], name=name)


def _activation(node: OnnxNode, kind: str, alpha: float, beta: float) -> Activation:
    if kind in _PLAIN:
        return lambda x, name: node.add(_PLAIN[kind], [x], name=name)
    if kind in ("leakyrelu", "elu"):
        op = {"leakyrelu": "leaky_relu", "elu": "elu"}[kind]
        return lambda x, name: node.add(op, [x], name=name, alpha=alpha)
    if kind == "hardsigmoid":
        return lambda x, name: node.add("hard_sigmoid", [x], name=name, alpha=alpha, beta=beta)

    def scaled(x: Value, factor: float, name: str) -> Value:
        return node.add("mul", [x, node.constant("factor", np.float32(factor))], name=name)

    if kind == "affine":
        shift = np.float32(beta)
        return lambda x, name: node.add(
            "add", [scaled(x, alpha, f"{name}.scaled"), node.constant("shift", shift)], name=name
        )
    if kind == "scaledtanh":
        return lambda x, name: scaled(
            node.add("tanh", [scaled(x, beta, f"{name}.inner")], name=f"{name}.tanh"), alpha, name
        )
    return node.fail(f"the activation {kind} has no code", hint="Relu, Tanh, Sigmoid, Elu and others have")


def _activations(node: OnnxNode, defaults: Sequence[str], directions: int) -> list[list[Activation]]:
    """Return the activations of each direction."""
    names = [str(n).lower() for n in node.attr("activations") or list(defaults) * directions]
    if len(names) != len(defaults) * directions:
        node.fail(f"{len(names)} activations for {directions} directions")
    alphas, betas = list(node.attr("activation_alpha") or []), list(node.attr("activation_beta") or [])
    found = []
    for name in names:
        # The lists hold values for those activations only that have a parameter.
        alpha = alphas.pop(0) if name in _ALPHA and alphas else _ALPHA.get(name, 0.0)
        beta = betas.pop(0) if name in _BETA and betas else _BETA.get(name, 0.0)
        found.append(_activation(node, name, float(alpha), float(beta)))
    count = len(defaults)
    return [found[d * count : (d + 1) * count] for d in range(directions)]


def _clipped(node: OnnxNode, activation: Activation) -> Activation:
    limit = node.attr("clip")
    if not limit:
        return activation
    bound = float(limit)
    return lambda x, name: activation(node.add("clip", [x], name=f"{name}.clip", min=-bound, max=bound), name)


@dataclass
class _Sequence:
    """What all directions have in common.

    Args:
        node: the ONNX node.
        x: the input, [T, B, I].
        directions: 1 or 2.
        hidden: H.
        lengths: steps that count of each entry of the batch, int64 [B, 1]; None where all do.
        open_steps: number of steps where it is open, else None.
    """

    node: OnnxNode
    x: Value
    directions: int
    hidden: int
    lengths: Value | None
    open_steps: OpenSteps | None

    @property
    def steps(self) -> int:
        """Number of steps."""
        return self.x.shape[0]

    @property
    def rolled(self) -> bool:
        """Whether the steps of each direction are a loop."""
        prefers = self.steps > UNROLLED_STEPS and RolledLoop.fits(self.node)
        return prefers or self.steps * self.directions > STEPS_LIMIT

    @property
    def batch(self) -> int:
        """Size of the batch."""
        return self.x.shape[1]


def _sequence(node: OnnxNode, gates: int) -> _Sequence:
    x = node.value(0)
    if node.attr("layout", 0):
        x = node.add("transpose", [x], name=f"{node.outputs[0] or node.name}.x", perm=(1, 0, 2))
    weight = node.type(1)
    if len(x.shape) != 3 or weight.rank != 3 or weight.shape[1] % gates:
        node.fail(f"weights {weight} do not fit the input {x.type}")
    lengths: Value | None = node.value(4) if node.has(4) else None
    if lengths is not None and lengths.data is not None and (lengths.data == x.shape[0]).all():
        lengths = None
    base, extent = node.outputs[0] or node.name, steps_along(node, x, 0)
    if lengths is not None:
        wide = lengths if lengths.dtype == "int64" else node.add("cast", [lengths], f"{base}.steps", dtype="int64")
        lengths = reshaped(node, wide, (x.shape[1], 1), f"{base}.lengths")
    steps = None if extent is None else OpenSteps(node, extent, base)
    seq = _Sequence(node, x, weight.shape[0], weight.shape[1] // gates, lengths, steps)
    if steps is not None and seq.rolled:
        hint = "give a shorter sequence, or a fixed one, with --input-shape"
        node.fail(f"{seq.steps} steps of which a run makes a part are too many to unroll ({STEPS_LIMIT})", hint=hint)
    return seq


def _layer(seq: _Sequence, d: int, gates: int, activations: Sequence[Activation], separate: slice | None) -> _Layer:
    """Collect one direction; `separate` are the rows whose recurrent bias must stay apart."""
    node, rows = seq.node, gates * seq.hidden
    name = f"{node.outputs[0] or node.name}.{d}"
    weight = _direction(node, node.value(1), d, f"{name}.w")
    recurrent = _direction(node, node.value(2), d, f"{name}.r")
    biases = np.zeros((2, rows), np.float32)
    if node.has(3):
        biases = node.array(3, "its bias")[d].reshape(2, rows).astype(np.float32)
    inner, outer = biases[1].copy(), biases[0].copy()
    moved = np.ones(rows, np.bool_)
    if separate is not None:
        moved[separate] = False
    outer[moved] += inner[moved]
    inner[moved] = 0.0
    products = linear(node, seq.x, weight, node.constant("bias", outer), f"{name}.gates")
    # As in ONNX Runtime, an LSTM's cell state (its third activation's operand) is not clipped.
    clipped = [_clipped(node, a) if k < 2 else a for k, a in enumerate(activations)]
    return _Layer(node, name, products, seq.open_steps, recurrent, inner, seq.hidden, clipped)


def _direction(node: OnnxNode, value: Value, d: int, name: str) -> Value:
    part = sliced(node, value, {0: slice(d, d + 1)}, f"{name}.part")
    return reshaped(node, part, value.shape[1:], name)


def _initial(seq: _Sequence, index: int, d: int, name: str) -> Value:
    """Return the state that a direction starts from, [B, H]."""
    node, shape = seq.node, (seq.batch, seq.hidden)
    if not node.has(index):
        return node.constant(name, np.zeros(shape, np.float32))
    state = node.value(index)
    axis = 1 if node.attr("layout", 0) else 0
    base = f"{node.outputs[0] or node.name}.{d}.{name}"
    return reshaped(node, sliced(node, state, {axis: slice(d, d + 1)}, f"{base}.part"), shape, base)


Step = Callable[[_Layer, Value, list[Value], str], list[Value]]


def _unroll(seq: _Sequence, defaults: Sequence[str], gates: int, states: int, step: Step, separate: Any) -> Any:
    """Run every direction over all steps and return Y, Y_h (and Y_c) in ONNX's layout."""
    node = seq.node
    backward = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[
        str(node.attr("direction", "forward"))
    ]
    if len(backward) != seq.directions:
        node.fail(f"{seq.directions} directions of weights for '{node.attr('direction', 'forward')}'")
    outputs: list[list[Value]] = []
    finals: list[list[Value]] = []
    for d, activations in enumerate(_activations(node, defaults, seq.directions)):
        layer = _layer(seq, d, gates, activations, separate)
        start = [_initial(seq, 5 + k, d, f"state{k}") for k in range(states)]
        if seq.rolled:
            y, left = _rolled_direction(seq, layer, start, step, backward=backward[d])
            outputs.append([y])
            finals.append(left)
            continue
        made = _direction_steps(seq, layer, start, step, backward=backward[d])
        outputs.append([y for y, _ in made])
        if backward[d] or seq.open_steps is None:
            finals.append(made[0 if backward[d] else -1][1])
        else:
            history, base = zip(*(state for _, state in made), strict=True), f"{layer.name}.last"
            finals.append([seq.open_steps.last(h, f"{base}{k}") for k, h in enumerate(history)])
    return _assembled(seq, outputs, finals)


def _direction_steps(
    seq: _Sequence, layer: _Layer, start: list[Value], step: Step, *, backward: bool
) -> list[tuple[Value, list[Value]]]:
    """Run one direction, and return the row and the state that each step makes, in the order of the input."""
    state, made = start, []
    for t in reversed(range(seq.steps)) if backward else range(seq.steps):
        label = f"step{t}"
        if backward and seq.open_steps is not None and t + 1 < seq.steps:
            pairs = enumerate(zip(state, start, strict=True))
            prefix = f"{layer.name}.{label}.from"
            state = [seq.open_steps.since(t + 1, new, old, f"{prefix}{k}") for k, (new, old) in pairs]
        new = step(layer, layer.step_gates(t, label), state, label)
        number = layer.node.constant("step", t, "int64")
        row, state = _masked(seq, layer, number, new, state, label)
        made.append((row, state))
    return made[::-1] if backward else made


def _rolled_direction(
    seq: _Sequence, layer: _Layer, start: list[Value], step: Step, *, backward: bool
) -> tuple[Value, list[Value]]:
    """Run one direction as a loop, and return the rows of all steps, [T, B, H], and the last state."""
    loop = RolledLoop(seq.node, seq.steps, layer.name)
    state = [loop.state(value, f"state{k}") for k, value in enumerate(start)]
    number = loop.place(backward=backward)
    gates = layer.op("gather", [layer.gates, number], "step.input", axis=0)
    row, after = _masked(seq, layer, number, step(layer, gates, state, "step"), state, "step")
    rows, written = loop.written(row, "rows", backward=backward)
    _, left = loop.close([*zip(state, after, strict=True), (rows, written)])
    return stacked(seq.node, left[rows], row, 0, f"{layer.name}.rows"), [left[value] for value in state]


def _masked(
    seq: _Sequence, layer: _Layer, number: Value, new: list[Value], old: list[Value], label: str
) -> tuple[Value, list[Value]]:
    """Keep the state, and give zeros, where an entry of the batch has ended before a step, int64 []."""
    if seq.lengths is None:
        return new[0], new
    counts = layer.op("greater", [seq.lengths, number], f"{label}.counts")
    zero = layer.scalar(0.0)
    y = layer.op("where", [counts, new[0], zero], f"{label}.y")
    pairs = enumerate(zip(new, old, strict=True))
    return y, [layer.op("where", [counts, n, o], f"{label}.kept{k}") for k, (n, o) in pairs]


def _assembled(seq: _Sequence, outputs: list[list[Value]], finals: list[list[Value]]) -> tuple[Value, ...]:
    """Stack steps and directions: Y [T, D, B, H], the states [D, B, H]; the batch first with `layout`."""
    node, shape = seq.node, (seq.batch, seq.hidden)
    first = bool(node.attr("layout", 0))
    names = [*node.outputs, *[""] * 3]
    base = node.outputs[0] or node.name

    def joined(parts: Sequence[Value], axis: int, name: str) -> Value:
        return parts[0] if len(parts) == 1 else node.add("concat", parts, name=name, axis=axis)

    # Each direction comes as one part a step, or as one of all steps.
    count = len(outputs[0])
    part = (seq.steps // count, 1, *shape)
    rows = [
        joined([reshaped(node, o[t], part, f"{base}.{d}.{t}.row") for d, o in enumerate(outputs)], 1,
               f"{base}.{t}.rows")
        for t in range(count)
    ]  # fmt: skip
    whole = first or seq.open_steps is not None
    y = joined(rows, 0, f"{base}.all" if whole else names[0] or f"{base}.all")
    if seq.open_steps is not None:
        y = seq.open_steps.trimmed(y, 0, f"{base}.steps" if first else names[0] or f"{base}.steps")
    if first:
        y = node.add("transpose", [y], name=names[0] or f"{base}.y", perm=(2, 0, 1, 3))
    results = [y]
    for k in range(len(finals[0])):
        parts = [reshaped(node, f[k], (1, *shape), f"{base}.{d}.final{k}") for d, f in enumerate(finals)]
        state = joined(parts, 0, names[1 + k] or f"{base}.final{k}")
        if first:
            state = node.add("transpose", [state], name=f"{base}.state{k}", perm=(1, 0, 2))
        results.append(state)
    return tuple(results)


def _rnn(node: OnnxNode) -> tuple[Value, ...]:
    """H = f(X·Wᵀ + H·Rᵀ + Wb + Rb)."""

    def step(layer: _Layer, x: Value, state: list[Value], label: str) -> list[Value]:
        product = layer.product(state[0], slice(0, layer.hidden), f"{label}.r")
        return [layer.activations[0](layer.op("add", [x, product], f"{label}.sum"), f"{layer.name}.{label}.h")]

    seq = _sequence(node, 1)
    return tuple(_unroll(seq, ["Tanh"], 1, 1, step, None))


def _gru(node: OnnxNode) -> tuple[Value, ...]:
    """z, r = f(…); h = g(X·Whᵀ + (r⊙H)·Rhᵀ + b), or r⊙(H·Rhᵀ + Rbh); H = (1 − z)⊙h + z⊙H."""
    linear_before = bool(node.attr("linear_before_reset", 0))
    seq = _sequence(node, 3)
    hidden = seq.hidden
    last = slice(2 * hidden, 3 * hidden)

    def step(layer: _Layer, x: Value, state: list[Value], label: str) -> list[Value]:
        f, g = layer.activations
        name = f"{layer.name}.{label}"
        h = state[0]
        if linear_before:
            whole = layer.product(h, slice(0, 3 * hidden), f"{label}.r")
            both = sliced(node, whole, {1: slice(0, 2 * hidden)}, f"{name}.zr")
            candidate = sliced(node, whole, {1: last}, f"{name}.rh")
        else:
            both = layer.product(h, slice(0, 2 * hidden), f"{label}.zr")
        inputs = sliced(node, x, {1: slice(0, 2 * hidden)}, f"{name}.xzr")
        gates = f(layer.op("add", [inputs, both], f"{label}.gates"), f"{name}.opened")
        z, r = layer.gate(gates, 0, f"{label}.z"), layer.gate(gates, 1, f"{label}.reset")
        if linear_before:
            candidate = layer.op("mul", [r, candidate], f"{label}.gated")
        else:
            candidate = layer.product(layer.op("mul", [r, h], f"{label}.gated"), last, f"{label}.rh")
        own = layer.op("add", [layer.gate(x, 2, f"{label}.xh"), candidate], f"{label}.candidate")
        fresh = g(own, f"{name}.fresh")
        # (1 − z)·h + z·H = h + z·(H − h)
        change = layer.op("mul", [z, layer.op("sub", [h, fresh], f"{label}.distance")], f"{label}.change")
        return [layer.op("add", [fresh, change], f"{label}.h")]

    return tuple(_unroll(seq, ["Sigmoid", "Tanh"], 3, 1, step, last if linear_before else None))


def _lstm(node: OnnxNode) -> tuple[Value, ...]:
    """i, o, f = f(… + P⊙C); C = f⊙C + i⊙g(…); H = o⊙h(C)."""
    seq = _sequence(node, 4)
    peepholes = node.array(7, "its peepholes").astype(np.float32) if node.has(7) else None
    coupled = bool(node.attr("input_forget", 0))

    def step(layer: _Layer, x: Value, state: list[Value], label: str) -> list[Value]:
        f, g, out = layer.activations
        name, (h, c) = f"{layer.name}.{label}", state
        product = layer.product(h, slice(0, 4 * layer.hidden), f"{label}.r")
        gates = layer.op("add", [x, product], f"{label}.gates")
        direction = int(layer.name.rpartition(".")[2])

        def opened(number: int, cell: Value, what: str) -> Value:
            value = layer.gate(gates, number, f"{label}.{what}.in")
            if peepholes is not None:
                part = slice(number * layer.hidden, (number + 1) * layer.hidden)
                look = node.constant("peephole", np.ascontiguousarray(peepholes[direction, part]))
                seen = layer.op("mul", [cell, look], f"{label}.{what}.seen")
                value = layer.op("add", [value, seen], f"{label}.{what}.sum")
            return f(value, f"{name}.{what}")

        i = opened(0, c, "i")
        keep = layer.op("sub", [layer.scalar(1.0), i], f"{label}.f") if coupled else opened(2, c, "f")
        fresh = g(layer.gate(gates, 3, f"{label}.c.in"), f"{name}.fresh")
        kept = layer.op("mul", [keep, c], f"{label}.kept")
        cell = layer.op("add", [kept, layer.op("mul", [i, fresh], f"{label}.added")], f"{label}.c")
        o = opened(1, cell, "o")
        return [layer.op("mul", [o, out(cell, f"{name}.shown")], f"{label}.h"), cell]

    def whole(layer: _Layer, x: Value, state: list[Value], label: str) -> list[Value]:
        return _lstm_step(layer, x, state, label) if peepholes is None and not coupled else step(layer, x, state, label)

    return tuple(_unroll(seq, ["Sigmoid", "Tanh", "Tanh"], 4, 2, whole, None))


def _lstm_step(layer: _Layer, x: Value, state: list[Value], label: str) -> list[Value]:
    """Run a plain step: the three sigmoid gates, which lie side by side, are opened together."""
    f, g, out = layer.activations
    name, (h, c) = f"{layer.name}.{label}", state
    gates = layer.op("add", [x, layer.product(h, slice(0, 4 * layer.hidden), f"{label}.r")], f"{label}.gates")
    three = sliced(layer.node, gates, {1: slice(0, 3 * layer.hidden)}, f"{name}.iof")
    opened = f(three, f"{name}.opened")
    i, o, keep = (layer.gate(opened, k, f"{label}.{what}") for k, what in enumerate("iof"))
    fresh = g(layer.gate(gates, 3, f"{label}.c.in"), f"{name}.fresh")
    kept = layer.op("mul", [keep, c], f"{label}.kept")
    cell = layer.op("add", [kept, layer.op("mul", [i, fresh], f"{label}.added")], f"{label}.c")
    return [layer.op("mul", [o, out(cell, f"{name}.shown")], f"{label}.h"), cell]


CONVERTERS = {"RNN": _rnn, "GRU": _gru, "LSTM": _lstm}
