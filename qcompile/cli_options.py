"""Command-line options that several commands have."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from qcompile.errors import UsageError

_ONCE = ("calib", "data", "eval_data")


class SamplesOnce(TyperCommand):
    """A command that refuses several sources of samples, of which the usual parser would take the last."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments.

        Raises:
            UsageError: an option that names samples is there more than once.
        """
        _, _, given = self.make_parser(ctx).parse_args(list(args))
        names = [parameter.name for parameter in given]
        for parameter in self.params:
            if parameter.name in _ONCE and names.count(parameter.name) > 1:
                raise UsageError(
                    f"{parameter.opts[0]} is given {names.count(parameter.name)} times",
                    hint="only one can be used; put all samples into one folder or file",
                )
        return super().parse_args(ctx, args)


def number(text: str, least: int | None = None) -> Any:
    """Return an option that takes a whole number, of some least value."""

    def parse(given: str) -> int:
        try:
            value = int(given)
        except ValueError:
            raise typer.BadParameter(f"'{given}' is not a whole number") from None
        if least is not None and value < least:
            raise typer.BadParameter(f"{value} is less than {least}")
        return value

    return typer.Option(metavar="N", parser=parse, help=text)


def decimal(metavar: str, text: str) -> Any:
    """Return an option that takes a number with a point."""

    def parse(given: str) -> float:
        try:
            return float(given)
        except ValueError:
            raise typer.BadParameter(f"'{given}' is not a number") from None

    return typer.Option(metavar=metavar, parser=parse, help=text)


InputShape = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=N,…", help="Extents: x=1,3,224,224; ids=1,S:1..128 serves each S. Repeatable."),
]
InputValue = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=X,…", help="Fix an input, e.g. sr=16000: the bundle no longer has it. Repeatable."),
]
Calib = Annotated[
    str | None,
    typer.Option(metavar="PATH", help="Calibration inputs: image folder, .npy/.npz, or module:function."),
]
Preprocess = Annotated[
    str | None,
    typer.Option(metavar="STEPS", help="Image to input, e.g. 'resize=256,crop=224,mean=127,std=128'."),
]
Observer = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Choice of ranges: mse (default), minmax, entropy, 'percentile{percentile=99.9}', …"
    ),
]
KeepFloat = Annotated[
    list[str] | None,
    typer.Option(metavar="NODES", help="Stay in float32: a name, glob, /regex/, op:softmax or FROM..TO. Repeatable."),
]
KeepInt16 = Annotated[
    list[str] | None,
    typer.Option(metavar="NODES", help="Compute on 16-bit activations; chosen like --keep-float. Repeatable."),
]
