"""Which passes lead to each precision: the texts of pipelines that a configuration asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qcompile.ir.printer import print_literal

if TYPE_CHECKING:
    from qcompile.config import CompileConfig

SIMPLIFY = (
    "fold-constants,eliminate-dead,canonicalize,fold-batchnorm,canonicalize,fold-constants,tabulate-dense,"
    "to-nhwc,eliminate-transposes,eliminate-dead"
)
"""Rewrites that keep a float graph's meaning; every compilation starts with them."""

FINISH_FLOAT = "fuse-residual,fuse-activation,eliminate-dead"
"""Fusions for what is computed in float."""


def observation(config: CompileConfig, equalized: bool = False) -> str:
    """Return the pipeline text that asks for the ranges of a simplified float graph.

    Args:
        config: effective configuration.
        equalized: whether the channels of its activations are equalized first, where that seems to gain enough.
    """
    options = f"observer={print_literal(config.observer)}, weights={print_literal(config.weights)}"
    options += f", per_channel={print_literal(config.per_channel)}"
    steps = ["fuse-activation{tables=false}", "equalize-weights", "smooth-activations"]
    steps += ["equalize-activations"] if equalized else []
    return ",".join([*steps, f"insert-observers{{{options}}}"])


def calibration(config: CompileConfig) -> str:
    """Return the pipeline text that finds the ranges which `observation` asked for."""
    return f"calibrate{{seed={config.seed}}}"


def quantization(config: CompileConfig) -> str:
    """Return the pipeline text from a simplified float graph, by way of its ranges, to an integer graph."""
    return f"{observation(config)},{calibration(config)},{integer(config)}"


def integer(config: CompileConfig, whole: bool = True, for_accuracy: Sequence[str] = ()) -> str:
    """Return the pipeline text from a calibrated float graph to an integer graph.

    Args:
        config: effective configuration.
        whole: whether to round the weights by layer, and those of tables, which takes longer than all else.
        for_accuracy: names of results of nodes that stay in float32, beside those that the user names.
    """
    others = {"keep_int16": config.keep_int16, "for_accuracy": tuple(for_accuracy)}
    more = "".join(f", {option}={print_literal(names)}" for option, names in others.items() if names)
    steps = [
        f"assign-precision{{keep_float={print_literal(config.keep_float)}{more}}}",
        f"quantize{{io={print_literal(config.io)}}}",
        "fuse-prelu",
        "fuse-requantize",
        "quantize-states",
    ]
    loss, options = config.pair_loss, {"round-weights": "pair_loss", "even-pairs": "most_loss"}
    fine = [name if loss is None else f"{name}{{{option}={loss}}}" for name, option in options.items()]
    tables = 'quantize-weights{operations=["gather"], smallest=65536}'  # rounding a small one gains nothing
    return ",".join([*steps, *fine, tables] if whole else steps)


def absorption(config: CompileConfig) -> str:
    """Return the pipeline text from a simplified quantized model to an integer graph."""
    quantize = f"quantize{{io={print_literal(config.io)}, wide=false}}"
    return f"fuse-activation{{tables=false}},split-weights,absorb-qdq,{quantize},fuse-requantize"


def dynamic(config: CompileConfig) -> str:
    """Return the pipeline text that lets layers quantize their activations at run time."""
    options = f"keep_float={print_literal(config.keep_float)}, weights={print_literal(config.weights)}"
    return f"quantize-dynamic{{{options}}}"


def finish(config: CompileConfig) -> str:
    """Return the pipeline text for what is computed in float: fusions, and how its constants are stored."""
    # Weights that no integer layer multiplies (tables of embeddings) take 8 bits along with the others.
    bits = config.weight_bits or (8 if config.precision == "dynamic" else None)
    if bits is None:
        return f"{FINISH_FLOAT}{narrow(config)}"
    options = f"bits={bits}, group_size={config.group_size}, keep={print_literal(config.keep_float)}"
    return f"{FINISH_FLOAT},quantize-weights{{{options}}}{narrow(config)}"


def narrow(config: CompileConfig) -> str:
    """Return the end of a pipeline text that computes or stores what is float, or caches, in fewer bits."""
    steps = []
    if config.narrows:
        kept = print_literal(config.keep_float if config.precision in ("fp16", "bf16") else ())
        steps.append(f'narrow-floats{{type="{config.narrow_type}", keep_float={kept}}}')
    if config.store != "float32":
        steps.append(f'store-floats{{type="{config.store}"}}')
    if config.cache != "float32":
        steps.append(f'store-caches{{type="{config.cache}"}}')
    return "".join(f",{step}" for step in steps)
