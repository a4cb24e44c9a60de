"""Searches on a cluster give what they give here; what is wrong with a cluster is said plainly."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from search_graphs import PIPELINE, context_of, heads, samples

from qcompile.errors import UsageError
from qcompile.search.cluster import Cluster
from qcompile.search.goal import Goal
from qcompile.search.processes import run_tasks, tasks_on
from qcompile.search.start import SearchSettings, search

distributed = pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Start a scheduler and a worker on the loopback interface, in this process."""
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, protocol="tcp", host="127.0.0.1", dashboard_address=":0"
    ) as cluster:
        yield cluster.scheduler_address.removeprefix("tcp://")


def test_tasks_come_back_in_order(address: str) -> None:
    cluster = Cluster(f"dask://{address}")
    cluster.check()
    table = np.arange(10) ** 2
    seen = []
    with tasks_on(cluster):
        found = run_tasks(lambda i: int(table[i]), 10, progress=lambda done, total: seen.append((done, total)))
    assert found == [i * i for i in range(10)]
    assert seen[-1] == (10, 10)


def test_a_graph_survives_the_journey(address: str) -> None:
    from qcompile.ops.interpreter import Interpreter
    from qcompile.search.transport import pack, unpack

    graph, given = heads(), samples(1)[0]
    again = unpack(pack(lambda _: graph))(0)
    assert again is not graph
    assert again.structural_hash() == graph.structural_hash()
    assert [len(v.uses) for v in again.values()] == [len(v.uses) for v in graph.values()]
    assert all(new.op is old.op for new, old in zip(again.nodes, graph.nodes, strict=True))
    for name, array in Interpreter(graph).run(given).items():
        np.testing.assert_array_equal(Interpreter(again).run(given)[name], array)


def test_a_search_on_a_cluster_finds_the_same(address: str) -> None:
    goal = Goal(min_sqnr=25.0)
    results = [
        search(heads(), PIPELINE, context_of(samples()), SearchSettings(goal, False, None, 1, executor))
        for executor in (None, f"dask://{address}")
    ]
    assert results[0].recipe == results[1].recipe
    assert results[0].score == results[1].score
    assert results[0].attempts == results[1].attempts


def test_what_is_wrong_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("localhost:8786", "dask://localhost", "ssh://localhost:22"):
        with pytest.raises(UsageError, match="is no dask://HOST:PORT"):
            Cluster(text)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    monkeypatch.setattr("qcompile.search.cluster.SECONDS", 1)
    with pytest.raises(UsageError, match="no scheduler answers"):
        Cluster(f"dask://127.0.0.1:{port}")
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UsageError, match=r"needs dask.distributed") as caught:
        Cluster("dask://127.0.0.1:8786")
    assert "qcompile[distributed]" in (caught.value.hint or "")


def test_a_cluster_without_workers_is_refused() -> None:
    with distributed.LocalCluster(
        n_workers=0, processes=False, protocol="tcp", host="127.0.0.1", dashboard_address=":0"
    ) as cluster:
        connection = Cluster("dask://" + cluster.scheduler_address.removeprefix("tcp://"))
        with pytest.raises(UsageError, match="has no workers"):
            connection.check()
        connection.close()


def test_the_option_needs_a_search(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from qcompile.cli import run_command

    model = Path(__file__).parents[2] / "examples" / "models" / "fashion_resnet14.onnx"
    assert run_command([str(model), "--executor", "dask://127.0.0.1:1", "-o", str(tmp_path / "out")]) == 2
    assert "--executor" in capfd.readouterr().err
