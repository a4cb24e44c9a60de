"""Times the steps of a whole program that are no layers with cuts to choose: pooling, additions, copies and so on."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from qcompile.bundle import link, source
from qcompile.cost import is_layer, step_fields
from qcompile.device import Device
from qcompile.errors import DeviceError
from qcompile.ir.graph import Graph, Node
from qcompile.ir.program import Program
from qcompile.kernels.tuned import TunedPlans
from qcompile.lower.lowering import generate, lower_graph
from qcompile.targets import Target
from qcompile.tuning.database import Database
from qcompile.tuning.record import Record, workload_key

_RUNS = 9
_LINE = re.compile(r"^ *([\d.]+) us  ", re.MULTILINE)


def unknown_steps(graph: Graph, target: Target, machine: str, database: Database) -> list[Node]:
    """Return the nodes that have a step of their own, are no layers and were not timed on a processor.

    Args:
        graph: final.
        target: machine to compile for.
        machine: the processor, as records name it.
        database: of records.
    """
    own = {(step.loc, step.op) for step in generate(graph, target).steps}
    found = []
    for node in graph.nodes:
        record = database.get(workload_key(target.isa, step_fields(node)))
        known = record is not None and record.machine == machine
        if not known and not is_layer(node) and _place(node) in own:
            found.append(node)
    return found


def _place(node: Node) -> tuple[str, str]:
    return node.loc or node.outputs[0].name, node.op.name


def time_steps(
    graph: Graph,
    target: Target,
    device: Device,
    database: Database,
    jobs: int,
    origin: tuple[str, str],
    number: int = 0,
) -> list[Record]:
    """Build a program, run it on a device and time its steps.

    Args:
        graph: as for `lower_graph`.
        target: machine to compile for.
        device: where to run.
        database: cuts of the layers.
        jobs: threads to compile on.
        origin: processor's name and qcompile's version, for the records.
        number: of the program, to tell it from others on the device.

    Returns:
        A record of each kind of node that has a step of its own and is no layer.

    Raises:
        DeviceError: the program does not run there.
    """
    program = lower_graph(graph, target, jobs=jobs, plans=TunedPlans(database))
    times: dict[tuple[str, str], float] = {}
    for step, ns in zip(program.steps, _profile(program, device, number), strict=True):
        times[step.loc, step.op] = times.get((step.loc, step.op), 0.0) + ns
    found = {}
    for node in graph.nodes:
        ns = times.get(_place(node), 0.0)
        if ns > 0 and not is_layer(node):
            record = Record(target.isa, step_fields(node), None, ns, ns, 1, *origin)
            found[record.key] = record
    return list(found.values())


def _profile(program: Program, device: Device, number: int) -> Sequence[float]:
    """Return the least time of each step, nanoseconds: what else runs on the machine only ever adds to it."""
    built = link.build(source.sources(program), program.target)
    with tempfile.TemporaryDirectory(prefix="qcompile-") as name:
        folder = Path(name) / "steps"
        (folder / "bin").mkdir(parents=True)
        (folder / "libmodel.so").write_bytes(built["libmodel.so"])
        (folder / "bin" / "qcrun").write_bytes(built["qcrun"])
        (folder / "bin" / "qcrun").chmod(0o755)
        device.put(folder, f"steps{number}")
    least: list[float] = []
    for _ in range(_RUNS):
        answer = device.run([f"./steps{number}/bin/qcrun", "--profile", "--warmup", "2", "--top", "0"])
        times = [float(text) * 1e3 for text in _LINE.findall(answer.output)]
        if answer.status or len(times) != len(program.steps):
            raise DeviceError(f"{device.name}: the program does not run: {answer.reason()}")
        least = [min(pair) for pair in zip(least, times, strict=True)] if least else times
    return least
