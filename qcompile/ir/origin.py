"""Names of tensors through quantization: passes append to the name of what they replace."""

from __future__ import annotations

import re
from collections.abc import Container

_SUFFIX = re.compile(r"\.(q|fused|real|half)(\.\d+)?$")
"""What is appended: integers, the result of a fused operation, real values again, 16-bit floats."""


def original_name(name: str, known: Container[str]) -> str:
    """Return the name of the tensor of an earlier graph that a tensor was made from.

    Args:
        name: of a tensor of the later graph.
        known: names of the earlier graph.

    Returns:
        The longest known name that is left where endings are taken away; if there is none, the shortest one.
    """
    while name not in known and _SUFFIX.search(name):
        name = _SUFFIX.sub("", name)
    return name
