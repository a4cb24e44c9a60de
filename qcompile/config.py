"""What to compile and how: one record behind the command line, YAML files and the Python API."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qcompile.config_texts import read_seconds, read_share
from qcompile.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping

PRECISIONS = ("int8", "dynamic", "fp16", "bf16", "fp32")

_HALVES = {"fp16": "float16", "bf16": "bfloat16"}

ACCURACIES = ("fast", "auto")

COMMAND_LINE = "command line"
"""The source of settings that are options: messages about them name the option."""

_NOT_RECORDED = ("jobs", "sources", "work_dir", "executor", "tune", "budget", "device")

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
        "preprocess": {"type": ["object", "string"]},
        "input_shapes": {
            "type": "object",
            "additionalProperties": {"type": "array", "items": {"type": ["integer", "string"], "minimum": 0}},
        },
        "input_values": {
            "type": "object",
            "additionalProperties": {"type": ["number", "boolean", "array"], "items": {"type": ["number", "boolean"]}},
        },
        "state": _STRINGS,
        "max_length": {"type": "integer", "minimum": 2},
        "cache": {"enum": ["float32", "float16", "int8"]},
        "state_initial": {"type": "object", "additionalProperties": {"type": ["number", "string"]}},
        "observer": _STRING,
        "weights": {"enum": ["max", "mse"]},
        "per_channel": {"type": "boolean"},
        "pair_loss": {"type": "number", "minimum": 0},
        "weight_bits": {"enum": [8, 4, 2, 1]},
        "group_size": _POSITIVE,
        "store": {"enum": ["float32", "float16", "bfloat16"]},
        "floats": {"enum": ["float32", "float16", "bfloat16"]},
        "keep_float": _STRINGS,
        "keep_int16": _STRINGS,
        "io": {"enum": ["float", "int8"]},
        "passes": _STRING,
        "pass_path": _STRINGS,
        "labels": _STRING,
        "seed": {"type": "integer", "minimum": 0},
        "jobs": _POSITIVE,
        "accuracy": {"enum": list(ACCURACIES)},
        "max_drop": {"type": ["number", "string"]},
        "metric": _STRING,
        "eval_data": _STRING,
        "min_sqnr": {"type": "number"},
        "max_ms": {"type": "number", "exclusiveMinimum": 0},
        "work_dir": _STRING,
        "executor": _STRING,
        "tune": {"type": "boolean"},
        "budget": {"type": ["number", "string"]},
        "device": _STRING,
        "tuning": _STRING,
    },
}
"""JSON schema of a configuration file; each property is the command line's option of the same name."""


MOST_JOBS = 4
"""Threads used where nobody says: each needs memory of its own."""

_WHOLE = {name for name, kind in SCHEMA["properties"].items() if kind.get("type") == "integer"} | {"weight_bits"}


def usual_jobs() -> int:
    """Return how many threads and processes to use where nobody says: one for each core, at most `MOST_JOBS`."""
    return min(MOST_JOBS, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


@dataclass(frozen=True)
class CompileConfig:
    """Everything that decides what a bundle contains, besides the model itself.

    Args:
        target: name of a target, path of a target's YAML file, or "host".
        precision: "int8", "dynamic" (activations are quantized at run time), "fp16", "bf16" or "fp32".
        calib: calibration set: folder, file or `module:function`; None for none.
        samples: largest number of calibration samples; None takes 64, of very small networks up to 512.
        crops_per_image: samples to cut from each photograph; None lets `samples` decide.
        preprocess: how photographs become inputs, as in `Preprocess.from_mapping`.
        input_shapes: extents for inputs with open ones, by input name; "S:1..128" keeps one open.
        input_values: what inputs are fixed to, by input name: one number, or one per element.
        state: outputs that become inputs of the next run, OUTPUT=INPUT, or "auto".
        max_length: places of caches that grow with the sequence; None for 256, or as `input_shapes` says.
        cache: how these are stored: "float32", "float16", or "int8" with a scale for each place of each head.
        state_initial: what kept tensors start with, by name of the input: a number or a .npy file; 0 by default.
        observer: chooses the ranges of activations.
        weights: chooses the scales of weights, "max" or "mse".
        per_channel: one weight scale per output channel.
        pair_loss: dB by which a layer's error may grow so that kernels multiply pairs of bytes; 0 for not at all, None
            for as much as the passes choose.
        weight_bits: of weights alone, 8, 4, 2 (ternary) or 1 (the sign); activations stay float32. None for no such
            rounding.
        group_size: neighbouring weights that then share a scale.
        store: how float constants are stored, "float32", "float16" or "bfloat16"; arithmetic stays float32.
        floats: what layers compute in that are not quantized, "float32", "float16" or "bfloat16"; "fp16" and "bf16" are
            all layers in it.
        keep_float: nodes that stay in float32: names, globs, /regular expressions/, op:softmax, from..to.
        keep_int16: nodes that compute on 16-bit activations, chosen alike; those that `keep_float` names stay in float.
        io: "float", or "int8" to keep inputs and outputs quantized.
        passes: pipeline text of further passes, run after simplification.
        pass_path: directories with passes.
        labels: text file with one class name a line.
        seed: of synthetic samples.
        jobs: threads that run samples and compile kernels, and processes of a search; the bundle does not depend on it.
        accuracy: "fast" takes the passes as they are, "auto" searches for those that the goal below needs.
        max_drop: largest share of the accuracy that may be lost, 0 to 1; None for no such goal.
        metric: what the accuracy is, as for `qcompile eval`: "top1" by default, or `module:function`.
        eval_data: labelled samples on which a search measures it; None estimates losses without labels.
        min_sqnr: lowest SQNR at the worst output, dB; None for no such goal.
        max_ms: longest inference by the cost model, milliseconds; None for no such goal.
        work_dir: folder for the state of a search; None takes one beside the output.
        executor: cluster that measures candidates, "dask://host:port"; None for processes here.
        tune: measure how the layers are cut best before compiling.
        budget: seconds for that; also "90s" or "2m".
        device: where: "local", or ssh://user@host.
        tuning: records of measured cuts: "auto" (the user's and those that come with qcompile), "off", or a file.
        sources: files that these settings were read from; not a setting itself.
    """

    target: str = "host"
    precision: str = "int8"
    calib: str | None = None
    samples: int | None = None
    crops_per_image: int | None = None
    preprocess: dict[str, Any] = field(default_factory=dict)
    input_shapes: dict[str, tuple[int | str, ...]] = field(default_factory=dict)
    input_values: dict[str, tuple[float, ...]] = field(default_factory=dict)
    state: tuple[str, ...] = ()
    max_length: int | None = None
    cache: str = "float32"
    state_initial: dict[str, float | str] = field(default_factory=dict)
    observer: str = "mse"
    weights: str = "mse"
    per_channel: bool = True
    pair_loss: float | None = None
    weight_bits: int | None = None
    group_size: int = 32
    store: str = "float32"
    floats: str = "float32"
    keep_float: tuple[str, ...] = ()
    keep_int16: tuple[str, ...] = ()
    io: str = "float"
    passes: str = ""
    pass_path: tuple[str, ...] = ()
    labels: str | None = None
    seed: int = 0
    jobs: int = field(default_factory=usual_jobs)
    accuracy: str = "fast"
    max_drop: float | None = None
    metric: str | None = None
    eval_data: str | None = None
    min_sqnr: float | None = None
    max_ms: float | None = None
    work_dir: str | None = None
    executor: str | None = None
    tune: bool = False
    budget: float = 60.0
    device: str = "local"
    tuning: str = "auto"
    sources: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.io == "int8" and self.precision != "int8":
            raise UsageError("--io int8 needs --int8", hint="a float bundle has float inputs and outputs")
        if self.device != "local" and not self.tune:
            raise UsageError("--device is where --tune measures", hint="add --tune")
        if self.budget != type(self).budget and not self.tune:
            raise UsageError("--budget is the time for --tune", hint="add --tune")
        if self.tune and self.tuning == "off":
            raise UsageError("--tune and --tuning off exclude each other", hint="name a file for the records")
        if self.searches and self.precision != "int8":
            hint = "scales found at run time leave nothing to search" if self.precision == "dynamic" else None
            raise UsageError("a search for accuracy needs --int8", hint=hint or "a float bundle loses none")
        for name, value in (("executor", self.executor), ("work-dir", self.work_dir), ("eval-data", self.eval_data)):
            if value is not None and not self.searches:
                raise UsageError(f"--{name} is for a search", hint="add --accuracy auto, or a goal: --max-drop 0.5%")
        if self.group_size != type(self).group_size and self.weight_bits is None:
            raise UsageError("--group-size is of weights alone in few bits", hint="add --weight-bits 4")
        if self.weight_bits is not None and self.precision in ("int8", "dynamic"):
            other = f"--{self.precision}"
            raise UsageError(f"--weight-bits keeps activations in float32, {other} does not", hint="give one of them")
        if self.weight_bits is not None and self.narrows:
            raise UsageError(
                f"--weight-bits keeps activations in float32, {self.narrow_type} does not", hint="give one of them"
            )
        if self.precision in _HALVES and self.floats not in ("float32", self.narrow_type):
            raise UsageError(
                f"--{self.precision} and --floats {self.floats} exclude each other", hint="give one of them"
            )
        if self.metric is not None and self.eval_data is None:
            raise UsageError("--metric needs labelled samples", hint="give them with --eval-data")
        if self.keep_int16 and self.precision != "int8":
            raise UsageError("--keep-int16 needs --int8", hint="only there do activations have a chosen width")
        if self.precision not in PRECISIONS:
            raise UsageError(
                f"unknown precision '{self.precision}'", hint=did_you_mean(self.precision, list(PRECISIONS))
            )

    @property
    def searches(self) -> bool:
        """Whether a search decides the passes or the precision of nodes."""
        return self.accuracy == "auto" or any(v is not None for v in (self.max_drop, self.min_sqnr, self.max_ms))

    @property
    def narrows(self) -> bool:
        """Whether layers that are not quantized compute in 16 bits."""
        return self.narrow_type is not None

    @property
    def narrow_type(self) -> str | None:
        """Type of 16 bits that they compute in, "float16" or "bfloat16"; None: float32."""
        return _HALVES.get(self.precision, None if self.floats == "float32" else self.floats)

    @property
    def compares(self) -> bool:
        """Whether the result is to be compared with the float model: more than its code is different."""
        stored = self.narrows or self.store != "float32" or self.cache != "float32"
        changed = self.weight_bits is not None or stored or bool(self.passes)
        return self.precision != "fp32" or changed

    def updated(self, given: Mapping[str, Any], source: str) -> CompileConfig:
        """Return a copy with some settings replaced.

        Args:
            given: settings by name, as a configuration file has them; None means not given.
            source: where they come from, for messages.

        Raises:
            UsageError: a name is unknown or a value has the wrong type.
        """
        values = {name.replace("-", "_"): value for name, value in given.items() if value is not None}
        validate(values, source)
        # A schema takes 64.0 for a whole number.
        values.update({name: int(values[name]) for name in _WHOLE & set(values)})
        for name in ("keep_float", "keep_int16", "pass_path", "state"):
            if name in values:
                values[name] = tuple(values[name])
        if "weight_bits" in values:
            values.setdefault("precision", "fp32")
        if "max_drop" in values:
            values["max_drop"] = read_share(values["max_drop"])
        if "budget" in values:
            values["budget"] = read_seconds(values["budget"])
        if "input_shapes" in values:
            given = values["input_shapes"]
            shapes = {n: tuple(d if isinstance(d, str) else int(d) for d in given[n]) for n in given}
            values["input_shapes"] = {**self.input_shapes, **shapes}
        if "input_values" in values:
            fixed = {n: tuple(v) if isinstance(v, (list, tuple)) else (v,) for n, v in values["input_values"].items()}
            values["input_values"] = {**self.input_values, **fixed}
        return replace(self, **values)

    def recorded(self) -> dict[str, Any]:
        """Return the effective configuration as a manifest records it.

        Where the inputs lie is not part of it: of a path only its last part is kept (contents are recorded as
        digests), and what has no influence on the bundle is left out.
        """
        result = {name: value for name, value in asdict(self).items() if name not in _NOT_RECORDED}
        result["input_shapes"] = {name: list(shape) for name, shape in self.input_shapes.items()}
        result["input_values"] = {name: list(values) for name, values in self.input_values.items()}
        result["keep_float"] = list(self.keep_float)
        result["keep_int16"] = list(self.keep_int16)
        result["state"] = list(self.state)
        result["pass_path"] = [Path(path).name for path in self.pass_path]
        for name in ("target", "calib", "labels", "tuning", "eval_data"):
            result[name] = place_name(result[name]) if result[name] is not None else None
        return result


def place_name(text: str) -> str:
    """Return the last part of a path; anything else, such as `module:function`, as it is."""
    return text if ":" in text else Path(text).name or text


def validate(settings: Mapping[str, Any], source: str) -> None:
    """Check names and types of settings.

    Args:
        settings: by name, spelled with underscores.
        source: where they come from, for messages.

    Raises:
        UsageError: a name is unknown or a value has the wrong type.
    """
    import jsonschema

    known = list(SCHEMA["properties"])
    for name in settings:
        if name not in known:
            raise UsageError(f"{source}: unknown setting '{name}'", hint=did_you_mean(name, known))
    faults = jsonschema.Draft202012Validator(SCHEMA).iter_errors(_listed(settings))
    for fault in sorted(faults, key=lambda f: [str(part) for part in f.path]):
        where = ".".join(str(part) for part in fault.path)
        subject, hint = f"{source}: {where}", f"remove the setting '{fault.path[0]}' to get its default"
        if source == COMMAND_LINE:
            subject, hint = f"--{where.replace('_', '-')}", "`qcompile compile --help` says what it takes"
        raise UsageError(f"{subject} is {fault.instance!r}, expected {_expected(fault)}", hint=hint)
    for name, value in settings.items():
        if isinstance(value, float) and not math.isfinite(value):
            subject = f"--{name.replace('_', '-')}" if source == COMMAND_LINE else f"{source}: {name}"
            raise UsageError(f"{subject} is {value}, expected a finite number", hint="give a number, or leave it out")


def _listed(value: Any) -> Any:
    """Return a value with lists for tuples, the only arrays that a schema knows."""
    if isinstance(value, dict):
        return {name: _listed(item) for name, item in value.items()}
    return [_listed(item) for item in value] if isinstance(value, (list, tuple)) else value


_WORDS = {"string": "a text", "integer": "a whole number", "number": "a number", "boolean": "true or false",
          "array": "a list", "object": "a mapping"}  # fmt: skip


def _expected(fault: Any) -> str:
    """Return what a JSON schema wanted, in words."""
    wanted = fault.validator_value
    if fault.validator == "type" and wanted == "array" and isinstance(fault.instance, str):
        return f"a list, such as [{fault.instance}]"
    if fault.validator == "exclusiveMinimum":
        return f"more than {wanted}"
    if fault.validator == "type":
        return " or ".join(_WORDS[name] for name in ([wanted] if isinstance(wanted, str) else wanted))
    if fault.validator == "enum":
        return " or ".join(repr(value) for value in wanted)
    return f"{wanted} or more" if fault.validator == "minimum" else str(fault.message)
