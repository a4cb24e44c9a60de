"""The operations, one file each; a file defines exactly one OpDef, named after the file.

The registry finds them by listing the package, so adding an operation is adding a file.
"""

from __future__ import annotations

from functools import cache

from qcompile.ir.opdef import OpDef

_NOT_OPERATIONS = {
    "arithmetic",
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


@cache
def all_ops() -> dict[str, OpDef]:
    """Return every operation by name, sorted by name."""
    import importlib
    import pkgutil

    import qcompile.ops as package

    found: dict[str, OpDef] = {}
    for info in sorted(pkgutil.iter_modules(package.__path__), key=lambda m: m.name):
        if info.name in _NOT_OPERATIONS:
            continue
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        own = [v for v in vars(module).values() if _is_definition(v, module.__name__)]
        if len(own) != 1 or own[0].name != info.name:
            raise ImportError(f"{module.__name__} must define exactly one OpDef, named '{info.name}'")
        found[info.name] = own[0]()
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
