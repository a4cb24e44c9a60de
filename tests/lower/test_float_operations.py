"""Every operation in its real form, on every instruction set of this machine, against the interpreter."""

from __future__ import annotations

import re

import pytest
from graph_checks import check, graph_of

from qcompile import ops
from qcompile.ir.opdef import OpDef
from qcompile.targets import Target

UNARY = """
abs ceil celu clip{min=-0.5,max=1.5} elu erf exp floor gelu hard_sigmoid hard_swish identity leaky_relu mish neg
relu round selu sigmoid sign silu softplus softsign tanh
""".split()


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


BINARY = """
graph "binary" {
  input %a : f32[3,4,5,6]
  input %b : f32[3,4,5,6]
  input %row : f32[6]
  input %column : f32[3,4,1,1]
  const @half : f32[1] = [0.5]
  const @two : f32[1] = [2.0]
  const @three : f32[1] = [3.0]
  const @power : f32[1] = [1.7]
  const @slope : f32[6] = [0.1, 0.2, -0.3, 0.4, 0.5, 0.0]
  const @mean : f32[6] = [0.1, 0.2, -0.3, 0.4, 0.5, 0.0]
  const @variance : f32[6] = [1.0, 2.0, 0.3, 0.4, 0.5, 1.0]
  %add = add(%a, %b) : f32[3,4,5,6]                    output "add" = %add
  %act = add(%a, %b) {activation="silu"} : f32[3,4,5,6] output "act" = %act
  %sub = sub(%a, %row) : f32[3,4,5,6]                  output "sub" = %sub
  %mul = mul(%column, %b) : f32[3,4,5,6]               output "mul" = %mul
  %size = abs(%b) : f32[3,4,5,6]                       output "size" = %size
  %one = add(%size, @half) : f32[3,4,5,6]              output "one" = %one
  %div = div(%a, %one) : f32[3,4,5,6]                  output "div" = %div
  %max = maximum(%a, %column) : f32[3,4,5,6]           output "max" = %max
  %min = minimum(%a, %row) : f32[3,4,5,6]              output "min" = %min
  %square = pow(%a, @two) : f32[3,4,5,6]               output "square" = %square
  %cube = pow(%a, @three) : f32[3,4,5,6]               output "cube" = %cube
  %root = pow(%one, @half) : f32[3,4,5,6]              output "root" = %root
  %power = pow(%one, @power) : f32[3,4,5,6]            output "power" = %power
  %any = pow(%one, %a) : f32[3,4,5,6]                  output "any" = %any
  %prelu = prelu(%a, @slope) {layout="NHWC"} : f32[3,4,5,6] output "prelu" = %prelu
  %norm = batch_norm(%a, @slope, @mean, @mean, @variance) {layout="NHWC"} : f32[3,4,5,6] output "norm" = %norm
  %less = less(%a, %b) : i1[3,4,5,6]                   output "less" = %less
  %more = greater(%a, %row) : i1[3,4,5,6]              output "more" = %more
  %same = equal(%a, %a) : i1[3,4,5,6]                  output "same" = %same
  %le = less_or_equal(%a, %b) : i1[3,4,5,6]            output "le" = %le
  %ge = greater_or_equal(%a, %b) : i1[3,4,5,6]         output "ge" = %ge
  %not = logical_not(%less) : i1[3,4,5,6]              output "not" = %not
  %and = logical_and(%less, %more) : i1[3,4,5,6]       output "and" = %and
  %or = logical_or(%less, %more) : i1[3,4,5,6]         output "or" = %or
  %where = where(%less, %a, %b) : f32[3,4,5,6]         output "where" = %where
  %whole = cast(%a) {dtype="int32"} : i32[3,4,5,6]     output "whole" = %whole
  %real = cast(%whole) {dtype="float32"} : f32[3,4,5,6] output "real" = %real
  %long = cast(%a) {dtype="int64"} : i64[3,4,5,6]      output "long" = %long
  %flag = cast(%whole) {dtype="bool"} : i1[3,4,5,6]    output "flag" = %flag
}
"""

MOVES = """
graph "moves" {
  input %x : f32[2,5,7,3]
  input %m : f32[33,37]
  input %at : i64[4]
  %t1 = transpose(%x) {perm=[0,3,1,2]} : f32[2,3,5,7]           output "t1" = %t1
  %t2 = transpose(%x) {perm=[3,2,1,0]} : f32[3,7,5,2]           output "t2" = %t2
  %t3 = transpose(%m) {perm=[1,0]} : f32[37,33]                 output "t3" = %t3
  %r = reshape(%x) {shape=[2,105]} : f32[2,105]                 output "r" = %r
  %rt = transpose(%r) {perm=[1,0]} : f32[105,2]                 output "rt" = %rt
  %s = slice(%x) {starts=[0,4,1,0], steps=[1,-2,3,1], sizes=[2,3,2,3]} : f32[2,3,2,3]   output "s" = %s
  %p, %q, %u = split(%x) {axis=2, sizes=[2,4,1]} : f32[2,5,2,3], f32[2,5,4,3], f32[2,5,1,3]
  output "p" = %p
  output "q" = %q
  %c = concat(%q, %u, %p) {axis=2} : f32[2,5,7,3]               output "c" = %c
  %c3 = concat(%x, %x) {axis=3} : f32[2,5,7,6]                  output "c3" = %c3
  %pad = pad(%x) {pads=[0,1,0,2,0,2,3,0], value=1.5} : f32[2,8,10,5]       output "pad" = %pad
  %edge = pad(%x) {pads=[0,1,2,0,0,2,0,0], mode="edge"} : f32[2,8,9,3]     output "edge" = %edge
  %reflect = pad(%x) {pads=[0,1,2,0,0,2,0,0], mode="reflect"} : f32[2,8,9,3] output "reflect" = %reflect
  %g = gather(%x, %at) {axis=2} : f32[2,5,4,3]                  output "g" = %g
  %e = expand(%u) {shape=[2,5,6,3]} : f32[2,5,6,3]              output "e" = %e
  %id = identity(%x) : f32[2,5,7,3]                             output "id" = %id
}
"""

WINDOWS = """
graph "windows" {
  input %x : f32[2,9,11,20]
  %m = max_pool(%x) {kernel=[3,3], strides=[2,2], pads=[1,1,1,1], layout="NHWC"} : f32[2,5,6,20]   output "m" = %m
  %m2 = max_pool(%x) {kernel=[5,5], strides=[1,1], pads=[2,2,2,2], layout="NHWC"} : f32[2,9,11,20] output "m2" = %m2
  %mc = max_pool(%x) {kernel=[2,2], strides=[2,2]} : f32[2,9,5,10]                                 output "mc" = %mc
  %a = avg_pool(%x) {kernel=[3,3], strides=[2,2], pads=[1,1,1,1], layout="NHWC"} : f32[2,5,6,20]   output "a" = %a
  %ai = avg_pool(%x) {kernel=[2,2], strides=[2,2], count_include_pad=true, layout="NHWC"} : f32[2,4,5,20] output "ai" = %ai
  %g = global_avg_pool(%x) {layout="NHWC"} : f32[2,1,1,20]                                         output "g" = %g
  %gm = global_max_pool(%x) {layout="NHWC"} : f32[2,1,1,20]                                        output "gm" = %gm
  %gc = global_avg_pool(%x) : f32[2,9,1,1]                                                         output "gc" = %gc
  %near = resize(%x) {size=[18,22], scales=[2.0,2.0], coordinates="asymmetric", rounding="floor", layout="NHWC"} : f32[2,18,22,20] output "near" = %near
  %linear = resize(%x) {size=[13,16], scales=[1.5,1.5], mode="linear", layout="NHWC"} : f32[2,13,16,20] output "linear" = %linear
  %cubic = resize(%x) {size=[13,16], scales=[1.5,1.5], mode="cubic", layout="NHWC"} : f32[2,13,16,20] output "cubic" = %cubic
  %last = reduce_mean(%x) {axes=[3]} : f32[2,9,11,1]                                               output "last" = %last
  %sum = reduce_sum(%x) {axes=[1,2]} : f32[2,1,1,20]                                               output "sum" = %sum
  %all = reduce_max(%x) {axes=[0,1,2,3]} : f32[1,1,1,1]                                            output "all" = %all
  %most = reduce_max(%x) {axes=[3]} : f32[2,9,11,1]                                                output "most" = %most
  %low = reduce_min(%x) {axes=[1]} : f32[2,1,11,20]                                                output "low" = %low
  %least = reduce_min(%x) {axes=[1], keepdims=false} : f32[2,11,20]                                output "least" = %least
  %argmax = first_index(%x, %most) {axis=3} : i64[2,9,11,1]                                        output "argmax" = %argmax
  %argmin = first_index(%x, %low) {axis=1, keepdims=false, last=true} : i64[2,11,20]               output "argmin" = %argmin
  %prod = reduce_prod(%x) {axes=[1], keepdims=false} : f32[2,11,20]                                output "prod" = %prod
}
"""

ROWS = """
graph "rows" {
  input %x : f32[3,5,37]
  input %y : f32[3,37,21]
  input %z : f32[1,21,6]
  input %v : f32[37]
  const @s : f32[37] = normal(5)
  const @b : f32[37] = normal(6)
  %soft = softmax(%x) : f32[3,5,37]                    output "soft" = %soft
  %across = softmax(%x) {axis=1} : f32[3,5,37]         output "across" = %across
  %ls = log_softmax(%x) : f32[3,5,37]                  output "ls" = %ls
  %lsa = log_softmax(%x) {axis=0} : f32[3,5,37]        output "lsa" = %lsa
  %ln = layer_norm(%x, @s, @b) : f32[3,5,37]           output "ln" = %ln
  %mm = matmul(%x, %y) : f32[3,5,21]                   output "mm" = %mm
  %mb = matmul(%mm, %z) : f32[3,5,6]                   output "mb" = %mb
  %mv = matmul(%x, %v) : f32[3,5]                      output "mv" = %mv
  %vm = matmul(%v, %y) : f32[3,21]                     output "vm" = %vm
}
"""

LAYERS = """
graph "layers" {
  input %x : f32[2,9,8,5]
  input %r : f32[2,9,8,7]
  const @w : f32[7,3,3,5] = normal(1, 0.2)
  const @b : f32[7] = normal(2)
  const @dw : f32[5,3,3,1] = normal(3, 0.3)
  const @db : f32[5] = normal(4)
  const @d : f32[11,7] = normal(5, 0.3)
  const @dd : f32[11] = normal(6)
  const @t : f32[6,2,2,7] = normal(7, 0.3)
  const @tb : f32[6] = normal(8)
  const @t3 : f32[6,3,3,7] = normal(9, 0.3)
  %c = conv2d(%x, @w, @b, %r) {pads=[1,1,1,1], residual=true, activation="hard_swish", layout="NHWC"} : f32[2,9,8,7]   output "c" = %c
  %g = conv2d(%x, @w, @b) {pads=[1,1,1,1], activation="gelu", layout="NHWC"} : f32[2,9,8,7]       output "g" = %g
  %k = conv2d(%x, @dw, @db) {pads=[1,1,1,1], strides=[2,2], groups=5, layout="NHWC"} : f32[2,5,4,5] output "k" = %k
  %f = dense(%c, @d, @dd) {activation="relu"} : f32[2,9,8,11]                                      output "f" = %f
  %u = conv_transpose2d(%c, @t, @tb) {strides=[2,2], activation="sigmoid", layout="NHWC"} : f32[2,18,16,6] output "u" = %u
  %u3 = conv_transpose2d(%c, @t3, @tb) {strides=[2,2], pads=[1,1,0,1], output_padding=[0,1], layout="NHWC"} : f32[2,18,16,6] output "u3" = %u3
}
"""

QUANTIZED_ELSEWHERE = {"dequantize", "quantize", "requantize"}
GRAPHS = {"unary": unary_graph(), "binary": BINARY, "moves": MOVES, "windows": WINDOWS, "rows": ROWS, "layers": LAYERS}


@pytest.mark.parametrize("name", list(GRAPHS))
def test_real_form(name: str, machine: Target) -> None:
    check(graph_of(GRAPHS[name]), machine, rtol=2e-5 if name == "layers" else 1e-5)


def test_every_operation_is_covered() -> None:
    """No operation of the registry goes untested, and each has a lowering."""
    used = {op for text in GRAPHS.values() for op in re.findall(r"= (\w+)\(", text)}
    assert set(ops.all_ops()) - used == QUANTIZED_ELSEWHERE
    assert all(type(op).lower is not OpDef.lower for op in ops.all_ops().values())
