"""The list of supported operators tells the truth."""

from __future__ import annotations

from qcompile.cli import run_command
from qcompile.report.operators import supported_operators


def test_every_way_occurs_and_names_are_sorted() -> None:
    operators = supported_operators()
    names = [operator.name for operator in operators]
    assert names == sorted(set(names))
    ways = {operator.name: operator.way for operator in operators}
    assert ways["Conv"] == "operation"
    assert ways["LSTM"] == "several operations"
    assert ways["Attention"] == "its definition"
    assert ways["DeformConv"] == "its definition"
    assert ways["Loop"] == "its bodies"
    assert ways["SequenceAt"] == "its tensors"
    assert "SequenceMap" not in ways
    assert next(o.integer for o in operators if o.name == "MaxPool") == "shared"


def test_the_command_prints_them(capsys) -> None:
    assert run_command(["ops"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(supported_operators()) + 2
    assert lines[-1] == f"{len(supported_operators())} operators"
