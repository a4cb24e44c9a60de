"""A compilation as pipeline text that a search can edit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from qcompile.errors import UsageError
from qcompile.passmgr import Pass, PassRegistry, parse_pipeline, print_pipeline
from qcompile.search.leaving import Kept


@dataclass(frozen=True)
class Recipe:
    """The passes from a simplified float graph to the final one.

    Args:
        passes: in order.
    """

    passes: tuple[Pass, ...]

    @staticmethod
    def parse(text: str, registry: PassRegistry) -> Recipe:
        """Return the recipe of a pipeline text."""
        return Recipe(parse_pipeline(text, registry))

    @property
    def text(self) -> str:
        """The pipeline as text; it also identifies the recipe."""
        return print_pipeline(self.passes)

    def has(self, name: str) -> bool:
        """Return whether a pass of this name takes part."""
        return any(item.name == name for item in self.passes)

    def without(self, names: Sequence[str]) -> Recipe:
        """Return the recipe without the passes of these names."""
        return Recipe(tuple(item for item in self.passes if item.name not in names))

    def with_options(self, name: str, options: Mapping[str, Any]) -> Recipe:
        """Return the recipe with other options for a pass that takes part.

        Raises:
            UsageError: no such pass takes part.
        """
        if not self.has(name):
            raise UsageError(f"the pipeline has no pass '{name}' whose options could change")
        return Recipe(tuple(replace(p, **options) if p.name == name else p for p in self.passes))

    def inserted(self, item: Pass, after: str) -> Recipe:
        """Return the recipe with one more pass, behind the first pass of a given name.

        Args:
            item: the pass to add.
            after: name of the pass it follows; "" puts it first.

        Raises:
            UsageError: the pipeline has no pass of that name.
        """
        if not after:
            return Recipe((item, *self.passes))
        places = [index for index, present in enumerate(self.passes) if present.name == after]
        if not places:
            raise UsageError(f"pass '{item.name}' follows '{after}', which the pipeline does not have")
        place = places[0] + 1
        return Recipe((*self.passes[:place], item, *self.passes[place:]))

    def keeping(self, kept: Kept) -> Recipe:
        """Return the recipe in which further nodes leave int8.

        Args:
            kept: names of results of nodes in the calibrated graph.
        """
        recipe = self
        for option, names in (("for_accuracy", kept.real), ("keep_int16", kept.wide)):
            known = next((tuple(getattr(p, option)) for p in self.passes if hasattr(p, option)), ())
            more = tuple(name for name in names if name not in known)
            if more:
                recipe = recipe.with_options("assign-precision", {option: (*known, *more)})
        return recipe

    def split(self, name: str) -> tuple[tuple[Pass, ...], tuple[Pass, ...]]:
        """Return the passes up to and including the one of a name, and those behind."""
        index = next((i for i, item in enumerate(self.passes) if item.name == name), -1)
        return self.passes[: index + 1], self.passes[index + 1 :]
