"""One measurement: how long a layer takes with the kernel's own estimate, and which other cut is faster."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qcompile.errors import UsageError

_FIELDS = {"isa", "workload", "plan", "ns", "estimate_ns", "tried", "machine", "version"}


@dataclass(frozen=True)
class Record:
    """How fast one workload runs on one instruction set.

    Args:
        isa: instruction set of the kernels.
        workload: fields of a `ConvWorkload` that are not its defaults, as JSON values.
        plan: the cut that was measured faster; None where the estimated one stands.
        ns: median time with the plan, nanoseconds, one thread.
        estimate_ns: median time with the estimated cut, from the same rounds.
        tried: plans that were measured; 1 where only the estimated one was, for a comparison.
        machine: the processor, as the operating system names it.
        version: of qcompile.
    """

    isa: str
    workload: Mapping[str, Any]
    plan: tuple[int, ...] | None
    ns: float
    estimate_ns: float
    tried: int
    machine: str
    version: str

    @property
    def key(self) -> str:
        """What a lookup asks for."""
        return workload_key(self.isa, self.workload)

    def line(self) -> str:
        """Return the record as one line of JSON, without the line feed."""
        fields = {
            "isa": self.isa,
            "workload": dict(sorted(self.workload.items())),
            "plan": list(self.plan) if self.plan is not None else None,
            "ns": round(self.ns, 1),
            "estimate_ns": round(self.estimate_ns, 1),
            "tried": self.tried,
            "machine": self.machine,
            "version": self.version,
        }
        return json.dumps(fields, separators=(", ", ": "))


def workload_key(isa: str, workload: Mapping[str, Any]) -> str:
    """Return the text that equal workloads on one instruction set share."""
    return f"{isa} {json.dumps(workload, sort_keys=True, separators=(',', ':'))}"


def read_record(line: str, where: str) -> Record:
    """Read one line.

    Args:
        line: JSON.
        where: file and line, for messages.

    Raises:
        UsageError: it is not a record.
    """
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        raise _damaged(where, "it is not valid JSON") from None
    if not isinstance(fields, dict) or set(fields) != _FIELDS:
        raise _damaged(where, f"a record has exactly the keys {', '.join(sorted(_FIELDS))}")
    texts = [fields[name] for name in ("isa", "machine", "version")]
    if not all(isinstance(text, str) for text in texts) or not isinstance(fields["workload"], dict):
        raise _damaged(where, "isa, machine and version are texts, workload is a mapping")
    if not all(_is_time(fields[name]) for name in ("ns", "estimate_ns")):
        raise _damaged(where, "ns and estimate_ns are positive numbers")
    if not _is_size(fields["tried"]):
        raise _damaged(where, "tried is a positive whole number")
    plan = fields["plan"]
    if plan is not None and not (isinstance(plan, list) and all(_is_size(size) for size in plan)):
        raise _damaged(where, "plan is null or a list of positive whole numbers")
    return Record(**{**fields, "plan": tuple(plan) if plan is not None else None})


def _is_time(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value > 0


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _damaged(where: str, why: str) -> UsageError:
    return UsageError(f"tuning record {where}: {why}", hint="delete the line; the layer is then measured anew")
