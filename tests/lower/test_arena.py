"""The static memory plan: no two tensors in use at once overlap, and it is close to the least possible."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from qcompile.kernels.kernel import Kernel
from qcompile.lower.arena import SLACK, Lifetime, lower_bound, place, plan_arena
from qcompile.lower.storage import Buffer, DraftStep, Weights, aligned

KERNEL = Kernel("k_0", None, 1, 0)


def step(reads: list[Buffer], writes: Buffer, share: tuple[Buffer, ...] = ()) -> DraftStep:
    return DraftStep(KERNEL, (*reads, writes), len(reads), share, "node", "relu", "float32", 0)


lifetimes = st.builds(
    lambda size, first, length: Lifetime(size * 64, first, first + length),
    st.integers(1, 50),
    st.integers(0, 20),
    st.integers(0, 10),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(lifetimes, max_size=25))
def test_places_in_use_at_once_do_not_overlap(lives: list[Lifetime]) -> None:
    offsets = place(lives)
    assert offsets == place(lives)
    for n, (a, life) in enumerate(zip(offsets, lives, strict=True)):
        assert a % 64 == 0
        for b, other in list(zip(offsets, lives, strict=True))[:n]:
            meet = life.first <= other.last and other.first <= life.last
            assert not meet or a + life.size <= b or b + other.size <= a
    size = max((o + life.size for o, life in zip(offsets, lives, strict=True)), default=0)
    assert lower_bound(lives) <= size <= sum(life.size for life in lives)


@st.composite
def programs(draw: st.DrawFn) -> list[DraftStep]:
    """Chains with random skips; some steps may overwrite an operand."""
    buffers = [Buffer(draw(st.integers(1, 3000)))]
    steps = [step([], buffers[0])]
    for _ in range(draw(st.integers(1, 15))):
        reads = draw(st.lists(st.sampled_from(buffers), min_size=1, max_size=3, unique_by=id))
        output = Buffer(draw(st.sampled_from([reads[0].nbytes, draw(st.integers(1, 3000))])))
        share = tuple(reads[:1]) if draw(st.booleans()) else ()
        steps.append(step(reads, output, share))
        buffers.append(output)
    return steps


@settings(max_examples=60, deadline=None)
@given(programs())
def test_every_operand_survives_until_its_last_reader(steps: list[DraftStep]) -> None:
    """Play the steps on a memory of tags: a step finds its operands whole, unless it overwrites them itself."""
    plan = plan_arena(steps)
    memory: dict[int, Buffer] = {}
    for this in steps:
        for buffer in this.args[:-1]:
            assert buffer is not None
            at = plan.offsets[buffer]
            assert all(memory[byte] is buffer for byte in range(at, at + buffer.nbytes, 7))
            assert at % 64 == 0
            assert at + buffer.nbytes + SLACK <= plan.size
        output = this.args[-1]
        assert output is not None
        start = plan.offsets[output]
        for operand in this.args[:-1]:
            assert operand is not None
            apart = start + output.nbytes <= plan.offsets[operand] or start >= plan.offsets[operand] + operand.nbytes
            assert apart or operand in this.may_share
        memory.update(dict.fromkeys(range(start, start + output.nbytes), output))


def test_an_elementwise_chain_needs_one_place() -> None:
    a, b, c = Buffer(1000), Buffer(1000), Buffer(1000)
    plan = plan_arena([step([], a), step([a], b, (a,)), step([b], c, (b,))])
    assert plan.offsets[a] == plan.offsets[b] == plan.offsets[c] == 0
    assert plan.size == plan.lower_bound == aligned(1000 + SLACK)
    assert plan.shared == 2


def test_an_operand_that_is_read_later_is_not_overwritten() -> None:
    a, b, c = Buffer(1000), Buffer(1000), Buffer(1000)
    plan = plan_arena([step([], a), step([a], b, (a,)), step([a, b], c)])
    assert len({plan.offsets[a], plan.offsets[b], plan.offsets[c]}) == 3


def test_equal_constants_are_stored_once() -> None:
    import numpy as np

    weights = Weights()
    first = weights.add(np.arange(10, dtype=np.int32))
    assert weights.add(np.arange(10, dtype=np.int32)) is first
    second = weights.add(np.arange(11, dtype=np.int32))
    assert (first.offset, second.offset) == (0, 64)
    assert len(weights.blob()) == 128
