"""The rules of the code base that a parser can check."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Rooms from the bottom up; a room imports only rooms with a smaller number (and itself).
LEVELS = {
    "errors": 0, "progress": 0, "files": 0.5, "definition_files": 0.5,
    "config_texts": 1, "device": 1, "runtime": 1, "targets": 1, "tuning": 1,
    "config": 2, "config_files": 3, "quant": 2, "ir": 3, "parallel": 3.5, "shapes": 3.5, "onnx_graph": 4, "ops": 4,
    "bundle": 5, "calibrate": 5, "kernels": 5, "onnx_export": 5, "onnx_import": 5, "passmgr": 5,
    "compression": 5.5, "cost": 5.5, "scaling": 5.5,
    "evaluate": 6, "lower": 6, "passes": 6, "pipelines": 6, "report": 6,
    "compilation": 7, "provenance": 7, "search": 7, "tuner": 7,
    "float_share": 7.5, "precision": 7.5,
    "driver": 8,
    "assessment": 9, "cli_options": 9, "export": 9,
    "cli_accuracy": 10, "cli_compile": 10, "cli_export": 10, "cli_speed": 10,
    "cli": 11,
    "__main__": 12,
}  # fmt: skip

# Known exceptions, each with its reason; imports for type checking only are never counted.
ALLOWED = {
    ("quant", "ir"): "QParams are part of a value's type; ir and quant know each other's data classes",
    ("ir", "quant"): "see above",
    ("evaluate", "runtime"): "evaluation runs bundles through their own loader",
    ("report", "evaluate"): "the terminal prints what evaluation measured",
}

# The one pair of files that name each other, the first for type checking only: what an operation does is said of
# nodes, and a node has an operation, so that neither can be told without the other.
TOGETHER = ("qcompile.ir.opdef", "qcompile.ir.graph")


def modules() -> Iterator[tuple[str, Path]]:
    """Yield (room, file) of every module of the package."""
    for path in sorted((ROOT / "qcompile").rglob("*.py")):
        relative = path.relative_to(ROOT / "qcompile")
        yield (relative.parts[0] if len(relative.parts) > 1 else relative.stem), path
    for room in ("passes", "targets"):
        for path in sorted((ROOT / room).glob("*.py")):
            yield room, path


def imports(path: Path) -> Iterator[str]:
    """Yield the names of all modules that a file imports at run time."""
    tree = ast.parse(path.read_text())
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            skipped.update(child for statement in node.body for child in ast.walk(statement))
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module
            if node.module == "qcompile":
                yield from (f"qcompile.{alias.name}" for alias in node.names)


@pytest.mark.parametrize(("room", "path"), list(modules()), ids=lambda v: str(v).removeprefix(str(ROOT)))
def test_imports_point_one_way(room: str, path: Path) -> None:
    if room == "__init__":
        return
    for name in imports(path):
        parts = name.split(".")
        if parts[0] != "qcompile" or len(parts) < 2 or parts[1] not in LEVELS:
            continue
        other = parts[1]
        fine = other == room or LEVELS[other] < LEVELS[room] or (room, other) in ALLOWED
        assert fine, f"{path.relative_to(ROOT)} ({room}) imports {name}"


def needs(path: Path, known: set[str]) -> set[str]:
    """Return the modules of the package that a file names, for type checking too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= whole & known or {node.module}
    return found & known


def test_no_files_import_each_other() -> None:
    # What `qcompile` itself imports are the names of its API, each from where it is used.
    files = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for _, path in modules()}
    files = {name.removesuffix(".__init__"): path for name, path in files.items() if name != "qcompile.__init__"}
    files = {name if name.startswith("qcompile.") else f"qcompile.{name}": path for name, path in files.items()}
    left = {name: needs(path, set(files)) - {name} for name, path in files.items()}
    assert TOGETHER[1] in left[TOGETHER[0]], "this pair is none any more: remove it here"
    left[TOGETHER[0]].remove(TOGETHER[1])
    # What needs no file that is left, or is needed by none, is in no circle.
    while left:
        needed = set().union(*left.values())
        free = [name for name, others in left.items() if not others & left.keys() or name not in needed]
        assert free, f"files that import each other: {circles(left)}"
        for name in free:
            del left[name]


def circles(left: dict[str, set[str]]) -> dict[str, list[str]]:
    return {name: sorted(others & left.keys()) for name, others in sorted(left.items())}


def test_only_lowering_imports_tvm() -> None:
    users = {room for room, path in modules() if any(n.split(".")[0] == "tvm" for n in imports(path))}
    assert users <= {"lower", "kernels"}
    assert users, "nothing imports tvm: this test looks in the wrong place"


def test_runtime_needs_only_numpy_and_the_standard_library() -> None:
    import sys

    for name in imports(ROOT / "qcompile" / "runtime" / "run.py"):
        top = name.split(".")[0]
        assert top in sys.stdlib_module_names or top == "numpy", name


def test_files_and_functions_are_short() -> None:
    for _, path in modules():
        text = path.read_text()
        assert text.count("\n") <= 500, f"{path} has {text.count(chr(10))} lines"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                length = (body[-1].end_lineno - body[0].lineno + 1) if body else 0
                assert length <= 55, f"{path.name}: {node.name} has {length} lines"


def test_no_file_says_nothing_about_what_it_holds() -> None:
    names = {path.name for _, path in modules()}
    assert not names & {"utils.py", "util.py", "helpers.py", "common.py", "misc.py"}


def test_each_pass_and_op_file_holds_one_definition() -> None:
    from qcompile import ops
    from qcompile.passmgr import PassRegistry

    registry = PassRegistry()
    files = {p.stem.replace("_", "-") for p in (ROOT / "passes").glob("*.py") if p.stem != "__init__"}
    assert files == {n for n in registry.names() if registry.origin(n) == "qcompile"}
    for name in files:
        assert registry.get(name).name == name
    for name, op in ops.all_ops().items():
        assert type(op).__module__ == f"qcompile.ops.{name}"
