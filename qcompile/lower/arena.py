"""Static memory plan: where in the arena every intermediate tensor lies.

Greedy by size: the largest tensors are placed first, each at the lowest offset where it overlaps no tensor that is
alive at the same time. A step that may overwrite an operand it is the last to read shares that operand's place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qcompile.lower.storage import Buffer, DraftLoop, DraftStep, aligned

SLACK = 64
"""Bytes past each tensor that a kernel may read (never write)."""


@dataclass(frozen=True)
class Lifetime:
    """One place in the arena and the steps between which it is in use.

    Args:
        size: bytes, slack included, a multiple of 64.
        first: step that writes it first.
        last: step that reads it last.
    """

    size: int
    first: int
    last: int


@dataclass(frozen=True)
class ArenaPlan:
    """The result.

    Args:
        offsets: byte offset of each arena buffer.
        size: bytes of the arena.
        lower_bound: bytes of the largest set of places in use at once; no plan can be smaller.
        shared: buffers that lie in the place of an operand.
    """

    offsets: Mapping[Buffer, int]
    size: int
    lower_bound: int
    shared: int


def plan_arena(steps: Sequence[DraftStep], loops: Sequence[DraftLoop] = ()) -> ArenaPlan:
    """Place every arena buffer that the steps use.

    Args:
        steps: in execution order; a buffer is alive from the first to the last step that names it.
        loops: the steps that run again and again.
    """
    spans = _outlasting(_spans(steps), loops)
    owner = _share(steps, spans)
    groups: dict[Buffer, list[Buffer]] = {}
    for buffer in spans:
        groups.setdefault(_root(owner, buffer), []).append(buffer)
    lifetimes = {
        root: Lifetime(
            max(aligned(b.nbytes + SLACK) for b in members),
            min(spans[b][0] for b in members),
            max(spans[b][1] for b in members),
        )
        for root, members in groups.items()
    }
    placed = place(list(lifetimes.values()))
    by_root = dict(zip(lifetimes, placed, strict=True))
    offsets = {b: by_root[root] for root, members in groups.items() for b in members}
    size = max((o + s.size for o, s in zip(placed, lifetimes.values(), strict=True)), default=0)
    return ArenaPlan(offsets, size, lower_bound(lifetimes.values()), len(spans) - len(groups))


def _spans(steps: Sequence[DraftStep]) -> dict[Buffer, tuple[int, int]]:
    spans: dict[Buffer, tuple[int, int]] = {}
    for number, step in enumerate(steps):
        for buffer in step.args:
            if buffer is not None and buffer.space == "arena":
                spans[buffer.whole] = (spans.get(buffer.whole, (number, number))[0], number)
    return spans


def _outlasting(spans: Mapping[Buffer, tuple[int, int]], loops: Sequence[DraftLoop]) -> dict[Buffer, tuple[int, int]]:
    """Return the steps between which memory is in use, where steps run again.

    What was filled before a loop and is read in it must outlast its last step, which other memory that ends there may
    not share; so must the condition, which nothing but the runtime reads.

    Args:
        spans: first and last step that names each buffer.
        loops: of the same steps.
    """
    found = dict(spans)
    for loop in loops:
        for buffer, (first, last) in found.items():
            if first < loop.first <= last <= loop.last:
                found[buffer] = (first, loop.last + 1)
        if loop.condition is not None and loop.condition.whole in found:
            first, last = found[loop.condition.whole]
            found[loop.condition.whole] = (first, max(last, loop.last + 1))
    return found


def _root(owner: Mapping[Buffer, Buffer], buffer: Buffer) -> Buffer:
    while owner[buffer] is not buffer:
        buffer = owner[buffer]
    return buffer


def _share(steps: Sequence[DraftStep], spans: Mapping[Buffer, tuple[int, int]]) -> dict[Buffer, Buffer]:
    """Let outputs take the place of an operand that dies in the same step; returns a union-find forest."""
    owner = {buffer: buffer for buffer in spans}
    for number, step in enumerate(steps):
        output = step.args[step.output]
        if output is None or output.space != "arena" or output.inside or spans[output][0] != number:
            continue
        for operand in step.may_share:
            dies = operand.space == "arena" and not operand.inside and spans[operand][1] == number
            if dies and operand is not output and operand.nbytes >= output.nbytes:
                owner[_root(owner, output)] = _root(owner, operand)
                break
    return owner


def place(lifetimes: Sequence[Lifetime]) -> list[int]:
    """Return a byte offset for each lifetime, so that those in use at once do not overlap.

    Args:
        lifetimes: in a deterministic order, which breaks ties of size.
    """
    offsets = [0] * len(lifetimes)
    done: list[int] = []
    firsts, lasts = np.zeros(len(lifetimes), np.int64), np.zeros(len(lifetimes), np.int64)
    for number in sorted(range(len(lifetimes)), key=lambda n: (-lifetimes[n].size, lifetimes[n].first, n)):
        here = lifetimes[number]
        meeting = np.flatnonzero((firsts[: len(done)] <= here.last) & (lasts[: len(done)] >= here.first))
        busy = sorted((offsets[n], lifetimes[n].size) for n in (done[place] for place in meeting.tolist()))
        at = 0
        for start, size in busy:
            if at + here.size <= start:
                break
            at = max(at, start + size)
        offsets[number] = at
        firsts[len(done)], lasts[len(done)] = here.first, here.last
        done.append(number)
    return offsets


def lower_bound(lifetimes: Iterable[Lifetime]) -> int:
    """Return the bytes of the largest set of places that are in use during one step."""
    change: dict[int, int] = {}
    for life in lifetimes:
        change[life.first] = change.get(life.first, 0) + life.size
        change[life.last + 1] = change.get(life.last + 1, 0) - life.size
    most = now = 0
    for step in sorted(change):
        now += change[step]
        most = max(most, now)
    return most
