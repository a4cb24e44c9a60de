"""The operations, one file each; a file defines exactly one OpDef, named after the file.

The registry finds them by listing the package, so adding an operation is adding a file.
"""

from __future__ import annotations

from functools import cache

from qcompile.definition_files import modules_of, refuse_file
from qcompile.ir.opdef import OpDef

_NOT_OPERATIONS = frozenset(
    {
        "arithmetic",
        "computed_part",
        "computed_weights",
        "convolution",
        "elementwise",
        "evaluation",
        "interpolation",
        "interpreter",
        "layout",
        "onnx_node",
        "open_part",
        "open_scaling",
        "packed_weights",
        "pooling",
        "reduction",
        "resampling",
        "sampling",
        "sized_run",
        "sliced",
        "spatial",
    }
)


@cache
def all_ops() -> dict[str, OpDef]:
    """Return every operation by name, sorted by name.

    Raises:
        UsageError: a file cannot be imported, or does not define one operation.
    """
    import qcompile.ops as package

    found: dict[str, OpDef] = {}
    for file, module in modules_of(package, _NOT_OPERATIONS):
        own = [v for v in vars(module).values() if _is_definition(v, module.__name__)]
        names = [getattr(cls, "name", "") for cls in own]
        if names != [file]:
            told = f"it defines {', '.join(map(repr, names))}" if names else "it defines none"
            raise refuse_file(module, f"must define exactly one OpDef, with the name '{file}' of the file; {told}")
        try:
            found[file] = own[0]()
        except TypeError as error:
            raise refuse_file(module, f"its OpDef cannot be made: {error}") from error
    return found


def _is_definition(candidate: object, module: str) -> bool:
    return (
        isinstance(candidate, type)
        and getattr(candidate, "__module__", None) == module
        and issubclass(candidate, OpDef)
        and "name" in vars(candidate)
    )


def get(name: str) -> OpDef:
    """Return the operation of that name.

    Raises:
        KeyError: there is none.
    """
    return all_ops()[name]
