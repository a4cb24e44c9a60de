"""JSON that every parser reads: it has no word for numbers that are not finite."""

from __future__ import annotations

import json
from math import isfinite
from typing import Any


def json_text(value: Any) -> str:
    """Return plain values as JSON, null in place of NaN and infinities.

    Args:
        value: mappings, sequences, texts, numbers, None.
    """
    return json.dumps(_finite(value), indent=1, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value
