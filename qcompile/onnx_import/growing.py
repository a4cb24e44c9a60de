"""Import of decoders whose keys and values grow: which axes of which inputs do, and the model at given lengths.

Such a model takes `past_key_values.0.key` [B, H, P, D] and returns `present.0.key` [B, H, P + S, D], the past with S
new rows behind it. `caches` turns what is imported here into a graph that keeps the rows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from onnx import helper, numpy_helper

from qcompile.errors import UsageError, did_you_mean
from qcompile.ir.graph import Graph
from qcompile.ir.symbol import Symbol
from qcompile.onnx_import.bounds import read_bounds
from qcompile.onnx_import.convert import convert_model
from qcompile.onnx_import.fixed_inputs import fix_inputs
from qcompile.onnx_import.load import Model, load_model
from qcompile.onnx_import.states import refuse_fixed, same_tensor
from qcompile.onnx_import.written_once import split_branches

DEFAULT_LENGTH = 256
"""Places of a cache where nobody says how many."""

DEFAULT_NEW = 32
"""Most new places of one run where nobody says how many."""

_BOUND = re.compile(r"[A-Za-z_][A-Za-z0-9_]*:(\d+)\.\.(\d+)")
_FLOATS = (1, 10)  # FLOAT and FLOAT16 of TensorProto
_IDS = (6, 7)  # INT32 and INT64
_GROWS = ("past", "new", "total")


@dataclass(frozen=True)
class Lengths:
    """How long the sequences of a model may be.

    Args:
        total: places of a cache.
        new: most new places of one run, below `total`.
        fixed: whether every run has exactly `new` new places.
    """

    total: int
    new: int
    fixed: bool = False


@dataclass(frozen=True)
class GrowingModel:
    """What a model with growing caches says about its inputs.

    Args:
        model: path of the file, or an onnx.ModelProto.
        pairs: (output, input) names of the caches.
        roles: of each input, what stands for each axis: an extent, "past", "new", "total", or the role of another
            sequence.
        given: values of inputs that the user fixes, by name.
        lengths: how long sequences may be.
        branches: inputs that choose between the first run, without caches, and all others.
        padded: whether the mask of keys and the places are the caller's, since sequences of a batch differ in length.
        once: (output, input) names of tensors that the first run computes for all others.
        others: open extents of sequences that do not grow.
        notes: sentences for the user.
    """

    model: Any
    pairs: tuple[tuple[str, str], ...]
    roles: Mapping[str, tuple[int | str, ...]]
    given: Mapping[str, Any]
    lengths: Lengths
    branches: tuple[str, ...] = ()
    padded: bool = False
    once: tuple[tuple[str, str], ...] = ()
    others: tuple[Symbol, ...] = ()
    notes: tuple[str, ...] = ()

    def at(self, past: int, new: int, *, first: bool = False, others: Mapping[str, int] | None = None) -> Graph:
        """Import the model at one size.

        The mask of keys is all ones, the places are those behind the past; both become constants, unless they are the
        caller's.

        Args:
            past: places that are filled, 0 or more.
            new: places of this run.
            first: whether a model with a branch for the first run, without caches, shall run that.
            others: extents of other sequences by the names of their symbols; the largest where they are not given.
        """
        loaded = load_model(self.model)
        fix_inputs(loaded, self.given)
        sizes = {"past": past, "new": new, "total": past + new}
        sizes.update({role_of(s): (others or {}).get(s.name, s.most) for s in self.others})
        graph, shapes = loaded.proto.graph, {}
        if self.once and not first:
            split_branches(graph, [output for output, _ in self.once], loaded.source)
        for value in list(graph.input):
            if value.name not in self.roles:
                continue
            shape = tuple(sizes[d] if isinstance(d, str) else d for d in self.roles[value.name])
            tensor = value.type.tensor_type
            dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
            array = self._known(value.name, shape, dtype, past)
            if value.name in self.branches:
                array = np.full(shape, not first)
            if array is not None:
                graph.input.remove(value)
                graph.initializer.append(numpy_helper.from_array(array, value.name))
                continue
            shapes[value.name] = shape
            del tensor.shape.dim[:]
            for size in shape:
                tensor.shape.dim.add().dim_value = size
        return convert_model(loaded, shapes, keeps_loops=False)  # sizes are compared, and loops may be kept at some

    def _known(self, name: str, shape: tuple[int, ...], dtype: Any, past: int) -> Any:
        """Return the value of an input that follows from the lengths, None where the caller gives it."""
        roles = self.roles[name]
        if 0 in shape:
            return np.zeros(shape, dtype)
        if self.padded:
            return None
        if "total" in roles and np.dtype(dtype).kind in "iub":
            return np.ones(shape, dtype)
        if _is_place(name) and "new" in roles:
            places = past + np.arange(shape[roles.index("new")])
            return np.broadcast_to(places, shape).astype(dtype)
        return None

    @property
    def grows(self) -> bool:
        """Whether any cache has an open extent, after what the user fixed."""
        return any("past" in self.roles.get(name, ()) for _, name in self.pairs)

    @property
    def held(self) -> tuple[Symbol, ...]:
        """The open extents of what the first run computes for all others."""
        roles = {role for _, name in self.once for role in self.roles[name]}
        return tuple(symbol for symbol in self.others if role_of(symbol) in roles)

    def follows(self, name: str) -> bool:
        """Return whether an input follows from the lengths, so that the caller does not give it."""
        if name in self.branches or self.padded:
            return name in self.branches
        return "total" in self.roles[name] or (_is_place(name) and "new" in self.roles[name])


def role_of(symbol: Symbol) -> str:
    """Return what stands for an axis that belongs to another sequence."""
    return f"length of {symbol.name}"


def _is_place(name: str) -> bool:
    return re.search(r"position|cache_position", name) is not None


def growing_pairs(model: Any, wanted: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Return the (output, input) names of caches with an open axis, by name or as given; empty where there are none.

    Args:
        model: path of a .onnx file, or an onnx.ModelProto.
        wanted: texts OUTPUT=INPUT, or "auto".
    """
    loaded = load_model(model)
    given = {name: output for output, equals, name in (text.partition("=") for text in wanted) if equals}
    outputs = [value.name for value in loaded.proto.graph.output]
    found = []
    for value in _inputs(loaded):
        dims = value.type.tensor_type.shape.dim
        if not _is_cache(value) or not any(d.dim_value <= 0 for d in dims[1:]):
            continue
        if value.name in given:
            found.append((given[value.name], value.name))
        elif "auto" in wanted:
            found += [(output, value.name) for output in outputs if same_tensor(output, value.name)][:1]
    return tuple(pair for pair in found if pair[1] in given or not _stays(loaded, *pair))


def _stays(model: Model, output: str, name: str) -> bool:
    """Return whether a cache has the same open extents before and after a run, by their names."""
    values = {v.name: v for v in (*model.proto.graph.input, *model.proto.graph.output)}
    shapes = [[d.dim_param or d.dim_value for d in values[v].type.tensor_type.shape.dim] for v in (output, name)]
    return shapes[0] == shapes[1] and all(shapes[0])


def _branches(model: Model) -> tuple[str, ...]:
    """Return the inputs that do nothing but choose a branch."""
    nodes = model.proto.graph.node
    found = []
    for value in _inputs(model):
        users = [node for node in nodes if value.name in node.input]
        if users and all(node.op_type == "If" for node in users):
            found.append(value.name)
    return tuple(found)


def _once(model: Model, inputs: Sequence[Any]) -> tuple[tuple[str, str], ...]:
    """Return the (output, input) names of caches that do not grow, but are results all the same."""
    outputs, caches = [value.name for value in model.proto.graph.output], [v.name for v in inputs if _is_cache(v)]
    pairs = [(output, name) for name in caches for output in outputs if same_tensor(output, name)]
    return tuple(pair for pair in pairs if _stays(model, *pair))


def _inputs(model: Model) -> list[Any]:
    initial = {tensor.name for tensor in model.proto.graph.initializer}
    return [value for value in model.proto.graph.input if value.name not in initial]


def _is_cache(value: Any) -> bool:
    tensor = value.type.tensor_type
    return tensor.elem_type in _FLOATS and len(tensor.shape.dim) >= 3


def describe(
    model: str | Path | Any,
    pairs: Sequence[tuple[str, str]],
    shapes: Mapping[str, Sequence[int | str]],
    values: Mapping[str, Any] | None,
    length: int | None,
) -> GrowingModel:
    """Find out which axes of a model's inputs grow.

    Args:
        model: as for `import_onnx`.
        pairs: of the caches.
        shapes: extents by input name as the user gives them; an open one may have bounds, P:0..255.
        values: what inputs are fixed to.
        length: places of a cache; None takes those that the shapes say, or a default.

    Raises:
        UsageError: a shape does not fit, or bounds contradict each other.
    """
    loaded = load_model(model)
    caches = [name for _, name in pairs]
    known = [value for value in _inputs(loaded) if value.name not in (values or {})]
    chosen = tuple(name for name in _branches(loaded) if name not in (values or {}))
    once = tuple(pair for pair in _once(loaded, known) if pair not in pairs) if chosen else ()
    known = [value for value in known if value.name not in [name for _, name in once]]
    _check_names(loaded, pairs, once, shapes, values or {})
    roles: dict[str, tuple[int | str, ...]] = {}
    told: dict[str, int | str] = {}
    (others, symbols), batch = _other_sequences(known, caches, shapes), _batch(known, shapes)
    for value in known:
        dims = _dims(value, shapes.get(value.name), batch)
        roles[value.name] = tuple(
            _role(value, axis, dim, cache=value.name in caches) if other is None else other
            for axis, (dim, other) in enumerate(zip(dims, _other_dims(value, others), strict=True))
        )
        told.update({str(r): d for r, d in zip(roles[value.name], dims, strict=True) if r in _GROWS and _tells(d)})
        if value.name in caches and roles[value.name].count("past") > 1:
            raise UsageError(
                f"cache '{value.name}' [{', '.join(map(str, dims))}] must have one open axis, the one that grows",
                hint=f"fix the others: --input-shape {value.name}=1,8,P:0..255,64 (for example)",
            )
    lengths = _lengths(told, length)
    symbols = tuple(replace(symbol, places=_places(roles, role_of(symbol))) for symbol in symbols)
    given = dict(values or {})
    grown = GrowingModel(model, tuple(pairs), roles, given, lengths, chosen, padded=batch > 1, others=symbols)
    return _with_once(grown, once)


def _check_names(
    model: Model,
    pairs: Sequence[tuple[str, str]],
    once: Sequence[tuple[str, str]],
    shapes: Mapping[str, Any],
    values: Mapping[str, Any],
) -> None:
    """Refuse shapes and values of inputs that take none."""
    for _, name in pairs:
        if name in values:
            raise refuse_fixed(name)
    names, written = [value.name for value in _inputs(model)], [name for _, name in once]
    for name in shapes:
        if name not in names:
            raise UsageError(f"{model.source} has no input named '{name}'", hint=did_you_mean(name, names))
        if name in written:
            hint = "its extents are those of the result that it keeps: give the shape of the encoder's output"
            raise UsageError(f"input '{name}' takes no --input-shape: it is kept as a state (--state)", hint=hint)
        if name in values:
            raise UsageError(f"input '{name}' takes no --input-shape: --input-value fixes it", hint="leave one out")


def _places(roles: Mapping[str, Sequence[int | str]], wanted: str) -> tuple[tuple[str, int], ...]:
    """Return the (input, axis) pairs that have a role."""
    return tuple((name, axis) for name, found in roles.items() for axis, role in enumerate(found) if role == wanted)


def _with_once(grown: GrowingModel, once: tuple[tuple[str, str], ...]) -> GrowingModel:
    """Return a model with tensors that the first run makes: it has the shapes of these."""
    if not once:
        return grown
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in _inputs(load_model(grown.model))}
    unread = {name: (1,) * ranks[name] for _, name in once}
    known = replace(grown, roles={**grown.roles, **unread})

    def shapes(sizes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
        first = known.at(0, grown.lengths.new, first=True, others=sizes)
        made = {name: value.shape for name, value in zip(first.output_names, first.outputs, strict=True)}
        return {name: made[output] for output, name in once}

    largest = shapes({})
    roles: dict[str, tuple[int | str, ...]] = dict(largest)
    for symbol in grown.others:
        for name, smaller in shapes({symbol.name: symbol.least}).items():
            same = zip(roles[name], largest[name], smaller, strict=True)
            roles[name] = tuple(role if most == less else role_of(symbol) for role, most, less in same)
    return replace(grown, roles={**grown.roles, **roles}, once=once)


def _batch(inputs: Sequence[Any], shapes: Mapping[str, Sequence[int | str]]) -> int:
    """Return the size of the batch that shapes give, 1 where they give none.

    Raises:
        UsageError: it is open, or shapes give several.
    """
    found: dict[int | str, str] = {}
    for value in inputs:
        dims, given = value.type.tensor_type.shape.dim, shapes.get(value.name)
        if given is not None and len(given) == len(dims) > 1 and dims[0].dim_value <= 0:
            found.setdefault(given[0], value.name)
    if len(found) > 1:
        listed = " and ".join(f"{size} of '{name}'" for size, name in found.items())
        raise UsageError(f"the batch is {listed}", hint="give all inputs the same")
    size = next(iter(found), 1)
    if isinstance(size, str):
        raise UsageError(
            f"the batch '{size}' of input '{found[size]}' is open; caches that grow need a fixed one",
            hint=f"such as --input-shape {found[size]}=4,S",
        )
    return size


def _other_sequences(
    inputs: Sequence[Any], caches: Sequence[str], shapes: Mapping[str, Sequence[int | str]]
) -> tuple[dict[str, int | str], tuple[Symbol, ...]]:
    """Return the open extents, by their names in the model, of sequences that do not grow: numbers, or roles.

    Returns:
        These, and the symbols that the roles stand for.

    Raises:
        UsageError: nobody says how long.
    """
    ids = [v for v in inputs if v.type.tensor_type.elem_type in _IDS and "mask" not in v.name.lower()]
    own = {d.dim_param for v in ids for d in v.type.tensor_type.shape.dim[1:]}
    found: dict[str, str] = {}
    for value in inputs:
        dims = value.type.tensor_type.shape.dim
        if value.name not in caches and value.type.tensor_type.elem_type in _FLOATS and own:
            found.update({d.dim_param: value.name for d in dims[1:] if d.dim_param and d.dim_param not in own})
    sizes: dict[str, int | str] = {}
    for value in inputs:
        pairs = zip(value.type.tensor_type.shape.dim, shapes.get(value.name, ()), strict=False)
        sizes.update({d.dim_param: n for d, n in pairs if d.dim_param in found and _tells(n)})
    for opened, name in found.items():
        if opened not in sizes:
            dims = next(v for v in inputs if v.name == name).type.tensor_type.shape.dim
            form = ",".join(str(d.dim_value or ("LENGTH" if axis else 1)) for axis, d in enumerate(dims))
            raise UsageError(
                f"input '{name}' has the open extent '{opened}', of another sequence than the one that grows",
                hint=f"give it a number, or bounds as in E:1..128: --input-shape {name}={form}",
            )
    _, symbols = read_bounds({name: (extent,) for name, extent in sizes.items() if isinstance(extent, str)})
    for symbol in symbols:
        if symbol.least < 1 or symbol.name == "length":
            raise UsageError(f"'{symbol.name}' from {symbol.least} is no length of a sequence beside one that grows")
        sizes.update({name: role_of(symbol) for name, _ in symbol.places})
    return sizes, symbols


def _other_dims(value: Any, others: Mapping[str, int | str]) -> list[int | str | None]:
    """Return the extents, or roles, of those axes of an input that belong to a sequence that does not grow."""
    return [others.get(d.dim_param) if d.dim_param else None for d in value.type.tensor_type.shape.dim]


def _dims(value: Any, given: Sequence[int | str] | None, batch: int) -> tuple[int | str, ...]:
    """Return the extents of an input; an open first axis is the batch."""
    dims: list[int | str] = [d.dim_value if d.dim_value > 0 else d.dim_param for d in value.type.tensor_type.shape.dim]
    if given is not None:
        if len(given) != len(dims):
            raise UsageError(f"input '{value.name}' has {len(dims)} axes, --input-shape gives {len(given)}")
        for axis, (old, new) in enumerate(zip(dims, given, strict=True)):
            if isinstance(old, int) and old != new:
                raise UsageError(f"axis {axis} of input '{value.name}' is {old} in the model, not {new}")
        dims = list(given)
    if len(dims) > 1 and isinstance(dims[0], str) and given is None:
        dims[0] = batch
    return tuple(dims)


def _tells(dim: int | str) -> bool:
    """Return whether an extent says how large it is or can be."""
    return isinstance(dim, int) or ":" in dim


def _role(value: Any, axis: int, dim: int | str, *, cache: bool) -> int | str:
    """Return what an axis is: "past", "new", "total", or an extent.

    The batch axis is an extent, as is what the model fixes; but one token at a time is a run of one new place.
    """
    known = value.type.tensor_type.shape.dim
    opened = known[axis].dim_value <= 0 and not (axis == 0 and len(known) > 1)
    if cache:
        return "past" if opened and isinstance(dim, str) else dim
    ids = value.type.tensor_type.elem_type in _IDS and len(known) == 2 and axis == 1
    if "mask" in value.name.lower():
        return "total" if axis == len(known) - 1 and (opened or dim == 1) else "new" if opened else dim
    return "new" if opened or (ids and dim == 1) else dim


def _lengths(told: Mapping[str, int | str], length: int | None) -> Lengths:
    """Return how long sequences may be.

    Args:
        told: extents, or bounds as P:0..255, by role.
        length: places of a cache; None for none given.
    """
    most = {role: _most(dim) for role, dim in told.items()}
    total = length
    if "past" in most:
        if length is not None and most["past"] + 1 != length:
            bound = most["past"]
            raise UsageError(f"--max-length {length} contradicts the bound {bound} of the past in --input-shape")
        total = most["past"] + 1
    total = total or DEFAULT_LENGTH
    if total < 2:
        raise UsageError(f"a cache of {total} place cannot grow", hint="--max-length 2 is the least")
    new = most.get("new", min(DEFAULT_NEW, total - 1))
    if new >= total:
        raise UsageError(
            f"a run of {new} new places does not fit caches of {total} beside a past",
            hint="--max-length must be larger than the most new places of one run",
        )
    return Lengths(total, new, isinstance(told.get("new"), int))


def _most(dim: int | str) -> int:
    """Return the largest value of an extent."""
    if isinstance(dim, int):
        return dim
    bound = _BOUND.fullmatch(dim)
    if bound is None or int(bound[1]) > int(bound[2]):
        raise UsageError(f"extent '{dim}' is neither a number nor NAME:LEAST..MOST", hint="such as P:0..255 or S:1..32")
    return int(bound[2])
