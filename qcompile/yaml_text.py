"""YAML in which a key that is written twice is a fault."""

from __future__ import annotations

from typing import Any

import yaml


class _UniqueKeyLoader(yaml.SafeLoader):
    """A safe loader that refuses a key written twice, where YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            word = str(key.value)
            if word in seen:
                raise yaml.YAMLError(f"key '{word}' is given twice (line {key.start_mark.line + 1})")
            seen.add(word)
        return super().construct_mapping(node, deep)


def parse_yaml(text: str) -> Any:
    """Return what a YAML text means.

    Args:
        text: with plain values only; no object of Python's is made.

    Raises:
        yaml.YAMLError: it is no YAML, or a key is given twice.
    """
    return yaml.load(text, Loader=_UniqueKeyLoader)
