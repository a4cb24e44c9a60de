"""The command line: parse, call, print."""

from __future__ import annotations

import errno
import os
import signal
import sys
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from qcompile import cli_accuracy, cli_compile, cli_export, cli_speed
from qcompile.cli_options import InputShape, InputValue, SamplesOnce, number
from qcompile.config_texts import read_shapes, read_values
from qcompile.errors import (
    BundleError,
    CalibrationError,
    InternalError,
    ModelImportError,
    PassError,
    QCompileError,
    TargetError,
    UnsupportedOpError,
    UsageError,
    did_you_mean,
)

_COMMANDS = ("compile", "run", "bench", "eval", "analyze", "export-qdq", "inspect", "targets", "passes", "ops")

EPILOG = """Examples:

  qcompile model.onnx --target rpi4 --int8 --calib photos/ -o build/

  qcompile run build/ --input photo.jpg

  qcompile bench build/

  qcompile eval build/ --data photos/ --reference model.onnx

  qcompile inspect model.onnx
"""


class _CompileByDefault(TyperGroup):
    """`qcompile model.onnx …` means `qcompile compile model.onnx …`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        words = [a for a in args if not a.startswith("-")]
        if args and args[0] not in self.commands and args[0] not in ("--help", "-h", "--version"):
            if words and args[0] == words[0] and not Path(words[0]).suffix and not Path(words[0]).exists():
                raise UsageError(f"unknown command '{words[0]}'", hint=did_you_mean(words[0], list(self.commands)))
            args = ["compile", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_CompileByDefault,
    add_completion=False,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from qcompile import __version__

        print(f"qcompile {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Compile ONNX models to fast, runtime-free INT8 code for ARM and x86 CPUs.

    A model as the first argument compiles it: `qcompile MODEL.onnx …` is `qcompile compile MODEL.onnx …`.
    """


app.command("compile", cls=SamplesOnce)(cli_compile.compile_model)


@app.command()
def run(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Directory of a bundle.")],
    input: Annotated[
        list[str],
        typer.Option(
            metavar="FILE", help="Image, .npy or .npz; NAME=FILE where the model has several inputs. Repeatable."
        ),
    ],
    output: Annotated[
        str | None, typer.Option("-o", "--output", metavar="FILE", help="Write all outputs to this .npz file.")
    ] = None,
    top: Annotated[int, number("Largest values to print; 0 for all.", least=0)] = 5,
    threads: Annotated[int, number("Threads to use; 0 for one a core.")] = 1,
) -> None:
    """Run a bundle on one input and print what it answers.

    Example: qcompile run build/ --input photo.jpg
    """
    from qcompile.evaluate.execution import run_bundle
    from qcompile.files import check_writable
    from qcompile.report.terminal import print_answer

    if output is not None:
        check_writable(output, "outputs.npz")
    save = Path(output) if output is not None else None
    print_answer(run_bundle(bundle, input, threads=threads, save=save), top=top)


app.command("bench")(cli_speed.bench)
app.command("eval", cls=SamplesOnce)(cli_accuracy.evaluate)
app.command("analyze", cls=SamplesOnce)(cli_accuracy.analyze)
app.command("export-qdq", cls=SamplesOnce)(cli_export.export_qdq)


@app.command()
def inspect(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="ONNX file.")],
    input_shape: InputShape = None,
    input_value: InputValue = None,
    passes: Annotated[
        str, typer.Option(metavar="TEXT", help="Passes to run first, e.g. 'canonicalize,fold-batchnorm'.")
    ] = "",
    pass_path: Annotated[
        list[str] | None, typer.Option(metavar="DIR", help="Directory with passes. Repeatable.")
    ] = None,
    format: Annotated[str, typer.Option(metavar="FORMAT", help="text, dot (for Graphviz) or summary.")] = "text",
) -> None:
    """Print a model's graph as qcompile sees it.

    Example: qcompile inspect model.onnx --passes canonicalize --format dot | dot -Tsvg > model.svg
    """
    from qcompile.onnx_import.bounds import import_model
    from qcompile.passmgr import PassManager, PassRegistry
    from qcompile.report.graph_text import render_graph

    graph = import_model(model, read_shapes(input_shape or []), read_values(input_value or []))
    if passes:
        graph = PassManager(passes, (), PassRegistry(pass_path or [])).run(graph)
    sys.stdout.write(render_graph(graph, format))


@app.command()
def targets(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Show one target: a name, a YAML file or `host`.")
    ] = None,
) -> None:
    """List the machines that qcompile compiles for.

    Example: qcompile targets rpi4
    """
    from qcompile.report.terminal import print_target, print_targets

    if name is None:
        print_targets()
    else:
        print_target(name)


@app.command()
def passes(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Show one pass with its documentation.")] = None,
    pass_path: Annotated[
        list[str] | None, typer.Option(metavar="DIR", help="Directory with passes. Repeatable.")
    ] = None,
) -> None:
    """List the passes with their options.

    Example: qcompile passes fold-batchnorm
    """
    from qcompile.passmgr import PassRegistry
    from qcompile.report.terminal import print_pass, print_passes

    registry = PassRegistry(pass_path or [])
    if name is None:
        print_passes(registry)
    else:
        print_pass(registry, name)


@app.command()
def ops() -> None:
    """List the ONNX operators that can be imported.

    Example: qcompile ops
    """
    from qcompile.report.operators import print_operators

    print_operators()


def run_command(arguments: list[str]) -> int:
    """Run the command line and return its exit code.

    Args:
        arguments: without the program's name.

    Returns:
        0 fine, 2 the user's input is at fault, 1 our own fault, 130 interrupted.
    """
    try:
        # Not `app()`: it turns Ctrl-C and a closed pipe into exit codes of its own.
        command = typer.main.get_command(app)
        with command.make_context("qcompile", arguments or ["--help"]) as context:
            command.invoke(context)
    except QCompileError as error:
        _print_error(str(error), _AWAY if _is_away() else error.hint or _general_hint(error))
        if isinstance(error, PassError) and error.reproducer is not None:
            print(f"Its traceback, and the graph that it was given, are in {_written(error)}", file=sys.stderr)
        return error.exit_code
    except InternalError as error:
        _print_internal(error)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort) as stop:
        _print_error("interrupted; unfinished output was removed", str(stop) or None)
        return 130
    except typer.Exit as stop:
        return int(stop.exit_code)
    except BrokenPipeError:
        # The reader of our output (such as `head`) has seen enough; Python must not complain at exit.
        _silence()
        return 0
    except MemoryError as error:
        _print_error(f"there is not enough memory: {error}".removesuffix(": "), _MEMORY)
        return 2
    except OSError as error:
        if _is_away():
            _print_error("cannot find the working directory", _AWAY)
            return 2
        if error.errno not in _SURROUNDINGS or (error.filename is None and error.errno not in _DISK):
            _print_internal(error)
            return 1
        if error.filename is None:  # of what is printed, which is still held back and would fail again at exit
            _silence()
            _print_error(f"cannot write: {error.strerror}", _SURROUNDINGS[error.errno])
            return 2
        _print_error(f"cannot use '{os.fsdecode(error.filename)}': {error.strerror}", _SURROUNDINGS[error.errno])
        return 2
    except Exception as error:
        if hasattr(error, "format_message"):  # a parser error; its class lives in a private module of typer
            _print_error(*_parser_error(error))
            return 2
        _print_internal(error)
        return 1
    return 0


_SURROUNDINGS = {
    errno.EACCES: "its folders must be open to the user who runs qcompile, and what is read be readable: see chmod",
    errno.EPERM: "its folders must be open to the user who runs qcompile, and what is read be readable: see chmod",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ELOOP: "links must end at a file or a folder",
    errno.EIO: "check the disk",
    errno.ENOSPC: "free some space on that disk",
    errno.EDQUOT: "free some space on that disk",
    errno.EROFS: "name a place that can be written",
}
"""What a system refuses whatever a program does, with what helps."""

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
_AWAY = "the folder that this runs in was deleted: change to one that exists"
_MEMORY = "give fewer samples (--samples), or one thread (--jobs 1), or use a machine with more memory"

_HINTS: dict[type[QCompileError], str] = {
    UnsupportedOpError: "leave that part to your own code: onnx.utils.extract_model cuts a model at any tensor",
    ModelImportError: "export the model again, and check it with onnx.checker.check_model",
    TargetError: "`qcompile targets` lists the targets; `qcompile targets rpi4` shows what a description holds",
    CalibrationError: "`qcompile compile --help` says what --calib takes, `qcompile eval --help` what --data takes",
    PassError: "`qcompile passes` lists the passes with their options",
    BundleError: "compile the model again",
    QCompileError: "`qcompile --help` lists the commands, `qcompile COMMAND --help` the options of one",
}


def _general_hint(error: QCompileError) -> str:
    """Return what may help where the place that raised an error knows nothing better."""
    return next(_HINTS[cls] for cls in type(error).__mro__ if cls in _HINTS)


def _parser_error(error: Any) -> tuple[str, str]:
    """Return message and hint for what the parser refuses."""
    message = str(error.format_message()).rstrip(".")
    context = getattr(error, "ctx", None)
    name = getattr(context, "info_name", None)
    hint = f"see `qcompile {name + ' ' if name in _COMMANDS else ''}--help`"
    option = getattr(error, "option_name", None)
    if option is not None and context is not None and message.lower().startswith("no such option"):
        known = [text for parameter in context.command.params for text in parameter.opts if text.startswith("--")]
        close = get_close_matches(option, known, n=1)
        return f"no such option: {option}", f"did you mean {close[0]}?" if close else hint
    return message[:1].lower() + message[1:], hint


def _one_line(text: str) -> str:
    """Return a message on one line; names in it are the user's and may hold anything, even terminal commands."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.split()))


def _print_error(message: str, hint: str | None) -> None:
    print(f"error: {_one_line(message)}", file=sys.stderr)
    if hint:
        print(f"hint: {_one_line(hint)}", file=sys.stderr)


def _print_internal(error: BaseException) -> None:
    path = _written(error)
    print(f"internal error: {type(error).__name__}: {_one_line(str(error))}", file=sys.stderr)
    print(f"This is a fault of qcompile, not of your input. Please report it with {path}", file=sys.stderr)


def _written(error: BaseException) -> Path:
    """Write down how to see an error again, and return where."""
    from qcompile.report.reproducer import write_reproducer

    return write_reproducer(error, getattr(error, "reproducer", None), sys.argv)


def _silence() -> None:
    """Print no more."""
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - stays open until exit


def _is_away() -> bool:
    """Return whether the working directory was deleted, so that no relative path means anything."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


def _terminate(*_: Any) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Entry point of the `qcompile` program."""
    signal.signal(signal.SIGTERM, _terminate)  # leave nothing behind, as after Ctrl-C
    # Where the caller closed one, as some schedulers do, it is None, and the next file opened would take its place.
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - stays open until exit
    code = run_command(sys.argv[1:])
    try:
        sys.stdout.flush()
    except OSError as error:
        _silence()
        if error.errno != errno.EPIPE:
            _print_error(f"cannot write: {error.strerror}", _SURROUNDINGS.get(error.errno or 0))
            code = code or 2
    sys.exit(code)


if __name__ == "__main__":
    main()
