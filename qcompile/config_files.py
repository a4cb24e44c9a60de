"""Settings, and names of classes, from files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qcompile.config import SCHEMA, validate
from qcompile.errors import UsageError
from qcompile.files import read_text

_FORM = "a configuration is a YAML file with one setting a line, such as `target: rpi4`"


def read_config(path: Path) -> dict[str, Any]:
    """Read a YAML configuration file; relative paths in it are relative to the file.

    Args:
        path: the file.

    Returns:
        Settings by name.

    Raises:
        UsageError: it cannot be read or is not a mapping of known settings.
    """
    settings = _parsed(path)
    validate(settings, str(path))
    for name in ("calib", "labels", "eval_data"):
        if name in settings:
            settings[name] = _beside(path, settings[name])
    if str(settings.get("tuning", "")).endswith(".jsonl"):
        settings["tuning"] = _beside(path, settings["tuning"])
    if str(settings.get("target", "")).endswith((".yaml", ".yml")):
        settings["target"] = _beside(path, settings["target"])
    if "pass_path" in settings:
        settings["pass_path"] = [_beside(path, folder) for folder in settings["pass_path"]]
    return settings


def read_sidecar(model: Path) -> tuple[str, dict[str, Any]] | None:
    """Read the settings that accompany a model: `model.yaml` beside `model.onnx`.

    Returns:
        The file's path and its settings; None where there is no such file, or where it is not meant for us (other
        tools, too, write a YAML file of a model's name): no key in it is a setting.

    Raises:
        UsageError: it cannot be read, or only some of its keys are settings.
    """
    path = model.with_suffix(".yaml")
    if not path.is_file() or not set(_parsed(path)) & set(SCHEMA["properties"]):
        return None
    return str(path), read_config(path)


def _parsed(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file, its keys spelled with underscores."""
    import yaml

    from qcompile.yaml_text import parse_yaml

    try:
        content = parse_yaml(read_text(path))
    except OSError as error:
        raise UsageError(f"cannot read configuration '{path}': {error.strerror}", hint=_FORM) from None
    except UnicodeDecodeError:
        raise UsageError(f"configuration '{path}' is not a text file", hint=_FORM) from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        message = f"configuration '{path}' is not valid YAML: {_yaml_reason(error)}"
        raise UsageError(message, hint=_FORM) from None
    if content is not None and not isinstance(content, dict):
        raise UsageError(f"configuration '{path}' is not a mapping of settings", hint=_FORM)
    # A name without a value, such as `calib:`, is a setting that is not given.
    settings: dict[str, Any] = {}
    for key, value in (content or {}).items():
        name = str(key).replace("-", "_")
        if name in settings:
            raise UsageError(f"configuration '{path}' gives '{name}' twice", hint=_FORM)
        if value is not None:
            settings[name] = value
    return settings


def _yaml_reason(error: Exception) -> str:
    """Return what a YAML parser found wrong, with the line and without its drawing of it."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or " ".join(str(error).split())
    return f"{problem} in line {mark.line + 1}" if mark is not None else problem


def _beside(path: Path, text: str) -> str:
    """Return a path that is relative to a file's folder as one that is relative to the working directory."""
    return text if ":" in text else str(path.parent / text)


def read_labels(path: str) -> list[str]:
    """Read class names, one a line; spaces are part of a name: to a reader of texts one may be a class of its own.

    Args:
        path: of the file.

    Raises:
        UsageError: the file cannot be read or is empty.
    """
    try:
        names = read_text(Path(path), "utf-8-sig").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not a text file"
        message = f"cannot read labels '{path}': {reason}"
        raise UsageError(message, hint="give a text file with one class name a line") from error
    if not any(names):
        raise UsageError(f"labels file '{path}' is empty", hint="give one class name a line")
    return names
