from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from manager_graphs import ScaleProduct, conv_graph

from qcompile import ops
from qcompile.errors import PassError, UsageError
from qcompile.ir.parser import parse_graph
from qcompile.passmgr import (
    AllClose,
    Exact,
    MaxLsb,
    MinSqnrDb,
    PassContext,
    PassManager,
    Tolerance,
)
from qcompile.passmgr.instruments import DumpIr, PrintIr, TimePasses, instruments_for
from qcompile.passmgr.stimuli import SATURATING, stimuli
from qcompile.passmgr.verify_numerics import VerifyNumerics, rounding_noise


def test_print_ir() -> None:
    texts: list[str] = []
    pipeline = [ScaleProduct(), ScaleProduct(by=2.0)]
    PassManager(pipeline, [PrintIr(texts.append)]).run(conv_graph())
    assert [t.splitlines()[0] for t in texts] == [
        "// after scale-product (unchanged)",
        "// after scale-product{by=2.0}",
    ]
    assert "%y = mul(%c, @factor" in texts[1]
    texts.clear()
    PassManager(pipeline, [PrintIr(texts.append, only_changed=True)]).run(conv_graph())
    assert len(texts) == 1
    texts.clear()
    PassManager(pipeline, [PrintIr(texts.append, ["eliminate-dead"])]).run(conv_graph())
    assert texts == []


def test_dump_ir(tmp_path: Path) -> None:
    dump = DumpIr(tmp_path / "ir")
    PassManager("eliminate-dead,canonicalize", [dump]).run(conv_graph())
    PassManager([ScaleProduct(by=2.0)], [dump]).run(conv_graph())
    names = sorted(p.name for p in (tmp_path / "ir").iterdir())
    assert names == ["000_input.qir", "001_eliminate-dead.qir", "002_canonicalize.qir", "003_scale-product.qir"]
    text = (tmp_path / "ir" / "003_scale-product.qir").read_text()
    assert text.startswith("// scale-product{by=2.0}: changed\n// skip: conv2d Conv_0: it is no product\n")


def test_dump_ir_to_a_place_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write IR to"):
        PassManager("eliminate-dead", [DumpIr(tmp_path / "file")]).run(conv_graph())


def test_time_passes() -> None:
    texts: list[str] = []
    PassManager([ScaleProduct(by=2.0)], [TimePasses(texts.append)]).run(conv_graph())
    head, row, total = texts[0].splitlines()
    assert head.split() == ["pass", "ms", "%", "changed", "skips", "nodes"]
    assert row.split()[0] == "scale-product{by=2.0}"
    assert row.split()[2:] == ["100.0", "yes", "1", "2"]
    assert total.startswith("total")


def test_instruments_for(tmp_path: Path) -> None:
    assert instruments_for() == []
    made = instruments_for(
        dump_ir=tmp_path, print_ir_after="fold-batchnorm,canonicalize", verify_numerics=True, time_passes=True
    )
    assert [type(i).__name__ for i in made] == ["DumpIr", "PrintIr", "VerifyNumerics", "TimePasses"]
    changed, everything = (instruments_for(print_ir_after=w)[0] for w in ("change", "all"))
    assert isinstance(changed, PrintIr)
    assert isinstance(everything, PrintIr)
    assert (changed.only_changed, everything.only_changed) == (True, False)
    with pytest.raises(UsageError, match="cannot print after 'fold-batchnrm'") as caught:
        instruments_for(print_ir_after="fold-batchnrm")
    assert caught.value.hint == "did you mean 'fold-batchnorm'?"


@pytest.mark.parametrize("by", [1.001, 0.999, -1.0])
def test_verify_numerics_finds_a_wrong_pass(by: float) -> None:
    with pytest.raises(PassError) as caught:
        PassManager([ScaleProduct(by=by)], [VerifyNumerics()]).run(conv_graph())
    message = caught.value.message
    assert "pass 'scale-product'" in message
    assert "on normal input, output 'y'" in message
    assert "worst at [0, " in message
    assert caught.value.reproducer is not None


def test_verify_numerics_accepts_rounding() -> None:
    PassManager([ScaleProduct(by=1.0 + 1e-6)], [VerifyNumerics()]).run(conv_graph())


def test_verify_numerics_is_deterministic() -> None:
    messages = set()
    for _ in range(2):
        with pytest.raises(PassError) as caught:
            PassManager([ScaleProduct(by=1.1)], [VerifyNumerics()]).run(conv_graph())
        messages.add(caught.value.message)
    assert len(messages) == 1


def test_a_network_may_magnify_its_own_rounding() -> None:
    text = """graph "steep" {
      input %x : f32[1,4]
      const @k : f32[] = [1000000.0]
      const @c : f32[4] = [0.1, 0.2, 0.3, 0.7]
      %m = mul(%x, @c) : f32[1,4]
      %a = sub(%m, @c) : f32[1,4]
      %b = add(%a, @c) : f32[1,4]
      %d = sub(%m, %b) : f32[1,4]
      %s = mul(%d, @k) : f32[1,4]
      %y = sigmoid(%s) : f32[1,4]
      output "y" = %y
    }"""
    graph = parse_graph(text, ops.all_ops())
    inputs = dict(stimuli(graph))["normal"]
    from qcompile.ops.interpreter import Interpreter

    outputs = Interpreter(graph).run(inputs)
    assert rounding_noise(graph, inputs, outputs)["y"] > 1e-3
    PassManager("canonicalize", [VerifyNumerics()]).run(graph)


def test_stimuli() -> None:
    text = """graph "g" {
      input %x : f32[2,64]
      input %n : i64[3]
      input %q : i8[2,64] q(scale=0.5, zp=3)
      %i = quantize(%x) : i8[2,64] q(scale=0.25)
      output "i" = %i
      output "n" = %n
      output "q" = %q
    }"""
    made = dict(stimuli(parse_graph(text, ops.all_ops()), seed=1))
    assert list(made) == ["normal", "zero", "saturating", "tie"]
    assert not made["zero"]["x"].any()
    assert set(np.abs(made["saturating"]["x"]).ravel()) == {np.float32(SATURATING)}
    assert set(np.unique(made["tie"]["x"] / 0.25 % 1)) == {0.5}
    assert set(made["saturating"]["q"].ravel()) == {-128, 127}
    assert set(made["zero"]["q"].ravel()) == {3}
    assert made["normal"]["n"].dtype == np.int64
    assert set(made["normal"]["n"]) <= {0, 1}


BEFORE = np.array([1.0, -2.0, 0.0, 4.0])


@pytest.mark.parametrize(
    ("tolerance", "difference", "lsb", "passes"),
    [
        (Exact(), 0.0, None, True),
        (Exact(), 1e-12, None, False),
        (Exact(), -1e-12, None, False),
        (AllClose(1e-5, 0.0), 3.9e-5, None, True),
        (AllClose(1e-5, 0.0), 4.1e-5, None, False),
        (AllClose(1e-5, 0.0), -4.1e-5, None, False),
        (AllClose(0.0, 1e-3), -0.9e-3, None, True),
        (MaxLsb(1), 0.5, 0.5, True),
        (MaxLsb(1), -1.0, 0.5, False),
        (MaxLsb(2), -1.0, 0.5, True),
        (MaxLsb(1), 0.1, None, False),
        (MinSqnrDb(20.0), 0.2, None, True),
        (MinSqnrDb(20.0), -0.5, None, False),
        (MinSqnrDb(20.0), -0.5, 0.5, True),
    ],
)
def test_tolerance(tolerance: Tolerance, difference: float, lsb: float | None, passes: bool) -> None:
    problem = tolerance.violation(BEFORE, BEFORE + difference, lsb)
    assert (problem is None) == passes
    if problem is not None:
        assert "worst at [" in problem


@pytest.mark.parametrize("tolerance", [Exact(), AllClose(1.0, 1e9), MaxLsb(200), MinSqnrDb(-300.0)])
def test_nan_and_infinity_do_not_slip_through(tolerance: Tolerance) -> None:
    for bad in (np.nan, np.inf, -np.inf):
        assert tolerance.violation(BEFORE, np.array([1.0, -2.0, bad, 4.0]), 1.0) is not None
        assert tolerance.violation(np.array([1.0, -2.0, bad, 4.0]), BEFORE, 1.0) is not None


@pytest.mark.parametrize("tolerance", [Exact(), AllClose()])
def test_the_same_nan_is_equal(tolerance: Tolerance) -> None:
    both = np.array([np.nan, np.inf, -np.inf, 1.0])
    assert tolerance.violation(both, both.copy()) is None


def test_a_pass_with_an_sqnr_sees_the_calibration_data() -> None:
    class Loose(ScaleProduct):
        name = "loose"
        tolerance = MinSqnrDb(30.0)

    seen = []

    def samples():  # type: ignore[no-untyped-def]
        seen.append(1)
        yield {"x": np.zeros((1, 3, 6, 6), np.float32) + np.float32(0.5)}

    PassManager([Loose(by=1.001)], [VerifyNumerics()]).run(conv_graph(), PassContext(samples=samples))
    assert seen == [1]
    with pytest.raises(PassError, match=r"on calibration input, output 'y': SQNR is .* dB, must be at least 30 dB"):
        PassManager([Loose(by=1.2)], [VerifyNumerics()]).run(conv_graph(), PassContext(samples=samples))


def test_inputs_that_saturate_give_no_warnings() -> None:
    text = """graph "e" {
      input %x : f32[4]
      %a = mul(%x, %x) : f32[4]
      %b = mul(%a, %a) : f32[4]
      %c = mul(%b, %b) : f32[4]
      %d = mul(%c, %c) : f32[4]
      %e = mul(%d, %x) : f32[4]
      %s = reduce_sum(%e) {axes=[0], keepdims=true} : f32[1]
      %y = identity(%s) : f32[1]
      output "y" = %y
    }"""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PassManager("canonicalize", [VerifyNumerics()]).run(parse_graph(text, ops.all_ops()))
