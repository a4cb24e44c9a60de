"""The exceptions that qcompile raises on purpose.

    QCompileError                 the user's input; exit code 2
    ├── UsageError                a wrong option, option value or combination
    ├── ModelImportError          the model file cannot be read or is not valid
    │   └── UnsupportedOpError    the model is valid, but uses an operator we do not have
    ├── TargetError               an unknown target or a faulty target description
    ├── CalibrationError          calibration data that cannot be used
    ├── PassError                 an unknown pass, or a pass whose preconditions do not hold
    ├── LoweringError             something has no code for this target
    ├── AccuracyError             a model is not as accurate as it was asked to be
    ├── DeviceError               a device that cannot be reached or does not do as it is told
    └── BundleError               a bundle cannot be written, or is not fit to be loaded
    InternalError                 our own fault; exit code 1

Every message names the file, node, op and value it is about; the hint says what to do.
"""

from __future__ import annotations

import os
import sysconfig
import traceback


class QCompileError(Exception):
    """Something is wrong with what the user gave us.

    Args:
        message: what is wrong, in one sentence that names the file, node, op and value.
        loc: where it was found (a file, an ONNX node name, an IR value name), if not in the message.
        hint: what the user can do about it.
    """

    exit_code = 2

    def __init__(self, message: str, *, loc: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.loc = loc
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.loc}: {self.message}" if self.loc else self.message


class UsageError(QCompileError):
    """An option, an option's value or a combination of options is wrong."""


class ModelImportError(QCompileError):
    """The model file cannot be read or is not a valid model."""


class UnsupportedOpError(ModelImportError):
    """The model is valid but uses an operator, or a form of one, that qcompile does not have."""


class TargetError(QCompileError):
    """The target is unknown or its description is faulty."""


class CalibrationError(QCompileError):
    """The calibration data cannot be used."""


class PassError(QCompileError):
    """A pass is unknown, was given wrong options, its preconditions do not hold, or a user's own pass fails.

    Attributes:
        reproducer: text (pipeline, IR) that shows the fault of a user's pass again, None for other errors.
    """

    reproducer: str | None = None


class LoweringError(QCompileError):
    """Something has no code for the chosen target."""


class AccuracyError(QCompileError):
    """A model is not as accurate as it was asked to be."""


class DeviceError(QCompileError):
    """A device cannot be reached, or a program does not run on it."""


class BundleError(QCompileError):
    """A bundle cannot be written, or is not fit to be loaded on this machine."""


class InternalError(Exception):
    """An invariant of qcompile itself does not hold: our fault, never the user's.

    Args:
        message: which invariant, with the values that break it.
        reproducer: text (IR, pipeline) that shows the fault again; the command line writes it to a file.
    """

    exit_code = 1

    def __init__(self, message: str, *, reproducer: str | None = None) -> None:
        super().__init__(message)
        self.reproducer = reproducer


def did_you_mean(word: str, known: list[str]) -> str:
    """Return a hint that proposes the known word closest to `word`, or lists all known words."""
    import difflib

    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(sorted(known))}"


def with_line(error: BaseException) -> str:
    """Return what a user's own code raised, in words, with the line that did: "KeyError: 'x' (mine.py, line 3)".

    Of several lines it is the innermost that is neither ours nor of a library that was installed.

    Args:
        error: caught where that code was called.
    """
    text = f"{type(error).__name__}: {error}".removesuffix(": ")
    lines = [(frame.f_code.co_filename, number) for frame, number in traceback.walk_tb(error.__traceback__)]
    foreign = [(file, number) for file, number in lines if not file.startswith((_OURS, _STANDARD, "<"))]
    own = [(file, number) for file, number in foreign if not _is_installed(file)] or foreign
    if not own or isinstance(error, SyntaxError):  # whose text has the line
        return text
    return f"{text} ({own[-1][0]}, line {own[-1][1]})"


def _is_installed(file: str) -> bool:
    return not {"site-packages", "dist-packages"}.isdisjoint(file.split(os.sep))


_OURS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "")
_STANDARD = os.path.join(sysconfig.get_path("stdlib"), "")
