import sys

import pytest

from qcompile.calibrate.calibration_set import open_calibration
from qcompile.calibrate.sample import InputSpec
from qcompile.errors import CalibrationError

X = InputSpec("x", "float32", (1, 2))
MODULE = """
import sys
import numpy as np
from neighbour import VALUE

def dicts():
    for i in range(3):
        yield {"x": np.full((1, 2), i + VALUE, np.float32)}

def arrays():
    return [np.zeros(2, np.float32)]

def breaks():
    yield np.zeros(2, np.float32)
    raise RuntimeError("no more disk")

def leaves():
    sys.exit(0)

def number():
    return 7

def with_arguments(path):
    return []

def nothing():
    return []

def wrong_name():
    return [{"y": np.zeros((1, 2), np.float32)}]

def not_numbers():
    return [{"x": ["a", "b"]}]
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "neighbour.py").write_text("VALUE = 10\n")
    (tmp_path / "my_samples.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    before, names = list(sys.path), set(sys.modules)
    yield tmp_path
    assert sys.path == before
    for name in set(sys.modules) - names:
        del sys.modules[name]


@pytest.mark.parametrize("source", ["my_samples:dicts", "my_samples.py:dicts", "./my_samples.py:dicts"])
def test_dictionaries(module, source):
    samples = open_calibration(source, [X])
    assert samples.size is None
    assert [s["x"].tolist() for s in samples] == [[[10 + i, 10 + i]] for i in range(3)]
    assert len(list(samples)) == 3
    assert len(samples.digest()) == 64


def test_arrays_and_limit(module):
    assert [s["x"].shape for s in open_calibration("my_samples:arrays", [X])] == [(1, 2)]
    assert len(list(open_calibration("my_samples:dicts", [X], limit=2))) == 2


@pytest.mark.parametrize(
    ("source", "message", "hint"),
    [
        ("no_such_module:f", "'no_such_module' cannot be imported: ModuleNotFoundError", "package.module"),
        ("missing.py:f", "there is no file 'missing.py'", "file.py:function"),
        ("my_samples:dict", "no function 'dict'", "dicts"),
        ("my_samples:breaks", r"raised RuntimeError: no more disk .*my_samples.py, line 15\)", "repair"),
        ("my_samples:leaves", r"raised SystemExit: 0 .*my_samples.py, line 18\)", "repair"),
        ("my_samples:number", "returned int, not an iterable", "yield"),
        ("my_samples:with_arguments", "raised TypeError", None),
        ("my_samples:nothing", "gives no calibration sample", None),
        ("my_samples:wrong_name", "no input named 'y'", "x"),
        ("my_samples:not_numbers", "is list, not an array of numbers", "ndarray"),
    ],
)
def test_faults(module, source, message, hint):
    with pytest.raises(CalibrationError, match=message) as caught:
        list(open_calibration(source, [X]))
    assert hint is None or hint in (caught.value.hint or "")


def test_what_a_module_only_imports_is_no_function_of_it(module):
    (module / "importing.py").write_text(
        "from pathlib import Path\nfrom json import loads\ndef mine():\n    return []\n"
    )
    with pytest.raises(CalibrationError, match="no function 'other'") as caught:
        open_calibration("importing.py:other", [X])
    assert caught.value.hint is not None
    assert "mine" in caught.value.hint
    assert "Path" not in caught.value.hint


def test_a_module_that_does_not_parse(module):
    (module / "broken.py").write_text("def f(:\n")
    for source in ("broken:f", "broken.py:f"):
        with pytest.raises(CalibrationError, match="cannot be imported: SyntaxError"):
            open_calibration(source, [X])


def test_a_module_that_leaves_or_lacks_another(module):
    (module / "leaving.py").write_text("import sys\nsys.exit(4)\n")
    (module / "lacking.py").write_text("import no_such_module\n")
    for ending in ("", ".py"):
        with pytest.raises(CalibrationError, match=r"cannot be imported: SystemExit: 4 .*leaving.py, line 2\)"):
            open_calibration(f"leaving{ending}:f", [X])
        with pytest.raises(CalibrationError, match=r"ModuleNotFoundError: .*lacking.py, line 1\)") as caught:
            open_calibration(f"lacking{ending}:f", [X])
        assert "needs the module 'no_such_module'" in (caught.value.hint or "")
