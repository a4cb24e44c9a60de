"""Which outputs of a model become inputs of its next run."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from qcompile.errors import UsageError, did_you_mean
from qcompile.ir.graph import Graph, Value
from qcompile.ir.state import State

AUTO = "auto"
"""Asks for all pairs that names and types suggest."""

_OF_OUTPUT = re.compile(
    r"^(new|next|updated)_|_(next|new|out|output|n|t1)$|(?<=[a-z])(N|n)$|(?i:(?<=[a-z])(next|out))$"
)
_OF_INPUT = re.compile(r"^(old|prev|previous|last|init|initial)_|_(prev|old|in|input|0|t0)$|(?<=[a-z])0$")


def bind_states(
    graph: Graph,
    wanted: Sequence[str],
    initial: Mapping[str, float | str] | None = None,
    fixed: Collection[str] = (),
) -> None:
    """Note in a graph which tensors are kept between runs.

    Args:
        graph: as imported; receives `states` and a note.
        wanted: texts OUTPUT=INPUT, or "auto".
        initial: number, or path of a .npy file, that a kept tensor starts with, by name of the input; zero by default.
        fixed: inputs of the model that became constants.

    Raises:
        UsageError: a name is unknown, a pair does not fit together or is named twice, or nothing suggests a pair.
    """
    outputs = dict(zip(graph.output_names, graph.outputs, strict=True))
    inputs = {value.name: value for value in graph.inputs}
    pairs: list[tuple[str, str]] = []
    for text in wanted:
        pairs += _suggested(graph, fixed) if text == AUTO else [_read_pair(text, outputs, inputs, fixed)]
    pairs = list(dict.fromkeys(pairs))
    for position, side in enumerate(("output", "input")):
        names = [pair[position] for pair in pairs]
        for name in names:
            if names.count(name) > 1:
                raise UsageError(f"--state names {side} '{name}' twice", hint="each belongs to one pair")
    for name in initial or {}:
        if name not in [pair[1] for pair in pairs]:
            raise UsageError(f"there is no state '{name}' to give a start", hint="--state OUTPUT=INPUT makes one")
    graph.states = tuple(State(i, o, _start(inputs[i], (initial or {}).get(i, 0.0))) for o, i in pairs)
    if pairs:
        listed = ", ".join(f"'{o}' → '{i}'" for o, i in pairs)
        graph.notes.append(f"kept between runs: {listed}")


def refuse_fixed(name: str) -> UsageError:
    """Return what to say of a state that is to be a constant, too."""
    return UsageError(
        f"input '{name}' cannot be kept between runs (--state): --input-value fixes it",
        hint=f"leave out --input-value {name}=…; `state_initial` in --config says what a state starts with",
    )


def _read_pair(
    text: str, outputs: Mapping[str, Value], inputs: Mapping[str, Value], fixed: Collection[str]
) -> tuple[str, str]:
    output, equals, name = text.partition("=")
    if not equals:
        raise UsageError(f"--state '{text}' is not OUTPUT=INPUT", hint="such as --state h_next=h, or --state auto")
    if name in fixed:
        raise refuse_fixed(name)
    if output in inputs and name in outputs:
        raise UsageError(f"--state '{text}' is not OUTPUT=INPUT but INPUT=OUTPUT", hint=f"--state {name}={output}")
    for given, known, side in ((output, outputs, "output"), (name, inputs, "input")):
        if given not in known:
            raise UsageError(f"--state '{text}': there is no {side} '{given}'", hint=did_you_mean(given, list(known)))
    if not _fit(outputs[output], inputs[name]):
        raise UsageError(
            f"--state '{text}': output '{output}' is {outputs[output].type}, input '{name}' {inputs[name].type}",
            hint="a kept tensor has one type; --input-shape sets open extents",
        )
    return output, name


def _fit(output: Value, input: Value) -> bool:
    return output.type == input.type


def _suggested(graph: Graph, fixed: Collection[str]) -> list[tuple[str, str]]:
    """Return the pairs whose names differ only as those of one tensor before and after a step do."""
    pairs = []
    for output, made in zip(graph.output_names, graph.outputs, strict=True):
        stem = _stem(output)
        fitting = [v.name for v in graph.inputs if _fit(made, v) and _same(stem, output, v.name)]
        if len(fitting) > 1:
            listed = ", ".join(f"'{name}'" for name in fitting)
            raise UsageError(
                f"output '{output}' could be kept for each of {listed}", hint="choose: --state OUTPUT=INPUT"
            )
        pairs += [(output, name) for name in fitting]
    if not pairs:
        for name in fixed:
            if any(same_tensor(output, name) for output in graph.output_names):
                raise refuse_fixed(name)
        names = f"outputs {', '.join(graph.output_names)}; inputs {', '.join(v.name for v in graph.inputs)}"
        raise UsageError(
            f"no output looks like the next value of an input ({names})", hint="say it: --state OUTPUT=INPUT"
        )
    return pairs


def _same(stem: str, output: str, name: str) -> bool:
    plain = name.replace("past_key_values", "past")
    return output != name and (stem in (plain, _OF_INPUT.sub("", plain)))


def same_tensor(output: str, name: str) -> bool:
    """Return whether the names of an output and an input are those of one tensor after and before a step."""
    return _same(_stem(output), output, name)


def _stem(output: str) -> str:
    return _OF_OUTPUT.sub("", output.replace("present_key_values", "past").replace("present", "past"))


def _start(value: Value, given: float | str) -> tuple[float, ...]:
    if not isinstance(given, str):
        return (float(given),)
    try:
        array = np.load(Path(given), allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = getattr(error, "strerror", None) or "it is no .npy file"
        raise UsageError(f"cannot read the start '{given}' of state '{value.name}': {reason}") from None
    if array.shape != value.shape:
        raise UsageError(f"the start '{given}' has shape {list(array.shape)}, state '{value.name}' is {value.type}")
    return tuple(float(x) for x in array.reshape(-1))
