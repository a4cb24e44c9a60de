"""The command line of run.py: reads inputs, prints and writes outputs, times, tests.

Like `run.py` this file lies in every bundle and needs NumPy alone; `run` in it is the module that called.
"""

from __future__ import annotations

import argparse
import io
import os
import runpy
import sys
import time
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def _read_inputs(run: Any, values: Sequence[str], session: Any) -> dict[str, np.ndarray[Any, Any]]:
    """Read `--input x.npy` or `--input name=x.npy`."""
    arrays = {}
    for index, value in enumerate(values):
        name, sign, path = value.partition("=")
        if not sign:
            if index >= len(session.inputs):
                raise run.InputError(f"{len(values)} inputs were given, the model has {len(session.inputs)}")
            name, path = session.inputs[index].name, value
        try:
            arrays[name] = np.load(path, allow_pickle=False)
        except OSError as error:
            raise run.InputError(f"cannot read {path}: {error.strerror or error}") from None
        except (ValueError, EOFError) as error:
            raise run.InputError(f"{path} is not a .npy file: {error}") from None
    return arrays


def _print_top(values: np.ndarray[Any, Any], tensor: Any, labels: Sequence[str], top: int) -> None:
    flat = (values.reshape(-1).astype(np.float64) - (tensor.zero_point or 0)) * (tensor.scale or 1.0)
    print(f"{tensor.name}:")
    for index in np.argsort(-flat, kind="stable")[:top]:
        label = f"  {labels[index]}" if len(labels) == flat.size else ""
        print(f"  {index:6d}  {flat[index]:<12g}{label}")


def _write_npz(run: Any, path: str, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Write arrays of any names (numpy.savez takes some for its own arguments)."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
    real = os.path.realpath(path)
    fresh = f"{real}.{os.getpid()}.tmp"
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            # A device or a pipe, such as /dev/null, stays what it is.
            with open(path, "wb") as sink:
                sink.write(data.getbuffer())
            return
        with open(fresh, "wb") as sink:
            sink.write(data.getbuffer())
        os.replace(fresh, real)
    except OSError as error:
        raise run.InputError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        if os.path.exists(fresh):
            os.unlink(fresh)


def _check_apart(run: Any, output: str, inputs: Sequence[str]) -> None:
    """Refuse to write the outputs where an input was read."""
    for value in inputs:
        name, sign, path = value.partition("=")
        path = path if sign else name
        if os.path.exists(output) and os.path.samefile(output, path):
            raise run.InputError(f"{output} is the file of an input itself", "give another file with --output")


def _bench(session: Any, inputs: Mapping[str, np.ndarray[Any, Any]], runs: int) -> None:
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        session.run(inputs)
        times.append((time.perf_counter() - start) * 1e3)
    with open("/proc/self/status", encoding="ascii") as file:
        peak = next((int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM:")), 0.0)
    print(
        f"median {np.median(times):.3f} ms, p90 {np.percentile(times, 90):.3f} ms, "
        f"fastest {min(times):.3f} ms, {runs} run{'s' * (runs != 1)}, peak memory {peak:.1f} MB (with Python and NumPy)"
    )


def _self_test(run: Any, session: Any, folder: str) -> None:
    test, path = session.manifest["recipe"].get("self_test"), os.path.join(folder, "self_test.py")
    if not test or not os.path.exists(path):
        raise run.BundleError(f"{folder} has no self-test")
    wrong = runpy.run_path(path)["failures"](session)
    if wrong:
        raise run.BundleError(
            f"the self-test failed: wrong values in output {', '.join(wrong)}", "copy the bundle again"
        )
    if not test["outputs"]:
        print("self-test passed: the model runs; nothing is compared, as rounding errors decide what it answers")
        return
    how = f"outputs within {test['tolerance']} of the foreseen" if test["tolerance"] else "exactly the foreseen bits"
    print(f"self-test passed: {how}")


def _count(text: str) -> int:
    """Read a whole number, 0 or more."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number, 0 or more")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Run the compiled model in this directory.")
    add = parser.add_argument
    add("--bundle", default=os.path.dirname(os.path.abspath(__file__)), help="another bundle's directory")
    add("--input", action="append", default=[], metavar="[NAME=]FILE.npy", help="once for each input")
    add("--output", metavar="FILE.npz", help="write the outputs")
    add("--threads", type=int, default=1, help="0: one for each core (default 1)")
    add("--top", type=_count, default=5, help="how many of the largest elements to print (default 5)")
    add("--bench", type=_count, default=0, metavar="N", help="run N times more and print the times")
    add("--profile", action="store_true", help="print the time of each step")
    add("--self-test", action="store_true", help="compare with the answer that the compiler foresaw")
    return parser


def execute(run: Any, arguments: Sequence[str] | None) -> None:
    """Run the command line.

    Args:
        run: the module `run`.
        arguments: without the program's name; None for those of this process.

    Raises:
        run.BundleError: the bundle or an input is at fault.
        SystemExit: the arguments are wrong, or the user stopped it: with exit code 130.
    """
    try:
        _execute(run, _parser().parse_args(arguments))
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        sys.exit(130)


def _execute(run: Any, options: argparse.Namespace) -> None:
    with run.load(options.bundle, options.threads) as session:
        if options.self_test:
            _self_test(run, session, options.bundle)
        elif not options.input and not (options.bench > 0 or options.profile):
            takes = ", ".join(f"{t.name} {t.dtype}{list(t.shape)}" for t in session.inputs)
            raise run.InputError("no input was given", f"--input FILE.npy; the model takes {takes}")
        inputs = _read_inputs(run, options.input, session) if options.input else session.zeros()
        if options.output:
            _check_apart(run, options.output, options.input)
        outputs = session.run(inputs)
        for tensor in session.outputs if options.input else []:
            _print_top(outputs[tensor.name], tensor, session.manifest.get("labels", []), options.top)
        if options.output:
            _write_npz(run, options.output, outputs)
        if options.profile:
            for step in session.profile(inputs):
                print(f"{step['ns'] / 1e3:10.3f} us  {step['op']:12} {step['precision']:8} {step['node']}")
        if options.bench > 0:
            _bench(session, inputs, options.bench)
