"""Executed AArch64 instructions and modelled cycles of whole networks, one inference, one thread.

    python tests/bench/arm_networks.py --plugin COUNTER.so [--network mobilenetv2 ...] [--target rpi4 ...]
                                       [--precision int8] [--input-shape NAME=EXTENTS] [--steps] [--json]

NETWORK is a name that latency.py knows or FILE.onnx; integers, such as tokens and their mask, are noise of 0 and 1.
COUNTER.so is a qemu-user plugin that prints, at each getppid() call of the guest, a line
``mark N insns TOTAL (delta COUNT)``.  Counts are exact and repeatable; they are not time.
The sum over the steps leaves out what the bundle's run-time system spends between them, some ten
thousand instructions.  Cycles are those counts at the pace that llvm-mca gives the hot loop of each
step's kernel: they know of no cache miss.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "lower"))
sys.path.insert(0, str(Path(__file__).parents[1] / "kernels" / "arm"))

import emulation
import latency
import machine_code
import numpy as np

from qcompile import driver, targets
from qcompile.config import CompileConfig
from qcompile.ir.graph import Graph
from qcompile.kernels.build import assembly
from qcompile.lower import lower_graph
from qcompile.lower.lowering import generate
from qcompile.targets import Target

TARGETS = ("rpi3", "rpi4", "rpi5", "graviton3")
LITERT = {("mobilenetv2", "rpi4"): 113.7, ("mobilenetv2", "rpi5"): 49.2,
          ("efficientnet_lite0", "rpi4"): 139.9, ("efficientnet_lite0", "rpi5"): 62.9,
          ("resnet50", "rpi4"): 1205.6, ("resnet50", "rpi5"): 379.0}  # fmt: skip
"""Million instructions of LiteRT 2.3.0 (XNNPACK) on the same meter, INT8, for the files of tflite_networks.py."""


def final_graph(name: str, precision: str, folder: Path, shapes: dict[str, tuple[int, ...]]) -> Graph:
    """The graph that is lowered, quantized with made-up inputs."""
    target = "rpi5" if precision == "fp16" else "rpi4"
    config = CompileConfig(precision=precision, target=target, input_shapes=shapes)
    context, _, graph = driver.prepare(latency.model_file(name, folder), config, None, None)
    simplified, _ = driver.simplify(graph, config, context, ())
    return driver.to_precision(simplified, config, context, ())[0]


def measure(graph: Graph, name: str, target: str, plugin: Path) -> dict[str, object]:
    """Instructions of every step of a network on a target."""
    program = lower_graph(graph, targets.load(target))
    rng = np.random.default_rng(0)
    inputs = {i.name: _noise(rng, i.shape, i.dtype) for i in program.inputs}
    counts = emulation.count_instructions(program, inputs, plugin)
    pace = paces(graph, program.target)
    steps = [
        {"op": s.op, "loc": s.loc, "precision": s.precision, "macs": s.macs, "bytes": s.bytes, "instructions": n,
         "cycles": round(n / pace[s.kernel]) if pace else None}
        for s, n in zip(program.steps, counts, strict=True)
    ]  # fmt: skip
    return {"network": name, "target": target, "cpu": program.target.cpu, "steps": steps}


def _noise(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    if np.issubdtype(dtype, np.floating):
        return rng.standard_normal(shape).astype(dtype)
    return rng.integers(0, 2, shape).astype(dtype)


def paces(graph: Graph, target: Target) -> dict[str, float]:
    """Instructions a cycle of each kernel's hot loop, by its name; empty without llvm-mca."""
    if machine_code.mca() is None:
        return {}
    kernels = {step.kernel.name: step.kernel for step in generate(graph, target).steps}
    text = assembly(list(kernels.values()), target)
    found = {}
    for name in kernels:
        lines = machine_code.lines_of(text, name)
        loops = machine_code.innermost_loops(lines) or [[line for line in lines if not line.endswith(":")]]
        loop = max(loops, key=lambda lines: (machine_code.macs(lines), len(lines)))
        found[name] = len(loop) / machine_code.cycles(loop, target.cpu)
    return found


def print_result(result: dict, with_steps: bool) -> None:
    """Print one network on one target."""
    name, target, steps = result["network"], result["target"], result["steps"]
    total = sum(step["instructions"] for step in steps)
    peer = LITERT.get((name, target)) if result["precision"] == "int8" else None
    against = f", {total / 1e6 / peer:.3f} of LiteRT's {peer}" if peer else ""
    cycles = [step["cycles"] for step in steps]
    modelled = "" if None in cycles else f", {sum(cycles) / 1e6:.2f} M modelled cycles"
    print(f"{name} on {target} ({result['cpu']}): {total / 1e6:.2f} M instructions{against}{modelled}")
    kinds: dict[str, list[int]] = {}
    for step in steps:
        if with_steps:
            print(f"  {step['op']:18} {step['loc']:28} {_cost(step['macs'], step['instructions'])}")
        kind = kinds.setdefault(f"{step['op']} {step['precision']}", [0, 0])
        kind[0] += step["macs"]
        kind[1] += step["instructions"]
    for kind, (macs, instructions) in kinds.items():
        print(f"    {kind:28} {_cost(macs, instructions)}")


def _cost(macs: int, instructions: int) -> str:
    per_mac = f"{instructions / macs:7.3f} per MAC" if macs else ""
    return f"{macs / 1e6:9.2f} MMAC {instructions / 1e6:9.3f} M {per_mac}"


def main() -> None:
    """Parse the command line, count, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--plugin", type=Path, required=True, help="qemu-user instruction counter")
    usual = ", ".join(latency.USUAL)
    parser.add_argument("--network", action="append", help=f"of {', '.join(latency.NAMES)}; default: {usual}")
    parser.add_argument("--input-shape", action="append", default=[], help="NAME=EXTENTS of open inputs of FILE.onnx")
    parser.add_argument("--target", action="append", help=f"default: {', '.join(TARGETS)}")
    parser.add_argument("--precision", choices=["int8", "fp16", "fp32"], default="int8")
    parser.add_argument("--steps", action="store_true", help="print every step")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    shapes = {k: tuple(int(n) for n in v.split(",")) for k, _, v in (s.partition("=") for s in options.input_shape)}
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.network or latency.USUAL:
            graph = final_graph(name, options.precision, Path(folder), shapes)
            for target in options.target or TARGETS:
                found = measure(graph, name, target, options.plugin.resolve())
                results.append({"precision": options.precision, **found})
                if not options.json:
                    print_result(results[-1], options.steps)
    if options.json:
        print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
