"""Classes: the scores that an output gives them, which of them are best, and which one a label says."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from qcompile.errors import UsageError
from qcompile.evaluate.measure import Array, Observation, output_name, reference_output
from qcompile.evaluate.metrics import top_k


def class_scores(seen: Observation, outputs: Mapping[str, Array], wanted: str) -> Array:
    """Return the scores of all classes for one sample, float64 [classes].

    Raises:
        UsageError: the output holds no such scores.
    """
    name = output_name(seen, wanted)
    scores = np.asarray(outputs[name], np.float64)
    squeezed = scores.reshape([d for d in scores.shape if d != 1])
    if squeezed.ndim != 1 or squeezed.size < 2:
        raise UsageError(
            f"output '{name}' has shape {list(scores.shape)}, not one score for each class",
            hint="choose another output, or another metric (sqnr, cosine, module:function)",
        )
    return squeezed


def best_classes(scores: Array, k: int, reference: Array | None = None) -> list[int] | None:
    """Return the k classes with the highest scores, best first; of equals the lower index comes first.

    Classes whose score is not finite in the float model do not count; without it, those of −inf, which are masked.

    Args:
        scores: [classes].
        k: how many; fewer are returned where fewer count.
        reference: scores of the float model, or None.

    Returns:
        Class indices; None where a score that counts is not finite: the model names no class then.
    """
    counted = np.isfinite(reference) if reference is not None else ~np.isneginf(scores)
    (places,) = np.nonzero(counted)
    if not np.isfinite(scores[places]).all():
        return None
    return [int(i) for i in places[top_k(scores[places], k)]]


def guesses(seen: Observation, wanted: str, k: int) -> tuple[list[int] | None, int]:
    """Return the k best classes of the model under evaluation, see `best_classes`, and how many classes there are.

    Args:
        seen: the sample.
        wanted: the output's name, "" for the only one.
        k: how many.

    Raises:
        UsageError: the output holds no scores of classes.
    """
    scores = class_scores(seen, seen.outputs, wanted)
    theirs = (seen.reference or {}).get(output_name(seen, wanted))
    known = theirs is not None and np.size(theirs) == scores.size
    reference = np.asarray(theirs, np.float64).reshape(-1) if known else None
    return best_classes(scores, k, reference), scores.size


def both_best(seen: Observation, wanted: str) -> tuple[int | None, int | None]:
    """Return the best class of the model under evaluation and that of the float model.

    Returns:
        Class indices; None for a model that names none. The float model does so where none of its scores is finite.

    Raises:
        UsageError: an output holds no scores of classes, or the float model has no such output.
    """
    name = output_name(seen, wanted)
    reference_output(seen, name)
    theirs = class_scores(seen, seen.reference or {}, name)
    ours = best_classes(class_scores(seen, seen.outputs, name), 1, theirs)
    return (ours[0] if ours else None), next(iter(best_classes(theirs, 1, theirs) or ()), None)


def class_index(label: Any, names: Sequence[str] | None) -> int | None:
    """Return the class that a label says: a number in any integer type or as text, or one of the names.

    Args:
        label: as it was given.
        names: class names in the order of the output, or None.

    Returns:
        The class; None where the label says none, a name that several classes have, or a number as text that is no
        name where `misnumbered` names are numbers too.
    """
    if isinstance(label, str):
        number = written_number(label)
        if number is not None and misnumbered(names or ()) is None:
            return number
        found = named_classes(label, names or ())
        return found[0] if len(found) == 1 else None
    array = np.asarray(label)
    return int(array.reshape(())) if array.size == 1 and array.dtype.kind in "iu" else None


def written_number(text: str) -> int | None:
    """Return the whole number that a text is, with or without a minus; None where it is none."""
    return int(text) if text.removeprefix("-").isdecimal() else None


def misnumbered(names: Sequence[str]) -> int | None:
    """Return the first class whose name is a number, but not its own (years, digits from 1); None where none is.

    Where there is one, a number as text could be a name or a place. It is taken for a name, as that is what a user
    sees of a class; numbers in an integer type are places still.

    Args:
        names: of all classes, in the order of the output.
    """
    return next((i for i, name in enumerate(names) if written_number(name.strip()) not in (None, i)), None)


def named_classes(name: str, names: Sequence[str]) -> list[int]:
    """Return the classes that a name stands for: those of that very name, else those that differ in case alone.

    A slash in the name of a class is an underscore in that of a folder, which cannot hold one; spaces around a name
    do not count. Where nothing is the same then, one sign between words is as good as any other.

    Args:
        name: what was given.
        names: of all classes.
    """
    forms: tuple[Callable[[str], str], ...] = (str, _as_folder, lambda text: _as_folder(text).casefold(), _words)
    for form in forms:
        wanted = form(name)
        if not wanted:
            break
        if found := [i for i, known in enumerate(names) if form(known) == wanted]:
            return found
    return []


def _as_folder(name: str) -> str:
    return name.strip().replace("/", "_")


def _words(name: str) -> str:
    return " ".join(re.findall(r"[^\W_]+", name.casefold()))


def class_label(seen: Observation, classes: int) -> int:
    """Return the class index that a label says.

    Raises:
        UsageError: it is no index of a class, or the classes were counted otherwise than the model does.
    """
    if seen.folders is not None and seen.folders != classes:
        raise UsageError(
            f"the labels are the places of {seen.folders} folders in the order of their names, "
            f"but the model has {classes} classes",
            hint="--labels FILE names the classes in the model's order, one a line; or name each folder by its number",
        )
    index = class_index(seen.label, seen.names)
    if index is None:
        label = np.asarray(seen.label)
        said = repr(label.tolist()) if label.size == 1 else f"of shape {list(label.shape)}"
        raise UsageError(f"{seen.where}: the label {said} is no class index", hint=_form_hint(seen, classes))
    if not 0 <= index < classes:
        hint = f"classes count from 0, so that the last is {classes - 1}"
        hint = f"{hint}: subtract 1 from labels that count from 1" if index == classes else hint
        raise UsageError(f"{seen.where}: label {index} is not one of the {classes} classes of the model", hint=hint)
    return index


def _form_hint(seen: Observation, classes: int) -> str:
    """Return what to do about a label that is no index of a class."""
    if isinstance(seen.label, str):
        if seen.names is None:
            return "--labels FILE gives the names of the classes; or give their numbers, from 0"
        if len(named_classes(seen.label, seen.names)) > 1:
            return "several classes have this name: give its number"
        confused = misnumbered(seen.names)
        if confused is not None and written_number(seen.label) is not None:
            called = f"class {confused} is called '{seen.names[confused]}'"
            return f"{called}, so that numbers are taken for names: give one of the names of the classes"
        return "give one of the names of the classes, or its number, from 0"
    label = np.asarray(seen.label)
    if label.size == classes and label.size > 1:
        return "one number for each class: give the place of the right one, labels.argmax(axis=-1)"
    if label.size == 1 and label.dtype.kind == "f":
        return "save them as integers: labels.astype('int64')"
    return "give each sample the number of its class, from 0"
