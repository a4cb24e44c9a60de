"""Scanner and literals of the IR's text, shared by the graph parser and the pipeline parser."""

from __future__ import annotations

import json
import re
from typing import Any

from qcompile.errors import UsageError

_TOKEN = re.compile(
    r"""\s*(?://[^\n]*\n\s*)*(?:
      (?P<string>"(?:[^"\\]|\\.)*")
    | (?P<value>[%@](?:"(?:[^"\\]|\\.)*"|[A-Za-z0-9_.:/\-]+))
    | (?P<digest>\#[0-9a-f]*)
    | (?P<number>-?(?:inf\b|nan\b|(?:\d+\.\d*|\.\d+|\d+)(?:[eE][+-]?\d+)?))
    | (?P<word>[A-Za-z_][A-Za-z0-9_\-]*)
    | (?P<mark>[{}()\[\]=,:;])
    )""",
    re.VERBOSE,
)


class Scanner:
    """Splits text into tokens and reads literals.

    Args:
        text: the whole text.
        source: what to call it in messages.
    """

    def __init__(self, text: str, source: str) -> None:
        self.text = text
        self.source = source
        self.position = 0
        self.kind = ""
        self.token = ""
        self.advance()

    def error(self, expected: str) -> UsageError:
        """Return the error for the current token."""
        found = f"'{self.token}'" if self.token else "the end"
        return UsageError(f"expected {expected}, found {found}", loc=self.place())

    def place(self) -> str:
        """Return the source and line of the current token."""
        return f"{self.source}, line {self.text.count(chr(10), 0, self.position) + 1}"

    def advance(self) -> str:
        """Move to the next token and return the one left behind."""
        left = self.token
        match = _TOKEN.match(self.text, self.position)
        if match is None:
            rest = re.sub(r"//[^\n]*(\n|$)", "", self.text[self.position :]).strip()
            if rest:
                self.kind, self.token = "bad", rest[:10]
                raise self.error("a token")
            self.kind, self.token = "end", ""
            return left
        self.position = match.end()
        self.kind = match.lastgroup or ""
        self.token = match.group(self.kind)
        return left

    def accept(self, token: str) -> bool:
        """Consume the current token if it is `token`, and say whether it was."""
        if self.token == token and self.kind != "string":
            self.advance()
            return True
        return False

    def expect(self, token: str) -> None:
        """Consume `token`.

        Raises:
            UsageError: something else is there.
        """
        if not self.accept(token):
            raise self.error(f"'{token}'")

    def take(self, kind: str, what: str) -> str:
        """Consume a token of a kind and return its text.

        Raises:
            UsageError: another kind is there.
        """
        if self.kind != kind:
            raise self.error(what)
        return self.advance()

    def string(self) -> str:
        """Consume a quoted string and return what it says."""
        return str(json.loads(self.take("string", "a quoted string")))

    def literal(self) -> Any:
        """Consume a literal: number, string, true, false, none, [list] or a bare word (a string)."""
        if self.kind == "number":
            text = self.advance()
            return int(text) if re.fullmatch(r"-?\d+", text) else float(text)
        if self.kind == "string":
            return self.string()
        if self.kind == "word":
            word = self.advance()
            return {"true": True, "false": False, "none": None, "inf": float("inf"), "nan": float("nan")}.get(
                word, word
            )
        if self.accept("["):
            return tuple(self.sequence("]", self.literal))
        raise self.error("a value")

    def sequence(self, end: str, item: Any) -> list[Any]:
        """Consume comma-separated items up to and with `end`."""
        items: list[Any] = []
        while not self.accept(end):
            if items:
                self.expect(",")
            items.append(item())
        return items

    def assignments(self, end: str, value: Any) -> dict[str, Any]:
        """Consume name=value pairs up to and with `end`; value(name) reads each value."""

        def pair() -> tuple[str, Any]:
            name = self.take("word", "a name").replace("-", "_")
            self.expect("=")
            return name, value(name)

        return dict(self.sequence(end, pair))
