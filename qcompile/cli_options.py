"""Command-line options that several commands have."""

from __future__ import annotations

from typing import Annotated, Any

import typer


def _whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"'{text}' is not a whole number") from None


def number(text: str) -> Any:
    """Return an option that takes a whole number."""
    return typer.Option(metavar="N", parser=_whole_number, help=text)


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
