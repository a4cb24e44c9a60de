"""Coverage-guided fuzzing of the importer with atheris (Linux, Python 3.11 to 3.13).

    pip install atheris
    python tests/onnx_import/fuzz_atheris.py -max_total_time=600 [corpus folder]

It starts from small valid models; any exception that is not an error of qcompile's own stops it and leaves the input
beside it.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["qcompile.onnx_import", "qcompile.ops"]):
    from qcompile.errors import InternalError, QCompileError
    from qcompile.onnx_import import import_onnx
    from qcompile.onnx_import.support import converters

    # The package loads its parts on demand; all of them must be loaded while atheris watches.
    converters()
    import qcompile.onnx_import.convert
    import qcompile.onnx_import.load  # noqa: F401

_FILE = Path(tempfile.mkdtemp()) / "m.onnx"


def one_input(data: bytes) -> None:
    """Import what the fuzzer made."""
    _FILE.write_bytes(data)
    try:
        import_onnx(_FILE)
    except InternalError:
        raise
    except QCompileError:
        return


def main() -> None:
    """Write the first inputs and fuzz."""
    from fuzz_cases import seeds

    corpus = Path(next((a for a in sys.argv[1:] if not a.startswith("-")), tempfile.mkdtemp()))
    corpus.mkdir(exist_ok=True)
    for number, model in enumerate(seeds()):
        content = model.SerializeToString()
        if number % 10 == 0 and len(content) < 4096:
            (corpus / f"seed_{number}").write_bytes(content)
    options = [a for a in sys.argv[1:] if a.startswith("-")]
    atheris.Setup([sys.argv[0], str(corpus), "-max_len=8192", "-rss_limit_mb=6000", *options], one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
