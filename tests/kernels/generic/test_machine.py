"""Descriptions of machines whose names LLVM does not know."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from qcompile import driver, targets
from qcompile.errors import TargetError
from qcompile.kernels.machine import check_machine


@pytest.mark.parametrize("name", targets.names())
def test_our_own_are_known(name: str) -> None:
    target = targets.load(name)
    check_machine(target, name)
    for narrow in (targets.with_float16, targets.with_bfloat16):
        with suppress(TargetError):  # it has no such arithmetic
            target = narrow(target)
        check_machine(target, name)


@pytest.mark.parametrize(
    ("changed", "problem", "hint"),
    [
        ({"cpu": "cortex-a99"}, "key 'cpu' is 'cortex-a99', which LLVM does not know", "did you mean 'cortex-a"),
        ({"cpu": "skylake"}, "'skylake', which LLVM does not know for aarch64-linux-gnu", "known: a64fx"),
        ({"features": ("+neon", "-nean")}, "key 'features' names '-nean', which LLVM", "did you mean 'neon'?"),
    ],
)
def test_unknown_names(changed: dict[str, object], problem: str, hint: str, capfd: pytest.CaptureFixture[str]) -> None:
    target = replace(targets.load("rpi4"), **changed)  # type: ignore[arg-type]
    with pytest.raises(TargetError, match=rf"board\.yaml: .*{problem}") as refused:
        check_machine(target, "board.yaml")
    assert hint in (refused.value.hint or "")
    assert capfd.readouterr().err == ""


def test_a_file_is_checked_before_anything_else(tmp_path: Path) -> None:
    text = (Path(targets.__path__[0]) / "rpi4.yaml").read_text()
    board = tmp_path / "board.yaml"
    board.write_text(text.replace("cortex-a72\n", "cortex-a99\n"))
    model = tmp_path / "none.onnx"
    config = driver.resolve_config(model, None, {"target": str(board)})
    with pytest.raises(TargetError, match="'cortex-a99'"):
        driver.prepare(model, config, None, None)
