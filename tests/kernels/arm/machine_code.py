"""Loops of compiled kernels, and what llvm-mca says of them."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
from collections.abc import Collection, Sequence

MACS = {"smull": 8, "smull2": 8, "smlal": 8, "smlal2": 8, "sdot": 16, "smmla": 32}
"""Products that an int8 instruction adds up."""

MODELS = {"cortex-a76": "neoverse-n1"}
"""llvm-mca's processor where its name is another: LLVM has no model of the A76, but one of its server sibling."""

LEAST_LLVM = 17


def lines_of(text: str, name: str) -> list[str]:
    """Labels and instructions of a function in assembly text."""
    body = text.split(f"\n{name}:\n", 1)[1].split(".Lfunc_end", 1)[0]
    return re.findall(r"^(?:\t[a-z].*|\.LBB\w+:)", body, re.M)


def innermost_loops(lines: list[str]) -> list[list[str]]:
    """Instructions of every loop that contains no other."""
    labels = {line[:-1]: i for i, line in enumerate(lines) if line.endswith(":")}
    loops = []
    for i, line in enumerate(lines):
        target = re.match(r"\t(?:b|b\.\w+|cbn?z|tbn?z)\s.*?(\.LBB\w+)$", line)
        if not target or labels.get(target[1], i) >= i:
            continue
        inside = lines[labels[target[1]] + 1 : i + 1]
        if not any(other.endswith(":") for other in inside):
            loops.append(inside)
    return loops


def hottest(lines: list[str], mnemonics: Collection[str]) -> list[str]:
    """The innermost loop with the most of some instructions."""
    best = max(innermost_loops(lines), key=lambda loop: _count(loop, mnemonics), default=[])
    assert _count(best, mnemonics), f"no {mnemonics} in any loop"
    return best


def _count(loop: list[str], mnemonics: Collection[str]) -> int:
    return sum(opcode(line) in mnemonics for line in loop)


def opcode(line: str) -> str:
    """The mnemonic of an instruction."""
    return line.split()[0]


def share(loop: list[str], mnemonics: set[str]) -> float:
    """Fraction of a loop's instructions."""
    return sum(opcode(line) in mnemonics for line in loop) / len(loop)


def macs(loop: list[str]) -> int:
    """Products of one turn of an int8 loop."""
    return sum(MACS.get(opcode(line), 0) for line in loop)


@functools.cache
def mca() -> str | None:
    """Path of the newest llvm-mca; None where there is none that knows the Neoverse V1."""
    names = [*(f"llvm-mca-{version}" for version in range(24, LEAST_LLVM - 1, -1)), "llvm-mca"]
    found = next((path for path in map(shutil.which, names) if path), None)
    if found is None:
        return None
    text = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout
    version = re.search(r"version (\d+)", text)
    return found if version and int(version[1]) >= LEAST_LLVM else None


def cycles(loop: Sequence[str], cpu: str, turns: int = 100) -> float:
    """Cycles of one turn of a loop, all data in the first-level cache, by llvm-mca."""
    text = "loop:\n" + re.sub(r"\.LBB\w+", "loop", "\n".join(loop)) + "\n"
    command = [str(mca()), "-mtriple=aarch64", f"-mcpu={MODELS.get(cpu, cpu)}", "-mattr=+dotprod,+i8mm,+fullfp16"]
    command.append(f"-iterations={turns}")
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=True)
    found = re.search(r"Total Cycles:\s+(\d+)", done.stdout)
    assert found is not None
    return int(found[1]) / turns
