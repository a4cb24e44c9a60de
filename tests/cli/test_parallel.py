"""Samples on several threads: the order stays, nothing depends on how many there are, and BLAS has one."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from small_classifier import samples

import qcompile
from qcompile import driver, parallel
from qcompile.config import MOST_JOBS, usual_jobs
from qcompile.ir.parser import parse_graph
from qcompile.ops import all_ops
from qcompile.parallel import in_order, one_blas_thread, threads_within, worth_threads
from qcompile.precision import comparable, measure, to_precision

PRODUCT = """graph "product" {{
  input %x : f32[{rows},1024]
  %t = transpose(%x) {{perm=[1,0]}} : f32[1024,{rows}]
  %y = matmul(%x, %t) : f32[{rows},{rows}]
  output "y" = %y
}}
"""

LOOP = """graph "loop" {
  input %x : f32[512,512]
  %t, %s = loop_begin(%x) {trips=4} : i64[], f32[512,512]
  %new = matmul(%s, %x) : f32[512,512]
  %n, %last = loop_end(%t, %new) : i64[], f32[512,512]
  output "y" = %last
}
"""


def blas_threads() -> set[int]:
    from threadpoolctl import threadpool_info

    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


@pytest.fixture
def _two_blas_threads() -> Iterator[None]:
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=2, user_api="blas"):
        yield


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_come_in_order(threads: int) -> None:
    used: set[int] = set()

    def work(index: int) -> int:
        used.add(threading.get_ident())
        time.sleep(0.02 if index % 3 == 0 else 0.0)
        return index * index

    assert list(in_order(work, range(20), threads)) == [index * index for index in range(20)]
    assert used == {threading.get_ident()} if threads == 1 else 1 < len(used) <= threads


def test_no_more_samples_are_read_than_needed() -> None:
    read = []

    def items() -> Iterator[int]:
        for index in range(100):
            read.append(index)
            yield index

    results = in_order(lambda index: index, items(), 2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    assert len(read) <= 6
    results.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_arrives_in_its_turn(threads: int) -> None:
    def work(index: int) -> int:
        if index == 2:
            raise ValueError("two")
        return index

    results = in_order(work, range(10), threads)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(results)


@pytest.mark.usefixtures("_two_blas_threads")
def test_blas_gets_its_threads_back() -> None:
    @one_blas_thread()
    def fails() -> None:
        raise RuntimeError(str(blas_threads()))

    assert blas_threads() == {2}
    with pytest.raises(RuntimeError, match=r"\{1\}"):
        fails()
    assert blas_threads() == {2}


@pytest.mark.usefixtures("_two_blas_threads")
def test_compiling_takes_one_blas_thread(model: Path, tmp_path: Path) -> None:
    seen = []

    class Samples:
        def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
            for sample in samples():
                seen.append(blas_threads())
                yield {"x": sample}

    qcompile.compile(model, calibration=Samples(), output=tmp_path / "bundle")
    assert seen
    assert all(threads == {1} for threads in seen)
    assert blas_threads() == {2}


def test_what_takes_python_longest_stays_on_one_thread() -> None:
    found = [
        worth_threads(parse_graph(text, all_ops()), 4)
        for text in (PRODUCT.format(rows=64), PRODUCT.format(rows=4), LOOP)
    ]
    assert found == [4, 1, 1]


def test_threads_keep_within_memory() -> None:
    assert threads_within(4, 1000) == 4
    assert threads_within(4, 2**28) == 2
    assert threads_within(4, 2**40) == 1


def test_as_many_threads_as_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, jobs in ((1, 1), (3, 3), (64, MOST_JOBS)):
        monkeypatch.setattr("os.sched_getaffinity", lambda pid, cores=cores: set(range(cores)), raising=False)
        assert usual_jobs() == jobs


def test_results_do_not_depend_on_threads(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranges, equalized channels, rounded weights, what leaves int8 and the figures are all the same."""
    monkeypatch.setattr(parallel, "_MACS_PER_NODE", 0.0)
    found = []
    for jobs in (1, 3):
        config = driver.resolve_config(model, None, {"jobs": jobs})
        context, data, imported = driver.prepare(model, config, [{"x": sample} for sample in samples(600)], None)
        simplified, _ = driver.simplify(imported, config, context, ())
        assert context.threads == jobs
        final, _ = to_precision(simplified, config, context, ())
        comparison = measure(comparable(simplified, context), final, data, context)
        found.append((final.structural_hash(), comparison, context.notes))
    assert found[0] == found[1]
