"""Settings as people write them: shares, times, numbers and extents of inputs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from qcompile.errors import UsageError


def read_share(given: str | float) -> float:
    """Return the share that a text such as "0.5%" or a number such as 0.005 means.

    Args:
        given: a percentage with "%", or a share of 1.

    Raises:
        UsageError: it is neither, or not from 0 to 1.
    """
    text = str(given).strip()
    try:
        share = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        share = -1.0
    if not 0.0 <= share <= 1.0:
        raise UsageError(f"--max-drop '{given}' is no share of the accuracy", hint="give 0.5% or 0.005")
    return share


def read_seconds(given: str | float) -> float:
    """Return the seconds that a text such as "60s" or "2m", or a number, means.

    Raises:
        UsageError: it is no time, or not positive.
    """
    text = str(given).strip()
    factor = {"s": 1.0, "m": 60.0, "h": 3600.0}.get(text[-1:], 0.0)
    try:
        seconds = float(text[:-1]) * factor if factor else float(text)
    except ValueError:
        seconds = 0.0
    if not 0.0 < seconds <= 1e6:
        raise UsageError(f"--budget '{given}' is no time", hint="give 90s, 5m or 1h")
    return seconds


def read_values(texts: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """Read what inputs are fixed to as `--input-value` gives it, each NAME=NUMBER,NUMBER,….

    Raises:
        UsageError: a text has another form.
    """
    values: dict[str, tuple[float, ...]] = {}
    for text in texts:
        name, equals, numbers = text.rpartition("=")
        try:
            values[name] = tuple(int(n) if n.strip().lstrip("+-").isdigit() else float(n) for n in numbers.split(","))
        except ValueError:
            equals = ""
        if not equals or not name:
            raise UsageError(f"--input-value '{text}' is not NAME=NUMBER,NUMBER,…", hint="such as sr=16000")
    return values


def read_shapes(texts: Sequence[str]) -> dict[str, tuple[int | str, ...]]:
    """Read the extents of inputs as `--input-shape` gives them, each NAME=EXTENT,EXTENT,….

    Raises:
        UsageError: a text has another form.
    """
    shapes: dict[str, tuple[int | str, ...]] = {}
    for text in texts:
        name, equals, extents = text.rpartition("=")
        words = [word.strip() for word in extents.split(",")]
        if not equals or not name or not all(w.isdecimal() or w[:1].isalpha() for w in words):
            raise UsageError(
                f"--input-shape '{text}' is not NAME=EXTENT,EXTENT,…", hint="such as x=1,3,224,224 or ids=1,S:1..128"
            )
        shapes[name] = tuple(int(word) if word.isdecimal() else word for word in words)
    return shapes


def plain(value: Any) -> Any:
    """Return a setting that Python gives as a file has it: texts for paths, numbers and lists for NumPy's.

    Args:
        value: of any kind; what is none of these is left for the checks.
    """
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value
