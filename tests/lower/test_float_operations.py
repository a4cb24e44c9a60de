"""Every operation in its real form, on every instruction set of this machine, against the interpreter."""

from __future__ import annotations

import re

import pytest
from graph_checks import check, graph_of, graph_texts

from qcompile import ops
from qcompile.ir.opdef import OpDef
from qcompile.targets import Target

UNARY = [
    "abs",
    "ceil",
    "celu",
    "clip{min=-0.5,max=1.5}",
    "elu",
    "erf",
    "exp",
    "floor",
    "gelu",
    "hard_sigmoid",
    "hard_swish",
    "identity",
    "leaky_relu",
    "mish",
    "neg",
    "relu",
    "round",
    "selu",
    "sigmoid",
    "sign",
    "silu",
    "softplus",
    "softsign",
    "tanh",
]


def unary_graph() -> str:
    lines = ['graph "unary" {', "input %x : f32[2,5,7,3]"]
    for text in UNARY:
        name, _, attrs = text.partition("{")
        options = "{" + attrs if attrs else ""
        lines.append(f'%{name} = {name}(%x) {options} : f32[2,5,7,3] output "{name}" = %{name}')
    # Functions that are not defined everywhere get operands from where they are.
    lines += [
        '%positive = exp(%x) : f32[2,5,7,3] output "positive" = %positive',
        '%root = sqrt(%positive) : f32[2,5,7,3] output "root" = %root',
        '%logarithm = log(%positive) : f32[2,5,7,3] output "logarithm" = %logarithm',
        '%inverse = reciprocal(%positive) : f32[2,5,7,3] output "inverse" = %inverse',
    ]
    return "\n".join([*lines, "}"])


QUANTIZED_ELSEWHERE = {"dequantize", "quantize", "requantize"}
GRAPHS = {"unary": unary_graph(), **graph_texts("binary", "moves", "windows", "rows", "layers")}


@pytest.mark.parametrize("name", list(GRAPHS))
def test_real_form(name: str, machine: Target) -> None:
    check(graph_of(GRAPHS[name]), machine, rtol=2e-5 if name == "layers" else 1e-5)


def test_every_operation_is_covered() -> None:
    """No operation of the registry goes untested, and each has a lowering."""
    used = {op for text in GRAPHS.values() for op in re.findall(r"= (\w+)\(", text)}
    assert set(ops.all_ops()) - used == QUANTIZED_ELSEWHERE
    assert all(type(op).lower is not OpDef.lower for op in ops.all_ops().values())
