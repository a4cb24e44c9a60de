"""Whatever is done to a model file, the importer answers with a graph or with an error of its own, in bounds.

`QCOMPILE_FUZZ_CASES` sets the number of damaged models (300; nightly runs take 10,000). A failure names its case,
which `QCOMPILE_FUZZ_FIRST=<case> QCOMPILE_FUZZ_CASES=1` runs alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CASES = int(os.environ.get("QCOMPILE_FUZZ_CASES", "300"))
FIRST = int(os.environ.get("QCOMPILE_FUZZ_FIRST", "0"))
SHARDS = 2 if CASES >= 100 else 1
MEMORY = 6 << 30
"""Bytes of address space of the process that imports; reserved, not used, memory counts."""


@pytest.mark.parametrize("shard", range(SHARDS))
def test_damaged_models(shard: int) -> None:
    """Imports run in a process of their own: its memory is limited, and a crash is a failure like any other."""
    script = Path(__file__).with_name("fuzz_cases.py")
    begin = FIRST + CASES * shard // SHARDS
    end = FIRST + CASES * (shard + 1) // SHARDS
    command = [sys.executable, str(script), str(begin), str(end), str(MEMORY)]
    run = subprocess.run(command, capture_output=True, text=True)
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    assert run.returncode == 0, f"the process ended ({run.returncode}) in or after {lines[-1:]}: {run.stderr[-2000:]}"
    results = [line["result"] for line in lines if "result" in line]
    assert len(results) == end - begin
    failures = [line for line in lines if line.get("result") not in (None, "graph", "error")]
    assert not failures, "\n".join(f"case {line['case']}: {line['result']}" for line in failures[:20])
    if end - begin >= 100:
        # Damage that always or never matters would test nothing.
        assert 0.05 < results.count("error") / len(results) < 0.95
