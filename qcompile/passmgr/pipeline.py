"""Pipelines as text: `fold-batchnorm,my-pass{alpha=2}`, to passes and back."""

from __future__ import annotations

from collections.abc import Iterable

from qcompile.errors import UsageError
from qcompile.ir.fields import build
from qcompile.ir.literal import Scanner
from qcompile.ir.printer import print_fields
from qcompile.passmgr.passbase import Pass
from qcompile.passmgr.registry import PassRegistry, default_registry


def parse_pipeline(text: str, registry: PassRegistry | None = None, *, source: str = "pipeline") -> tuple[Pass, ...]:
    """Read a pipeline.

    Grammar:
        pipeline = pass {"," pass}; pass = name ["{" option "=" literal {"," …} "}"]

    Args:
        text: pass names with options, separated by commas; an empty text is an empty pipeline.
        registry: known passes; the built-in and installed ones by default.
        source: what to call the text in messages.

    Raises:
        UsageError: the text is malformed, or an option is unknown or has the wrong type.
        PassError: a pass is unknown.
    """
    known = registry or default_registry()
    scan = Scanner(text, source)
    passes: list[Pass] = []
    latest = ""
    try:
        while scan.kind != "end":
            if passes:
                scan.expect(",")
            name = scan.take("word", "the name of a pass")
            cls = known.get(name.replace("_", "-"))
            latest = f" {cls.name}"
            passes.append(build(cls, _options(scan, name), f"pass '{cls.name}'"))
    except UsageError as error:
        what = "its options" if latest else "the passes"
        error.hint = error.hint or f"a pass is written as NAME{{option=value}}; `qcompile passes{latest}` shows {what}"
        raise
    return tuple(passes)


def _options(scan: Scanner, name: str) -> dict[str, object]:
    given: dict[str, object] = {}
    if not scan.accept("{"):
        return given

    def value(option: str) -> object:
        if option in given:
            raise UsageError(f"pass '{name}': option '{option}' is given twice", loc=scan.source)
        given[option] = scan.literal()
        return given[option]

    scan.assignments("}", value)
    return given


def print_pass(item: Pass) -> str:
    """Return the text of one pass; options at their defaults are left out."""
    return item.name + print_fields(item)


def print_pipeline(passes: Iterable[Pass]) -> str:
    """Return the text that `parse_pipeline` reads as the same passes."""
    return ",".join(print_pass(item) for item in passes)
