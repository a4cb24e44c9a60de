"""Samples from a Python function of the user's."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import ClassVar

from qcompile.calibrate.reader import Reader, Request
from qcompile.definition_files import remedy
from qcompile.errors import CalibrationError, QCompileError, did_you_mean, with_line

_HINT = "give package.module:function or file.py:function"
_FORM = re.compile(r"(?P<module>[^:]+):(?P<function>[A-Za-z_]\w*)")


class PythonFunction(Reader):
    """The samples that a function without arguments returns or yields, each {input name: array} or an array.

    The function is given as `package.module:function` or `file.py:function`; modules are looked for in the
    working directory first. It runs once in each pass and must give the same samples every time.
    """

    name: ClassVar[str] = "python-function"

    def __init__(self, source: str, request: Request) -> None:
        super().__init__(source, request)
        self._function = load_function(source)

    @classmethod
    def claims(cls, source: str) -> bool:
        """Return whether the source has the form module:function."""
        return _FORM.fullmatch(source) is not None and not Path(source).exists()

    def size(self) -> None:
        """Return None: the function alone knows when it ends."""
        return

    def __iter__(self) -> Iterator[tuple[str, object]]:
        return self._read(0, self.request.limit)

    def spares(self) -> Iterator[tuple[str, object]]:
        """Yield what the function gives behind the limit."""
        limit = self.request.limit
        return iter(()) if limit is None else self._read(limit, limit + self.request.spare)

    def _read(self, index: int, stop: int | None) -> Iterator[tuple[str, object]]:
        samples = islice(self._called(), index, stop)
        while True:
            try:
                sample = next(samples)
            except StopIteration:
                return
            except QCompileError:
                raise
            except (Exception, SystemExit) as error:
                raise self._failed(error) from error
            yield f"{self.source}, sample {index}", sample
            index += 1

    def _called(self) -> Iterable[object]:
        try:
            result = self._function()
        except (Exception, SystemExit) as error:
            raise self._failed(error) from error
        if not isinstance(result, Iterable) or isinstance(result, (str, bytes, dict)):
            raise CalibrationError(
                f"'{self.source}' returned {type(result).__name__}, not an iterable of samples",
                hint="yield {input name: array} for each sample",
            )
        return result

    def _failed(self, error: BaseException) -> CalibrationError:
        return CalibrationError(f"'{self.source}' raised {with_line(error)}", hint="repair the function")


def load_function(source: str, refusal: type[QCompileError] = CalibrationError) -> Callable[..., object]:
    """Return the function that `package.module:function` or `file.py:function` names.

    Args:
        source: the text.
        refusal: the error to raise; UsageError for metrics and decoders, which give no calibration samples.

    Raises:
        QCompileError: the one asked for: the text has another form, or there is no such module or function.
    """
    try:
        return _function(source)
    except CalibrationError as error:
        raise refusal(error.message, hint=error.hint or _HINT) from error


def _function(source: str) -> Callable[..., object]:
    match = _FORM.fullmatch(source)
    if match is None:
        raise CalibrationError(f"'{source}' is not of the form module:function", hint=_HINT)
    module = _imported(match["module"], source)
    function = getattr(module, match["function"], None)
    if not callable(function):
        own = [n for n, v in vars(module).items() if getattr(v, "__module__", "") == module.__name__ and callable(v)]
        names = [name for name in own if not name.startswith("_")]
        hint = did_you_mean(match["function"], names) if names else None
        raise CalibrationError(f"'{match['module']}' has no function '{match['function']}'", hint=hint)
    return function  # type: ignore[no-any-return]


def _imported(module: str, source: str) -> ModuleType:
    try:
        if not module.endswith(".py"):
            with _searching(Path.cwd()):
                return importlib.import_module(module)
        path = Path(module).resolve()
        if not path.is_file():
            raise CalibrationError(f"there is no file '{module}' for '{source}'", hint=_HINT)
        spec = importlib.util.spec_from_file_location(f"qcompile_calibration_{path.stem}", path)
        if spec is None or spec.loader is None:
            raise CalibrationError(f"'{module}' is not a Python file")
        loaded = importlib.util.module_from_spec(spec)
        sys.modules[loaded.__name__] = loaded
        with _searching(path.parent):
            spec.loader.exec_module(loaded)
        return loaded
    except QCompileError:
        raise
    except (Exception, SystemExit) as error:
        hint = _HINT if _is_missing(error, module) else remedy(error, "repair the file")
        raise CalibrationError(f"'{module}' cannot be imported: {with_line(error)}", hint=hint) from error


def _is_missing(error: BaseException, module: str) -> bool:
    """Return whether a module, or the package that it is said to be in, is not there at all."""
    return isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}.")


@contextmanager
def _searching(folder: Path) -> Iterator[None]:
    """Look for modules in a folder first."""
    before = list(sys.path)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path[:] = before
