"""Find, read and check target descriptions."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import yaml

import qcompile
from qcompile.errors import TargetError, did_you_mean
from qcompile.files import read_text
from qcompile.targets import features
from qcompile.targets.detect import detect
from qcompile.targets.target import Target
from qcompile.yaml_text import parse_yaml

_FOLDER = Path(__file__).parent
_HOST = "host"
_MAX_BYTES = 1 << 20
_WIDE = 1 << 20  # a line for each key


def names() -> list[str]:
    """Return the names that `load` knows: "host", then every YAML file of this folder, sorted."""
    return [_HOST, *sorted(path.stem for path in _FOLDER.glob("*.yaml"))]


def load(name_or_path: str | Path) -> Target:
    """Return a target by name, or read a user's own description.

    Args:
        name_or_path: "host", a name from `names()`, or the path of a YAML file (ends in .yaml or .yml, or
            contains a directory separator).

    Raises:
        TargetError: unknown name, unreadable file, or a faulty description; names file, key and value.
    """
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or is_file(text):
        return _read(Path(name_or_path))
    if text == _HOST:
        return host()
    if text not in names():
        hint = did_you_mean(text, names())
        raise TargetError(f"unknown target '{text}'", hint=f"{hint} (or give the path of a YAML file)")
    return _read(_FOLDER / f"{text}.yaml")


def is_file(text: str) -> bool:
    """Return whether `load` takes a text as the path of a user's own description."""
    return "/" in text or text.endswith((".yaml", ".yml"))


def description(target: Target) -> str:
    """Return the YAML that describes a target: `load` makes the same of it."""
    settings = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(target).items()}
    return yaml.safe_dump(settings, sort_keys=False, default_flow_style=None, allow_unicode=True, width=_WIDE)


def host() -> Target:
    """Return the machine we run on, with the best instruction set it and we have.

    Raises:
        TargetError: it is not a 64-bit x86 or ARM Linux.
    """
    return _checked(detect(), "the machine's own description")


def _read(path: Path) -> Target:
    try:
        size = path.stat().st_size
        if size > _MAX_BYTES:
            raise TargetError(f"{path} has {size} bytes: not a target description")
        content = parse_yaml(read_text(path))
    except OSError as error:
        raise TargetError(f"cannot read target file {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise TargetError(f"{path} is not a text file", hint="a target is described in YAML") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise TargetError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    return _checked(content, str(path))


def _checked(content: Any, origin: str) -> Target:
    """Turn parsed YAML into a Target, or say which key is wrong."""
    import jsonschema

    validator = jsonschema.Draft202012Validator(_schema())
    errors = sorted(validator.iter_errors(content), key=lambda error: [str(part) for part in error.path])
    if errors:
        raise _schema_error(errors[0], content, origin)
    lists = {key: tuple(content.get(key, ())) for key in ("features", "requires", "optional")}
    target = Target(**{**content, **lists})
    _check_features(target, origin)
    _check_isa(target, origin)
    return target


def _schema_error(error: Any, content: Any, origin: str) -> TargetError:
    known = list(_schema()["properties"])
    if not isinstance(content, dict):
        return TargetError(f"{origin} holds no keys", hint=f"a target has: {', '.join(known)}")
    if error.validator == "additionalProperties":
        unknown = next(str(key) for key in content if key not in known)
        return TargetError(f"{origin}: unknown key '{unknown}'", hint=did_you_mean(unknown, known))
    if error.validator == "required":
        missing = next(key for key in error.validator_value if key not in content)
        return TargetError(f"{origin}: key '{missing}' is missing", hint=f"a target has: {', '.join(known)}")
    key = ".".join(str(part) for part in error.path)
    expected = {
        "type": f"a value of type {error.validator_value}",
        "enum": f"one of {error.validator_value}",
        "pattern": f"text like {error.validator_value}",
        "minimum": f"at least {error.validator_value}",
    }.get(error.validator, error.message)
    hint = "write the version in quotes, YAML takes it for a number" if key == "glibc" else None
    return TargetError(f"{origin}: key '{key}' is {error.instance!r}, expected {expected}", hint=hint)


def _check_features(target: Target, origin: str) -> None:
    known = features.RUNTIME_FEATURES[target.arch]
    for key, name in (*(("requires", n) for n in target.requires), *(("optional", n) for n in target.optional)):
        if name not in known:
            hint = did_you_mean(name, list(known))
            raise TargetError(f"{origin}: key '{key}' names '{name}', unknown on {target.arch}", hint=hint)
    needed = {word: f"features '+{flag[1:]}'" for flag in target.features if flag.startswith("+")
              for word in features.required_by(target.arch, flag[1:])}  # fmt: skip
    needed |= dict.fromkeys(features.ISA_REQUIRES.get(target.isa, ()), f"isa '{target.isa}'")
    for name in sorted(needed):
        if name not in target.requires:
            raise TargetError(
                f"{origin}: {needed[name]} needs '{name}', which key 'requires' does not list",
                hint=f"add '{name}' to requires, so that a machine without it is refused",
            )


def _check_isa(target: Target, origin: str) -> None:
    """Refuse an instruction set that has no module (found by file name: kernels are not ours to import)."""
    modules = (Path(qcompile.__path__[0]) / "kernels" / "isa").glob("[a-z]*.py")
    known = sorted({*features.ISA_REQUIRES, *(path.stem for path in modules)})
    if target.isa not in known:
        message = f"{origin}: key 'isa' is '{target.isa}', which has no kernels"
        raise TargetError(message, hint=did_you_mean(target.isa, known))


@cache
def _schema() -> dict[str, Any]:
    schema: dict[str, Any] = json.loads((_FOLDER / "schema.json").read_text(encoding="utf-8"))
    return schema
