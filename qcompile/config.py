"""What to compile and how: one record behind the command line, YAML files and the Python API."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qcompile.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping

PRECISIONS = ("int8", "fp32")

_STRING, _STRINGS = {"type": "string"}, {"type": "array", "items": {"type": "string"}}
_POSITIVE = {"type": "integer", "minimum": 1}

SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "target": _STRING,
        "precision": {"enum": list(PRECISIONS)},
        "calib": _STRING,
        "samples": _POSITIVE,
        "crops_per_image": _POSITIVE,
        "preprocess": {"type": "object"},
        "input_shapes": {
            "type": "object",
            "additionalProperties": {"type": "array", "items": {"type": "integer", "minimum": 0}},
        },
        "observer": _STRING,
        "weights": {"enum": ["max", "mse"]},
        "per_channel": {"type": "boolean"},
        "keep_float": _STRINGS,
        "io": {"enum": ["float", "int8"]},
        "passes": _STRING,
        "pass_path": _STRINGS,
        "labels": _STRING,
        "seed": {"type": "integer", "minimum": 0},
        "jobs": _POSITIVE,
    },
}
"""JSON schema of a configuration file; each property is the command line's option of the same name."""


@dataclass(frozen=True)
class CompileConfig:
    """Everything that decides what a bundle contains, besides the model itself.

    Args:
        target: name of a target, path of a target's YAML file, or "host".
        precision: "int8" or "fp32".
        calib: calibration set: folder, file or `module:function`; None for none.
        samples: largest number of calibration samples.
        crops_per_image: samples to cut from each photograph; None lets `samples` decide.
        preprocess: how photographs become inputs, as in `Preprocess.from_mapping`.
        input_shapes: extents for inputs with open ones, by input name.
        observer: chooses the ranges of activations.
        weights: chooses the scales of weights, "max" or "mse".
        per_channel: one weight scale per output channel.
        keep_float: names or glob patterns of nodes that stay in float32.
        io: "float", or "int8" to keep inputs and outputs quantized.
        passes: pipeline text of further passes, run after simplification.
        pass_path: directories with passes.
        labels: text file with one class name a line.
        seed: of synthetic samples.
        jobs: processes that compile kernels.
    """

    target: str = "host"
    precision: str = "int8"
    calib: str | None = None
    samples: int = 64
    crops_per_image: int | None = None
    preprocess: dict[str, Any] = field(default_factory=dict)
    input_shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    observer: str = "mse"
    weights: str = "mse"
    per_channel: bool = True
    keep_float: tuple[str, ...] = ()
    io: str = "float"
    passes: str = ""
    pass_path: tuple[str, ...] = ()
    labels: str | None = None
    seed: int = 0
    jobs: int = 2

    def __post_init__(self) -> None:
        if self.io == "int8" and self.precision != "int8":
            raise UsageError("--io int8 needs --int8", hint="a float bundle has float inputs and outputs")
        if self.precision not in PRECISIONS:
            raise UsageError(
                f"unknown precision '{self.precision}'", hint=did_you_mean(self.precision, list(PRECISIONS))
            )

    def updated(self, given: Mapping[str, Any], source: str) -> CompileConfig:
        """Return a copy with some settings replaced.

        Args:
            given: settings by name, as a configuration file has them; None means not given.
            source: where they come from, for messages.

        Raises:
            UsageError: a name is unknown or a value has the wrong type.
        """
        values = {name.replace("-", "_"): value for name, value in given.items() if value is not None}
        _validate(values, source)
        for name in ("keep_float", "pass_path"):
            if name in values:
                values[name] = tuple(values[name])
        if "input_shapes" in values:
            shapes = {n: tuple(s) for n, s in values["input_shapes"].items()}
            values["input_shapes"] = {**self.input_shapes, **shapes}
        return replace(self, **values)

    def to_mapping(self) -> dict[str, Any]:
        """Return the settings as JSON can hold them: the effective configuration of a manifest."""
        result = asdict(self)
        result["input_shapes"] = {name: list(shape) for name, shape in self.input_shapes.items()}
        for name in ("keep_float", "pass_path"):
            result[name] = list(result[name])
        return result


def read_config(path: Path) -> dict[str, Any]:
    """Read a YAML configuration file; relative paths in it are relative to the file.

    Args:
        path: the file.

    Raises:
        UsageError: it cannot be read or is not a mapping of known settings.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read configuration '{path}': {error}") from error
    except yaml.YAMLError as error:
        raise UsageError(
            f"configuration '{path}' is not valid YAML: {' '.join(str(error).split())}"
        ) from error
    settings = {} if content is None else content
    if not isinstance(settings, dict):
        raise UsageError(
            f"configuration '{path}' must be a mapping of settings", hint="such as `target: rpi4`"
        )
    settings = {str(name).replace("-", "_"): value for name, value in settings.items()}
    _validate(settings, str(path))
    for name in ("calib", "labels"):
        value = settings.get(name)
        if value is not None and ":" not in value and not Path(value).is_absolute():
            settings[name] = str(path.parent / value)
    return settings


def sidecar(model: Path) -> Path | None:
    """Return the configuration file that accompanies a model, `model.yaml` beside `model.onnx`, if there is one."""
    candidate = model.with_suffix(".yaml")
    return candidate if candidate.is_file() else None


def read_labels(path: str) -> list[str]:
    """Read class names, one a line.

    Raises:
        UsageError: the file cannot be read or is empty.
    """
    try:
        names = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read labels '{path}': {error}") from error
    if not any(names):
        raise UsageError(f"labels file '{path}' is empty", hint="give one class name a line")
    return names


def _validate(settings: Mapping[str, Any], source: str) -> None:
    import jsonschema

    known = [f.name for f in fields(CompileConfig)]
    for name in settings:
        if name not in known:
            raise UsageError(f"{source}: unknown setting '{name}'", hint=did_you_mean(name, known))
    plain = {k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()}
    if "input_shapes" in plain and isinstance(plain["input_shapes"], dict):
        plain["input_shapes"] = {
            n: list(s) if isinstance(s, tuple) else s for n, s in plain["input_shapes"].items()
        }
    errors = sorted(
        jsonschema.Draft202012Validator(SCHEMA).iter_errors(plain), key=lambda e: list(map(str, e.path))
    )
    if errors:
        where = ".".join(map(str, errors[0].path)) or "settings"
        raise UsageError(f"{source}: {where}: {errors[0].message}")
