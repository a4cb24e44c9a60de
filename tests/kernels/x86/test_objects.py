"""What is in the compiled object: the right instructions, and nothing that a bundle lacks."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import x86_machines

from qcompile.kernels import isa as instruction_sets
from qcompile.kernels.build import assembly, build_objects
from qcompile.kernels.conv import plan_conv
from qcompile.kernels.conv_workload import ConvWorkload, dense
from qcompile.targets import load

WORK = ConvWorkload(1, 14, 14, 64, 64, (3, 3), pads=(1, 1, 1, 1))
FLOAT = ConvWorkload(1, 14, 14, 64, 64, (3, 3), pads=(1,) * 4, precision="float32", output="float32")


def hot_loops(text: str) -> list[list[str]]:
    """Innermost loops: runs of instructions from a label to a jump back to it."""
    lines = [line.strip() for line in text.splitlines()]
    labels = {line[:-1]: i for i, line in enumerate(lines) if line.endswith(":")}
    found = []
    for i, line in enumerate(lines):
        jump = re.match(r"j\w+\s+(\.L\w+)$", line)
        start = labels.get(jump[1], i) if jump else i
        body = [x for x in lines[start:i] if x and x[0] not in ".#" and not x.endswith(":")]
        if start < i and not any(re.match(r"j\w+\s", x) for x in body):
            found.append(body)
    return found


@pytest.mark.parametrize(
    ("isa", "work", "instruction", "share"),
    [
        ("avx512_vnni", WORK, "vpdpbusd", 0.55),
        ("avx_vnni", WORK, "vpdpbusd", 0.5),
        ("avx2", WORK, "vpmaddwd", 0.25),
        ("sse2", WORK, "pmaddwd", 0.2),
        ("avx512_vnni", FLOAT, "vfmadd231ps", 0.55),
        ("avx2", FLOAT, "vfmadd231ps", 0.5),
    ],
)
def test_the_hot_loop_is_made_of_the_intended_instruction(
    isa: str, work: ConvWorkload, instruction: str, share: float
) -> None:
    target = x86_machines.x86_target(isa)
    loops = hot_loops(assembly([plan_conv(work, instruction_sets.load(isa), target)], target))
    shares = [sum(instruction in line for line in body) / len(body) for body in loops if body]
    assert max(shares) >= share


@pytest.mark.parametrize("isa", ["avx512_vnni", "avx_vnni", "avx2", "sse2"])
@pytest.mark.parametrize("size", [7, 14, 28])
@pytest.mark.parametrize("precision", ["int8", "float32"])
def test_no_hot_loop_touches_the_stack(isa: str, size: int, precision: str) -> None:
    target = x86_machines.x86_target(isa)
    work = ConvWorkload(1, size, size, 64, 64, (3, 3), pads=(1,) * 4, precision=precision, output=precision)
    loops = hot_loops(assembly([plan_conv(work, instruction_sets.load(isa), target)], target))
    product = re.compile(r"v?p(dpbusd|dpwssd|maddwd)|v?fmadd231ps|v?mulps")
    shares = [sum(bool(product.match(line)) for line in body) / max(len(body), 1) for body in loops]
    hot = loops[shares.index(max(shares))]
    assert not [line for line in hot if "%rsp" in line]


@pytest.mark.parametrize("isa", ["avx512_vnni", "avx_vnni"])
@pytest.mark.parametrize("outputs", [10, 24, 240, 1000])
def test_a_single_row_takes_its_weights_from_memory_into_many_sums(isa: str, outputs: int) -> None:
    target = x86_machines.x86_target(isa)
    kernel = plan_conv(dense(1, 960, outputs), instruction_sets.load(isa), target)
    loops = hot_loops(assembly([kernel], target))
    hot = max(loops, key=lambda body: sum("vpdpbusd" in line for line in body))
    dots = [line for line in hot if "vpdpbusd" in line]
    assert not [line for line in hot if "%rsp" in line]
    assert all("(" in line for line in dots)
    assert len({line.split("%")[-1] for line in dots}) >= 4
    assert len(dots) >= 0.4 * len(hot)  # one output vector needs a broadcast for each dot


@pytest.mark.parametrize(("isa", "instruction"), [("avx512_vnni", "vpdpbusd"), ("avx2", "vpmaddwd")])
def test_depthwise_weights_stay_operands_where_they_are(isa: str, instruction: str) -> None:
    target = x86_machines.x86_target(isa)
    work = ConvWorkload(1, 28, 28, 64, 64, (3, 3), pads=(1,) * 4, groups=64)
    text = assembly([plan_conv(work, instruction_sets.load(isa), target)], target)
    dots = [line for line in text.splitlines() if instruction in line]
    from_memory = [line for line in dots if "(" in line]
    assert len(from_memory) > 0.9 * len(dots)
    assert not [line for line in from_memory if "%rsp" in line]


@pytest.mark.parametrize("name", ["x86-64-v4-vnni", "x86-64-v3", "x86-64", "rpi4"])
def test_an_object_needs_no_symbol(name: str, tmp_path: Path) -> None:
    if shutil.which("nm") is None:
        pytest.skip("nm (binutils) is not installed")
    target = load(name)
    isa = instruction_sets.load(target.isa)
    kernels = [plan_conv(work, isa, target) for work in (WORK, FLOAT, dense(1, 100, 10, table=True))]
    path = tmp_path / "k.o"
    path.write_bytes(build_objects(kernels, target))
    listed = subprocess.run(["nm", str(path)], check=True, capture_output=True, text=True).stdout
    symbols = {line.split()[-1]: line.split()[-2] for line in listed.splitlines()}
    assert "U" not in symbols.values()
    assert not [symbol for symbol in symbols if "TVM" in symbol]
    assert {kernel.name for kernel in kernels} == {s for s, kind in symbols.items() if kind == "T"}


def test_equal_workloads_share_a_kernel_and_objects_are_reproducible() -> None:
    target = x86_machines.x86_target("avx2")
    isa = instruction_sets.load("avx2")
    first, again, other = (plan_conv(work, isa, target) for work in (WORK, WORK, FLOAT))
    assert first.name == again.name
    assert first.name != other.name
    assert build_objects([first, again, other], target) == build_objects([other, first], target)


def test_matrix_tiles_do_the_products() -> None:
    target = x86_machines.x86_target("amx_int8")
    kernel = plan_conv(WORK, instruction_sets.load("amx_int8"), target)
    loops = hot_loops(assembly([kernel], target))
    counts = [[line.split()[0] for line in body] for body in loops]
    best = max(counts, key=lambda body: body.count("tdpbusd"))
    assert best.count("tdpbusd") >= 4
    assert best.count("tileloadd") == best.count("tdpbusd")
    assert len(best) <= 4 * best.count("tdpbusd")


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_float_depthwise_loads_a_pixel_once(size: int, stride: int) -> None:
    target, pad = x86_machines.x86_target("avx512_vnni"), size // 2
    work = ConvWorkload(
        1,
        56,
        56,
        96,
        96,
        (size, size),
        (stride, stride),
        pads=(pad,) * 4,
        groups=96,
        precision="float32",
        output="float32",
    )
    loops = hot_loops(assembly([plan_conv(work, instruction_sets.load("avx512_vnni"), target)], target))
    hot = max(loops, key=lambda body: sum("vfmadd" in line for line in body))
    products = sum("vfmadd" in line for line in hot)
    assert products >= 2 * size * size
    assert products / len(hot) >= 0.45
    assert sum("%rsp" in line for line in hot) <= 0.07 * len(hot)
