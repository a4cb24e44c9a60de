"""The machines that qcompile compiles for: one YAML file each, or a file of the user's own.

To add one, write `targets/<name>.yaml` with the keys of `Target` (see `rpi4.yaml`); `schema.json` checks it,
and nothing else has to be told.
"""

from __future__ import annotations

from qcompile.targets.loader import description, host, is_file, load, names
from qcompile.targets.narrow import with_arithmetic, with_bfloat16, with_float16
from qcompile.targets.target import Target

__all__ = [
    "Target", "description", "host", "is_file", "load", "names", "with_arithmetic", "with_bfloat16", "with_float16",
]  # fmt: skip
