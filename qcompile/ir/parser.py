"""Text to graph: the inverse of `qcompile.ir.printer`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from qcompile.errors import UsageError, did_you_mean
from qcompile.ir.counted import CountedAxis
from qcompile.ir.fields import accepts, build, describe_type
from qcompile.ir.graph import Graph, Value
from qcompile.ir.literal import Scanner
from qcompile.ir.opdef import OpDef
from qcompile.ir.state import State
from qcompile.ir.symbol import Extent, Symbol
from qcompile.ir.types import LONG_DTYPE, TensorType
from qcompile.quant.qparams import INT_RANGE, QParams, QSpec


def parse_graph(
    text: str,
    ops: Mapping[str, OpDef],
    constants: Mapping[str, Any] | None = None,
    *,
    source: str = "IR text",
) -> Graph:
    """Read a graph from its text.

    Besides what the printer writes, a constant may be `normal(seed, std)` or `uniform(seed, low, high)`: seeded
    noise, so that texts written by hand can have weights.

    Args:
        text: as printed.
        ops: known operations by name.
        constants: arrays by digest (`printer.constant_pool`).
        source: what to call the text in messages.

    Raises:
        UsageError: the text is not a graph; the message has the line.
    """
    scan = Scanner(text, source)
    try:
        return _GraphParser(scan, ops, constants or {}).graph()
    except UsageError as error:
        error.loc = error.loc or scan.place()
        raise
    except (ValueError, OverflowError) as error:
        raise UsageError(str(error), loc=scan.place()) from error


_QPARAMS: dict[str, Any] = {
    "scale": float | tuple[float, ...],
    "zp": int | tuple[int, ...],
    "axis": int | None,
    "dtype": str,
    "range": tuple[int, int],
}
"""Fields of q(…) and their types."""


class _GraphParser:
    def __init__(self, scanner: Scanner, ops: Mapping[str, OpDef], constants: Mapping[str, Any]) -> None:
        self.scan = scanner
        self.ops = ops
        self.pool = constants
        self.values: dict[str, Value] = {}
        self.result = Graph()

    def graph(self) -> Graph:
        scan = self.scan
        scan.expect("graph")
        self.result = Graph(scan.string())
        scan.expect("{")
        outputs: list[tuple[str, Value]] = []
        while not scan.accept("}"):
            if scan.accept("input"):
                self._input()
            elif scan.accept("const"):
                self._constant()
            elif scan.accept("output"):
                name = scan.string()
                scan.expect("=")
                outputs.append((name, self._use()))
            elif scan.accept("state"):
                self.result.states += (self._record(State, "state"),)
            elif scan.accept("symbol"):
                self.result.symbols += (self._record(Symbol, "symbol"),)
            elif scan.accept("extent"):
                self.result.extents += (self._record(Extent, "extent"),)
            elif scan.accept("counted"):
                self.result.counted += (self._record(CountedAxis, "counted"),)
            else:
                self._node()
        if scan.kind != "end":
            raise scan.error("the end")
        self.result.set_outputs([v for _, v in outputs], [n for n, _ in outputs])
        return self.result

    def _record(self, kind: type, what: str) -> Any:
        self.scan.expect("{")
        return build(kind, self.scan.assignments("}", lambda _: self.scan.literal()), what)

    def _name(self) -> str:
        token = self.scan.take("value", "a value name")
        name = token[1:]
        return str(json.loads(name)) if name.startswith('"') else name

    def _use(self) -> Value:
        if self.scan.kind == "value":
            name = self._name()
            if name in self.values:
                return self.values[name]
            raise UsageError(f"value {name} is not defined before it is used", loc=self.scan.source)
        raise self.scan.error("a value name")

    def _type(self) -> TensorType:
        self.scan.expect(":")
        return self._bare_type()

    def _bare_type(self) -> TensorType:
        short = self.scan.take("word", "an element type")
        if short not in LONG_DTYPE:
            raise UsageError(f"unknown element type '{short}'", hint=did_you_mean(short, list(LONG_DTYPE)))
        self.scan.expect("[")
        return TensorType(LONG_DTYPE[short], tuple(self.scan.sequence("]", self._extent)))

    def _extent(self) -> int:
        if not self.scan.token.isdecimal():
            raise self.scan.error("an extent")
        return int(self.scan.advance())

    def _define(self, value: Value, name: str) -> Value:
        if name in self.values:
            raise UsageError(f"value {name} is defined twice")
        self.values[name] = value
        return value

    def _input(self) -> None:
        name = self._name()
        value = self._define(self.result.add_input(name, self._type()), name)
        self._quantization(value)

    def _constant(self) -> None:
        name = self._name()
        type = self._type()
        self.scan.expect("=")
        value = self._define(self.result.add_constant(name, self._contents(type)), name)
        self._quantization(value)

    def _contents(self, type: TensorType) -> Any:
        scan = self.scan
        if scan.kind == "digest":
            key = scan.advance()[1:]
            if key not in self.pool:
                raise UsageError(f"the constant #{key} is not given", loc=scan.source, hint="pass it in `constants`")
            return np.asarray(self.pool[key]).reshape(type.shape)
        if scan.accept("["):
            items = scan.sequence("]", scan.literal)
            if len(items) != type.size or any(not isinstance(i, (int, float)) for i in items):
                raise UsageError(f"the contents are not {type.size} numbers for {type}")
            return np.asarray(items, type.dtype).reshape(type.shape)
        for kind in ("normal", "uniform"):
            if scan.accept(kind):
                scan.expect("(")
                return self._noise(kind, scan.sequence(")", scan.literal), type)
        raise scan.error("a constant's contents")

    def _noise(self, kind: str, arguments: list[Any], type: TensorType) -> Any:
        """Return seeded noise: normal(seed, std=1) or uniform(seed, low=0, high=1)."""
        numbers = all(isinstance(a, (int, float)) and not isinstance(a, bool) for a in arguments)
        most = 2 if kind == "normal" else 3
        if not numbers or not 1 <= len(arguments) <= most or not isinstance(arguments[0], int) or arguments[0] < 0:
            raise UsageError(f"{kind} takes a seed and up to {most - 1} numbers", loc=self.scan.source)
        generator = np.random.default_rng(arguments[0])
        given = [float(a) for a in arguments[1:]]
        if kind == "normal":
            noise = generator.normal(0.0, given[0] if given else 1.0, type.shape)
        else:
            low, high = [*given, *[0.0, 1.0][len(given) :]]
            noise = generator.uniform(low, high, type.shape)
        return (np.rint(noise) if type.dtype.startswith(("int", "uint")) else noise).astype(type.dtype)

    def _quantization(self, value: Value) -> None:
        scan = self.scan
        if scan.accept("q"):
            scan.expect("(")
            value.qparams = self._qparams()
        if scan.accept("spec"):
            scan.expect("(")
            value.qspec = build(QSpec, scan.assignments(")", lambda _: scan.literal()), "spec")

    def _qparams(self) -> QParams:
        scan = self.scan

        def value(name: str) -> Any:
            if name == "scale" and scan.kind == "digest":
                key = scan.advance()[1:]
                if key not in self.pool:
                    raise UsageError(f"the scales #{key} are not given", loc=scan.source)
                return tuple(float(v) for v in self.pool[key])
            return scan.literal()

        given = scan.assignments(")", value)
        if "scale" not in given:
            raise scan.error("'scale' within q(…)")
        for name in given:
            if name not in _QPARAMS:
                raise UsageError(f"q(…) has no field '{name}'", hint=did_you_mean(name, list(_QPARAMS)))
            if not accepts(_QPARAMS[name], given[name]):
                raise UsageError(f"q(…): '{name}' must be {describe_type(_QPARAMS[name])}")
        dtype = given.get("dtype", "int8")
        if dtype not in INT_RANGE:
            raise UsageError(f"unknown quantized type '{dtype}'", hint=did_you_mean(dtype, list(INT_RANGE)))
        qmin, qmax = given.get("range", INT_RANGE[dtype])
        scales = given["scale"] if isinstance(given["scale"], tuple) else (float(given["scale"]),)
        zp = given.get("zp", 0)
        return QParams(scales, zp if isinstance(zp, tuple) else (zp,), dtype, qmin, qmax, given.get("axis"))

    def _attribute(self, _: str) -> Any:
        if self.scan.accept("q"):
            self.scan.expect("(")
            return self._qparams()
        return self.scan.literal()

    def _node(self) -> None:
        scan = self.scan
        names = [self._name()]
        while scan.accept(","):
            names.append(self._name())
        scan.expect("=")
        op_name = scan.take("word", "an operation")
        if op_name not in self.ops:
            raise UsageError(
                f"unknown operation '{op_name}'", loc=scan.source, hint=did_you_mean(op_name, list(self.ops))
            )
        op = self.ops[op_name]
        scan.expect("(")
        operands = scan.sequence(")", self._use)
        given = scan.assignments("}", self._attribute) if scan.accept("{") else {}
        attrs = build(op.Attrs, given, f"op '{op_name}'")
        scan.expect(":")
        types, annotate = self._results(len(names))
        precision = self._precision()
        loc = self._location()
        node = self.result.add_node(op, operands, attrs, names=names, types=types, loc=loc)
        node.precision = precision
        for name, value, fill in zip(names, node.outputs, annotate, strict=True):
            fill(self._define(value, name))

    def _results(self, count: int) -> tuple[list[TensorType], list[Callable[[Value], None]]]:
        types: list[TensorType] = []
        fills: list[Callable[[Value], None]] = []
        for index in range(count):
            if index:
                self.scan.expect(",")
            types.append(self._bare_type())
            holder = Value("", types[-1])
            self._quantization(holder)

            def fill(value: Value, holder: Value = holder) -> None:
                value.qparams, value.qspec = holder.qparams, holder.qspec

            fills.append(fill)
        return types, fills

    def _precision(self) -> str:
        if not self.scan.accept("precision"):
            return ""
        self.scan.expect("(")
        name = self.scan.take("word", "a precision")
        self.scan.expect(")")
        return name

    def _location(self) -> str:
        if not self.scan.accept("loc"):
            return ""
        self.scan.expect("(")
        text = self.scan.string()
        self.scan.expect(")")
        return text
