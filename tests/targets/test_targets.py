"""Target descriptions: those shipped, the user's own, and every way to get one wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from qcompile import targets
from qcompile.errors import TargetError
from qcompile.targets import features
from qcompile.targets.detect import detect

FOLDER = Path(targets.__file__).parent
SHIPPED = [name for name in targets.names() if name != "host"]
GOOD = yaml.safe_load((FOLDER / "rpi4.yaml").read_text())


def write(folder: Path, **changes: object) -> Path:
    content = {**GOOD, **changes}
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))
    return path


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_target_is_complete_and_named_after_its_file(name: str) -> None:
    target = targets.load(name)
    assert target.name == name
    assert target.triple == f"{target.arch}-linux-gnu"
    assert set(target.requires) <= set(features.RUNTIME_FEATURES[target.arch])
    assert set(target.requires) >= features.ISA_REQUIRES[target.isa]


def test_the_targets_users_were_promised_exist() -> None:
    promised = "host x86-64 x86-64-v3 x86-64-v4-vnni aarch64 rpi3 rpi4 rpi5 graviton2 graviton3"
    assert set(promised.split()) <= set(targets.names())
    assert targets.names()[0] == "host"


@pytest.mark.parametrize(
    ("name", "isa", "cpu"),
    [("rpi3", "neon_inorder", "cortex-a53"), ("rpi4", "neon", "cortex-a72"), ("rpi5", "neon_dotprod", "cortex-a76"),
     ("graviton2", "neon_dotprod", "neoverse-n1"), ("graviton3", "neon_i8mm", "neoverse-v1"),
     ("x86-64-v3", "avx2", "x86-64-v3"),
     ("x86-64-v4-vnni", "avx512_vnni", "x86-64-v4"), ("x86-64", "sse2", "x86-64")],
)  # fmt: skip
def test_instruction_set_of_shipped_target(name: str, isa: str, cpu: str) -> None:
    assert (targets.load(name).isa, targets.load(name).cpu) == (isa, cpu)


def test_unknown_name_proposes_the_nearest() -> None:
    with pytest.raises(TargetError, match="unknown target 'rip4'") as caught:
        targets.load("rip4")
    assert "did you mean 'rpi4'?" in (caught.value.hint or "")


def test_users_own_file_by_path(tmp_path: Path) -> None:
    path = write(tmp_path, name="mine", cores=2)
    assert targets.load(path) == targets.load(str(path))
    assert targets.load(path).cores == 2


@pytest.mark.parametrize(
    ("changes", "message", "hint"),
    [
        ({"cpu": None}, "key 'cpu' is missing", "cpu"),
        ({"ise": "neon"}, "unknown key 'ise'", "did you mean 'isa'"),
        ({"cores": "four"}, "key 'cores' is 'four', expected a value of type integer", None),
        ({"cores": 0}, "key 'cores' is 0, expected at least 1", None),
        ({"glibc": 2.28}, "key 'glibc' is 2.28, expected a value of type string", "in quotes"),
        ({"triple": "armv7-linux-gnu"}, "key 'triple' is 'armv7-linux-gnu', expected one of", None),
        ({"features": ["neon"]}, r"key 'features.0' is 'neon', expected text like", None),
        ({"requires": ["asimd", "assimddp"]}, "names 'assimddp', unknown on aarch64", "mean 'asimddp'"),
        ({"requires": ["asimd", "avx2"]}, "names 'avx2', unknown on aarch64", "known"),
        ({"isa": "neom"}, "key 'isa' is 'neom', which has no kernels", "did you mean 'neon'"),
        ({"isa": "neon_dotprod"}, "isa 'neon_dotprod' needs 'asimddp'", "add 'asimddp'"),
        ({"features": ["+neon", "+dotprod"]}, r"features '\+dotprod' needs 'asimddp'", "add 'asimddp'"),
    ],
)
def test_faulty_description_names_file_key_and_value(
    tmp_path: Path, changes: dict[str, object], message: str, hint: str | None
) -> None:
    path = write(tmp_path, **changes)
    with pytest.raises(TargetError, match=message) as caught:
        targets.load(path)
    assert str(path) in str(caught.value)
    assert hint is None or hint in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"- 1\n- 2\n", "holds no keys"),
        (b"", "holds no keys"),
        (b"name: [unclosed", "not valid YAML"),
        (b"\xff\xfe\x00", "not a text file"),
        (b"name: a\nname: b\n", "key 'name' is given twice"),
        (b"a: !!python/object/apply:os.system ['true']", "not valid YAML"),
        (b"[" * 5000, "not valid YAML"),
        (b"? [a, b]\n: c\n", "not valid YAML|holds no keys|unknown key"),
    ],
)
def test_file_that_is_no_description(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(TargetError, match=message):
        targets.load(path)


def test_missing_file_and_directory(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="No such file"):
        targets.load(tmp_path / "absent.yaml")
    with pytest.raises(TargetError, match="cannot read"):
        targets.load(tmp_path)


def machine(folder: Path, cpuinfo: str) -> Path:
    (folder / "proc").mkdir()
    (folder / "proc/cpuinfo").write_text(cpuinfo)
    caches = [(1, "Data", "48K"), (1, "Instruction", "32K"), (2, "Unified", "2048K")]
    for index, (level, kind, size) in enumerate(caches):
        cache = folder / f"sys/devices/system/cpu/cpu0/cache/index{index}"
        cache.mkdir(parents=True)
        for name, text in (("level", level), ("type", kind), ("size", size)):
            (cache / name).write_text(f"{text}\n")
    return folder


AVX2 = "pni ssse3 sse4_1 sse4_2 popcnt movbe avx f16c fma avx2 bmi1 bmi2 abm"
VNNI = f"{AVX2} avx512f avx512dq avx512cd avx512bw avx512vl avx512_vnni"
A72 = "fp asimd evtstrm crc32 cpuid"
A76 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
V1 = f"{A76} asimdfhm sve bf16 i8mm"


@pytest.mark.parametrize(
    ("system", "cpuinfo", "twin", "isa"),
    [
        ("x86_64", f"model name\t: X\nflags\t\t: {VNNI}\n", "x86-64-v4-vnni", "avx512_vnni"),
        ("x86_64", f"flags\t\t: {AVX2}\n", "x86-64-v3", "avx2"),
        ("x86_64", "flags\t\t: pni ssse3\n\nflags : avx2", "x86-64", "sse2"),
        ("aarch64", f"Features\t: {A72}\nCPU part\t: 0xd08\n", "rpi4", "neon"),
        ("aarch64", f"Features\t: {A72}\nCPU part\t: 0xd03\n", "rpi3", "neon_inorder"),
        ("aarch64", f"Features\t: {A76}\nCPU part\t: 0xd0b\n", "rpi5", "neon_dotprod"),
        ("aarch64", f"Features\t: {A76}\nCPU part\t: 0xd0c\n", "graviton2", "neon_dotprod"),
        ("aarch64", f"Features\t: {V1}\nCPU part\t: 0xd40\n", "graviton3", "neon_i8mm"),
        ("aarch64", "Features\t: fp asimd\nCPU part\t: 0xfff\n", "aarch64", "neon"),
    ],
)
def test_host_equals_the_shipped_target_of_the_same_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str, cpuinfo: str, twin: str, isa: str
) -> None:
    monkeypatch.setattr("platform.machine", lambda: system)
    found = detect(machine(tmp_path, cpuinfo))
    same = targets.load(twin)
    assert found["isa"] == isa
    assert found["cpu"] == same.cpu
    assert (tuple(found["features"]), tuple(found["requires"])) == (same.features, same.requires)
    assert (found["l1d_bytes"], found["l2_bytes"]) == (48 * 1024, 2048 * 1024)


def test_host_that_runs_no_bundles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    with pytest.raises(TargetError, match="this is Darwin"):
        targets.load("host")


def test_host_without_proc_is_the_base_level(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert detect(tmp_path)["isa"] == "sse2"


def test_the_device_checks_the_names_that_targets_use() -> None:
    import qcompile.bundle

    source = (Path(qcompile.bundle.__file__).parent / "csrc/qc_cpu.c").read_text()
    x86, arm = source.split("#elif defined(__aarch64__)")
    for arch, text in (("x86_64", x86), ("aarch64", arm)):
        assert sorted(re.findall(r'\{"(\w+)",', text)) == sorted(features.RUNTIME_FEATURES[arch])


@pytest.mark.parametrize("name", ["rpi5", "graviton2", "graviton3", "x86-64-v4-amx"])
def test_float16_adds_its_feature_and_its_check(name: str) -> None:
    target = targets.with_float16(targets.load(name))
    wanted = {"x86_64": ("+avx512fp16", "avx512fp16"), "aarch64": ("+fullfp16", "asimdhp")}[target.arch]
    assert target.features.count(wanted[0]) == 1
    assert target.requires.count(wanted[1]) == 1
    assert targets.with_float16(target) == target


@pytest.mark.parametrize("name", ["rpi3", "rpi4", "aarch64", "x86-64", "x86-64-v3", "x86-64-v4-vnni"])
def test_float16_is_refused_where_it_is_missing(name: str) -> None:
    with pytest.raises(TargetError, match="does not compute in float16") as caught:
        targets.with_float16(targets.load(name))
    assert "--store float16" in (caught.value.hint or "")


def test_optional_features_are_checked_too(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="key 'optional' names 'asimdph'"):
        targets.load(write(tmp_path, optional=["asimdph"]))
