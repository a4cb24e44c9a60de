"""Imports damaged models one after another; prints a line of JSON before and after each.

Usage: fuzz_cases.py FIRST END BYTES
"""

from __future__ import annotations

import json
import random
import resource
import signal
import sys
import traceback
import warnings
from pathlib import Path
from types import FrameType
from typing import Any

import onnx
from onnx import numpy_helper

SECONDS = 20
"""Time that one import may take."""

LARGE = 4 << 20
"""Bytes of models that are used without a copy per case taking most of the time."""


class TooLong(BaseException):
    """An import has not ended in time; not an Exception, so that nothing on the way can catch it."""


def seeds() -> list[onnx.ModelProto]:
    """Return valid models: every case of ONNX's backend tests, its inputs partly constant, and the networks."""
    from onnx.backend.test.case.node import collect_testcases

    models = []
    for number, case in enumerate(collect_testcases(None)):
        model = onnx.ModelProto()
        model.CopyFrom(case.model)
        for value, data in zip(case.model.graph.input, case.data_sets[0][0], strict=False):
            if number % 2 and isinstance(data, onnx.TensorProto):
                model.graph.initializer.append(data)
                model.graph.initializer[-1].name = value.name
            elif number % 2 and hasattr(data, "dtype") and data.dtype != object:
                model.graph.initializer.append(numpy_helper.from_array(data, value.name))
        models.append(model)
    folder = Path(__file__).resolve().parents[3] / "shared" / "models"
    networks = [p for p in sorted(folder.glob("*.onnx")) if p.stat().st_size < LARGE]
    # Networks hold combinations that single nodes do not; each counts as often as fifty node cases.
    return models + 50 * [onnx.load(p) for p in networks]


def stop(signum: int, frame: FrameType | None) -> None:
    raise TooLong


def outcome(content: bytes, path: Path) -> str:
    """Return "graph", "error", or what came out that must not."""
    from qcompile.errors import InternalError, QCompileError
    from qcompile.onnx_import import import_onnx

    path.write_bytes(content)
    signal.alarm(SECONDS)
    try:
        import_onnx(path)
    except InternalError:
        return traceback.format_exc(limit=-6)
    except QCompileError as error:
        return "error" if str(error) else "an error without a message"
    except TooLong:
        return f"not finished after {SECONDS} s:\n" + traceback.format_exc(limit=-12)
    except BaseException:
        return traceback.format_exc(limit=-6)
    finally:
        signal.alarm(0)
    return "graph"


def main() -> None:
    """Run the cases of a range."""
    import tempfile

    from mutation import mutated

    first, end, limit = (int(text) for text in sys.argv[1:4])
    warnings.simplefilter("ignore")
    models: list[Any] = seeds()
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    signal.signal(signal.SIGALRM, stop)
    with tempfile.TemporaryDirectory() as folder:
        for case in range(first, end):
            chance = random.Random(case)
            content = mutated(chance.choice(models), chance)
            print(json.dumps({"case": case}), flush=True)
            print(json.dumps({"case": case, "result": outcome(content, Path(folder) / "m.onnx")}), flush=True)


if __name__ == "__main__":
    main()
